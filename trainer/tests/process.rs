//! The worker as a process: what it says when it cannot even begin.
#![allow(clippy::unwrap_used)] // A test that cannot be set up has failed.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use scadles_api::{ExitCode, LastWords, WorkerConfig};
use scadles_control::{Body, BrokerKind};

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: begins}
spec:
  model: {name: Mlp}
  devices: {count: 1}
  completion: {maxSteps: 1}
";

fn config(folder: &Path) -> WorkerConfig {
    let job = scadles_control::validate(&scadles_control::parse_job(JOB).unwrap()).unwrap();
    let body = Body {
        broker: BrokerKind::Servers("127.0.0.1:1".to_owned()),
        uid: "uid".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: folder.to_owned(),
        data_dir: folder.to_owned(),
        checkpoint_root: None,
        token: "secret".to_owned(),
        threads: 1,
        cores: 1,
    };
    scadles_control::plan(&job, &body).unwrap().workers.remove(0)
}

/// Starts a worker with this configuration; its exit code and last words.
fn ends(folder: &Path, config: &str) -> (Option<i32>, LastWords) {
    let file = folder.join("worker.json");
    std::fs::write(&file, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_scadles-trainer"))
        .args(["worker", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), serde_json::from_str(stdout.lines().last().unwrap()).unwrap())
}

#[test]
fn a_port_in_use_is_a_mistake_of_configuration_that_names_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = WorkerConfig { port, ..config(folder.path()) };
    let (code, words) = ends(folder.path(), &serde_json::to_string(&config).unwrap());
    assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
    assert!(words.message.contains(&format!("127.0.0.1:{port}")), "{words:?}");
    assert!(words.remedy.contains("port 0"), "{words:?}");
}

#[test]
fn a_configuration_of_another_version_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig { protocol: 99, ..config(folder.path()) };
    let (code, words) = ends(folder.path(), &serde_json::to_string(&config).unwrap());
    assert_eq!((code, words.code), (Some(2), ExitCode::Configuration));
    assert!(words.message.contains("99") && words.message.contains("speaks"), "{words:?}");
}

#[test]
fn a_worker_whose_supervisor_is_gone_ends_as_an_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_string(&config(folder.path())).unwrap();
    let (code, words) = ends(folder.path(), &config);
    assert_eq!((code, words.code), (Some(10), ExitCode::Orphaned));
}
