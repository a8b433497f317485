//! The training loop's timing on a virtual clock: the real batch clocks, rate estimators, window rule, truncation and
//! weights, with streams, compute and exchange that follow formulas. `scadles simulate` and `scadles reproduce` are made of
//! it, the stability tests drive it. No I/O; the same settings give the same bits.
//!
//! A step costs a few operations per device, whatever it waits for: the moment of readiness is calculated, not sought.
//! What is shared with the worker are the leaves (batch, rate, window, truncation, weights); `agree` itself, with its reports
//! and checkpoints, is left out, and so are the samples: only their numbers are known here.
//!
//! # Assumptions
//! Every device keeps its own time of compute, all wait for the slowest, then the exchange takes the same for all.
//! Shared samples (injection) travel while devices compute on those that they keep, and take no time of their own.

use scadles_api::job::StreamPolicy;
use serde::{Deserialize, Serialize};

use crate::agree::next_window;
use crate::batch::{BatchBounds, BatchRule, StepTiming};
use crate::random::RandomStream;
use crate::weights::{Aggregation, Share, compute_weights};

pub mod exchange;
pub mod injection;
mod rank;
pub mod stream;
pub mod summary;

pub use exchange::{ExchangeModel, NetworkModel, Sent, SparseKind, SparseModel};
pub use injection::{InjectionMode, InjectionModel, InjectionVolume, ReplicateBatch};
pub use stream::RateProfile;
pub use summary::{DeviceSummary, SimSummary, Spread, Trace, TracePoint};

use rank::{DeviceTotals, SimRank};
use summary::Spreading;

/// Rounds without a sample anywhere after which the streams count as silent for good.
const MOST_WAITS: u32 = 100_000;
/// One simulated device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SimDevice {
    /// Its stream.
    pub stream: RateProfile,
    /// a_i: forward and backward of one sample, in seconds.
    pub seconds_per_sample: f64,
}

/// Where a simulation ends: at whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SimLimits {
    /// On the virtual clock.
    #[serde(with = "or_infinite")]
    pub seconds: f64,
    /// Of the group.
    pub steps: u64,
    /// Trained by all devices together.
    pub samples: u64,
}

impl SimLimits {
    /// No end.
    pub const NONE: Self = Self { seconds: f64::INFINITY, steps: u64::MAX, samples: u64::MAX };

    /// So many seconds of virtual time.
    pub const fn seconds(seconds: f64) -> Self {
        Self { seconds, ..Self::NONE }
    }

    /// So many steps.
    pub const fn steps(steps: u64) -> Self {
        Self { steps, ..Self::NONE }
    }

    /// So many samples of all devices.
    pub const fn samples(samples: u64) -> Self {
        Self { samples, ..Self::NONE }
    }
}

/// One simulated job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SimSettings {
    /// Batch rule.
    pub rule: BatchRule,
    /// Bounds of a batch.
    pub bounds: BatchBounds,
    /// What becomes of samples that no batch took.
    pub policy: StreamPolicy,
    /// How devices are weighed.
    pub aggregation: Aggregation,
    /// Agreement, exchange and update.
    pub exchange: ExchangeModel,
    /// Shared samples, if any.
    pub injection: Option<InjectionModel>,
    /// Compute times vary evenly by ± this share, per device and step.
    pub compute_noise: f64,
    /// Seed of that noise and of the donors.
    pub seed: u64,
    /// Where it ends.
    pub limits: SimLimits,
}

/// A job's clock: all that its timing follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VirtualClock {
    /// Of the group.
    pub settings: SimSettings,
    /// By rank.
    pub devices: Vec<SimDevice>,
}

/// JSON has no word for infinity: `null`.
mod or_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// Why a simulation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "camelCase")]
pub enum SimEnd {
    /// Not yet.
    Running,
    /// A limit was reached.
    Complete,
    /// A device waits for samples that never come.
    Starved {
        /// Its rank.
        rank: usize,
    },
    /// No device gets samples any more.
    Silent,
}

/// What a device brings into a step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SimBatch {
    /// Number of its first sample, counted from the start of the stream; a batch has no gaps.
    pub first_sample: u64,
    /// b_i.
    pub local_batch: u64,
    /// S_i as estimated, samples per second.
    pub stream_rate: f64,
    /// Q_i, samples.
    pub buffered: u64,
    /// EWMA of compute + exchange, in seconds.
    pub busy_seconds: f64,
}

