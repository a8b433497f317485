//! What each batch rule would do with a planned job, in numbers and as a table. No I/O.

mod table;

use scadles_api::{
    report::Conventional,
    worker::{BatchRule, JobConfig},
};

use crate::{
    cost::{self, BYTES_PER_PARAMETER, SettledStep, StepCost, settle},
    plan::Plan,
};

pub use table::{columns, render, rule_name};

/// Batch of conventional training, in samples of a device (paper §V-H).
pub const CONVENTIONAL_BATCH: u32 = 64;

/// What the estimate assumes of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Cores that the workers share.
    pub cores: u32,
    /// Forward and backward of one sample on one core; `None` takes a rough figure of the model.
    pub seconds_per_sample: Option<f64>,
}

/// One batch rule with these streams.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleEstimate {
    /// The rule.
    pub rule: BatchRule,
    /// Whether the job uses it.
    pub chosen: bool,
    /// What it settles to.
    pub settled: SettledStep,
}

/// What a job would do and need.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Samples per second asked of the producer, per device; `None` where rates are only measured.
    pub rates: Option<Vec<f64>>,
    /// `Fixed`, `StreamRate`, `LineRate`, in this order; empty without rates.
    pub rules: Vec<RuleEstimate>,
    /// Assumed cost of a step.
    pub cost: StepCost,
    /// Trained numbers of the network.
    pub parameters: u64,
    /// Bytes that one rank sends per step.
    pub bytes_sent_per_rank: u64,
    /// Memory of one worker for samples.
    pub arena_bytes: u64,
    /// Memory of one worker for parameters, gradients and momentum.
    pub model_bytes: u64,
    /// Memory of one worker for what compression keeps back; 0 without it.
    pub residual_bytes: u64,
    /// Memory of rank 0 for all residuals while a checkpoint is written; 0 without compression.
    pub gathered_bytes: u64,
    /// Memory of the embedded broker.
    pub embedded_broker_bytes: Option<u64>,
    /// Memory of all of it.
    pub total_bytes: u64,
}

/// Estimates a planned job. A plan without workers gives an empty estimate.
pub fn estimate(plan: &Plan, machine: &Machine) -> Option<Estimate> {
    let job = plan.job()?;
    let world_size = job.devices.len();
    let cost = StepCost::new(&job.model, world_size, machine.cores, machine.seconds_per_sample);
    let rates = job.producer.as_ref().map(|producer| producer.rates.clone());
    let parameters = cost::parameter_count(&job.model);
    let arena_bytes = job.stream.buffer_bytes;
    let model_bytes = 3 * BYTES_PER_PARAMETER * parameters;
    // r, and about as much for messages on their way.
    let residual_bytes = if job.compression.is_some() { 2 * BYTES_PER_PARAMETER * parameters } else { 0 };
    // Two checkpoints may be on their way, in memory and as a file's bytes.
    let gathered_bytes = residual_bytes * world_size as u64;
    let workers_bytes = (arena_bytes + model_bytes + residual_bytes) * world_size as u64;
    Some(Estimate {
        rules: rates.as_deref().map_or_else(Vec::new, |rates| rule_estimates(job, rates, cost)),
        rates,
        cost,
        parameters,
        bytes_sent_per_rank: cost::bytes_sent_per_step(parameters, world_size),
        arena_bytes,
        model_bytes,
        residual_bytes,
        gathered_bytes,
        embedded_broker_bytes: plan.embedded_broker_bytes,
        total_bytes: workers_bytes + gathered_bytes + plan.embedded_broker_bytes.unwrap_or(0),
    })
}

fn rule_estimates(job: &JobConfig, rates: &[f64], cost: StepCost) -> Vec<RuleEstimate> {
    let own = job.stream.batch;
    let same = |rule: &BatchRule| std::mem::discriminant(rule) == std::mem::discriminant(&own);
    [
        BatchRule::Fixed { size: CONVENTIONAL_BATCH },
        BatchRule::StreamRate { window_seconds: 1.0 },
        BatchRule::LineRate,
    ]
    .into_iter()
    .map(|rule| {
        let chosen = same(&rule);
        let rule = if chosen { own } else { rule };
        RuleEstimate { rule, chosen, settled: settle(rule, job.stream.batch_bounds, rates, cost) }
    })
    .collect()
}

/// What `Fixed` with this batch would have trained on these streams in this time, limited by the slowest stream alone;
/// `None` without a stream.
pub fn conventional(rates: &[f64], seconds: f64, size: u32) -> Option<Conventional> {
    let slowest = rates.iter().copied().reduce(f64::min).filter(|rate| *rate > 0.0)?;
    let step_seconds = f64::from(size) / slowest;
    let steps = (seconds.max(0.0) / step_seconds).floor() as u64;
    let samples = steps * u64::from(size) * rates.len() as u64;
    Some(Conventional { batch: size, step_seconds, steps, samples })
}

#[cfg(test)]
mod tests;
