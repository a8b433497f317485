//! The paper's set-ups on the virtual clock. Pure.

use scadles_api::worker::{Aggregation, BatchBounds, BatchRule, StreamPolicy};
use scadles_core::sim::{
    ExchangeModel, RateProfile, SimDevice, SimLimits, SimSettings, SimStep, SimSummary, Simulation,
};

use super::paper::BASE_BATCH;
use crate::simulate::presets::PaperNetwork;

/// The paper's own rule: windows of a second.
pub const WINDOW: BatchRule = BatchRule::StreamRate { window_seconds: 1.0 };
/// Conventional training.
pub const CONVENTIONAL: BatchRule = BatchRule::Fixed { size: BASE_BATCH };
/// Steps after which a mean is taken over as many again.
const SETTLING_STEPS: usize = 200;

/// What a step takes: seconds per sample, and seconds for all of it.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Forward and backward.
    pub seconds_per_sample: f64,
    /// Exchange, or compute and exchange where only their sum is known.
    pub constant_seconds: f64,
}

impl Cost {
    /// A step that takes this whatever its batch.
    pub const fn constant(seconds: f64) -> Self {
        Self { seconds_per_sample: 0.0, constant_seconds: seconds }
    }

    /// Table II's step of 64 samples, Fig. 4b's exchange within it.
    pub fn published(network: PaperNetwork) -> Self {
        Self {
            seconds_per_sample: (network.step_seconds - network.sync_seconds) / f64::from(BASE_BATCH),
            constant_seconds: network.sync_seconds,
        }
    }
}

/// A simulation of the paper's settings.
pub fn simulation(rule: BatchRule, rates: &[f64], cost: Cost, limits: SimLimits) -> Simulation {
    with_policy(rule, StreamPolicy::Persistence, rates, cost, limits)
}

fn with_policy(
    rule: BatchRule,
    policy: StreamPolicy,
    rates: &[f64],
    cost: Cost,
    limits: SimLimits,
) -> Simulation {
    let settings = SimSettings {
        rule,
        bounds: BatchBounds { min: 1, max: 1024, max_skip: 0 },
        policy,
        aggregation: Aggregation::Weighted,
        exchange: ExchangeModel::constant(cost.constant_seconds),
        injection: None,
        compute_noise: 0.0,
        seed: 0,
        limits,
    };
    let device = |&rate: &f64| SimDevice {
        stream: RateProfile::Constant(rate),
        seconds_per_sample: cost.seconds_per_sample,
    };
    Simulation::new(settings, &rates.iter().map(device).collect::<Vec<_>>())
}

/// When the first batch of `batch` samples is there on all devices, in seconds.
pub fn gathering_seconds(rates: &[f64], batch: u32) -> f64 {
    let rule = BatchRule::Fixed { size: batch };
    let steps = simulation(rule, rates, Cost::constant(0.0), SimLimits::steps(1)).steps();
    steps.first().map_or(f64::NAN, |step| step.agreed_seconds)
}

/// Step time once it has settled, in seconds.
pub fn step_seconds(rule: BatchRule, rates: &[f64], cost: Cost) -> f64 {
    settled_mean(rule, rates, cost, |step| step.step_seconds)
}

/// Mean of a quantity of the settled steps.
pub fn settled_mean(rule: BatchRule, rates: &[f64], cost: Cost, of: impl Fn(&SimStep) -> f64) -> f64 {
    let limits = SimLimits::steps(2 * SETTLING_STEPS as u64);
    let steps = simulation(rule, rates, cost, limits).steps();
    let settled = &steps[SETTLING_STEPS.min(steps.len())..];
    settled.iter().map(of).sum::<f64>() / settled.len() as f64
}

/// What a job of the paper's rule comes to in so many hours under a policy.
pub fn after_hours(policy: StreamPolicy, rate: f64, cost: Cost, hours: f64) -> SimSummary {
    with_policy(WINDOW, policy, &[rate], cost, SimLimits::seconds(hours * 3600.0)).run().0
}
