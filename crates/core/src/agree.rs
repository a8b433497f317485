//! The step agreement: from the reports of all ranks, what all of them do next. No I/O.
//!
//! The hub computes [`agree`] once and broadcasts the result. It is deterministic: reports are taken in rank order
//! whatever order they came in, sums run in rank order, and nothing but the arguments counts.
//!
//! # Guarantees
//! All ranks stop at the same step and for the same reason; Σb = 0 moves no counter; [`GlobalState`] advances only by
//! [`StepAgreement::next`], and only when the step has been applied.

use std::borrow::Cow;

pub use scadles_api::worker::Completion;
use scadles_api::{ExitCode, Tuning};
use serde::{Deserialize, Serialize};

use crate::batch::{BatchRule, SHORTEST_WINDOW_SECONDS};
use crate::compress::cost::LinkCost;
use crate::compress::gate::{
    CompressionDecision, CompressionReport, CompressionRule, CompressionState, EnergyStatistics, StepTimes,
};
use crate::device_stream::DeviceCheckpoint;
use crate::evaluate::EvaluationCounts;
use crate::inject::{InjectionPlan, InjectionRule, Offer};
use crate::learning_rate::{GradientReport, LearningRatePlan, LearningRateState, ScaledBatch};
use crate::partition_queue::BatchRange;
use crate::weights::{Aggregation, Share, compute_weights};

/// T changes only when the ranks' busy time has left this band around it.
pub const WINDOW_DEAD_BAND: f64 = 0.05;

/// What is agreed by the job. Constant over an attempt, but for what follows from the tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct AgreeSettings {
    /// n, ranks in the attempt.
    pub world_size: usize,
    /// The batch rule of all ranks.
    pub rule: BatchRule,
    /// How gradients are weighted.
    pub aggregation: Aggregation,
    /// η and what it follows.
    pub learning_rate: LearningRatePlan,
    /// When gradients are compressed, if they ever are.
    pub compression: Option<CompressionRule>,
    /// How devices share samples, if they do.
    pub injection: Option<InjectionRule>,
    /// What these two follow from.
    pub tuning: Tuning,
    /// When the job is complete.
    pub completion: Completion,
    /// A checkpoint follows every so many steps; 0: only when asked for.
    pub checkpoint_every_steps: u64,
    /// An evaluation follows every so many steps; 0: only at the end.
    pub evaluate_every_steps: u64,
}

impl AgreeSettings {
    /// The settings of the same job with another tuning.
    #[must_use]
    pub fn tuned(&self, tuning: &Tuning) -> Self {
        let compression = self.compression.as_ref();
        let injection = self.injection.as_ref();
        Self {
            compression: compression
                .map(|rule| tuning.compression.map_or(rule.clone(), |it| rule.tuned(&it))),
            injection: injection.map(|rule| tuning.injection.map_or(rule.clone(), |it| rule.tuned(&it))),
            tuning: *tuning,
            ..self.clone()
        }
    }
}

/// What all ranks have in common between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GlobalState {
    /// Steps committed.
    pub step: u64,
    /// Samples trained by all devices together, over the surviving history.
    pub samples: u64,
    /// T of `LineRate`, in seconds; 0 before the first agreement.
    pub window_seconds: f64,
    /// The tuning that held for the last step, and holds until another one is agreed on.
    pub tuning: Tuning,
    /// What the ranks know about compression.
    pub compression: CompressionState,
    /// What the ranks know about the learning rate.
    pub learning_rate: LearningRateState,
}

/// Why the group stops. In order of precedence: the first named wins when ranks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopReason {
    /// The ranks' parameters differ.
    Diverged,
    /// A rank cannot go on (stream stalled, topic lost, disk full, too many records undecodable …); the code says why,
    /// its last words say more.
    Fault(ExitCode),
    /// A user or supervisor asked for it.
    Requested,
    /// The completion rule is fulfilled.
    Completed,
}

impl StopReason {
    /// The exit code of every rank that stops for this reason.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Diverged => ExitCode::Diverged,
            Self::Fault(code) => code,
            Self::Requested => ExitCode::Stopped,
            Self::Completed => ExitCode::Completed,
        }
    }
}

