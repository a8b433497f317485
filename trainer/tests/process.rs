//! The worker as a process: what it says when it cannot even begin.
#![allow(clippy::unwrap_used)] // A test that cannot be set up has failed.

mod workers;

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use scadles_api::{
    ExitCode, LastWords, WorkerConfig,
    worker::{Backend, JobConfig},
};
use workers::{TOKEN, command, last_words, output, resolve, termination_log};

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: begins}
spec:
  model: {name: Mlp}
  devices: {count: 1}
  completion: {maxSteps: 1}
";

fn job(folder: &Path) -> JobConfig {
    resolve(JOB, "127.0.0.1:1", folder)
}

fn config(folder: &Path) -> WorkerConfig {
    WorkerConfig {
        protocol: scadles_api::PROTOCOL_VERSION,
        device_index: 0,
        host: "127.0.0.1".to_owned(),
        port: 0,
        hub_port: 0,
        token: TOKEN.to_owned(),
        backend: Backend::Gloo,
        job: job(folder),
    }
}

fn trainer() -> Command {
    let mut trainer = Command::new(env!("CARGO_BIN_EXE_scadles-trainer"));
    trainer.stdin(Stdio::null()).env_remove("POD_IP");
    trainer
}

/// Starts a worker with this configuration; its exit code and last words.
fn ends(folder: &Path, config: &str) -> (Option<i32>, LastWords) {
    let file = folder.join("worker.json");
    std::fs::write(&file, config).unwrap();
    let output = trainer().args(["worker", "--config"]).arg(&file).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), serde_json::from_str(stdout.lines().last().unwrap()).unwrap())
}

/// The end of a worker whose command line is wrong: its standard error, which the termination log must hold too.
fn refused(folder: &Path, output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    let words = last_words(&termination_log(folder, "device-0"));
    assert_eq!(words.code, ExitCode::Configuration);
    assert!(errors.contains(&words.message), "{words:?}\n{errors}");
    words.message
}

#[test]
fn a_port_in_use_is_a_mistake_of_configuration_that_names_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for config in [
        WorkerConfig { port, ..config(folder.path()) },
        WorkerConfig { hub_port: port, ..config(folder.path()) },
    ] {
        let (code, words) = ends(folder.path(), &serde_json::to_string(&config).unwrap());
        assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
        assert!(words.message.contains(&format!("127.0.0.1:{port}")), "{words:?}");
        assert!(words.remedy.contains("port 0"), "{words:?}");
    }
}

#[test]
fn a_configuration_of_another_version_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serde_json::to_value(config(folder.path())).unwrap();
    config["protocol"] = 99.into();
    // Another version may know other fields.
    config.as_object_mut().unwrap().remove("job");
    let (code, words) = ends(folder.path(), &config.to_string());
    assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
    assert!(words.message.contains("99") && words.message.contains("speaks"), "{words:?}");
}

#[test]
#[cfg(not(feature = "mpi"))]
fn a_worker_that_was_built_without_mpi_does_not_begin_a_job_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig { backend: Backend::Mpi, ..config(folder.path()) };
    let (code, words) = ends(folder.path(), &serde_json::to_string(&config).unwrap());
    assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
    assert!(words.message.contains("--backend mpi"), "{words:?}");
    assert!(words.remedy.contains("scadles-trainer/mpi"), "{words:?}");
}

/// This machine shows no GPU, or libtorch's part for CUDA is not beside the tests' one.
#[test]
fn a_worker_that_finds_no_gpu_to_use_does_not_begin_a_job_over_nccl() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig { backend: Backend::Nccl, ..config(folder.path()) };
    let (code, words) = ends(folder.path(), &serde_json::to_string(&config).unwrap());
    assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
    assert!(words.message.starts_with("backend Nccl: this "), "{words:?}");
    if std::path::Path::new("/dev/nvidiactl").exists() {
        assert!(words.message.contains("libtorch_cuda.so"), "{words:?}");
        assert!(words.remedy.contains("-cuda"), "{words:?}");
    } else {
        assert!(words.message.contains("sees no GPU"), "{words:?}");
        assert!(
            words.remedy.contains("nvidia.com/gpu") && words.remedy.contains("spec.backend: Gloo"),
            "{words:?}"
        );
    }
}

