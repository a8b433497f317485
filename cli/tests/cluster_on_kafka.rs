//! `scadles run` on a Kafka of three brokers, one of which is killed while it leads partitions of the job.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use scadles_kafka::testing::RealCluster;
use support::{
    Scratch,
    account::{assert_each_sample_was_trained_once, assert_replays, assert_seen_from_outside, completed},
    await_some,
    learnable::Settings,
    memory,
    running::{Running, tailored},
    scadles, trainer,
};

/// Waits until the group has taken some more steps.
fn await_steps(folder: &Path) {
    let step = memory(folder).unwrap().supervision.last_step;
    await_some("more steps", || (memory(folder)?.supervision.last_step > step + 10).then_some(()));
}

#[test]
fn the_death_of_a_leading_broker_costs_neither_a_sample_nor_a_restart() {
    let scratch = Scratch::new("cluster");
    let folder = scratch.path().join("run");
    let settings = Settings {
        name: "cluster",
        rule: "{rule: StreamRate, windowSeconds: 0.25}",
        steps: 150,
        ..Settings::default()
    };
    let mut kafka = RealCluster::start().unwrap();
    let topics = "topics: {partitions: 3, replicationFactor: 3, config: {min.insync.replicas: '2'}}";
    let spec = format!("spec:\n  kafka: {{bootstrapServers: '{}', {topics}}}", kafka.servers());
    let file = tailored(&scratch, &settings, &[("spec:", spec.as_str())]);
    let mut command = scadles(&trainer());
    command.arg("run").arg(&file).arg("--plain").arg("--out").arg(&folder);
    let running = Running::start(command, &folder);

    running.await_checkpoint();
    let leader = kafka.leader("default.cluster.device-0", 0).unwrap();
    kafka.kill(leader).unwrap();
    await_steps(&folder);
    assert_ne!(kafka.leader("default.cluster.device-0", 0).unwrap(), leader);
    kafka.restart(leader).unwrap();
    await_steps(&folder);
    running.ends_with(0);

    let report = completed(&folder, settings.steps);
    assert_eq!(report.attempts.len(), 1, "{:?}", report.attempts);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    assert_each_sample_was_trained_once(&folder, &report);
    assert_replays(&folder);
}
