//! The phases of one rank: report, agree, compute, combine, apply. State is plain and lies outside the model.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use scadles_api::{
    DeviceProgress, ExitCode, LastWords, Ledger, Phase, Tuning, WorkerConfig, worker::BatchRule,
};
use scadles_core::{
    agree::{GlobalState, StepAgreement, StepPlan, StepReport, StopReason},
    batch::{BatchClock, Readiness, StepTiming, Supply},
    buffer_state::{BufferStateTracker, BufferView},
    evaluate::{EvaluationCounts, PrequentialAccuracy},
    inject::{DonorChoice, InjectionRule},
    learning_rate::{GradientReport, energy},
    weights::loss_mass,
};

use super::{
    Failure,
    leader::{Leader, Results},
    phase_times::{PhaseTimes, StepPhase},
    round::{LastStep, RankReport, Verdict},
    share::Computed,
    watchdog::{Watchdog, Watched, step_patience},
};
use crate::{
    channel::Member,
    checkpoint::DeviceTotals,
    decode_ahead::BatchBuffers,
    endpoint::Shared,
    engine::Communicator,
    evaluate::Shard,
    exchange::{CompressedExchange, ExchangeStatistics, GradientExchange, residuals, statistics},
    held_out::HeldOut,
    learner::Learner,
    optimizer::{Sgd, SgdState},
    source::{Peeked, Source},
};

/// How often a rank that waits shows how its stream stands.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a rank that waits for samples may not look for a verdict.
const VERDICT_GLANCE: Duration = Duration::from_millis(20);
/// Steps between comparisons of the ranks' parameters.
const HASH_EVERY_STEPS: u64 = 50;
/// A rank's own part of a step has this share of the step's time limit.
pub(super) const OWN_SHARE: f64 = 0.9;
/// The slowest rank's final evaluation may take this many times the deadline of a collective.
const PARTING_PATIENCE: u32 = 20;

/// One rank of a formed group.
pub(super) struct Rank {
    pub(super) config: WorkerConfig,
    pub(super) shared: Arc<Shared>,
    /// Position in the attempt's device list.
    pub(super) position: usize,
    pub(super) world_size: usize,
    pub(super) state: GlobalState,
    pub(super) times: PhaseTimes,
    pub(super) round: u64,
    pub(super) began: Instant,
    pub(super) last_commit: Instant,
    pub(super) clock: BatchClock,
    pub(super) source: Source,
    pub(super) batches: BatchBuffers,
    pub(super) learner: Learner<f32>,
    pub(super) momentum: SgdState<f32>,
    pub(super) exchange: GradientExchange,
    /// How the devices share samples, if they do.
    pub(super) injection: Option<InjectionRule>,
    pub(super) communicator: Box<dyn Communicator>,
    pub(super) member: Member<RankReport, Verdict>,
    pub(super) watchdog: Watchdog,
    pub(super) leader: Option<Leader>,
    pub(super) totals: DeviceTotals,
    pub(super) prequential: PrequentialAccuracy,
    pub(super) buffer_state: BufferStateTracker,
    /// Hash of the parameters after the last step, where it was time to compare them.
    pub(super) hash: Option<u64>,
    /// Records lost by the last report.
    pub(super) lost_seen: u64,
    pub(super) last_step: Option<LastStep>,
    /// This rank's gradient of the last step, in jobs that scale by it.
    pub(super) gradient: Option<GradientReport>,
    /// b_i and w_i of the last step.
    pub(super) last_share: (u32, f64),
    /// This rank's part of an evaluation that the group has not summed yet.
    pub(super) evaluation: Option<(EvaluationCounts, f64)>,
    pub(super) held_out: Option<HeldOut>,
    /// Why this rank asks the group to stop.
    pub(super) fault: Option<Failure>,
}

/// What a round brought: the agreement, and the batch that this rank reported for it.
pub(super) struct Agreed {
    pub(super) agreement: StepAgreement,
    pub(super) peeked: Peeked,
    pub(super) at: Instant,
}

/// What a rank does while it waits for its batch.
enum Turn {
    /// The batch is fixed.
    Train(Peeked),
    /// Ask again then.
    Later(Instant),
}

