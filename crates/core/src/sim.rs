//! The timing of the training loop on a virtual clock: the real batch clocks, rate estimators and step agreement, with
//! streams and compute times that follow formulas. `scadles plan` asks it what to expect; the stability tests drive it.
//! No I/O; the same settings give the same bits.

use scadles_api::job::StreamPolicy;

use crate::agree::{Action, AgreeSettings, Completion, GlobalState, StepPlan, StepReport, agree};
use crate::batch::{BatchBounds, BatchClock, BatchRule, Readiness, StepTiming, StreamView};
use crate::learning_rate::{LearningRatePlan, LearningRateScaling};
use crate::random::RandomStream;
use crate::rate::{POLL_SECONDS, RateEstimator};
use crate::weights::Aggregation;

/// How often a device that waits for samples looks again, in seconds.
const LOOK_SECONDS: f64 = 0.001;
/// Rounds after which a simulation ends whatever its clock says.
const MOST_ROUNDS: usize = 1_000_000;

/// How a stream's rate goes over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RateProfile {
    /// Always the same, in samples per second.
    Constant(f64),
    /// One rate before, another after a moment.
    Step {
        /// Samples per second before.
        before: f64,
        /// Samples per second after.
        after: f64,
        /// The moment, in seconds.
        at_seconds: f64,
    },
    /// mean·(1 + swing·sin(2πt/period)).
    Sine {
        /// Samples per second.
        mean: f64,
        /// In [0, 1].
        swing: f64,
        /// In seconds.
        period_seconds: f64,
    },
}

impl RateProfile {
    /// Samples that have arrived at `now` seconds.
    pub fn arrived(&self, now: f64) -> u64 {
        let samples = match *self {
            Self::Constant(rate) => rate * now,
            Self::Step { before, after, at_seconds } => {
                before * now.min(at_seconds) + after * (now - at_seconds).max(0.0)
            }
            Self::Sine { mean, swing, period_seconds } => {
                let turn = std::f64::consts::TAU / period_seconds;
                mean * (now + swing / turn * (1.0 - (turn * now).cos()))
            }
        };
        samples as u64
    }

    /// The rate at `now` seconds, in samples per second.
    pub fn rate(&self, now: f64) -> f64 {
        match *self {
            Self::Constant(rate) => rate,
            Self::Step { before, after, at_seconds } => {
                if now < at_seconds {
                    before
                } else {
                    after
                }
            }
            Self::Sine { mean, swing, period_seconds } => {
                mean * (1.0 + swing * (std::f64::consts::TAU * now / period_seconds).sin())
            }
        }
    }
}

/// One simulated device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimDevice {
    /// Its stream.
    pub stream: RateProfile,
    /// a_i: forward and backward of one sample, in seconds.
    pub seconds_per_sample: f64,
}

/// One simulated job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimSettings {
    /// Batch rule.
    pub rule: BatchRule,
    /// Bounds of a batch.
    pub bounds: BatchBounds,
    /// What becomes of samples that no batch took.
    pub policy: StreamPolicy,
    /// Agreement, exchange and update of one step, in seconds.
    pub overhead_seconds: f64,
    /// Compute times vary evenly by ± this share, per device and step.
    pub compute_noise: f64,
    /// Seed of that noise.
    pub seed: u64,
    /// Length of the simulation.
    pub duration_seconds: f64,
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
}

/// One simulated step.
#[derive(Debug, Clone, PartialEq)]
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

struct SimRank {
    device: SimDevice,
    clock: BatchClock,
    rate: RateEstimator,
    polls: u64,
    consumed: u64,
    view: StreamView,
    ready_seconds: f64,
    local_batch: u64,
}

impl SimRank {
    fn new(settings: &SimSettings, device: SimDevice) -> Self {
        Self {
            device,
            clock: BatchClock::new(settings.rule, settings.bounds),
            rate: RateEstimator::new(),
            polls: 0,
            consumed: 0,
            view: StreamView { available: 0, arrived_total: 0, stream_rate: 0.0, buffered: 0 },
            ready_seconds: 0.0,
            local_batch: 0,
        }
    }

