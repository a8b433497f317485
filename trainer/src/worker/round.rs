//! One round of the control channel: what ranks report, what rank 0's chair rules. The decision itself is
//! [`scadles_core::agree`]; no I/O here.

use std::sync::{Arc, mpsc::Sender};

use scadles_api::{DeviceProgress, ExitCode};
use scadles_core::{
    agree::{Action, AgreeSettings, GlobalState, StepAgreement, StepReport, StopReason, agree},
    compress::compressor::CompressorState,
    evaluate::EvaluationCounts,
};
use serde::{Deserialize, Serialize};

use crate::{channel::Ruling, checkpoint::DeviceTotals, endpoint::Shared, source::StreamCheckpoint};

/// What one rank says in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RankReport {
    /// Rounds that this rank has seen end; a report of another round is late and not counted.
    pub round: u64,
    /// What the agreement is made from.
    pub step: StepReport,
    /// What progress shows of the device.
    pub device: DeviceProgress,
    /// The device's part of a checkpoint taken now.
    pub stream: StreamCheckpoint,
    /// Sums since the job began.
    pub totals: DeviceTotals,
    /// What the rank's residual means nothing without, in jobs with compression.
    pub compressor: Option<CompressorState>,
    /// The last step of this rank, if one was taken in this attempt.
    pub last_step: Option<LastStep>,
    /// Summed loss of this rank's part of an evaluation.
    pub evaluation_loss_sum: f64,
    /// The rank is done and waits for the others.
    pub closing: bool,
}

/// What one rank's last step was like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LastStep {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Samples trained: its own and those of others.
    pub trained: u64,
    /// Waiting for samples or for others before the step.
    pub wait_seconds: f64,
    /// Bytes handed to the collectives.
    pub bytes_sent: u64,
    /// Bytes that a dense step hands over; 0 in jobs without compression.
    pub dense_bytes: u64,
    /// Forward and backward, from the agreement on.
    pub compute_seconds: f64,
    /// The sum of the gradients over the ranks, as far as it was waited for after compute, waiting for slower ranks in it.
    pub exchange_seconds: f64,
    /// Waiting for shared samples that were still on their way when all others were computed on.
    pub share_seconds: f64,
}

/// What all ranks hear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// What to do next.
    Agreed(Box<StepAgreement>),
    /// Everybody is done.
    Part {
        /// Summed final evaluation, where one was made.
        evaluation: Option<EvaluationCounts>,
        /// Hash of the parameters on each rank.
        parameter_hashes: Vec<u64>,
    },
}

/// Rank 0's side of the channel: turns reports into rulings and hands them to rank 0's own thread.
pub(super) struct Chair {
    settings: AgreeSettings,
    state: GlobalState,
    round: u64,
    rounds: Sender<Vec<RankReport>>,
    shared: Arc<Shared>,
}

impl Chair {
    /// A chair for a group that continues from `state`. Every ruled round is sent to `rounds` before the verdict goes out.
    pub(super) fn new(
        settings: AgreeSettings,
        state: &GlobalState,
        rounds: Sender<Vec<RankReport>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { settings, state: *state, round: 0, rounds, shared }
    }

    /// Rules when the newest reports of all ranks allow it.
    pub(super) fn rule(&mut self, reports: &[Option<RankReport>]) -> Option<Ruling<Verdict>> {
        self.show(reports);
        let current: Vec<&RankReport> =
            reports.iter().flatten().filter(|report| report.round == self.round).collect();
        let has_fault =
            |report: &&RankReport| matches!(report.step.stop_requested, Some(StopReason::Fault(_)));
        if current.len() < reports.len() && !current.iter().any(has_fault) {
            return None;
        }
        let ruling = if current.iter().any(|report| report.closing) {
            if !current.iter().all(|report| report.closing) {
                return None;
            }
            Ruling { verdict: part(&current), last: true }
        } else {
            let agreement = self.agree(&current);
            if agreement.action == Action::Wait && current.iter().any(|report| !report.step.ready) {
                return None;
            }
            if self.settings.tuning != agreement.next.tuning {
                self.settings = self.settings.tuned(&agreement.next.tuning);
            }
            self.state = agreement.next;
            Ruling { verdict: Verdict::Agreed(Box::new(agreement)), last: false }
        };
        self.round += 1;
        // Rank 0's thread may have failed already: then the channel ends as well.
        let _ = self.rounds.send(current.into_iter().cloned().collect());
        Some(ruling)
    }

