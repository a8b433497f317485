//! A group of logical devices: one model, one thread, the bits of as many ranks. No I/O.

use scadles_api::worker::JobConfig;
use scadles_core::augment::{SampleIdentity, augmentation};
use scadles_core::compress::{self, compressor::Compressor};

use super::ReplayError;
use super::records::Records;
use crate::batch::{BatchAssembler, SampleRef};
use crate::checkpoint::Snapshot;
use crate::exchange::{combine_logical, compressor};
use crate::journal::{DeviceStep, RecordRange, StepRecord};
use crate::learner::Learner;
use crate::optimizer::{Sgd, SgdState};
use crate::worker::decode_residuals;

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
    payloads: Vec<Vec<u8>>,
    /// Per rank, what it keeps back; empty in jobs without compression.
    compressors: Vec<Compressor>,
}

impl LogicalGroup {
    /// A group of the job's devices, `devices[rank]` being a position in `job.devices`, at the state of `snapshot`.
    pub fn start(job: &JobConfig, devices: Vec<usize>, snapshot: &Snapshot) -> Result<Self, ReplayError> {
        let mut learner =
            Learner::<f32>::new(&job.model, snapshot.manifest.learner_seed).map_err(ReplayError::compute)?;
        let elements = learner.parameters().map_err(ReplayError::compute)?.len();
        let mut momentum = SgdState::new(elements);
        learner.set_parameters(&snapshot.model).map_err(ReplayError::compute)?;
        learner.decode(&snapshot.momentum, &mut momentum.momentum).map_err(ReplayError::compute)?;
        let room = job.stream.batch_bounds.max as usize;
        let assembler =
            BatchAssembler::new(&job.model, &job.stream.transform, room).map_err(ReplayError::compute)?;
        let compressors = compressors(job, &learner, devices.len(), snapshot)?;
        let contributions = vec![vec![0.0; elements]; devices.len()];
        Ok(Self {
            job: job.clone(),
            devices,
            learner,
            momentum,
            assembler,
            room,
            contributions,
            payloads: Vec::new(),
            compressors,
        })
    }

    /// Takes one step as the ranks took it: contributions one after another, their sum in rank order, the update.
    pub fn step(&mut self, record: &StepRecord, records: &mut dyn Records) -> Result<(), ReplayError> {
        if record.devices.len() != self.devices.len() {
            let reason = format!("it has {} devices, the group {}", record.devices.len(), self.devices.len());
            return Err(ReplayError::Records { step: record.step, reason });
        }
        for (rank, device) in record.devices.iter().enumerate() {
            self.contribute(rank, record, device, records)?;
        }
        let gradients = self.learner.gradients_mut().map_err(ReplayError::compute)?;
        match record.compression {
            None => combine_logical(gradients, &self.contributions).map_err(ReplayError::compute)?,
            Some(decision) => {
                let (ranks, gradients_of) = (&mut self.compressors, &mut self.contributions);
                compress::exchange::combine_logical(
                    ranks,
                    gradients_of,
                    decision,
                    record.learning_rate,
                    gradients,
                )
                .map_err(ReplayError::compute)?;
            }
        }
        let training = &self.job.training;
        let sgd = Sgd { momentum: training.momentum, weight_decay: training.weight_decay };
        let (parameters, gradients) =
            self.learner.parameters_and_gradients_mut().map_err(ReplayError::compute)?;
        sgd.step(record.learning_rate, parameters, gradients, &mut self.momentum)
            .map_err(ReplayError::compute)
    }

    fn contribute(
        &mut self,
        rank: usize,
        record: &StepRecord,
        device: &DeviceStep,
        records: &mut dyn Records,
    ) -> Result<(), ReplayError> {
        let number = self.devices[rank];
        self.payloads.clear();
        for range in &device.ranges {
            records
                .read(number, *range, &mut self.payloads)
                .map_err(|reason| ReplayError::Records { step: record.step, reason })?;
        }
        self.make_room(self.payloads.len())?;
        let (job, transform) = (&self.job, &self.job.stream.transform);
        let samples = places(&device.ranges).zip(&self.payloads).map(|((partition, offset), payload)| {
            let sample = SampleIdentity { device: number as u64, partition, offset, epoch: record.epoch };
            let (padding, flip) = (transform.random_crop_padding, transform.horizontal_flip);
            SampleRef { payload, augmentation: augmentation(job.training.seed, sample, padding, flip) }
        });
        let batch = self.assembler.assemble(samples).map_err(ReplayError::compute)?;
        self.learner
            .contribute(batch, device.loss_scale, record.micro_batch as usize)
            .map_err(ReplayError::compute)?;
        let gradients = self.learner.gradients().map_err(ReplayError::compute)?;
        self.contributions[rank].copy_from_slice(gradients);
        Ok(())
    }

    /// `Fixed` batches may be larger than the bounds of the other rules.
    fn make_room(&mut self, samples: usize) -> Result<(), ReplayError> {
        if samples > self.room {
            self.assembler = BatchAssembler::new(&self.job.model, &self.job.stream.transform, samples)
                .map_err(ReplayError::compute)?;
            self.room = samples;
        }
        Ok(())
    }

    /// Hash of the parameters.
    pub fn parameter_hash(&self) -> Result<u64, ReplayError> {
        self.learner.parameter_hash().map_err(ReplayError::compute)
    }

    /// The state after the last step, as a checkpoint holds it: (model, momentum), safetensors.
    pub fn tensors(&self) -> Result<(Vec<u8>, Vec<u8>), ReplayError> {
        let parameters = self.learner.parameters().map_err(ReplayError::compute)?;
        let model = self.learner.encode(parameters).map_err(ReplayError::compute)?;
        let momentum = self.learner.encode(&self.momentum.momentum).map_err(ReplayError::compute)?;
        Ok((model, momentum))
    }

    /// Hash of the parameters in the safetensors file `model`, which replace the group's own.
    pub(super) fn hash_of(&mut self, model: &[u8]) -> Result<u64, ReplayError> {
        self.learner.set_parameters(model).map_err(ReplayError::compute)?;
        self.parameter_hash()
    }
}

/// The ranks' compression as the snapshot has it.
fn compressors(
    job: &JobConfig,
    learner: &Learner<f32>,
    ranks: usize,
    snapshot: &Snapshot,
) -> Result<Vec<Compressor>, ReplayError> {
    let Some(config) = &job.compression else { return Ok(Vec::new()) };
    let mut compressors = vec![compressor(learner.flat(), ranks, config); ranks];
    let residuals = decode_residuals(learner, &snapshot.residuals).map_err(ReplayError::compute)?;
    let devices = &snapshot.manifest.devices;
    for ((compressor, residual), device) in compressors.iter_mut().zip(&residuals).zip(devices) {
        let state = device.compressor.unwrap_or_default();
        compressor.restore(residual, state).map_err(ReplayError::compute)?;
    }
    Ok(compressors)
}

/// (partition, offset) of the records of `ranges`, in training order. Pure.
fn places(ranges: &[RecordRange]) -> impl Iterator<Item = (u32, u64)> {
    ranges.iter().flat_map(|RecordRange(partition, first, count)| {
        (*first..first + count).map(|offset| (*partition, offset))
    })
}
