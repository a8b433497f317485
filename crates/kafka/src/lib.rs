//! Everything between this workspace and Apache Kafka: connections, topics, streams in, streams out.
//!
//! Role: the only crate that links librdkafka. All of it is shell (I/O), except [`pacing`] and [`dataset`]'s
//! decoding, which are plain functions over plain data.
//!
//! One device is one topic; its samples are spread over the topic's partitions. Sample number `o · P + p` of a device
//! lies in partition `p` of `P` at offset `o`, so that any record can be made again from its place alone.

pub mod broker;
pub mod connection;
pub mod consumer;
pub mod dataset;
pub mod error;
pub mod offsets;
pub mod pacing;
pub mod producer;
pub mod read_range;
#[cfg(feature = "testing")]
pub mod testing;

pub use broker::{Broker, EmbeddedBroker, Limits, RealBroker, TopicOutcome, TopicSpec};
pub use connection::KafkaConnection;
pub use consumer::{ConsumerOptions, Event, Record, StreamConsumer};
pub use error::{Error, Result};
pub use offsets::{OffsetWatcher, PartitionOffsets};
pub use producer::{DeviceStream, PacedProducer, ProducerOptions, RecordSource, StreamStatistics};
pub use read_range::{OwnedRecord, RangeReader};
