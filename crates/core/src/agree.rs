//! The step agreement: from the reports of all ranks, what all of them do next. No I/O.
//!
//! The hub computes [`agree`] once and broadcasts the result. It is deterministic: reports are taken in rank order
//! whatever order they came in, sums run in rank order, and nothing but the arguments counts.
//!
//! # Guarantees
//! All ranks stop at the same step and for the same reason; Σb = 0 moves no counter; [`GlobalState`] advances only by
//! [`StepAgreement::next`], and only when the step has been applied.

use scadles_api::ExitCode;
pub use scadles_api::worker::Completion;
use serde::{Deserialize, Serialize};

use crate::batch::{BatchRule, SHORTEST_WINDOW_SECONDS};
use crate::compress::cost::LinkCost;
use crate::compress::gate::{
    CompressionDecision, CompressionReport, CompressionRule, CompressionState, EnergyStatistics,
};
use crate::device_stream::DeviceCheckpoint;
use crate::evaluate::EvaluationCounts;
use crate::learning_rate::LearningRatePlan;
use crate::partition_queue::BatchRange;
use crate::weights::{Aggregation, Share, compute_weights};

/// T changes only when the ranks' busy time has left this band around it.
pub const WINDOW_DEAD_BAND: f64 = 0.05;

/// What is agreed by the job, constant over an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// When the job is complete.
    pub completion: Completion,
    /// A checkpoint follows every so many steps; 0: only when asked for.
    pub checkpoint_every_steps: u64,
    /// An evaluation follows every so many steps; 0: only at the end.
    pub evaluate_every_steps: u64,
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
    /// The tuning all ranks run on.
    pub tuning_generation: u64,
    /// What the ranks know about compression.
    pub compression: CompressionState,
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
pub struct StepReport {
    /// Who.
    pub rank: usize,
    /// Steps this rank has committed.
    pub step: u64,
    /// The batch is fixed; without it the report only carries requests and measurements.
    pub ready: bool,
    /// b_i, samples; 0: sits out.
    pub local_batch: u64,
    /// Sum of the class weights of the batch; b_i without class weights.
    pub loss_mass: f64,
    /// EWMA of compute + exchange, in seconds.
    pub busy_seconds: f64,
    /// S_i, samples per second.
    pub stream_rate: f64,
    /// Q_i, samples, local and at the broker.
    pub buffered: u64,
    /// The batch in training order, for the journal.
    pub ranges: Vec<BatchRange>,
    /// Position and ledger of the device before the batch, for progress and checkpoint.
    pub stream: Option<DeviceCheckpoint>,
    /// This rank wants to stop.
    pub stop_requested: Option<StopReason>,
    /// Its request to stop asks for no checkpoint.
    pub stop_unsaved: bool,
    /// This rank wants a checkpoint.
    pub checkpoint_requested: bool,
    /// The newest tuning this rank has received.
    pub tuning_generation: u64,
    /// Hash of the parameters after `step` steps, when it was time to compute it.
    pub parameter_hash: Option<u64>,
    /// What this rank knows of compression after `step` steps, in jobs that have it.
    pub compression: Option<CompressionReport>,
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
    /// b_i by rank.
    pub local_batches: Vec<u64>,
    /// w_i by rank.
    pub aggregation_weights: Vec<f64>,
    /// What a rank multiplies the sum of its samples' losses by.
    pub loss_scales: Vec<f64>,
    /// Σb.
    pub global_batch: u64,
    /// η_t.
    pub scaled_learning_rate: f64,
    /// How the gradients travel.
    pub compression: CompressionDecision,
    /// Write a checkpoint after the step.
    pub checkpoint: bool,
    /// Evaluate after the step.
    pub evaluate: bool,
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
    /// A batch whose loss mass is not a positive number.
    #[error(
        "failed to agree: rank {rank} has {local_batch} samples of loss mass {loss_mass}, not a positive number"
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

/// Whether the hub has something to send: all ranks are ready, or [`agree`] stops. A `Wait` that comes of a rank not being
/// ready yet is not for sending.
pub fn is_due(settings: &AgreeSettings, state: &GlobalState, reports: &[StepReport]) -> Result<bool, Error> {
    let all_ready = reports.len() == settings.world_size && reports.iter().all(|report| report.ready);
    Ok(all_ready || matches!(agree(settings, state, reports)?.action, Action::Stop { .. }))
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
    let (decision, compression) = decide_compression(settings, state, &reports);
    let plan = StepPlan { compression: decision, ..plan_step(settings, state, &reports, global_batch) };
    let next = GlobalState {
        step: state.step + 1,
        samples: state.samples + global_batch,
        window_seconds,
        tuning_generation: agreed_tuning(state, &reports),
        compression,
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
        if local_batch > 0 && !(loss_mass.is_finite() && loss_mass > 0.0) {
            return Err(Error::LossMass { rank, local_batch, loss_mass });
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

fn plan_step(
    settings: &AgreeSettings,
    state: &GlobalState,
    reports: &[&StepReport],
    global_batch: u64,
) -> StepPlan {
    let shares: Vec<Share> = reports
        .iter()
        .map(|report| Share { local_batch: report.local_batch, loss_mass: report.loss_mass })
        .collect();
    let weights = compute_weights(settings.aggregation, &shares);
    let next_step = state.step + 1;
    let due = |every: u64| every > 0 && next_step.is_multiple_of(every);
    StepPlan {
        local_batches: shares.iter().map(|share| share.local_batch).collect(),
        aggregation_weights: weights.aggregation_weights,
        loss_scales: weights.loss_scales,
        global_batch,
        scaled_learning_rate: settings.learning_rate.scaled_learning_rate(state.samples, global_batch),
        compression: CompressionDecision::Dense,
        checkpoint: due(settings.checkpoint_every_steps)
            || reports.iter().any(|report| report.checkpoint_requested),
        evaluate: due(settings.evaluate_every_steps),
    }
}

/// What the last step taught about compression: the state that a checkpoint after it holds. Reports in rank order.
pub fn observed_compression(state: &GlobalState, reports: &[&StepReport]) -> CompressionState {
    let energies: Vec<Option<EnergyStatistics>> =
        reports.iter().map(|report| report.compression.and_then(|compression| compression.energy)).collect();
    state.compression.observed(&energies)
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
    let link = LinkCost::slowest(reports.iter().filter_map(|report| report.compression).map(|it| it.link));
    observed_compression(state, reports).decide(rule, &link)
}

/// The newest tuning that every rank has; never an older one than before.
fn agreed_tuning(state: &GlobalState, reports: &[&StepReport]) -> u64 {
    let common = reports.iter().map(|report| report.tuning_generation).min();
    common.unwrap_or(0).max(state.tuning_generation)
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