    fn look(&mut self, now: f64) {
        while self.polls as f64 * POLL_SECONDS <= now {
            let at = self.polls as f64 * POLL_SECONDS;
            self.rate.poll(at, self.device.stream.arrived(at));
            self.polls += 1;
        }
        let buffered = self.device.stream.arrived(now).saturating_sub(self.consumed);
        self.view = StreamView {
            available: buffered,
            arrived_total: self.rate.arrived_total(),
            stream_rate: self.rate.stream_rate().unwrap_or(0.0),
            buffered,
        };
    }

    /// Waits from `now` until the batch is fixed, or the simulation is over.
    fn become_ready(&mut self, now: f64, end: f64) {
        self.ready_seconds = now;
        while self.ready_seconds < end {
            self.look(self.ready_seconds);
            match self.clock.poll(self.ready_seconds, &self.view) {
                Readiness::NotBefore(at) => {
                    self.ready_seconds = at.max(self.ready_seconds + LOOK_SECONDS * 0.1);
                }
                Readiness::NeedSamples { .. } => self.ready_seconds += LOOK_SECONDS,
                Readiness::Ready { local_batch } => {
                    self.local_batch = local_batch;
                    return;
                }
            }
        }
    }

    fn report(&self, rank: usize, step: u64) -> StepReport {
        StepReport {
            rank,
            step,
            ready: true,
            local_batch: self.local_batch,
            loss_mass: self.local_batch as f64,
            busy_seconds: self.clock.busy_seconds(),
            stream_rate: self.view.stream_rate,
            buffered: self.view.buffered,
            ranges: Vec::new(),
            stream: None,
            stop_requested: None,
            stop_unsaved: false,
            checkpoint_requested: false,
            tuning_generation: 0,
            parameter_hash: None,
            compression: None,
            evaluation: None,
        }
    }

    fn finish(&mut self, now: f64, policy: StreamPolicy, timing: &StepTiming) {
        self.consumed += self.local_batch;
        self.clock.step_finished(timing);
        if policy == StreamPolicy::Truncation {
            let kept = self.view.stream_rate.ceil() as u64;
            self.consumed = self.consumed.max(self.device.stream.arrived(now).saturating_sub(kept));
        }
    }
}

/// Runs the job for its duration and returns its steps.
pub fn simulate(settings: &SimSettings, devices: &[SimDevice]) -> Vec<SimStep> {
    let agree_settings = agree_settings(settings.rule, devices.len());
    let noise = RandomStream::new(settings.seed, 0);
    let mut ranks: Vec<SimRank> = devices.iter().map(|&device| SimRank::new(settings, device)).collect();
    let mut state = GlobalState::default();
    let mut steps = Vec::new();
    let mut now = 0.0;
    for _ in 0..MOST_ROUNDS {
        for rank in &mut ranks {
            rank.become_ready(now, settings.duration_seconds);
        }
        let agreed_seconds = ranks.iter().map(|rank| rank.ready_seconds).fold(now, f64::max);
        if agreed_seconds >= settings.duration_seconds {
            break;
        }
        let reports: Vec<StepReport> =
            ranks.iter().enumerate().map(|(i, r)| r.report(i, state.step)).collect();
        let Ok(agreement) = agree(&agree_settings, &state, &reports) else { break };
        for rank in &mut ranks {
            rank.clock.agreed(&agreement);
        }
        state = agreement.next;
        let ended_before = now;
        now = agreed_seconds;
        let Action::Step(plan) = &agreement.action else { continue };
        let compute: Vec<f64> = ranks
            .iter()
            .enumerate()
            .map(|(i, rank)| {
                let swing = settings.compute_noise * (2.0 * noise.substream(i as u64).unit(state.step) - 1.0);
                rank.device.seconds_per_sample * rank.local_batch as f64 * (1.0 + swing)
            })
            .collect();
        // The exchange ends for all when the slowest has computed.
        let busy_seconds = compute.iter().copied().fold(0.0, f64::max) + settings.overhead_seconds;
        now += busy_seconds;
        steps.push(SimStep {
            agreed_seconds,
            busy_seconds,
            step_seconds: now - ended_before,
            window_seconds: agreement.window_seconds,
            devices: recorded(&ranks, plan, ended_before),
        });
        for (rank, compute_seconds) in ranks.iter_mut().zip(compute) {
            let timing = StepTiming { busy_seconds, compute_seconds, local_batch: rank.local_batch };
            rank.finish(now, settings.policy, &timing);
        }
    }
    steps
}