/// What one rank says before a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own, and all go together")]
pub struct StepReport {
    /// Who.
    pub rank: usize,
    /// Steps this rank has committed.
    pub step: u64,
    /// The batch is fixed; without it the report only carries requests and measurements.
    pub ready: bool,
    /// b_i, samples; 0: sits out.
    pub local_batch: u64,
    /// Sum of the class weights of the batch, 0 or more; b_i without class weights.
    pub loss_mass: f64,
    /// EWMA of compute + exchange, in seconds.
    pub busy_seconds: f64,
    /// S_i, samples per second.
    pub stream_rate: f64,
    /// Q_i, samples, local and at the broker.
    pub buffered: u64,
    /// The batch in training order, for the journal and for what is shared of it.
    pub ranges: Vec<BatchRange>,
    /// Samples of the batch by label, where donors are chosen by them; else empty.
    pub labels: Vec<u32>,
    /// Position and ledger of the device before the batch, for progress and checkpoint.
    pub stream: Option<DeviceCheckpoint>,
    /// The device's stream is over, and all that could be trained of it is.
    pub stream_ended: bool,
    /// This rank wants to stop.
    pub stop_requested: Option<StopReason>,
    /// Its request to stop asks for no checkpoint.
    pub stop_unsaved: bool,
    /// This rank wants a checkpoint.
    pub checkpoint_requested: bool,
    /// The newest tuning that this rank was told of, if any.
    pub tuning: Option<Tuning>,
    /// Hash of the parameters after `step` steps, when it was time to compute it.
    pub parameter_hash: Option<u64>,
    /// What this rank knows of compression after `step` steps, in jobs that have it.
    pub compression: Option<CompressionReport>,
    /// This rank's gradient of the last step, in jobs that scale by it.
    pub gradient: Option<GradientReport>,
    /// This rank's part of an evaluation after `step` steps.
    pub evaluation: Option<EvaluationCounts>,
}

/// What all ranks do next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepAgreement {
    /// The decision.
    pub action: Action,
    /// T of the next window, in seconds.
    pub window_seconds: f64,
    /// The state once the action is done; a rank takes it over when it has applied the step.
    pub next: GlobalState,
    /// The summed evaluation, when all ranks reported one.
    pub evaluation: Option<EvaluationCounts>,
}

/// The decision of one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per round, and nearly all are steps: a box would save nothing"
)]
pub enum Action {
    /// Train one step.
    Step(StepPlan),
    /// Nobody has samples: keep the batch, begin a new window.
    Wait,
    /// Leave the loop.
    Stop {
        /// Why.
        reason: StopReason,
        /// Write a checkpoint first: the ranks agree on the state, all said where their streams stand, and storage works.
        checkpoint: bool,
    },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepPlan {
    /// b_i by rank: what is taken from the rank's own stream.
    pub local_batches: Vec<u64>,
    /// Samples that each rank trains: b_i, less what it gives away, with what it gets from others.
    pub trained_batches: Vec<u64>,
    /// w_i by rank.
    pub aggregation_weights: Vec<f64>,
    /// What a rank multiplies the sum of its samples' losses by.
    pub loss_scales: Vec<f64>,
    /// Σb, each sample once.
    pub global_batch: u64,
    /// η_t; follows Σ of the trained batches, copies counted.
    pub scaled_learning_rate: f64,
    /// Settings that hold for this step on all ranks: the decisions below were made by them.
    pub tuning: Tuning,
    /// How the gradients travel.
    pub compression: CompressionDecision,
    /// Samples that travel before the ranks compute.
    pub injection: InjectionPlan,
    /// Write a checkpoint after the step.
    pub checkpoint: bool,
    /// Evaluate after the step.
    pub evaluate: bool,
}

impl StepPlan {
    /// Whether running statistics, in networks that have them, become those of all ranks after the step: before they are used
    /// or kept.
    pub const fn agrees_statistics(&self) -> bool {
        self.checkpoint || self.evaluate
    }
}

/// A report that breaks the protocol.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a rank of this attempt.
    #[error("failed to agree: rank {rank} reported, the attempt has ranks 0 to {}", .world_size - 1)]
    UnknownRank {
        /// The rank.
        rank: usize,
        /// n.
        world_size: usize,
    },
    /// Two reports of one rank.
    #[error("failed to agree: rank {rank} reported twice in one round")]
    DuplicateRank {
        /// The rank.
        rank: usize,
    },
    /// A rank is at another step than the group.
    #[error("failed to agree: rank {rank} is at step {step}, the group at {expected}")]
    WrongStep {
        /// The rank.
        rank: usize,
        /// Its step.
        step: u64,
        /// The group's.
        expected: u64,
    },
    /// A batch that is not the records it lists, where some of them are to be shared.
    #[error("failed to agree: rank {rank} has {local_batch} samples and lists {listed} records")]
    Ranges {
        /// The rank.
        rank: usize,
        /// b_i.
        local_batch: u64,
        /// Records of its ranges.
        listed: u64,
    },
    /// A batch whose loss mass is negative or no number.
    #[error(
        "failed to agree: rank {rank} has {local_batch} samples of loss mass {loss_mass}, not a number of 0 or more"
    )]
    LossMass {
        /// The rank.
        rank: usize,
        /// b_i.
        local_batch: u64,
        /// The mass.
        loss_mass: f64,
    },
}

