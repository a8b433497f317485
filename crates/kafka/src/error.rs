//! What can go wrong with Kafka, in the words of the person who has to mend it.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure at Kafka. The message names the field of the job, its value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No broker answered within the deadline.
    #[error(
        "spec.kafka.bootstrapServers: no broker answered at {servers:?} within {} s ({reason}); \
         check the address and that Kafka runs there, or leave the field out to use the embedded broker",
        waited.as_secs_f64()
    )]
    Unreachable {
        /// `bootstrap.servers` as given.
        servers: String,
        /// How long was waited.
        waited: Duration,
        /// What the client library said last, or a plain sentence.
        reason: String,
    },
    /// The broker refused who we are.
    #[error(
        "spec.kafka.bootstrapServers: {servers:?} refused the credentials ({reason}); \
         check security.protocol, sasl.mechanism, sasl.username and sasl.password"
    )]
    Authentication {
        /// `bootstrap.servers` as given.
        servers: String,
        /// What the client library said.
        reason: String,
    },
    /// The broker knows us and does not allow it.
    #[error("failed to {what}: the broker does not allow it ({reason}); give this user the ACL for it")]
    NotAuthorized {
        /// The action, as an infinitive.
        what: String,
        /// What the broker said.
        reason: String,
    },
    /// A client property that librdkafka refuses or this program keeps for itself.
    #[error("Kafka client property {property}: {value:?} is not possible: {reason}")]
    Property {
        /// Name of the property.
        property: String,
        /// Its value.
        value: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The topic does not exist (any more).
    #[error(
        "topic {topic:?} does not exist; create it, let the job create it (spec.producer), or correct the name"
    )]
    TopicMissing {
        /// The topic.
        topic: String,
    },
    /// The topic exists with fewer partitions than the job needs.
    #[error(
        "topic {topic:?} has {have} partition(s), the job needs {want}; \
         add partitions (kafka-topics --alter), use another topic, or delete it so that the job creates it"
    )]
    TooFewPartitions {
        /// The topic.
        topic: String,
        /// Partitions that it has.
        have: usize,
        /// Partitions that are needed.
        want: usize,
    },
    /// Compaction deletes records out of the middle of a stream, so nothing could be accounted for.
    #[error(
        "topic {topic:?} is compacted (cleanup.policy={policy}); a stream of samples needs cleanup.policy=delete: \
         change the topic's setting or use another topic"
    )]
    TopicCompacted {
        /// The topic.
        topic: String,
        /// Its `cleanup.policy`.
        policy: String,
    },
    /// End offsets moved back: the topic was deleted and made anew, its old records are gone.
    #[error(
        "topic {topic:?} was made anew: partition {partition} ended at {was} and now ends at {now}; \
         offsets of before mean nothing now: start the job without --resume"
    )]
    TopicRecreated {
        /// The topic.
        topic: String,
        /// The first partition where it shows.
        partition: u32,
        /// Offset known before.
        was: u64,
        /// End offset now.
        now: u64,
    },
    /// A record of ours got another offset than its number says: someone else writes to the topic too.
    #[error(
        "topic {topic:?} has another writer: our record for offset {expected} of partition {partition} was stored \
         at {stored}; give the job topics of its own, or leave spec.producer out"
    )]
    ForeignRecords {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Offset that the record was made for.
        expected: u64,
        /// Offset that it got.
        stored: u64,
    },
    /// An answer did not come in time.
    #[error("failed to {what} within {} s ({reason})", waited.as_secs_f64())]
    Timeout {
        /// The action, as an infinitive.
        what: String,
        /// How long was waited.
        waited: Duration,
        /// What the client library said last, or a plain sentence.
        reason: String,
    },
    /// The broker in use cannot do it.
    #[error("failed to {what}: the embedded broker cannot do that; use a real Kafka (--kafka HOST:PORT)")]
    Unsupported {
        /// The action, as an infinitive.
        what: String,
    },
    /// Anything else that the client library reports.
    #[error("failed to {what}: {reason}")]
    Client {
        /// The action, as an infinitive.
        what: String,
        /// What the client library said.
        reason: String,
    },
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::DatasetError),
}

impl Error {
    /// True where trying again later may help: the broker is away, or slow.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// A failure of the client library during `what`, about `topic` where there is one.
    pub(crate) fn from_client(what: &str, topic: &str, error: &KafkaError) -> Self {
        let what = what.to_owned();
        let reason = error.to_string();
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicId,
            ) => Self::TopicMissing { topic: topic.to_owned() },
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => Self::NotAuthorized { what, reason },
            _ => Self::Client { what, reason },
        }
    }
}

/// True for codes that a broker's outage, a new leader or a slow answer gives and that pass by themselves.
pub(crate) fn is_transient_code(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::NodeUpdate
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::ReplicaNotAvailable
            | RDKafkaErrorCode::NotEnoughReplicas
            | RDKafkaErrorCode::NotEnoughReplicasAfterAppend
            | RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::KafkaStorageError
            | RDKafkaErrorCode::DestroyBroker
    )
}