fn recorded(ranks: &[SimRank], plan: &StepPlan, ended_before: f64) -> Vec<SimDeviceStep> {
    let pairs = ranks.iter().zip(&plan.aggregation_weights);
    pairs
        .map(|(rank, &aggregation_weight)| SimDeviceStep {
            local_batch: rank.local_batch,
            aggregation_weight,
            buffered: rank.view.buffered,
            stream_rate: rank.view.stream_rate,
            wait_seconds: rank.ready_seconds - ended_before,
        })
        .collect()
}

fn agree_settings(rule: BatchRule, world_size: usize) -> AgreeSettings {
    AgreeSettings {
        world_size,
        rule,
        aggregation: Aggregation::Weighted,
        learning_rate: LearningRatePlan {
            base_learning_rate: 0.0,
            scaling: LearningRateScaling::None,
            base_global_batch: 1,
            epoch_samples: 1,
            milestone_epochs: Vec::new(),
            gamma: 1.0,
        },
        compression: None,
        completion: Completion::MaxSteps(u64::MAX),
        checkpoint_every_steps: 0,
        evaluate_every_steps: 0,
    }
}

/// What one device can expect, on average.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DeviceExpectation {
    /// b_i.
    pub local_batch: f64,
    /// w_i.
    pub aggregation_weight: f64,
    /// Wait for samples or the window's end per step, in seconds.
    pub wait_seconds: f64,
    /// Growth of the backlog, in samples per second.
    pub backlog_per_second: f64,
}

/// What a job can expect, on average after it has settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// From step to step, in seconds.
    pub step_seconds: f64,
    /// Samples trained per second by all devices together.
    pub samples_per_second: f64,
    /// By rank.
    pub devices: Vec<DeviceExpectation>,
}

/// Means over the second half of `steps`; `None` if there are too few to speak of.
pub fn expectation(steps: &[SimStep]) -> Option<Expectation> {
    let settled = &steps[steps.len() / 2..];
    let (first, last) = (settled.first()?, settled.last()?);
    let seconds = last.agreed_seconds - first.agreed_seconds;
    if settled.len() < 2 || seconds <= 0.0 {
        return None;
    }
    let n = settled.len() as f64;
    let trained: u64 = settled[1..].iter().map(SimStep::global_batch).sum();
    let device = |rank: usize| {
        let mean =
            |of: fn(&SimDeviceStep) -> f64| settled.iter().map(|s| of(&s.devices[rank])).sum::<f64>() / n;
        DeviceExpectation {
            local_batch: mean(|d| d.local_batch as f64),
            aggregation_weight: mean(|d| d.aggregation_weight),
            wait_seconds: mean(|d| d.wait_seconds),
            backlog_per_second: (last.devices[rank].buffered as f64 - first.devices[rank].buffered as f64)
                / seconds,
        }
    };
    Some(Expectation {
        step_seconds: settled.iter().map(|step| step.step_seconds).sum::<f64>() / n,
        samples_per_second: trained as f64 / seconds,
        devices: (0..first.devices.len()).map(device).collect(),
    })
}
