//! `scadles simulate JOB --train` beside `scadles run JOB`: what is virtual is the time alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{path::Path, process::Child};

use scadles_api::{ExitCode, report::RunReport};
use support::{
    Scratch, assert_balanced, await_some, finish,
    learnable::{Settings, job},
    report, scadles, signal, text, trainer, turn,
};

const LIVE: &[&str] = &["run", "--plain", "--threads", "1"];
const VIRTUAL: &[&str] = &["simulate", "--train", "--threads", "1"];

/// Trains the job; the report of its folder.
fn train(command: &[&str], file: &Path, folder: &Path) -> RunReport {
    let child = scadles(&trainer()).args(command).arg(file).arg("--out").arg(folder).spawn().unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = report(folder);
    assert_eq!(report.outcome, ExitCode::Completed);
    assert_balanced(&report);
    report
}

/// A column of `steps.csv`.
fn column(folder: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("steps.csv")).unwrap();
    let place = text.lines().next().unwrap().split(',').position(|known| known == name).unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(place).unwrap().to_owned()).collect()
}

fn seconds(folder: &Path) -> Vec<f64> {
    column(folder, "seconds").iter().map(|seconds| seconds.parse().unwrap()).collect()
}

#[test]
fn with_batches_that_do_not_depend_on_time_the_model_is_the_live_one_bit_for_bit() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-bits");
    let rule = "{rule: Fixed, fixed: {size: 16}}";
    let file = job(scratch.path(), &Settings { name: "bits", rule, steps: 12, ..Settings::default() });
    let live = train(LIVE, &file, &scratch.path().join("live"));
    let simulated = train(VIRTUAL, &file, &scratch.path().join("virtual"));
    assert_eq!(simulated.parameter_hashes, live.parameter_hashes[..1]);
    assert_eq!((simulated.steps, simulated.samples), (live.steps, live.samples));
    let top_1 = |report: &RunReport| report.accuracy.last().unwrap().top_1();
    assert_eq!(top_1(&simulated), top_1(&live));
    for (own, other) in simulated.devices.iter().zip(&live.devices) {
        assert_eq!((own.trained, own.batch_mean), (other.trained, other.batch_mean), "{own:?} {other:?}");
    }
    for name in ["report.html", "steps.csv", "model.safetensors", "job.yaml", "job.json"] {
        assert!(scratch.path().join("virtual").join(name).is_file(), "{name}");
    }
}

#[test]
fn what_batch_norm_has_seen_on_all_devices_is_the_live_runs_bit_for_bit() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-norms");
    let settings = Settings {
        name: "norms",
        model: "name: Cnn, normalization: Batch",
        rule: "{rule: Fixed, fixed: {size: 16}}",
        steps: 6,
        ..Settings::default()
    };
    let file = job(scratch.path(), &settings);
    train(LIVE, &file, &scratch.path().join("live"));
    train(VIRTUAL, &file, &scratch.path().join("virtual"));
    let model = |run: &str| std::fs::read(scratch.path().join(run).join("model.safetensors")).unwrap();
    assert!(model("virtual") == model("live"), "parameters or running statistics differ");
}

#[test]
fn however_records_travel_the_model_is_the_same_and_class_weights_change_it_alike_live_and_virtual() {
    let _turn = turn();
    let scratch = Scratch::new("formats");
    let hash = |command: &[&str], name: &'static str, stream: &'static str, training: &'static str| {
        let rule = "{rule: Fixed, fixed: {size: 16}}";
        let settings = Settings { name, rule, steps: 6, stream, training, ..Settings::default() };
        let file = job(scratch.path(), &settings);
        let folder = scratch.path().join(format!("{name}-{}", command[0]));
        train(command, &file, &folder).parameter_hashes[0].clone()
    };
    let plain = hash(LIVE, "plain", "", "");
    assert_eq!(hash(LIVE, "image", "format: Image, ", ""), plain);
    assert_eq!(hash(LIVE, "tensor", "format: Tensor, tensor: {dtype: U8}, ", ""), plain);
    let weights = "classWeights: [1, 0, 4, 1, 1, 0.25, 1, 1, 1, 9], ";
    let weighted = hash(LIVE, "weighted", "", weights);
    assert_ne!(weighted, plain);
    assert_eq!(hash(VIRTUAL, "weighted", "", weights), weighted);
}

