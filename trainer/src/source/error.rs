//! Why a stream cannot go on, and what to do about it.

use std::time::Duration;

use scadles_api::ExitCode;
use scadles_core::device_stream;

/// A failure of a device's stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The broker was away for longer than the job bears.
    #[error("the broker was away for {} s ({reason})", away.as_secs())]
    BrokerLost {
        /// Since its last answer.
        away: Duration,
        /// What the client library said last.
        reason: String,
    },
    /// The topic is gone, or was made anew.
    #[error("{reason}")]
    TopicLost {
        /// What was seen.
        reason: String,
    },
    /// The topic has fewer partitions than the job.
    #[error("topic {topic:?} has {found} partitions, the job reads {configured}")]
    PartitionCount {
        /// The topic.
        topic: String,
        /// Partitions at the broker.
        found: u32,
        /// Partitions of the job.
        configured: u32,
    },
    /// The job reads fewer partitions than before: the account of the others would be lost.
    #[error("the checkpoint has {known} partitions of topic {topic:?}, the job reads {read}")]
    CheckpointPartitions {
        /// The topic.
        topic: String,
        /// Partitions in the checkpoint.
        known: u32,
        /// Partitions of the job.
        read: u32,
    },
    /// Too much of the stream is undecodable.
    #[error(
        "{rejected} of {fetched} records could not be decoded, more than the share spec.stream.maxRejectedShare: \
         {max_rejected_share} allows; the last one: {reason}"
    )]
    TooManyRejected {
        /// Undecodable records.
        rejected: u64,
        /// All records fetched.
        fetched: u64,
        /// What is allowed, as text (a share).
        max_rejected_share: String,
        /// Why the last one was rejected.
        reason: String,
    },
    /// Another failure at Kafka.
    #[error(transparent)]
    Kafka(scadles_kafka::Error),
    /// The broker did not say in time where the stream ends.
    #[error("the broker did not answer within {} s", waited.as_secs_f64())]
    NoAnswer {
        /// How long was waited.
        waited: Duration,
    },
    /// The bookkeeping does not fit what the broker says.
    #[error(transparent)]
    Bookkeeping(device_stream::Error),
    /// No thread could be started.
    #[error("failed to start a thread for the stream: {reason}")]
    Thread {
        /// What the operating system said.
        reason: String,
    },
}

impl SourceError {
    /// The exit code of a worker that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::BrokerLost { .. } | Self::NoAnswer { .. } => ExitCode::BrokerLost,
            Self::TopicLost { .. } => ExitCode::TopicLost,
            Self::PartitionCount { .. } | Self::CheckpointPartitions { .. } | Self::Kafka(_) => {
                ExitCode::Configuration
            }
            Self::TooManyRejected { .. } => ExitCode::TooManyRejected,
            Self::Bookkeeping(_) | Self::Thread { .. } => ExitCode::Internal,
        }
    }

    /// What to do about it; empty if the message says it already.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::BrokerLost { .. } | Self::NoAnswer { .. } => {
                "see that Kafka runs and is reachable at spec.kafka.bootstrapServers; the job goes on from its last \
                 checkpoint"
            }
            Self::TopicLost { .. } => {
                "offsets of before mean nothing in a new topic: start the job anew, without --resume"
            }
            Self::PartitionCount { .. } => {
                "set spec.kafka.topics.partitions to the topic's number, add partitions to the topic, or let the device use \
                 another topic"
            }
            Self::CheckpointPartitions { .. } => {
                "set spec.kafka.topics.partitions to the number of before: it may grow over the life of a job, not shrink"
            }
            Self::TooManyRejected { .. } => {
                "send records of spec.stream.format for spec.model.inputShape and spec.model.numClasses, or raise \
                 spec.stream.maxRejectedShare"
            }
            Self::Thread { .. } => "raise the limit of processes (ulimit -u)",
            Self::Kafka(_) | Self::Bookkeeping(_) => "",
        }
    }
}

impl From<scadles_kafka::Error> for SourceError {
    fn from(error: scadles_kafka::Error) -> Self {
        use scadles_kafka::Error;
        match error {
            Error::Unreachable { waited, .. } | Error::Timeout { waited, .. } => {
                Self::BrokerLost { away: waited, reason: error.to_string() }
            }
            Error::TopicMissing { .. } | Error::TopicRecreated { .. } | Error::TopicLost { .. } => {
                Self::TopicLost { reason: error.to_string() }
            }
            other => Self::Kafka(other),
        }
    }
}

impl From<device_stream::Error> for SourceError {
    fn from(error: device_stream::Error) -> Self {
        match error {
            device_stream::Error::EndMovedBack { .. } => Self::TopicLost { reason: error.to_string() },
            other => Self::Bookkeeping(other),
        }
    }
}
