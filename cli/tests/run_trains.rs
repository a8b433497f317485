//! `scadles run` with the real worker on the embedded broker: trains, survives what happens to it, accounts for all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use scadles_api::{ExitCode, report::RunReport};
use support::{
    Scratch, assert_balanced, await_some, finish,
    learnable::{Settings, job},
    memory, report, scadles, signal, text, trainer, turn, workers,
};

/// Steps of a run that is broken off after its first checkpoint, of step 10.
const BROKEN_STEPS: u64 = 30;

fn run(job: &Path, folder: &Path) -> Command {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--out").arg(folder);
    command
}

fn resume(job: &Path, folder: &Path) -> Command {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--resume").arg(folder);
    command
}

/// Waits until the run has a checkpoint of a step above 0.
fn await_checkpoint(folder: &Path) {
    await_some("a checkpoint", || memory(folder)?.supervision.checkpoint.filter(|it| it.step > 0));
}

fn kill_worker(folder: &Path, device: &str) {
    let (_, id) = workers(folder).into_iter().find(|(name, _)| name == device).unwrap();
    signal(id, "KILL");
}

fn assert_no_worker_left(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !workers(folder).is_empty() {
        assert!(Instant::now() < deadline, "workers are left: {:?}", workers(folder));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The job is complete, every sample accounted for, all ranks hold the same parameters.
fn assert_complete(child: Child, folder: &Path, steps: u64) -> RunReport {
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = report(folder);
    assert_eq!((report.outcome, report.steps), (ExitCode::Completed, steps));
    assert_balanced(&report);
    assert_eq!(report.parameter_hashes.len(), 3);
    assert!(!report.parameter_hashes[0].is_empty());
    assert!(report.parameter_hashes.iter().all(|hash| *hash == report.parameter_hashes[0]), "{report:?}");
    assert_no_worker_left(folder);
    report
}

fn assert_replays(folder: &Path) {
    let output = finish(scadles(&trainer()).arg("replay").arg(folder).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("equal, bit for bit"), "{}", text(&output));
}

/// On a machine that has one this would train.
#[test]
fn a_run_whose_workers_find_no_gpu_ends_as_a_mistake_of_configuration_and_restarts_nothing() {
    if Path::new("/dev/nvidiactl").exists() {
        eprintln!("left out: this machine has a GPU");
        return;
    }
    let _turn = turn();
    let scratch = Scratch::new("without-a-gpu");
    let file = job(scratch.path(), &Settings::default());
    let folder = scratch.path().join("run");
    let output = finish(run(&file, &folder).args(["--backend", "nccl"]).spawn().unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let report = report(&folder);
    assert_eq!((report.outcome, report.attempts.len()), (ExitCode::Configuration, 1));
    assert!(text(&output).contains("backend Nccl: this process sees no GPU"), "{}", text(&output));
    assert_no_worker_left(&folder);
}

#[test]
fn a_job_trains_to_its_end_and_its_results_can_be_checked() {
    let _turn = turn();
    let scratch = Scratch::new("run-complete");
    let folder = scratch.path().join("run");
    let settings = Settings::default();
    let child = run(&job(scratch.path(), &settings), &folder).arg("--trace").spawn().unwrap();
    let report = assert_complete(child, &folder, settings.steps);
    let weights: f64 = report.devices.iter().map(|device| device.weight_mean).sum();
    assert!((weights - 1.0).abs() < 1e-6, "{weights}");
    let shares: Vec<f64> = report.devices.iter().map(|device| device.weight_mean).collect();
    assert!(shares[0] > shares[1] && shares[1] > shares[2], "weights follow the rates: {shares:?}");
    let top_1 = report.accuracy.last().unwrap().top_1().unwrap();
    assert!(top_1 > 0.8, "Top-1 {top_1}");
    for name in ["report.html", "steps.csv", "model.safetensors", "job.json", "checkpoints", "journal"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    let trace = std::fs::read_to_string(folder.join("trace.json")).unwrap();
    for device in ["device-0", "device-1", "device-2"] {
        assert!(trace.contains(&format!(r#""args":{{"name":"{device}"}}"#)), "{device} is in the trace");
    }
    assert_replays(&folder);
    let output = finish(scadles(&trainer()).arg("evaluate").arg(&folder).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("Top-1"), "{}", text(&output));
}

#[test]
fn the_papers_rule_and_truncation_account_for_dropped_samples() {
    let _turn = turn();
    let scratch = Scratch::new("run-truncation");
    let folder = scratch.path().join("run");
    let settings = Settings { policy: "Truncation", rule: "StreamRate", steps: 8, ..Settings::default() };
    let child = run(&job(scratch.path(), &settings), &folder).spawn().unwrap();
    assert_complete(child, &folder, settings.steps);
}

fn a_killed_worker_is_replaced(device: &str) {
    let _turn = turn();
    let scratch = Scratch::new(&format!("run-killed-{device}"));
    let folder = scratch.path().join("run");
    let settings = Settings { steps: BROKEN_STEPS, ..Settings::default() };
    let child = run(&job(scratch.path(), &settings), &folder).spawn().unwrap();
    await_checkpoint(&folder);
    kill_worker(&folder, device);
    let report = assert_complete(child, &folder, settings.steps);
    assert_eq!(report.attempts.len(), 2, "{:?}", report.attempts);
    assert_eq!(report.attempts[0].first_cause.as_deref(), Some(device), "{:?}", report.attempts);
    assert_replays(&folder);
}

#[test]
fn the_job_completes_although_rank_0_is_killed() {
    a_killed_worker_is_replaced("device-0");
}

#[test]
fn the_job_completes_although_rank_2_is_killed() {
    a_killed_worker_is_replaced("device-2");
}

#[test]
fn no_worker_outlives_a_killed_runner_and_the_model_goes_on_with_new_streams() {
    let _turn = turn();
    let scratch = Scratch::new("run-orphans");
    let folder = scratch.path().join("run");
    let settings = Settings { steps: BROKEN_STEPS, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let mut child = run(&file, &folder).spawn().unwrap();
    await_checkpoint(&folder);
    signal(child.id(), "KILL");
    child.wait().unwrap();
    assert_no_worker_left(&folder);
    let report = assert_complete(resume(&file, &folder).spawn().unwrap(), &folder, settings.steps);
    assert_eq!(report.attempts.len(), 2, "{:?}", report.attempts);
    assert!(report.attempts[1].from_step >= 10, "{:?}", report.attempts);
}

#[test]
fn ctrl_c_saves_everything_and_the_run_goes_on_where_it_stopped() {
    let _turn = turn();
    let scratch = Scratch::new("run-interrupt");
    let folder = scratch.path().join("run");
    let settings = Settings { steps: BROKEN_STEPS, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let child = run(&file, &folder).spawn().unwrap();
    await_checkpoint(&folder);
    signal(child.id(), "INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let stopped = report(&folder);
    assert_balanced(&stopped);
    assert_eq!(memory(&folder).unwrap().supervision.checkpoint.unwrap().step, stopped.steps);
    let report = assert_complete(resume(&file, &folder).spawn().unwrap(), &folder, settings.steps);
    assert_eq!(report.attempts[1].from_step, stopped.steps, "{:?}", report.attempts);
}
