//! The broker and the simulated streams of a local run.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::{Duration, Instant},
};

use scadles_api::{DeviceProgress, PartitionPosition, worker::KafkaConfig};
use scadles_control::decide::BrokerState;
use scadles_kafka::{
    Broker, DeviceStream, EmbeddedBroker, Error, KafkaConnection, PacedProducer, PartitionOffsets,
    ProducerOptions, RealBroker, StreamStatistics, TopicOutcome, TopicSpec, dataset::DatasetSource,
    producer::WaitCause,
};

use crate::view::StreamView;

/// One try to reach a broker; between tries the screen says what is wrong.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Making and looking up topics, for all devices together.
const TOPIC_PATIENCE: Duration = Duration::from_mins(1);

/// At the end of a run, the records under way may take this long to be confirmed.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// A topic of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// What it must be like.
    pub spec: TopicSpec,
    /// Make it if it is missing.
    pub create: bool,
}

/// Where the streams are.
#[derive(Clone)]
pub enum Venue {
    /// A broker in this process, there at once.
    Embedded(Arc<dyn Broker>),
    /// Bootstrap servers of a Kafka.
    Servers(String),
}

/// Name of a broker in the runner's own process.
pub const EMBEDDED: &str = "embedded";

impl Venue {
    /// The Kafka at `servers`; without, a broker in this process.
    pub fn open(servers: Option<&str>) -> Result<Self, Error> {
        Ok(match servers {
            Some(servers) => Self::Servers(servers.to_owned()),
            None => Self::Embedded(Arc::new(EmbeddedBroker::start()?)),
        })
    }

    /// As the report names it.
    pub fn name(&self) -> String {
        match self {
            Self::Embedded(_) => EMBEDDED.to_owned(),
            Self::Servers(servers) => servers.clone(),
        }
    }

    /// Whether the records die with this process.
    pub fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }
}

/// What a topic means that is neither there nor to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingTopics {
    /// A mistake of the job.
    Refuse,
    /// Somebody is about to make it.
    Await,
}

impl MissingTopics {
    /// Whether a new look may find what this one did not.
    fn is_passing(self, error: &Error) -> bool {
        error.is_transient() || (self == Self::Await && matches!(error, Error::TopicMissing { .. }))
    }
}

/// The broker with the job's topics, once it is there.
#[derive(Clone)]
pub struct Topics {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// What the user should know of topics that were there before, in sentences.
    pub notes: Vec<String>,
}

/// What a connecting thread tells.
type Connected = Result<Topics, Error>;

/// The way to a broker: tried again and again in a thread of its own, until it is there or can never be.
pub struct BrokerAccess {
    venue: Venue,
    kafka: KafkaConfig,
    topics: Vec<Topic>,
    missing: MissingTopics,
    /// From the thread that is looking for the broker, while there is one.
    news: Option<Receiver<Connected>>,
    /// Since when, on the supervisor's clock, and what was the latest problem.
    since: f64,
    problem: String,
    found: Option<Topics>,
}

impl BrokerAccess {
    /// Makes the topics on the embedded broker, or begins to look for the real one, which `kafka` describes.
    pub fn open(
        venue: &Venue,
        kafka: &KafkaConfig,
        topics: Vec<Topic>,
        missing: MissingTopics,
        now: f64,
    ) -> Result<Self, Error> {
        let mut access = Self {
            venue: venue.clone(),
            kafka: kafka.clone(),
            topics,
            missing,
            news: None,
            since: now,
            problem: String::new(),
            found: None,
        };
        match venue {
            Venue::Embedded(broker) => access.found = Some(prepare(Arc::clone(broker), &access.topics)?),
            Venue::Servers(_) => access.seek(now)?,
        }
        Ok(access)
    }

    /// Makes sure that the broker is there before the next attempt. Topics that are gone are not made again: their
    /// records are lost, and offsets of before mean nothing.
    pub fn check_again(&mut self, now: f64) -> Result<(), Error> {
        for topic in &mut self.topics {
            topic.create = false;
        }
        if self.venue.is_embedded() || self.news.is_some() { Ok(()) } else { self.seek(now) }
    }