#[test]
fn a_rate_that_follows_the_noise_of_the_gradients_is_the_live_one_and_replays() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-noise");
    let settings = Settings {
        name: "noise",
        rule: "{rule: Fixed, fixed: {size: 16}}",
        steps: 12,
        training: "learningRateScaling: AdaScale, baseBatchSize: 4, ",
        ..Settings::default()
    };
    let file = job(scratch.path(), &settings);
    let live = train(LIVE, &file, &scratch.path().join("live"));
    let simulated = train(VIRTUAL, &file, &scratch.path().join("virtual"));
    assert_eq!(simulated.parameter_hashes, live.parameter_hashes[..1]);
    let [own, other] = ["virtual", "live"].map(|name| column(&scratch.path().join(name), "learning_rate"));
    assert_eq!(own, other);
    assert!(own.windows(2).all(|pair| pair[0] != pair[1]), "each step teaches something: {own:?}");
    let replayed = scadles(&trainer()).arg("replay").arg(scratch.path().join("live")).spawn().unwrap();
    let output = finish(replayed);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn shared_samples_are_the_live_ones_bit_for_bit_and_in_table_report_and_page() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-sharing");
    let settings = Settings {
        name: "sharing",
        rule: "{rule: Fixed, fixed: {size: 16}}",
        steps: 12,
        injection: "{mode: Move, donorFraction: 0.5, sharedFraction: 0.5, donors: LabelDeficit, optIn: All}",
        ..Settings::default()
    };
    let file = job(scratch.path(), &settings);
    let live_folder = scratch.path().join("live");
    let child = scadles(&trainer()).args(LIVE).arg(&file).arg("--out").arg(&live_folder).spawn().unwrap();
    let output = finish(child);
    // Two donors, eight of sixteen samples each.
    for part in ["Move: ", " samples shared", "injection (Move): 192 samples shared", "received"] {
        assert!(text(&output).contains(part), "`{part}` is missing in:\n{}", text(&output));
    }
    let live = report(&live_folder);
    assert_balanced(&live);
    let simulated = train(VIRTUAL, &file, &scratch.path().join("virtual"));
    assert_eq!(simulated.parameter_hashes, live.parameter_hashes[..1]);
    assert_eq!(simulated.injection, live.injection);
    for (own, other) in simulated.devices.iter().zip(&live.devices) {
        assert_eq!((own.shared_out, own.received), (other.shared_out, other.received));
    }
    let page = std::fs::read_to_string(live_folder.join("report.html")).unwrap();
    assert!(page.contains("Samples shared") && page.contains("Received"), "{page}");
    let steps = std::fs::read_to_string(live_folder.join("steps.csv")).unwrap();
    assert!(steps.lines().next().unwrap().contains("shared_out.device-0"), "{steps}");
}

