//! `scadles reproduce fair`: ScaDLES and ours beside baselines that the paper does not show, with real gradients on the
//! virtual clock, and our answers where the paper's rules are weak. Pure: the command trains.
//!
//! All methods of a set see the same streams, so that at equal virtual time equally many samples have arrived. Network,
//! norm, optimiser, η and clock are the same; batches, policy, weights, scaling and exchange are the methods' own.

pub mod course;
pub mod text;

use scadles_api::{
    job::{DatasetName, LearningRateScalingName, ModelName, NormStatistics},
    worker::{Aggregation, BatchBounds, BatchRule, StreamPolicy},
};
use scadles_control::cost::{StepCost, bytes_sent_per_step, parameter_count, settle};
use scadles_core::sim::NetworkModel;

use super::paper::{RateSet, SETS};
use crate::simulate::{
    args::Changes,
    draft::{Draft, End, Travel},
    options::Shape,
};

/// Batch of conventional training.
const CONVENTIONAL: u32 = 64;
/// Least seeds of a comparison with a spread.
pub const LEAST_SEEDS: u64 = 3;
/// Forward and backward of a sample on a device, in seconds.
const SECONDS_PER_SAMPLE: f64 = 1e-3;
/// Milliseconds per exchange and other device.
const LATENCY_MILLISECONDS: f64 = 2.0;
/// η for 64 samples a device.
const LEARNING_RATE: f64 = 0.03;
/// Bounds of batches that are not `Fixed`.
const BOUNDS: BatchBounds = BatchBounds { min: 1, max: 1024, max_skip: 4 };

/// What is compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// ScaDLES and ours beside baselines.
    Fair,
    /// How η follows large batches.
    Scaling,
    /// Streams that change.
    Changing,
    /// Streams that differ in their labels.
    Skew,
}

/// How large a comparison is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Network.
    pub model: ModelName,
    /// Devices.
    pub devices: usize,
    /// Samples that arrive at all devices together: they say how long a run is.
    pub arriving_samples: f64,
    /// Seeds of the first table, and of the others.
    pub seeds: (u64, u64),
    /// Evaluations of a run, and pictures of each.
    pub evaluations: (u64, u64),
    /// A device's line in Gbit/s.
    pub bandwidth_gbit: f64,
}

impl Scale {
    /// Six epochs arrive.
    pub const LONG: Self = Self {
        model: ModelName::Cnn,
        devices: 8,
        arriving_samples: 300_000.0,
        seeds: (LEAST_SEEDS, LEAST_SEEDS),
        evaluations: (12, 2000),
        // The uplink of a house: 0.2 s for a dense step of this network.
        bandwidth_gbit: 0.01,
    };
    /// Enough to see that it works.
    pub const QUICK: Self = Self {
        model: ModelName::Mlp,
        devices: 3,
        arriving_samples: 4_000.0,
        seeds: (LEAST_SEEDS, 1),
        evaluations: (4, 500),
        // Twelve times the network, and about the same times.
        bandwidth_gbit: 0.1,
    };
}

/// One method on one set of streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its table.
    pub table: Table,
    /// Name of the set of rates.
    pub set: &'static str,
    /// What is done.
    pub method: &'static str,
    /// The job; its seed is that of the first run.
    pub draft: Draft,
    /// How rates go over time.
    pub shape: Shape,
    /// Virtual time of a run, in seconds.
    pub seconds: f64,
    /// A device's line in Gbit/s.
    pub bandwidth_gbit: f64,
    /// Runs, each with a seed of its own.
    pub seeds: u64,
}

impl Case {
    /// The run of one seed, from 0 on: its name, which is that of its folder too, and its job.
    pub fn run(&self, seed: u64) -> (String, Draft) {
        let name = format!("{}-s{seed}", self.draft.name);
        (name, Draft { seed: self.draft.seed + seed, ..self.draft.clone() })
    }

    /// What the virtual clock is told beside the job.
    pub fn changes(&self) -> Changes {
        Changes {
            seconds: Some(self.seconds),
            seconds_per_sample: Some(SECONDS_PER_SAMPLE),
            bandwidth_gbit: Some(self.bandwidth_gbit),
            latency_ms: Some(LATENCY_MILLISECONDS),
            stream: self.shape,
            ..Changes::default()
        }
    }
}

