//! Batch rules on live streams: steps and samples against what the broker counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use scadles_api::{ExitCode, report::RunReport};
use support::{
    Scratch, assert_balanced, finish,
    learnable::{Settings, job},
    report, scadles, text, trainer, turn,
};

/// The rates of the paper's set S1: 12 samples per second on the slowest device.
const RATES: [f64; 8] = [50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0];
const SLOWEST: usize = 2;

/// The learnable job on [`RATES`], without evaluations on the way.
fn eight_devices(scratch: &Scratch, settings: &Settings) -> PathBuf {
    let file = job(scratch.path(), settings);
    let list: Vec<String> = RATES.iter().map(f64::to_string).collect();
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("count: 3", "count: 8"),
        ("list: [210, 97, 31]", &format!("list: [{}]", list.join(", "))),
        ("everySteps: 20, samples: 500", "everySteps: 0, samples: 500"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(&file, text).unwrap();
    file
}

fn train(scratch: &Scratch, settings: &Settings) -> (PathBuf, RunReport) {
    let folder = scratch.path().join("run");
    let mut command = scadles(&trainer());
    command.arg("run").arg(eight_devices(scratch, settings)).arg("--plain").arg("--out").arg(&folder);
    let output = finish(command.spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = report(&folder);
    assert_eq!((report.outcome, report.steps), (ExitCode::Completed, settings.steps));
    assert_eq!(report.attempts.len(), 1, "{:?}", report.attempts);
    assert_balanced(&report);
    (folder, report)
}

/// One device at one step of `steps.csv`.
#[derive(Clone, Copy, Debug)]
struct Row {
    seconds: f64,
    local_batch: u64,
    /// Samples that waited when the batch was reported, the batch included.
    buffered: u64,
}

/// The steps of one device.
fn steps(folder: &Path, device: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(folder.join("steps.csv")).unwrap();
    let mut lines = text.lines();
    let head: HashMap<&str, usize> =
        lines.next().unwrap().split(',').enumerate().map(|(place, name)| (name, place)).collect();
    let column = |name: &str| head[name];
    let batch = column(&format!("local_batch.{device}"));
    let buffered = column(&format!("buffered.{device}"));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Row {
                seconds: fields[column("seconds")].parse().unwrap(),
                local_batch: fields[batch].parse().unwrap(),
                buffered: fields[buffered].parse().unwrap(),
            }
        })
        .collect()
}

#[test]
fn equal_batches_take_as_many_steps_as_the_slowest_stream_has_batches() {
    let _turn = turn();
    let scratch = Scratch::new("live-fixed");
    // A step takes 5.33 s. After four, a rule that needs one and a half times its samples, or a half, is two steps off.
    let settings =
        Settings { name: "fixed", rule: "{rule: Fixed, fixed: {size: 64}}", steps: 4, ..Settings::default() };
    let (folder, report) = train(&scratch, &settings);
    for device in &report.devices {
        assert_eq!(device.trained, 64 * report.steps, "{device:?}");
    }
    let slowest = &report.devices[SLOWEST];
    assert!(report.steps.abs_diff(slowest.arrived / 64) <= 1, "{} steps of {slowest:?}", report.steps);
    // Not only at the end: whenever a step was agreed, the slowest stream had its batch, and not two.
    for (before, row) in steps(&folder, &slowest.name).iter().enumerate() {
        assert_eq!(row.local_batch, 64);
        let arrived = 64 * before as u64 + row.buffered;
        assert!((before as u64 + 1).abs_diff(arrived / 64) <= 1, "step {}: {row:?}", before + 1);
    }
    // The others pile up what the slowest does not allow them to train.
    let fastest = &report.devices[6];
    assert!(fastest.buffered > slowest.buffered + 64 * report.steps, "{fastest:?}");
}

#[test]
fn the_papers_rule_trains_what_arrived_within_one_window() {
    const WINDOW_SECONDS: f64 = 2.0;
    /// Ends are looked up this often: what arrived since then belongs to the next window.
    const LOOK_SECONDS: f64 = 0.25;
    let _turn = turn();
    let scratch = Scratch::new("live-stream-rate");
    let settings = Settings {
        name: "stream-rate",
        rule: "{rule: StreamRate, windowSeconds: 2}",
        steps: 8,
        ..Settings::default()
    };
    let (folder, report) = train(&scratch, &settings);
    for (device, rate) in report.devices.iter().zip(RATES) {
        let rows = steps(&folder, &device.name);
        // A window that a busy machine closes late leaves what arrived meanwhile in the buffer; such time is known.
        let late: f64 =
            rows.windows(2).map(|pair| (pair[1].seconds - pair[0].seconds - WINDOW_SECONDS).max(0.0)).sum();
        let trained: u64 = rows.iter().map(|row| row.local_batch).sum();
        assert_eq!(device.trained, trained, "{device:?}");
        for row in &rows {
            let left = row.buffered - row.local_batch;
            let allowed = rate * (WINDOW_SECONDS + LOOK_SECONDS + late) + 2.0;
            assert!((left as f64) <= allowed, "{}: {left} of {allowed:.0} left by {row:?}", device.name);
        }
        // One batch a window, as large as the window's arrivals.
        let seconds = WINDOW_SECONDS * report.steps as f64;
        let expected = rate * seconds;
        assert!(
            (trained as f64 - expected).abs() <= rate * (WINDOW_SECONDS + late) + 2.0,
            "{}: trained {trained} of {expected:.0}",
            device.name
        );
    }
}
