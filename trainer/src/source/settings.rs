//! What a source is told. Plain data, and the resolution of start positions (pure).

use std::time::Duration;

use scadles_api::WorkerConfig;
use scadles_api::job::StreamPolicy;
use scadles_api::worker::{SampleShape, StartFrom, StreamEnd};
use scadles_core::device_stream::{DeviceCheckpoint, PartitionOffsets};
use scadles_kafka::KafkaConnection;

use super::{SourceError, StreamCheckpoint};

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// No checkpoint: resolved once against the broker, then part of checkpoint 0.
    Beginning(StartFrom),
    /// At a checkpoint.
    From {
        /// The checkpoint.
        checkpoint: StreamCheckpoint,
        /// Samples of this device that were trained after it and are rolled back by this start.
        rolled_back: u64,
    },
    /// The records are gone: keep the account of a checkpoint, read the new streams from where they begin.
    RestartStreams {
        /// The checkpoint.
        checkpoint: StreamCheckpoint,
        /// Samples of this device that were trained after it and are rolled back by this start.
        rolled_back: u64,
    },
}

impl Start {
    /// The time from which on records are wanted, if that is what the job asks for.
    pub(super) const fn since_millis(&self) -> Option<i64> {
        match self {
            Self::Beginning(StartFrom::Timestamp { unix_millis }) => Some(*unix_millis),
            _ => None,
        }
    }

    /// The checkpoint to begin at, given what the broker has, and where the records of the wanted time begin. Pure.
    pub(super) fn resolve(&self, offsets: &[PartitionOffsets], since: &[u64]) -> StreamCheckpoint {
        let lows = || offsets.iter().map(|reach| reach.low).collect::<Vec<_>>();
        match self {
            Self::Beginning(StartFrom::Earliest) => fresh(&lows()),
            Self::Beginning(StartFrom::Latest) => {
                fresh(&offsets.iter().map(|reach| reach.end).collect::<Vec<_>>())
            }
            Self::Beginning(StartFrom::Timestamp { .. }) => {
                // What retention took is not lost to a stream that begins behind it.
                let later = |(reach, since): (&PartitionOffsets, &u64)| reach.low.max(*since);
                fresh(&offsets.iter().zip(since).map(later).collect::<Vec<_>>())
            }
            Self::From { checkpoint, rolled_back } => {
                let mut checkpoint = checkpoint.clone();
                checkpoint.device.rolled_back += rolled_back;
                // Partitions that the checkpoint does not know are new to the job: from their first record on.
                let known = checkpoint.device.partitions.len().min(offsets.len());
                let new = DeviceCheckpoint::starting_at(&lows()[known..]).partitions;
                checkpoint.device.partitions.extend(new);
                checkpoint
            }
            Self::RestartStreams { checkpoint, rolled_back } => {
                let mut checkpoint = checkpoint.with_new_streams(&lows());
                checkpoint.earlier.rolled_back += rolled_back;
                checkpoint
            }
        }
    }
}

fn fresh(start_offsets: &[u64]) -> StreamCheckpoint {
    StreamCheckpoint { device: DeviceCheckpoint::starting_at(start_offsets), ..StreamCheckpoint::default() }
}

/// Settings of a [`super::Source`].
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSettings {
    /// Device name, for the log.
    pub device: String,
    /// Topic of its stream.
    pub topic: String,
    /// Partitions that are read, from number 0 on; the topic must have as many at least.
    pub partitions: u32,
    /// Broker.
    pub connection: KafkaConnection,
    /// Where reading begins.
    pub start: Start,
    /// What records must fit: format, label range and size.
    pub samples: SampleShape,
    /// When the stream is over.
    pub end: StreamEnd,
    /// What happens to samples that no batch has taken.
    pub policy: StreamPolicy,
    /// Bound of the arena, shared equally by the partitions.
    pub buffer_bytes: u64,
    /// Share of undecodable records, of at least 100, above which the stream fails.
    pub max_rejected_share: f64,
    /// Bound of each question at the start.
    pub open_deadline: Duration,
    /// How long the broker may be away.
    pub broker_patience: Duration,
}

/// How long a worker waits for a broker that is away, beyond any restart of one.
const BROKER_PATIENCE: Duration = Duration::from_mins(2);
/// How long a start waits for an answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

impl SourceSettings {
    /// The settings of a worker's own device.
    pub fn of_worker(config: &WorkerConfig, start: Start) -> Result<Self, SourceError> {
        let (device, stream) = (config.device(), &config.job.stream);
        Ok(Self {
            device: device.name.clone(),
            topic: device.topic.clone(),
            partitions: device.partitions,
            connection: KafkaConnection::try_from(&config.job.kafka)?,
            start,
            samples: config.job.samples(),
            end: stream.end,
            policy: stream.policy,
            buffer_bytes: stream.buffer_bytes,
            max_rejected_share: stream.max_rejected_share,
            open_deadline: OPEN_DEADLINE,
            broker_patience: BROKER_PATIENCE,
        })
    }

    /// Samples that the arena of each partition has room for.
    pub(super) fn slots_per_partition(&self) -> u64 {
        let quota = self.buffer_bytes / u64::from(self.partitions.max(1));
        (quota / self.samples.sample_bytes() as u64).max(1)
    }
}
