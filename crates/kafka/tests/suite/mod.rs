//! What every broker must do, whichever it is: one suite, run on the embedded broker and on a real Kafka.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use scadles_kafka::{
    Broker, ConsumerOptions, DeviceStream, Error, Event, OffsetWatcher, OutgoingRecord, PacedProducer,
    PartitionOffsets, ProducerOptions, RangeReader, RecordSource, StreamConsumer, TopicOutcome, TopicSpec,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const RECORD_BYTES: usize = 3073;
/// Fast enough that everything is due at once.
pub(crate) const AT_ONCE: f64 = 1e9;

/// The bytes of a record as a pure function of device and number.
pub(crate) fn bytes_of(device: usize, number: u64) -> Vec<u8> {
    let mut bytes = vec![(number % 251) as u8 ^ device as u8; RECORD_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..16].copy_from_slice(&(device as u64).to_be_bytes());
    bytes
}

#[derive(Default)]
pub(crate) struct Numbered(Vec<u8>);

impl RecordSource for Numbered {
    fn record(&mut self, device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        self.0 = bytes_of(device, number);
        Ok(self.0.as_slice().into())
    }
}

/// A new topic of `partitions`.
pub(crate) fn topic(broker: &dyn Broker, partitions: u32) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("stream-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let spec = TopicSpec { name: name.clone(), partitions, replication: Some(1) };
    assert_eq!(broker.ensure_topics(&[spec], DEADLINE).unwrap(), [TopicOutcome::Created]);
    name
}

pub(crate) fn stream(topic: &str, partitions: u32, rate: f64, max_records: Option<u64>) -> DeviceStream {
    DeviceStream { topic: topic.to_owned(), partitions, samples_per_second: rate, max_records }
}

pub(crate) fn start(
    broker: &dyn Broker,
    streams: Vec<DeviceStream>,
    options: ProducerOptions,
) -> PacedProducer {
    PacedProducer::start(broker.connection(), streams, Box::<Numbered>::default(), options).unwrap()
}

/// Waits for a condition; the test fails where it does not come.
pub(crate) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends `records` records and waits until all are confirmed.
pub(crate) fn send(broker: &dyn Broker, topic: &str, partitions: u32, records: u64) {
    let producer =
        start(broker, vec![stream(topic, partitions, AT_ONCE, Some(records))], ProducerOptions::default());
    await_that("records are sent", || {
        assert_eq!(producer.failure(), None);
        producer.statistics()[0].finished
    });
    let statistics = producer.stop(DEADLINE).unwrap();
    assert_eq!((statistics[0].sent, statistics[0].delivered), (records, records));
}

pub(crate) fn consume_from(broker: &dyn Broker, topic: &str, offsets: &[u64]) -> StreamConsumer {
    StreamConsumer::assign_from(broker.connection(), topic, offsets, ConsumerOptions::default()).unwrap()
}

/// (partition, offset, payload) of the next record; any other event fails the test.
pub(crate) fn next(consumer: &mut StreamConsumer) -> (u32, u64, Vec<u8>) {
    match consumer.poll(DEADLINE) {
        Some(Event::Record(record)) => {
            assert_eq!(record.gap, 0, "a gap where nothing was lost");
            (record.partition(), record.offset(), record.payload().to_vec())
        }
        other => panic!("a record was expected, not {other:?}"),
    }
}

/// Reads `count` records and checks that each is the one of its place; offsets read per partition.
pub(crate) fn read_exactly(consumer: &mut StreamConsumer, partitions: u32, count: u64) -> Vec<Vec<u64>> {
    let mut offsets = vec![Vec::new(); partitions as usize];
    for _ in 0..count {
        let (partition, offset, payload) = next(consumer);
        let number = offset * u64::from(partitions) + u64::from(partition);
        assert!(
            payload == bytes_of(0, number),
            "partition {partition}, offset {offset} holds another record"
        );
        offsets[partition as usize].push(offset);
    }
    offsets
}