#[test]
fn a_worker_is_told_its_backend_by_the_command_line_in_a_pod() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut on_gpus = command(folder, &job(folder), "device-0");
    on_gpus.args(["--backend", "nccl"]);
    let message = refused(folder, &output(on_gpus));
    assert!(message.starts_with("backend Nccl: "), "{message}");
}

#[test]
fn a_worker_whose_supervisor_is_gone_ends_as_an_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_string(&config(folder.path())).unwrap();
    let (code, words) = ends(folder.path(), &config);
    assert_eq!((code, words.code), (Some(10), ExitCode::Orphaned));
}

#[test]
fn a_command_line_that_does_not_fit_together_is_refused_and_the_flag_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = termination_log(folder.path(), "device-0");
    for (arguments, named) in [
        ("worker", "--config"),
        ("worker --config a.json --job b.json", "--job"),
        ("worker --job b.json --host 127.0.0.1 --token-file t", "--device"),
        ("worker --job b.json --host 127.0.0.1 --device device-0", "--token-file"),
        ("worker --job b.json --device device-0 --token-file t", "--host"),
        ("worker --config a.json --device device-0", "--device"),
        ("worker --config a.json --port 7", "--port"),
        ("worker --job b.json --hub-port 70000", "--hub-port"),
        ("worker --job b.json --backend mpi", "--backend"),
        ("worker --config a.json --backend nccl", "--backend"),
        ("worker --wrong", "--wrong"),
    ] {
        let output =
            trainer().args(arguments.split(' ')).arg("--termination-log").arg(&log).output().unwrap();
        let message = refused(folder.path(), &output);
        assert!(message.contains(named), "{arguments}: {message}");
        std::fs::remove_file(&log).unwrap();
    }
}

#[test]
fn a_file_or_device_of_the_command_line_that_is_wrong_is_named_in_the_termination_log() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let job = job(folder);
    let complaint = |command: Command| refused(folder, &output(command));

    let mut unknown = command(folder, &job, "device-0");
    unknown.args(["--device", "device-9"]);
    assert!(String::from_utf8_lossy(&output(unknown).stderr).contains("cannot be used multiple times"));

    std::fs::write(folder.join("empty"), "\n").unwrap();
    let worker = |job: &str, device: &str, token: &str| {
        let mut worker = trainer();
        worker.current_dir(folder).args(["worker", "--detached", "--host", "127.0.0.1", "--job", job]);
        worker.args(["--device", device, "--token-file", token, "--port", "0", "--hub-port", "0"]);
        worker.args(["--termination-log", "device-0.termination"]);
        worker
    };
    let message = complaint(worker("device-0.json", "device-9", "token"));
    assert!(message.contains("--device device-9") && message.contains("device-0"), "{message}");
    let message = complaint(worker("missing.json", "device-0", "token"));
    assert!(message.contains("--job missing.json"), "{message}");
    let message = complaint(worker("token", "device-0", "token"));
    assert!(message.contains("--job token"), "{message}");
    let message = complaint(worker("device-0.json", "device-0", "missing"));
    assert!(message.contains("--token-file missing"), "{message}");
    let message = complaint(worker("device-0.json", "device-0", "empty"));
    assert!(message.contains("--token-file empty") && message.contains("is empty"), "{message}");
}

#[test]
fn the_address_of_the_pod_may_come_from_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = trainer();
    worker.env("POD_IP", "192.0.2.1").args(["worker", "--detached", "--port", "0", "--hub-port", "0"]);
    drop(command(folder.path(), &job(folder.path()), "device-0"));
    worker.arg("--job").arg(folder.path().join("device-0.json")).args(["--device", "device-0"]);
    worker.arg("--token-file").arg(folder.path().join("token"));
    worker.arg("--termination-log").arg(termination_log(folder.path(), "device-0"));
    let message = refused(folder.path(), &output(worker));
    assert!(message.contains("192.0.2.1"), "no address of this machine: {message}");
}
