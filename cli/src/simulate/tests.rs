use std::{collections::BTreeSet, path::Path};

use clap::Parser;
use scadles_control::estimate::columns;
use scadles_core::sim::RateProfile;

use super::{
    args::Changes,
    options::{Shape, apply},
    presets::{PRESETS, find},
    scenario::Scenario,
    *,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    changes: Changes,
}

fn changes(line: &str) -> Result<Changes, String> {
    let words = std::iter::once("simulate").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.changes).map_err(|error| error.to_string())
}

fn changed(preset: &str, line: &str) -> Result<Scenario, String> {
    let changes = changes(line)?;
    let devices = changes.devices.map(|devices| devices as usize);
    let scenario = Scenario::of_preset(find(preset).unwrap(), devices);
    apply(scenario, &changes).map_err(|failure| format!("{} / {}", failure.message, failure.remedy))
}

fn run(preset: &str, line: &str) -> Simulated {
    simulate(changed(preset, line).unwrap())
}

/// Compares with a stored text; `SCADLES_WRITE_GOLDEN=1` stores it anew.
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, stored, "{}; SCADLES_WRITE_GOLDEN=1 stores it anew", path.display());
}

#[test]
fn all_presets_run_at_full_size_and_come_to_what_is_stored() {
    let all: Vec<Simulated> = PRESETS.iter().map(|preset| run(preset.name, "")).collect();
    let mut text = String::new();
    columns(&mut text, &table::comparison(&all), 1);
    assert_golden("presets.txt", &text);
    for simulated in &all {
        let epochs = simulated.summary.trained as f64 / 50_000.0;
        assert!((250.0..251.0).contains(&epochs), "{}: {epochs} epochs", simulated.scenario.name);
    }
}

#[test]
fn a_simulation_reads_as_a_tidy_page() {
    let all = [run("adapcomp-injection-vgg19", "--epochs 2"), run("paper/s1-resnet152-ddl", "--steps 500")];
    assert_golden("simulate.txt", &table::render(&all));
    assert_golden("list-presets.txt", &table::presets());
}

#[test]
fn the_csv_and_the_json_hold_the_steps() {
    let all = [run("paper/s1-resnet152", "--steps 100")];
    let csv = export::csv(&all);
    assert_eq!(csv.lines().count(), 101);
    let columns: BTreeSet<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns.len(), 1, "every line has the same columns");
    let json: serde_json::Value = serde_json::from_str(&export::json(&all).unwrap()).unwrap();
    let simulation = &json["simulations"][0];
    assert_eq!(simulation["steps"].as_array().unwrap().len(), 100);
    assert_eq!(simulation["summary"]["end"]["reason"], "complete");
    assert_eq!(simulation["streamRates"].as_array().unwrap().len(), 16);
}

#[test]
fn the_plots_of_several_simulations_have_a_line_for_each() {
    let all = [run("paper/s1-resnet152", "--steps 100"), run("paper/s1-resnet152-ddl", "--steps 100")];
    for plot in plots::plots(&all) {
        let svg = plot.figure.document();
        assert!(svg.contains("paper/s1-resnet152-ddl"), "{svg}");
        assert_eq!(svg.matches("<path class=\"curve").count(), 2, "{svg}");
    }
}

#[test]
fn the_same_command_gives_the_same_numbers_and_another_seed_others() {
    let total = |line: &str| run("adapcomp-injection-resnet152", line).summary;
    assert_eq!(total("--steps 300 --compute-noise 0.2"), total("--steps 300 --compute-noise 0.2"));
    assert_ne!(total("--steps 300 --compute-noise 0.2"), total("--steps 300 --compute-noise 0.2 --seed 7"));
}

#[test]
fn a_rate_list_shorter_than_the_devices_names_both_and_what_to_do() {
    let message = changed("adapcomp-resnet152", "--rates 50,38,12").unwrap_err();
    for part in ["--rates = 50,38,12", "3 rates for 10 devices", "one per device", "--devices 3"] {
        assert!(message.contains(part), "`{part}` is missing in {message}");
    }
    let scenario = changed("adapcomp-resnet152", "--rates 50,38,12 --devices 3").unwrap();
    assert_eq!(scenario.rates, [50.0, 38.0, 12.0]);
    assert!(scenario.notes.iter().any(|note| note == "3 devices instead of 10"), "{:?}", scenario.notes);
    assert_eq!(changed("adapcomp-resnet152", "--rates 50").unwrap().rates, [50.0; 10]);
}

#[test]
fn impossible_numbers_name_the_option_the_value_and_what_is_allowed() {
    for (line, parts) in [
        ("--rates -5", ["--rates", "-5", "a number above 0"]),
        ("--rates 5,-1", ["--rates", "-1", "a number above 0"]),
        ("--rates 5,x", ["--rates", "'x'", "a number above 0"]),
        ("--seconds 0", ["--seconds", "'0'", "a number above 0"]),
        ("--compute-noise 1.5", ["--compute-noise", "1.5", "a number from 0 to 1"]),
        ("--compression-ratio 0", ["--compression-ratio", "'0'", "above 0, at most 1"]),
        ("--stream wave:1", ["--stream", "wave:1", "sine:SWING:PERIOD"]),
        ("--stream burst:8:40:30", ["--stream", "burst:8:40:30", "longer than its period"]),
        ("--stream drop-out:9:5:1", ["--stream", "drop-out:9:5:1", "ends after it begins"]),
        ("--sparse-share 0.5", ["--sparse-share", "0.5", "--compression-ratio"]),
        ("--exchange reduce-scatter", ["--exchange", "share of values", "--compression-ratio 0.1"]),
    ] {
        let message = changed("datainjection-resnet152", line).unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{line}: `{part}` is missing in {message}");
        }
    }
}

#[test]
fn a_shape_multiplies_every_devices_rate() {
    let scenario = changed("adapcomp-resnet152", "--stream burst:8:2:30").unwrap();
    let expected =
        RateProfile::Burst { rate: 270.0, burst_rate: 2_160.0, burst_seconds: 2.0, period_seconds: 30.0 };
    assert_eq!(scenario.sim_devices()[0].stream, expected);
    let gone = changed("adapcomp-resnet152", "--stream drop-out:10:20:1").unwrap().sim_devices();
    assert_eq!(gone[1].stream, RateProfile::Constant(218.0));
    assert!(matches!(gone[0].stream, RateProfile::DropOut { .. }));
    assert_eq!(Shape::read("sine:0.5:60"), Ok(Shape::Sine { swing: 0.5, period_seconds: 60.0 }));
}

#[test]
fn a_tenth_of_the_values_with_long_indices_sends_more_than_everything() {
    let sent = |line: &str| run("datainjection-resnet152", line).summary.exchange_bytes;
    let dense = sent("--steps 50");
    assert!(sent("--steps 50 --exchange all-gather64 --compression-ratio 0.1") > dense);
    assert!(sent("--steps 50 --exchange reduce-scatter --compression-ratio 0.01") * 20 < dense);
}