/// Where the time of a step went.
#[expect(clippy::struct_field_names, reason = "a unit is part of a name")]
struct Spent {
    wait_seconds: f64,
    busy_seconds: f64,
    exchange_seconds: f64,
}

impl Rank {
    /// Reports until the group agrees: at once, with every heartbeat, when the batch is fixed, and on a request to stop.
    pub(super) fn agree(&mut self) -> Result<Agreed, Failure> {
        let (mut ready, mut stop) = (None, None);
        let began = Instant::now();
        let mut next_report = began;
        loop {
            // Anew in every pass: waiting for samples must never look like death.
            self.watch_own("agreement");
            let wanted = self.stop_request();
            let mut wake = Instant::now() + HEARTBEAT;
            if ready.is_none() {
                match self.poll_batch()? {
                    Turn::Later(at) => wake = at,
                    Turn::Train(peeked) => {
                        self.assemble(&peeked)?;
                        ready = Some(peeked);
                        next_report = Instant::now();
                    }
                }
            }
            if wanted != stop || Instant::now() >= next_report {
                stop = wanted;
                let report = self.report(ready.as_ref(), self.hash, stop);
                self.member.report(report);
                next_report = Instant::now() + HEARTBEAT;
            }
            if let Some(agreement) = self.verdict(wake.min(next_report), ready.is_none())? {
                self.times.own("wait", began);
                return Ok(Agreed { agreement, peeked: ready.unwrap_or_default(), at: Instant::now() });
            }
        }
    }

    /// What the batch rule says now.
    fn poll_batch(&mut self) -> Result<Turn, Failure> {
        let now = self.began.elapsed().as_secs_f64();
        match self.clock.poll(now, &self.source.view()) {
            Readiness::Ready { local_batch } => {
                // What is not taken stays in the stream, as if it had come later.
                let local_batch =
                    self.injection.as_ref().map_or(local_batch, |rule| rule.own_batch(local_batch));
                let peeked = self.source.peek(local_batch);
                if peeked.samples() == local_batch {
                    return Ok(Turn::Train(peeked));
                }
                let message =
                    format!("{local_batch} samples were available, {} could be taken", peeked.samples());
                Err(Failure::new(ExitCode::Internal, message))
            }
            Readiness::NotBefore(seconds) => Ok(Turn::Later(self.began + Duration::from_secs_f64(seconds))),
            Readiness::NeedSamples { .. } => Ok(Turn::Later(Instant::now() + VERDICT_GLANCE)),
        }
    }

    /// The group's agreement, if it comes by `deadline`. A rank that waits for samples is woken by them.
    fn verdict(&mut self, deadline: Instant, wants_samples: bool) -> Result<Option<StepAgreement>, Failure> {
        let mut deadline = deadline;
        // A rank with a fault waits for the verdict alone: a source that has failed does not wait for samples.
        if wants_samples
            && self.fault.is_none()
            && let BatchRule::Fixed { size } = self.config.job.stream.batch
        {
            self.source
                .wait(deadline, |view| view.available >= u64::from(size) || view.supply == Supply::AllHere);
            deadline = Instant::now();
        }
        match self.member.verdict(deadline) {
            None => Ok(None),
            Some(Verdict::Agreed(agreement)) => {
                self.round += 1;
                self.clock.agreed(&agreement);
                self.evaluation = None;
                Ok(Some(*agreement))
            }
            Some(Verdict::Part { .. }) => {
                Err(Failure::new(ExitCode::Internal, "rank 0 parted before the end"))
            }
        }
    }

    fn stop_request(&mut self) -> Option<StopReason> {
        if self.fault.is_none() {
            self.fault = self.source.failure().map(Failure::from);
        }
        let fault = self.fault.as_ref().map(|fault| StopReason::Fault(fault.code));
        fault.or_else(|| self.shared.stop_request().map(|_| StopReason::Requested))
    }

