//! The messages of an event file, as far as scalars need them (TensorFlow's `event.proto` and `summary.proto`). Pure.

use prost::{Message, Oneof};

/// One entry of the file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub(super) wall_time: f64,
    /// Step that it belongs to.
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub(super) what: Option<What>,
}

/// What an entry says.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum What {
    /// The first entry: `brain.Event:2`.
    #[prost(string, tag = "3")]
    FileVersion(String),
    /// Values.
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// A beginning.
    #[prost(message, tag = "7")]
    Session(Session),
}

/// Values of one step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<Value>,
}

/// A value by its tag.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    /// Written even if it is 0: it is one of several kinds of value, and none is not 0.
    #[prost(float, optional, tag = "2")]
    pub(super) simple: Option<f32>,
}

/// A life of the process that writes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Session {
    /// 1: it starts; readers forget steps from this entry's on.
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

impl What {
    /// A restart: what was said of this step and later ones no longer holds.
    pub(super) fn restart() -> Self {
        Self::Session(Session { status: 1 })
    }

    /// Values by their tags.
    pub(super) fn scalars(scalars: Vec<(String, f64)>) -> Self {
        let value = |(tag, value): (String, f64)| Value { tag, simple: Some(value as f32) };
        Self::Summary(Summary { values: scalars.into_iter().map(value).collect() })
    }
}