/// Decides the round from the newest report of each rank. With a rank missing or not ready the answer is `Wait`, unless
/// the group stops: at once for a fault or a divergence; for a request or completion as soon as every rank has
/// reported this step, ready or not, so that the checkpoint knows all streams. Ranks therefore report after every step
/// before they wait for samples.
pub fn agree(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &[StepReport],
) -> Result<StepAgreement, Error> {
    let reports = in_rank_order(settings, state, reports)?;
    let complete = reports.len() == settings.world_size;
    let evaluation = summed_evaluation(settings, &reports);
    let busy_seconds = reports.iter().map(|report| report.busy_seconds);
    let window_seconds = next_window(settings.rule, state.window_seconds, busy_seconds);
    let settled = GlobalState { window_seconds, ..*state };
    let answer =
        |action, next| StepAgreement { action, window_seconds, next, evaluation: evaluation.clone() };
    let stop = stop_reason(settings, state, &reports, evaluation.as_ref());
    let is_grave = |reason: &StopReason| matches!(reason, StopReason::Diverged | StopReason::Fault(_));
    if let Some(reason) = stop.filter(|reason| complete || is_grave(reason)) {
        let spoilt = [
            StopReason::Diverged,
            StopReason::Fault(ExitCode::Diverged),
            StopReason::Fault(ExitCode::StorageFailed),
        ];
        let unwanted = reason == StopReason::Requested && nobody_asks_to_save(&reports);
        let savable = !spoilt.contains(&reason) && !unwanted;
        let checkpoint = savable && complete && reports.iter().all(|report| report.stream.is_some());
        return Ok(answer(Action::Stop { reason, checkpoint }, settled));
    }
    let global_batch: u64 = reports.iter().map(|report| report.local_batch).sum();
    if !complete || global_batch == 0 || reports.iter().any(|report| !report.ready) {
        return Ok(answer(Action::Wait, settled));
    }
    let tuning = newest_tuning(state, &reports);
    let tuned =
        if settings.tuning == tuning { Cow::Borrowed(settings) } else { Cow::Owned(settings.tuned(&tuning)) };
    let (decision, compression) = decide_compression(&tuned, state, &reports);
    let plan = plan_step(&tuned, state, &reports, global_batch);
    let batch = ScaledBatch::of(&plan.trained_batches, &plan.aggregation_weights, global_batch);
    let known = observed_learning_rate(state, &reports);
    let (scaled_learning_rate, learning_rate) = settings.learning_rate.scale(known, state.samples, &batch);
    let plan = StepPlan { compression: decision, scaled_learning_rate, ..plan };
    let next = GlobalState {
        step: state.step + 1,
        samples: state.samples + global_batch,
        window_seconds,
        tuning,
        compression,
        learning_rate,
    };
    Ok(answer(Action::Step(plan), next))
}

/// Whether all who asked to stop did so without a checkpoint: one who wants it is enough.
fn nobody_asks_to_save(reports: &[&StepReport]) -> bool {
    let mut asking = reports.iter().filter(|report| report.stop_requested == Some(StopReason::Requested));
    asking.all(|report| report.stop_unsaved)
}

