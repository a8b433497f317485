//! Every example job can be read, has no mistakes and can be planned.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use support::{fake_worker, finish, scadles, text};

/// A network's file and the script that writes it lie beside them.
fn example_jobs() -> impl Iterator<Item = PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
}

#[test]
fn every_example_job_can_be_planned() {
    let mut planned = 0;
    for path in example_jobs() {
        let output = finish(scadles(&fake_worker()).arg("plan").arg(&path).spawn().unwrap());
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output));
        let name = path.file_stem().unwrap().to_string_lossy().replace("-local", "");
        assert!(text(&output).contains(&format!("Job {name}")), "{}", text(&output));
        planned += 1;
    }
    assert!(planned >= 5, "{planned} examples");
}

#[test]
fn every_example_job_can_be_simulated_beside_a_preset() {
    let out = support::Scratch::new("simulated");
    let mut simulated = 0;
    for path in example_jobs() {
        let mut command = scadles(&fake_worker());
        command.arg("simulate").arg(&path).args(["--compare", "adapcomp-resnet152", "--steps", "200"]);
        for option in ["--json", "--csv", "--plots"] {
            command.arg(option).arg(out.path().join(option));
        }
        let output = finish(command.spawn().unwrap());
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output));
        for part in ["samples per second", "adapcomp-resnet152: ResNet-152, 10 devices", "Side by side"] {
            assert!(text(&output).contains(part), "`{part}` is missing in:\n{}", text(&output));
        }
        let csv = std::fs::read_to_string(out.path().join("--csv")).unwrap();
        assert_eq!(csv.lines().count(), 401, "two simulations of 200 steps and the heads");
        let json = std::fs::read_to_string(out.path().join("--json")).unwrap();
        assert!(json.contains("\"simulations\""));
        assert_eq!(std::fs::read_dir(out.path().join("--plots")).unwrap().count(), 6);
        simulated += 1;
    }
    assert!(simulated >= 5, "{simulated} examples");
}

#[test]
fn help_teaches_by_examples() {
    let output = finish(scadles(&fake_worker()).arg("--help").spawn().unwrap());
    for part in ["scadles run manifests/examples/quickstart-local.yaml", "--resume", "replay", "Exit codes"] {
        assert!(text(&output).contains(part), "{part}");
    }
    for (command, parts) in [
        ("simulate", ["--compare", "burst:FACTOR:LENGTH:PERIOD", "paper/s1-resnet152"]),
        ("reproduce", ["table2", "predicted", "--markdown"]),
    ] {
        let output = finish(scadles(&fake_worker()).args([command, "--help"]).spawn().unwrap());
        for part in parts {
            assert!(text(&output).contains(part), "`{part}` is missing in:\n{}", text(&output));
        }
    }
}
