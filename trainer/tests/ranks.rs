//! Several ranks are one training: the same bits as logical devices in one thread, whatever carries the gradients.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_wrap)]

mod common;

use common::{Rank, model, processes, threads, uneven};
use scadles_api::worker::{CompressionConfig, EnergyOf, ModelConfig, ModelName};
use scadles_core::compress::{
    exchange::{SparseExchange, combine_logical},
    gate::CompressionDecision,
};
use scadles_trainer::engine::Communicator;
use scadles_trainer::exchange::{CompressedExchange, DenseExchange, GradientExchange};
use scadles_trainer::learner::{Draw, Learner, Network, ParameterSet, set_up_torch};
use scadles_trainer::numeric::Real;
use tch::{TchError, Tensor};

const RANKS: usize = 4;
const STEPS: u64 = 4;

fn cnn() -> ModelConfig {
    model(ModelName::Cnn, [3, 32, 32])
}

fn mlp() -> ModelConfig {
    model(ModelName::Mlp, [1, 28, 28])
}

/// One linear layer, and between its two parameters one that no forward pass uses.
struct WithUnusedParameter {
    weight: Tensor,
    bias: Tensor,
}

impl WithUnusedParameter {
    fn learner<T: Real>(model: &ModelConfig) -> Learner<T> {
        let mut set = ParameterSet::new(T::KIND, 5);
        let inputs = model.picture_bytes() as i64;
        let weight = set.add("weight", &[10, inputs], |draw| draw.unit() * 0.01).unwrap();
        let _unused = set.add("unused", &[1001], Draw::unit).unwrap();
        let bias = set.add("bias", &[10], |_| 0.0).unwrap();
        Learner::with_network(Box::new(Self { weight, bias }), &set).unwrap()
    }
}

impl Network for WithUnusedParameter {
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        pictures.f_flatten(1, -1)?.f_linear(&self.weight, Some(&self.bias))
    }
}

fn trained<T: Real>(mut rank: Rank<T>, comm: &mut dyn Communicator) -> u64 {
    let ranks = comm.world_size();
    for step in 0..STEPS {
        rank.step(comm, step, &uneven(step, ranks));
    }
    rank.hash()
}

fn trained_logically<T: Real>(mut rank: Rank<T>, devices: usize) -> u64 {
    set_up_torch(1).unwrap();
    for step in 0..STEPS {
        rank.logical_step(step, &uneven(step, devices));
    }
    rank.hash()
}

#[test]
fn logical_devices_have_the_bits_of_ranks_in_threads() {
    for model in [cnn(), mlp()] {
        for ranks in [1, 2, 3, RANKS] {
            let hashes = threads(ranks, |comm| trained(Rank::<f32>::built_in(&model), comm));
            let expected = trained_logically(Rank::<f32>::built_in(&model), ranks);
            assert_eq!(hashes, vec![expected; ranks], "{:?} on {ranks} ranks", model.name);
        }
    }
}

#[test]
fn logical_devices_have_the_bits_of_ranks_in_processes_on_gloo() {
    let test = "logical_devices_have_the_bits_of_ranks_in_processes_on_gloo";
    let hashes = processes(test, RANKS, |comm| trained(Rank::<f32>::built_in(&cnn()), comm));
    assert_eq!(hashes, vec![trained_logically(Rank::<f32>::built_in(&cnn()), RANKS); RANKS]);
}

#[test]
fn two_processes_that_use_gloos_own_sum_have_the_bits_of_two_logical_devices() {
    let test = "two_processes_that_use_gloos_own_sum_have_the_bits_of_two_logical_devices";
    let hashes = processes(test, 2, |comm| trained(Rank::<f32>::built_in(&cnn()), comm));
    assert_eq!(hashes, vec![trained_logically(Rank::<f32>::built_in(&cnn()), 2); 2]);
}

#[test]
fn a_parameter_without_a_gradient_keeps_all_ranks_in_step() {
    let test = "a_parameter_without_a_gradient_keeps_all_ranks_in_step";
    let rank = || Rank::<f32>::new(&mlp(), WithUnusedParameter::learner(&mlp()));
    let in_processes = processes(test, RANKS, |comm| trained(rank(), comm));
    let expected = trained_logically(rank(), RANKS);
    assert_eq!(in_processes, vec![expected; RANKS]);
    assert_eq!(threads(RANKS, |comm| trained(rank(), comm)), vec![expected; RANKS]);
}