// ---- the claims --------------------------------------------------------------------------------------------------

pub(crate) fn what_is_sent_is_read_back_exactly_and_in_order(broker: &dyn Broker) {
    let topic = topic(broker, 3);
    send(broker, &topic, 3, 1000);
    let mut consumer = consume_from(broker, &topic, &[0; 3]);
    let offsets = read_exactly(&mut consumer, 3, 1000);
    assert_eq!(offsets[0], (0..334).collect::<Vec<_>>());
    assert_eq!(offsets[1], (0..333).collect::<Vec<_>>());
    assert_eq!(offsets[2], (0..333).collect::<Vec<_>>());
    assert_eq!(consumer.positions(), [334, 333, 333]);
    assert!(consumer.poll(Duration::from_millis(100)).is_none(), "more than was sent");
}

pub(crate) fn first_and_end_offsets_are_exact_for_all_partitions_at_once(broker: &dyn Broker) {
    let topic = topic(broker, 4);
    let mut watcher = OffsetWatcher::new(broker.connection(), &topic, DEADLINE).unwrap();
    let empty = PartitionOffsets { low: 0, end: 0 };
    assert_eq!(watcher.poll(DEADLINE).unwrap(), vec![empty; 4]);
    send(broker, &topic, 4, 10);
    assert_eq!(watcher.poll_end(DEADLINE).unwrap(), [3, 3, 2, 2]);
    let reach = |end| PartitionOffsets { low: 0, end };
    assert_eq!(watcher.poll(DEADLINE).unwrap(), [reach(3), reach(3), reach(2), reach(2)]);
    assert_eq!(broker.describe(&topic, DEADLINE).unwrap(), watcher.poll(DEADLINE).unwrap());
}

pub(crate) fn seeking_back_reads_again_and_seeking_forward_passes_over(broker: &dyn Broker) {
    let topic = topic(broker, 1);
    send(broker, &topic, 1, 1500);
    let mut consumer = consume_from(broker, &topic, &[0]);
    read_exactly(&mut consumer, 1, 500);
    consumer.seek(0, 100).unwrap();
    assert_eq!(next(&mut consumer).1, 100);
    consumer.seek(0, 150).unwrap();
    assert_eq!(next(&mut consumer).1, 150, "a short way, read past");
    consumer.seek(0, 1400).unwrap();
    assert_eq!(next(&mut consumer).1, 1400, "a long way, sought");
    consumer.seek_all(&[7]).unwrap();
    assert_eq!(read_exactly(&mut consumer, 1, 3)[0], [7, 8, 9]);
}

pub(crate) fn a_paused_partition_is_not_read_until_it_is_sought(broker: &dyn Broker) {
    let topic = topic(broker, 2);
    send(broker, &topic, 2, 2000);
    let mut consumer = consume_from(broker, &topic, &[0; 2]);
    let mut of_second = 0;
    while next(&mut consumer).0 == 1 {
        of_second += 1;
    }
    consumer.pause(0).unwrap();
    for offset in of_second..1000 {
        let (partition, found, _) = next(&mut consumer);
        assert_eq!((partition, found), (1, offset));
    }
    let more = consumer.poll(Duration::from_millis(300));
    assert!(more.is_none(), "{more:?}");
    drop(more);
    consumer.seek(0, 0).unwrap();
    for offset in 0..1000 {
        let (partition, found, _) = next(&mut consumer);
        assert_eq!((partition, found), (0, offset));
    }
}

