//! Gradients that leave while backward still computes are the same gradients.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_wrap)]

mod common;

use std::error::Error;

use common::{Overlapped, Rank, model, processes, threads, uneven};
use scadles_api::worker::{ModelConfig, ModelName};
use scadles_trainer::engine::{Communicator, EngineError};
use scadles_trainer::exchange::{DenseExchange, Exchanged};
use scadles_trainer::learner::{Draw, Learner, Network, NormBy, ParameterSet, set_up_torch};
use tch::{TchError, Tensor};

const RANKS: usize = 4;
const STEPS: u64 = 2;
/// Outputs of the layers. With them there are three buckets: above 1 MiB, above 25 MiB, the rest.
const WIDTHS: [i64; 4] = [784, 8400, 40, 10];

/// Linear layers, and in the middle bucket a parameter that no forward pass uses.
struct Layers {
    weights: Vec<Tensor>,
}

impl Layers {
    fn learner(model: &ModelConfig) -> Learner<f32> {
        let mut set = ParameterSet::new(tch::Kind::Float, 5);
        let mut inputs = model.picture_values() as i64;
        let mut weights = Vec::new();
        for (number, outputs) in WIDTHS.into_iter().enumerate() {
            let bound = 1.0 / (inputs as f64).sqrt();
            let initial = move |draw: Draw| bound * (2.0 * draw.unit() - 1.0);
            weights.push(set.add(&format!("weight-{number}"), &[outputs, inputs], initial).unwrap());
            if number == 1 {
                let _unused = set.add("unused", &[1001], Draw::unit).unwrap();
            }
            inputs = outputs;
        }
        Learner::with_network(Box::new(Self { weights }), &set).unwrap()
    }
}

impl Network for Layers {
    fn forward(&self, pictures: &Tensor, _norm_by: NormBy) -> Result<Tensor, TchError> {
        let mut values = pictures.f_flatten(1, -1)?;
        for (number, weight) in self.weights.iter().enumerate() {
            let input = if number == 0 { values } else { values.f_relu()? };
            values = input.f_linear(weight, None::<&Tensor>)?;
        }
        Ok(values)
    }
}

/// A rank with a parameter without a gradient, three buckets and a micro-batch of 3.
fn rank() -> Rank<f32> {
    let model = model(ModelName::Mlp, [1, 28, 28]);
    let rank = Rank::new(&model, Layers::learner(&model));
    assert_eq!(rank.micro_batch, 3);
    rank
}

/// Batches of (0, 1, 7, 64), turned by one rank a step, with the exchange during backward or after it.
fn trained(comm: &mut dyn Communicator, overlaps: bool) -> u64 {
    let (own, ranks) = (comm.rank(), comm.world_size());
    let mut rank = rank();
    let exchange = DenseExchange::new(rank.learner.flat(), ranks);
    for step in 0..STEPS {
        let batches = uneven(step, ranks);
        if !overlaps {
            rank.step(comm, step, &batches);
            continue;
        }
        let Overlapped { exchanged: Exchanged { statistics, wire }, backward_ended } =
            rank.overlapped_step(comm, &exchange, step, &batches);
        assert_eq!(wire.len(), 3);
        assert!(wire.windows(2).all(|pair| pair[0].ended <= pair[1].began), "one after the other");
        assert!(statistics.seconds > 0.0 && statistics.bytes_sent > 0);
        // The bucket with the unused parameter waits for the end, and the one behind it.
        assert_eq!(backward_ended.is_none(), batches[own] == 0);
        let Some(ended) = backward_ended else { continue };
        assert!(wire[1..].iter().all(|wire| wire.began >= ended), "step {step}: {wire:?}, {ended:?}");
    }
    rank.hash()
}

fn trained_logically(devices: usize) -> u64 {
    set_up_torch(1).unwrap();
    let mut rank = rank();
    for step in 0..STEPS {
        rank.logical_step(step, &uneven(step, devices));
    }
    rank.hash()
}

#[test]
fn an_exchange_during_backward_has_the_bits_of_one_after_it_between_threads() {
    for ranks in [2, 3] {
        let expected = vec![trained_logically(ranks); ranks];
        assert_eq!(threads(ranks, |comm| trained(comm, true)), expected, "{ranks} ranks, during backward");
        assert_eq!(threads(ranks, |comm| trained(comm, false)), expected, "{ranks} ranks, after it");
    }
}

#[test]
fn an_exchange_during_backward_has_the_bits_of_one_after_it_between_processes() {
    let test = "an_exchange_during_backward_has_the_bits_of_one_after_it_between_processes";
    // Both in one process, one after the other.
    let hashes = processes(test, RANKS, |comm| {
        let during = trained(comm, true);
        assert_eq!(during, trained(comm, false), "after backward");
        during
    });
    assert_eq!(hashes, vec![trained_logically(RANKS); RANKS]);
}

#[test]
fn buckets_are_on_the_wire_while_backward_still_computes() {
    let model = model(ModelName::ResNet18, [1, 8, 8]);
    let steps = threads(2, |comm| {
        let mut rank = Rank::<f32>::built_in(&model);
        let exchange = DenseExchange::new(rank.learner.flat(), 2);
        (0..4).map(|step| rank.overlapped_step(comm, &exchange, step, &[7, 7])).collect::<Vec<_>>()
    });
    let mut ended_within = 0;
    for Overlapped { exchanged, backward_ended } in steps.iter().flatten() {
        let (first, ended) = (exchanged.wire[0], backward_ended.unwrap());
        assert!(first.began < ended, "{first:?} began after {ended:?}");
        ended_within += usize::from(first.ended < ended);
    }
    assert!(ended_within > 0, "the last layers' sum is there before backward ends");
}

#[test]
fn after_an_error_in_compute_nothing_more_is_sent_and_the_others_lose_a_peer() {
    let outcomes = threads(2, |comm| {
        let mut rank = rank();
        let exchange = DenseExchange::new(rank.learner.flat(), 2);
        let fails = comm.rank() == 1;
        let compute = |_: &mut Learner<f32>| {
            if fails { Err(Box::<dyn Error>::from("no memory")) } else { Ok(()) }
        };
        let error = exchange.combine_while(comm, &mut rank.learner, compute).unwrap_err();
        assert!(rank.learner.gradients().is_ok(), "the gradients are the learner's again");
        let lost = matches!(error.downcast_ref(), Some(EngineError::PeerLost { .. }));
        (lost, error.to_string())
    });
    assert!(outcomes[0].0, "{outcomes:?}");
    assert_eq!(outcomes[1].1, "no memory");
}
