//! A simulation as text for people. Pure.

use std::fmt::Write as _;

use scadles_api::worker::BatchRule;
use scadles_control::{
    byte_text,
    estimate::{columns, rule_name},
};
use scadles_core::sim::{SimEnd, SimSummary};

use super::{
    Simulated,
    presets::{PRESETS, Preset, PresetRates},
};
use crate::screen::{grouped, span};

/// Devices that get a line of their own; more would hide the summary.
const MOST_LINES: usize = 32;

/// Everything about each simulation, then all of them side by side.
pub fn render(all: &[Simulated]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for simulated in all {
        one(&mut out, simulated);
    }
    if all.len() > 1 {
        out.push_str("Side by side\n");
        columns(&mut out, &comparison(all), 1);
    }
    out
}

fn one(out: &mut String, simulated: &Simulated) {
    let Simulated { scenario, summary, .. } = simulated;
    let _ = writeln!(out, "{}: {}", scenario.name, scenario.title());
    let _ = writeln!(
        out,
        "{} steps in {} of virtual time ({}): {}\n",
        grouped(summary.steps),
        span(summary.simulated_seconds),
        seconds(summary.simulated_seconds),
        ending(simulated)
    );
    columns(out, &devices(simulated), 1);
    if scenario.rates.len() > MOST_LINES {
        let _ = writeln!(out, "  … and {} more", scenario.rates.len() - MOST_LINES);
    }
    out.push('\n');
    columns(out, &facts(summary), 2);
    out.push_str("\nNotes\n");
    for note in &scenario.notes {
        let _ = writeln!(out, "  - {note}");
    }
    let _ = writeln!(
        out,
        "  - {:.3} ms per sample and device, {}",
        scenario.seconds_per_sample * 1e3,
        bandwidth(simulated)
    );
    out.push('\n');
}

fn seconds(value: f64) -> String {
    format!("{value:.1} s")
}

fn bandwidth(simulated: &Simulated) -> String {
    let exchange = simulated.scenario.settings.exchange;
    format!(
        "exchange at {:.3} Gbit/s and {:.2} ms per other device, {} s beside",
        exchange.network.bytes_per_second * 8.0 / 1e9,
        exchange.network.latency_seconds * 1e3,
        exchange.constant_seconds
    )
}

fn ending(simulated: &Simulated) -> String {
    match simulated.summary.end {
        SimEnd::Running | SimEnd::Complete => "complete".to_owned(),
        SimEnd::Starved { rank } => {
            let names = &simulated.scenario.device_names;
            let name = names.get(rank).map_or("a device", String::as_str);
            format!("{name} waits for samples that never come, and all others for it")
        }
        SimEnd::Silent => "no device gets samples any more".to_owned(),
    }
}

