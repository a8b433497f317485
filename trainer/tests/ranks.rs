//! Several ranks are one training: the same bits as logical devices in one thread, whatever carries the gradients.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Rank, compression, decision, model, processes, rate, threads, uneven};
use scadles_api::worker::{Aggregation, ModelConfig, ModelName, NormStatistics, Normalization};
use scadles_core::compress::gate::CompressionDecision;
use scadles_core::weights::{Share, compute_weights, loss_mass};
use scadles_trainer::engine::Communicator;
use scadles_trainer::exchange::{
    CompressedExchange, DenseExchange, GradientExchange, combine_logical as combine_dense, statistics,
};
use scadles_trainer::learner::{Learner, set_up_torch};
use scadles_trainer::numeric::Real;

const RANKS: usize = 4;
const STEPS: u64 = 4;

fn cnn() -> ModelConfig {
    model(ModelName::Cnn, [3, 32, 32])
}

fn mlp() -> ModelConfig {
    model(ModelName::Mlp, [1, 28, 28])
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

/// The small network with BatchNorm.
fn batch_norm() -> ModelConfig {
    let statistics = Some(NormStatistics::Agreed);
    ModelConfig { normalization: Normalization::Batch, statistics, ..cnn() }
}

/// Hash of parameters and agreed statistics together: batches of 0, 1, 7 and 64, as of ranks with labels of their own.
fn trained_with_statistics(mut rank: Rank<f32>, comm: &mut dyn Communicator) -> u64 {
    let ranks = comm.world_size();
    for step in 0..STEPS {
        rank.step(comm, step, &uneven(step, ranks));
        if step % 2 == 0 {
            let seen = statistics::gather(comm, &rank.learner.statistics().unwrap()).unwrap();
            rank.learner.agree_statistics(NormStatistics::Agreed, &seen).unwrap();
        }
    }
    let seen = statistics::gather(comm, &rank.learner.statistics().unwrap()).unwrap();
    assert!(seen.windows(2).any(|pair| pair[0].values != pair[1].values), "nothing to agree on");
    rank.learner.agree_statistics(NormStatistics::Agreed, &seen).unwrap();
    rank.hash() ^ rank.learner.statistics_hash().unwrap().unwrap()
}

/// The same by devices that take turns on one model.
fn trained_with_statistics_logically(mut rank: Rank<f32>, devices: usize) -> u64 {
    set_up_torch(1).unwrap();
    let mut seen = vec![rank.learner.statistics().unwrap(); devices];
    for step in 0..STEPS {
        let batches = uneven(step, devices);
        let contributions: Vec<Vec<f32>> = (0..devices)
            .map(|device| {
                rank.learner.set_statistics(&seen[device]).unwrap();
                rank.contribute(device, step, batches[device], batches.iter().sum());
                seen[device] = rank.learner.statistics().unwrap();
                rank.learner.gradients().unwrap().to_vec()
            })
            .collect();
        combine_dense(rank.learner.gradients_mut().unwrap(), &contributions).unwrap();
        rank.apply();
        if step % 2 == 0 || step + 1 == STEPS {
            rank.learner.agree_statistics(NormStatistics::Agreed, &seen).unwrap();
            seen = vec![rank.learner.statistics().unwrap(); devices];
        }
    }
    rank.hash() ^ rank.learner.statistics_hash().unwrap().unwrap()
}

#[test]
fn running_statistics_agreed_on_in_processes_have_the_bits_of_logical_devices() {
    let test = "running_statistics_agreed_on_in_processes_have_the_bits_of_logical_devices";
    let hashes = processes(test, RANKS, |comm| trained_with_statistics(Rank::built_in(&batch_norm()), comm));
    assert_eq!(hashes, vec![trained_with_statistics_logically(Rank::built_in(&batch_norm()), RANKS); RANKS]);
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

const COMPRESSED_STEPS: u64 = 12;

fn trained_compressed(mut rank: Rank<f32>, comm: &mut dyn Communicator) -> u64 {
    let (own, ranks) = (comm.rank(), comm.world_size());
    let mut exchange = GradientExchange::new(rank.learner.flat(), ranks, Some(compression(true)));
    for step in 0..COMPRESSED_STEPS {
        let batches = uneven(step, ranks);
        rank.learning_rate = rate(step);
        rank.contribute(own, step, batches[own], batches.iter().sum());
        let gradients = rank.learner.gradients_mut().unwrap();
        let sent = exchange.combine(comm, gradients, decision(step, true), rate(step)).unwrap();
        let dense = exchange.compressed().unwrap().dense_bytes();
        match decision(step, true) {
            CompressionDecision::Dense => assert_eq!(sent.bytes_sent, dense),
            CompressionDecision::Half => {
                assert!((dense * 49 / 100..dense * 51 / 100).contains(&sent.bytes_sent));
            }
            CompressionDecision::Sparse(_) => {
                assert!(sent.bytes_sent > 0 && sent.bytes_sent < dense / 2, "{} of {dense}", sent.bytes_sent);
            }
        }
        rank.apply();
    }
    rank.hash()
}

fn trained_compressed_logically(mut rank: Rank<f32>, devices: usize) -> u64 {
    set_up_torch(1).unwrap();
    let exchange = CompressedExchange::new(rank.learner.flat(), devices, &compression(true));
    let mut compressors = vec![exchange.compressor().clone(); devices];
    for step in 0..COMPRESSED_STEPS {
        rank.logical_compressed_step(&mut compressors, step, decision(step, true));
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

/// ‖combined − gradient of the union of all batches‖ / ‖the latter‖, as this rank sees it; without class weights all classes
/// count the same.
fn distance_to_union<T: Real>(
    model: &ModelConfig,
    comm: &mut dyn Communicator,
    class_weights: &[f32],
) -> f64 {
    let batches = uneven(0, comm.world_size());
    let batch = |device: usize| common::samples(device, 0, batches[device]);
    let share = |numbers: &[u64]| Share {
        local_batch: numbers.len() as u64,
        loss_mass: loss_mass(class_weights, numbers.iter().map(|number| label(model, *number))),
    };
    let shares: Vec<Share> = (0..batches.len()).map(|device| share(&batch(device))).collect();
    let scales = compute_weights(Aggregation::Weighted, &shares).loss_scales;
    let mut rank = Rank::<T>::weighted(model, class_weights);
    let start = unpadded(&rank.learner, rank.learner.parameters().unwrap());
    rank.contribute_scaled(&batch(comm.rank()), scales[comm.rank()]);
    let exchange = DenseExchange::new(rank.learner.flat(), comm.world_size());
    exchange.combine(comm, rank.learner.gradients_mut().unwrap()).unwrap();

    let combined = unpadded(&rank.learner, rank.learner.gradients().unwrap());
    let all: Vec<u64> = (0..batches.len()).flat_map(batch).collect();
    let scale = compute_weights(Aggregation::Weighted, &[share(&all)]).loss_scales[0];
    let union = union_gradient(Rank::weighted(model, class_weights), &start, &all, scale);
    let norm = union.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(norm > 1e-3, "nothing to compare with");
    combined.iter().zip(&union).map(|(c, u)| (c - u).powi(2)).sum::<f64>().sqrt() / norm
}

fn label(model: &ModelConfig, number: u64) -> usize {
    usize::from(common::record(model, number)[0])
}

/// The gradient of all devices' samples at the parameters `start`, in f64, as one batch on one rank.
fn union_gradient(mut rank: Rank<f64>, start: &[f64], numbers: &[u64], scale: f64) -> Vec<f64> {
    let slots = rank.learner.flat().layout().to_vec();
    let (mut rest, values) = (start, rank.learner.parameters_mut().unwrap());
    for slot in slots {
        let (own, others) = rest.split_at(slot.len_elements);
        values[slot.offset_elements..][..slot.len_elements].copy_from_slice(own);
        rest = others;
    }
    rank.micro_batch = usize::MAX;
    rank.contribute_scaled(numbers, scale);
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
        let f64s = threads(RANKS, |comm| distance_to_union::<f64>(&model, comm, &[]));
        assert!(f64s.iter().all(|distance| *distance < 1e-10), "{:?} in f64: {f64s:?}", model.name);
        let f32s = threads(RANKS, |comm| distance_to_union::<f32>(&model, comm, &[]));
        assert!(f32s.iter().all(|distance| *distance < 1e-5), "{:?} in f32: {f32s:?}", model.name);
    }
}

#[test]
fn with_class_weights_the_combined_gradient_is_that_of_the_union_of_all_batches() {
    let class_weights = [1.0, 0.0, 7.5, 0.3, 1.0, 2.0, 0.0, 40.0, 1.0, 0.01];
    for model in [mlp(), cnn()] {
        let f64s = threads(RANKS, |comm| distance_to_union::<f64>(&model, comm, &class_weights));
        assert!(f64s.iter().all(|distance| *distance < 1e-10), "{:?} in f64: {f64s:?}", model.name);
        let f32s = threads(RANKS, |comm| distance_to_union::<f32>(&model, comm, &class_weights));
        assert!(f32s.iter().all(|distance| *distance < 1e-5), "{:?} in f32: {f32s:?}", model.name);
    }
}

#[test]
fn the_combined_gradient_over_gloo_is_that_of_the_union_of_all_batches() {
    let test = "the_combined_gradient_over_gloo_is_that_of_the_union_of_all_batches";
    let distances = processes(test, RANKS, |comm| distance_to_union::<f64>(&cnn(), comm, &[]).to_bits());
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
