//! `simulate`: a job trained on the virtual clock. Streams, waits, compute times and the network follow formulas
//! ([`scadles_core::sim`]); the agreement, the samples, gradients, compression and evaluations are a worker's. Logical
//! devices take turns on one model, so that the same job gives the same bits. Shell: reads the data set, writes results.

use std::time::{Duration, Instant};

use scadles_api::{
    BufferState, DeviceProgress, ExitCode, LastWords, Ledger, Phase, Progress, Tuning,
    progress::{Evaluation, InjectionProgress, VirtualRun},
    worker::{DeviceConfig, JobConfig},
};
use scadles_core::{
    agree::{
        Action, AgreeSettings, GlobalState, StepAgreement, StepPlan, StepReport, agree, observed_compression,
    },
    compress::{
        cost::LinkCost,
        gate::{CompressionDecision, CompressionReport, EnergyStatistics},
    },
    device_stream::BatchRange,
    evaluate::{EvaluationCounts, PrequentialAccuracy},
    inject::DonorChoice,
    learning_rate::GradientReport,
    sim::{
        DeviceSummary, InjectionVolume, Known, Sent, SimBatch, SimEnd, Simulation, VirtualClock,
        exchange::dense_bytes,
    },
    weights::loss_mass,
};

use crate::{
    held_out::HeldOut,
    journal::{CsvDevice, CsvRow, DeviceStep, RecordRange, StepRecord, StepsCsv},
    learner::{StepStatistics, set_up_torch},
    replay::{
        ReplayError,
        logical::LogicalGroup,
        records::{self, Records},
    },
    results::{sha256, write_result},
    worker::{Failure, agree_settings, hash_text},
};

/// How often a line is said, of real time.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Trains `job` on `clock` until it is complete or its streams end; writes `steps.csv` and `model.safetensors` to its
/// output folder. `say` is told now and then how far it is.
pub fn simulate(
    job: &JobConfig,
    clock: &VirtualClock,
    say: &mut dyn FnMut(&str),
) -> Result<VirtualRun, Failure> {
    check(job, clock)?;
    set_up_torch(job.threads)?;
    let mut run = Run::start(job, clock)?;
    let mut said = Instant::now();
    let failure = loop {
        match run.step() {
            Ok(true) => {}
            Ok(false) => break run.leave_results().err(),
            Err(failure) => break Some(failure),
        }
        if said.elapsed() >= SAY_EVERY {
            say(&run.line());
            said = Instant::now();
        }
    };
    // What was found until then is told however it ended.
    run.end(failure)
}

/// Pure: what a clock without samples can do, and one with them cannot.
fn check(job: &JobConfig, clock: &VirtualClock) -> Result<(), Failure> {
    let wrong = |message: String, remedy: &str| {
        Err(Failure::new(ExitCode::Configuration, message).with_remedy(remedy))
    };
    if job.producer.is_none() {
        let remedy =
            "add spec.producer: what is trained on the virtual clock are the samples of simulated streams";
        return wrong("spec.producer: missing".to_owned(), remedy);
    }
    if clock.settings.injection.is_some() != job.injection.is_some() {
        let remedy = "give spec.injection in the job's file, or simulate without --train";
        return wrong("--injection: what is trained is shared as the job says".to_owned(), remedy);
    }
    if job.devices.iter().any(|device| device.partitions != 1) {
        return wrong("a device has several partitions".to_owned(), "the virtual clock has one per device");
    }
    if clock.devices.len() != job.devices.len() {
        let message = format!("the clock has {} devices, the job {}", clock.devices.len(), job.devices.len());
        return wrong(message, "change spec.devices in the job's file");
    }
    Ok(())
}

/// A job between two steps.
struct Run<'a> {
    job: &'a JobConfig,
    clock: Simulation,
    group: LogicalGroup,
    records: Box<dyn Records>,
    settings: AgreeSettings,
    state: GlobalState,
    link: LinkCost,
    /// Bytes that a rank sends in a dense step.
    dense_bytes: u64,
    held_out: Option<HeldOut>,
    /// What the group has not yet looked at.
    evaluation: Option<EvaluationCounts>,
    /// By rank, samples of the batch that is cut, by label; empty where nobody looks at them.
    labels: Vec<Vec<u32>>,
    accuracy: Vec<Evaluation>,
    ranks: Vec<RankState>,
    steps: StepsCsv,
    loss: Option<f64>,
    learning_rate: f64,
    /// Until the group had agreed, in all steps.
    wait_seconds: f64,
    model_sha256: Option<String>,
}

