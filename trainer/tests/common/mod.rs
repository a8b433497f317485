//! What the multi-rank tests share: pictures that can be learned, ranks as threads and as processes, and steps.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)] // Shared test code.
#![allow(clippy::cast_possible_wrap)]

pub mod processes;

use std::error::Error;
use std::time::{Duration, Instant};

use scadles_api::worker::{
    CompressionConfig, EnergyOf, ModelConfig, ModelName, RecordFormat, SampleShape, Transform,
};
use scadles_core::augment::{Augmentation, SampleIdentity, augmentation};
use scadles_core::compress::{
    self,
    compressor::Compressor,
    exchange::{LogicalStep, SparseExchange},
    gate::{CompressionDecision, SparseChoice},
};
use scadles_core::random::RandomStream;
use scadles_trainer::batch::{BatchAssembler, SampleRef};
use scadles_trainer::engine::{Communicator, InProcess};
use scadles_trainer::exchange::{DenseExchange, Exchanged, GradientExchange, combine_logical};
use scadles_trainer::learner::{Learner, StepStatistics, set_up_torch};
use scadles_trainer::numeric::Real;
use scadles_trainer::optimizer::{Sgd, SgdState};

pub const TIMEOUT: Duration = Duration::from_mins(1);
const PADDING: u32 = 2;
pub const SGD: Sgd = Sgd { momentum: 0.9, weight_decay: 1e-4 };

pub fn model(name: ModelName, input_shape: [u32; 3]) -> ModelConfig {
    ModelConfig::built_in(name, input_shape, 10)
}

pub fn transform(channels: usize) -> Transform {
    Transform {
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
        random_crop_padding: PADDING,
        horizontal_flip: true,
    }
}

/// Record `number` of an endless set of ten classes that differ in brightness by place, under noise.
pub fn record(model: &ModelConfig, number: u64) -> Vec<u8> {
    let noise = RandomStream::new(11, number);
    let label = noise.below(u64::MAX, u64::from(model.num_classes));
    let pattern = RandomStream::new(12, label);
    let side = u64::from(model.input_shape[2]);
    let value = |i: u64| {
        // Patches of 8x8 share a brightness, so that crops and small convolutions still see the class.
        let patch = i / (8 * side) * side + i % side / 8;
        (pattern.below(patch, 2) * 128 + noise.below(i, 128)) as u8
    };
    let shape = SampleShape::new(RecordFormat::CifarBinary, model);
    shape.label_prefix(label as u32).chain((0..model.picture_values() as u64).map(value)).collect()
}

/// What `device` trains in `step`: numbers of records.
pub fn samples(device: usize, step: u64, count: usize) -> Vec<u64> {
    (0..count as u64).map(|i| (step * 1000 + i) * 16 + device as u64).collect()
}

pub fn augmented(number: u64) -> Augmentation {
    let sample = SampleIdentity { device: number % 16, partition: 0, offset: number / 16, epoch: 0 };
    augmentation(3, sample, PADDING, true)
}

/// One rank, or one logical device: everything but the communicator.
pub struct Rank<T: Real> {
    pub learner: Learner<T>,
    assembler: BatchAssembler<T>,
    state: SgdState<T>,
    model: ModelConfig,
    pub micro_batch: usize,
    pub learning_rate: f64,
}

impl<T: Real> Rank<T> {
    pub fn new(model: &ModelConfig, learner: Learner<T>) -> Self {
        let len = learner.parameters().unwrap().len();
        let shape = SampleShape::new(RecordFormat::CifarBinary, model);
        let assembler = BatchAssembler::new(&shape, &transform(model.input_shape[0] as usize), 256).unwrap();
        Self {
            learner,
            assembler,
            state: SgdState::new(len),
            model: model.clone(),
            micro_batch: 3,
            learning_rate: 0.02,
        }
    }

    pub fn built_in(model: &ModelConfig) -> Self {
        Self::weighted(model, &[])
    }

    /// One whose classes count differently.
    pub fn weighted(model: &ModelConfig, class_weights: &[f32]) -> Self {
        Self::new(model, Learner::new(model, 1234).unwrap().with_class_weights(class_weights).unwrap())
    }

