//! Records: their format, where a stream begins, when it is over.

use scadles_api::{
    job::{RecordFormatName, ScadlesJobSpec, StartFromName, StreamEndName, StreamEndSpec, StreamSpec},
    worker::{ImageFit, ModelConfig, RecordFormat, StartFrom, StreamEnd, StreamPolicy, ValueType},
};

use super::run::STALL_SECONDS;
use crate::mistake::{Allowed, Findings};

/// Default of `spec.stream.end.idle.seconds`.
const IDLE_SECONDS: f64 = 60.0;

pub(super) fn format(found: &mut Findings, given: Option<&StreamSpec>) -> RecordFormat {
    let name = given.and_then(|stream| stream.format).unwrap_or(RecordFormatName::CifarBinary);
    let image = given.and_then(|stream| stream.image.as_ref());
    let tensor = given.and_then(|stream| stream.tensor.as_ref());
    for (member, is_given, owner) in [
        ("image", image.is_some(), RecordFormatName::Image),
        ("tensor", tensor.is_some(), RecordFormatName::Tensor),
    ] {
        if is_given && name != owner {
            found.add(
                format!("spec.stream.{member}"),
                "",
                format!("belongs to the format {owner:?}; the format is {name:?}"),
                format!("remove it, or set spec.stream.format: {owner:?}"),
            );
        }
    }
    match name {
        RecordFormatName::CifarBinary => RecordFormat::CifarBinary,
        RecordFormatName::Cifar100 => RecordFormat::Cifar100,
        RecordFormatName::Image => {
            RecordFormat::Image { fit: image.and_then(|image| image.fit).unwrap_or(ImageFit::Exact) }
        }
        RecordFormatName::Tensor => {
            RecordFormat::Tensor { dtype: tensor.and_then(|tensor| tensor.dtype).unwrap_or(ValueType::U8) }
        }
    }
}

/// Pictures are grey or coloured.
pub(super) fn fits_model(found: &mut Findings, format: RecordFormat, model: &ModelConfig) {
    let channels = model.input_shape[0];
    if matches!(format, RecordFormat::Image { .. }) && !matches!(channels, 1 | 3) {
        found.add(
            "spec.stream.format",
            "Image",
            format!("gives 1 channel (grey) or 3 (red, green, blue); spec.model.inputShape has {channels}"),
            "set 1 or 3 channels in spec.model.inputShape, or send tensors (spec.stream.format: Tensor)",
        );
    }
}

pub(super) fn start_from(found: &mut Findings, given: Option<&StreamSpec>) -> StartFrom {
    let path = "spec.stream.timestamp";
    let name = given.and_then(|stream| stream.start_from).unwrap_or(StartFromName::Earliest);
    let text = given.and_then(|stream| stream.timestamp.as_deref());
    match (name, text) {
        (StartFromName::Earliest | StartFromName::Latest, Some(text)) => found.add(
            path,
            text,
            format!("belongs to startFrom: Timestamp; startFrom is {name:?}"),
            "remove it, or set spec.stream.startFrom: Timestamp",
        ),
        (StartFromName::Timestamp, None) => found.add(
            path,
            "",
            "is missing: startFrom: Timestamp needs to know the time",
            "give for instance spec.stream.timestamp: 2026-05-04T08:30:00Z",
        ),
        _ => {}
    }
    match name {
        StartFromName::Earliest => StartFrom::Earliest,
        StartFromName::Latest => StartFrom::Latest,
        StartFromName::Timestamp => {
            StartFrom::Timestamp { unix_millis: text.map_or(0, |text| unix_millis(found, path, text)) }
        }
    }
}

fn unix_millis(found: &mut Findings, path: &str, text: &str) -> i64 {
    let millis = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond).ok();
    // Kafka takes negative times for questions of another kind.
    millis.filter(|millis| *millis >= 0).unwrap_or_else(|| {
        found.add(
            path,
            text,
            "allowed is a time since 1970 in the form of RFC 3339, with its offset from UTC",
            "give for instance 2026-05-04T08:30:00Z or 2026-05-04T10:30:00+02:00",
        );
        0
    })
}

pub(super) fn end(found: &mut Findings, spec: &ScadlesJobSpec) -> StreamEnd {
    let stream = spec.stream.as_ref();
    let Some(given) = stream.and_then(|stream| stream.end.as_ref()) else { return StreamEnd::Never };
    if given.idle.is_some() && given.rule != StreamEndName::Idle {
        found.add(
            "spec.stream.end.idle",
            "",
            format!("belongs to the rule Idle; the rule is {:?}", given.rule),
            "remove it, or set spec.stream.end.rule: Idle",
        );
    }
    if given.rule != StreamEndName::Never && spec.producer.is_some() {
        found.add(
            "spec.stream.end",
            format!("{:?}", given.rule),
            "the streams of spec.producer begin with the training and have no end",
            "remove spec.producer (and send with `scadles produce` before), or spec.stream.end",
        );
    }
    match given.rule {
        StreamEndName::Never => StreamEnd::Never,
        StreamEndName::OffsetsAtStart => {
            leaves_something(found, stream);
            StreamEnd::OffsetsAtStart
        }
        StreamEndName::Idle => StreamEnd::Idle { seconds: idle_seconds(found, spec, given) },
    }
}

/// Of what is there already.
fn leaves_something(found: &mut Findings, stream: Option<&StreamSpec>) {
    let path = "spec.stream.end";
    if stream.and_then(|it| it.start_from) == Some(StartFromName::Latest) {
        found.add(
            path,
            "OffsetsAtStart",
            "leaves nothing to train: with startFrom: Latest the streams begin where they end",
            "set spec.stream.startFrom: Earliest or Timestamp, or spec.stream.end.rule: Idle",
        );
    }
    if stream.and_then(|it| it.policy) == Some(StreamPolicy::Truncation) {
        found.add(
            path,
            "OffsetsAtStart",
            "with policy: Truncation all but the first batch would be dropped: nothing newer arrives",
            "set spec.stream.policy: Persistence",
        );
    }
}

fn idle_seconds(found: &mut Findings, spec: &ScadlesJobSpec, given: &StreamEndSpec) -> f64 {
    let path = "spec.stream.end.idle.seconds";
    let seconds = given.idle.as_ref().and_then(|idle| idle.seconds);
    let seconds = found.number(path, seconds, IDLE_SECONDS, Allowed::Positive(1e6));
    let stall = spec.run_policy.as_ref().and_then(|policy| policy.stall_seconds).unwrap_or(STALL_SECONDS);
    if seconds.is_finite() && stall > 0.0 && seconds >= stall {
        found.add(
            path,
            seconds,
            format!("is not below spec.runPolicy.stallSeconds = {stall}: silence would fail the job before it ends it"),
            "give fewer seconds, or raise spec.runPolicy.stallSeconds",
        );
    }
    seconds
}