#[test]
fn a_live_run_that_waits_for_its_streams_takes_the_steps_of_the_virtual_one() {
    const STEPS: u64 = 15;
    const WINDOW_SECONDS: f64 = 1.0;
    let _turn = turn();
    let scratch = Scratch::new("virtual-steps");
    let settings = Settings { name: "steps", rule: "StreamRate", steps: STEPS, ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let live = train(LIVE, &file, &scratch.path().join("live"));
    let simulated = train(VIRTUAL, &file, &scratch.path().join("virtual"));
    let [own, other] = ["virtual", "live"].map(|name| seconds(&scratch.path().join(name)));
    assert_eq!((own.len(), other.len()), (STEPS as usize, STEPS as usize));
    // A busy machine closes windows late; such time is known, and is not the clock's.
    let late: f64 = other.windows(2).map(|pair| (pair[1] - pair[0] - WINDOW_SECONDS).max(0.0)).sum();
    let [own, other] = [own, other].map(|seconds| seconds[STEPS as usize - 1] - seconds[0]);
    assert!(
        (own - other).abs() <= 0.03 * own + late,
        "{own} s on the virtual clock, {other} s live, {late} s late"
    );
    for (own, other) in simulated.devices.iter().zip(&live.devices) {
        let window = own.rate_asked.unwrap() * (WINDOW_SECONDS + late) + 2.0;
        assert!(own.buffered.abs_diff(other.buffered) as f64 <= window, "{own:?} {other:?}");
        assert!(own.trained.abs_diff(other.trained) as f64 <= window, "{own:?} {other:?}");
    }
    // The spread of seeds.
    let text = std::fs::read_to_string(&file).unwrap();
    let top_1 = |report: &RunReport| report.accuracy.last().unwrap().top_1().unwrap();
    let mut shares = vec![top_1(&simulated)];
    for seed in [1, 2] {
        let other =
            scratch.file("seed.yaml", &text.replace("training: {", &format!("training: {{seed: {seed}, ")));
        shares.push(top_1(&train(VIRTUAL, &other, &scratch.path().join(format!("seed-{seed}")))));
    }
    let (least, most) =
        shares.iter().fold((1.0_f64, 0.0_f64), |(a, b), share| (a.min(*share), b.max(*share)));
    let spread = (most - least).max(0.05);
    let found = top_1(&live);
    assert!(found >= least - spread && found <= most + spread, "live {found}, virtual {shares:?}");
}

#[test]
fn what_a_job_file_must_say_is_not_taken_from_the_command_line() {
    let scratch = Scratch::new("virtual-refused");
    let file = job(scratch.path(), &Settings::default());
    let refused = |file: &Path, more: &[&str]| {
        let folder = scratch.path().join("refused");
        let child = scadles(&trainer()).args(VIRTUAL).arg(file).args(more).arg("--out").arg(folder).spawn();
        let output = finish(child.unwrap());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        text(&output)
    };
    let said = refused(&file, &["--devices", "2"]);
    assert!(said.contains("--train") && said.contains("--devices"), "{said}");
    let job = std::fs::read_to_string(&file).unwrap();
    let (head, tail) = job.split_once("  producer:").unwrap();
    let tail = tail.split_once("  evaluation:").unwrap().1;
    let without = scratch.file("without.yaml", &format!("{head}  evaluation:{tail}"));
    let said = refused(&without, &[]);
    assert!(said.contains("spec.producer: missing") && said.contains("remedy:"), "{said}");
}

/// Starts a training that would last for hours, and waits for its trainer.
fn endless(scratch: &Scratch) -> (Child, u32) {
    let file = job(scratch.path(), &Settings { steps: 10_000_000, ..Settings::default() });
    let folder = scratch.path().join("run");
    let child = scadles(&trainer()).args(VIRTUAL).arg(file).arg("--out").arg(&folder).spawn().unwrap();
    let folder = await_some("the run folder", || folder.canonicalize().ok());
    let id = await_some("the trainer", || process_with(&["simulate", folder.to_str()?]));
    await_some("a step", || std::fs::read_to_string(folder.join("steps.csv")).ok()?.lines().nth(1).map(drop));
    (child, id)
}

/// The process whose last arguments are these.
fn process_with(arguments: &[&str]) -> Option<u32> {
    let end = arguments.iter().fold(String::new(), |text, argument| format!("{text}\0{argument}")) + "\0";
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let id = entry.file_name().to_string_lossy().parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        line.ends_with(&end).then_some(id)
    })
}

#[test]
fn a_trainer_ends_with_the_program_that_started_it() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-orphan");
    let (mut child, id) = endless(&scratch);
    signal(child.id(), "KILL");
    child.wait().unwrap();
    let folder = scratch.path().join("run").canonicalize().unwrap();
    await_some("the trainer's end", || {
        (process_with(&["simulate", folder.to_str()?]) != Some(id)).then_some(())
    });
}

#[test]
fn a_trainer_that_is_killed_is_told() {
    let _turn = turn();
    let scratch = Scratch::new("virtual-killed");
    let (child, id) = endless(&scratch);
    signal(id, "KILL");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the trainer was ended: signal: 9"), "{}", text(&output));
}
