//! The text of `scadles plan`.

use std::fmt::Write as _;

use scadles_api::worker::{BatchRule, InjectionConfig, InjectionMode, JobConfig};
use scadles_core::inject::InjectionRule;

use super::{Estimate, RuleEstimate};
use crate::{plan::Plan, text};

/// Devices that get a line of their own; more would hide the summary.
const MOST_LINES: usize = 32;

/// The plan and its estimate as a table for people.
pub fn render(plan: &Plan, estimate: &Estimate) -> String {
    let mut out = String::new();
    let Some(job) = plan.job() else { return out };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "Job {}: {:?}, {} parameters, {} devices",
        job.name,
        job.model.name,
        grouped(estimate.parameters),
        job.devices.len()
    );
    devices(&mut out, plan, job, estimate);
    rules(&mut out, estimate);
    costs(&mut out, plan, job, estimate);
    if !plan.notes.is_empty() {
        out.push_str("\nNotes\n");
        for note in &plan.notes {
            let _ = writeln!(out, "  - {note}");
        }
    }
    out
}

fn devices(out: &mut String, plan: &Plan, job: &JobConfig, estimate: &Estimate) {
    let chosen = estimate.rules.iter().find(|rule| rule.chosen);
    let mut rows = vec![row(&["device", "topic", "partitions", "rate/s", "batch", "weight", "wait s"])];
    for (index, (device, topic)) in job.devices.iter().zip(&plan.topics).enumerate().take(MOST_LINES) {
        let rate = estimate.rates.as_ref().and_then(|rates| rates.get(index));
        let step = chosen.and_then(|rule| rule.settled.devices.get(index));
        let topic_name =
            if topic.create { device.topic.clone() } else { format!("{} (yours)", device.topic) };
        rows.push(vec![
            device.name.clone(),
            topic_name,
            device.partitions.to_string(),
            rate.map_or_else(|| "measured".to_owned(), |rate| format!("{rate:.1}")),
            step.map_or_else(dash, |step| format!("{:.1}", step.local_batch)),
            step.map_or_else(dash, |step| format!("{:.3}", step.aggregation_weight)),
            step.map_or_else(dash, |step| format!("{:.2}", step.wait_seconds)),
        ]);
    }
    match chosen {
        Some(rule) => {
            let _ = writeln!(out, "\nDevices, with {}", rule_name(rule.rule));
        }
        None => out.push_str("\nDevices\n"),
    }
    columns(out, &rows, 2);
    if job.devices.len() > MOST_LINES {
        let _ = writeln!(out, "  … and {} more", job.devices.len() - MOST_LINES);
    }
}

fn rules(out: &mut String, estimate: &Estimate) {
    if estimate.rules.is_empty() {
        return;
    }
    out.push_str("\nBatch rules with these streams (estimated; * = this job's)\n");
    let mut rows = vec![row(&["rule", "batch", "wait s", "step s", "samples/s", "backlogged"])];
    rows.extend(estimate.rules.iter().map(rule_row));
    columns(out, &rows, 1);
}

fn rule_row(rule: &RuleEstimate) -> Vec<String> {
    let devices = &rule.settled.devices;
    let range = |of: fn(&crate::cost::DeviceStep) -> f64, digits: usize| {
        let least = devices.iter().map(of).fold(f64::INFINITY, f64::min);
        let most = devices.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = (format!("{least:.digits$}"), format!("{most:.digits$}"));
        if least == most { least } else { format!("{least} … {most}") }
    };
    vec![
        format!("{}{}", if rule.chosen { "* " } else { "  " }, rule_name(rule.rule)),
        range(|device| device.local_batch, 1),
        range(|device| device.wait_seconds, 2),
        format!("{:.2}", rule.settled.step_seconds),
        format!("{:.1}", rule.settled.samples_per_second),
        format!("{} of {}", rule.settled.backlogged, devices.len()),
    ]
}

fn costs(out: &mut String, plan: &Plan, job: &JobConfig, estimate: &Estimate) {
    let world_size = job.devices.len() as u64;
    let _ = writeln!(
        out,
        "\nPer step\n  compute    {:.2} ms per sample and device (assumed), exchange and update {:.1} ms\n  sent       \
         {} per worker, {} in all",
        estimate.cost.seconds_per_sample * 1e3,
        estimate.cost.exchange_seconds * 1e3,
        text::bytes(estimate.bytes_sent_per_rank),
        text::bytes(estimate.bytes_sent_per_rank * world_size),
    );
    let _ = writeln!(out, "  backend    {}", plan.backend);
    if let Some(compression) = &job.compression {
        let when = compression.delta.map_or_else(
            || "every step".to_owned(),
            |delta| format!("steps whose energy loss is at most {delta}"),
        );
        let least = if compression.is_free { "dense, half precision or at least " } else { "" };
        let _ = writeln!(out, "  compressed {when}: {least}{} % of the elements", compression.ratio * 100.0);
    }
    if let Some(injection) = &job.injection {
        shared(out, job, injection, estimate);
    }
    let _ = writeln!(
        out,
        "\nMemory\n  worker     {} samples, {} parameters, gradients and momentum (each of {world_size})",
        text::bytes(estimate.arena_bytes),
        text::bytes(estimate.model_bytes),
    );
    if estimate.residual_bytes > 0 {
        let _ = writeln!(
            out,
            "             {} residual and messages of compression; rank 0 {} for all residuals at a checkpoint",
            text::bytes(estimate.residual_bytes),
            text::bytes(estimate.gathered_bytes),
        );
    }
    if let Some(bytes) = estimate.embedded_broker_bytes {
        let _ = writeln!(out, "  broker     {} embedded", text::bytes(bytes));
    }
    let _ = writeln!(out, "  total      {} beside the programs", text::bytes(estimate.total_bytes));
}

/// What donors share in a step of the job's own rule, on average.
fn shared(out: &mut String, job: &JobConfig, injection: &InjectionConfig, estimate: &Estimate) {
    let record_bytes = job.samples().sample_bytes() as u64;
    let donors = InjectionRule::new(injection, record_bytes, job.training.seed).donor_count();
    let copies = match injection.mode {
        InjectionMode::Move => 1,
        InjectionMode::Replicate => job.devices.len() as u64 - 1,
    };
    let _ = write!(
        out,
        "  shared     {:?}: {} % of the batches of {donors} devices",
        injection.mode,
        injection.shared_fraction * 100.0
    );
    if let Some(rule) = estimate.rules.iter().find(|rule| rule.chosen) {
        let batches: f64 = rule.settled.devices.iter().map(|device| device.local_batch).sum();
        let samples = injection.shared_fraction * donors as f64 * batches / job.devices.len() as f64;
        let bytes = (samples * (copies * record_bytes) as f64) as u64;
        let _ = write!(out, ", about {samples:.1} samples and {}", text::bytes(bytes));
    }
    out.push('\n');
}

/// A rule with its number: `Fixed 64`.
pub fn rule_name(rule: BatchRule) -> String {
    match rule {
        BatchRule::Fixed { size } => format!("Fixed {size}"),
        BatchRule::StreamRate { window_seconds } => format!("StreamRate {window_seconds} s"),
        BatchRule::LineRate => "LineRate".to_owned(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Columns as wide as their widest cell; the first `left` ones are set flush left, numbers flush right.
pub fn columns(out: &mut String, rows: &[Vec<String>], left: usize) {
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, width))| {
                    if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
    }
}

/// `11173962` as `11 173 962`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