    /// Forward and backward of `device`'s batch, with the weight of a step in which all train `global_batch`.
    pub fn contribute(
        &mut self,
        device: usize,
        step: u64,
        batch: usize,
        global_batch: usize,
    ) -> StepStatistics {
        self.contribute_numbers(&samples(device, step, batch), global_batch)
    }

    /// The same with the records of these numbers.
    pub fn contribute_numbers(&mut self, numbers: &[u64], global_batch: usize) -> StepStatistics {
        self.contribute_scaled(numbers, 1.0 / global_batch as f64)
    }

    /// The same with the scale of the losses.
    pub fn contribute_scaled(&mut self, numbers: &[u64], loss_scale: f64) -> StepStatistics {
        self.assemble(numbers);
        self.learner.contribute(self.assembler.batch(), loss_scale, self.micro_batch).unwrap()
    }

    fn assemble(&mut self, numbers: &[u64]) {
        let records: Vec<Vec<u8>> = numbers.iter().map(|&number| record(&self.model, number)).collect();
        let samples = records
            .iter()
            .zip(numbers)
            .map(|(payload, &number)| SampleRef { payload, augmentation: augmented(number) });
        self.assembler.assemble(samples).unwrap();
    }

    pub fn apply(&mut self) {
        let (parameters, gradients) = self.learner.parameters_and_gradients_mut().unwrap();
        SGD.step(self.learning_rate, parameters, gradients, &mut self.state).unwrap();
    }

    pub fn step(&mut self, comm: &mut dyn Communicator, step: u64, batches: &[usize]) -> StepStatistics {
        let rank = comm.rank();
        let statistics = self.contribute(rank, step, batches[rank], batches.iter().sum());
        let exchange = DenseExchange::new(self.learner.flat(), comm.world_size());
        exchange.combine(comm, self.learner.gradients_mut().unwrap()).unwrap();
        self.apply();
        statistics
    }

    /// The same step, whose gradients leave while backward still computes.
    pub fn overlapped_step(
        &mut self,
        comm: &mut dyn Communicator,
        exchange: &DenseExchange,
        step: u64,
        batches: &[usize],
    ) -> Overlapped {
        let own = batches[comm.rank()];
        self.assemble(&samples(comm.rank(), step, own));
        let loss_scale = 1.0 / batches.iter().sum::<usize>() as f64;
        let (batch, micro_batch) = (self.assembler.batch(), self.micro_batch);
        let compute = |learner: &mut Learner<T>| {
            learner.last_is_next();
            learner.contribute(batch, loss_scale, micro_batch)?;
            Ok::<_, Box<dyn Error>>(learner.passes().last().map(|pass| pass.ended))
        };
        let (backward_ended, exchanged) = exchange.combine_while(comm, &mut self.learner, compute).unwrap();
        self.apply();
        Overlapped { exchanged, backward_ended }
    }

    pub fn hash(&self) -> u64 {
        assert!(self.learner.flat().gradients_are_aliased());
        self.learner.parameter_hash().unwrap()
    }

    /// The same step with all devices on this one model, one after another.
    pub fn logical_step(&mut self, step: u64, batches: &[usize]) {
        let global_batch = batches.iter().sum();
        let contributions: Vec<Vec<T>> = (0..batches.len())
            .map(|device| {
                self.contribute(device, step, batches[device], global_batch);
                self.learner.gradients().unwrap().to_vec()
            })
            .collect();
        combine_logical(self.learner.gradients_mut().unwrap(), &contributions).unwrap();
        self.apply();
    }
}

/// A job with compression, at more than one ratio or at one.
pub fn compression(is_free: bool) -> CompressionConfig {
    CompressionConfig { ratio: 0.05, is_free, delta: Some(0.3), energy_of: EnergyOf::Compensated }
}

