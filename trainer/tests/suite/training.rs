//! Training over an engine: the bits of logical devices, and memory over many steps.

use scadles_api::worker::{ModelConfig, ModelName};
use scadles_trainer::engine::{Communicator, SumOrder};
use scadles_trainer::learner::{Draw, Learner, Network, NormBy, ParameterSet, set_up_torch};
use scadles_trainer::numeric::Real;
use tch::{TchError, Tensor};

use super::Trial;
use crate::common::{Rank, TIMEOUT, model, uneven};

const RANKS: usize = 4;
const STEPS: u64 = 4;

/// One linear layer, and between its two parameters one that no forward pass uses.
struct WithUnusedParameter {
    weight: Tensor,
    bias: Tensor,
}

impl WithUnusedParameter {
    fn learner<T: Real>(model: &ModelConfig) -> Learner<T> {
        let mut set = ParameterSet::new(T::KIND, 5);
        let inputs = model.picture_values() as i64;
        let weight = set.add("weight", &[10, inputs], |draw| draw.unit() * 0.01).unwrap();
        let _unused = set.add("unused", &[1001], Draw::unit).unwrap();
        let bias = set.add("bias", &[10], |_| 0.0).unwrap();
        Learner::with_network(Box::new(Self { weight, bias }), &set).unwrap()
    }
}

impl Network for WithUnusedParameter {
    fn forward(&self, pictures: &Tensor, _norm_by: NormBy) -> Result<Tensor, TchError> {
        pictures.f_flatten(1, -1)?.f_linear(&self.weight, Some(&self.bias))
    }
}

/// A rank with a parameter without a gradient and a micro-batch of 3.
fn rank() -> Rank<f32> {
    let model = model(ModelName::Mlp, [1, 28, 28]);
    let rank = Rank::new(&model, WithUnusedParameter::learner(&model));
    assert_eq!(rank.micro_batch, 3);
    rank
}

/// Batches of (0, 1, 7, 64), turned by one rank a step.
pub fn a_parameter_without_a_gradient_and_batches_from_0_to_64_keep_all_ranks_in_step(at: &Trial) {
    let trained = |comm: &mut dyn Communicator| {
        let mut rank = rank();
        for step in 0..STEPS {
            rank.step(comm, step, &uneven(step, RANKS));
        }
        Some(rank.hash())
    };
    let Some(hashes) = at.apart(RANKS, TIMEOUT, trained) else { return };
    set_up_torch(1).unwrap();
    let mut logical = rank();
    for step in 0..STEPS {
        logical.logical_step(step, &uneven(step, RANKS));
    }
    assert_eq!(hashes, [Some(logical.hash()); RANKS]);
}

const LIMIT_BYTES: u64 = 24 << 20;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Growth over a thousand collectives and 200 steps, after a first round of both.
fn grown_bytes(comm: &mut dyn Communicator) -> u64 {
    let mut rank = Rank::<f32>::built_in(&model(ModelName::Cnn, [3, 32, 32]));
    let mut values = vec![0.0_f32; 100_000];
    let mut round = |collectives: u64, steps: u64| {
        for _ in 0..collectives {
            comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank).unwrap();
        }
        for step in 0..steps {
            rank.step(comm, step, &[6, 5, 0]);
        }
    };
    round(100, 20);
    let before = resident_bytes();
    round(1000, 200);
    resident_bytes().saturating_sub(before)
}

/// In processes of their own, so that no other test's memory is counted.
pub fn a_thousand_collectives_and_two_hundred_steps_do_not_make_memory_grow(at: &Trial) {
    if let Some(grown) = at.apart(3, TIMEOUT, |comm| Some(grown_bytes(comm))) {
        assert!(grown.iter().all(|grown| grown.is_some_and(|bytes| bytes < LIMIT_BYTES)), "{grown:?} bytes");
    }
}
