//! `report.json`, the summary at the end of a run, its page, and runs side by side. Pure but for `run` and `follow`, which
//! read.

pub mod compare;
pub mod figures;
pub mod follow;
pub mod html;
pub mod run;
pub mod steps;

use std::{collections::BTreeMap, fmt::Write};

use scadles_api::{
    DeviceProgress, ExitCode, Ledger, PartitionPosition, Progress, ScadlesJob, Tuned,
    report::{CompressionSummary, Conventional, DeviceReport, InjectionSummary, REPORT_VERSION, RunReport},
};
use scadles_control::{
    decide::Outcome,
    estimate::CONVENTIONAL_BATCH,
    tuning::{Difference, differences},
};

use crate::{
    memory::Memory,
    screen::{grouped, span},
};

/// What is known at the end of a run.
#[derive(Clone, Debug)]
pub struct Ending<'a> {
    /// The job as given.
    pub job: &'a ScadlesJob,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// What the runner remembers.
    pub memory: &'a Memory,
    /// Rank 0's last progress, if there was one.
    pub progress: Option<&'a Progress>,
    /// Device names in the order of ranks.
    pub devices: Vec<String>,
    /// Rates asked of the producer; empty without one.
    pub rates_asked: Vec<f64>,
    /// Rates at which samples arrived; empty if they were not measured.
    pub rates_measured: Vec<f64>,
    /// Hash of the parameters per rank; empty text where a rank did not say.
    pub parameter_hashes: Vec<String>,
    /// Versions of what took part.
    pub versions: BTreeMap<String, String>,
}

/// The report of a run.
pub fn build(ending: &Ending<'_>) -> RunReport {
    let seconds = ending.memory.train_seconds;
    let steps = ending.progress.map_or(0, |progress| progress.step);
    let devices: Vec<DeviceReport> =
        (0..ending.devices.len()).map(|index| device(ending, index, steps, seconds)).collect();
    RunReport {
        version: REPORT_VERSION,
        outcome: ending.outcome.code,
        message: sentence(ending.outcome),
        job: ending.job.clone(),
        job_uid: ending.memory.job_uid.clone(),
        versions: ending.versions.clone(),
        broker: ending.memory.broker.clone(),
        steps,
        samples: ending.progress.map_or(0, |progress| progress.samples),
        seconds,
        start_seconds: ending.memory.start_seconds.unwrap_or(0.0),
        compression: ending.progress.and_then(compression),
        injection: ending.progress.and_then(injection),
        tunings: if switches(&ending.memory.tunings).is_empty() {
            vec![]
        } else {
            ending.memory.tunings.clone()
        },
        conventional: conventional(&ending.rates_asked, &devices, seconds),
        devices,
        accuracy: ending.memory.accuracy.clone(),
        parameter_hashes: ending.parameter_hashes.clone(),
        attempts: ending.memory.supervision.history.clone(),
    }
}

fn compression(progress: &Progress) -> Option<CompressionSummary> {
    let seen = progress.compression?;
    Some(CompressionSummary {
        ratio: seen.ratio,
        sparse_steps: seen.sparse_steps,
        half_steps: seen.half_steps,
        vetoed_steps: seen.vetoed_steps,
        cnc: seen.sparse_steps as f64 / progress.step.max(1) as f64,
        bytes_sent: progress.devices.iter().map(|device| device.bytes_sent).sum(),
        dense_bytes: progress.devices.iter().map(|device| device.dense_bytes).sum(),
    })
}

fn injection(progress: &Progress) -> Option<InjectionSummary> {
    let seen = progress.injection?;
    Some(InjectionSummary {
        mode: seen.mode,
        shared_samples: seen.shared_samples,
        bytes_sent: seen.bytes_sent,
        paper_bytes: seen.paper_bytes(),
    })
}

/// Each switch of settings while the run lived: its first step, and the fields that it changed.
pub fn switches(tunings: &[Tuned]) -> Vec<(u64, Vec<Difference>)> {
    let pairs = tunings.windows(2).map(|pair| (pair[1].step, differences(&pair[0].tuning, &pair[1].tuning)));
    pairs.filter(|(_, fields)| !fields.is_empty()).collect()
}

/// The report with the mean weight of each device, from the steps' table; unchanged if that has none.
pub fn with_weights(mut report: RunReport, weights: &[f64]) -> RunReport {
    for (device, weight) in report.devices.iter_mut().zip(weights) {
        device.weight_mean = *weight;
    }
    report
}

fn sentence(outcome: &Outcome) -> String {
    if outcome.remedy.is_empty() {
        outcome.message.clone()
    } else {
        format!("{}; remedy: {}", outcome.message, outcome.remedy)
    }
}

