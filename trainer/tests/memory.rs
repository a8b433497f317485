//! Memory over many steps; the only test of its binary, so that no other one's memory is counted.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Rank, model, processes, threads};
use scadles_api::worker::ModelName;
use scadles_trainer::engine::{Communicator, SumOrder};
use scadles_trainer::numeric::Real;

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

#[test]
fn a_thousand_collectives_and_two_hundred_steps_do_not_make_memory_grow() {
    let test = "a_thousand_collectives_and_two_hundred_steps_do_not_make_memory_grow";
    let over_gloo = processes(test, 3, grown_bytes);
    assert!(over_gloo.iter().all(|&grown| grown < LIMIT_BYTES), "over Gloo: {over_gloo:?} bytes");
    let in_process = threads(3, grown_bytes);
    assert!(in_process.iter().all(|&grown| grown < LIMIT_BYTES), "in process: {in_process:?} bytes");
}
