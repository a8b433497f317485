//! Speed of the virtual clock against its bounds: 250 epochs on 25 devices, and 10,000 devices for 10,000 steps.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::{process::ExitCode, time::Instant};

use scadles_api::job::StreamPolicy;
use scadles_core::{
    batch::{BatchBounds, BatchRule},
    rates::S1_NORMAL_25,
    sim::{ExchangeModel, RateProfile, SimDevice, SimLimits, SimSettings, Simulation},
    weights::Aggregation,
};

const RULES: [BatchRule; 3] =
    [BatchRule::Fixed { size: 64 }, BatchRule::StreamRate { window_seconds: 1.0 }, BatchRule::LineRate];

fn measure(rule: BatchRule, devices: usize, limits: SimLimits, most_seconds: f64) -> bool {
    let settings = SimSettings {
        rule,
        bounds: BatchBounds { min: 8, max: 1024, max_skip: 4 },
        policy: StreamPolicy::Truncation,
        aggregation: Aggregation::Weighted,
        exchange: ExchangeModel::constant(1.05),
        injection: None,
        compute_noise: 0.1,
        seed: 1,
        limits,
    };
    let device = |&rate: &f64| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample: 0.002 };
    let devices: Vec<SimDevice> = S1_NORMAL_25.iter().cycle().take(devices).map(device).collect();
    let started = Instant::now();
    let (summary, _) = Simulation::new(settings, &devices).run();
    let seconds = started.elapsed().as_secs_f64();
    let fine = seconds <= most_seconds;
    println!(
        "{} {rule:?}: {} devices, {} steps in {seconds:.2} s (bound {most_seconds} s)",
        if fine { "ok    " } else { "MISSED" },
        devices.len(),
        summary.steps
    );
    fine
}

/// Fails if a bound is missed.
fn main() -> ExitCode {
    let mut fine = true;
    for rule in RULES {
        fine &= measure(rule, 25, SimLimits::samples(250 * 50_000), 2.0);
        fine &= measure(rule, 10_000, SimLimits::steps(10_000), 60.0);
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
