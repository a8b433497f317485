//! Gradients that leave while backward still computes are the same gradients.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_wrap)]

mod common;

use std::error::Error;

use common::{Overlapped, Rank, compression, decision, model, processes, threads, uneven};
use scadles_api::worker::{ModelConfig, ModelName};
use scadles_core::compress::{compressor::Compressor, gate::EnergyStatistics};
use scadles_trainer::engine::{Communicator, EngineError};
use scadles_trainer::exchange::{CompressedExchange, DenseExchange, Exchanged, GradientExchange};
use scadles_trainer::learner::{Draw, Learner, Network, NormBy, ParameterSet, set_up_torch};
use tch::{TchError, Tensor};

const RANKS: usize = 4;
const STEPS: u64 = 2;
/// Each way of a compressed exchange, and one again with the residuals that the others have left.
const COMPRESSED_STEPS: u64 = 6;
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

/// Parameters, residual and, of each step, energies, as one number.
fn told(rank: &Rank<f32>, compressor: &Compressor, energies: &[EnergyStatistics]) -> u64 {
    let residual = rank.learner.hash(compressor.residual().unwrap()).unwrap();
    let energies = energies.iter().flat_map(|it| std::iter::once(it.energy).chain(it.lost));
    energies.map(f64::to_bits).chain([residual]).fold(rank.hash(), |all, one| all.rotate_left(7) ^ one)
}

/// `trained` in a job with compression, at one ratio (`Static`, `Adaptive`) or several (`Auto`).
fn trained_compressed(comm: &mut dyn Communicator, is_free: bool, overlaps: bool) -> u64 {
    let (own, ranks) = (comm.rank(), comm.world_size());
    let mut rank = rank();
    let exchange = GradientExchange::new(rank.learner.flat(), ranks, Some(compression(is_free)));
    let mut exchange = if overlaps { exchange } else { exchange.after_compute() };
    let mut energies = Vec::new();
    for step in 0..COMPRESSED_STEPS {
        let (batches, decision) = (uneven(step, ranks), decision(2 * step, is_free));
        let Overlapped { exchanged: Exchanged { statistics, wire }, backward_ended } =
            rank.exchanged_step(comm, &mut exchange, step, &batches, decision);
        assert_eq!(wire.len(), if overlaps { 3 } else { 0 });
        assert!(wire.windows(2).all(|pair| pair[0].ended <= pair[1].began), "one after the other");
        assert!(statistics.seconds > 0.0 && statistics.bytes_sent > 0);
        assert!(statistics.bytes_sent <= exchange.compressed().unwrap().dense_bytes());
        assert_eq!(backward_ended.is_none(), batches[own] == 0);
        let report = exchange.report().unwrap();
        energies.extend(report.energy);
        // Of three buckets the second holds the parameter without a gradient.
        let leads = report.leads;
        assert!(leads.is_empty() || (leads[0] > 0.0 && leads[1..] == [0.0, 0.0]), "{leads:?}");
    }
    let has_leads = !exchange.report().unwrap().leads.is_empty();
    assert_eq!(has_leads, overlaps, "backward has shown when it completes buckets");
    told(&rank, exchange.compressed().unwrap().compressor(), &energies)
}

fn trained_compressed_logically(devices: usize, is_free: bool) -> Vec<u64> {
    set_up_torch(1).unwrap();
    let mut rank = rank();
    let exchange = CompressedExchange::new(rank.learner.flat(), devices, &compression(is_free));
    let mut compressors = vec![exchange.compressor().clone(); devices];
    let mut energies = vec![Vec::new(); devices];
    for step in 0..COMPRESSED_STEPS {
        let found = rank.logical_compressed_step(&mut compressors, step, decision(2 * step, is_free));
        energies.iter_mut().zip(found.energies).for_each(|(all, one)| all.push(one));
    }
    compressors.iter().zip(&energies).map(|(compressor, of)| told(&rank, compressor, of)).collect()
}

#[test]
fn a_compressed_exchange_during_backward_has_the_bits_of_one_after_it_between_threads() {
    for (ranks, is_free) in [(2, true), (3, false)] {
        let expected = trained_compressed_logically(ranks, is_free);
        for overlaps in [true, false] {
            let found = threads(ranks, |comm| trained_compressed(comm, is_free, overlaps));
            assert_eq!(found, expected, "{ranks} ranks, during backward: {overlaps}");
        }
    }
}

#[test]
fn a_compressed_exchange_during_backward_has_the_bits_of_one_after_it_between_processes() {
    let test = "a_compressed_exchange_during_backward_has_the_bits_of_one_after_it_between_processes";
    let found = processes(test, RANKS, |comm| {
        let during = trained_compressed(comm, true, true);
        assert_eq!(during, trained_compressed(comm, true, false), "after backward");
        during
    });
    assert_eq!(found, trained_compressed_logically(RANKS, true));
}

/// Steps whose first bucket was on the wire before backward had ended, of all that had samples: a busy machine may keep the
/// thread waiting in one or the other.
fn begun_within<'a>(steps: impl IntoIterator<Item = &'a Overlapped>) -> (usize, usize) {
    let times = steps.into_iter().map(|step| (step.exchanged.wire[0].began, step.backward_ended.unwrap()));
    times.fold((0, 0), |(within, all), (began, ended)| (within + usize::from(began < ended), all + 1))
}

