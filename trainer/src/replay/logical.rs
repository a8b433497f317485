//! A group of logical devices: one model, one thread, the bits of as many ranks. No I/O.

use scadles_api::worker::JobConfig;
use scadles_core::augment::{SampleIdentity, augmentation};
use scadles_core::compress::{self, compressor::Compressor, exchange::LogicalStep, gate::ratios};
use scadles_core::learning_rate::energy;
use scadles_core::norm_statistics::RunningStatistics;

use super::records::Records;
use super::{Hashes, ReplayError};
use crate::batch::{BatchAssembler, SampleRef};
use crate::checkpoint::Snapshot;
use crate::exchange::{combine_logical, compressor};
use crate::journal::{DeviceStep, RecordRange, StepRecord};
use crate::learner::{Learner, StepStatistics};
use crate::optimizer::{Sgd, SgdState};
use crate::worker::{decode_residuals, hash_text};

/// What a step was like.
#[derive(Debug, Default)]
pub struct LogicalOutcome {
    /// By rank.
    pub statistics: Vec<StepStatistics>,
    /// What compression lost and would have sent; empty without it.
    pub exchange: LogicalStep,
    /// ‖u_i‖² by rank, in jobs that scale by the noise of gradients; else empty.
    pub own_energies: Vec<f64>,
    /// ‖ḡ‖² of what was delivered, in such jobs.
    pub delivered_energy: f64,
}

/// Model and optimizer, and the devices that train it in turn.
pub struct LogicalGroup {
    job: JobConfig,
    /// Per rank, the device's position in the job.
    devices: Vec<usize>,
    learner: Learner<f32>,
    momentum: SgdState<f32>,
    /// Room for the largest batch so far.
    assembler: BatchAssembler<f32>,
    room: usize,
    /// Per rank, its gradients of the present step.
    contributions: Vec<Vec<f32>>,
    samples: Vec<Vec<u8>>,
    /// Per rank, what it keeps back; empty in jobs without compression.
    compressors: Vec<Compressor>,
    /// Per rank, what its norms have seen; empty in jobs without running statistics.
    statistics: Vec<RunningStatistics<f32>>,
}

impl LogicalGroup {
    /// A group of the job's devices, `devices[rank]` being a position in `job.devices`, at the state of `snapshot`.
    pub fn start(job: &JobConfig, devices: Vec<usize>, snapshot: &Snapshot) -> Result<Self, ReplayError> {
        let mut group = Self::new(job, devices, snapshot.manifest.learner_seed)?;
        let Self { learner, momentum, compressors, .. } = &mut group;
        learner.set_model(&snapshot.model).map_err(ReplayError::learner)?;
        learner.decode(&snapshot.momentum, &mut momentum.momentum).map_err(ReplayError::compute)?;
        restore(compressors, learner, snapshot)?;
        group.share_statistics()?;
        Ok(group)
    }

    /// The same before its first step, its parameters drawn from `seed`.
    pub fn new(job: &JobConfig, devices: Vec<usize>, seed: u64) -> Result<Self, ReplayError> {
        let model = job.model.below(&job.data_dir);
        let learner = Learner::<f32>::new(&model, seed).map_err(ReplayError::learner)?;
        let class_weights = &job.training.class_weights;
        let learner = learner.with_class_weights(class_weights).map_err(ReplayError::compute)?;
        let elements = learner.parameters().map_err(ReplayError::compute)?.len();
        let momentum = SgdState::new(elements);
        let room = job.stream.batch_bounds.max as usize;
        let assembler =
            BatchAssembler::new(&job.samples(), &job.stream.transform, room).map_err(ReplayError::compute)?;
        let ranks = devices.len();
        let compressors =
            job.compression.map(|config| vec![compressor(learner.flat(), ranks, &config); ranks]);
        let contributions = vec![vec![0.0; elements]; devices.len()];
        let mut group = Self {
            job: job.clone(),
            devices,
            learner,
            momentum,
            assembler,
            room,
            contributions,
            samples: Vec::new(),
            compressors: compressors.unwrap_or_default(),
            statistics: Vec::new(),
        };
        group.share_statistics()?;
        Ok(group)
    }

