//! Shared samples on their way from rank to rank: one collective before the ranks compute. No I/O of its own.
//!
//! Who sends how much to whom follows from the plan that all have agreed on, so nothing but records travels: a record's
//! identity is in the plan, all records of a job are of one length, and the receiver checks length and label as it does
//! with records of its own stream.

use scadles_core::inject::{InjectionPlan, Receiver, SharedSamples};

use crate::{
    engine::{Communicator, EngineError},
    source::Sample,
};

/// Sends the records `own`, this rank's shared ones in the order of the plan, and returns those of other ranks that this
/// one trains, in the order of [`InjectionPlan::received_by`]. All ranks call it, with one plan.
pub fn exchange_samples(
    comm: &mut dyn Communicator,
    plan: &InjectionPlan,
    own: &[u8],
    record_bytes: usize,
) -> Result<Vec<u8>, EngineError> {
    let (rank, ranks) = (comm.rank(), comm.world_size());
    let bytes = |samples: u64| samples as usize * record_bytes;
    if plan.shared.iter().any(|part| part.receiver == Receiver::Everybody) {
        let counts: Vec<usize> = (0..ranks).map(|donor| bytes(plan.shared_out(donor))).collect();
        let mut received = vec![0; counts.iter().sum()];
        comm.all_gather_v(own, &mut received, &counts)?;
        // What this rank has sent it has in its batch.
        let start: usize = counts[..rank].iter().sum();
        received.drain(start..start + counts[rank]);
        return Ok(received);
    }
    let moved = |donor: usize, receiver: usize| {
        let fits = |part: &&SharedSamples| part.donor == donor && part.receiver == Receiver::Rank(receiver);
        bytes(plan.shared.iter().filter(fits).map(SharedSamples::samples).sum())
    };
    let send_counts: Vec<usize> = (0..ranks).map(|receiver| moved(rank, receiver)).collect();
    let recv_counts: Vec<usize> = (0..ranks).map(|donor| moved(donor, rank)).collect();
    let mut received = vec![0; recv_counts.iter().sum()];
    comm.all_to_all_v(own, &send_counts, &mut received, &recv_counts)?;
    Ok(received)
}

/// The samples that [`exchange_samples`] has brought to `rank`, each with its donor, in training order.
pub fn received_samples<'a>(
    plan: &'a InjectionPlan,
    rank: usize,
    records: &'a [u8],
    record_bytes: usize,
) -> impl Iterator<Item = (usize, Sample<'a>)> {
    let places = plan.received_by(rank).flat_map(|part| {
        part.ranges.iter().flat_map(|range| {
            let offsets = range.first_offset..range.first_offset + range.count;
            offsets.map(|offset| (part.donor, range.partition, offset))
        })
    });
    places
        .zip(records.chunks_exact(record_bytes))
        .map(|((donor, partition, offset), payload)| (donor, Sample { partition, offset, payload }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scadles_core::partition_queue::BatchRange;

    use super::*;
    use crate::engine::InProcess;

    const RECORD_BYTES: usize = 3;

    fn range(partition: u32, first_offset: u64, count: u64) -> BatchRange {
        BatchRange { partition, first_offset, count }
    }

    /// A record that tells where it is from.
    fn record(donor: usize, partition: u32, offset: u64) -> [u8; RECORD_BYTES] {
        [donor as u8, partition as u8, offset as u8]
    }

    fn records(donor: usize, plan: &InjectionPlan) -> Vec<u8> {
        let own = plan.shared.iter().filter(|part| part.donor == donor).flat_map(|part| &part.ranges);
        own.flat_map(|range| {
            let offsets = range.first_offset..range.first_offset + range.count;
            offsets.flat_map(|offset| record(donor, range.partition, offset))
        })
        .collect()
    }

    /// Donor, partition and offset of a sample.
    type Place = (usize, u32, u64);

    /// What each of three ranks gets, and the bytes that it has sent.
    fn exchanged(plan: &InjectionPlan) -> Vec<(Vec<Place>, u64)> {
        let group = InProcess::group(3, Duration::from_mins(1));
        std::thread::scope(|scope| {
            let rank = |(rank, mut comm): (usize, InProcess)| {
                scope.spawn(move || {
                    let own = records(rank, plan);
                    let got = exchange_samples(&mut comm, plan, &own, RECORD_BYTES).unwrap();
                    let samples = received_samples(plan, rank, &got, RECORD_BYTES).map(|(donor, sample)| {
                        assert_eq!(sample.payload, record(donor, sample.partition, sample.offset));
                        (donor, sample.partition, sample.offset)
                    });
                    (samples.collect(), comm.bytes_sent())
                })
            };
            let threads: Vec<_> = group.into_iter().enumerate().map(rank).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn moved_records_reach_one_rank_each_under_their_own_names() {
        let to =
            |donor, receiver, ranges| SharedSamples { donor, receiver: Receiver::Rank(receiver), ranges };
        let plan = InjectionPlan {
            shared: vec![
                to(0, 2, vec![range(0, 7, 2), range(1, 3, 1)]),
                to(1, 0, vec![range(0, 9, 1)]),
                to(1, 2, vec![range(0, 10, 1)]),
            ],
        };
        let expected =
            [(vec![(1, 0, 9)], 9), (vec![], 6), (vec![(0, 0, 7), (0, 0, 8), (0, 1, 3), (1, 0, 10)], 0)];
        assert_eq!(exchanged(&plan), expected);
    }

    #[test]
    fn copies_reach_all_others_and_count_as_often_as_they_are_sent() {
        let copied = |donor, ranges| SharedSamples { donor, receiver: Receiver::Everybody, ranges };
        let plan =
            InjectionPlan { shared: vec![copied(1, vec![range(0, 9, 2)]), copied(2, vec![range(1, 4, 1)])] };
        let expected = [
            (vec![(1, 0, 9), (1, 0, 10), (2, 1, 4)], 0),
            (vec![(2, 1, 4)], 2 * 6),
            (vec![(1, 0, 9), (1, 0, 10)], 2 * 3),
        ];
        assert_eq!(exchanged(&plan), expected);
    }
}