    fn report(&mut self, ready: Option<&Peeked>, hash: Option<u64>, stop: Option<StopReason>) -> RankReport {
        let stream = self.source.checkpoint();
        let local_batch = ready.map_or(0, Peeked::samples);
        let loss_mass = if local_batch == 0 { 0.0 } else { self.loss_mass() };
        let device = self.device_progress();
        RankReport {
            round: self.round,
            step: StepReport {
                rank: self.position,
                step: self.state.step,
                ready: ready.is_some(),
                local_batch,
                loss_mass,
                busy_seconds: self.clock.busy_seconds(),
                stream_rate: device.stream_rate,
                buffered: device.ledger.buffered,
                ranges: ready.map(|peeked| peeked.ranges.clone()).unwrap_or_default(),
                labels: if local_batch == 0 { Vec::new() } else { self.labels() },
                stream: Some(stream.device.clone()),
                stream_ended: ready.is_none_or(|peeked| peeked.samples() == 0) && self.source.has_ended(),
                stop_requested: stop,
                stop_unsaved: self.shared.stop_request().is_some_and(|request| !request.checkpoint),
                checkpoint_requested: self.shared.checkpoint_wanted(),
                tuning: self.shared.tuning(),
                parameter_hash: hash,
                compression: self.exchange.report(),
                gradient: self.gradient,
                evaluation: self.evaluation.as_ref().map(|(counts, _)| counts.clone()),
            },
            device,
            stream,
            totals: self.totals,
            compressor: self.exchange.compressed().map(|exchange| exchange.compressor().state()),
            last_step: self.last_step,
            evaluation_loss_sum: self.evaluation.as_ref().map_or(0.0, |(_, loss_sum)| *loss_sum),
            closing: false,
        }
    }

    /// What the assembled batch counts in the loss.
    fn loss_mass(&self) -> f64 {
        let labels = self.batches.labels().iter().map(|label| *label as usize);
        loss_mass(&self.config.job.training.class_weights, labels)
    }

    /// Samples of the assembled batch by label, which `LabelDeficit` chooses donors by; nobody else is told.
    fn labels(&self) -> Vec<u32> {
        if self.injection.as_ref().is_none_or(|rule| rule.donors != DonorChoice::LabelDeficit) {
            return Vec::new();
        }
        let mut counts = vec![0; self.config.job.model.num_classes as usize];
        // Ingest has checked every label.
        for &label in self.batches.labels() {
            counts[label as usize] += 1;
        }
        counts
    }

    fn device_progress(&mut self) -> DeviceProgress {
        let status = self.source.status();
        if let Err(imbalance) = scadles_core::ledger::check(&status.ledger) {
            self.fault.get_or_insert_with(|| Failure::new(ExitCode::Internal, imbalance.to_string()));
        }
        let seen = BufferView {
            buffered: status.view.buffered,
            stream_rate: status.stream_rate,
            window_seconds: self.clock.window_seconds(),
            silent_seconds: status.silent_seconds,
            short_seconds: self.clock.short_seconds(),
            limit_used: status.buffer_used,
            losing: status.ledger.lost > self.lost_seen,
        };
        self.lost_seen = status.ledger.lost;
        let stall_seconds = self.config.job.limits.stall_seconds;
        DeviceProgress {
            name: self.config.device().name.clone(),
            ledger: Ledger {
                shared_out: self.totals.shared_out,
                received: self.totals.received,
                ..status.ledger
            },
            stream_rate: status.view.stream_rate,
            local_batch: self.last_share.0,
            aggregation_weight: self.last_share.1,
            buffered_local: status.buffered_local,
            oldest_seconds: status.oldest_seconds,
            state: self.buffer_state.observe(self.began.elapsed().as_secs_f64(), stall_seconds, &seen),
            silent_seconds: status.silent_seconds,
            prequential_accuracy: self.prequential.recent(),
            bytes_sent: self.totals.bytes_sent,
            dense_bytes: self.totals.dense_bytes,
            sample_bytes_sent: self.totals.sample_bytes_sent,
            wait_seconds: self.totals.wait_seconds,
            busy_seconds: self.totals.busy_seconds,
            positions: status.positions,
        }
    }

    /// Decodes what is still missing of the batch while the others are not ready yet.
    fn assemble(&mut self, peeked: &Peeked) -> Result<(), Failure> {
        let (began, epoch) = (Instant::now(), self.epoch_after(self.state.samples));
        let counts = self.batches.assemble(&self.source, peeked, epoch)?;
        self.times.decoded(counts);
        self.times.own("decode", began);
        Ok(())
    }