pub(crate) fn records_that_the_broker_dropped_are_reported_as_lost_and_reading_goes_on(broker: &dyn Broker) {
    let topic = topic(broker, 2);
    // 3,600 records are 5.3 MiB in each partition: more than the embedded broker keeps.
    send(broker, &topic, 2, 3600);
    if broker.limits().delete_records {
        broker.delete_records(&topic, &[50, 60], DEADLINE).unwrap();
    }
    let reach = broker.describe(&topic, DEADLINE).unwrap();
    assert!(reach.iter().all(|r| r.low > 0 && r.end == 1800), "nothing was dropped: {reach:?}");

    let mut consumer = consume_from(broker, &topic, &[0, 5]);
    let mut lost = [0; 2];
    let mut next_offset = [0, 5];
    let mut read = 0;
    let expected: u64 = reach.iter().map(|r| r.end - r.low).sum();
    while read < expected {
        match consumer.poll(DEADLINE) {
            Some(Event::OutOfRange { partition, position, new_low }) => {
                let p = partition as usize;
                assert_eq!((position, new_low), (next_offset[p], reach[p].low));
                lost[p] += new_low - position;
                next_offset[p] = new_low;
            }
            Some(Event::Record(record)) => {
                let p = record.partition() as usize;
                assert_eq!((record.offset(), record.gap), (next_offset[p], 0));
                next_offset[p] += 1;
                read += 1;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(lost, [reach[0].low, reach[1].low - 5]);
    assert_eq!(next_offset, [1800, 1800]);
}

pub(crate) fn a_topic_that_does_not_exist_is_an_error_that_names_it_and_is_not_made(broker: &dyn Broker) {
    let connection = broker.connection();
    let missing = || Some(Error::TopicMissing { topic: "nowhere".to_owned() });
    assert_eq!(OffsetWatcher::new(connection, "nowhere", DEADLINE).err(), missing());
    let options = ConsumerOptions::default();
    assert_eq!(StreamConsumer::assign_from(connection, "nowhere", &[0], options).err(), missing());
    let streams = vec![stream("nowhere", 1, 1.0, None)];
    let source = Box::<Numbered>::default();
    assert_eq!(
        PacedProducer::start(connection, streams, source, ProducerOptions::default()).err(),
        missing()
    );
    assert_eq!(broker.describe("nowhere", DEADLINE).err(), missing());
    let spec = TopicSpec { name: "nowhere".to_owned(), partitions: 1, replication: None };
    assert_eq!(broker.check_topics(&[spec], DEADLINE).err(), missing());
}

pub(crate) fn a_topic_is_made_once_and_refused_where_it_is_too_small(broker: &dyn Broker) {
    let name = topic(broker, 2);
    let spec = |partitions| [TopicSpec { name: name.clone(), partitions, replication: None }];
    assert_eq!(broker.ensure_topics(&spec(2), DEADLINE).unwrap(), [TopicOutcome::Exists { partitions: 2 }]);
    assert_eq!(broker.ensure_topics(&spec(1), DEADLINE).unwrap(), [TopicOutcome::Exists { partitions: 2 }]);
    let too_few = Some(Error::TooFewPartitions { topic: name.clone(), have: 2, want: 5 });
    assert_eq!(broker.ensure_topics(&spec(5), DEADLINE).err(), too_few);
    assert_eq!(broker.check_topics(&spec(5), DEADLINE).err(), too_few);
    assert_eq!(broker.check_topics(&spec(2), DEADLINE), Ok(()));
    let offsets = [0; 5];
    let options = ConsumerOptions::default();
    assert_eq!(StreamConsumer::assign_from(broker.connection(), &name, &offsets, options).err(), too_few);
}

pub(crate) fn a_restarted_producer_continues_at_each_partitions_own_end(broker: &dyn Broker) {
    let topic = topic(broker, 3);
    // 10 records: partition 0 ends at 4, the others at 3.
    send(broker, &topic, 3, 10);
    send(broker, &topic, 3, 5);
    send(broker, &topic, 3, 300);
    let mut consumer = consume_from(broker, &topic, &[0; 3]);
    let offsets = read_exactly(&mut consumer, 3, 315);
    assert!(offsets.iter().all(|o| *o == (0..105).collect::<Vec<_>>()));
}

pub(crate) fn a_stream_waits_visibly_at_its_budget_until_a_checkpoint_covers_it(broker: &dyn Broker) {
    let topic = topic(broker, 2);
    let budget =
        ProducerOptions { budget_bytes_per_partition: Some(32 * 1024), ..ProducerOptions::default() };
    let fits = 32 * 1024 / (RECORD_BYTES as u64 + scadles_kafka::producer::RECORD_OVERHEAD_BYTES);
    let producer = start(broker, vec![stream(&topic, 2, 5000.0, None)], budget);
    let waits = |sent: u64| {
        await_that("the stream waits", || {
            let now = &producer.statistics()[0];
            now.waiting_since.is_some() && now.delivered == sent
        });
        assert_eq!(producer.statistics()[0].sent, sent);
    };
    waits(2 * fits);
    // Room in one partition only: numbers go in order, so exactly one more record for each that is covered there.
    producer.set_durable_offsets(0, &[3, 3]);
    waits(2 * fits + 6);
    producer.set_durable_offsets(0, &[fits, fits]);
    waits(4 * fits);
    producer.stop(DEADLINE).unwrap();
    assert_eq!(broker.describe(&topic, DEADLINE).unwrap()[0].end, 2 * fits);
}

pub(crate) fn streams_keep_their_rates_on_an_absolute_schedule(broker: &dyn Broker) {
    let rates = [31.0, 97.0, 210.0, 400.0];
    let topics: Vec<_> = rates.iter().map(|_| topic(broker, 2)).collect();
    let streams = topics.iter().zip(rates).map(|(topic, rate)| stream(topic, 2, rate, None)).collect();
    let producer = start(broker, streams, ProducerOptions::default());
    let began = Instant::now();
    await_that("the fastest has sent for two seconds", || producer.statistics()[3].sent >= 801);
    let statistics = producer.statistics();
    let elapsed = began.elapsed().as_secs_f64();
    for (rate, now) in rates.iter().zip(&statistics) {
        // The clock of the streams starts a moment before ours; a busy machine may be late, never more than 0.25 s.
        let due = elapsed * rate + 1.0;
        assert!(now.sent as f64 <= due + 0.1 * rate, "{rate}/s: {} sent, {due} were due", now.sent);
        assert!(now.sent as f64 >= due - 0.25 * rate - 1.0, "{rate}/s: {} sent, {due} were due", now.sent);
        assert_eq!(now.slipped, Duration::ZERO);
    }
    for (topic, sent) in topics.iter().zip(producer.stop(DEADLINE).unwrap()) {
        let ends: u64 = broker.describe(topic, DEADLINE).unwrap().iter().map(|r| r.end).sum();
        assert_eq!(ends, sent.delivered);
    }
}

pub(crate) fn a_consumer_that_does_not_poll_loses_nothing(broker: &dyn Broker) {
    let topic = topic(broker, 2);
    let options = ConsumerOptions { queued_kbytes: 64, ..ConsumerOptions::default() };
    let mut consumer = StreamConsumer::assign_from(broker.connection(), &topic, &[0; 2], options).unwrap();
    // 2,800 records are 8.6 MB: far beyond its queue, within what the embedded broker keeps.
    send(broker, &topic, 2, 2800);
    let offsets = read_exactly(&mut consumer, 2, 2800);
    assert!(offsets.iter().all(|o| *o == (0..1400).collect::<Vec<_>>()));
}

pub(crate) fn ranges_are_read_whole_or_not_at_all(broker: &dyn Broker) {
    let topic = topic(broker, 2);
    send(broker, &topic, 2, 1400);
    let mut reader = RangeReader::new(broker.connection()).unwrap();
    for (partition, first, count) in [(1, 600, 100), (0, 0, 1), (0, 5, 600), (1, 0, 700), (0, 690, 10)] {
        let records = reader.read(&topic, partition, first, count, DEADLINE).unwrap();
        let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (first..first + count as u64).collect::<Vec<_>>());
        let number = |offset: u64| offset * 2 + u64::from(partition);
        assert!(records.iter().all(|record| record.payload == bytes_of(0, number(record.offset))));
    }
    let error = reader.read(&topic, 0, 695, 6, DEADLINE).unwrap_err().to_string();
    assert!(error.contains("only 5 of them"), "{error}");
}

/// Records that carry their number as a label; every third has none.
struct Labelled;

impl Labelled {
    fn label(number: u64) -> Option<u32> {
        (!number.is_multiple_of(3)).then_some(number as u32)
    }
}

impl RecordSource for Labelled {
    fn record(&mut self, _device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        Ok(OutgoingRecord { payload: b"picture", label: Self::label(number) })
    }
}

pub(crate) fn a_label_travels_in_a_header(broker: &dyn Broker) {
    let topic = topic(broker, 1);
    let streams = vec![stream(&topic, 1, AT_ONCE, Some(30))];
    let options = ProducerOptions::default();
    let producer = PacedProducer::start(broker.connection(), streams, Box::new(Labelled), options).unwrap();
    await_that("all is delivered", || producer.statistics()[0].finished);
    producer.stop(DEADLINE).unwrap();
    let expected: Vec<Option<String>> =
        (0..30).map(|number| Labelled::label(number).map(|label| label.to_string())).collect();
    let text = |label: &[u8]| String::from_utf8(label.to_vec()).unwrap();

    let mut consumer = consume_from(broker, &topic, &[0]);
    let mut read = Vec::new();
    while read.len() < 30 {
        match consumer.poll(DEADLINE) {
            Some(Event::Record(record)) => read.push(record.label().map(text)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, expected);
    let records = RangeReader::new(broker.connection()).unwrap().read(&topic, 0, 0, 30, DEADLINE).unwrap();
    let again: Vec<_> = records.iter().map(|record| record.label.as_deref().map(text)).collect();
    assert_eq!(again, expected);
}

pub(crate) fn the_end_of_a_partition_is_reported_where_asked_for(broker: &dyn Broker) {
    let topic = topic(broker, 1);
    send(broker, &topic, 1, 3);
    let options = ConsumerOptions { report_end: true, ..ConsumerOptions::default() };
    let mut consumer = StreamConsumer::assign_from(broker.connection(), &topic, &[0], options).unwrap();
    read_exactly(&mut consumer, 1, 3);
    let event = consumer.poll(DEADLINE);
    assert!(matches!(event, Some(Event::End { partition: 0 })), "{event:?}");
}

/// One test per claim, on the broker that `$broker` gives.
macro_rules! conformance {
    ($broker:expr) => {
        conformance!($broker;
            what_is_sent_is_read_back_exactly_and_in_order,
            first_and_end_offsets_are_exact_for_all_partitions_at_once,
            seeking_back_reads_again_and_seeking_forward_passes_over,
            a_paused_partition_is_not_read_until_it_is_sought,
            records_that_the_broker_dropped_are_reported_as_lost_and_reading_goes_on,
            a_topic_that_does_not_exist_is_an_error_that_names_it_and_is_not_made,
            a_topic_is_made_once_and_refused_where_it_is_too_small,
            a_restarted_producer_continues_at_each_partitions_own_end,
            a_stream_waits_visibly_at_its_budget_until_a_checkpoint_covers_it,
            streams_keep_their_rates_on_an_absolute_schedule,
            a_consumer_that_does_not_poll_loses_nothing,
            ranges_are_read_whole_or_not_at_all,
            a_label_travels_in_a_header,
            the_end_of_a_partition_is_reported_where_asked_for,
        );
    };
    ($broker:expr; $($claim:ident),+ $(,)?) => {
        $(#[test] fn $claim() { suite::$claim($broker); })+
    };
}
pub(crate) use conformance;