/// What a method changes of the common draft, by the rates of its streams.
type Method = fn(&mut Draft);

fn conventional(draft: &mut Draft) {
    draft.rule = BatchRule::Fixed { size: CONVENTIONAL };
    draft.aggregation = Aggregation::Uniform;
}

fn least_rate(draft: &mut Draft) {
    let least = draft.rates.iter().copied().fold(f64::INFINITY, f64::min);
    draft.rule = BatchRule::Fixed { size: (least.floor() as u32).max(1) };
    draft.aggregation = Aggregation::Uniform;
}

/// Devices whose batches come in the same time have batches in the ratio of their rates.
fn split_by_rate(draft: &mut Draft) {
    let global = f64::from(CONVENTIONAL) * draft.rates.len() as f64;
    draft.rule = BatchRule::StreamRate { window_seconds: rounded(global / draft.rates.iter().sum::<f64>()) };
}

/// While the slowest stream fills its batch, all others go on adding gradients of what arrives.
fn accumulation(draft: &mut Draft) {
    let least = draft.rates.iter().copied().fold(f64::INFINITY, f64::min);
    draft.rule = BatchRule::StreamRate { window_seconds: rounded(f64::from(CONVENTIONAL) / least) };
}

fn scadles(draft: &mut Draft) {
    draft.rule = BatchRule::StreamRate { window_seconds: 1.0 };
    draft.policy = StreamPolicy::Truncation;
    draft.travel = Travel::Adaptive(0.1, 0.3);
}

fn stream_rate(draft: &mut Draft) {
    draft.rule = BatchRule::StreamRate { window_seconds: 1.0 };
}

fn ours(draft: &mut Draft) {
    draft.rule = BatchRule::LineRate;
    draft.travel = Travel::Auto;
}

fn capped(draft: &mut Draft) {
    stream_rate(draft);
    draft.scaling = LearningRateScalingName::Capped;
}

fn ada_scale(draft: &mut Draft) {
    stream_rate(draft);
    draft.scaling = LearningRateScalingName::AdaScale;
}

fn line_rate(draft: &mut Draft) {
    draft.rule = BatchRule::LineRate;
}

/// Every device has its own labels, all together have all.
fn skewed(draft: &mut Draft) {
    line_rate(draft);
    draft.labels_per_device = Some(10_u32.div_ceil(draft.rates.len() as u32));
}

/// The small network of the quick comparison has no layers that a norm follows.
fn skewed_batch_norm(draft: &mut Draft, statistics: NormStatistics) {
    skewed(draft);
    draft.model = ModelName::Cnn;
    draft.bounds.min = 2;
    draft.batch_norm = Some(statistics);
}

fn skewed_local(draft: &mut Draft) {
    skewed_batch_norm(draft, NormStatistics::Local);
}

fn skewed_agreed(draft: &mut Draft) {
    skewed_batch_norm(draft, NormStatistics::Agreed);
}

fn skewed_and_shared(draft: &mut Draft) {
    skewed(draft);
    draft.injection = Some(0.5);
}

/// Windows are told in the job file with as many digits.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 1e4
}

const FAIR: [(&str, &str, Method); 6] = [
    ("ddl", "conventional DDL: 64 a device", conventional),
    ("least", "batch = min S", least_rate),
    ("split", "global batch split by rate", split_by_rate),
    ("accumulate", "gradient accumulation", accumulation),
    ("scadles", "ScaDLES: CR 0.1, δ 0.3", scadles),
    ("ours", "ours: LineRate, Auto, GroupNorm", ours),
];
const SCALING: [(&str, &str, Method); 3] = [
    ("linear", "StreamRate, Linear", stream_rate),
    ("capped", "StreamRate, Capped", capped),
    ("adascale", "StreamRate, AdaScale", ada_scale),
];
const CHANGING: [(&str, &str, Method); 2] =
    [("streamrate", "StreamRate", stream_rate), ("linerate", "LineRate", line_rate)];
const SKEW: [(&str, &str, Method); 5] = [
    ("iid", "all labels everywhere", line_rate),
    ("skew-local", "BatchNorm, rank 0's statistics", skewed_local),
    ("skew-agreed", "BatchNorm, agreed statistics", skewed_agreed),
    ("skew", "GroupNorm", skewed),
    ("skew-shared", "GroupNorm, α = β = 0.5 copied", skewed_and_shared),
];