    fn seek(&mut self, now: f64) -> Result<(), Error> {
        let connection = KafkaConnection::try_from(&self.kafka)?;
        connection.validate()?;
        self.since = now;
        self.problem = format!("connecting to {}", connection.bootstrap_servers);
        let (send, news) = channel();
        self.news = Some(news);
        let (topics, missing) = (self.topics.clone(), self.missing);
        spawn("broker-access", move || {
            loop {
                let found = connect(&connection, &topics);
                let last = !matches!(&found, Err(error) if missing.is_passing(error));
                // The runner is gone: so is the reason to go on.
                if send.send(found).is_err() || last {
                    return;
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    }

    /// How things stand. An error is final: no waiting helps.
    pub fn look(&mut self) -> Result<BrokerState, Error> {
        while let Some(news) = &self.news {
            match news.try_recv() {
                Ok(Ok(topics)) => {
                    self.found = Some(topics);
                    self.news = None;
                }
                Ok(Err(error)) if self.missing.is_passing(&error) => self.problem = error.to_string(),
                Ok(Err(error)) => return Err(error),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.news = None,
            }
        }
        Ok(match self.news {
            None => BrokerState::Ready,
            Some(_) => BrokerState::Waiting { since: self.since, problem: self.problem.clone() },
        })
    }

    /// The broker, once it was there.
    pub fn topics(&self) -> Option<&Topics> {
        self.found.as_ref()
    }
}

fn connect(connection: &KafkaConnection, topics: &[Topic]) -> Connected {
    let broker: Arc<dyn Broker> = Arc::new(RealBroker::connect(connection.clone(), CONNECT_PATIENCE)?);
    prepare(broker, topics)
}

/// Makes the topics that may be made, and checks the others.
fn prepare(broker: Arc<dyn Broker>, topics: &[Topic]) -> Connected {
    let made: Vec<TopicSpec> =
        topics.iter().filter(|topic| topic.create).map(|topic| topic.spec.clone()).collect();
    let outcomes = broker.ensure_topics(&made, TOPIC_PATIENCE)?;
    let created: Vec<&str> = made
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == TopicOutcome::Created)
        .map(|(spec, _)| spec.name.as_str())
        .collect();
    let mut notes = Vec::new();
    for Topic { spec, .. } in topics.iter().filter(|topic| !created.contains(&topic.spec.name.as_str())) {
        let offsets = broker.describe(&spec.name, TOPIC_PATIENCE)?;
        let want = spec.partitions as usize;
        if offsets.len() < want {
            return Err(Error::TooFewPartitions { topic: spec.name.clone(), have: offsets.len(), want });
        }
        notes.extend(notes_on(&spec.name, want, &offsets));
    }
    Ok(Topics { broker, notes })
}

/// What is worth knowing of a topic that was there before.
fn notes_on(name: &str, read: usize, offsets: &[PartitionOffsets]) -> Option<String> {
    let waiting: u64 = offsets.iter().take(read).map(|offsets| offsets.end.saturating_sub(offsets.low)).sum();
    if offsets.len() > read {
        return Some(format!(
            "topic {name} has {} partitions, the job reads {read} of them; spec.kafka.topics.partitions changes that",
            offsets.len()
        ));
    }
    (waiting > 0).then(|| format!("topic {name} holds {waiting} records of before"))
}

/// What is sent.
#[derive(Clone)]
pub struct StreamsPlan {
    /// One stream per device.
    pub streams: Vec<DeviceStream>,
    /// The records.
    pub source: DatasetSource,
}

/// The simulated streams of a run: off, being started, sending, stopped.
///
/// They begin when the first group is ready to train, so that nobody starts with a backlog, and go on through restarts,
/// as the streams of real devices do. On a real Kafka each goes on at the end of its partitions.
pub struct Producer {
    plan: Option<StreamsPlan>,
    starting: Option<Receiver<Result<PacedProducer, Error>>>,
    sending: Option<PacedProducer>,
    /// Offsets of the last durable checkpoint, given before the producer was there.
    durable: Vec<Vec<u64>>,
    last: Vec<StreamStatistics>,
    failure: Option<Error>,
}

impl Producer {
    /// Streams that are not sent yet; `None`: the job has none.
    pub fn new(plan: Option<StreamsPlan>) -> Self {
        Self { plan, starting: None, sending: None, durable: vec![], last: vec![], failure: None }
    }

    /// Begins to send, once.
    pub fn start(&mut self, broker: &Arc<dyn Broker>) {
        let Some(plan) = self.plan.take() else { return };
        let (send, receive) = channel();
        let broker = Arc::clone(broker);
        let started = spawn("producer-start", move || {
            let options = ProducerOptions {
                budget_bytes_per_partition: broker.limits().budget_bytes_per_partition,
                ..ProducerOptions::default()
            };
            let producer =
                PacedProducer::start(broker.connection(), plan.streams, Box::new(plan.source), options);
            // Nobody waits for it any more: it is dropped, which stops it.
            let _ = send.send(producer);
        });
        match started {
            Ok(()) => self.starting = Some(receive),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Whether [`Self::start`] was called on streams that the job has.
    pub fn is_started(&self) -> bool {
        self.plan.is_none()
    }

    /// Takes note of a started producer and of a failed one.
    pub fn look(&mut self) -> Result<(), Error> {
        if let Some(news) = &self.starting
            && let Ok(outcome) = news.try_recv()
        {
            self.starting = None;
            match outcome {
                Ok(producer) => {
                    for (device, offsets) in self.durable.iter().enumerate() {
                        producer.set_durable_offsets(device, offsets);
                    }
                    self.sending = Some(producer);
                }
                Err(error) => self.failure = Some(error),
            }
        }
        let failure = self.failure.take().or_else(|| self.sending.as_ref().and_then(PacedProducer::failure));
        failure.map_or(Ok(()), Err)
    }

    /// A durable checkpoint: records before these positions are never asked for again.
    pub fn set_durable(&mut self, positions: &[Vec<PartitionPosition>]) {
        let offsets = |device: &Vec<PartitionPosition>| {
            let mut device = device.clone();
            device.sort_by_key(|position| position.partition);
            device.iter().map(|position| position.next.max(0).cast_unsigned()).collect()
        };
        self.durable = positions.iter().map(offsets).collect();
        if let Some(producer) = &self.sending {
            for (device, offsets) in self.durable.iter().enumerate() {
                producer.set_durable_offsets(device, offsets);
            }
        }
    }

    /// Offsets of the last durable checkpoint per device and partition; empty while none is known.
    pub fn durable(&self) -> &[Vec<u64>] {
        &self.durable
    }

    /// What each stream did so far.
    pub fn statistics(&self) -> Vec<StreamStatistics> {
        self.sending.as_ref().map_or_else(|| self.last.clone(), PacedProducer::statistics)
    }

    /// Since when a broker has been away; records wait meanwhile.
    pub fn outage_since(&self) -> Option<Instant> {
        self.sending.as_ref().and_then(PacedProducer::outage_since)
    }

    /// The streams for the screen.
    pub fn view(&self) -> Vec<StreamView> {
        self.statistics().iter().map(stream_view).collect()
    }

    /// Stops sending; what is under way is delivered, or the error says what is not.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.plan = None;
        self.starting = None;
        let Some(producer) = self.sending.take() else { return Ok(()) };
        self.last = producer.statistics();
        self.last = producer.stop(FLUSH_PATIENCE)?;
        Ok(())
    }
}

/// Share of a partition's budget that may be filled before a checkpoint is asked for: the streams must not come to a
/// stand, because a group without samples takes no step, and without a step there is no checkpoint.
const BUDGET_SHARE: f64 = 0.5;

/// Whether a device has filled so much of what the broker keeps since the last durable checkpoint that it needs the next
/// one before the job's own comes. `durable` has the offsets of that checkpoint per device and partition, where one is
/// known; `budget_bytes` is per partition; a record costs `record_bytes` at the broker. Pure.
pub fn needs_checkpoint(
    devices: &[DeviceProgress],
    durable: &[Vec<u64>],
    budget_bytes: u64,
    record_bytes: u64,
) -> bool {
    let kept_from = |device: usize, position: &PartitionPosition| {
        let offsets = durable.get(device)?;
        offsets.get(usize::try_from(position.partition).ok()?).copied()
    };
    let fullest = devices
        .iter()
        .enumerate()
        .flat_map(|(index, device)| device.positions.iter().map(move |position| (index, position)))
        .map(|(index, position)| {
            let from = kept_from(index, position).unwrap_or(position.start.max(0).cast_unsigned());
            position.end.max(0).cast_unsigned().saturating_sub(from)
        })
        .max();
    fullest.unwrap_or(0).saturating_mul(record_bytes) as f64 > BUDGET_SHARE * budget_bytes as f64
}

fn stream_view(stream: &StreamStatistics) -> StreamView {
    let waiting = stream.waiting_since.map(|(since, cause)| {
        let words = match cause {
            WaitCause::Budget => "for a checkpoint",
            WaitCause::Broker => "for the broker",
        };
        (words.to_owned(), since.elapsed().as_secs_f64())
    });
    StreamView { asked: stream.asked_samples_per_second, waiting }
}

/// First and end offsets of every device's partitions now.
pub fn offsets_now(topics: &Topics, names: &[String]) -> Result<Vec<Vec<PartitionOffsets>>, Error> {
    let deadline = Instant::now() + TOPIC_PATIENCE;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    names.iter().map(|name| topics.broker.describe(name, left())).collect()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(|error| Error::Client {
        what: format!("start the thread {name}"),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(start: i64, end: i64) -> DeviceProgress {
        let position = PartitionPosition { partition: 0, start, next: start, end };
        DeviceProgress { positions: vec![position], ..DeviceProgress::default() }
    }

    #[test]
    fn a_checkpoint_is_asked_for_when_half_of_what_the_broker_keeps_is_filled() {
        let asked = |durable, end| needs_checkpoint(&[device(0, end)], &[vec![durable]], 1000, 10);
        assert!(!asked(100, 150));
        assert!(asked(100, 151));
        assert!(!asked(140, 151), "a checkpoint makes room");
    }

    #[test]
    fn before_the_first_checkpoint_all_since_the_start_is_needed() {
        assert!(needs_checkpoint(&[device(100, 151)], &[], 1000, 10));
        assert!(!needs_checkpoint(&[], &[], 1000, 10));
    }
}
