//! What a source must do on every broker: told as functions that a test binary per broker calls.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part of this module; a test ends where something is not as claimed"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use scadles_api::job::StreamPolicy;
use scadles_api::worker::{RecordFormat, SampleShape, StartFrom, StreamEnd};
use scadles_kafka::{
    Broker, DeviceStream, KafkaConnection, OutgoingRecord, PacedProducer, ProducerOptions, RecordSource,
    TopicSpec,
};
use scadles_trainer::source::{Source, SourceSettings, Start};

pub const DEADLINE: Duration = Duration::from_secs(30);
/// As many as are due within a second, at once.
pub const AT_ONCE: f64 = 1e9;

/// Records that say which they are: label, number, filling. Every `bad_every`-th has a label that no model has.
#[derive(Clone)]
pub struct Numbered {
    record: Vec<u8>,
    bad_every: Option<u64>,
}

impl Numbered {
    pub fn new(record_bytes: usize, bad_every: Option<u64>) -> Self {
        Self { record: vec![7; record_bytes], bad_every }
    }

    /// The same with a filling that no other device's records have.
    pub fn of_device(mut self, device: usize) -> Self {
        self.record[9..].fill(7 + 40 * device as u8);
        self
    }

    pub fn bytes(&mut self, number: u64) -> &[u8] {
        let bad = self.bad_every.is_some_and(|every| number % every == every - 1);
        self.record[0] = if bad { 200 } else { (number % 10) as u8 };
        self.record[1..9].copy_from_slice(&number.to_le_bytes());
        &self.record
    }
}

impl RecordSource for Numbered {
    fn record(&mut self, _device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        Ok(self.bytes(number).into())
    }
}

pub fn samples(side: u32) -> SampleShape {
    SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [3, side, side] }
}

pub fn topic(broker: &dyn Broker, partitions: u32) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("stream-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    broker
        .ensure_topics(&[TopicSpec { name: name.clone(), partitions, replication: None }], DEADLINE)
        .unwrap();
    name
}

pub fn settings(connection: &KafkaConnection, topic: &str, partitions: u32) -> SourceSettings {
    SourceSettings {
        device: "device-0".to_owned(),
        topic: topic.to_owned(),
        partitions,
        connection: connection.clone(),
        start: Start::Beginning(StartFrom::Earliest),
        samples: samples(16),
        end: StreamEnd::Never,
        policy: StreamPolicy::Persistence,
        buffer_bytes: 4 << 20,
        max_rejected_share: 0.5,
        open_deadline: DEADLINE,
        broker_patience: DEADLINE,
    }
}

pub fn produce(
    connection: &KafkaConnection,
    topic: &str,
    partitions: u32,
    rate: f64,
    max_records: Option<u64>,
    records: impl RecordSource + 'static,
) -> PacedProducer {
    let stream = DeviceStream { topic: topic.to_owned(), partitions, samples_per_second: rate, max_records };
    PacedProducer::start(connection, vec![stream], Box::new(records), ProducerOptions::default()).unwrap()
}

/// Sends exactly `records` at once.
pub fn fill(
    connection: &KafkaConnection,
    topic: &str,
    partitions: u32,
    records: u64,
    source: impl RecordSource + 'static,
) {
    let producer = produce(connection, topic, partitions, AT_ONCE, Some(records), source);
    await_that("all is delivered", || producer.statistics()[0].finished);
    producer.stop(DEADLINE).unwrap();
}

pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + 2 * DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One training step without training: the numbers of the samples trained.
pub fn step(source: &Source, local_batch: u64, partitions: u64, expected: &mut Numbered) -> Vec<u64> {
    let peeked = source.peek(local_batch);
    let numbers = source.with_samples(&peeked, |samples| {
        samples
            .map(|sample| {
                let number = sample.offset * partitions + u64::from(sample.partition);
                assert_eq!(sample.payload, expected.bytes(number), "record {number} has other bytes");
                number
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(numbers.len() as u64, peeked.samples());
    source.commit(&peeked).unwrap();
    assert!(source.ledger().is_balanced(), "{:?}", source.ledger());
    numbers
}

pub fn await_available(source: &Source, samples: u64) {
    let view = source.wait(Instant::now() + 2 * DEADLINE, |view| view.available >= samples);
    assert_eq!(source.failure(), None);
    assert!(
        view.available >= samples,
        "only {} of {samples} samples came: {:?}",
        view.available,
        source.ledger()
    );
}

/// Every record is trained once, in order per partition, through a restart in the middle; rejected ones are counted.
pub fn every_record_is_trained_once_and_the_ledger_is_exact(broker: &dyn Broker, partitions: u32) {
    const RECORDS: u64 = 2000;
    const BAD_EVERY: u64 = 50;
    let topic = topic(broker, partitions);
    let mut settings = settings(broker.connection(), &topic, partitions);
    // Less room than there are records: fetching must stop and go on.
    settings.buffer_bytes = 300 * settings.samples.sample_bytes() as u64;
    let mut expected = Numbered::new(settings.samples.sample_bytes(), Some(BAD_EVERY));
    fill(broker.connection(), &topic, partitions, RECORDS, expected.clone());
    let good = RECORDS - RECORDS / BAD_EVERY;
    let mut source = Source::open(settings.clone()).unwrap();
    let mut trained = Vec::new();
    let mut rest = good;
    for count in 0.. {
        let batch = rest.min(64);
        if batch == 0 {
            break;
        }
        await_available(&source, batch);
        assert!(
            source.status().buffered_local * settings.samples.sample_bytes() as u64 <= settings.buffer_bytes
        );
        trained.extend(step(&source, batch, u64::from(partitions), &mut expected));
        rest -= batch;
        if count == 12 {
            let text = serde_json::to_string(&source.checkpoint()).unwrap();
            let checkpoint = serde_json::from_str(&text).unwrap();
            drop(source);
            settings.start = Start::From { checkpoint, rolled_back: 0 };
            source = Source::open(settings.clone()).unwrap();
        }
    }
    source.fetch_newest_ends(DEADLINE).unwrap();
    await_that("the last rejected record is seen", || source.ledger().rejected == RECORDS / BAD_EVERY);
    let ledger = source.ledger();
    assert_eq!((ledger.arrived, ledger.trained, ledger.buffered, ledger.lost), (RECORDS, good, 0, 0));
    trained.sort_unstable();
    let all: Vec<u64> = (0..RECORDS).filter(|number| number % BAD_EVERY != BAD_EVERY - 1).collect();
    assert_eq!(trained, all);
    let ends: Vec<i64> = source.positions().iter().map(|position| position.end).collect();
    let broker_ends: Vec<i64> =
        broker.describe(&topic, DEADLINE).unwrap().iter().map(|reach| reach.end.cast_signed()).collect();
    assert_eq!(ends, broker_ends);
}

/// `Truncation` on a running stream: nothing is trained twice, what is passed over is counted, ends agree.
pub fn truncation_keeps_the_newest_second_and_counts_the_rest(broker: &dyn Broker, partitions: u32) {
    let topic = topic(broker, partitions);
    let mut settings = settings(broker.connection(), &topic, partitions);
    settings.policy = StreamPolicy::Truncation;
    let mut expected = Numbered::new(settings.samples.sample_bytes(), Some(20));
    // A backlog, then a live stream.
    fill(broker.connection(), &topic, partitions, 1500, expected.clone());
    let producer = produce(broker.connection(), &topic, partitions, 400.0, None, expected.clone());
    let source = Source::open(settings).unwrap();
    let mut trained = Vec::new();
    for _ in 0..12 {
        let wanted = source.view().arrived_total + 60;
        source.wait(Instant::now() + DEADLINE, |view| view.arrived_total >= wanted && view.available >= 8);
        trained.extend(step(&source, 32, u64::from(partitions), &mut expected));
        source.apply_policy();
        let status = source.status();
        assert!(status.ledger.is_balanced(), "{:?}", status.ledger);
        let kept = status.stream_rate.map_or(f64::MAX, |rate| rate.ceil() + f64::from(partitions));
        assert!(status.ledger.buffered as f64 <= kept, "{} kept at {kept}/s", status.ledger.buffered);
    }
    producer.stop(DEADLINE).unwrap();
    source.fetch_newest_ends(DEADLINE).unwrap();
    let ledger = source.ledger();
    assert!(ledger.is_balanced() && ledger.dropped >= 1000, "{ledger:?}");
    let end: u64 = broker.describe(&topic, DEADLINE).unwrap().iter().map(|reach| reach.end).sum();
    assert_eq!(ledger.arrived, end);
    assert_eq!(ledger.trained, trained.len() as u64);
    let mut distinct = trained.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), trained.len(), "a record was trained twice");
}
