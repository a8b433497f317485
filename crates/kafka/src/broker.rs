//! Two brokers behind one trait: a real Kafka, and librdkafka's mock cluster inside this process.
//!
//! What differs between them is in [`Limits`] and, in words, in `docs/brokers.md`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, NewTopic, ResourceSpecifier, TopicReplication, TopicResult};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::admin::{admin_options, block_on, late, left};
use crate::connection::{Context, KafkaConnection};
use crate::error::{Error, Result, code_of};
use crate::offsets::{OffsetWatcher, PartitionOffsets, partition_count};
use crate::producer::LogOnly;

/// Bytes that the embedded broker keeps per partition: a constant of librdkafka's mock, 5 MiB.
pub const EMBEDDED_BYTES_PER_PARTITION: u64 = 5 << 20;

/// Bytes per partition that our producers fill on the embedded broker before they wait: the rest is room for record
/// and batch headers and for the batch that straddles the oldest offset still needed.
pub const EMBEDDED_BUDGET_BYTES: u64 = 9 << 19;

/// A topic that a job needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Partitions, at least 1.
    pub partitions: u32,
    /// Copies of each record; `None`: the broker's default.
    pub replication: Option<u32>,
}

/// What [`Broker::ensure_topics`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicOutcome {
    /// Made now, with the partitions asked for.
    Created,
    /// Was there, with at least the partitions asked for.
    Exists {
        /// Partitions that it has.
        partitions: u32,
    },
}

/// What a broker can and cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes kept per partition where that is fixed; older records go at once.
    pub bytes_per_partition: Option<u64>,
    /// Bytes per partition that producers may fill beyond the last durable checkpoint.
    pub budget_bytes_per_partition: Option<u64>,
    /// Topics can be deleted, and their settings changed.
    pub admin: bool,
    /// Records below an offset can be deleted.
    pub delete_records: bool,
    /// Records outlive this process.
    pub survives_restart: bool,
}

/// What the program needs of a broker beside producing and consuming.
pub trait Broker: Send + Sync {
    /// How clients reach it.
    fn connection(&self) -> &KafkaConnection;

    /// What it can do.
    fn limits(&self) -> Limits;

    /// Makes the topics that are missing and waits until they can be used; outcomes in the order of `topics`.
    ///
    /// A topic that is there with fewer partitions than asked for is [`Error::TooFewPartitions`], a compacted one
    /// [`Error::TopicCompacted`].
    fn ensure_topics(&self, topics: &[TopicSpec], deadline: Duration) -> Result<Vec<TopicOutcome>>;

    /// Checks that each topic is there, with the partitions asked for and not compacted; makes nothing.
    fn check_topics(&self, topics: &[TopicSpec], deadline: Duration) -> Result<()>;

    /// First and end offsets of every partition.
    fn describe(&self, topic: &str, deadline: Duration) -> Result<Vec<PartitionOffsets>>;

    /// Deletes topics with all their records.
    fn delete_topics(&self, topics: &[&str], deadline: Duration) -> Result<()>;

    /// Deletes the records of each partition below `offsets`, one per partition.
    fn delete_records(&self, topic: &str, offsets: &[u64], deadline: Duration) -> Result<()>;

    /// `bootstrap.servers`.
    fn servers(&self) -> &str {
        &self.connection().bootstrap_servers
    }
}

// ---- a real Kafka ------------------------------------------------------------------------------------------------

/// A Kafka cluster that someone else runs.
pub struct RealBroker {
    connection: KafkaConnection,
    queries: BaseConsumer<Context>,
}

impl RealBroker {
    /// Connects; fails within `deadline` where no broker answers.
    pub fn connect(connection: KafkaConnection, deadline: Duration) -> Result<Self> {
        connection.check(deadline)?;
        let queries = connection.create(&connection.query_config())?;
        Ok(Self { connection, queries })
    }

    fn admin(&self) -> Result<AdminClient<Context>> {
        self.connection.create(&self.connection.query_config())
    }

    /// Makes one topic unless it exists.
    fn ensure_topic(
        &self,
        admin: &AdminClient<Context>,
        spec: &TopicSpec,
        end: Instant,
    ) -> Result<TopicOutcome> {
        let what = format!("create topic {:?}", spec.name);
        match partition_count(&self.connection, &self.queries, &spec.name, left(end)) {
            Ok(partitions) => {
                refuse_compacted(admin, &spec.name, end)?;
                return enough(spec, partitions);
            }
            Err(Error::TopicMissing { .. }) => {}
            Err(error) => return Err(error),
        }
        let replication = spec.replication.map_or(-1, u32::cast_signed);
        let topic =
            NewTopic::new(&spec.name, spec.partitions.cast_signed(), TopicReplication::Fixed(replication));
        let answer = block_on(admin.create_topics([&topic], &admin_options(end)), end);
        match single(answer, &what, &self.connection.bootstrap_servers)? {
            // Someone was quicker: then it must be large enough.
            Err(RDKafkaErrorCode::TopicAlreadyExists) => {
                enough(spec, self.await_topic(&spec.name, None, end)?)
            }
            Err(code) => Err(Error::from_client(&what, &spec.name, &KafkaError::AdminOp(code))),
            Ok(()) => self.await_topic(&spec.name, Some(spec.partitions), end).map(|_| TopicOutcome::Created),
        }
    }

