//! The local body's processes, with a worker that has no model: starts, ends, kills, resumes. See also `run_*.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use scadles_api::ExitCode;
use support::{Scratch, await_some, fake_worker, finish, memory, report, scadles, signal, text, workers};

/// Three devices, records of four bytes out of a file, `steps` steps of 50 ms.
fn job(scratch: &Scratch, steps: u64) -> PathBuf {
    let records: Vec<u8> = (0..40u8).flat_map(|index| [index % 10].into_iter().chain([index; 64])).collect();
    std::fs::write(scratch.path().join("records.bin"), records).unwrap();
    scratch.file(
        "job.yaml",
        &format!(
            "apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {{name: body}}
spec:
  model: {{name: Mlp, numClasses: 10, inputShape: [1, 8, 8]}}
  devices: {{count: 3}}
  stream: {{batch: {{rule: LineRate, max: 64}}, transform: {{mean: [0.5], std: [0.25]}}}}
  producer:
    dataset: {{name: Files, files: {{path: {}}}}}
    rates: {{constant: 50}}
  checkpoint: {{everySteps: 5}}
  completion: {{maxSteps: {steps}}}
  runPolicy: {{maxRestarts: 2, startDeadlineSeconds: 30, stopGraceSeconds: 5}}
",
            scratch.path().join("records.bin").display()
        ),
    )
}

fn run(job: &Path, run_folder: &Path) -> Command {
    let mut command = scadles(&fake_worker());
    command.arg("run").arg(job).arg("--out").arg(run_folder).arg("--plain");
    command
}

/// Waits until the run has taken a step in an attempt.
fn await_training(run_folder: &Path, attempt: u32) {
    await_some("the first step", || {
        let supervision = memory(run_folder)?.supervision;
        (supervision.attempt == attempt && supervision.first_step_at.is_some()).then_some(())
    });
}

fn worker_of(run_folder: &Path, device: &str) -> u32 {
    workers(run_folder).into_iter().find(|(name, _)| name == device).expect("a worker of the device").1
}

