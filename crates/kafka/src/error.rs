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
        "spec.kafka.sasl: {servers:?} refused the user ({reason}); check spec.kafka.sasl.mechanism, the user's name and \
         the password in spec.kafka.sasl.secret, and that the brokers know this user"
    )]
    Authentication {
        /// `bootstrap.servers` as given.
        servers: String,
        /// What the client library said.
        reason: String,
    },
    /// No trusted, encrypted connection came about.
    #[error(
        "spec.kafka.tls: no trusted connection to {servers:?} ({reason}); check that spec.kafka.tls.caSecret holds the \
         certificate that signed the brokers' ones, that those carry the names in spec.kafka.bootstrapServers, and that \
         this port speaks TLS"
    )]
    Tls {
        /// `bootstrap.servers` as given.
        servers: String,
        /// What the client library said.
        reason: String,
    },
    /// A certificate, user name or password that cannot be used.
    #[error(
        "{field}: {origin} {problem}; the Secret (outside of a cluster: the folder of its name below --secrets) needs the \
         key {}", if *field == "spec.kafka.tls.caSecret" { "ca.crt (PEM)" } else { "username and the key password" }
    )]
    Secret {
        /// The field of the job.
        field: &'static str,
        /// Where the value comes from, in words.
        origin: String,
        /// What is wrong with it.
        problem: String,
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
    /// The topic that the job has read from is gone.
    #[error(
        "topic {topic:?} is gone, and its records with it; offsets of before mean nothing in a new one: delete the job and \
         create it anew"
    )]
    TopicLost {
        /// The topic.
        topic: String,
    },
    /// The topic belongs to somebody else.
    #[error(
        "topic {topic:?} is not this job's own: the name does not begin with {prefix:?}, or is not what \
         spec.kafka.topics.nameTemplate gives; set spec.kafka.topics.adoption: Adopt to use it as it is, or give another name"
    )]
    TopicForeign {
        /// The topic.
        topic: String,
        /// What names of this namespace begin with.
        prefix: String,
    },
    /// The brokers do not take a setting of the topic.
    #[error(
        "spec.kafka.topics: the brokers refuse {settings} for topic {topic:?} ({reason}); correct or remove it"
    )]
    TopicSettings {
        /// The topic.
        topic: String,
        /// `key=value` pairs.
        settings: String,
        /// What the broker said.
        reason: String,
    },
    /// Fewer brokers than copies.
    #[error(
        "spec.kafka.topics.replicationFactor: {replication} copies of topic {topic:?} need as many brokers, and the \
         cluster has fewer; lower it or add brokers"
    )]
    Replication {
        /// The topic.
        topic: String,
        /// Copies asked for, in words.
        replication: String,
    },
    /// The brokers are set up to keep topics for ever.
    #[error(
        "topic {topic:?} stays: the brokers do not delete topics (delete.topic.enable=false); delete it with another tool \
         or set spec.kafka.topics.deletionPolicy: Retain"
    )]
    DeletionDisabled {
        /// The topic.
        topic: String,
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
    /// Several topics at once have something wrong.
    #[error("{}", several(.0))]
    Several(Vec<Error>),
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::DatasetError),
}

impl Error {
    /// True where trying again later may help: the broker is away, or slow.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Several(errors) => errors.iter().all(Self::is_transient),
            _ => false,
        }
    }

    /// One word for conditions and metrics, from a closed list.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "BrokerUnreachable",
            Self::Authentication { .. } => "AuthenticationFailed",
            Self::Tls { .. } => "TlsFailed",
            Self::Secret { .. } => "SecretUnusable",
            Self::NotAuthorized { .. } => "NotAuthorized",
            Self::Property { .. } => "PropertyRefused",
            Self::TopicMissing { .. } => "TopicMissing",
            Self::TopicLost { .. } => "TopicLost",
            Self::TopicForeign { .. } => "TopicForeign",
            Self::TooFewPartitions { .. } => "TooFewPartitions",
            Self::TopicSettings { .. } => "TopicSettingsRefused",
            Self::Replication { .. } => "TooFewBrokers",
            Self::DeletionDisabled { .. } => "DeletionDisabled",
            Self::TopicCompacted { .. } => "TopicCompacted",
            Self::TopicRecreated { .. } => "TopicRecreated",
            Self::ForeignRecords { .. } => "ForeignRecords",
            Self::Timeout { .. } => "BrokerTimeout",
            Self::Unsupported { .. } => "Unsupported",
            Self::Client { .. } => "KafkaError",
            Self::Several(errors) => {
                // What waiting does not mend says more.
                let telling = errors.iter().find(|error| !error.is_transient()).or(errors.first());
                telling.map_or("KafkaError", Self::category)
            }
            Self::Dataset(_) => "DatasetUnreadable",
        }
    }

    /// One error of several.
    pub(crate) fn of_all(mut errors: Vec<Self>) -> Self {
        match errors.len() {
            1 => errors.remove(0),
            _ => Self::Several(errors),
        }
    }

    /// A failure of the client library during `what`, about `topic` where there is one.
    pub(crate) fn from_client(what: &str, topic: &str, error: &KafkaError) -> Self {
        let what = what.to_owned();
        let reason = error.to_string();
        match code_of(error) {
            Some(code) if is_unknown_topic_code(code) => Self::TopicMissing { topic: topic.to_owned() },
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => Self::NotAuthorized { what, reason },
            _ => Self::Client { what, reason },
        }
    }
}

/// The first three; the rest is counted.
fn several(errors: &[Error]) -> String {
    const SHOWN: usize = 3;
    let text = errors.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; also ");
    match errors.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// The code of an error; rdkafka's own function leaves out those of the admin client.
pub(crate) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// True for codes that say that a topic, or a partition of it, does not exist.
pub(crate) fn is_unknown_topic_code(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicId
    )
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