    /// Waits until the brokers agree that the topic is there and each partition has a leader that answers.
    fn await_topic(&self, topic: &str, partitions: Option<u32>, end: Instant) -> Result<u32> {
        loop {
            let found = OffsetWatcher::new(&self.connection, topic, left(end)).and_then(|mut watcher| {
                watcher.poll_end(left(end))?;
                Ok(watcher.partitions())
            });
            match found {
                Ok(found) if partitions.is_none_or(|wanted| found >= wanted) => return Ok(found),
                Err(error) if !matches!(error, Error::TopicMissing { .. }) => return Err(error),
                outcome if Instant::now() >= end => {
                    return outcome.and_then(|have| {
                        let want = partitions.unwrap_or(1) as usize;
                        Err(Error::TooFewPartitions { topic: topic.to_owned(), have: have as usize, want })
                    });
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Broker for RealBroker {
    fn connection(&self) -> &KafkaConnection {
        &self.connection
    }

    fn limits(&self) -> Limits {
        Limits {
            bytes_per_partition: None,
            budget_bytes_per_partition: None,
            admin: true,
            delete_records: true,
            survives_restart: true,
        }
    }

    fn ensure_topics(&self, topics: &[TopicSpec], deadline: Duration) -> Result<Vec<TopicOutcome>> {
        let end = Instant::now() + deadline;
        let admin = self.admin()?;
        topics.iter().map(|spec| self.ensure_topic(&admin, spec, end)).collect()
    }

    fn check_topics(&self, topics: &[TopicSpec], deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let admin = self.admin()?;
        for spec in topics {
            enough(spec, partition_count(&self.connection, &self.queries, &spec.name, left(end))?)?;
            refuse_compacted(&admin, &spec.name, end)?;
        }
        Ok(())
    }

    fn describe(&self, topic: &str, deadline: Duration) -> Result<Vec<PartitionOffsets>> {
        OffsetWatcher::new(&self.connection, topic, deadline)?.poll(deadline)
    }

    fn delete_topics(&self, topics: &[&str], deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let admin = self.admin()?;
        for &topic in topics {
            let what = format!("delete topic {topic:?}");
            let answer = block_on(admin.delete_topics(&[topic], &admin_options(end)), end);
            if let Err(code) = single(answer, &what, self.servers())? {
                return Err(Error::from_client(&what, topic, &KafkaError::AdminOp(code)));
            }
        }
        Ok(())
    }

    fn delete_records(&self, topic: &str, offsets: &[u64], deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let what = format!("delete old records of topic {topic:?}");
        let failed = |error: KafkaError| Error::from_client(&what, topic, &error);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, &offset) in (0..).zip(offsets) {
            list.add_partition_offset(topic, partition, Offset::Offset(offset.cast_signed()))
                .map_err(failed)?;
        }
        let admin = self.admin()?;
        let answer = block_on(admin.delete_records(&list, &admin_options(end)), end);
        let answer = answer.ok_or_else(|| late(&what, deadline))?.map_err(failed)?;
        answer.elements().iter().try_for_each(|element| element.error().map_err(failed))
    }
}

/// Refuses a compacted topic. A user who may not read settings is believed.
fn refuse_compacted(admin: &AdminClient<Context>, topic: &str, end: Instant) -> Result<()> {
    let resource = ResourceSpecifier::Topic(topic);
    let answer = block_on(admin.describe_configs([&resource], &admin_options(end)), end);
    let Some(Ok(results)) = answer else {
        tracing::warn!(topic, "the topic's settings could not be read; is it compacted?");
        return Ok(());
    };
    let policy = results
        .into_iter()
        .flatten()
        .find_map(|config| config.get("cleanup.policy").and_then(|entry| entry.value.clone()));
    match policy {
        Some(policy) if policy.contains("compact") => {
            Err(Error::TopicCompacted { topic: topic.to_owned(), policy })
        }
        _ => Ok(()),
    }
}

/// The outcome for a topic that is there already.
fn enough(spec: &TopicSpec, partitions: u32) -> Result<TopicOutcome> {
    if partitions < spec.partitions {
        return Err(Error::TooFewPartitions {
            topic: spec.name.clone(),
            have: partitions as usize,
            want: spec.partitions as usize,
        });
    }
    Ok(TopicOutcome::Exists { partitions })
}

/// The one result of an admin call about one topic.
fn single(
    answer: Option<std::result::Result<Vec<TopicResult>, KafkaError>>,
    what: &str,
    servers: &str,
) -> Result<std::result::Result<(), RDKafkaErrorCode>> {
    let unreachable = |reason: String| Error::Unreachable {
        servers: servers.to_owned(),
        waited: Duration::ZERO,
        reason: format!("to {what}: {reason}"),
    };
    match answer {
        None => Err(unreachable("no answer".to_owned())),
        Some(Err(error)) => match code_of(&error) {
            Some(code) if crate::error::is_transient_code(code) => Err(unreachable(error.to_string())),
            _ => Err(Error::from_client(what, "", &error)),
        },
        Some(Ok(results)) => Ok(results.into_iter().next().map_or(Ok(()), |result| match result {
            Ok(_) => Ok(()),
            Err((_, code)) => Err(code),
        })),
    }
}

// ---- the embedded broker -----------------------------------------------------------------------------------------

/// librdkafka's mock cluster: a broker on a loopback port of this process, there at once, gone with the process.
pub struct EmbeddedBroker {
    /// The client that owns the mock cluster.
    owner: BaseProducer<LogOnly>,
    connection: KafkaConnection,
    /// Topics made so far: the mock cannot be asked without making what is asked for.
    topics: Mutex<BTreeMap<String, u32>>,
}

impl EmbeddedBroker {
    /// Starts the broker.
    pub fn start() -> Result<Self> {
        let starting = "start the embedded broker";
        let failed =
            |error: KafkaError| Error::Client { what: starting.to_owned(), reason: error.to_string() };
        let mut config = rdkafka::ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set("client.id", "scadles-embedded");
        let owner: BaseProducer<LogOnly> = config.create_with_context(LogOnly).map_err(failed)?;
        let servers = owner
            .client()
            .mock_cluster()
            .map(|cluster| cluster.bootstrap_servers())
            .ok_or_else(|| failed(KafkaError::MockCluster(RDKafkaErrorCode::Fail)))?;
        Ok(Self { owner, connection: KafkaConnection::new(servers), topics: Mutex::default() })
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_topic(&self, spec: &TopicSpec, deadline: Duration) -> Result<TopicOutcome> {
        let mut known = self.topics();
        if let Some(&partitions) = known.get(&spec.name) {
            return enough(spec, partitions);
        }
        let cluster = self.owner.client().mock_cluster();
        let made = cluster
            .ok_or(KafkaError::MockCluster(RDKafkaErrorCode::Fail))
            .and_then(|cluster| cluster.create_topic(&spec.name, spec.partitions.cast_signed(), 1));
        match made {
            Ok(()) => {
                known.insert(spec.name.clone(), spec.partitions);
                Ok(TopicOutcome::Created)
            }
            // A foreign client that named the topic first has made it, with the mock's own number of partitions.
            Err(KafkaError::MockCluster(RDKafkaErrorCode::TopicAlreadyExists)) => {
                let watcher = OffsetWatcher::new(&self.connection, &spec.name, deadline)?;
                known.insert(spec.name.clone(), watcher.partitions());
                enough(spec, watcher.partitions())
            }
            Err(error) => {
                Err(Error::from_client(&format!("create topic {:?}", spec.name), &spec.name, &error))
            }
        }
    }
}

impl Broker for EmbeddedBroker {
    fn connection(&self) -> &KafkaConnection {
        &self.connection
    }

    fn limits(&self) -> Limits {
        Limits {
            bytes_per_partition: Some(EMBEDDED_BYTES_PER_PARTITION),
            budget_bytes_per_partition: Some(EMBEDDED_BUDGET_BYTES),
            admin: false,
            delete_records: false,
            survives_restart: false,
        }
    }

    fn ensure_topics(&self, topics: &[TopicSpec], deadline: Duration) -> Result<Vec<TopicOutcome>> {
        self.owner.poll(Duration::ZERO);
        topics.iter().map(|spec| self.ensure_topic(spec, deadline)).collect()
    }

    fn check_topics(&self, topics: &[TopicSpec], _deadline: Duration) -> Result<()> {
        let known = self.topics();
        topics.iter().try_for_each(|spec| match known.get(&spec.name) {
            Some(&partitions) => enough(spec, partitions).map(|_| ()),
            None => Err(Error::TopicMissing { topic: spec.name.clone() }),
        })
    }

    fn describe(&self, topic: &str, deadline: Duration) -> Result<Vec<PartitionOffsets>> {
        if !self.topics().contains_key(topic) {
            return Err(Error::TopicMissing { topic: topic.to_owned() });
        }
        OffsetWatcher::new(&self.connection, topic, deadline)?.poll(deadline)
    }

    fn delete_topics(&self, topics: &[&str], _deadline: Duration) -> Result<()> {
        Err(Error::Unsupported { what: format!("delete topics {topics:?}") })
    }

    fn delete_records(&self, topic: &str, _offsets: &[u64], _deadline: Duration) -> Result<()> {
        Err(Error::Unsupported { what: format!("delete old records of topic {topic:?}") })
    }
}