/// What a rank remembers beside its stream.
#[derive(Clone, Copy, Default)]
struct RankState {
    energy: Option<EnergyStatistics>,
    gradient: Option<GradientReport>,
    /// Of the last step, the wait for slower ranks included.
    exchange_seconds: f64,
    prequential: PrequentialAccuracy,
    bytes_sent: u64,
    shared_out: u64,
    received: u64,
    sample_bytes_sent: u64,
}

impl<'a> Run<'a> {
    fn start(job: &'a JobConfig, clock: &VirtualClock) -> Result<Self, Failure> {
        let world_size = job.devices.len();
        let group = LogicalGroup::new(job, (0..world_size).collect(), job.training.seed)?;
        let open = |settings| HeldOut::open(job, settings, &job.data_dir);
        let names: Vec<String> = job.devices.iter().map(|device| device.name.clone()).collect();
        let exchange = &clock.settings.exchange;
        let network = exchange.network;
        let select_seconds = exchange.sparse.map_or(0.0, |sparse| sparse.select_seconds);
        Ok(Self {
            job,
            settings: agree_settings(job, group.learner()),
            group,
            clock: Simulation::new(clock.settings, &clock.devices),
            records: records::open(job)?,
            state: GlobalState { tuning: Tuning::of(job), ..GlobalState::default() },
            link: LinkCost {
                latency_seconds: network.latency_seconds,
                seconds_per_byte: network.bytes_per_second.recip(),
                dense_seconds_per_byte: network.bytes_per_second.recip(),
                half_seconds_per_element: 0.0,
                sparse_seconds_per_element: select_seconds / exchange.parameters.max(1) as f64,
            },
            dense_bytes: dense_bytes(clock.settings.exchange.parameters, world_size),
            held_out: job.evaluation.as_ref().map(open).transpose()?,
            evaluation: None,
            labels: vec![Vec::new(); world_size],
            accuracy: Vec::new(),
            ranks: vec![RankState::default(); world_size],
            steps: StepsCsv::open(&job.output_dir, &names)?,
            loss: None,
            learning_rate: 0.0,
            wait_seconds: 0.0,
            model_sha256: None,
        })
    }

    /// One step; false at the end.
    fn step(&mut self) -> Result<bool, Failure> {
        // At once after a step, like every rank: the group may be complete.
        let nothing_yet = vec![SimBatch::default(); self.ranks.len()];
        if matches!(self.agree(&nothing_yet, false)?.action, Action::Stop { .. }) || !self.clock.cut() {
            return Ok(false);
        }
        let batches: Vec<SimBatch> = self.clock.batches().collect();
        self.count_labels(&batches)?;
        let agreement = self.agree(&batches, true)?;
        let Action::Step(plan) = &agreement.action else {
            return Err(Failure::new(ExitCode::Internal, "devices have samples, and no step is agreed on"));
        };
        self.evaluation = None;
        self.train(plan, &batches, &agreement.next)?;
        if plan.evaluate {
            self.evaluate(self.job.evaluation.as_ref().map_or(0, |settings| settings.samples))?;
        }
        Ok(true)
    }

    /// Looks at the labels of the batches, where donors are chosen by them.
    fn count_labels(&mut self, batches: &[SimBatch]) -> Result<(), Failure> {
        if self.settings.injection.as_ref().is_none_or(|rule| rule.donors != DonorChoice::LabelDeficit) {
            return Ok(());
        }
        let shape = self.job.samples();
        for (rank, (batch, counts)) in batches.iter().zip(&mut self.labels).enumerate() {
            let (mut samples, range) = (Vec::new(), RecordRange(0, batch.first_sample, batch.local_batch));
            let read = self.records.read(rank, range, &mut samples);
            read.map_err(|reason| Failure::new(ExitCode::Internal, reason))?;
            *counts = vec![0; self.job.model.num_classes as usize];
            for sample in &samples {
                if let Some(count) = counts.get_mut(shape.label(sample) as usize) {
                    *count += 1;
                }
            }
        }
        Ok(())
    }

