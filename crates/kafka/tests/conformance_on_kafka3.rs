//! The suite on Kafka 3.9 with `ZooKeeper`, the oldest brokers that are tried.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

mod suite;

use std::sync::OnceLock;

use scadles_kafka::testing::RealKafka;
use scadles_kafka::{Broker, RealBroker};
use suite::{DEADLINE, conformance};

fn kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start_with_zookeeper().unwrap_or_else(|error| panic!("{error}")))
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
