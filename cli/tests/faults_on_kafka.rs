//! Faults of whole runs on a real Kafka: everything is killed once in one run, and foreign records are in the topics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use scadles_api::ExitCode;
use scadles_kafka::testing::RealKafka;
use support::{
    Scratch,
    account::{assert_replays, assert_seen_from_outside, completed, samples_in_journal},
    assert_balanced, await_some, finish,
    learnable::{Settings, job},
    memory, report,
    running::{Running, tailored},
    scadles, text, trainer, turn,
};

fn run(job: &Path, folder: &Path, kafka: &RealKafka, how: &str) -> Running {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--kafka").arg(kafka.servers()).arg(how).arg(folder);
    Running::start(command, folder)
}

#[test]
fn rank_0_another_rank_the_broker_and_the_runner_are_killed_and_no_sample_is_lost() {
    let _turn = turn();
    let scratch = Scratch::new("faults-everything");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "everything", steps: 100, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let mut kafka = RealKafka::start().unwrap();
    let first = run(&file, &folder, &kafka, "--out");
    first.await_checkpoint();
    first.signal_worker("device-0", "KILL");
    first.await_training(2);
    first.signal_worker("device-2", "KILL");
    first.await_training(3);
    // Gone for longer than a worker's heartbeats and a look at the offsets.
    kafka.kill().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    kafka.restart().unwrap();
    let step = memory(&folder).unwrap().supervision.last_step;
    await_some("steps with the restarted broker", || {
        (memory(&folder)?.supervision.last_step > step + 20).then_some(())
    });
    first.kill();
    run(&file, &folder, &kafka, "--resume").ends_with(0);
    let report = completed(&folder, settings.steps);
    let causes: Vec<Option<&str>> =
        report.attempts.iter().map(|attempt| attempt.first_cause.as_deref()).collect();
    assert_eq!(causes, [Some("device-0"), Some("device-2"), None, None], "{:?}", report.attempts);
    assert!(report.attempts[2].ended.contains("its supervisor ended"), "{:?}", report.attempts);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    for (device, journalled) in report.devices.iter().zip(samples_in_journal(&folder, report.devices.len())) {
        assert_eq!(device.rolled_back, journalled - device.trained, "{device:?}");
        assert!(device.rolled_back > 0, "{device:?}");
        assert_eq!((device.dropped, device.rejected, device.lost), (0, 0, 0), "{device:?}");
    }
    assert_replays(&folder);
}

/// Topics of somebody else: real records for three seconds, then `foreign` numbers as text in the first topic.
fn topics_with_foreign_records(
    kafka: &RealKafka,
    scratch: &Scratch,
    settings: &Settings,
    changes: &[(&str, &str)],
    foreign: usize,
) -> PathBuf {
    for device in 0..3 {
        let topic = format!("default.{}.device-{device}", settings.name);
        kafka.kafka_tool("kafka-topics", &["--create", "--topic", &topic, "--partitions", "1"]).unwrap();
    }
    let servers = kafka.servers();
    let external =
        format!("spec:\n  kafka: {{bootstrapServers: '{servers}', topics: {{management: External}}}}");
    let mut all = vec![("spec:", external.as_str()), ("policy: ", "startFrom: Earliest, policy: ")];
    all.extend_from_slice(changes);
    let file = tailored(scratch, settings, &all);
    let mut produce = scadles(&trainer());
    produce.arg("produce").arg(&file).args(["--seconds", "3"]);
    let output = finish(produce.spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let topic = format!("default.{}.device-0", settings.name);
    let count = foreign.to_string();
    kafka.kafka_tool("kafka-verifiable-producer", &["--topic", &topic, "--max-messages", &count]).unwrap();
    file
}

#[test]
fn foreign_records_are_counted_and_skipped_and_the_run_still_replays() {
    let _turn = turn();
    let scratch = Scratch::new("faults-foreign");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "foreign", steps: 24, ..Settings::default() };
    let kafka = RealKafka::start().unwrap();
    let changes = [("policy: ", "maxRejectedShare: 0.2, policy: ")];
    let file = topics_with_foreign_records(&kafka, &scratch, &settings, &changes, 30);
    run(&file, &folder, &kafka, "--out").ends_with(0);
    let report = report(&folder);
    let rejected: Vec<u64> = report.devices.iter().map(|device| device.rejected).collect();
    assert_eq!(rejected, [30, 0, 0]);
    assert_seen_from_outside(&report, settings.name, |topic| kafka.end_offsets(topic).unwrap());
    assert_replays(&folder);
}

#[test]
fn too_many_foreign_records_end_the_job_and_name_device_field_and_reason() {
    let _turn = turn();
    let scratch = Scratch::new("faults-too-many");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "too-many", steps: 100_000, ..Settings::default() };
    let kafka = RealKafka::start().unwrap();
    let file = topics_with_foreign_records(&kafka, &scratch, &settings, &[], 300);
    let said = text(&run(&file, &folder, &kafka, "--out").ends_with(7));
    for part in ["device-0", "spec.stream.maxRejectedShare", "could not be decoded"] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    let report = report(&folder);
    assert_eq!((report.outcome, report.attempts.len()), (ExitCode::TooManyRejected, 1));
    assert_eq!(report.attempts[0].first_cause.as_deref(), Some("device-0"), "{:?}", report.attempts);
    assert_balanced(&report);
}