    /// What a group agrees on whose ranks have these batches, or are still waiting for them.
    fn agree(&mut self, batches: &[SimBatch], ready: bool) -> Result<StepAgreement, Failure> {
        let reports = batches.iter().enumerate().map(|(rank, batch)| self.report(rank, batch, ready));
        let reports = reports.collect::<Result<Vec<StepReport>, Failure>>()?;
        agree(&self.settings, &self.state, &reports)
            .map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))
    }

    fn report(&mut self, rank: usize, batch: &SimBatch, ready: bool) -> Result<StepReport, Failure> {
        let &SimBatch { local_batch, busy_seconds, stream_rate, buffered, .. } = batch;
        let loss_mass = self.loss_mass(rank, batch)?;
        let RankState { energy, gradient, exchange_seconds, .. } = self.ranks[rank];
        // The clock's exchange begins when compute is over.
        let known = CompressionReport { energy, link: self.link, exchange_seconds, leads: Vec::new() };
        // One rank has evaluated for all.
        let evaluation = self.evaluation.as_ref().map(|counts| match rank {
            0 => counts.clone(),
            _ => EvaluationCounts::default(),
        });
        Ok(StepReport {
            rank,
            step: self.state.step,
            ready,
            local_batch,
            loss_mass,
            busy_seconds,
            stream_rate,
            buffered,
            ranges: taken(batch),
            labels: self.labels[rank].clone(),
            stream: None,
            stream_ended: false,
            stop_requested: None,
            stop_unsaved: true,
            checkpoint_requested: false,
            tuning: None,
            parameter_hash: None,
            compression: self.job.compression.map(|_| known),
            gradient,
            evaluation,
        })
    }

    /// What a device's batch counts in the loss.
    fn loss_mass(&mut self, rank: usize, batch: &SimBatch) -> Result<f64, Failure> {
        let class_weights = &self.job.training.class_weights;
        if class_weights.is_empty() {
            return Ok(batch.local_batch as f64);
        }
        let (step, shape) = (self.state.step, self.job.samples());
        let range = RecordRange(0, batch.first_sample, batch.local_batch);
        let mut samples = Vec::new();
        self.records
            .read(rank, range, &mut samples)
            .map_err(|reason| ReplayError::Records { step, reason })?;
        Ok(loss_mass(class_weights, samples.iter().map(|sample| shape.label(sample) as usize)))
    }

    fn train(&mut self, plan: &StepPlan, batches: &[SimBatch], next: &GlobalState) -> Result<(), Failure> {
        let record = self.record(plan, batches, next.step);
        let outcome = self.group.step(&record, &mut *self.records)?;
        let dense = vec![self.dense_bytes; self.ranks.len()];
        let bytes_sent =
            if outcome.exchange.bytes_sent.is_empty() { dense } else { outcome.exchange.bytes_sent };
        let energies = outcome.exchange.energies.into_iter().map(Some).chain(std::iter::repeat(None));
        for (((rank, energy), statistics), bytes) in
            self.ranks.iter_mut().zip(energies).zip(&outcome.statistics).zip(&bytes_sent)
        {
            rank.energy = energy;
            rank.prequential.observe(statistics.samples, statistics.correct);
            rank.bytes_sent += bytes;
        }
        for (number, (rank, &own_energy)) in self.ranks.iter_mut().zip(&outcome.own_energies).enumerate() {
            rank.gradient = Some(GradientReport {
                own_energy,
                delivered_energy: outcome.delivered_energy,
                samples: plan.trained_batches[number],
                aggregation_weight: plan.aggregation_weights[number],
            });
        }
        let (world_size, record_bytes) = (self.ranks.len(), self.job.samples().sample_bytes() as u64);
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            rank.shared_out += plan.injection.shared_out(number);
            rank.received += plan.injection.received(number);
            rank.sample_bytes_sent += plan.injection.sent(number, world_size) * record_bytes;
        }
        self.state = *next;
        self.learning_rate = plan.scaled_learning_rate;
        let loss = mean_loss(&outcome.statistics);
        self.loss = loss.is_finite().then_some(loss);
        // A step that diverges has been taken, too: clock, account and table know it.
        self.write_down(plan, &bytes_sent)?;
        match self.loss {
            Some(_) => Ok(()),
            None => Err(diverged(&format!("the loss of step {}", next.step))),
        }
    }

    fn record(&self, plan: &StepPlan, batches: &[SimBatch], step: u64) -> StepRecord {
        let training = &self.job.training;
        let ranges: Vec<Vec<BatchRange>> = batches.iter().map(taken).collect();
        let ranges: Vec<&[BatchRange]> = ranges.iter().map(Vec::as_slice).collect();
        let topics: Vec<&str> = self.job.devices.iter().map(|device| device.topic.as_str()).collect();
        StepRecord {
            attempt: 1,
            step,
            epoch: self.state.samples / training.epoch_samples.max(1),
            learning_rate: plan.scaled_learning_rate,
            window_seconds: 0.0,
            global_batch: plan.global_batch,
            micro_batch: training.micro_batch,
            devices: DeviceStep::of_plan(plan, &ranges, &topics),
            compression: self.job.compression.map(|_| plan.compression),
            tuning: None,
            statistics_agreed: self.job.model.statistics.is_some() && plan.agrees_statistics(),
            parameter_hash: None,
        }
    }

    /// Lets the clock take the step too, and appends its line to `steps.csv`.
    fn write_down(&mut self, plan: &StepPlan, bytes_sent: &[u64]) -> Result<(), Failure> {
        let sparse = matches!(plan.compression, CompressionDecision::Sparse(_));
        let before = self.clock.seconds();
        let bytes = bytes_sent.iter().copied().max().unwrap_or(0);
        let sent = Sent { bytes, sparse };
        let known = Known { sent, trained: &plan.trained_batches, shared: self.shared(plan) };
        let step = self.clock.train(Some(known)).clone();
        let wait_seconds = step.agreed_seconds - before;
        self.wait_seconds += wait_seconds;
        for (rank, device) in self.ranks.iter_mut().zip(&step.devices) {
            rank.exchange_seconds = step.busy_seconds - device.compute_seconds;
        }
        let injection = &plan.injection;
        let devices = step.devices.iter().enumerate().map(|(rank, device)| CsvDevice {
            local_batch: device.local_batch as u32,
            stream_rate: device.stream_rate,
            buffered: device.buffered,
            wait_seconds,
            compute_seconds: device.compute_seconds,
            exchange_seconds: step.busy_seconds - device.compute_seconds,
            shared_out: injection.shared_out(rank),
            received: injection.received(rank),
            share_seconds: 0.0,
        });
        self.steps.append(&CsvRow {
            attempt: 1,
            step: self.state.step,
            seconds: self.clock.seconds(),
            samples: self.state.samples,
            loss: self.loss.unwrap_or(f64::NAN),
            learning_rate: self.learning_rate,
            window_seconds: step.window_seconds,
            step_seconds: step.step_seconds,
            sparse,
            bytes_sent: bytes_sent.iter().sum(),
            dense_bytes: self.job.compression.map_or(0, |_| self.dense_bytes * self.ranks.len() as u64),
            devices: devices.collect(),
        })?;
        Ok(())
    }

    /// What a step shares, all devices together.
    fn shared(&self, plan: &StepPlan) -> InjectionVolume {
        let ranks = || 0..self.ranks.len();
        let sent: u64 = ranks().map(|rank| plan.injection.sent(rank, self.ranks.len())).sum();
        InjectionVolume {
            shared_samples: ranks().map(|rank| plan.injection.shared_out(rank)).sum(),
            sent_bytes: sent * self.job.samples().sample_bytes() as u64,
        }
    }

    /// Looks at `limit` held-out pictures at most; the clock stands still meanwhile.
    fn evaluate(&mut self, limit: u64) -> Result<(), Failure> {
        let Some(held_out) = &mut self.held_out else { return Ok(()) };
        let result = held_out.evaluate_alone(self.group.learner(), limit)?;
        if !result.loss_sum.is_finite() {
            return Err(diverged(&format!("the loss of the evaluation after step {}", self.state.step)));
        }
        let seconds = self.clock.seconds();
        // The last evaluation may be another, of all pictures, after the same step.
        self.accuracy.retain(|earlier| earlier.step < self.state.step);
        self.accuracy.push(crate::evaluate::summary(&result.counts, result.loss_sum, &self.state, seconds));
        self.evaluation = Some(result.counts);
        Ok(())
    }

    /// The state in one line.
    fn line(&self) -> String {
        let top_1 = self.accuracy.last().and_then(Evaluation::top_1);
        format!(
            "step {}, {} samples, {:.0} s of virtual time, loss {:.3}{}",
            self.state.step,
            self.state.samples,
            self.clock.seconds(),
            self.loss.unwrap_or(f64::NAN),
            top_1.map_or(String::new(), |top_1| format!(", Top-1 {:.2} %", 100.0 * top_1)),
        )
    }

    /// The last evaluation, and the model.
    fn leave_results(&mut self) -> Result<(), Failure> {
        self.group.agree_statistics()?;
        self.evaluate(u64::MAX)?;
        let model = self.group.learner().encode_model()?;
        write_result(&self.job.output_dir.join("model.safetensors"), &model)?;
        self.model_sha256 = Some(sha256(&model));
        Ok(())
    }

    fn end(self, failure: Option<Failure>) -> Result<VirtualRun, Failure> {
        let words = match failure {
            None => self.words(),
            Some(Failure { code, message, remedy }) => LastWords { remedy, ..LastWords::new(code, message) },
        };
        let words = LastWords {
            step: self.state.step,
            samples: self.state.samples,
            parameter_hash: Some(hash_text(self.group.parameter_hash()?)),
            model_sha256: self.model_sha256.clone(),
            ..words
        };
        Ok(VirtualRun { progress: self.progress(words), accuracy: self.accuracy })
    }

    fn words(&self) -> LastWords {
        let GlobalState { step, samples, .. } = self.state;
        let so_far = format!("{step} steps, {samples} samples");
        match self.clock.end() {
            SimEnd::Running => LastWords::new(ExitCode::Completed, format!("complete after {so_far}")),
            SimEnd::Complete => LastWords::new(
                ExitCode::Stopped,
                format!("stopped where the simulation was to end, after {so_far}"),
            ),
            SimEnd::Starved { rank } => {
                let device = &self.job.devices[rank].name;
                let message = format!("device {device} waits for samples that never come, after {so_far}");
                LastWords::new(ExitCode::StreamStalled, message)
            }
            SimEnd::Silent => LastWords::new(
                ExitCode::StreamStalled,
                format!("no device gets samples any more, after {so_far}"),
            ),
        }
    }

    fn progress(&self, words: LastWords) -> Progress {
        let summary = self.clock.summary();
        let known = observed_compression(&self.state, &[]);
        let steps = self.state.step as f64;
        let devices = summary.devices.iter().zip(&self.ranks).zip(&self.job.devices);
        let device = |((seen, rank), config): ((&DeviceSummary, &RankState), &DeviceConfig)| DeviceProgress {
            name: config.name.clone(),
            ledger: Ledger {
                arrived: seen.arrived,
                trained: seen.trained,
                buffered: seen.buffered,
                dropped: seen.dropped,
                shared_out: rank.shared_out,
                received: rank.received,
                ..Ledger::default()
            },
            aggregation_weight: seen.aggregation_weight,
            state: BufferState::Unknown,
            prequential_accuracy: rank.prequential.recent(),
            bytes_sent: rank.bytes_sent,
            sample_bytes_sent: rank.sample_bytes_sent,
            dense_bytes: self.job.compression.map_or(0, |_| self.dense_bytes * self.state.step),
            wait_seconds: self.wait_seconds,
            busy_seconds: summary.busy_seconds * steps,
            ..DeviceProgress::default()
        };
        Progress {
            protocol: scadles_api::PROTOCOL_VERSION,
            device: String::new(),
            attempt: 1,
            rank: 0,
            phase: Phase::Ended,
            step: self.state.step,
            samples: self.state.samples,
            epoch: self.settings.learning_rate.epoch(self.state.samples),
            loss: self.loss,
            learning_rate: self.learning_rate,
            window_seconds: self.state.window_seconds,
            step_seconds: summary.step_seconds.mean,
            samples_per_second: summary.samples_per_second,
            train_seconds: self.clock.seconds(),
            compression: self.job.compression.map(|config| crate::exchange::progress(&config, &known)),
            injection: self.job.injection.as_ref().map(|config| InjectionProgress {
                mode: config.mode,
                shared_samples: self.ranks.iter().map(|rank| rank.shared_out).sum(),
                bytes_sent: self.ranks.iter().map(|rank| rank.sample_bytes_sent).sum(),
            }),
            evaluation: self.accuracy.last().cloned(),
            checkpoint: None,
            tunings: Vec::new(),
            durable_positions: Vec::new(),
            devices: devices.map(device).collect(),
            last_words: Some(words),
        }
    }
}

/// The records of a batch; a device on the virtual clock has one partition.
fn taken(batch: &SimBatch) -> Vec<BatchRange> {
    let range = BatchRange { partition: 0, first_offset: batch.first_sample, count: batch.local_batch };
    if batch.local_batch > 0 { vec![range] } else { Vec::new() }
}

fn diverged(what: &str) -> Failure {
    Failure::new(ExitCode::Diverged, format!("{what} is not a number"))
        .with_remedy("lower spec.training.optimizer.learningRate, or look at the data")
}

fn mean_loss(statistics: &[StepStatistics]) -> f64 {
    let samples: u64 = statistics.iter().map(|rank| rank.samples).sum();
    statistics.iter().map(|rank| rank.loss_sum).sum::<f64>() / samples.max(1) as f64
}

#[cfg(test)]
mod tests;
