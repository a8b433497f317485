//! What a user gets wrong: a clear message, what to do, exit code 2, nothing left running.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
};

use support::{Scratch, fake_worker, finish, scadles, signal, text};

const GOOD: &str = "apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: bad-input}
spec:
  model: {name: Mlp, numClasses: 10, inputShape: [1, 28, 28]}
  devices: {count: 2}
  producer:
    dataset: {name: Files, files: {path: RECORDS}}
    rates: {constant: 50}
  checkpoint: {everySteps: 5}
  completion: {maxSteps: 10}
  runPolicy: {startDeadlineSeconds: 3}
";

/// Runs a command and expects a code, and every part in what it says.
fn expect(command: &mut Command, code: i32, parts: &[&str]) {
    let output = finish(command.spawn().unwrap());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

fn run(job: &Path) -> Command {
    let mut command = scadles(&fake_worker());
    command.arg("run").arg(job).current_dir(job.parent().unwrap());
    command
}

/// Writes a job file beside the records that it sends.
fn write(scratch: &Scratch, text: &str) -> PathBuf {
    let records = scratch.path().join("records.bin");
    std::fs::write(&records, vec![0; 10 * 785]).unwrap();
    scratch.file("job.yaml", &text.replace("RECORDS", &records.display().to_string()))
}

/// Runs the good job with one part replaced.
fn expect_mistake(name: &str, from: &str, to: &str, parts: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    let scratch = Scratch::new(name);
    let job = write(&scratch, &GOOD.replace(from, to));
    expect(&mut run(&job), 2, parts);
    assert!(!scratch.path().join("runs").exists(), "a refused job leaves no run folder");
}

#[test]
fn a_job_file_that_does_not_exist_is_named() {
    let scratch = Scratch::new("bad-file");
    expect(&mut run(&scratch.path().join("nothing.yaml")), 2, &["nothing.yaml", "name a job file"]);
}

#[test]
fn an_unknown_model_is_answered_with_the_known_ones() {
    expect_mistake(
        "bad-model",
        "name: Mlp",
        "name: ResNet51",
        &["spec.model.name", "ResNet51", "ResNet50", "Cnn"],
    );
}

#[test]
fn an_unknown_field_is_answered_with_the_nearest_known_one() {
    expect_mistake(
        "bad-field",
        "everySteps: 5",
        "everyStep: 5",
        &["spec.checkpoint.everyStep", "everySteps"],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let parts = &["spec.devices.count", "spec.producer.rates.constant", "spec.completion.maxSteps"];
    let scratch = Scratch::new("bad-all");
    let bad = GOOD
        .replace("count: 2", "count: 0")
        .replace("constant: 50", "constant: 0")
        .replace("maxSteps: 10", "maxSteps: 0");
    expect(&mut run(&write(&scratch, &bad)), 2, parts);
}

#[test]
fn impossible_bounds_of_a_batch_are_refused() {
    let to = "devices: {count: 2}\n  stream: {batch: {rule: LineRate, min: 64, max: 8}}";
    expect_mistake("bad-bounds", "devices: {count: 2}", to, &["spec.stream.batch", "64", "8"]);
}

#[test]
fn a_network_of_torch_script_is_not_sent_to_a_gpu() {
    let scratch = Scratch::new("torch-script-on-a-gpu");
    let own = GOOD.replace("{name: Mlp,", "{name: TorchScript, torchScript: {path: own.pt},");
    let job = write(&scratch, &own);
    let parts = ["spec.backend", "Nccl", "TorchScript compute on the CPU only", "write backend: Gloo"];
    expect(run(&job).args(["--backend", "nccl"]), 2, &parts);
}

#[test]
fn two_devices_of_one_name_are_refused() {
    let to = "devices: {named: [{name: gate}, {name: gate}]}";
    expect_mistake("bad-names", "devices: {count: 2}", to, &["spec.devices.named", "gate"]);
}

#[test]
fn a_missing_data_set_is_named_with_both_remedies() {
    let scratch = Scratch::new("bad-data");
    let job = write(&scratch, &GOOD.replace("name: Files, files: {path: RECORDS}", "name: FashionMnist"));
    let mut command = run(&job);
    command.arg("--data").arg(scratch.path().join("nowhere"));
    expect(&mut command, 2, &["nowhere/fashion-mnist", "scripts/setup.sh data", "--data DIR"]);
    assert!(!scratch.path().join("runs").exists(), "nothing is left of a run that could not begin");
}

#[test]
fn a_missing_worker_program_is_named_with_the_line_that_builds_it() {
    let scratch = Scratch::new("bad-trainer");
    let job = write(&scratch, GOOD);
    let mut command = run(&job);
    command.env("SCADLES_TRAINER", "/nowhere/scadles-trainer");
    expect(&mut command, 2, &["SCADLES_TRAINER=/nowhere/scadles-trainer", "cargo build -p scadles-trainer"]);
}

#[test]
fn a_run_folder_that_holds_a_run_is_not_overwritten() {
    let scratch = Scratch::new("bad-folder");
    let job = write(&scratch, GOOD);
    let in_it = || {
        let mut command = run(&job);
        command.arg("--out").arg(scratch.path());
        command
    };
    // A report alone is that of a run on the virtual clock, say: nothing that could go on.
    scratch.file("report.json", "{}");
    expect(&mut in_it(), 2, &["already holds a run", "choose another folder\n"]);
    scratch.file("supervision.json", "{}");
    expect(&mut in_it(), 2, &["already holds a run", "--resume"]);
}

#[test]
fn a_run_folder_that_cannot_be_made_is_a_storage_failure_with_a_remedy() {
    let scratch = Scratch::new("bad-place");
    let job = write(&scratch, GOOD);
    let mut command = run(&job);
    command.arg("--out").arg(job.join("run"));
    expect(&mut command, 5, &["job.yaml/run", "--out DIR"]);
}

#[test]
fn resuming_what_never_ran_is_refused() {
    let scratch = Scratch::new("bad-resume");
    let job = write(&scratch, GOOD);
    let mut command = run(&job);
    command.arg("--resume");
    expect(&mut command, 2, &["no run of job `bad-input`", "start without --resume"]);
    let mut command = run(&job);
    command.arg("--resume").arg(scratch.path());
    expect(&mut command, 2, &["no supervision.json"]);
}

#[test]
fn too_few_open_files_are_told_before_the_start() {
    let scratch = Scratch::new("bad-files");
    let job = write(&scratch, GOOD);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 64 && exec \"$0\" run \"$1\""])
        .arg(env!("CARGO_BIN_EXE_scadles"))
        .arg(&job)
        .env("SCADLES_TRAINER", fake_worker())
        .current_dir(scratch.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    expect(&mut command, 2, &["only 64 files may be open", "ulimit -n"]);
}

#[test]
fn a_broker_that_does_not_answer_ends_the_run_at_the_start_deadline() {
    let scratch = Scratch::new("bad-broker");
    let job = write(&scratch, GOOD);
    let folder = scratch.path().join("run");
    let mut command = run(&job);
    // Port 1 of the loopback address: nobody listens there.
    command.args(["--kafka", "127.0.0.1:1", "--out"]).arg(&folder);
    expect(&mut command, 4, &["spec.kafka.bootstrapServers", "127.0.0.1:1"]);
    assert!(folder.join("report.json").is_file(), "the report is written however a run ends");
}

#[test]
fn sending_to_the_embedded_broker_without_training_is_refused() {
    let scratch = Scratch::new("bad-produce");
    let job = write(&scratch, GOOD);
    let mut command = scadles(&fake_worker());
    command.arg("produce").arg(&job);
    expect(&mut command, 2, &["embedded broker", "--kafka HOST:PORT"]);
}

#[test]
fn the_report_of_a_folder_without_one_is_refused() {
    let scratch = Scratch::new("bad-report");
    let mut command = scadles(&fake_worker());
    command.arg("report").arg(scratch.path());
    expect(&mut command, 2, &["report.json", "name the folder of a run"]);
}

#[test]
fn a_broker_that_does_not_come_ends_the_wait_of_produce_with_what_to_change() {
    let scratch = Scratch::new("bad-wait");
    let job = write(&scratch, &GOOD.replace("startDeadlineSeconds: 3", "startDeadlineSeconds: 1"));
    let mut command = scadles(&fake_worker());
    command.arg("produce").arg(&job).args(["--kafka", "127.0.0.1:1"]);
    expect(
        &mut command,
        4,
        &["waiting, for 1.0 s at most", "127.0.0.1:1", "spec.runPolicy.startDeadlineSeconds"],
    );
}

#[test]
fn produce_that_still_waits_for_its_broker_ends_cleanly_at_sigterm() {
    let scratch = Scratch::new("bad-term");
    let job = write(&scratch, GOOD);
    let mut command = scadles(&fake_worker());
    let mut child = command.arg("produce").arg(&job).args(["--kafka", "127.0.0.1:1"]).spawn().unwrap();
    // It catches signals before it begins to wait, and says so.
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("waiting"), "{line}");
    signal(child.id(), "TERM");
    assert_eq!(finish(child).status.code(), Some(0));
}

