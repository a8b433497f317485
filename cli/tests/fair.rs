//! `scadles reproduce fair --quick`: every run of the comparison is trained, and what was trained stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, time::Duration};

use support::{Scratch, data_sets, fake_worker, finish, finish_within, scadles, text, trainer, turn};

fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

#[test]
fn the_fair_comparison_in_small_has_all_its_tables_and_goes_on_where_it_was() {
    const PATIENCE: Duration = Duration::from_mins(5);
    let _turn = turn();
    let scratch = Scratch::new("fair");
    let out = scratch.path().join("fair");
    let data = data_sets();
    let arguments =
        ["reproduce", "fair", "--quick", "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let compare = || {
        let output = finish_within(PATIENCE, scadles(&trainer()).args(arguments).spawn().unwrap());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    let told = compare();
    has(
        &told,
        &[
            "conventional DDL: 64 a device",
            "batch = min S",
            "ours: LineRate, Auto, GroupNorm",
            "StreamRate, AdaScale",
            "BatchNorm, agreed statistics",
            "by waiting",
            "3 seeds",
            " ± ",
            "1.00×",
        ],
    );
    let tables = fs::read_to_string(out.join("fair.txt")).unwrap();
    for plot in ["fair-time.svg", "fair-bytes.svg", "fair-samples.svg", "scaling-s2.svg", "labels.svg"] {
        let picture = fs::read_to_string(out.join("plots").join(plot)).unwrap();
        assert!(picture.contains("<path") || picture.contains("<polyline"), "{plot}");
    }
    // The waiting of conventional training is gone under LineRate, and most of what arrives is trained.
    let cells = |method: &str| -> Vec<String> {
        let line = tables.lines().find(|line| line.contains(method)).unwrap();
        let numbers = line.split(method).nth(1).unwrap();
        numbers.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let (conventional, ours) =
        (cells("conventional DDL: 64 a device"), cells("ours: LineRate, Auto, GroupNorm"));
    let share = |cells: &[String]| cells[4].parse::<f64>().unwrap();
    assert!(share(&ours) > 90.0 && share(&conventional) < 50.0, "{conventional:?} {ours:?}");
    // One run is missing, one was left in the middle: two are trained, and the same numbers come of it.
    fs::remove_dir_all(out.join("fair-s1-ddl-s0")).unwrap();
    fs::remove_file(out.join("fair-s1-ours-s1/report.json")).unwrap();
    let again = compare();
    let trained =
        again.lines().filter(|line| line.contains(" of ") && line.contains("-s")).collect::<Vec<_>>();
    assert_eq!(trained.iter().filter(|line| !line.ends_with("there already")).count(), 2, "{trained:?}");
    assert_eq!(fs::read_to_string(out.join("fair.txt")).unwrap(), tables);
    let other = finish(scadles(&fake_worker()).args(["reproduce", "table2", "--quick"]).spawn().unwrap());
    assert_eq!(other.status.code(), Some(2));
    has(&text(&other), &["table2", "scadles reproduce fair"]);
}
