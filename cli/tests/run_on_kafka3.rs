//! `scadles run` on Kafka 3.9 with `ZooKeeper`, the oldest brokers that are tried.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use scadles_kafka::testing::RealKafka;
use support::{
    Scratch,
    account::{assert_each_sample_was_trained_once, assert_replays, assert_seen_from_outside, completed},
    learnable::{Settings, job},
    running::Running,
    scadles, trainer,
};

#[test]
fn a_whole_run_accounts_for_every_sample_and_replays() {
    let scratch = Scratch::new("kafka3");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "kafka3", ..Settings::default() };
    let kafka = RealKafka::start_with_zookeeper().unwrap();
    let mut command = scadles(&trainer());
    command.arg("run").arg(job(scratch.path(), &settings)).arg("--plain");
    command.arg("--kafka").arg(kafka.servers()).arg("--out").arg(&folder);
    Running::start(command, &folder).ends_with(0);
    let report = completed(&folder, settings.steps);
    assert_eq!(report.attempts.len(), 1, "{:?}", report.attempts);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    assert_each_sample_was_trained_once(&folder, &report);
    assert_replays(&folder);
}