    /// The model's running statistics become those of every rank.
    fn share_statistics(&mut self) -> Result<(), ReplayError> {
        if self.learner.has_statistics() {
            let own = self.learner.statistics().map_err(ReplayError::compute)?;
            self.statistics = vec![own; self.devices.len()];
        }
        Ok(())
    }

    /// All ranks' running statistics become one, and the model's; nothing changes if none has trained since.
    pub fn agree_statistics(&mut self) -> Result<(), ReplayError> {
        let Some(rule) = self.job.model.statistics else { return Ok(()) };
        self.learner.agree_statistics(rule, &self.statistics).map_err(ReplayError::compute)?;
        self.share_statistics()
    }

    /// Takes one step as the ranks took it: contributions one after another, their sum in rank order, the update.
    pub fn step(
        &mut self,
        record: &StepRecord,
        records: &mut dyn Records,
    ) -> Result<LogicalOutcome, ReplayError> {
        if record.devices.len() != self.devices.len() {
            let reason = format!("it has {} devices, the group {}", record.devices.len(), self.devices.len());
            return Err(ReplayError::Records { step: record.step, reason });
        }
        let known = self.devices.len();
        let mut senders = record.devices.iter().flat_map(|device| &device.received).map(|part| part.rank);
        if let Some(rank) = senders.find(|rank| *rank >= known) {
            let reason = format!("it has samples of rank {rank}, the group {known} ranks");
            return Err(ReplayError::Records { step: record.step, reason });
        }
        if let Some(tuned) = record.tuning.and_then(|tuning| tuning.compression) {
            let ratios = ratios(tuned.ratio, tuned.is_free);
            self.compressors.iter_mut().for_each(|compressor| compressor.tune(&ratios));
        }
        let mut outcome = LogicalOutcome::default();
        for (rank, device) in record.devices.iter().enumerate() {
            outcome.statistics.push(self.contribute(rank, record, device, records)?);
        }
        let measures = self.job.training.learning_rate_scaling.reads_gradients();
        if measures {
            // Before compression uses them up.
            outcome.own_energies = self.contributions.iter().map(|gradients| energy(gradients)).collect();
        }
        let gradients = self.learner.gradients_mut().map_err(ReplayError::compute)?;
        match record.compression {
            None => combine_logical(gradients, &self.contributions).map_err(ReplayError::compute)?,
            Some(decision) => {
                let (ranks, gradients_of) = (&mut self.compressors, &mut self.contributions);
                outcome.exchange = compress::exchange::combine_logical(
                    ranks,
                    gradients_of,
                    decision,
                    record.learning_rate,
                    gradients,
                )
                .map_err(ReplayError::compute)?;
            }
        }
        if measures {
            outcome.delivered_energy = energy(gradients);
        }
        let training = &self.job.training;
        let sgd = Sgd { momentum: training.momentum, weight_decay: training.weight_decay };
        let (parameters, gradients) =
            self.learner.parameters_and_gradients_mut().map_err(ReplayError::compute)?;
        sgd.step(record.learning_rate, parameters, gradients, &mut self.momentum)
            .map_err(ReplayError::compute)?;
        if record.statistics_agreed {
            self.agree_statistics()?;
        }
        Ok(outcome)
    }

    fn contribute(
        &mut self,
        rank: usize,
        record: &StepRecord,
        device: &DeviceStep,
        records: &mut dyn Records,
    ) -> Result<StepStatistics, ReplayError> {
        if let Some(statistics) = self.statistics.get(rank) {
            self.learner.set_statistics(statistics).map_err(ReplayError::compute)?;
        }
        // As on the rank: its own samples first, those of others added.
        let own: Vec<_> = device.ranges.iter().map(|range| (rank, *range)).collect();
        self.assemble(record, &own, records)?;
        let (batch, micro_batch) = (self.assembler.batch(), record.micro_batch as usize);
        let own = self.learner.contribute(batch, device.loss_scale, micro_batch);
        let mut statistics = own.map_err(ReplayError::compute)?;
        let received = device.received.iter();
        let received: Vec<_> =
            received.flat_map(|part| part.ranges.iter().map(|range| (part.rank, *range))).collect();
        if !received.is_empty() {
            self.assemble(record, &received, records)?;
            let batch = self.assembler.batch();
            let more = self.learner.contribute_more(batch, device.loss_scale, micro_batch);
            statistics += more.map_err(ReplayError::compute)?;
        }
        let gradients = self.learner.gradients().map_err(ReplayError::compute)?;
        self.contributions[rank].copy_from_slice(gradients);
        if let Some(statistics) = self.statistics.get_mut(rank) {
            *statistics = self.learner.statistics().map_err(ReplayError::compute)?;
        }
        Ok(statistics)
    }

