//! A device's stream on a real Kafka: the same claims, and what only a real broker can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

mod stream;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scadles_api::ExitCode;
use scadles_api::worker::StartFrom;
use scadles_kafka::testing::RealKafka;
use scadles_kafka::{Broker, RealBroker};
use scadles_trainer::source::{Source, Start};
use stream::{DEADLINE, Numbered, await_available, await_that, fill, produce, settings, step, topic};

/// One broker serves all claims in turn: starting one takes seconds.
#[test]
fn the_ledger_is_exact_on_a_real_broker_through_a_kill_and_ends_when_the_topic_goes() {
    let mut kafka = RealKafka::start().unwrap();
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    for partitions in [1, 4] {
        stream::every_record_is_trained_once_and_the_ledger_is_exact(&broker, partitions);
        stream::truncation_keeps_the_newest_second_and_counts_the_rest(&broker, partitions);
    }
    a_stream_begins_at_a_time(&broker);
    an_outage_is_ridden_out(&mut kafka, &broker);
    deleted_records_are_lost(&kafka, &broker);
    a_deleted_topic_ends_the_stream(&broker);
}

fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn a_stream_begins_at_a_time(broker: &RealBroker) {
    let topic = topic(broker, 2);
    let mut settings = settings(broker.connection(), &topic, 2);
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    fill(broker.connection(), &topic, 2, 10, expected.clone());
    let between = unix_millis() + 1;
    await_that("the clock goes on", || unix_millis() > between);
    fill(broker.connection(), &topic, 2, 7, expected.clone());
    for (unix_millis, numbers) in [(between, 10..17), (0, 0..17), (unix_millis() + 60_000, 17..17)] {
        settings.start = Start::Beginning(StartFrom::Timestamp { unix_millis });
        let source = Source::open(settings.clone()).unwrap();
        await_available(&source, numbers.end - numbers.start);
        let mut trained = step(&source, 64, 2, &mut expected);
        trained.sort_unstable();
        assert_eq!(trained, numbers.clone().collect::<Vec<u64>>());
        assert_eq!(source.ledger().arrived, numbers.end - numbers.start);
        // A checkpoint knows better than the time.
        let checkpoint = source.checkpoint();
        drop(source);
        settings.start = Start::From { checkpoint, rolled_back: 0 };
        let source = Source::open(settings.clone()).unwrap();
        source.fetch_newest_ends(DEADLINE).unwrap();
        assert_eq!((source.ledger().trained, source.ledger().buffered), (numbers.end - numbers.start, 0));
    }
}

fn an_outage_is_ridden_out(kafka: &mut RealKafka, broker: &RealBroker) {
    let topic = topic(broker, 2);
    let settings = settings(broker.connection(), &topic, 2);
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    let producer = produce(broker.connection(), &topic, 2, 300.0, Some(3000), expected.clone());
    let source = Source::open(settings).unwrap();
    let mut trained = Vec::new();
    await_available(&source, 200);
    trained.extend(step(&source, 200, 2, &mut expected));
    kafka.kill().unwrap();
    assert!(source.fetch_newest_ends(Duration::from_secs(3)).is_err());
    kafka.restart().unwrap();
    while trained.len() < 3000 {
        source.wait(Instant::now() + DEADLINE, |view| view.available > 0);
        assert_eq!(source.failure(), None);
        trained.extend(step(&source, 64, 2, &mut expected));
    }
    await_that("all is delivered", || producer.statistics()[0].finished);
    producer.stop(DEADLINE).unwrap();
    source.fetch_newest_ends(DEADLINE).unwrap();
    trained.sort_unstable();
    assert_eq!(trained, (0..3000).collect::<Vec<u64>>());
    let ledger = source.ledger();
    assert_eq!((ledger.arrived, ledger.trained, ledger.buffered), (3000, 3000, 0));
    // The broker's own tool sees what the ledger says.
    assert_eq!(kafka.end_offsets(&topic).unwrap().iter().sum::<u64>(), ledger.arrived);
}

fn deleted_records_are_lost(kafka: &RealKafka, broker: &RealBroker) {
    let topic = topic(broker, 1);
    let mut settings = settings(broker.connection(), &topic, 1);
    settings.buffer_bytes = 50 * settings.samples.sample_bytes() as u64;
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    // More than the client library reads ahead, so that the deletion overtakes the reader.
    fill(broker.connection(), &topic, 1, 9000, expected.clone());
    let source = Source::open(settings).unwrap();
    await_available(&source, 50);
    broker.delete_records(&topic, &[8000], DEADLINE).unwrap();
    await_that("the loss is seen", || source.ledger().lost == 8000 - 50);
    let mut trained = Vec::new();
    while trained.len() < 1050 {
        await_available(&source, 1);
        trained.extend(step(&source, 64, 1, &mut expected));
    }
    assert_eq!(trained, (0..50).chain(8000..9000).collect::<Vec<u64>>());
    assert_eq!(kafka.end_offsets(&topic).unwrap(), [source.ledger().arrived]);
}

fn a_deleted_topic_ends_the_stream(broker: &RealBroker) {
    let topic = topic(broker, 1);
    let settings = settings(broker.connection(), &topic, 1);
    fill(broker.connection(), &topic, 1, 100, Numbered::new(settings.samples.sample_bytes(), None));
    let source = Source::open(settings).unwrap();
    await_available(&source, 100);
    broker.delete_topics(&[&topic], DEADLINE).unwrap();
    await_that("the source has failed", || source.failure().is_some());
    let error = source.failure().unwrap();
    assert_eq!(error.exit_code(), ExitCode::TopicLost, "{error}");
    assert!(error.remedy().contains("--resume"), "{}", error.remedy());
}