fn in_rank_order<'a>(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &'a [StepReport],
) -> Result<Vec<&'a StepReport>, Error> {
    let mut ordered: Vec<&StepReport> = reports.iter().collect();
    ordered.sort_by_key(|report| report.rank);
    for (i, report) in ordered.iter().enumerate() {
        let &&StepReport { rank, step, local_batch, loss_mass, .. } = report;
        if rank >= settings.world_size {
            return Err(Error::UnknownRank { rank, world_size: settings.world_size });
        }
        if i > 0 && ordered[i - 1].rank == rank {
            return Err(Error::DuplicateRank { rank });
        }
        if step != state.step {
            return Err(Error::WrongStep { rank, step, expected: state.step });
        }
        if local_batch > 0 && !(loss_mass.is_finite() && loss_mass >= 0.0) {
            return Err(Error::LossMass { rank, local_batch, loss_mass });
        }
        let listed = offer(report).samples();
        if settings.injection.is_some() && report.ready && listed != local_batch {
            return Err(Error::Ranges { rank, local_batch, listed });
        }
    }
    Ok(ordered)
}

fn stop_reason(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &[&StepReport],
    evaluation: Option<&EvaluationCounts>,
) -> Option<StopReason> {
    let mut hashes = reports.iter().filter_map(|report| report.parameter_hash);
    let first = hashes.next();
    if hashes.any(|hash| Some(hash) != first) {
        return Some(StopReason::Diverged);
    }
    let requested = reports.iter().filter_map(|report| report.stop_requested).min();
    if requested.is_some() {
        return requested;
    }
    let complete = match settings.completion {
        Completion::MaxSteps(steps) => state.step >= steps,
        Completion::MaxSamples(samples) => state.samples >= samples,
        Completion::MaxEpochs(epochs) => settings.learning_rate.epoch(state.samples) >= epochs,
        Completion::TargetAccuracy(target) => {
            evaluation.and_then(EvaluationCounts::top_1).is_some_and(|accuracy| accuracy >= target)
        }
        Completion::StreamEnd => {
            reports.len() == settings.world_size && reports.iter().all(|report| report.stream_ended)
        }
    };
    complete.then_some(StopReason::Completed)
}

/// T in seconds for the next window: max(T_min, max over ranks of EWMA(busy)), unchanged while that stays within the dead
/// band around `current`.
pub fn next_window(rule: BatchRule, current: f64, busy_seconds: impl Iterator<Item = f64>) -> f64 {
    match rule {
        BatchRule::Fixed { .. } => 0.0,
        BatchRule::StreamRate { window_seconds } => window_seconds,
        BatchRule::LineRate => {
            let finite = busy_seconds.filter(|busy| busy.is_finite());
            let wanted = finite.fold(SHORTEST_WINDOW_SECONDS, f64::max);
            if (wanted - current).abs() <= WINDOW_DEAD_BAND * current { current } else { wanted }
        }
    }
}

/// The step without its rate, sent densely.
fn plan_step(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &[&StepReport],
    global_batch: u64,
) -> StepPlan {
    let offers: Vec<Offer<'_>> = reports.iter().map(|report| offer(report)).collect();
    let injection =
        settings.injection.as_ref().map(|rule| rule.plan(state.step, &offers)).unwrap_or_default();
    let local_batches: Vec<u64> = reports.iter().map(|report| report.local_batch).collect();
    let trained_batches = injection.trained(&local_batches);
    let share = |(rank, &local_batch)| Share { local_batch, loss_mass: loss_mass(reports, &injection, rank) };
    let shares: Vec<Share> = trained_batches.iter().enumerate().map(share).collect();
    let weights = compute_weights(settings.aggregation, &shares);
    let next_step = state.step + 1;
    let due = |every: u64| every > 0 && next_step.is_multiple_of(every);
    StepPlan {
        local_batches,
        trained_batches,
        aggregation_weights: weights.aggregation_weights,
        loss_scales: weights.loss_scales,
        global_batch,
        scaled_learning_rate: 0.0,
        tuning: settings.tuning,
        compression: CompressionDecision::Dense,
        injection,
        checkpoint: due(settings.checkpoint_every_steps)
            || reports.iter().any(|report| report.checkpoint_requested),
        evaluate: due(settings.evaluate_every_steps),
    }
}