/// All that is trained.
pub fn cases(scale: &Scale) -> Vec<Case> {
    let [s1, s2, _, s2_normal] = &SETS;
    // What cameras send when something moves.
    let bursts = Shape::Burst { factor: 4.0, burst_seconds: 5.0, period_seconds: 30.0 };
    let steady = Shape::Constant;
    let mut all = Vec::new();
    let mut add =
        |table, (key, set): (&str, &'static RateSet), shape, methods: &[(&str, &'static str, Method)]| {
            all.extend(methods.iter().map(|method| case(scale, table, (key, set), shape, method)));
        };
    add(Table::Fair, ("s1", s1), steady, &FAIR);
    add(Table::Scaling, ("s2", s2), steady, &SCALING);
    add(Table::Scaling, ("s2-normal", s2_normal), steady, &SCALING);
    add(Table::Changing, ("s1", s1), bursts, &CHANGING);
    add(Table::Skew, ("s1", s1), steady, &SKEW);
    all
}

fn case(
    scale: &Scale,
    table: Table,
    (key, set): (&str, &'static RateSet),
    shape: Shape,
    &(method_key, method, change): &(&str, &'static str, Method),
) -> Case {
    let rates = set.rates(scale.devices);
    let mut draft = common(scale, rates);
    let of_table = match table {
        Table::Fair => "fair",
        Table::Scaling => "scaling",
        Table::Changing => "changing",
        Table::Skew => "labels",
    };
    draft.name = format!("{of_table}-{key}-{method_key}");
    draft.about = vec![format!("scadles reproduce fair: {}, {method}", set.name)];
    change(&mut draft);
    let arriving = draft.rates.iter().sum::<f64>() * mean_factor(shape);
    let seconds = (scale.arriving_samples / arriving).round().max(1.0);
    draft.evaluation.0 = (steps(&draft, seconds, scale.bandwidth_gbit) / scale.evaluations.0).max(1);
    let seeds = if table == Table::Fair { scale.seeds.0 } else { scale.seeds.1 };
    Case { table, set: set.name, method, draft, shape, seconds, bandwidth_gbit: scale.bandwidth_gbit, seeds }
}

/// What bursts make of the mean rate.
fn mean_factor(shape: Shape) -> f64 {
    match shape {
        Shape::Burst { factor, burst_seconds, period_seconds } => {
            1.0 + (factor - 1.0) * burst_seconds / period_seconds
        }
        _ => 1.0,
    }
}

fn common(scale: &Scale, rates: Vec<f64>) -> Draft {
    Draft {
        about: Vec::new(),
        name: String::new(),
        model: scale.model,
        batch_norm: None,
        dataset: DatasetName::Cifar10,
        rates,
        labels_per_device: None,
        rule: BatchRule::LineRate,
        bounds: BOUNDS,
        policy: StreamPolicy::Persistence,
        aggregation: Aggregation::Weighted,
        learning_rate: LEARNING_RATE,
        milestones: (Vec::new(), 1.0),
        weight_decay: 1e-4,
        scaling: LearningRateScalingName::Linear,
        travel: Travel::Dense,
        injection: None,
        seed: 1234,
        evaluation: (1, scale.evaluations.1),
        // The clock ends it.
        end: End::Steps(1_000_000_000),
    }
}

/// About how many steps a job takes in this time.
fn steps(draft: &Draft, seconds: f64, bandwidth_gbit: f64) -> u64 {
    let model = scadles_api::worker::ModelConfig::built_in(draft.model, [3, 32, 32], 10);
    let devices = draft.rates.len();
    let network = NetworkModel {
        bytes_per_second: bandwidth_gbit * 1e9 / 8.0,
        latency_seconds: LATENCY_MILLISECONDS / 1e3,
    };
    let bytes = bytes_sent_per_step(parameter_count(&model), devices);
    let cost = StepCost {
        seconds_per_sample: SECONDS_PER_SAMPLE,
        exchange_seconds: network.exchange_seconds(bytes, devices),
    };
    (seconds / settle(draft.rule, draft.bounds, &draft.rates, cost).step_seconds) as u64
}

#[cfg(test)]
mod tests;
