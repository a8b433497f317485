//! `scadles run --backend mpi`: the workers as ranks that `mpiexec` starts. A test program whose name ends in `_with_mpi`
//! needs Open MPI or MPICH, and a worker that was built with the feature `mpi`; see `scripts/test.sh`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use scadles_api::{ExitCode, report::RunReport};
use support::{
    Scratch, assert_balanced, finish,
    learnable::{Settings, job},
    report,
    running::Running,
    scadles, signal, text, trainer, turn, workers,
};

fn run(job: &Path, folder: &Path, backend: &str) -> Command {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).args(["--plain", "--backend", backend, "--out"]).arg(folder);
    command
}

/// Processes of a run, by a word of their command lines: `mpiexec` names all keepers, and these the run's folder.
fn processes(folder: &Path, named: impl Fn(&str) -> bool) -> Vec<u32> {
    let folder = folder.canonicalize().unwrap().display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let program = line.split('\0').next().unwrap_or_default();
        if line.contains(&format!("{folder}/workers")) && named(program) {
            found.push(id);
        }
    }
    found
}

/// Neither workers nor keepers nor `mpiexec`.
fn assert_nobody_left(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes(folder, |_| true).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", processes(folder, |_| true));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn assert_complete(folder: &Path, settings: &Settings) -> RunReport {
    let report = report(folder);
    assert_eq!((report.outcome, report.steps), (ExitCode::Completed, settings.steps));
    assert_balanced(&report);
    assert!(!report.parameter_hashes[0].is_empty());
    assert!(report.parameter_hashes.iter().all(|hash| *hash == report.parameter_hashes[0]), "{report:?}");
    assert_nobody_left(folder);
    report
}

#[test]
fn a_job_over_mpi_has_the_bits_of_the_same_job_over_gloo() {
    let _turn = turn();
    let scratch = Scratch::new("mpi-bits");
    let settings = Settings { rule: "{rule: Fixed, fixed: {size: 4}}", steps: 20, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let hash = |backend: &str| {
        let folder = scratch.path().join(backend);
        Running::start(run(&file, &folder, backend), &folder).ends_with(0);
        assert_complete(&folder, &settings).parameter_hashes[0].clone()
    };
    assert_eq!(hash("mpi"), hash("gloo"));
}

/// A run that loses something after a checkpoint goes on in a second attempt, which a replay confirms.
fn a_run_that_loses(name: &str, lose: impl FnOnce(&Running, &Path)) -> RunReport {
    let _turn = turn();
    let scratch = Scratch::new(name);
    let folder = scratch.path().join("run");
    let settings = Settings { steps: 30, ..Settings::default() };
    let run = Running::start(run(&job(scratch.path(), &settings), &folder, "mpi"), &folder);
    run.await_checkpoint();
    lose(&run, &folder);
    run.ends_with(0);
    let report = assert_complete(&folder, &settings);
    assert_eq!(report.attempts.len(), 2, "{:?}", report.attempts);
    let replay = finish(scadles(&trainer()).arg("replay").arg(&folder).spawn().unwrap());
    assert!(text(&replay).contains("equal, bit for bit"), "{}", text(&replay));
    report
}

#[test]
fn a_killed_worker_is_named_and_its_job_completes_with_a_new_mpiexec() {
    let report = a_run_that_loses("mpi-worker", |run, _| run.signal_worker("device-1", "KILL"));
    let end = &report.attempts[0];
    assert_eq!(end.first_cause.as_deref(), Some("device-1"), "{end:?}");
    assert!(end.ended.contains("killed by signal 9"), "{end:?}");
}

#[test]
fn the_job_completes_although_mpiexec_is_killed() {
    a_run_that_loses("mpi-mpiexec", |_, folder| {
        let [mpiexec] = processes(folder, |program| program.contains("mpiexec"))[..] else { unreachable!() };
        signal(mpiexec, "KILL");
    });
}

#[test]
fn nobody_outlives_a_killed_runner() {
    let _turn = turn();
    let scratch = Scratch::new("mpi-orphans");
    let folder = scratch.path().join("run");
    let run = Running::start(run(&job(scratch.path(), &Settings::default()), &folder, "mpi"), &folder);
    run.await_checkpoint();
    assert_eq!(workers(&folder).len(), 3);
    run.kill();
    assert_nobody_left(&folder);
}

#[test]
fn an_mpiexec_that_starts_nothing_is_told_with_what_to_do() {
    let _turn = turn();
    let scratch = Scratch::new("mpi-none");
    let file = job(scratch.path(), &Settings::default());
    for (program, told) in [
        ("/nowhere/mpiexec", "mpiexec (/nowhere/mpiexec) cannot be started"),
        ("false", "mpiexec ended with exit status: 1 and started no worker"),
    ] {
        let folder = scratch.path().join(program.replace('/', "-"));
        let output = finish(run(&file, &folder, "mpi").env("MPIEXEC", program).spawn().unwrap());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(told), "{}", text(&output));
        assert!(text(&output).contains("MPIEXEC"), "{}", text(&output));
    }
}

#[test]
fn an_mpiexec_of_another_mpi_is_told_with_what_to_do() {
    let _turn = turn();
    let scratch = Scratch::new("mpi-other");
    let folder = scratch.path().join("run");
    // Starts what it is told to, each part by itself: what the mpiexec of a library that the worker does not have amounts to.
    let script = "#!/bin/sh\nwhile [ $# -gt 0 ]; do shift 2; \"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" & shift 7; \
                  [ $# -eq 0 ] || shift; done; wait\n";
    let program = scratch.file("mpiexec", script);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let file = job(scratch.path(), &Settings::default());
    let output = finish(run(&file, &folder, "mpi").env("MPIEXEC", &program).spawn().unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("this process is rank 0 of 1 in the world of"), "{}", text(&output));
    assert!(text(&output).contains("MPIEXEC"), "{}", text(&output));
    assert_nobody_left(&folder);
}
