//! A job that brings its own network, a TorchScript file, through every command that knows a model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use scadles_api::ExitCode;
use support::{
    Scratch, finish,
    learnable::{Settings, job},
    report, scadles, text, trainer, turn,
};

const STEPS: u64 = 12;
/// Batches that do not depend on time: live and virtual runs have the same bits.
const RULE: &str = "{rule: Fixed, fixed: {size: 16}}";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/torch_script").join(name)
}

/// A job of a network in `net.pt` beside it.
fn own_job(folder: &Path, net: &str) -> PathBuf {
    std::fs::copy(fixture(net), folder.join("net.pt")).unwrap();
    let file = job(folder, &Settings { name: "own", rule: RULE, steps: STEPS, ..Settings::default() });
    let builtin = std::fs::read_to_string(&file).unwrap();
    let own = builtin.replace("name: Mlp,", "name: TorchScript, torchScript: {path: net.pt},");
    assert_ne!(own, builtin);
    std::fs::write(&file, own).unwrap();
    file
}

/// Runs the program elsewhere than in the job's folder.
fn output(arguments: &[&str], paths: &[&Path]) -> Output {
    finish(scadles(&trainer()).args(arguments).args(paths).spawn().unwrap())
}

fn assert_ends(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    for part in parts {
        assert!(text(output).contains(part), "`{part}` is missing in: {}", text(output));
    }
}

#[test]
fn an_own_network_is_planned_run_evaluated_replayed_resumed_and_simulated() {
    let _turn = turn();
    let scratch = Scratch::new("own-model");
    let file = own_job(scratch.path(), "residual.pt");
    let [live, simulated] = ["live", "virtual"].map(|name| scratch.path().join(name));
    let parameters = "TorchScript, 2 250 parameters, 3 devices";
    assert_ends(&output(&["plan"], &[&file]), 0, &[parameters]);
    assert_ends(&output(&["simulate"], &[&file]), 0, &["TorchScript"]);

    assert_ends(&output(&["run", "--plain", "--out"], &[&live, &file]), 0, &[]);
    let report_live = report(&live);
    assert_eq!((report_live.outcome, report_live.steps), (ExitCode::Completed, STEPS));
    assert!(report_live.parameter_hashes.iter().all(|hash| *hash == report_live.parameter_hashes[0]));
    assert_ends(&output(&["evaluate"], &[&live]), 0, &["Top-1"]);
    assert_ends(&output(&["replay"], &[&live]), 0, &["equal, bit for bit"]);

    assert_ends(&output(&["simulate", "--train", "--out"], &[&simulated, &file]), 0, &[]);
    assert_eq!(report(&simulated).parameter_hashes, report_live.parameter_hashes[..1]);

    let longer = std::fs::read_to_string(&file).unwrap().replace("maxSteps: 12", "maxSteps: 18");
    std::fs::write(&file, longer).unwrap();
    assert_ends(&output(&["run", "--plain", "--resume"], &[&live, &file]), 0, &["going on from checkpoint"]);
    assert_eq!(report(&live).steps, 18);
    assert_ends(&output(&["replay"], &[&live]), 0, &["equal, bit for bit"]);
}

#[test]
fn a_run_goes_on_only_with_the_file_that_it_began_with() {
    let _turn = turn();
    let scratch = Scratch::new("own-changed");
    let file = own_job(scratch.path(), "residual.pt");
    let folder = scratch.path().join("run");
    assert_ends(&output(&["run", "--plain", "--out"], &[&folder, &file]), 0, &[]);
    let longer = std::fs::read_to_string(&file).unwrap().replace("maxSteps: 12", "maxSteps: 18");
    std::fs::write(&file, longer).unwrap();
    std::fs::copy(fixture("other.pt"), scratch.path().join("net.pt")).unwrap();
    let parts = ["spec.model.torchScript.path", "SHA-256", "put the file back that the run began with"];
    for arguments in [&["evaluate"][..], &["replay"]] {
        assert_ends(&output(arguments, &[&folder]), 2, &parts);
    }
    assert_ends(&output(&["run", "--plain", "--resume"], &[&folder, &file]), 2, &parts);
    std::fs::remove_file(scratch.path().join("net.pt")).unwrap();
    assert_ends(&output(&["evaluate"], &[&folder]), 2, &["net.pt", "cannot be read"]);
}

#[test]
fn a_network_that_cannot_be_trained_is_a_mistake_of_the_job_before_anything_begins() {
    let _turn = turn();
    let scratch = Scratch::new("own-refused");
    let file = own_job(scratch.path(), "batchnorm.pt");
    for arguments in [&["plan"][..], &["run", "--plain"], &["simulate"], &["simulate", "--train"]] {
        let mut command = scadles(&trainer());
        command.args(arguments).arg(&file).current_dir(scratch.path());
        let parts = ["job.yaml", "spec.model.torchScript.path", "net.pt", "torch.nn.GroupNorm"];
        assert_ends(&finish(command.spawn().unwrap()), 2, &parts);
    }
    assert!(!scratch.path().join("runs").exists(), "a refused job leaves no run folder");
    std::fs::remove_file(scratch.path().join("net.pt")).unwrap();
    assert_ends(&output(&["plan"], &[&file]), 2, &["net.pt", "cannot be read", "beside the job file"]);
}
