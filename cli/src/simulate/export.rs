//! A simulation as JSON and as CSV. Pure.

use std::fmt::Write as _;

use scadles_control::estimate::rule_name;
use scadles_core::sim::{SimSummary, TracePoint};
use serde::Serialize;

use super::Simulated;

/// Version of the JSON; grows when a field changes its meaning.
const FORMAT_VERSION: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: u32,
    simulations: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    name: &'a str,
    model: &'a str,
    rule: String,
    policy: String,
    notes: &'a [String],
    device_names: &'a [String],
    stream_rates: &'a [f64],
    seconds_per_sample: f64,
    network_bytes_per_second: f64,
    latency_seconds: f64,
    parameters: u64,
    summary: &'a SimSummary,
    /// At most 2,000 steps, evenly spaced.
    steps: &'a [TracePoint],
}

/// Everything that was computed, as JSON.
pub fn json(all: &[Simulated]) -> serde_json::Result<String> {
    let document = Document { version: FORMAT_VERSION, simulations: all.iter().map(entry).collect() };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn entry(simulated: &Simulated) -> Entry<'_> {
    let Simulated { scenario, summary, trace } = simulated;
    let settings = &scenario.settings;
    Entry {
        name: &scenario.name,
        model: &scenario.model,
        rule: rule_name(settings.rule),
        policy: format!("{:?}", settings.policy),
        notes: &scenario.notes,
        device_names: &scenario.device_names,
        stream_rates: &scenario.rates,
        seconds_per_sample: scenario.seconds_per_sample,
        network_bytes_per_second: settings.exchange.network.bytes_per_second,
        latency_seconds: settings.exchange.network.latency_seconds,
        parameters: settings.exchange.parameters,
        summary,
        steps: trace.points(),
    }
}

/// The recorded steps, one line each.
pub fn csv(all: &[Simulated]) -> String {
    let mut out = String::from(
        "job,step,seconds,step_seconds,wait_seconds,global_batch,samples_per_second,trained,buffered,dropped,bytes\n",
    );
    for Simulated { scenario, trace, .. } in all {
        for point in trace.points() {
            let TracePoint { step, seconds, step_seconds, wait_seconds, global_batch, .. } = *point;
            // Names are DNS labels or presets: no comma, no quote.
            let _ = writeln!(
                out,
                "{},{step},{seconds:.6},{step_seconds:.6},{wait_seconds:.6},{global_batch},{:.3},{},{},{},{}",
                scenario.name,
                global_batch as f64 / step_seconds,
                point.trained,
                point.buffered,
                point.dropped,
                point.bytes
            );
        }
    }
    out
}
