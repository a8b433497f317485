//! The engine over NCCL on mock libraries of NCCL and CUDA: host memory stands where a GPU has its own.

#[path = "../../../crates/nccl-rs/tests/common/mod.rs"]
mod mock;

use std::time::Duration;

use mock::mock;
use scadles_api::worker::ModelName;
use scadles_core::compress::gate::CompressionDecision;
use scadles_trainer::engine::{EngineError, NcclEngine, UniqueId};
use scadles_trainer::exchange::GradientExchange;
use scadles_trainer::gpu::Gpu;
use scadles_trainer::learner::{Learner, set_up_torch};
use tch::{Device, Kind, Tensor};

use super::{SHORT, Trial};
use crate::common::{Rank, TIMEOUT, model, rate, uneven};

/// GPUs that the mock has.
const GPUS: usize = 4;

pub fn gpu(rank: usize) -> Gpu {
    Gpu::new(mock().cuda.clone(), mock().nccl.clone(), rank % GPUS)
}

pub fn connect(id: &UniqueId, rank: usize, world_size: usize, timeout: Duration) -> NcclEngine {
    NcclEngine::connect(&gpu(rank), id, rank, world_size, timeout).unwrap()
}

/// Tensors on the CPU are on the mock's GPU.
pub fn a_sum_on_the_device_is_that_over_the_ranks_and_nothing_goes_through_the_host(at: &Trial) {
    at.ranks(3, TIMEOUT, |comm| {
        for kind in [Kind::Float, Kind::Double] {
            let mut values = Tensor::arange(1000, (kind, Device::Cpu)) + comm.rank() as f64;
            let sent_before = comm.bytes_sent();
            mock().calls();
            comm.all_reduce_on_device(&mut values).unwrap();
            let bytes = 1000 * kind.elt_size_in_bytes() as u64;
            assert_eq!(comm.bytes_sent() - sent_before, 2 * bytes * 2 / 3);
            // What is copied is the word before the data.
            let copied =
                |call: &String| call.starts_with("cudaMemcpyAsync") && call.contains(&format!("={bytes} "));
            assert!(!mock().calls().iter().any(copied));
            assert_eq!(values, Tensor::arange(1000, (kind, Device::Cpu)) * 3.0 + 3.0);
        }
    });
}

pub fn tensors_that_cannot_be_summed_where_they_are_are_refused_and_unlike_ones_end_the_group(at: &Trial) {
    at.ranks(2, SHORT, |comm| {
        let options = (Kind::Float, Device::Cpu);
        let refused = |outcome| matches!(outcome, Err(EngineError::Argument { .. }));
        assert!(refused(comm.all_reduce_on_device(&mut Tensor::zeros([4, 4], options).transpose(0, 1))));
        assert!(refused(comm.all_reduce_on_device(&mut Tensor::zeros([4], (Kind::Int64, Device::Cpu)))));
        let len = 4 + comm.rank() as i64;
        let unlike = comm.all_reduce_on_device(&mut Tensor::zeros([len], options));
        let Err(EngineError::Mismatch { message, .. }) = unlike else { panic!("{unlike:?}") };
        assert_eq!(message, "the number of bytes is 16 on rank 0 and 20 on rank 1");
        let after = comm.all_reduce_on_device(&mut Tensor::zeros([4], options));
        assert!(matches!(after, Err(EngineError::PeerLost { .. })), "{after:?}");
    });
}

/// Of two ranks, whose sums do not depend on the order of addition.
pub fn a_group_whose_networks_compute_on_the_device_has_the_bits_of_logical_devices(at: &Trial) {
    const STEPS: u64 = 4;
    let config = model(ModelName::Cnn, [3, 32, 32]);
    let hashes = at.ranks(2, TIMEOUT, |comm| {
        let learner = Learner::<f32>::new(&config, 1234).unwrap().on_device(Device::Cpu).unwrap();
        let mut rank = Rank::new(&config, learner);
        let mut exchange = GradientExchange::new(rank.learner.flat(), 2, None);
        for step in 0..STEPS {
            rank.exchanged_step(comm, &mut exchange, step, &uneven(step, 2), CompressionDecision::Dense);
        }
        rank.learner.parameter_hash().unwrap()
    });
    set_up_torch(1).unwrap();
    let mut logical = Rank::<f32>::built_in(&config);
    for step in 0..STEPS {
        logical.learning_rate = rate(step);
        logical.logical_step(step, &uneven(step, 2));
    }
    assert_eq!(hashes, [logical.hash(); 2]);
}
