//! The suite on the embedded broker, and what only it has: limits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

mod suite;

use std::sync::OnceLock;

use scadles_kafka::{Broker, EmbeddedBroker, Error, OffsetWatcher, ProducerOptions};
use suite::{DEADLINE, conformance};

fn broker() -> &'static dyn Broker {
    static BROKER: OnceLock<EmbeddedBroker> = OnceLock::new();
    BROKER.get_or_init(|| EmbeddedBroker::start().unwrap())
}

conformance!(broker());

#[test]
fn what_it_cannot_do_is_said_in_one_line_that_points_to_a_real_kafka() {
    for error in [
        broker().delete_topics(&["t"], DEADLINE).unwrap_err(),
        broker().delete_records("t", &[1], DEADLINE).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains("--kafka HOST:PORT"), "{error}");
    }
}

#[test]
fn no_record_is_found_by_its_time() {
    let topic = suite::topic(broker(), 1);
    suite::send(broker(), &topic, 1, 10);
    let mut watcher = OffsetWatcher::new(broker().connection(), &topic, DEADLINE).unwrap();
    watcher.poll(DEADLINE).unwrap();
    assert_eq!(watcher.find_time(0, DEADLINE).unwrap(), [10]);
}

#[test]
fn within_the_budget_the_broker_drops_no_record_that_a_restart_needs() {
    let topic = suite::topic(broker(), 1);
    let budget = broker().limits().budget_bytes_per_partition;
    let options = ProducerOptions { budget_bytes_per_partition: budget, ..ProducerOptions::default() };
    let producer = suite::start(broker(), vec![suite::stream(&topic, 1, suite::AT_ONCE, None)], options);
    let mut durable = 0;
    // Three times what the broker keeps, a checkpoint whenever the stream waits for one.
    while durable < 5000 {
        suite::await_that("the stream waits", || {
            let now = &producer.statistics()[0];
            now.waiting_since.is_some() && now.delivered == now.sent
        });
        let reach = broker().describe(&topic, DEADLINE).unwrap()[0];
        assert!(reach.low <= durable, "records {durable}..{} are gone and were still needed", reach.low);
        durable = reach.end - 100;
        producer.set_durable_offsets(0, &[durable]);
        let sent = producer.statistics()[0].sent;
        suite::await_that("the stream goes on", || producer.statistics()[0].sent > sent);
    }
    producer.stop(DEADLINE).unwrap();
}