fn assert_no_worker_left(run_folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !workers(run_folder).is_empty() {
        assert!(Instant::now() < deadline, "workers are left: {:?}", workers(run_folder));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(command: &mut Command) -> Child {
    command.spawn().unwrap()
}

#[test]
fn a_job_runs_to_its_end_and_leaves_a_report() {
    let scratch = Scratch::new("body-complete");
    let folder = scratch.path().join("run");
    let output = finish(start(&mut run(&job(&scratch, 20), &folder)));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(std::fs::read_to_string(folder.join("report.html")).unwrap().contains("Completed"));
    let report = report(&folder);
    assert_eq!((report.outcome, report.steps, report.attempts.len()), (ExitCode::Completed, 20, 1));
    assert_eq!(report.parameter_hashes, ["0000000000000014"; 3]);
    assert!(folder.join("job.yaml").is_file() && folder.join("job.json").is_file());
    assert_no_worker_left(&folder);
}

#[test]
fn configurations_that_carry_the_token_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("body-secret");
    let folder = scratch.path().join("run");
    let output = finish(start(&mut run(&job(&scratch, 3), &folder)));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let mode = folder.join("workers/device-1.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let config = std::fs::read_to_string(folder.join("workers/device-1.json")).unwrap();
    let token = serde_json::from_str::<scadles_api::WorkerConfig>(&config).unwrap().token;
    assert_eq!(token.len(), 32);
    assert!(!std::fs::read_to_string(folder.join("job.json")).unwrap().contains(&token));
}

#[test]
fn a_killed_worker_leads_to_a_second_attempt_from_the_last_checkpoint() {
    let scratch = Scratch::new("body-killed");
    let folder = scratch.path().join("run");
    let child = start(&mut run(&job(&scratch, 60), &folder));
    await_training(&folder, 1);
    signal(worker_of(&folder, "device-2"), "KILL");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = report(&folder);
    assert_eq!((report.steps, report.attempts.len()), (60, 2), "{:?}", report.attempts);
    assert_eq!(report.attempts[0].first_cause.as_deref(), Some("device-2"), "{:?}", report.attempts);
    assert_eq!(report.attempts[1].from_step % 5, 0);
    assert!(text(&output).contains("device-2 was ended by signal 9; its log: "), "{}", text(&output));
}

#[test]
fn a_worker_that_fails_again_and_again_ends_the_job_with_its_own_words() {
    let scratch = Scratch::new("body-wrong");
    let folder = scratch.path().join("run");
    let output = finish(start(run(&job(&scratch, 60), &folder).env("FAKE_WORKER_END", "device-1:1:7")));
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert_eq!(report(&folder).outcome, ExitCode::TooManyRejected);
    assert!(text(&output).contains("the fake worker of device-1 ended"), "{}", text(&output));
    assert_no_worker_left(&folder);
}

#[test]
fn ctrl_c_stops_after_a_checkpoint_and_writes_the_report() {
    let scratch = Scratch::new("body-interrupt");
    let folder = scratch.path().join("run");
    let child = start(&mut run(&job(&scratch, 10_000), &folder));
    await_training(&folder, 1);
    signal(child.id(), "INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let report = report(&folder);
    assert_eq!(report.outcome, ExitCode::Interrupted);
    let checkpoint = memory(&folder).unwrap().supervision.checkpoint.expect("a checkpoint");
    assert_eq!(checkpoint.step, report.steps, "the checkpoint is of the last step");
    assert_no_worker_left(&folder);
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_writes_the_report_all_the_same() {
    let scratch = Scratch::new("body-twice");
    let folder = scratch.path().join("run");
    let child = start(&mut run(&job(&scratch, 10_000), &folder));
    await_training(&folder, 1);
    // A stopped rank 0 answers no request: without the second signal the run would wait for the grace.
    signal(worker_of(&folder, "device-0"), "STOP");
    signal(child.id(), "INT");
    await_some("the stop", || memory(&folder)?.supervision.stop_requested_at);
    signal(child.id(), "INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!(report(&folder).outcome, ExitCode::Interrupted);
    assert_no_worker_left(&folder);
}

#[test]
fn no_worker_outlives_a_killed_runner_and_the_run_can_be_resumed() {
    let scratch = Scratch::new("body-orphans");
    let (folder, file) = (scratch.path().join("run"), job(&scratch, 60));
    let mut child = start(&mut run(&file, &folder));
    await_training(&folder, 1);
    await_some("a checkpoint", || {
        memory(&folder)?.supervision.checkpoint.filter(|checkpoint| checkpoint.step > 0)
    });
    assert_eq!(workers(&folder).len(), 3);
    signal(child.id(), "KILL");
    child.wait().unwrap();
    assert_no_worker_left(&folder);
    let mut command = scadles(&fake_worker());
    command.arg("run").arg(&file).arg("--resume").arg(&folder).arg("--plain");
    let output = finish(start(&mut command));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = report(&folder);
    assert_eq!((report.steps, report.attempts.len()), (60, 2), "{:?}", report.attempts);
    assert!(report.attempts[1].from_step >= 5, "{:?}", report.attempts);
    assert!(text(&output).contains("the streams start anew"), "{}", text(&output));
}

#[test]
fn two_runners_never_share_a_run_folder() {
    let scratch = Scratch::new("body-shared");
    let (folder, file) = (scratch.path().join("run"), job(&scratch, 10_000));
    let child = start(&mut run(&file, &folder));
    await_training(&folder, 1);
    let mut second = scadles(&fake_worker());
    second.arg("run").arg(&file).arg("--resume").arg(&folder);
    let output = finish(start(&mut second));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("another `scadles run` is using the run folder"), "{}", text(&output));
    signal(child.id(), "INT");
    assert_eq!(finish(child).status.code(), Some(130));
}

#[test]
fn a_complete_run_is_not_resumed_unless_the_job_asks_for_more() {
    let scratch = Scratch::new("body-more");
    let (folder, file) = (scratch.path().join("run"), job(&scratch, 5));
    assert_eq!(finish(start(&mut run(&file, &folder))).status.code(), Some(0));
    let resume = |file: &Path| {
        finish(start(scadles(&fake_worker()).arg("run").arg(file).arg("--resume").arg(&folder)))
    };
    let refused = resume(&file);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("raise spec.completion"), "{}", text(&refused));
    assert_eq!(resume(&job(&scratch, 8)).status.code(), Some(0));
    assert_eq!(report(&folder).steps, 8);
}

#[test]
fn a_run_folder_that_can_no_longer_be_written_ends_the_job_with_workers_stopped() {
    let scratch = Scratch::new("body-full");
    let folder = scratch.path().join("run");
    let child = start(&mut run(&job(&scratch, 10_000), &folder));
    await_training(&folder, 1);
    // Stands in for a full disk, which a test cannot make for itself alone: the next save finds no place.
    std::fs::create_dir(folder.join("supervision.json.partial")).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("supervision.json cannot be written"), "{}", text(&output));
    assert_eq!(report(&folder).outcome, ExitCode::StorageFailed);
    assert!(std::fs::read_to_string(folder.join("report.html")).unwrap().contains("StorageFailed"));
    assert_no_worker_left(&folder);
}
