//! Every example job can be read, has no mistakes and can be planned.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use support::{fake_worker, finish, scadles, text};

#[test]
fn every_example_job_can_be_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut planned = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let output = finish(scadles(&fake_worker()).arg("plan").arg(&path).spawn().unwrap());
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output));
        let name = path.file_stem().unwrap().to_string_lossy().replace("-local", "");
        assert!(text(&output).contains(&format!("Job {name}")), "{}", text(&output));
        planned += 1;
    }
    assert!(planned >= 5, "{planned} examples");
}

#[test]
fn help_teaches_by_examples() {
    let output = finish(scadles(&fake_worker()).arg("--help").spawn().unwrap());
    for part in ["scadles run manifests/examples/quickstart-local.yaml", "--resume", "replay", "Exit codes"] {
        assert!(text(&output).contains(part), "{part}");
    }
}
