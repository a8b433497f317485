//! Everything between this workspace and Apache Kafka: connections, topics, streams in, streams out.
//!
//! Role: the only crate that links librdkafka. All of it is shell (I/O), except [`pacing`], [`mod@format`], the planning in [`topics`]
//! and [`dataset`]'s decoding, which are plain functions over plain data.
//!
//! One device is one topic; its samples are spread over the topic's partitions. Sample number `o · P + p` of a device
//! lies in partition `p` of `P` at offset `o`, so that any record can be made again from its place alone.

mod admin;
pub mod broker;
pub mod connection;
pub mod consumer;
pub mod dataset;
pub mod error;
pub mod format;
pub mod offsets;
pub mod pacing;
pub mod producer;
pub mod read_range;
pub mod security;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topics;

pub use broker::{Broker, EmbeddedBroker, Limits, RealBroker, TopicOutcome, TopicSpec};
pub use connection::KafkaConnection;
pub use consumer::{ConsumerOptions, Event, Record, StreamConsumer};
pub use error::{Error, Result};
pub use offsets::{OffsetWatcher, PartitionOffsets};
pub use producer::{
    DeviceStream, OutgoingRecord, PacedProducer, ProducerOptions, RecordSource, StreamStatistics,
};
pub use read_range::{OwnedRecord, RangeReader};
pub use security::{Credentials, Material, Sasl, Tls};
pub use topics::{
    FoundTopic, Setting, TopicAdmin, TopicDeletion, TopicOrigin, TopicRules, TopicState, TopicStep,
    WantedTopic, plan_topics,
};
