//! `scadles run` on a real Kafka: the account of samples as Kafka's own tools see it, through kills of everything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{path::Path, process::Command, sync::OnceLock};

use scadles_api::{ExitCode, report::RunReport};
use scadles_kafka::testing::RealKafka;
use support::{
    Scratch,
    account::{assert_replays, assert_seen_from_outside, completed},
    await_some, finish,
    learnable::{Settings, job},
    memory, report, scadles, signal, text, trainer, turn, workers,
};

/// A broker for all tests that leave it alive.
fn shared_kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start().unwrap())
}

fn run(job: &Path, folder: &Path, kafka: &RealKafka, how: &str) -> Command {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--kafka").arg(kafka.servers()).arg(how).arg(folder);
    command
}

fn await_checkpoint(folder: &Path) {
    await_some("a checkpoint", || memory(folder)?.supervision.checkpoint.filter(|it| it.step > 0));
}

fn finished(child: std::process::Child, folder: &Path, settings: &Settings) -> RunReport {
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    completed(folder, settings.steps)
}

fn the_account_holds_over_a_restart_of_the_broker(settings: &Settings) {
    let _turn = turn();
    let scratch = Scratch::new(settings.name);
    let folder = scratch.path().join("run");
    let mut kafka = RealKafka::start().unwrap();
    let child = run(&job(scratch.path(), settings), &folder, &kafka, "--out").spawn().unwrap();
    await_checkpoint(&folder);
    kafka.kill().unwrap();
    kafka.restart().unwrap();
    let report = finished(child, &folder, settings);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    assert_replays(&folder);
}

#[test]
fn the_account_under_persistence_agrees_with_the_brokers_own_offsets_over_its_restart() {
    let settings = Settings { name: "persistence", steps: 40, ..Settings::default() };
    the_account_holds_over_a_restart_of_the_broker(&settings);
}

#[test]
fn the_account_under_truncation_agrees_with_the_brokers_own_offsets_over_its_restart() {
    let settings = Settings {
        name: "truncation",
        policy: "Truncation",
        rule: "{rule: StreamRate, windowSeconds: 0.25}",
        steps: 40,
        ..Settings::default()
    };
    the_account_holds_over_a_restart_of_the_broker(&settings);
}

#[test]
fn a_killed_worker_and_a_killed_runner_cost_no_sample() {
    let _turn = turn();
    let scratch = Scratch::new("kafka-kills");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "kills", steps: 50, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let kafka = shared_kafka();
    let mut child = run(&file, &folder, kafka, "--out").spawn().unwrap();
    await_checkpoint(&folder);
    let (_, id) = workers(&folder).remove(1);
    signal(id, "KILL");
    await_some("attempt 2", || {
        let supervision = memory(&folder)?.supervision;
        (supervision.attempt == 2 && supervision.first_step_at.is_some()).then_some(())
    });
    signal(child.id(), "KILL");
    child.wait().unwrap();
    let child = run(&file, &folder, kafka, "--resume").spawn().unwrap();
    let report = finished(child, &folder, &settings);
    assert_eq!(report.attempts.len(), 3, "{:?}", report.attempts);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    assert_replays(&folder);
}

#[test]
fn a_topic_deleted_in_mid_run_ends_the_job_and_names_the_topic() {
    let _turn = turn();
    let scratch = Scratch::new("kafka-deleted");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "deleted", steps: 100_000, ..Settings::default() };
    let kafka = shared_kafka();
    let child = run(&job(scratch.path(), &settings), &folder, kafka, "--out").spawn().unwrap();
    await_checkpoint(&folder);
    kafka.kafka_tool("kafka-topics", &["--delete", "--topic", "default.deleted.device-1"]).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(11), "{}", text(&output));
    assert!(text(&output).contains("default.deleted.device-1"), "{}", text(&output));
    assert_eq!(report(&folder).outcome, ExitCode::TopicLost);
}

#[test]
fn a_topic_that_must_exist_and_does_not_is_named_before_anything_starts() {
    let scratch = Scratch::new("kafka-missing");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "missing", ..Settings::default() };
    let kafka = shared_kafka();
    let file = job(scratch.path(), &settings);
    let external = std::fs::read_to_string(&file).unwrap()
        + &format!(
            "  kafka: {{bootstrapServers: '{}', topics: {{management: External}}}}\n",
            kafka.servers()
        );
    std::fs::write(&file, external).unwrap();
    let output = finish(run(&file, &folder, kafka, "--out").spawn().unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("default.missing.device-0"), "{}", text(&output));
}