/// What really happened in a step, where samples are trained.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Gradients.
    pub sent: Sent,
    /// Samples that each rank has trained.
    pub trained: &'a [u64],
    /// Samples that devices have shared.
    pub shared: InjectionVolume,
}

/// One device in one simulated step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimDeviceStep {
    /// b_i.
    pub local_batch: u64,
    /// w_i.
    pub aggregation_weight: f64,
    /// Q_i when the batch was cut, in samples.
    pub buffered: u64,
    /// S_i as estimated then.
    pub stream_rate: f64,
    /// From the end of the last step to this device's readiness, in seconds.
    pub wait_seconds: f64,
    /// Of its own forward and backward, in seconds.
    pub compute_seconds: f64,
    /// Until the slowest was ready and had computed, in seconds.
    pub group_wait_seconds: f64,
}

/// One simulated step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SimStep {
    /// When the group had agreed, in seconds.
    pub agreed_seconds: f64,
    /// Compute and exchange, in seconds.
    pub busy_seconds: f64,
    /// From the end of the last step to the end of this one, in seconds.
    pub step_seconds: f64,
    /// T of the next window, in seconds.
    pub window_seconds: f64,
    /// By rank.
    pub devices: Vec<SimDeviceStep>,
}

impl SimStep {
    /// Σb.
    pub fn global_batch(&self) -> u64 {
        self.devices.iter().map(|device| device.local_batch).sum()
    }
}

/// A job on the virtual clock.
#[derive(Debug, Clone)]
pub struct Simulation {
    settings: SimSettings,
    ranks: Vec<SimRank>,
    donors: RandomStream,
    end: SimEnd,
    /// Now, and when the last step ended.
    now: f64,
    ended: f64,
    window_seconds: f64,
    steps: u64,
    samples: u64,
    totals: GroupTotals,
    step: SimStep,
    // Kept from step to step, so that no step allocates them.
    effective: Vec<u64>,
    compute: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct GroupTotals {
    step_seconds: Spreading,
    busy_seconds: f64,
    buffered: u64,
    peak_buffered: u64,
    sparse_steps: u64,
    exchange_bytes: u64,
    dense_bytes: u64,
    shared_samples: u64,
    injection_bytes: u64,
}

impl GroupTotals {
    const EMPTY: Self = Self {
        step_seconds: Spreading::EMPTY,
        busy_seconds: 0.0,
        buffered: 0,
        peak_buffered: 0,
        sparse_steps: 0,
        exchange_bytes: 0,
        dense_bytes: 0,
        shared_samples: 0,
        injection_bytes: 0,
    };
}

impl Simulation {
    /// A job before its first step. Without devices it is silent.
    pub fn new(settings: SimSettings, devices: &[SimDevice]) -> Self {
        let noise = RandomStream::new(settings.seed, 0);
        let rank = |(rank, &device): (usize, &SimDevice)| {
            SimRank::new(&settings, device, noise.substream(rank as u64))
        };
        Self {
            settings,
            ranks: devices.iter().enumerate().map(rank).collect(),
            donors: RandomStream::new(settings.seed, 1),
            end: if devices.is_empty() { SimEnd::Silent } else { SimEnd::Running },
            now: 0.0,
            ended: 0.0,
            window_seconds: 0.0,
            steps: 0,
            samples: 0,
            totals: GroupTotals::EMPTY,
            step: SimStep::default(),
            effective: Vec::new(),
            compute: Vec::new(),
        }
    }

    /// The next step; `None` when the simulation has ended.
    pub fn advance(&mut self) -> Option<&SimStep> {
        self.cut().then(|| self.train(None))
    }

    /// The first half of a step: time goes on until the batches of all devices are fixed and one has samples. False when
    /// the simulation has ended.
    pub fn cut(&mut self) -> bool {
        for _ in 0..MOST_WAITS {
            if self.end != SimEnd::Running || !self.become_ready() {
                return false;
            }
            let global_batch: u64 = self.ranks.iter().map(|rank| rank.local_batch).sum();
            let busy = self.ranks.iter().map(|rank| rank.clock.busy_seconds());
            self.window_seconds = next_window(self.settings.rule, self.window_seconds, busy);
            for rank in &mut self.ranks {
                rank.clock.settle(global_batch > 0, self.window_seconds);
            }
            if global_batch > 0 {
                return true;
            }
        }
        self.end = SimEnd::Silent;
        false
    }

