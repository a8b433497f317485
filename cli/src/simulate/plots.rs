//! The plots of `scadles simulate`: what the simulations are over their virtual time. Pure.

use scadles_core::sim::TracePoint;

use super::Simulated;
use crate::svg::{Chart, Mark, Scale, Series};

/// One file.
pub struct Plot {
    /// Its name.
    pub file: &'static str,
    /// Its content.
    pub chart: Chart,
}

/// Step time, wait, buffers, drops, samples and bytes over virtual time, a line per simulation.
pub fn plots(all: &[Simulated]) -> Vec<Plot> {
    let plot = |file, title: &str, unit: &str, of: fn(&TracePoint) -> f64| Plot {
        file,
        chart: Chart {
            title: title.to_owned(),
            x_label: "virtual time, s".to_owned(),
            y_label: unit.to_owned(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: all.iter().map(|simulated| series(simulated, of)).collect(),
        },
    };
    vec![
        plot("step-time.svg", "Step time", "s", |point| point.step_seconds),
        plot("wait.svg", "Wait of a step, mean over the devices", "s", |point| point.wait_seconds),
        plot("buffered.svg", "Samples that wait in all buffers", "samples", |point| point.buffered as f64),
        plot("dropped.svg", "Samples dropped", "samples", |point| point.dropped as f64),
        plot("trained.svg", "Samples trained", "samples", |point| point.trained as f64),
        plot("bytes.svg", "Sent by all devices", "GiB", |point| point.bytes as f64 / f64::from(1_u32 << 30)),
    ]
}

fn series(simulated: &Simulated, of: fn(&TracePoint) -> f64) -> Series {
    let points = simulated.trace.points().iter().map(|point| (point.seconds, of(point))).collect();
    Series { name: simulated.scenario.name.clone(), points, mark: Mark::Line }
}