/// All ways in turn, twice in a row each, so that residuals meet every one of them.
pub fn decision(step: u64, is_free: bool) -> CompressionDecision {
    let level = u8::from(is_free);
    let sparse = |exchange, level| CompressionDecision::Sparse(SparseChoice { exchange, level });
    match step / 2 % 5 {
        0 => sparse(SparseExchange::AllGather, 0),
        1 => sparse(SparseExchange::ReduceScatter, level),
        2 => CompressionDecision::Half,
        3 => sparse(SparseExchange::AllGather, level),
        _ => CompressionDecision::Dense,
    }
}

/// η of a step; it changes from each to the next.
pub fn rate(step: u64) -> f64 {
    [0.02, 0.05, 0.01][step as usize % 3]
}

impl Rank<f32> {
    /// A step of a job with compression, or without; its gradients leave while backward still computes or after it, as
    /// `exchange` has it.
    pub fn exchanged_step(
        &mut self,
        comm: &mut dyn Communicator,
        exchange: &mut GradientExchange,
        step: u64,
        batches: &[usize],
        decision: CompressionDecision,
    ) -> Overlapped {
        self.learning_rate = rate(step);
        self.assemble(&samples(comm.rank(), step, batches[comm.rank()]));
        let loss_scale = 1.0 / batches.iter().sum::<usize>() as f64;
        let (batch, micro_batch) = (self.assembler.batch(), self.micro_batch);
        let compute = |learner: &mut Learner<f32>| {
            learner.last_is_next();
            learner.contribute(batch, loss_scale, micro_batch)?;
            Ok::<_, Box<dyn Error>>(learner.passes().last().map(|pass| pass.ended))
        };
        let how = (decision, self.learning_rate);
        let (backward_ended, exchanged) =
            exchange.compute_and_combine(comm, &mut self.learner, how, compute).unwrap();
        self.apply();
        Overlapped { exchanged, backward_ended }
    }

    /// The same step of devices that take turns on this one model: what each has found.
    pub fn logical_compressed_step(
        &mut self,
        compressors: &mut [Compressor],
        step: u64,
        decision: CompressionDecision,
    ) -> LogicalStep {
        let batches = uneven(step, compressors.len());
        self.learning_rate = rate(step);
        let mut gradients: Vec<Vec<f32>> = (0..compressors.len())
            .map(|device| {
                self.contribute(device, step, batches[device], batches.iter().sum());
                self.learner.gradients().unwrap().to_vec()
            })
            .collect();
        let (rate, sum) = (self.learning_rate, self.learner.gradients_mut().unwrap());
        let found = compress::exchange::combine_logical(compressors, &mut gradients, decision, rate, sum);
        self.apply();
        found.unwrap()
    }
}

/// What a step was like whose gradients left while backward still computed.
#[derive(Debug)]
pub struct Overlapped {
    pub exchanged: Exchanged,
    /// `None` without samples.
    pub backward_ended: Option<Instant>,
}

/// The batches of each step: (0, 1, 7, 64), turned by one rank a step.
pub fn uneven(step: u64, ranks: usize) -> Vec<usize> {
    let batches = [0, 1, 7, 64];
    (0..ranks).map(|rank| batches[(rank + step as usize) % batches.len()]).collect()
}

/// Runs `body` as every rank of an in-process group.
pub fn threads<R: Send>(world_size: usize, body: impl Fn(&mut dyn Communicator) -> R + Sync) -> Vec<R> {
    let ranks = InProcess::group(world_size, TIMEOUT);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = ranks
            .into_iter()
            .map(|mut comm| {
                let body = &body;
                scope.spawn(move || {
                    set_up_torch(1).unwrap();
                    body(&mut comm)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Runs `body` as every rank of a Gloo group, each in a process of its own that runs the calling test again (`test`: its
/// name), and gives the numbers that the ranks returned. In such a process it does not return.
pub fn processes(test: &str, world_size: usize, body: impl Fn(&mut dyn Communicator) -> u64) -> Vec<u64> {
    let outcomes = processes::on_gloo(test, "", world_size, TIMEOUT, |comm| Some(body(comm)));
    outcomes.into_iter().flatten().map(|outcome| outcome.expect("every rank tells a number")).collect()
}

/// Seconds that `body` takes.
pub fn seconds(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}