#[test]
fn an_unknown_preset_table_or_file_is_answered_with_the_nearest_names() {
    let scratch = Scratch::new("bad-preset");
    let job = write(&scratch, GOOD);
    let simulate = |args: &[&str]| {
        let mut command = scadles(&fake_worker());
        command.arg("simulate").args(args).current_dir(scratch.path());
        command
    };
    let known = &["adapcomp-vgg", "adapcomp-vgg19", "--list-presets"];
    expect(&mut simulate(&["--preset", "adapcomp-vgg"]), 2, known);
    let job = job.to_str().unwrap();
    expect(&mut simulate(&[job, "--compare", "paper/s1-resnet15"]), 2, &["paper/s1-resnet152,"]);
    expect(&mut simulate(&["nothing.yaml"]), 2, &["nothing.yaml", "name a job file"]);
    expect(&mut simulate(&[]), 2, &["<JOB>"]);
    let mut reproduce = scadles(&fake_worker());
    reproduce.args(["reproduce", "tabel2"]);
    expect(&mut reproduce, 2, &["tabel2", "table2", "--list"]);
}

#[test]
fn rates_that_do_not_fit_the_devices_of_a_simulated_job_are_refused() {
    let scratch = Scratch::new("bad-rates");
    let job = write(&scratch, &GOOD.replace("count: 2", "count: 4"));
    let simulate = |args: &[&str]| {
        let mut command = scadles(&fake_worker());
        command.arg("simulate").arg(&job).args(args);
        command
    };
    expect(
        &mut simulate(&["--rates", "50,38"]),
        2,
        &["--rates = 50,38", "2 rates for 4 devices", "--devices 2"],
    );
    expect(&mut simulate(&["--rates", "50,-3,1,1"]), 2, &["'-3'", "--rates", "a number above 0"]);
    expect(&mut simulate(&["--devices", "9"]), 2, &["--devices = 9", "4 rates", "--rates"]);
    let unwritable = scratch.path().join("no/where.csv");
    expect(&mut simulate(&["--csv", unwritable.to_str().unwrap()]), 5, &["no/where.csv", "--csv FILE"]);
    let start = GOOD.find("  producer:").unwrap();
    let end = GOOD.find("  checkpoint:").unwrap();
    let measured = scratch.file("measured.yaml", &format!("{}{}", &GOOD[..start], &GOOD[end..]));
    let mut command = scadles(&fake_worker());
    command.arg("simulate").arg(measured);
    expect(&mut command, 2, &["no spec.producer", "--rates 50,38,12,36"]);
}
