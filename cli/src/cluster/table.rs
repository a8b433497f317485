//! `scadles status`: one line per job. Pure.

use kube::ResourceExt;
use scadles_api::crd::ScadlesJobObject;

use super::{client::Listed, time};

/// What a column without a value shows.
const NOTHING: &str = "-";

/// Columns of the table; numbers stand right.
const COLUMNS: [(&str, bool); 10] = [
    ("name", false),
    ("state", false),
    ("ready", true),
    ("step", true),
    ("samples/s", true),
    ("lag", true),
    ("starved", true),
    ("attempt", true),
    ("top-1", true),
    ("age", true),
];

/// The table of jobs, its head first.
pub fn table(jobs: &[Listed], with_namespace: bool, now: f64) -> Vec<String> {
    let mut columns = COLUMNS.to_vec();
    if with_namespace {
        columns.insert(0, ("namespace", false));
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|listed| {
            let mut cells = cells(listed, now);
            if with_namespace {
                cells.insert(0, listed.raw.namespace().unwrap_or_default());
            }
            cells
        })
        .collect();
    aligned(&columns, &rows)
}

/// The cells of one job, without the age: what has changed when it differs.
pub fn news(listed: &Listed) -> Vec<String> {
    let mut cells = cells(listed, 0.0);
    cells.pop();
    cells
}

fn cells(listed: &Listed, now: f64) -> Vec<String> {
    let name = listed.raw.name_any();
    let age =
        listed.raw.creation_timestamp().map_or(NOTHING.to_owned(), |made| time::brief(now - time::of(&made)));
    let mut cells = vec![name];
    if let Ok(job) = &listed.job {
        cells.extend(state_cells(job));
    } else {
        cells.push("Unreadable".to_owned());
        cells.extend(std::iter::repeat_n(NOTHING.to_owned(), COLUMNS.len() - 3));
    }
    cells.push(age);
    cells
}

fn state_cells(job: &ScadlesJobObject) -> [String; 8] {
    let status = job.status.clone().unwrap_or_default();
    let top_1 = status.result.as_ref().and_then(|result| result.top1_percent);
    let top_1 = top_1.or(status.evaluation.as_ref().map(|evaluation| evaluation.top1_percent));
    let or_nothing = |text: String| if text.is_empty() { NOTHING.to_owned() } else { text };
    [
        status.state.map_or(NOTHING.to_owned(), |state| format!("{state:?}")),
        or_nothing(status.ready),
        status.step.to_string(),
        format!("{:.0}", status.samples_per_second),
        status.lag.to_string(),
        status.starved.to_string(),
        status.attempt.to_string(),
        top_1.map_or(NOTHING.to_owned(), |percent| format!("{percent:.1}%")),
    ]
}

/// Rows below each other, two spaces between columns; a column is right-aligned if its head says so.
pub fn aligned(columns: &[(&str, bool)], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width =
        |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).zip(columns).map(|((cell, width), (_, right))| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}