    fn agree(&self, reports: &[&RankReport]) -> StepAgreement {
        let steps: Vec<StepReport> = reports.iter().map(|report| report.step.clone()).collect();
        agree(&self.settings, &self.state, &steps).unwrap_or_else(|error| {
            tracing::error!(%error, "a report breaks the protocol");
            StepAgreement {
                action: Action::Stop { reason: StopReason::Fault(ExitCode::Internal), checkpoint: false },
                window_seconds: self.state.window_seconds,
                next: self.state,
                evaluation: None,
            }
        })
    }

    /// Keeps the devices' rows of the progress fresh, also while a round waits for somebody.
    fn show(&self, reports: &[Option<RankReport>]) {
        self.shared.update(|progress| {
            progress.devices.resize_with(reports.len(), DeviceProgress::default);
            for (row, report) in progress.devices.iter_mut().zip(reports) {
                if let Some(report) = report {
                    row.clone_from(&report.device);
                }
            }
        });
    }
}

fn part(reports: &[&RankReport]) -> Verdict {
    let parts: Option<Vec<&EvaluationCounts>> =
        reports.iter().map(|report| report.step.evaluation.as_ref()).collect();
    let evaluation = parts.and_then(|parts| {
        let (first, others) = parts.split_first()?;
        let mut sum = (*first).clone();
        for other in others {
            sum.add(other);
        }
        Some(sum)
    });
    let parameter_hashes = reports.iter().filter_map(|report| report.step.parameter_hash).collect();
    Verdict::Part { evaluation, parameter_hashes }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use scadles_api::{
        Tuning,
        worker::{Aggregation, BatchRule, Completion, LearningRateScaling},
    };
    use scadles_core::learning_rate::LearningRatePlan;

    use super::*;

    fn settings() -> AgreeSettings {
        AgreeSettings {
            world_size: 2,
            rule: BatchRule::Fixed { size: 8 },
            aggregation: Aggregation::Weighted,
            learning_rate: LearningRatePlan {
                base_learning_rate: 0.1,
                scaling: LearningRateScaling::Linear,
                base_global_batch: 16,
                epoch_samples: 100,
                milestone_epochs: Vec::new(),
                gamma: 0.1,
            },
            compression: None,
            injection: None,
            tuning: Tuning::default(),
            completion: Completion::MaxSteps(10),
            checkpoint_every_steps: 0,
            evaluate_every_steps: 0,
        }
    }

    /// A rank that waits for samples.
    fn waiting(rank: usize, stop_requested: Option<StopReason>) -> RankReport {
        RankReport {
            round: 0,
            step: StepReport {
                rank,
                step: 0,
                ready: false,
                local_batch: 0,
                loss_mass: 0.0,
                busy_seconds: 0.0,
                stream_rate: 0.0,
                buffered: 0,
                ranges: Vec::new(),
                labels: Vec::new(),
                stream: None,
                stream_ended: false,
                stop_requested,
                stop_unsaved: false,
                checkpoint_requested: false,
                tuning: None,
                parameter_hash: None,
                compression: None,
                gradient: None,
                evaluation: None,
            },
            device: DeviceProgress::default(),
            stream: StreamCheckpoint::default(),
            totals: DeviceTotals::default(),
            compressor: None,
            last_step: None,
            evaluation_loss_sum: 0.0,
            closing: false,
        }
    }

    #[test]
    fn a_fault_is_ruled_upon_at_once_and_a_request_when_all_have_reported() {
        let (sender, rounds) = channel();
        let (shared, _attempts) = Shared::idle("device-0");
        let mut chair = Chair::new(settings(), &GlobalState::default(), sender, shared);
        assert!(chair.rule(&[None, Some(waiting(1, Some(StopReason::Requested)))]).is_none());
        let fault = StopReason::Fault(ExitCode::TopicLost);
        let ruling = chair.rule(&[None, Some(waiting(1, Some(fault)))]).unwrap();
        let Verdict::Agreed(agreement) = ruling.verdict else { panic!("{ruling:?}") };
        assert_eq!(agreement.action, Action::Stop { reason: fault, checkpoint: false });
        assert_eq!(rounds.try_iter().map(|reports| reports.len()).collect::<Vec<_>>(), [1]);
        // What the other said of the round before comes late and changes nothing.
        assert!(chair.rule(&[Some(waiting(0, None)), None]).is_none());
    }
}
