//! Shared samples between processes, over Gloo: also between ranks of which some neither send nor receive.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::processes;
use scadles_core::{
    inject::{InjectionPlan, Receiver, SharedSamples},
    partition_queue::BatchRange,
    random::mix,
};
use scadles_trainer::{
    engine::Communicator,
    inject::{exchange_samples, received_samples},
};

const RANKS: usize = 4;
const RECORD_BYTES: usize = 3073;

/// Byte `place` of the record at `offset` of `donor`'s stream.
fn byte(donor: usize, offset: u64, place: usize) -> u8 {
    mix((donor as u64) << 40 | offset << 16 | place as u64) as u8
}

fn range(first_offset: u64, count: u64) -> Vec<BatchRange> {
    vec![BatchRange { partition: 0, first_offset, count }]
}

/// Each in turn: one pair of ranks, several donors, copies of one donor's samples to all.
fn plans() -> [InjectionPlan; 3] {
    let part = |donor, receiver, ranges| SharedSamples { donor, receiver, ranges };
    [
        vec![part(0, Receiver::Rank(2), range(10, 1))],
        vec![
            part(1, Receiver::Rank(0), range(5, 40)),
            part(1, Receiver::Rank(3), range(45, 2)),
            part(2, Receiver::Rank(3), range(7, 9)),
        ],
        vec![part(3, Receiver::Everybody, range(100, 33))],
    ]
    .map(|shared| InjectionPlan { shared })
}

/// Exchanges by all plans; how many records came, each of them the right one.
fn received(comm: &mut dyn Communicator) -> u64 {
    let rank = comm.rank();
    let mut count = 0;
    for plan in plans() {
        let own = plan.shared.iter().filter(|part| part.donor == rank).flat_map(|part| &part.ranges);
        let offsets = own.flat_map(|range| range.first_offset..range.first_offset + range.count);
        let records: Vec<u8> = offsets
            .flat_map(|offset| (0..RECORD_BYTES).map(move |place| byte(rank, offset, place)))
            .collect();
        let got = exchange_samples(comm, &plan, &records, RECORD_BYTES).unwrap();
        for (donor, sample) in received_samples(&plan, rank, &got, RECORD_BYTES) {
            let expected = (0..RECORD_BYTES).map(|place| byte(donor, sample.offset, place));
            assert!(sample.payload.iter().copied().eq(expected), "{donor} {}", sample.offset);
            count += 1;
        }
    }
    count
}

#[test]
fn records_reach_other_processes_unchanged_and_idle_ranks_wait_for_nobody() {
    let test = "records_reach_other_processes_unchanged_and_idle_ranks_wait_for_nobody";
    assert_eq!(processes(test, RANKS, received), [40 + 33, 33, 1 + 33, 2 + 9]);
}
