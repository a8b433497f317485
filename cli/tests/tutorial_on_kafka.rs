//! The book's page about streams of one's own, typed as it stands there, with a real Kafka in the place of its address.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use scadles_api::ExitCode;
use scadles_kafka::testing::RealKafka;
use support::{Scratch, assert_balanced, book::Reader, report};

#[test]
fn a_newcomer_trains_on_topics_of_their_own() {
    let scratch = Scratch::new("tutorial-kafka");
    let kafka = RealKafka::start().unwrap();
    let instead = vec![("localhost:9092", kafka.servers())];
    Reader { folder: scratch.path(), instead }.follow("docs/tutorial/your-streams.md");
    let report = report(&scratch.path().join("runs/cameras"));
    assert_eq!(report.outcome, ExitCode::Completed);
    assert!(report.samples >= 6000, "the resumed run trained {} samples", report.samples);
    assert_balanced(&report);
}