#[test]
fn all_ranks_hold_the_same_bits_after_every_one_of_20_steps() {
    let histories = threads(3, |comm| {
        let mut rank = Rank::<f32>::built_in(&cnn());
        (0..20).map(|step| (rank.step(comm, step, &[5, 0, 9]), rank.hash()).1).collect::<Vec<_>>()
    });
    assert_eq!(histories[0], histories[1]);
    assert_eq!(histories[0], histories[2]);
    assert!(histories[0].windows(2).all(|pair| pair[0] != pair[1]), "a step changed nothing");
}

const COMPRESSION: CompressionConfig =
    CompressionConfig { ratio: 0.05, delta: Some(0.3), energy_of: EnergyOf::Compensated };
const COMPRESSED_STEPS: u64 = 9;

/// All ways in turn, twice in a row each, so that residuals meet every one of them.
fn decision(step: u64) -> CompressionDecision {
    match step / 2 % 3 {
        0 => CompressionDecision::Sparse(SparseExchange::AllGather),
        1 => CompressionDecision::Sparse(SparseExchange::ReduceScatter),
        _ => CompressionDecision::Dense,
    }
}

fn rate(step: u64) -> f64 {
    [0.02, 0.05, 0.01][step as usize % 3]
}

fn trained_compressed(mut rank: Rank<f32>, comm: &mut dyn Communicator) -> u64 {
    let (own, ranks) = (comm.rank(), comm.world_size());
    let mut exchange = GradientExchange::new(rank.learner.flat(), ranks, Some(COMPRESSION));
    for step in 0..COMPRESSED_STEPS {
        let batches = uneven(step, ranks);
        rank.learning_rate = rate(step);
        rank.contribute(own, step, batches[own], batches.iter().sum());
        let gradients = rank.learner.gradients_mut().unwrap();
        let sent = exchange.combine(comm, gradients, decision(step), rate(step)).unwrap();
        let dense = exchange.compressed().unwrap().dense_bytes();
        if decision(step) == CompressionDecision::Dense {
            assert_eq!(sent.bytes_sent, dense);
        } else {
            assert!(sent.bytes_sent > 0 && sent.bytes_sent < dense / 2, "{} of {dense}", sent.bytes_sent);
        }
        rank.apply();
    }
    rank.hash()
}

fn trained_compressed_logically(mut rank: Rank<f32>, devices: usize) -> u64 {
    set_up_torch(1).unwrap();
    let exchange = CompressedExchange::new(rank.learner.flat(), devices, &COMPRESSION);
    let mut compressors = vec![exchange.compressor().clone(); devices];
    for step in 0..COMPRESSED_STEPS {
        let batches = uneven(step, devices);
        rank.learning_rate = rate(step);
        let mut gradients: Vec<Vec<f32>> = (0..devices)
            .map(|device| {
                rank.contribute(device, step, batches[device], batches.iter().sum());
                rank.learner.gradients().unwrap().to_vec()
            })
            .collect();
        let sum = rank.learner.gradients_mut().unwrap();
        combine_logical(&mut compressors, &mut gradients, decision(step), rate(step), sum).unwrap();
        rank.apply();
    }
    rank.hash()
}

#[test]
fn compressed_ranks_in_threads_have_the_bits_of_logical_devices() {
    for ranks in [2, 3, RANKS] {
        let hashes = threads(ranks, |comm| trained_compressed(Rank::built_in(&cnn()), comm));
        assert_eq!(hashes, vec![trained_compressed_logically(Rank::built_in(&cnn()), ranks); ranks]);
    }
}

#[test]
fn compressed_ranks_in_processes_on_gloo_have_the_bits_of_logical_devices() {
    let test = "compressed_ranks_in_processes_on_gloo_have_the_bits_of_logical_devices";
    let hashes = processes(test, RANKS, |comm| trained_compressed(Rank::built_in(&cnn()), comm));
    assert_eq!(hashes, vec![trained_compressed_logically(Rank::built_in(&cnn()), RANKS); RANKS]);
}