fn device(ending: &Ending<'_>, index: usize, steps: u64, seconds: f64) -> DeviceReport {
    let name = ending.devices[index].clone();
    let rate_asked = ending.rates_asked.get(index).copied();
    let Some(seen) = ending.progress.and_then(|progress| progress.devices.get(index)) else {
        return DeviceReport { name, rate_asked, ..DeviceReport::default() };
    };
    let DeviceProgress { ledger, bytes_sent, wait_seconds, prequential_accuracy, .. } = seen;
    let per = |number: u64, of: f64| if of > 0.0 { number as f64 / of } else { 0.0 };
    DeviceReport {
        name,
        arrived: ledger.arrived,
        trained: ledger.trained,
        buffered: ledger.buffered,
        dropped: ledger.dropped,
        rejected: ledger.rejected,
        lost: ledger.lost,
        rolled_back: ledger.rolled_back,
        shared_out: ledger.shared_out,
        received: ledger.received,
        rate_mean: ending.rates_measured.get(index).copied().unwrap_or_else(|| per(ledger.arrived, seconds)),
        rate_asked,
        batch_mean: per(ledger.trained, steps as f64),
        // The steps' table has it: see `with_weights`.
        weight_mean: 0.0,
        bytes_sent: *bytes_sent,
        wait_seconds: *wait_seconds,
        prequential_accuracy: *prequential_accuracy,
    }
}

fn conventional(asked: &[f64], devices: &[DeviceReport], seconds: f64) -> Option<Conventional> {
    let measured: Vec<f64> = devices.iter().map(|device| device.rate_mean).collect();
    let rates = if asked.is_empty() { measured.as_slice() } else { asked };
    let known = !rates.is_empty() && rates.iter().all(|rate| *rate > 0.0) && seconds > 0.0;
    known.then(|| scadles_control::conventional(rates, seconds, CONVENTIONAL_BATCH)).flatten()
}

/// The account of a device at the moment when its stream ends at `ends`: what arrived since the worker's last look waits
/// at the broker.
pub fn settle(ledger: &mut Ledger, positions: &[PartitionPosition], ends: &[(i32, i64)]) {
    let growth: i64 = positions
        .iter()
        .filter_map(|position| {
            let (_, end) = ends.iter().find(|(partition, _)| *partition == position.partition)?;
            Some((end - position.end).max(0))
        })
        .sum();
    let growth = growth.cast_unsigned();
    ledger.arrived += growth;
    ledger.buffered += growth;
}

/// The summary of a run, as printed at its end and by `scadles report`.
pub fn summary(report: &RunReport) -> String {
    let mut text = String::new();
    let speed = if report.seconds > 0.0 { report.samples as f64 / report.seconds } else { 0.0 };
    let verb = if ends_well(report.outcome) { "" } else { " failed" };
    let _ = writeln!(text, "{}{verb}: {}", report.job.metadata.name, report.message);
    let _ = writeln!(
        text,
        "{} samples in {} ({speed:.0}/s), {} steps, {} attempt{}",
        grouped(report.samples),
        span(report.seconds),
        grouped(report.steps),
        report.attempts.len(),
        if report.attempts.len() == 1 { "" } else { "s" },
    );
    accuracy(&mut text, report);
    devices(&mut text, report);
    comparison(&mut text, report);
    compressed(&mut text, report);
    shared(&mut text, report);
    tuned(&mut text, report);
    hashes(&mut text, report);
    text
}

/// Whether a run that ended so did what was asked of it.
pub fn ends_well(code: ExitCode) -> bool {
    matches!(code, ExitCode::Completed | ExitCode::Stopped | ExitCode::Interrupted)
}

fn accuracy(text: &mut String, report: &RunReport) {
    let Some(last) = report.accuracy.last() else { return };
    let shares: Vec<String> =
        last.top_k.iter().map(|top| format!("Top-{} {:.2} %", top.accuracy_k, top.share * 100.0)).collect();
    let _ = writeln!(
        text,
        "{} on {} held-out pictures after step {} (loss {:.3})",
        shares.join(", "),
        grouped(last.pictures),
        grouped(last.step),
        last.loss
    );
}

