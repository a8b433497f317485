//! `scadles tune` on live runs with the real worker: what it says, what it refuses, and what becomes of the run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use scadles_api::{Tuned, report::RunReport};
use support::{
    Scratch, assert_balanced, await_some, finish,
    learnable::{Settings, job},
    memory, report,
    running::{Running, tailored},
    scadles, text, trainer, turn,
};

const INJECTION: &str = "{mode: Move, optIn: All, donorFraction: 0.3, sharedFraction: 0.5}";

/// A job that compresses and shares, of so many steps.
fn tunable(scratch: &Scratch, steps: u64) -> PathBuf {
    let settings = Settings { name: "tuned", steps, injection: INJECTION, ..Settings::default() };
    let compressed = [("  checkpoint:", "  compression: {mode: Static, ratio: 0.2}\n  checkpoint:")];
    tailored(scratch, &settings, &compressed)
}

fn run(job: &Path, folder: &Path) -> Running {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--out").arg(folder);
    Running::start(command, folder)
}

fn resume(job: &Path, folder: &Path) -> Running {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--resume").arg(folder);
    Running::start(command, folder)
}

fn tune(folder: &Path, flags: &[&str]) -> Output {
    let mut command: Command = scadles(&trainer());
    finish(command.arg("tune").arg(folder).args(flags).spawn().unwrap())
}

/// Tunes, and the line that says what came of it.
fn tuned(folder: &Path, flags: &[&str]) -> String {
    let output = tune(folder, flags);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn refused(folder: &Path, flags: &[&str]) -> String {
    let output = tune(folder, flags);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    text(&output)
}

fn ratios(tunings: &[Tuned]) -> Vec<f64> {
    tunings.iter().map(|tuned| tuned.tuning.compression.unwrap().ratio).collect()
}

fn assert_replays(folder: &Path) {
    let output = finish(scadles(&trainer()).arg("replay").arg(folder).spawn().unwrap());
    assert!(text(&output).contains("equal, bit for bit"), "{}", text(&output));
}

/// A run that was tuned has the steps that it was asked for, and says what held when.
fn assert_ended_well(folder: &Path, steps: u64) -> RunReport {
    let report = report(folder);
    assert_eq!(report.steps, steps);
    assert_balanced(&report);
    assert!(report.parameter_hashes.iter().all(|hash| *hash == report.parameter_hashes[0]), "{report:?}");
    assert_replays(folder);
    report
}

#[test]
fn a_live_run_is_tuned_at_a_step_that_is_told_and_survives_the_loss_of_a_worker() {
    let _turn = turn();
    let scratch = Scratch::new("tune-live");
    let folder = scratch.path().join("run");
    let run = run(&tunable(&scratch, 120), &folder);
    run.await_checkpoint();
    let shown = tuned(&folder, &[]);
    assert!(shown.contains("since step 1\n") && shown.contains("spec.compression.ratio = 0.2"), "{shown}");

    let said = tuned(&folder, &["--ratio", "0.05", "--shared-fraction", "0.25"]);
    let changed = "spec.compression.ratio 0.2 → 0.05, spec.injection.sharedFraction 0.5 → 0.25";
    let step = said.strip_prefix("step ").unwrap().strip_suffix(&format!(": {changed}")).unwrap();
    let step: u64 = step.parse().unwrap_or_else(|_| unreachable!("{said}"));
    assert!(tuned(&folder, &["--ratio", "0.05"]).starts_with("nothing to change"), "it holds already");
    let wrong = refused(&folder, &["--ratio", "0", "--shared-fraction", "0.0001"]);
    for part in ["spec.compression.ratio = 0", "spec.injection.sharedFraction = 0.0001", "remedy:"] {
        assert!(wrong.contains(part), "{wrong}");
    }

    let known = memory(&folder).unwrap().tunings;
    assert_eq!((ratios(&known), known[1].step), (vec![0.2, 0.05], step));
    run.signal_worker("device-1", "KILL");
    run.await_training(2);
    let said = tuned(&folder, &["--mode", "Adaptive", "--delta", "0.9"]);
    assert!(
        said.contains("spec.compression.mode Static → Adaptive, spec.compression.delta none → 0.9"),
        "{said}"
    );
    let output = run.ends_with(0);
    let told = text(&output);
    assert!(told.contains(&format!("step {step}: {changed}, on all ranks")), "{told}");
    assert!(told.contains("tuned while it ran; until then it was as the job file says:"), "{told}");

    let report = assert_ended_well(&folder, 120);
    assert_eq!(ratios(&report.tunings), [0.2, 0.05, 0.05]);
    assert_eq!((report.attempts.len(), report.tunings[2].tuning.compression.unwrap().delta), (2, Some(0.9)));
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("The job was tuned while it ran"), "{page}");
    assert!(refused(&folder, &["--ratio", "0.1"]).contains("no `scadles run` uses this run folder now"));
}

#[test]
fn a_resumed_run_goes_on_as_it_was_tuned_unless_its_job_file_says_something_new() {
    let _turn = turn();
    let scratch = Scratch::new("tune-resume");
    let folder = scratch.path().join("run");
    let file = tunable(&scratch, 400);
    let first = run(&file, &folder);
    first.await_checkpoint();
    tuned(&folder, &["--ratio", "0.05"]);
    first.interrupt();

    let second = resume(&file, &folder);
    second.await_training(2);
    assert!(tuned(&folder, &[]).contains("spec.compression.ratio = 0.05"), "as it was tuned");
    let told = text(&second.interrupt());
    assert!(told.contains("tuned: spec.compression.ratio 0.2 → 0.05"), "{told}");

    let edited = std::fs::read_to_string(&file).unwrap().replace("ratio: 0.2", "ratio: 0.1");
    std::fs::write(&file, edited.replace("maxSteps: 400", "maxSteps: 1")).unwrap();
    let third = resume(&file, &folder);
    let told = text(&third.ends_with(0));
    assert!(told.contains("the job file says something else by now"), "{told}");

    std::fs::write(&file, edited.replace("maxSteps: 400", "maxSteps: 100000")).unwrap();
    let fourth = resume(&file, &folder);
    await_some("the job file's ratio", || {
        (memory(&folder)?.tunings.last()?.tuning.compression?.ratio > 0.09).then_some(())
    });
    let told = tuned(&folder, &["--donor-fraction", "1"]);
    assert!(told.contains("spec.injection.donorFraction 0.3 → 1"), "{told}");
    assert!(!told.contains("ratio"), "the job file has the last word on it: {told}");
    fourth.interrupt();
    let report = report(&folder);
    assert_eq!(ratios(&report.tunings), [0.2, 0.05, 0.1, 0.1]);
    assert_replays(&folder);
}

#[test]
fn a_run_without_compression_and_injection_says_what_to_do() {
    let _turn = turn();
    let scratch = Scratch::new("tune-nothing");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "plain", steps: 100_000, ..Settings::default() };
    let run = run(&job(scratch.path(), &settings), &folder);
    run.await_first_step();
    let wrong = refused(&folder, &["--ratio", "0.1", "--donor-fraction", "0.5"]);
    for part in [
        "spec.compression\n  problem: the job began without compression",
        "spec.injection\n  problem: the job began without injection, so no device may share",
        "go on with --resume",
    ] {
        assert!(wrong.contains(part), "{wrong}");
    }
    assert!(tuned(&folder, &[]).contains("no settings that can be tuned"));
    run.interrupt();
    let nowhere = refused(scratch.path(), &["--ratio", "0.1"]);
    assert!(nowhere.contains("name the folder of a run that lives"), "{nowhere}");
}