/// ‖combined − gradient of the union of all batches‖ / ‖the latter‖, as this rank sees it.
fn distance_to_union<T: Real>(model: &ModelConfig, comm: &mut dyn Communicator) -> f64 {
    let batches = uneven(0, comm.world_size());
    let mut rank = Rank::<T>::built_in(model);
    let start = unpadded(&rank.learner, rank.learner.parameters().unwrap());
    rank.contribute(comm.rank(), 0, batches[comm.rank()], batches.iter().sum());
    let exchange = DenseExchange::new(rank.learner.flat(), comm.world_size());
    exchange.combine(comm, rank.learner.gradients_mut().unwrap()).unwrap();

    let combined = unpadded(&rank.learner, rank.learner.gradients().unwrap());
    let union = union_gradient(model, &start, &batches);
    let norm = union.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(norm > 1e-3, "nothing to compare with");
    combined.iter().zip(&union).map(|(c, u)| (c - u).powi(2)).sum::<f64>().sqrt() / norm
}

/// The mean gradient over all devices' samples at the parameters `start`, in f64, as one batch on one rank.
fn union_gradient(model: &ModelConfig, start: &[f64], batches: &[usize]) -> Vec<f64> {
    let mut rank = Rank::<f64>::built_in(model);
    let slots = rank.learner.flat().layout().to_vec();
    let (mut rest, values) = (start, rank.learner.parameters_mut().unwrap());
    for slot in slots {
        let (own, others) = rest.split_at(slot.len_elements);
        values[slot.offset_elements..][..slot.len_elements].copy_from_slice(own);
        rest = others;
    }
    rank.micro_batch = usize::MAX;
    let numbers = batches.iter().enumerate().flat_map(|(device, &count)| common::samples(device, 0, count));
    rank.contribute_numbers(&numbers.collect::<Vec<_>>(), batches.iter().sum());
    unpadded(&rank.learner, rank.learner.gradients().unwrap())
}

/// A flat buffer's tensors, one after another in f64, so that buffers of unlike padding compare.
fn unpadded<T: Real>(learner: &Learner<T>, values: &[T]) -> Vec<f64> {
    let slots = learner.flat().layout().iter();
    let tensors = slots.flat_map(|slot| &values[slot.offset_elements..][..slot.len_elements]);
    tensors.map(|value| value.to_f64()).collect()
}

#[test]
fn the_combined_gradient_is_that_of_the_union_of_all_batches() {
    for model in [mlp(), cnn()] {
        let f64s = threads(RANKS, |comm| distance_to_union::<f64>(&model, comm));
        assert!(f64s.iter().all(|distance| *distance < 1e-10), "{:?} in f64: {f64s:?}", model.name);
        let f32s = threads(RANKS, |comm| distance_to_union::<f32>(&model, comm));
        assert!(f32s.iter().all(|distance| *distance < 1e-5), "{:?} in f32: {f32s:?}", model.name);
    }
}

#[test]
fn the_combined_gradient_over_gloo_is_that_of_the_union_of_all_batches() {
    let test = "the_combined_gradient_over_gloo_is_that_of_the_union_of_all_batches";
    let distances = processes(test, RANKS, |comm| distance_to_union::<f64>(&cnn(), comm).to_bits());
    let distances: Vec<f64> = distances.into_iter().map(f64::from_bits).collect();
    assert!(distances.iter().all(|distance| *distance < 1e-10), "{distances:?}");
}

#[test]
fn the_cnn_learns_to_tell_classes_apart_on_four_ranks() {
    let model = cnn();
    let accuracies = threads(RANKS, |comm| {
        let mut rank = Rank::<f32>::built_in(&model);
        rank.micro_batch = 64;
        let mut recent = Vec::new();
        for step in 0..60 {
            let statistics = rank.step(comm, step, &[4, 8, 12, 8]);
            if step >= 50 {
                recent.push(statistics);
            }
        }
        let samples: u64 = recent.iter().map(|statistics| statistics.samples).sum();
        recent.iter().map(|statistics| statistics.correct).sum::<u64>() as f64 / samples as f64
    });
    assert!(accuracies.iter().all(|accuracy| *accuracy > 0.8), "{accuracies:?}");
}