    /// The epoch of a step that begins when `samples` are trained.
    pub(super) fn epoch_after(&self, samples: u64) -> u64 {
        samples / self.config.job.training.epoch_samples.max(1)
    }

    /// One step: compute, combine, apply. Nothing advances before all gradients have arrived.
    pub(super) fn train(&mut self, agreed: &Agreed, plan: &StepPlan) -> Result<(), Failure> {
        let wait_seconds = agreed.at.duration_since(self.last_commit).as_secs_f64();
        self.watch_own("compute");
        self.tune(&plan.tuning);
        if agreed.peeked.samples() == 0 {
            self.batches.clear()?;
        }
        let next_epoch = self.epoch_after(agreed.agreement.next.samples);
        self.batches.decode_behind(&self.source, &agreed.peeked, next_epoch)?;
        let (computed, exchanged) = self.compute_and_combine(agreed, plan)?;
        self.times.passed(self.learner.passes(), &exchanged.wire);
        let exchange_seconds =
            agreed.at.elapsed().as_secs_f64() - computed.compute_seconds - computed.share_seconds;
        self.watch_own("update");
        if let Some(own_energy) = computed.own_energy {
            self.gradient = Some(GradientReport {
                own_energy,
                delivered_energy: energy(self.learner.gradients()?),
                samples: plan.trained_batches[self.position],
                aggregation_weight: plan.aggregation_weights[self.position],
            });
        }
        self.apply(plan, &agreed.peeked)?;
        let busy_seconds = agreed.at.elapsed().as_secs_f64();
        self.last_commit = Instant::now();
        self.state = agreed.agreement.next;
        // Parameters that differ must not be saved: the next round compares before it writes.
        let compare = plan.checkpoint || self.state.step.is_multiple_of(HASH_EVERY_STEPS);
        self.hash = if compare { Some(self.learner.parameter_hash()?) } else { None };
        self.clock.step_finished(&StepTiming {
            busy_seconds,
            compute_seconds: computed.compute_seconds,
            local_batch: computed.statistics.samples,
        });
        self.count(
            plan,
            &computed,
            &exchanged.statistics,
            &Spent { wait_seconds, busy_seconds, exchange_seconds },
        );
        if !computed.statistics.loss_sum.is_finite() {
            let message = format!("the loss of step {} is not a number", self.state.step);
            let remedy = "lower spec.training.optimizer.learningRate, or look at the data";
            self.fault = Some(Failure::new(ExitCode::Diverged, message).with_remedy(remedy));
        }
        Ok(())
    }

    /// Takes over the settings that hold from this step on. The batch at hand was cut by those before.
    fn tune(&mut self, tuning: &Tuning) {
        if *tuning == self.state.tuning {
            return;
        }
        if let (GradientExchange::Compressed(exchange), Some(tuning)) =
            (&mut self.exchange, tuning.compression)
        {
            exchange.tune(&tuning);
        }
        if let (Some(rule), Some(tuning)) = (&mut self.injection, tuning.injection) {
            *rule = rule.tuned(&tuning);
        }
    }

    /// What progress and report show of a step.
    fn count(&mut self, plan: &StepPlan, computed: &Computed, exchanged: &ExchangeStatistics, spent: &Spent) {
        let (weight, bytes_sent) = (plan.aggregation_weights[self.position], exchanged.bytes_sent);
        let local_batch = plan.local_batches[self.position];
        let dense_bytes = self.exchange.compressed().map_or(0, CompressedExchange::dense_bytes);
        let &Computed { statistics, sample_bytes, compute_seconds, share_seconds, .. } = computed;
        self.prequential.observe(statistics.samples, statistics.correct);
        let &Spent { wait_seconds, busy_seconds, exchange_seconds } = spent;
        self.last_step = Some(LastStep {
            loss_sum: statistics.loss_sum,
            trained: statistics.samples,
            wait_seconds,
            bytes_sent,
            dense_bytes,
            compute_seconds,
            exchange_seconds,
            share_seconds,
        });
        self.last_share = (local_batch as u32, weight);
        self.totals.local_batches += local_batch;
        self.totals.shared_out += plan.injection.shared_out(self.position);
        self.totals.received += plan.injection.received(self.position);
        self.totals.sample_bytes_sent += sample_bytes;
        self.totals.aggregation_weights += weight;
        self.totals.bytes_sent += bytes_sent;
        self.totals.dense_bytes += dense_bytes;
        self.totals.wait_seconds += wait_seconds;
        self.totals.busy_seconds += busy_seconds;
    }