    /// The batches that [`cut`](Self::cut) has fixed, by rank.
    pub fn batches(&self) -> impl Iterator<Item = SimBatch> {
        self.ranks.iter().map(|rank| SimBatch {
            first_sample: rank.consumed,
            local_batch: rank.local_batch,
            stream_rate: rank.view.stream_rate,
            buffered: rank.view.buffered,
            busy_seconds: rank.clock.busy_seconds(),
        })
    }

    /// Lets every device fix its batch; false when that is the end.
    fn become_ready(&mut self) -> bool {
        let limits = self.settings.limits;
        if self.steps >= limits.steps || self.samples >= limits.samples {
            self.end = SimEnd::Complete;
            return false;
        }
        let world_size = self.ranks.len();
        let mut agreed_seconds = self.now;
        for (index, rank) in self.ranks.iter_mut().enumerate() {
            if rank.become_ready(self.now, limits.seconds).is_err() {
                self.end = SimEnd::Starved { rank: index };
                return false;
            }
            if let Some(injection) = &self.settings.injection {
                rank.local_batch = injection.own_batch(world_size, rank.local_batch);
            }
            agreed_seconds = agreed_seconds.max(rank.ready_seconds);
        }
        if agreed_seconds >= limits.seconds {
            self.end = SimEnd::Complete;
            return false;
        }
        self.now = agreed_seconds;
        true
    }

    /// The second half: the batches that were cut are trained, and what they have learned is exchanged; as `known`, or else
    /// as the models of exchange and injection have it.
    pub fn train(&mut self, known: Option<Known<'_>>) -> &SimStep {
        let global_batch: u64 = self.ranks.iter().map(|rank| rank.local_batch).sum();
        let world_size = self.ranks.len();
        self.effective.clear();
        self.effective.extend(self.ranks.iter().map(|rank| rank.local_batch));
        let volume = match (known, self.settings.injection) {
            (Some(known), _) => {
                self.effective.copy_from_slice(known.trained);
                known.shared
            }
            (None, Some(model)) => model.share(self.donors.substream(self.steps), &mut self.effective),
            (None, None) => InjectionVolume::default(),
        };
        self.totals.shared_samples += volume.shared_samples;
        self.totals.injection_bytes += volume.sent_bytes;
        let noise = self.settings.compute_noise;
        self.compute.clear();
        let pairs = self.ranks.iter().zip(&self.effective);
        self.compute.extend(pairs.map(|(rank, &trained)| rank.compute_seconds(trained, noise, self.steps)));
        let model = &self.settings.exchange;
        let exchange = match known {
            None => model.of_step(self.steps, world_size),
            Some(known) => model.of_bytes(known.sent, world_size),
        };
        let slowest = self.compute.iter().copied().fold(0.0, f64::max);
        // The exchange ends for all when the slowest has computed.
        let busy_seconds = slowest + exchange.seconds;
        self.record(busy_seconds, slowest);
        self.now = self.step.agreed_seconds + busy_seconds;
        self.totals.buffered = 0;
        for ((rank, &compute_seconds), &trained) in
            self.ranks.iter_mut().zip(&self.compute).zip(&self.effective)
        {
            let timing = StepTiming { busy_seconds, compute_seconds, local_batch: trained };
            self.totals.buffered += rank.finish(self.now, self.settings.policy, &timing);
        }
        let totals = &mut self.totals;
        totals.step_seconds.add(self.step.step_seconds);
        totals.busy_seconds += busy_seconds;
        totals.peak_buffered = totals.peak_buffered.max(totals.buffered);
        totals.sparse_steps += u64::from(exchange.sparse);
        totals.exchange_bytes += exchange.bytes * world_size as u64;
        let dense = exchange::dense_bytes(self.settings.exchange.parameters, world_size);
        totals.dense_bytes += dense * world_size as u64;
        self.ended = self.now;
        self.steps += 1;
        self.samples += global_batch;
        &self.step
    }