/// A column of the devices' table: heading and cell.
type Column = (&'static str, fn(&DeviceReport) -> String);

const ACCOUNT: [Column; 9] = [
    ("arrived", |device| grouped(device.arrived)),
    ("trained", |device| grouped(device.trained)),
    ("buffered", |device| grouped(device.buffered)),
    ("dropped", |device| grouped(device.dropped)),
    ("rejected", |device| grouped(device.rejected)),
    ("lost", |device| grouped(device.lost)),
    ("rolled back", |device| grouped(device.rolled_back)),
    ("shared", |device| grouped(device.shared_out)),
    ("received", |device| grouped(device.received)),
];

/// The devices' table; columns of the account that are zero everywhere are left out, so that it fits a terminal.
fn devices(text: &mut String, report: &RunReport) {
    let says_something = |(_, cell): &&Column| report.devices.iter().any(|device| cell(device) != grouped(0));
    let mut columns: Vec<Column> = vec![
        ("device", |device| device.name.clone()),
        ("rate/s", |device| format!("{:.1}", device.rate_mean)),
    ];
    columns.extend(ACCOUNT.iter().filter(says_something));
    columns.extend([
        ("batch", (|device| format!("{:.1}", device.batch_mean)) as fn(&DeviceReport) -> String),
        ("weight", |device| format!("{:.3}", device.weight_mean)),
        ("wait", |device| span(device.wait_seconds)),
    ]);
    let mut lines = vec![String::new(); report.devices.len() + 1];
    for (place, (heading, cell)) in columns.into_iter().enumerate() {
        let cells: Vec<String> =
            std::iter::once(heading.to_owned()).chain(report.devices.iter().map(cell)).collect();
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(cells) {
            let padded = if place == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&padded);
        }
    }
    let _ = writeln!(text, "\n{}", lines.join("\n"));
    let verdict = if report.devices.iter().all(is_balanced) {
        "every sample is accounted for: arrived = trained + buffered + dropped + rejected + lost"
    } else {
        "WARNING: the account of samples does not balance; please report this with the run folder"
    };
    let _ = writeln!(text, "{verdict}");
}

/// Whether every sample that arrived has one fate.
pub fn is_balanced(device: &DeviceReport) -> bool {
    device.arrived == device.trained + device.buffered + device.dropped + device.rejected + device.lost
}

fn comparison(text: &mut String, report: &RunReport) {
    let Some(conventional) = &report.conventional else { return };
    let _ = writeln!(
        text,
        "\nFixed {} would have trained {} samples in this time ({} steps; each waits {:.2} s for the slowest stream)",
        conventional.batch,
        grouped(conventional.samples),
        grouped(conventional.steps),
        conventional.step_seconds,
    );
    if conventional.samples > 0 {
        let factor = report.samples as f64 / conventional.samples as f64;
        let _ = writeln!(text, "this run trained {factor:.1} times as many");
    }
}

fn compressed(text: &mut String, report: &RunReport) {
    let Some(compression) = &report.compression else { return };
    let steps = match compression.sparse_steps {
        0 => format!("no step of {} sent less than all elements", grouped(report.steps)),
        sparse => format!(
            "{} of {} steps sent {} % of the elements (CNC {:.3})",
            grouped(sparse),
            grouped(report.steps),
            (compression.ratio * 1000.0).round() / 10.0,
            compression.cnc
        ),
    };
    let half = match compression.half_steps {
        0 => String::new(),
        half => format!(", {} all of them in half precision", grouped(half)),
    };
    let _ = writeln!(
        text,
        "\ncompression: {steps}{half}, {} were vetoed by the gate\n{} bytes sent, {:.1} % of the {} of dense steps",
        grouped(compression.vetoed_steps),
        grouped(compression.bytes_sent),
        compression.bytes_sent as f64 / compression.dense_bytes.max(1) as f64 * 100.0,
        grouped(compression.dense_bytes),
    );
}

fn shared(text: &mut String, report: &RunReport) {
    let Some(injection) = &report.injection else { return };
    let _ = writeln!(
        text,
        "\ninjection ({:?}): {} samples shared, {} bytes sent; by the paper's accounting (3 KB a sample, once) {}",
        injection.mode,
        grouped(injection.shared_samples),
        grouped(injection.bytes_sent),
        grouped(injection.paper_bytes),
    );
}

fn tuned(text: &mut String, report: &RunReport) {
    let switches = switches(&report.tunings);
    if switches.is_empty() {
        return;
    }
    let _ = writeln!(text, "\ntuned while it ran; until then it was as the job file says:");
    for (step, fields) in switches {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  from step {}: {}", grouped(step), fields.join(", "));
    }
}

fn hashes(text: &mut String, report: &RunReport) {
    let Some(first) = report.parameter_hashes.first().filter(|hash| !hash.is_empty()) else { return };
    let _ = if report.parameter_hashes.len() == 1 {
        writeln!(text, "hash of the parameters: {first}")
    } else if report.parameter_hashes.iter().all(|hash| hash == first) {
        writeln!(
            text,
            "parameters are bit-identical on all {} ranks (hash {first})",
            report.parameter_hashes.len()
        )
    } else {
        writeln!(text, "parameter hashes per rank: {}", report.parameter_hashes.join(" "))
    };
}

#[cfg(test)]
pub(crate) mod tests;