    /// Rank 0 gets what compression has kept back on all ranks, for the checkpoint that follows. All ranks call it.
    pub(super) fn gather_residuals(&mut self) -> Result<(), Failure> {
        let Some(exchange) = self.exchange.compressed() else { return Ok(()) };
        self.watchdog.arm(self.long_patience(), Watched::Exchange);
        let residuals = residuals::gather(&mut *self.communicator, exchange.residual()?)?;
        if let Some(leader) = &mut self.leader {
            leader.take_residuals(residuals);
        }
        Ok(())
    }

    /// Before an evaluation, a checkpoint or the results: all ranks' running statistics become one. All ranks call it.
    pub(super) fn agree_statistics(&mut self) -> Result<(), Failure> {
        let Some(rule) = self.config.job.model.statistics else { return Ok(()) };
        self.watchdog.arm(self.patience(), Watched::Exchange);
        let ranks = statistics::gather(&mut *self.communicator, &self.learner.statistics()?)?;
        Ok(self.learner.agree_statistics(rule, &ranks)?)
    }

    fn apply(&mut self, plan: &StepPlan, peeked: &Peeked) -> Result<(), Failure> {
        let training = &self.config.job.training;
        let sgd = Sgd { momentum: training.momentum, weight_decay: training.weight_decay };
        self.times.enter(StepPhase::Optimizer);
        let (parameters, gradients) = self.learner.parameters_and_gradients_mut()?;
        sgd.step(plan.scaled_learning_rate, parameters, gradients, &mut self.momentum)?;
        self.times.enter(StepPhase::Own);
        self.source.commit(peeked)?;
        self.source.apply_policy();
        Ok(())
    }

    /// This rank's part of an evaluation, kept for the next report. Its time counts as neither waiting nor busy.
    pub(super) fn evaluate(&mut self, limit: u64) -> Result<(), Failure> {
        let Some(settings) = self.config.job.evaluation.clone() else { return Ok(()) };
        self.watchdog.arm(self.long_patience(), Watched::Own("evaluation"));
        if self.held_out.is_none() {
            self.held_out = Some(HeldOut::open(&self.config.job, &settings, &self.config.job.data_dir)?);
        }
        if let Some(held_out) = &mut self.held_out {
            let shard = Shard { rank: self.position, world_size: self.world_size, limit };
            let result = held_out.evaluate(&self.learner, shard)?;
            self.evaluation = Some((result.counts, result.loss_sum));
        }
        self.last_commit = Instant::now();
        Ok(())
    }

    /// How long a step may take from the agreement on.
    pub(super) fn patience(&self) -> Duration {
        step_patience(&self.config.job.limits, self.clock.window_seconds(), self.state.step)
    }

    /// How long the slowest rank's evaluation, or the writing of a checkpoint, may take.
    fn long_patience(&self) -> Duration {
        Duration::from_secs_f64(self.config.job.limits.collective_seconds) * PARTING_PATIENCE
    }

    /// Watches over work that depends on no other rank. Where others wait for it, it has less time than they: the rank
    /// that is stuck by itself speaks before they give it up, and is the one that is named.
    pub(super) fn watch_own(&self, work: &'static str) {
        let patience = self.patience();
        let patience = if self.world_size == 1 {
            patience.max(self.long_patience())
        } else {
            patience.mul_f64(OWN_SHARE)
        };
        self.watchdog.arm(patience, Watched::Own(work));
    }

    /// Before the checkpoint of a stop, which no later round would judge: whether all ranks hold the same parameters.
    pub(super) fn compare_parameters(&mut self) -> Result<(), Failure> {
        let own = self.learner.parameter_hash()?.to_le_bytes();
        let mut all = vec![0; own.len() * self.world_size];
        self.watchdog.arm(self.patience(), Watched::Exchange);
        self.communicator.all_gather_equal(&own, &mut all)?;
        if all.chunks_exact(own.len()).any(|other| *other != own) {
            return Err(Failure::new(ExitCode::Diverged, "the ranks' parameters differ: none are saved"));
        }
        Ok(())
    }