    /// Makes the records of `ranges`, each with the rank at whose stream they arrived, the batch.
    fn assemble(
        &mut self,
        record: &StepRecord,
        ranges: &[(usize, RecordRange)],
        records: &mut dyn Records,
    ) -> Result<(), ReplayError> {
        self.samples.clear();
        let mut samples = Vec::new();
        for &(rank, range) in ranges {
            let number = self.devices[rank];
            records
                .read(number, range, &mut self.samples)
                .map_err(|reason| ReplayError::Records { step: record.step, reason })?;
            samples.extend(places(number, range, record.epoch));
        }
        self.make_room(self.samples.len())?;
        let (job, transform) = (&self.job, &self.job.stream.transform);
        let samples = samples.into_iter().zip(&self.samples).map(|(sample, payload)| {
            let (padding, flip) = (transform.random_crop_padding, transform.horizontal_flip);
            SampleRef { payload, augmentation: augmentation(job.training.seed, sample, padding, flip) }
        });
        self.assembler.assemble(samples).map(|_| ()).map_err(ReplayError::compute)
    }

    /// `Fixed` batches may be larger than the bounds of the other rules.
    fn make_room(&mut self, samples: usize) -> Result<(), ReplayError> {
        if samples > self.room {
            self.assembler = BatchAssembler::new(&self.job.samples(), &self.job.stream.transform, samples)
                .map_err(ReplayError::compute)?;
            self.room = samples;
        }
        Ok(())
    }

    /// The model.
    pub fn learner(&self) -> &Learner<f32> {
        &self.learner
    }

    /// Hashes of the parameters and of the running statistics, as they are written.
    pub(super) fn hashes(&self) -> Result<Hashes, ReplayError> {
        let statistics = self.learner.statistics_hash().map_err(ReplayError::compute)?;
        Ok(Hashes { parameters: hash_text(self.parameter_hash()?), statistics: statistics.map(hash_text) })
    }

    /// Hash of the parameters.
    pub fn parameter_hash(&self) -> Result<u64, ReplayError> {
        self.learner.parameter_hash().map_err(ReplayError::compute)
    }

    /// The state after the last step, as a checkpoint holds it: (model, momentum), safetensors.
    pub fn tensors(&self) -> Result<(Vec<u8>, Vec<u8>), ReplayError> {
        let model = self.learner.encode_model().map_err(ReplayError::compute)?;
        let momentum = self.learner.encode(&self.momentum.momentum).map_err(ReplayError::compute)?;
        Ok((model, momentum))
    }

    /// Hashes of what is in the safetensors file `model`, which replaces the group's own.
    pub(super) fn hashes_of(&mut self, model: &[u8]) -> Result<Hashes, ReplayError> {
        self.learner.set_model(model).map_err(ReplayError::learner)?;
        self.hashes()
    }
}

/// The ranks' compression as the snapshot has it.
fn restore(
    compressors: &mut [Compressor],
    learner: &Learner<f32>,
    snapshot: &Snapshot,
) -> Result<(), ReplayError> {
    let residuals = decode_residuals(learner, &snapshot.residuals).map_err(ReplayError::compute)?;
    let devices = &snapshot.manifest.devices;
    for ((compressor, residual), device) in compressors.iter_mut().zip(&residuals).zip(devices) {
        let state = device.compressor.unwrap_or_default();
        compressor.restore(residual, state).map_err(ReplayError::compute)?;
    }
    Ok(())
}

/// The samples of one range of the job's device number `device`. Pure.
fn places(device: usize, range: RecordRange, epoch: u64) -> impl Iterator<Item = SampleIdentity> {
    let RecordRange(partition, first, count) = range;
    (first..first + count).map(move |offset| SampleIdentity {
        device: device as u64,
        partition,
        offset,
        epoch,
    })
}