#[test]
fn compressed_buckets_are_on_the_wire_while_backward_still_computes() {
    let model = model(ModelName::ResNet18, [1, 8, 8]);
    for step in [0, 2, 4, 8] {
        let decision = decision(step, true);
        let steps = threads(2, |comm| {
            let mut rank = Rank::<f32>::built_in(&model);
            let mut exchange = GradientExchange::new(rank.learner.flat(), 2, Some(compression(true)));
            let mut take = |step| rank.exchanged_step(comm, &mut exchange, step, &[7, 7], decision);
            let first = take(0);
            let more = [take(1), take(2)];
            (first, more, exchange.report().unwrap())
        });
        for (first, _, report) in &steps {
            assert_eq!(report.leads.len(), first.exchanged.wire.len());
            assert!(
                report.leads.is_sorted_by(|one, next| one >= next) && report.leads[0] > 0.0,
                "{report:?}"
            );
            assert!(report.exchange_seconds > 0.0, "the last bucket goes when backward is over");
        }
        let all = steps.iter().flat_map(|(first, more, _)| std::iter::once(first).chain(more));
        let (within, all) = begun_within(all);
        assert!(2 * within > all, "{decision:?}: {within} of {all}");
    }
}

#[test]
fn buckets_are_on_the_wire_while_backward_still_computes() {
    let model = model(ModelName::ResNet18, [1, 8, 8]);
    let steps = threads(2, |comm| {
        let mut rank = Rank::<f32>::built_in(&model);
        let exchange = DenseExchange::new(rank.learner.flat(), 2);
        (0..4).map(|step| rank.overlapped_step(comm, &exchange, step, &[7, 7])).collect::<Vec<_>>()
    });
    let (within, all) = begun_within(steps.iter().flatten());
    assert!(2 * within > all, "{within} of {all}");
    let ended_within =
        steps.iter().flatten().any(|step| step.exchanged.wire[0].ended < step.backward_ended.unwrap());
    assert!(ended_within, "the last layers' sum is there before backward ends");
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

/// A rank whose process ends in its next collective but `left`.
struct Dying<'a> {
    comm: &'a mut dyn Communicator,
    left: usize,
}

impl Dying<'_> {
    fn live(&mut self) -> Result<(), EngineError> {
        let died = EngineError::PeerLost { operation: "live on", message: "this rank is dead".to_owned() };
        self.left = self.left.checked_sub(1).ok_or(died)?;
        Ok(())
    }
}

impl Communicator for Dying<'_> {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn world_size(&self) -> usize {
        self.comm.world_size()
    }

    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        self.live()?;
        self.comm.all_to_all_v(send, send_counts, recv, recv_counts)
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        self.live()?;
        self.comm.all_gather_equal(send, recv)
    }

    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        self.live()?;
        self.comm.all_gather_v(send, recv, recv_counts)
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        self.live()?;
        self.comm.broadcast(bytes, root)
    }

    fn bytes_sent(&self) -> u64 {
        self.comm.bytes_sent()
    }
}

/// A step in which all goes well, then one in which rank 1 fails in compute (`lives`: none) or after so many collectives. Whether
/// the peer was lost.
fn fails(comm: &mut dyn Communicator, step: u64, lives: Option<usize>) -> bool {
    let mut rank = rank();
    let mut exchange = CompressedExchange::new(rank.learner.flat(), 2, &compression(true));
    let mut combine = |comm: &mut dyn Communicator, rank: &mut Rank<f32>, rate: f64, goes_well: bool| {
        let compute = |learner: &mut Learner<f32>| {
            learner.gradients_mut().is_err().then_some(()).ok_or("the gradients are not lent")?;
            if goes_well { Ok(()) } else { Err(Box::<dyn Error>::from("no memory")) }
        };
        let how = (decision(step, true), rate);
        let outcome = exchange.combine_while(comm, &mut rank.learner, how, compute).map(|_| ());
        let state = (exchange.compressor().state().learning_rate, exchange.residual().is_ok());
        (outcome, state, exchange.report().energy)
    };
    let (outcome, state, energy) = combine(comm, &mut rank, 0.1, true);
    assert_eq!((outcome.is_ok(), state), (true, (0.1, true)));
    let is_dying = comm.rank() == 1;
    let mut dying = Dying { comm, left: if is_dying { lives.unwrap_or(usize::MAX) } else { usize::MAX } };
    rank.learner.gradients_mut().unwrap().fill(1.0);
    let (outcome, state, after) = combine(&mut dying, &mut rank, 0.2, !is_dying || lives.is_some());
    let error = outcome.unwrap_err();
    assert_eq!(
        state,
        (0.1, false),
        "nothing of the step is committed, and nobody takes the residual for one"
    );
    assert_eq!(after, energy, "nor is what it found");
    assert!(rank.learner.gradients().is_ok(), "the gradients are the learner's again");
    let (outcome, ..) = combine(&mut dying, &mut rank, 0.2, true);
    assert!(outcome.unwrap_err().to_string().contains("the last step has not ended"));
    matches!(error.downcast_ref(), Some(EngineError::PeerLost { .. }))
}

#[test]
fn a_compressed_step_that_fails_in_compute_or_in_a_later_bucket_commits_nothing() {
    for step in [0, 2, 4, 8] {
        assert_eq!(threads(2, |comm| fails(comm, step, None)), [true, false], "step {step}");
        // Each of the three buckets takes two collectives at least.
        for lives in [0, 3, 5] {
            assert_eq!(threads(2, |comm| fails(comm, step, Some(lives))), [true, true], "{step}, {lives}");
        }
    }
}