    /// When the last step ended, in seconds.
    pub fn seconds(&self) -> f64 {
        self.ended
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> SimEnd {
        self.end
    }

    /// Writes the step down as it looks when the group has agreed.
    fn record(&mut self, busy_seconds: f64, slowest: f64) {
        let share = |&trained: &u64| Share { local_batch: trained, loss_mass: trained as f64 };
        let shares: Vec<Share> = self.effective.iter().map(share).collect();
        let weights = compute_weights(self.settings.aggregation, &shares);
        let agreed_seconds = self.now;
        let step = &mut self.step;
        step.agreed_seconds = agreed_seconds;
        step.busy_seconds = busy_seconds;
        step.step_seconds = agreed_seconds + busy_seconds - self.ended;
        step.window_seconds = self.window_seconds;
        step.devices.clear();
        let ranks = self.ranks.iter_mut().zip(&self.compute).zip(weights.aggregation_weights);
        for ((rank, compute_seconds), aggregation_weight) in ranks {
            let device = SimDeviceStep {
                local_batch: rank.local_batch,
                aggregation_weight,
                buffered: rank.view.buffered,
                stream_rate: rank.view.stream_rate,
                wait_seconds: rank.ready_seconds - self.ended,
                compute_seconds: *compute_seconds,
                group_wait_seconds: agreed_seconds - rank.ready_seconds + slowest - compute_seconds,
            };
            rank.totals.aggregation_weights += aggregation_weight;
            rank.totals.stream_wait_seconds += device.wait_seconds;
            rank.totals.group_wait_seconds += device.group_wait_seconds;
            step.devices.push(device);
        }
    }

    /// The last step, for a [`Trace`].
    pub fn point(&self) -> TracePoint {
        let waits = self.step.devices.iter().map(|device| device.wait_seconds + device.group_wait_seconds);
        TracePoint {
            step: self.steps,
            seconds: self.ended,
            step_seconds: self.step.step_seconds,
            wait_seconds: waits.sum::<f64>() / self.ranks.len().max(1) as f64,
            global_batch: self.step.global_batch(),
            trained: self.samples,
            buffered: self.totals.buffered,
            dropped: self.ranks.iter().map(|rank| rank.totals.dropped).sum(),
            bytes: self.totals.exchange_bytes + self.totals.injection_bytes,
        }
    }

    /// What it has come to so far.
    pub fn summary(&self) -> SimSummary {
        let steps = self.steps.max(1) as f64;
        let device = |rank: &SimRank| {
            let arrived = rank.device.stream.arrived(self.ended);
            let DeviceTotals { trained, dropped, peak_buffered, .. } = rank.totals;
            DeviceSummary {
                arrived,
                trained,
                dropped,
                buffered: arrived.saturating_sub(trained + dropped),
                peak_buffered,
                local_batch: trained as f64 / steps,
                aggregation_weight: rank.totals.aggregation_weights / steps,
                stream_wait_seconds: rank.totals.stream_wait_seconds / steps,
                group_wait_seconds: rank.totals.group_wait_seconds / steps,
            }
        };
        let devices: Vec<DeviceSummary> = self.ranks.iter().map(device).collect();
        let all = |of: fn(&DeviceSummary) -> u64| devices.iter().map(of).sum::<u64>();
        let totals = &self.totals;
        SimSummary {
            end: self.end,
            steps: self.steps,
            simulated_seconds: self.ended,
            step_seconds: totals.step_seconds.spread(),
            busy_seconds: totals.busy_seconds / steps,
            global_batch: self.samples as f64 / steps,
            samples_per_second: if self.ended > 0.0 { self.samples as f64 / self.ended } else { 0.0 },
            arrived: all(|device| device.arrived),
            trained: all(|device| device.trained),
            dropped: all(|device| device.dropped),
            buffered: all(|device| device.buffered),
            peak_buffered: totals.peak_buffered,
            sparse_steps: totals.sparse_steps,
            exchange_bytes: totals.exchange_bytes,
            dense_bytes: totals.dense_bytes,
            shared_samples: totals.shared_samples,
            injection_bytes: totals.injection_bytes,
            devices,
        }
    }
}

#[cfg(test)]
mod tests;
