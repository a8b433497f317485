//! The plots of `scadles simulate`: what the simulations are over their virtual time. Pure.

use scadles_core::sim::TracePoint;

use super::Simulated;
use crate::plot::{Colour, Curve, Figure, Scale, Stroke};

/// One file.
pub struct Plot {
    /// Its name.
    pub file: &'static str,
    /// Its content.
    pub figure: Figure,
}

/// Step time, wait, buffers, drops, samples and bytes over virtual time, a line per simulation.
pub fn plots(all: &[Simulated]) -> Vec<Plot> {
    let plot = |file, title: &str, unit: &str, of: fn(&TracePoint) -> f64| Plot {
        file,
        figure: Figure {
            title: title.to_owned(),
            x_name: "virtual time".to_owned(),
            x_scale: Scale::Seconds,
            y_name: unit.to_owned(),
            y_scale: Scale::Number,
            curves: all.iter().enumerate().map(|(place, simulated)| curve(simulated, place, of)).collect(),
            marks: vec![],
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

fn curve(simulated: &Simulated, place: usize, of: fn(&TracePoint) -> f64) -> Curve {
    let points = simulated.trace.points().iter().map(|point| (point.seconds, of(point))).collect();
    let (name, colour) = (simulated.scenario.name.clone(), Colour::of(place));
    Curve { name, colour, stroke: Stroke::Solid, points }
}
