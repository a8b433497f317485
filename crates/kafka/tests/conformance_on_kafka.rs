//! The suite on a real Kafka, and what only it can do: be killed, lose topics, be written to by others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

mod suite;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use scadles_kafka::testing::RealKafka;
use scadles_kafka::{
    Broker, ConsumerOptions, Error, Event, OffsetWatcher, ProducerOptions, RealBroker, StreamConsumer,
};
use suite::{DEADLINE, conformance};

fn kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start().unwrap_or_else(|error| panic!("{error}")))
}

fn broker() -> &'static dyn Broker {
    static BROKER: OnceLock<RealBroker> = OnceLock::new();
    BROKER.get_or_init(|| RealBroker::connect(kafka().connection(), DEADLINE).unwrap())
}

conformance!(broker());

#[test]
fn kafkas_own_tool_sees_the_same_end_offsets() {
    let topic = suite::topic(broker(), 3);
    suite::send(broker(), &topic, 3, 100);
    assert_eq!(kafka().end_offsets(&topic).unwrap(), [34, 33, 33]);
}

#[test]
fn records_are_found_by_their_own_time() {
    let topic = suite::topic(broker(), 1);
    suite::send(broker(), &topic, 1, 10);
    suite::send(broker(), &topic, 1, 10);
    let mut consumer = suite::consume_from(broker(), &topic, &[0]);
    let mut times = Vec::new();
    while times.len() < 20 {
        match consumer.poll(DEADLINE) {
            Some(Event::Record(record)) => times.push(record.timestamp_millis().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    let mut watcher = OffsetWatcher::new(broker().connection(), &topic, DEADLINE).unwrap();
    watcher.poll(DEADLINE).unwrap();
    for time in [0, times[0], times[10], times[19], times[19] + 1] {
        let first = times.iter().position(|of_record| *of_record >= time).unwrap_or(20) as u64;
        assert_eq!(watcher.find_time(time, DEADLINE).unwrap(), [first], "{time} in {times:?}");
    }
}

#[test]
fn streams_outlive_a_killed_broker_in_order_and_without_loss() {
    let mut kafka = RealKafka::start().unwrap_or_else(|error| panic!("{error}"));
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    let topic = suite::topic(&broker, 2);
    let producer =
        suite::start(&broker, vec![suite::stream(&topic, 2, 300.0, None)], ProducerOptions::default());
    let mut consumer = suite::consume_from(&broker, &topic, &[0; 2]);
    let mut watcher = OffsetWatcher::new(broker.connection(), &topic, DEADLINE).unwrap();
    suite::read_exactly(&mut consumer, 2, 300);

    kafka.kill().unwrap();
    let error = watcher.poll_end(Duration::from_millis(500)).unwrap_err();
    assert!(error.is_transient(), "{error}");
    suite::await_that("the outage shows to the producer", || producer.outage_since().is_some());
    let killed = Instant::now();
    let read = consumer.positions().iter().sum::<u64>();
    suite::await_that("the outage shows to the consumer", || {
        while consumer.poll(Duration::ZERO).is_some() {}
        consumer.outage_since().is_some_and(|since| since < killed + DEADLINE)
    });
    assert!(consumer.positions().iter().sum::<u64>() >= read);
    kafka.restart().unwrap();

    let mut seen = consumer.positions().to_vec();
    let end = Instant::now() + DEADLINE;
    while seen.iter().sum::<u64>() < 1200 {
        assert!(Instant::now() < end, "only {seen:?} came");
        if let Some(Event::Record(record)) = consumer.poll(Duration::from_millis(100)) {
            let (p, offset) = (record.partition(), record.offset());
            assert_eq!((offset, record.gap), (seen[p as usize], 0), "partition {p}: in order, without a gap");
            assert!(record.payload() == suite::bytes_of(0, offset * 2 + u64::from(p)));
            seen[p as usize] += 1;
        }
    }
    assert_eq!(consumer.outage_since(), None);
    assert_eq!(producer.outage_since(), None);
    let sent = producer.stop(DEADLINE).unwrap()[0].delivered;
    assert_eq!(watcher.poll_end(DEADLINE).unwrap().iter().sum::<u64>(), sent);
}

#[test]
fn a_topic_deleted_in_mid_run_ends_reading_and_sending_with_its_name() {
    let topic = suite::topic(broker(), 2);
    let missing = Error::TopicMissing { topic: topic.clone() };
    let producer =
        suite::start(broker(), vec![suite::stream(&topic, 2, 100.0, None)], ProducerOptions::default());
    let mut consumer = suite::consume_from(broker(), &topic, &[0; 2]);
    let mut watcher = OffsetWatcher::new(broker().connection(), &topic, DEADLINE).unwrap();
    suite::read_exactly(&mut consumer, 2, 20);
    broker().delete_topics(&[&topic], DEADLINE).unwrap();

    suite::await_that("the watcher says so", || watcher.poll_end(DEADLINE).err() == Some(missing.clone()));
    let end = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < end, "reading went on");
        if let Some(Event::Fatal(error)) = consumer.poll(Duration::from_millis(100)) {
            assert_eq!(error, missing);
            break;
        }
    }
    suite::await_that("the producer says so", || producer.failure().is_some());
    assert_eq!(producer.stop(DEADLINE).unwrap_err(), missing);
}

#[test]
fn a_compacted_topic_is_refused_with_the_remedy() {
    let create = ["--create", "--topic", "compacted", "--config", "cleanup.policy=compact"];
    kafka().kafka_tool("kafka-topics", &create).unwrap();
    let spec = scadles_kafka::TopicSpec { name: "compacted".to_owned(), partitions: 1, replication: None };
    let refused = Error::TopicCompacted { topic: "compacted".to_owned(), policy: "compact".to_owned() };
    assert_eq!(broker().check_topics(std::slice::from_ref(&spec), DEADLINE).err().as_ref(), Some(&refused));
    assert_eq!(broker().ensure_topics(&[spec], DEADLINE).err(), Some(refused));
}

#[test]
fn a_topic_made_anew_is_noticed_by_its_offsets() {
    let topic = suite::topic(broker(), 1);
    suite::send(broker(), &topic, 1, 20);
    let mut watcher = OffsetWatcher::new(broker().connection(), &topic, DEADLINE).unwrap();
    watcher.poll(DEADLINE).unwrap();
    broker().delete_topics(&[&topic], DEADLINE).unwrap();
    suite::await_that("the topic is gone", || broker().describe(&topic, DEADLINE).is_err());
    let spec = scadles_kafka::TopicSpec { name: topic.clone(), partitions: 1, replication: None };
    broker().ensure_topics(&[spec], DEADLINE).unwrap();
    suite::send(broker(), &topic, 1, 5);
    let anew = Error::TopicRecreated { topic: topic.clone(), partition: 0, was: 20, now: 5 };
    suite::await_that("the watcher says so", || watcher.poll_end(DEADLINE).err().as_ref() == Some(&anew));

    let options = ConsumerOptions::default();
    let mut consumer = StreamConsumer::assign_from(broker().connection(), &topic, &[20], options).unwrap();
    let event = consumer.poll(DEADLINE);
    assert!(matches!(&event, Some(Event::Fatal(error)) if *error == anew), "{event:?}");
}

#[test]
fn another_writer_on_a_topic_of_ours_is_found_out() {
    let topic = suite::topic(broker(), 1);
    let slow = || vec![suite::stream(&topic, 1, 50.0, None)];
    let ours = suite::start(broker(), slow(), ProducerOptions::default());
    let other = suite::start(broker(), slow(), ProducerOptions::default());
    suite::await_that("both say so", || ours.failure().is_some() && other.failure().is_some());
    assert!(
        matches!(ours.stop(DEADLINE), Err(Error::ForeignRecords { expected, stored, .. }) if stored > expected)
    );
}
