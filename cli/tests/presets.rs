//! `scadles run --preset` and `scadles simulate --preset … --train`, as a user types them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::{self, File},
    path::Path,
};

use scadles_api::{ExitCode, job::DatasetName};
use support::{
    Scratch, assert_balanced, data_sets, fake_worker, finish, report, scadles, text, trainer, turn,
};

/// Runs a command and expects a code; what it said.
fn said(arguments: &[&str], worker: &Path, code: i32) -> String {
    let output = finish(scadles(worker).args(arguments).spawn().unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

#[test]
fn a_preset_trains_live_and_on_the_virtual_clock_and_says_what_was_replaced() {
    let _turn = turn();
    let scratch = Scratch::new("preset");
    let data = data_sets();
    let (live, simulated) = (scratch.path().join("live"), scratch.path().join("virtual"));
    let size = ["--preset", "adapcomp-resnet152", "--model", "mlp", "--devices", "2", "--rates", "640,320"];
    let place = |folder: &Path| {
        ["--data", data.to_str().unwrap(), "--out", folder.to_str().unwrap()].map(str::to_owned)
    };
    let train = |command: &[&str], folder: &Path| {
        let mut arguments: Vec<String> = command.iter().chain(&size).map(|&part| part.to_owned()).collect();
        arguments.extend(["--steps", "6", "--threads", "1"].map(str::to_owned));
        arguments.extend(place(folder));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let told = said(&arguments, &trainer(), 0);
        let replaced =
            "replaced: ResNet152 → Mlp, 10 devices → 2 devices, rates → [640.0, 320.0], 250 epochs → 6 steps";
        has(&told, &["preset adapcomp-resnet152", replaced]);
        let report = report(folder);
        assert_eq!((report.outcome, report.steps), (ExitCode::Completed, 6));
        assert_balanced(&report);
        report
    };
    let run = train(&["run", "--plain"], &live);
    let simulated = train(&["simulate", "--train"], &simulated);
    assert_eq!(run.samples, simulated.samples, "64 a device");
    let kept = fs::read_to_string(live.join("job.yaml")).unwrap();
    has(&kept, &["# replaced: ResNet152 → Mlp", "compression: {mode: Adaptive, ratio: 0.1, delta: 0.3}"]);
}

#[test]
fn the_job_of_a_preset_can_be_kept_and_simulated_like_any_other() {
    let scratch = Scratch::new("preset-job");
    for command in [&["run"][..], &["simulate"][..]] {
        let arguments =
            [command, &["--preset", "adapcomp-injection-resnet152", "--devices", "5", "--print-job"]];
        let told = said(&arguments.concat(), &fake_worker(), 0);
        has(
            &told,
            &["# replaced: ", "labelsPerDevice: 2", "injection: {mode: Replicate, donorFraction: 0.5"],
        );
        let file = scratch.file("job.yaml", &told);
        let told = said(&["simulate", file.to_str().unwrap(), "--steps", "5"], &fake_worker(), 0);
        has(&told, &["5 devices", "Replicate α 0.5 β 0.5"]);
    }
}

#[test]
fn a_preset_of_vgg_19_has_cifar_100_where_it_is_and_says_where_it_is_not() {
    let _turn = turn();
    let scratch = Scratch::new("preset-cifar-100");
    let job = |data: &Path| {
        said(
            &["run", "--preset", "streamsim-vgg19", "--print-job", "--data", data.to_str().unwrap()],
            &fake_worker(),
            0,
        )
    };
    has(&job(scratch.path()), &["Cifar100 → Cifar10", "dataset: {name: Cifar10}"]);
    // Nothing but zeros: the right number of pictures, all of the first label.
    let folder = scratch.path().join("cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    for (name, pictures) in [("train.bin", 50_000), ("test.bin", 10_000)] {
        File::create(folder.join(name)).unwrap().set_len(pictures * 3074).unwrap();
    }
    let told = job(scratch.path());
    assert!(told.contains("dataset: {name: Cifar100}") && !told.contains("Cifar100 →"), "{told}");
    let out = scratch.path().join("run");
    let place = ["--data", scratch.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
    let size = ["--preset", "streamsim-vgg19", "--train", "--model", "Mlp", "--devices", "2", "--steps", "2"];
    said(&[&["simulate"][..], &size, &place].concat(), &trainer(), 0);
    let producer = report(&out).job.spec.producer.unwrap();
    assert_eq!(producer.dataset.name, DatasetName::Cifar100);
}

#[test]
fn what_is_wrong_with_a_preset_or_its_size_is_said_before_anything_starts() {
    let scratch = Scratch::new("preset-refused");
    let refused = |more: &[&str], parts: &[&str]| {
        let out = scratch.path().join("refused");
        for command in [&["run"][..], &["simulate", "--train"][..]] {
            let told =
                said(&[command, more, &["--out", out.to_str().unwrap()][..]].concat(), &fake_worker(), 2);
            has(&told, parts);
        }
        assert!(!out.exists(), "a refused preset leaves no run folder");
    };
    refused(
        &["--preset", "adapcom-vgg19"],
        &["adapcom-vgg19", "did you mean adapcomp-vgg19", "--list-presets"],
    );
    let preset = ["--preset", "paper/s1-resnet152"];
    let with = |more: &[&'static str]| [&preset[..], more].concat();
    refused(&with(&["--rates", "5,6", "--devices", "3"]), &["2 rates for 3 devices", "give 3 rates"]);
    refused(&with(&["--rates", "5,-6"]), &["--rates", "allowed is a number above 0"]);
    refused(&with(&["--model", "ResNet19"]), &["ResNet19", "did you mean ResNet18?"]);
    let large = with(&["--model", "Vgg19", "--devices", "1024"]);
    refused(&large, &["--model Vgg19 on 1024 devices", "GiB, this machine has", "remedy:"]);
    refused(&["--model", "Cnn"], &["--preset"]);
}
