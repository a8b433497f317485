//! Rank 0's duties beside its own steps: journal, steps.csv, checkpoints, progress, results. Shell.

use std::{
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use scadles_api::{
    Attempt, CheckpointRef, ExitCode, PartitionPosition, Tuned,
    progress::{Evaluation, InjectionProgress},
    worker::JobConfig,
};
use scadles_core::{
    agree::{
        Action, GlobalState, StepAgreement, StepPlan, StepReport, StopReason, observed_compression,
        observed_learning_rate,
    },
    compress::gate::CompressionDecision,
    device_stream::BatchRange,
    evaluate::EvaluationCounts,
    ewma::Ewma,
};

use super::{
    Context, Failure, form::base_checkpoint, hash_text, rank::Agreed, restore::start_tuning,
    round::RankReport,
};
use crate::{
    checkpoint::{CheckpointStore, CheckpointWriter, DeviceState, Manifest, Snapshot},
    endpoint::Shared,
    evaluate::summary,
    journal::{
        CsvDevice, CsvRow, DeviceStep, JournalWriter, SegmentHeader, StepRecord, StepsCsv,
        writer::{config_hash, cpu_kind},
    },
    learner::Learner,
    optimizer::SgdState,
    results::{sha256, write_result},
    storage::mirror::{Extent, SharedMirror, push},
};

/// Share of the newest step in the shown samples per second.
const THROUGHPUT_GAIN: f64 = 0.2;

/// A checkpoint on its way to the disk: what progress says once it is there.
struct Pending {
    step: u64,
    positions: Vec<Vec<PartitionPosition>>,
}

/// What only rank 0 has.
pub(super) struct Leader {
    job: JobConfig,
    attempt: u32,
    shared: Arc<Shared>,
    rounds: Receiver<Vec<RankReport>>,
    reports: Vec<RankReport>,
    journal: JournalWriter,
    steps: StepsCsv,
    writer: CheckpointWriter,
    /// Where results are copied to.
    mirror: SharedMirror,
    pending: Vec<Pending>,
    /// Step of the last checkpoint handed to the writer.
    submitted: Option<u64>,
    durable: Option<CheckpointRef>,
    evaluations: Vec<Evaluation>,
    /// Settings that can be tuned, from which step on they held; empty in jobs without any.
    tunings: Vec<Tuned>,
    /// The agreement after whose step a checkpoint is due; checkpoint 0 before the first step.
    checkpoint_due: bool,
    /// Training time of earlier attempts, as far as it survived.
    earlier_seconds: f64,
    began: Instant,
    /// Training time at the end of the last step: what comes after it is no training.
    stopped_at_seconds: Option<f64>,
    /// A rank has asked the group to stop for a fault of its own.
    fault_reported: bool,
    /// Time of this attempt that was spent evaluating.
    evaluating_seconds: f64,
    last_commit: Instant,
    throughput: Ewma,
    /// The last step's line: loss and waits of all ranks are known one round later.
    row: Option<CsvRow>,
    /// What compression keeps back on each rank, gathered for the checkpoint that is due.
    residuals: Vec<Vec<f32>>,
}

impl Leader {
    /// Opens journal, steps.csv and checkpoint writer of the run.
    pub(super) fn open(
        context: &Context,
        attempt: &Attempt,
        loaded: Option<&Manifest>,
        rounds: Receiver<Vec<RankReport>>,
        mirror: SharedMirror,
    ) -> Result<Self, Failure> {
        let job = context.config.job.clone();
        let header = SegmentHeader {
            protocol: scadles_api::PROTOCOL_VERSION,
            job_uid: job.uid.clone(),
            attempt: attempt.number,
            from_step: loaded.map_or(0, |manifest| manifest.step),
            checkpoint: base_checkpoint(attempt),
            cpu: if context.gpu.is_some() {
                format!("{}, computing on a GPU", cpu_kind())
            } else {
                cpu_kind()
            },
            torch: torch_ext::torch_version().to_owned(),
            threads: job.threads,
            devices: attempt.devices.clone(),
            config_hash: config_hash(&job),
        };
        let journal = JournalWriter::open(&job.output_dir, header)?;
        write_job(&job)?;
        let steps = StepsCsv::open(&job.output_dir, &attempt.devices)?;
        if let Some(base) = &attempt.checkpoint {
            context.shared.supervisor_knows(base);
        }
        let shared = Arc::clone(&context.shared);
        let in_use = move || shared.known_checkpoints();
        let store = CheckpointStore::of(&job.checkpoint)?;
        let keep = job.checkpoint.keep as usize;
        let writer = CheckpointWriter::start(store, mirror.clone(), keep, in_use)?;
        let tunings = tunings(&job, attempt, loaded);
        context.shared.update(|progress| progress.tunings.clone_from(&tunings));
        Ok(Self {
            attempt: attempt.number,
            shared: Arc::clone(&context.shared),
            rounds,
            reports: Vec::new(),
            journal,
            steps,
            writer,
            mirror,
            pending: Vec::new(),
            submitted: None,
            durable: attempt.checkpoint.clone(),
            evaluations: loaded.map(|manifest| manifest.evaluations.clone()).unwrap_or_default(),
            tunings,
            checkpoint_due: loaded.is_none(),
            earlier_seconds: loaded.map_or(0.0, |manifest| manifest.train_seconds),
            began: Instant::now(),
            stopped_at_seconds: None,
            fault_reported: false,
            evaluating_seconds: 0.0,
            last_commit: Instant::now(),
            throughput: Ewma::default(),
            row: None,
            residuals: Vec::new(),
            job,
        })
    }

    fn train_seconds(&self) -> f64 {
        self.stopped_at_seconds.unwrap_or_else(|| {
            self.earlier_seconds + self.began.elapsed().as_secs_f64() - self.evaluating_seconds
        })
    }

    /// The last step is taken: final evaluation and results are no training.
    pub(super) fn stop_clock(&mut self) {
        self.stopped_at_seconds = Some(self.train_seconds());
    }

    /// All ranks' residuals after the last step.
    pub(super) fn take_residuals(&mut self, residuals: Vec<Vec<f32>>) {
        self.residuals = residuals;
    }

    /// Step of the last checkpoint that is written or on its way.
    pub(super) fn submitted(&self) -> Option<u64> {
        self.submitted
    }

    /// Whether the group stops because a rank said so.
    pub(super) fn fault_was_reported(&self) -> bool {
        self.fault_reported
    }

    /// Between the agreement and the step: takes in what all ranks reported after the last step.
    pub(super) fn round(
        &mut self,
        agreed: &Agreed,
        state: &GlobalState,
        learner: &Learner<f32>,
        momentum: &SgdState<f32>,
    ) -> Result<(), Failure> {
        self.take_reports()?;
        if let Some(counts) = &agreed.agreement.evaluation {
            let loss_sum = self.reports.iter().map(|report| report.evaluation_loss_sum).sum();
            self.take_evaluation(counts, loss_sum, state)?;
        }
        let due = match agreed.agreement.action {
            // The state of a group that stops for its own fault is not worth keeping.
            Action::Stop { checkpoint, .. } => checkpoint && state.step > 0,
            Action::Step(_) | Action::Wait => self.checkpoint_due,
        };
        // A round of waiting may have come between the step and the stop: its checkpoint is on its way already.
        if due && self.submitted != Some(state.step) {
            self.checkpoint(state, learner, momentum)?;
        }
        self.collect_checkpoints(state.step == 0)?;
        self.show(state, &agreed.agreement);
        Ok(())
    }

    fn take_reports(&mut self) -> Result<(), Failure> {
        let reports =
            self.rounds.recv().map_err(|_| Failure::new(ExitCode::Internal, "the control hub has ended"))?;
        let is_fault = |report: &RankReport| matches!(report.step.stop_requested, Some(StopReason::Fault(_)));
        self.fault_reported |= reports.iter().any(is_fault);
        if reports.len() < self.job.devices.len() {
            // A fault stops the group before all have reported; the last round brings everybody's.
            return Ok(());
        }
        self.reports = reports;
        if let Some(mut row) = self.row.take() {
            row.loss = self.mean_loss().unwrap_or(f64::NAN);
            let steps = || self.reports.iter().filter_map(|report| report.last_step);
            row.bytes_sent = steps().map(|step| step.bytes_sent).sum();
            row.dense_bytes = steps().map(|step| step.dense_bytes).sum();
            for (device, report) in row.devices.iter_mut().zip(&self.reports) {
                let Some(last) = report.last_step else { continue };
                device.wait_seconds = last.wait_seconds;
                device.compute_seconds = last.compute_seconds;
                device.exchange_seconds = last.exchange_seconds;
                device.share_seconds = last.share_seconds;
            }
            self.steps.append(&row)?;
        }
        Ok(())
    }

    fn take_evaluation(
        &mut self,
        counts: &EvaluationCounts,
        loss_sum: f64,
        state: &GlobalState,
    ) -> Result<(), Failure> {
        if !loss_sum.is_finite() {
            // JSON has no word for it either: a supervisor could not read the progress any more.
            return Err(diverged(format!(
                "the loss of the evaluation after step {} is not a number",
                state.step
            )));
        }
        let evaluation = summary(counts, loss_sum, state, self.train_seconds());
        self.evaluations.push(evaluation);
        Ok(())
    }

    /// Hands a snapshot of the state after `state.step` to the writer.
    fn checkpoint(
        &mut self,
        state: &GlobalState,
        learner: &Learner<f32>,
        momentum: &SgdState<f32>,
    ) -> Result<(), Failure> {
        self.checkpoint_due = false;
        let statistics = learner.statistics()?.values;
        if !learner.parameters()?.iter().chain(&statistics).all(|value| value.is_finite()) {
            return Err(diverged(format!("the parameters after step {} are not all numbers", state.step)));
        }
        self.submitted = Some(state.step);
        self.journal.checkpoint(state.step)?;
        let manifest = Manifest {
            protocol: scadles_api::PROTOCOL_VERSION,
            job_uid: self.job.uid.clone(),
            attempt: self.attempt,
            step: state.step,
            samples: state.samples,
            epoch: self.epoch(state),
            learner_seed: self.job.training.seed,
            window_seconds: state.window_seconds,
            train_seconds: self.train_seconds(),
            compression: observed_compression(state, &self.steps_reported()),
            learning_rate: observed_learning_rate(state, &self.steps_reported()),
            tunings: self.tunings.clone(),
            parameter_hash: hash_text(learner.parameter_hash()?),
            statistics_hash: learner.statistics_hash()?.map(hash_text),
            journal_segment: self.journal.segment(),
            devices: self.device_states(),
            evaluations: self.evaluations.clone(),
            files: Vec::new(),
        };
        let positions = self.reports.iter().map(|report| report.device.positions.clone()).collect();
        self.pending.push(Pending { step: state.step, positions });
        let model = learner.encode_model()?;
        let residuals = std::mem::take(&mut self.residuals);
        let residuals =
            residuals.iter().map(|residual| learner.encode(residual)).collect::<Result<_, _>>()?;
        let momentum = learner.encode(&momentum.momentum)?;
        let snapshot = Snapshot { manifest, model, momentum, residuals };
        let finished = self.writer.submit(snapshot)?;
        self.note_durable(finished);
        Ok(())
    }

    fn steps_reported(&self) -> Vec<&StepReport> {
        self.reports.iter().map(|report| &report.step).collect()
    }

    fn device_states(&self) -> Vec<DeviceState> {
        self.reports
            .iter()
            .map(|report| DeviceState {
                name: report.device.name.clone(),
                stream: report.stream.clone(),
                totals: report.totals,
                compressor: report.compressor,
            })
            .collect()
    }

    /// Sees which checkpoints have become durable; before the first step it waits, since a restart needs checkpoint 0.
    fn collect_checkpoints(&mut self, wait: bool) -> Result<(), Failure> {
        let finished = if wait { self.writer.finish()? } else { self.writer.poll()? };
        self.note_durable(finished);
        Ok(())
    }

    /// Waits until all checkpoints and the results so far are durable, and shows the last checkpoint.
    pub(super) fn finish_checkpoints(&mut self) -> Result<(), Failure> {
        self.collect_checkpoints(true)?;
        Ok(push(&self.mirror, Extent::All)?)
    }

    fn note_durable(&mut self, finished: Option<CheckpointRef>) {
        let Some(reference) = finished else { return };
        let place = self.pending.iter().position(|pending| pending.step == reference.step);
        let positions = place.map(|place| self.pending.drain(..=place).next_back());
        self.durable = Some(reference.clone());
        self.shared.update(|progress| {
            progress.checkpoint = Some(reference);
            if let Some(Some(pending)) = positions {
                progress.durable_positions = pending.positions;
            }
        });
    }

    fn epoch(&self, state: &GlobalState) -> f64 {
        state.samples as f64 / self.job.training.epoch_samples.max(1) as f64
    }

    /// Progress after the last step, as reported by all ranks.
    fn show(&mut self, state: &GlobalState, agreement: &StepAgreement) {
        let (seconds, throughput) = (self.train_seconds(), self.throughput.value().unwrap_or(0.0));
        let loss = self.mean_loss();
        let evaluation = self.evaluations.last().cloned();
        self.count(state);
        let compression = self.job.compression.map(|config| {
            let known = observed_compression(state, &self.steps_reported());
            crate::exchange::progress(&config, &known)
        });
        let injection = self.injection();
        self.shared.update(|progress| {
            progress.compression = compression;
            progress.injection = injection;
            progress.loss = loss.or(progress.loss);
            progress.window_seconds = agreement.window_seconds;
            progress.samples_per_second = throughput;
            progress.train_seconds = seconds;
            progress.evaluation = evaluation;
        });
    }

    /// What has been shared so far, in jobs that do.
    fn injection(&self) -> Option<InjectionProgress> {
        let devices = || self.reports.iter().map(|report| &report.device);
        self.job.injection.as_ref().map(|config| InjectionProgress {
            mode: config.mode,
            shared_samples: devices().map(|device| device.ledger.shared_out).sum(),
            bytes_sent: devices().map(|device| device.sample_bytes_sent).sum(),
        })
    }

    /// Counters of progress. Also at once after a step: under `Fixed` the next round may be long in coming.
    fn count(&self, state: &GlobalState) {
        let epoch = self.epoch(state);
        self.shared.update(|progress| {
            progress.step = state.step;
            progress.samples = state.samples;
            progress.epoch = epoch;
        });
    }

    /// Mean loss of the last step over all its samples; JSON has no word for what is not a number.
    fn mean_loss(&self) -> Option<f64> {
        let steps = || self.reports.iter().filter_map(|report| report.last_step);
        let samples: u64 = steps().map(|step| step.trained).sum();
        let loss = steps().map(|step| step.loss_sum).sum::<f64>() / samples as f64;
        (samples > 0 && loss.is_finite()).then_some(loss)
    }

    /// After the step's commit: journal, steps.csv, throughput. `hash` of the parameters, where it was taken.
    pub(super) fn committed(
        &mut self,
        agreed: &Agreed,
        plan: &StepPlan,
        before: &GlobalState,
        hash: Option<u64>,
    ) -> Result<(), Failure> {
        let after = agreed.agreement.next;
        let taken: Vec<&[BatchRange]> =
            self.reports.iter().map(|report| report.step.ranges.as_slice()).collect();
        let topics: Vec<&str> = self.job.devices.iter().map(|device| device.topic.as_str()).collect();
        self.journal.append(&StepRecord {
            attempt: self.attempt,
            step: after.step,
            epoch: before.samples / self.job.training.epoch_samples.max(1),
            learning_rate: plan.scaled_learning_rate,
            window_seconds: agreed.agreement.window_seconds,
            global_batch: plan.global_batch,
            micro_batch: self.job.training.micro_batch,
            devices: DeviceStep::of_plan(plan, &taken, &topics),
            compression: self.job.compression.map(|_| plan.compression),
            tuning: (!self.tunings.is_empty()).then_some(plan.tuning),
            statistics_agreed: self.job.model.statistics.is_some() && plan.agrees_statistics(),
            parameter_hash: hash.map(hash_text),
        })?;
        if plan.tuning != before.tuning {
            self.tunings.push(Tuned { step: after.step, tuning: plan.tuning });
            self.shared.update(|progress| progress.tunings.clone_from(&self.tunings));
        }
        let step_seconds = self.last_commit.elapsed().as_secs_f64();
        self.last_commit = Instant::now();
        self.throughput.update(plan.global_batch as f64 / step_seconds.max(1e-9), THROUGHPUT_GAIN);
        self.checkpoint_due = plan.checkpoint;
        if plan.checkpoint {
            self.shared.checkpoint_agreed();
        }
        self.shared.update(|progress| {
            progress.learning_rate = plan.scaled_learning_rate;
            progress.step_seconds = step_seconds;
        });
        self.count(&after);
        self.row = Some(self.row(agreed, plan, step_seconds));
        Ok(())
    }

    fn row(&self, agreed: &Agreed, plan: &StepPlan, step_seconds: f64) -> CsvRow {
        let after = agreed.agreement.next;
        // Times are known one round later.
        let device = |(rank, (report, &local_batch)): (usize, (&RankReport, &u64))| CsvDevice {
            local_batch: local_batch as u32,
            stream_rate: report.step.stream_rate,
            buffered: report.step.buffered,
            shared_out: plan.injection.shared_out(rank),
            received: plan.injection.received(rank),
            ..CsvDevice::default()
        };
        CsvRow {
            attempt: self.attempt,
            step: after.step,
            seconds: self.train_seconds(),
            samples: after.samples,
            loss: f64::NAN,
            learning_rate: plan.scaled_learning_rate,
            window_seconds: agreed.agreement.window_seconds,
            step_seconds,
            sparse: matches!(plan.compression, CompressionDecision::Sparse(_)),
            bytes_sent: 0,
            dense_bytes: 0,
            devices: self.reports.iter().zip(&plan.local_batches).enumerate().map(device).collect(),
        }
    }

    /// An evaluation has taken this long: training time goes on after it.
    pub(super) fn evaluated(&mut self, seconds: f64) {
        self.evaluating_seconds += seconds;
        self.last_commit = Instant::now();
    }

    /// The end: last evaluation, all checkpoints durable, the model as a file of its own.
    pub(super) fn finish(
        &mut self,
        learner: &Learner<f32>,
        state: &GlobalState,
        evaluation: Option<EvaluationCounts>,
    ) -> Result<Results, Failure> {
        self.take_reports()?;
        if let Some(counts) = evaluation {
            let loss_sum = self.reports.iter().map(|report| report.evaluation_loss_sum).sum();
            self.take_evaluation(&counts, loss_sum, state)?;
        }
        self.finish_checkpoints()?;
        self.journal.sync()?;
        let model = learner.encode_model()?;
        write_result(&self.job.output_dir.join("model.safetensors"), &model)?;
        push(&self.mirror, Extent::All)?;
        let evaluation = self.evaluations.last().cloned();
        let seconds = self.train_seconds();
        self.shared.update(|progress| {
            progress.evaluation = evaluation;
            progress.train_seconds = seconds;
        });
        Ok(Results { checkpoint: self.durable.clone(), model_sha256: Some(sha256(&model)) })
    }
}

/// Pure: the settings that the group goes on with, and those before them; empty in jobs that have none to tune.
fn tunings(job: &JobConfig, attempt: &Attempt, loaded: Option<&Manifest>) -> Vec<Tuned> {
    let mut known = loaded.map(|manifest| manifest.tunings.clone()).unwrap_or_default();
    let is_tunable = job.compression.is_some() || job.injection.is_some();
    if known.is_empty() && is_tunable {
        let step = loaded.map_or(0, |manifest| manifest.step) + 1;
        known.push(Tuned { step, tuning: start_tuning(job, attempt, loaded) });
    }
    known
}

fn diverged(message: String) -> Failure {
    Failure::new(ExitCode::Diverged, message)
        .with_remedy("lower spec.training.optimizer.learningRate, or look at the data")
}

/// What a job leaves.
#[derive(Default)]
pub(super) struct Results {
    /// The last durable checkpoint.
    pub(super) checkpoint: Option<CheckpointRef>,
    /// SHA-256 of the model's file, hexadecimal.
    pub(super) model_sha256: Option<String>,
}

/// `evaluate` and `replay` look for the job beside its results. Where the runner has not written it, rank 0 does.
fn write_job(job: &JobConfig) -> Result<(), Failure> {
    let path = job.output_dir.join("job.json");
    let written = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<JobConfig>(&text).ok());
    if written.as_ref() == Some(job) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(job).map_err(|error| {
        Failure::new(ExitCode::Internal, format!("failed to write the job as JSON: {error}"))
    })?;
    write_result(&path, &text)
}