fn devices(simulated: &Simulated) -> Vec<Vec<String>> {
    let heads = [
        "device",
        "rate/s",
        "batch",
        "weight",
        "stream wait s",
        "group wait s",
        "arrived",
        "trained",
        "buffered",
        "peak",
        "dropped",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let names = simulated.scenario.device_names.iter().zip(&simulated.scenario.rates);
    for ((name, rate), device) in names.zip(&simulated.summary.devices).take(MOST_LINES) {
        rows.push(vec![
            name.clone(),
            format!("{rate:.1}"),
            format!("{:.1}", device.local_batch),
            format!("{:.3}", device.aggregation_weight),
            format!("{:.3}", device.stream_wait_seconds),
            format!("{:.3}", device.group_wait_seconds),
            grouped(device.arrived),
            grouped(device.trained),
            grouped(device.buffered),
            grouped(device.peak_buffered),
            grouped(device.dropped),
        ]);
    }
    rows
}

fn facts(summary: &SimSummary) -> Vec<Vec<String>> {
    let step = summary.step_seconds;
    let per_step = |bytes: u64| {
        let steps_and_devices = summary.steps * summary.devices.len() as u64;
        byte_text(bytes / steps_and_devices.max(1))
    };
    let fact = |name: &str, value: String| vec![name.to_owned(), value];
    let mut facts = vec![
        fact("step", format!("{:.3} s ({:.3} … {:.3})", step.mean, step.least, step.most)),
        fact("compute and exchange", format!("{:.3} s of it", summary.busy_seconds)),
        fact("waiting", format!("{:.1} % of a device's time", summary.wait_share() * 100.0)),
        fact("global batch", format!("{:.1} samples", summary.global_batch)),
        fact("samples per second", format!("{:.1}", summary.samples_per_second)),
        fact(
            "buffered",
            format!(
                "{} samples at the end, {} at most",
                grouped(summary.buffered),
                grouped(summary.peak_buffered)
            ),
        ),
        fact("dropped", format!("{:.1} % of what arrived", summary.dropped_share() * 100.0)),
        fact(
            "gradients sent",
            format!(
                "{} a step and device, {} in all",
                per_step(summary.exchange_bytes),
                byte_text(summary.exchange_bytes)
            ),
        ),
    ];
    if summary.sparse_steps > 0 {
        let share = summary.exchange_bytes as f64 / summary.dense_bytes.max(1) as f64;
        facts.push(fact(
            "compressed",
            format!(
                "{} steps; all bytes are {:.2} times those without compression",
                grouped(summary.sparse_steps),
                share
            ),
        ));
    }
    if summary.injection_bytes > 0 {
        facts.push(fact(
            "samples shared",
            format!(
                "{} ({} a step), {} sent",
                grouped(summary.shared_samples),
                summary.shared_samples / summary.steps.max(1),
                byte_text(summary.injection_bytes)
            ),
        ));
    }
    facts
}

/// One line per simulation; the speed is samples per second against the first.
pub fn comparison(all: &[Simulated]) -> Vec<Vec<String>> {
    let heads = [
        "job",
        "steps",
        "virtual time",
        "step s",
        "waiting %",
        "samples/s",
        "speed",
        "buffered",
        "dropped %",
        "sent",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let first = all.first().map_or(0.0, |simulated| simulated.summary.samples_per_second);
    for Simulated { scenario, summary, .. } in all {
        let speed = if first > 0.0 { summary.samples_per_second / first } else { 0.0 };
        rows.push(vec![
            scenario.name.clone(),
            grouped(summary.steps),
            span(summary.simulated_seconds),
            format!("{:.3}", summary.step_seconds.mean),
            format!("{:.1}", summary.wait_share() * 100.0),
            format!("{:.1}", summary.samples_per_second),
            format!("{speed:.2} ×"),
            grouped(summary.buffered),
            format!("{:.1}", summary.dropped_share() * 100.0),
            byte_text(summary.exchange_bytes + summary.injection_bytes),
        ]);
    }
    rows
}

/// The list of all presets.
pub fn presets() -> String {
    let heads =
        ["preset", "devices", "rates/s", "rule", "policy", "lr, gamma", "labels", "compression", "injection"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(PRESETS.iter().map(preset_row));
    let mut out = String::new();
    columns(&mut out, &rows, 9);
    out
}

fn preset_row(preset: &Preset) -> Vec<String> {
    let rates = match preset.rates {
        PresetRates::List(list) => {
            let mean = list.iter().sum::<f64>() / list.len() as f64;
            format!("list of {}, mean {mean:.1}", list.len())
        }
        PresetRates::Same(rate) => format!("{rate} each"),
        PresetRates::Uniform(mean, deviation) => format!("uniform, mean {mean} sd {deviation}"),
    };
    let dash = || "-".to_owned();
    vec![
        preset.name.to_owned(),
        preset.devices.to_string(),
        rates,
        match preset.rule {
            BatchRule::Fixed { .. } => rule_name(preset.rule),
            BatchRule::StreamRate { .. } | BatchRule::LineRate => {
                format!("{}, max {}", rule_name(preset.rule), preset.bounds.max)
            }
        },
        format!("{:?}", preset.policy),
        format!("{}, {}", preset.learning_rate.0, preset.learning_rate.1),
        preset.labels_per_device.map_or_else(|| "IID".to_owned(), |labels| format!("{labels} each")),
        preset.compression.map_or_else(dash, |given| match given.delta {
            Some(delta) => format!("CR {}, δ {delta}", given.ratio),
            None => format!("CR {}", given.ratio),
        }),
        preset.injection.map_or_else(dash, |fraction| format!("α = β = {fraction}")),
    ]
}
