//! Runs side by side: what was set differently, and what came of it. Pure.

use std::collections::BTreeMap;

use scadles_api::report::InjectionSummary;
use scadles_control::tuning::Difference;
use serde_json::Value;

use super::{run::Run, switches};
use crate::{
    cluster::table::aligned,
    plot::COLOURS,
    screen::{grouped, span},
};

/// More runs have no room beside each other, and no colour of their own.
pub const MOST_RUNS: usize = COLOURS;

/// A setting is cut beyond this many letters.
const MOST_LETTERS: usize = 40;

/// What a run without a value shows.
const NOTHING: &str = "–";

/// One line of the comparison: a name, and a cell for each run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is compared.
    pub name: String,
    /// The runs' values.
    pub cells: Vec<String>,
}

/// Fields of the job file that differ between the runs, or that one of them was tuned to. A field that a job leaves out has
/// its default.
pub fn settings(runs: &[Run]) -> Vec<Row> {
    let jobs: Vec<BTreeMap<String, String>> = runs
        .iter()
        .map(|run| {
            let mut fields = BTreeMap::new();
            let job = serde_json::to_value(&run.report.job.spec).unwrap_or(Value::Null);
            flatten("spec", &job, &mut fields);
            for (step, changed) in switches(&run.report.tunings) {
                for Difference { field, before, after } in changed {
                    let value = fields.entry(field.to_owned()).or_insert(before);
                    *value = format!("{value}, from step {step} {after}");
                }
            }
            fields
        })
        .collect();
    let names: std::collections::BTreeSet<&String> = jobs.iter().flat_map(BTreeMap::keys).collect();
    let row = |name: &String| {
        let values: Vec<Option<&String>> = jobs.iter().map(|fields| fields.get(name)).collect();
        let differ = values.iter().any(|value| *value != values[0]);
        let cell = |value: Option<&String>| value.map_or("(default)".to_owned(), |value| cut(value));
        differ.then(|| Row { name: name.clone(), cells: values.into_iter().map(cell).collect() })
    };
    names.into_iter().filter_map(row).collect()
}

/// Fields by their paths; lists are one value, since a comparison item by item says little.
fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(&format!("{path}.{name}"), member, fields);
            }
        }
        Value::String(text) => {
            fields.insert(path.to_owned(), text.clone());
        }
        other => {
            fields.insert(path.to_owned(), other.to_string());
        }
    }
}

/// A setting as it may stand in a terminal's table: not too long, and without what a terminal would obey.
fn cut(text: &str) -> String {
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    if text.chars().count() <= MOST_LETTERS {
        return plain.collect();
    }
    plain.take(MOST_LETTERS - 1).chain(['…']).collect()
}

/// A result: its name, and how a run has it.
type Outcome = (&'static str, fn(&Run) -> String);

const OUTCOMES: [Outcome; 21] = [
    ("outcome", |run| format!("{:?}", run.report.outcome)),
    ("devices", |run| grouped(run.report.devices.len() as u64)),
    ("samples trained", |run| grouped(run.report.samples)),
    ("steps", |run| grouped(run.report.steps)),
    ("training time", |run| span(run.report.seconds)),
    ("samples per second", |run| format!("{:.1}", run.samples_per_second())),
    ("Top-1", |run| last_top(run, 1)),
    ("Top-5", |run| last_top(run, 5)),
    ("held-out loss", |run| decimals(run.report.accuracy.last().map(|last| last.loss))),
    ("training loss", |run| decimals(run.curves.last_loss)),
    ("waiting", |run| share(run.waiting_share())),
    ("buffered", |run| grouped(run.total(|device| device.buffered))),
    ("dropped", |run| grouped(run.total(|device| device.dropped))),
    ("rejected", |run| grouped(run.total(|device| device.rejected))),
    ("lost", |run| grouped(run.total(|device| device.lost))),
    ("rolled back", |run| grouped(run.total(|device| device.rolled_back))),
    ("gradient bytes sent", |run| grouped(run.total(|device| device.bytes_sent))),
    ("samples shared", |run| injected(run, |injection| injection.shared_samples)),
    ("sample bytes sent", |run| injected(run, |injection| injection.bytes_sent)),
    ("attempts", |run| grouped(run.report.attempts.len() as u64)),
    ("beside Fixed 64", beside_conventional),
];

/// What came of the runs; without what none of them has.
pub fn results(runs: &[Run]) -> Vec<Row> {
    let row = |(name, cell): Outcome| Row { name: name.to_owned(), cells: runs.iter().map(cell).collect() };
    let rows = OUTCOMES.into_iter().map(row);
    rows.filter(|row| row.cells.iter().any(|cell| cell != NOTHING)).collect()
}

fn injected(run: &Run, count: fn(&InjectionSummary) -> u64) -> String {
    run.report.injection.as_ref().map_or(NOTHING.to_owned(), |injection| grouped(count(injection)))
}

fn last_top(run: &Run, k: u32) -> String {
    let last = run.report.accuracy.last();
    let found = last.and_then(|last| last.top_k.iter().find(|top| top.accuracy_k == k));
    found.map_or(NOTHING.to_owned(), |top| format!("{:.2} %", top.share * 100.0))
}

fn decimals(loss: Option<f64>) -> String {
    loss.map_or(NOTHING.to_owned(), |loss| format!("{loss:.3}"))
}

fn share(share: Option<f64>) -> String {
    share.map_or(NOTHING.to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn beside_conventional(run: &Run) -> String {
    let conventional = run.report.conventional.as_ref().filter(|conventional| conventional.samples > 0);
    conventional.map_or(NOTHING.to_owned(), |conventional| {
        format!("{:.1} ×", run.report.samples as f64 / conventional.samples as f64)
    })
}

/// The comparison for a terminal.
pub fn text(runs: &[Run]) -> String {
    let columns: Vec<(&str, bool)> =
        std::iter::once(("", false)).chain(runs.iter().map(|run| (run.name.as_str(), true))).collect();
    let cells = |rows: Vec<Row>| -> Vec<Vec<String>> {
        rows.into_iter().map(|row| std::iter::once(row.name).chain(row.cells).collect()).collect()
    };
    let differing = cells(settings(runs));
    let split = differing.len();
    let mut rows = differing;
    rows.extend(cells(results(runs)));
    let mut lines = aligned(&columns, &rows);
    if split > 0 {
        lines.insert(1 + split, String::new());
    } else {
        lines.insert(1, "the jobs' settings are the same".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