    /// The end that all ranks agreed on: final evaluation, one last round, results.
    pub(super) fn part(&mut self, reason: StopReason) -> Result<LastWords, Failure> {
        self.shared.update(|progress| progress.phase = Phase::Finishing);
        if let Some(leader) = &mut self.leader {
            leader.stop_clock();
        }
        if reason == StopReason::Completed {
            self.evaluate(u64::MAX)?;
        }
        self.times.write();
        self.watchdog.arm(self.long_patience(), Watched::Own("checkpoint"));
        if let Some(leader) = &mut self.leader {
            // Before the others leave: a supervisor that sees them gone does not wait long for the last one.
            leader.finish_checkpoints()?;
        }
        let hash = self.learner.parameter_hash()?;
        let mut report = self.report(None, Some(hash), None);
        report.closing = true;
        self.member.report(report);
        self.watchdog.arm(self.long_patience() * 2, Watched::Own("parting"));
        let verdict = self.member.verdict(Instant::now() + self.long_patience());
        let Some(Verdict::Part { evaluation, parameter_hashes }) = verdict else {
            return Err(Failure::new(ExitCode::PeerLost, "the group was lost while it parted"));
        };
        if parameter_hashes.iter().any(|other| *other != hash) {
            let message = format!("ranks ended with different parameters: {parameter_hashes:x?}");
            return Err(Failure::new(ExitCode::Diverged, message));
        }
        let mut results = Results::default();
        if let Some(leader) = &mut self.leader {
            results = leader.finish(&self.learner, &self.state, evaluation)?;
        }
        self.watchdog.disarm();
        let (message, remedy) = self.parting_words(reason);
        let code = parting_code(reason, self.fault.as_ref().map(|fault| fault.code), self.is_chairs_fault());
        Ok(LastWords {
            remedy,
            step: self.state.step,
            samples: self.state.samples,
            parameter_hash: Some(super::hash_text(hash)),
            checkpoint: results.checkpoint,
            model_sha256: results.model_sha256,
            ..LastWords::new(code, message)
        })
    }

    /// Whether rank 0's own chair stopped the group, and no rank's report.
    fn is_chairs_fault(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| !leader.fault_was_reported())
    }

    fn parting_words(&self, reason: StopReason) -> (String, String) {
        if let Some(fault) = &self.fault {
            return (
                format!("device {}: {}", self.config.device().name, fault.message),
                fault.remedy.clone(),
            );
        }
        let message = match reason {
            StopReason::Completed => {
                format!("complete after {} steps, {} samples", self.state.step, self.state.samples)
            }
            StopReason::Requested => format!("stopped on request after step {}", self.state.step),
            StopReason::Diverged => "the ranks' parameters differ".to_owned(),
            StopReason::Fault(code) => format!("another device asked the group to stop ({code:?})"),
        };
        (message, String::new())
    }
}

/// A fault is the end of those who have it. The others only follow, so that a supervisor finds the first cause.
fn parting_code(reason: StopReason, own_fault: Option<ExitCode>, is_chairs_fault: bool) -> ExitCode {
    match (reason, own_fault) {
        (StopReason::Fault(_), Some(own)) => own,
        (StopReason::Fault(_), None) if !is_chairs_fault => ExitCode::PeerLost,
        _ => reason.exit_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_the_end_of_those_who_have_it_and_the_others_follow() {
        let reason = StopReason::Fault(ExitCode::TopicLost);
        assert_eq!(parting_code(reason, Some(ExitCode::TopicLost), false), ExitCode::TopicLost);
        assert_eq!(parting_code(reason, Some(ExitCode::StorageFailed), false), ExitCode::StorageFailed);
        assert_eq!(parting_code(reason, None, false), ExitCode::PeerLost);
        let chairs = StopReason::Fault(ExitCode::Internal);
        assert_eq!(parting_code(chairs, None, true), ExitCode::Internal, "rank 0 tells of its own");
        assert_eq!(parting_code(StopReason::Requested, None, false), ExitCode::Stopped);
        assert_eq!(parting_code(StopReason::Completed, None, true), ExitCode::Completed);
    }
}