fn offer(report: &StepReport) -> Offer<'_> {
    Offer { ranges: &report.ranges, labels: &report.labels }
}

/// Loss mass of what `rank` trains: a shared sample has the mean mass of its donor's batch.
fn loss_mass(reports: &[&StepReport], injection: &InjectionPlan, rank: usize) -> f64 {
    let own = reports[rank];
    if injection.is_empty() {
        return own.loss_mass;
    }
    let each = |report: &StepReport| report.loss_mass / report.local_batch.max(1) as f64;
    let kept = own.local_batch - injection.given_away(rank);
    let received = injection.received_by(rank).map(|part| part.samples() as f64 * each(reports[part.donor]));
    kept as f64 * each(own) + received.sum::<f64>()
}

/// What the last step taught about compression: the state that a checkpoint after it holds. Reports in rank order.
pub fn observed_compression(state: &GlobalState, reports: &[&StepReport]) -> CompressionState {
    let energies: Vec<Option<EnergyStatistics>> =
        reports.iter().map(|report| report.compression.as_ref().and_then(|it| it.energy)).collect();
    state.compression.observed(&energies)
}

/// What the last step taught about the noise of the gradients: the state that a checkpoint after it holds. Reports in rank
/// order.
pub fn observed_learning_rate(state: &GlobalState, reports: &[&StepReport]) -> LearningRateState {
    let gradients: Vec<Option<GradientReport>> = reports.iter().map(|report| report.gradient).collect();
    LearningRateState { noise: state.learning_rate.noise.observed(&gradients), ..state.learning_rate }
}

/// Dense or sparse, and what is known once the step is taken. One decision for all, from what all have measured.
fn decide_compression(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &[&StepReport],
) -> (CompressionDecision, CompressionState) {
    let Some(rule) = &settings.compression else {
        return (CompressionDecision::Dense, state.compression);
    };
    let known = || reports.iter().filter_map(|report| Some((report, report.compression.as_ref()?)));
    let link = LinkCost::of_group(known().map(|(_, it)| it.link));
    let computing = known().map(|(report, it)| (report.busy_seconds - it.exchange_seconds, &it.leads));
    let slowest = computing.max_by(|(one, _), (other, _)| one.total_cmp(other));
    let times = StepTimes {
        compute: slowest.map_or(0.0, |(seconds, _)| seconds.max(0.0)),
        leads: slowest.map_or_else(Vec::new, |(_, leads)| leads.clone()),
        least: least_step_seconds(settings, reports),
    };
    observed_compression(state, reports).decide(rule, &link, &times)
}

/// No step is shorter, however quick its exchange: it waits for samples.
fn least_step_seconds(settings: &AgreeSettings, reports: &[&StepReport]) -> f64 {
    match settings.rule {
        BatchRule::Fixed { size } => {
            let rates = reports.iter().map(|report| report.stream_rate).filter(|rate| *rate > 0.0);
            f64::from(size) / rates.fold(f64::INFINITY, f64::min)
        }
        BatchRule::StreamRate { window_seconds } => window_seconds,
        BatchRule::LineRate => SHORTEST_WINDOW_SECONDS,
    }
}

/// The newest tuning that any rank was told of, if it is newer than the one that holds: all ranks get it with the plan.
fn newest_tuning(state: &GlobalState, reports: &[&StepReport]) -> Tuning {
    let told = reports.iter().filter_map(|report| report.tuning);
    let newest = told.max_by_key(|tuning| tuning.generation);
    let newer = newest.filter(|tuning| tuning.generation > state.tuning.generation);
    newer.map_or(state.tuning, |tuning| tuning.after(&state.tuning))
}

fn summed_evaluation(settings: &AgreeSettings, reports: &[&StepReport]) -> Option<EvaluationCounts> {
    if reports.len() < settings.world_size {
        return None;
    }
    let mut parts = reports.iter().map(|report| report.evaluation.as_ref());
    let mut sum = parts.next()??.clone();
    for part in parts {
        sum.add(part?);
    }
    Some(sum)
}

#[cfg(test)]
mod tests;
