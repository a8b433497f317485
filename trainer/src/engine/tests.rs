//! One suite for all engines, ranks as threads; ranks as processes are in `tests/ranks.rs`.

use std::time::{Duration, Instant};

use torch_ext::TcpStore;

use super::*;
use crate::numeric::{Real, bytes_of};

const LONG: Duration = Duration::from_mins(1);
const HOST: &str = "127.0.0.1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    InProcess,
    Gloo,
}

const ENGINES: [Engine; 2] = [Engine::InProcess, Engine::Gloo];

/// Runs `body` as every rank of a group; it owns its rank, so that it can leave.
fn ranks<R: Send>(
    engine: Engine,
    world_size: usize,
    timeout: Duration,
    body: impl Fn(Box<dyn Communicator>) -> R + Sync,
) -> Vec<R> {
    type Connect = Box<dyn FnOnce() -> Box<dyn Communicator> + Send>;
    let store = (engine == Engine::Gloo).then(|| TcpStore::serve(HOST, 0, world_size, LONG).unwrap());
    let connects: Vec<Connect> = match &store {
        None => InProcess::group(world_size, timeout)
            .into_iter()
            .map(|rank| Box::new(move || Box::new(rank) as Box<dyn Communicator>) as Connect)
            .collect(),
        Some(store) => (0..world_size)
            .map(|rank| {
                let port = store.port();
                Box::new(move || {
                    let store = TcpStore::connect(HOST, port, world_size, LONG).unwrap();
                    let rank = GlooEngine::connect(&store, rank, world_size, HOST, timeout).unwrap();
                    Box::new(rank) as Box<dyn Communicator>
                }) as Connect
            })
            .collect(),
    };
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> =
            connects.into_iter().map(|connect| scope.spawn(move || body(connect()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Bytes that tell who sent them to whom.
fn message(from: usize, to: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (from * 100 + to * 10 + i) as u8).collect()
}

#[test]
fn all_to_all_v_delivers_odd_and_empty_parts_in_rank_order() {
    // What rank i sends to rank j: some nothing, rank 2 receives nothing at all.
    let len = |from: usize, to: usize| if to == 2 { 0 } else { (from * 7 + to * 3) % 11 };
    for engine in ENGINES {
        ranks(engine, 4, LONG, |mut comm| {
            let own = comm.rank();
            let send: Vec<u8> = (0..4).flat_map(|to| message(own, to, len(own, to))).collect();
            let send_counts: Vec<usize> = (0..4).map(|to| len(own, to)).collect();
            let recv_counts: Vec<usize> = (0..4).map(|from| len(from, own)).collect();
            let mut recv = vec![0; recv_counts.iter().sum()];
            comm.all_to_all_v(&send, &send_counts, &mut recv, &recv_counts).unwrap();
            let expected: Vec<u8> = (0..4).flat_map(|from| message(from, own, len(from, own))).collect();
            assert_eq!(recv, expected, "{engine:?}");
            assert_eq!(comm.bytes_sent(), (send.len() - len(own, own)) as u64, "{engine:?}");
        });
    }
}

#[test]
fn all_gathers_collect_equal_and_unequal_parts_in_rank_order() {
    for engine in ENGINES {
        ranks(engine, 3, LONG, |mut comm| {
            let own = comm.rank();
            for len in [0, 1, 13] {
                let mut recv = vec![0; 3 * len];
                comm.all_gather_equal(&message(own, 0, len), &mut recv).unwrap();
                assert_eq!(
                    recv,
                    (0..3).flat_map(|from| message(from, 0, len)).collect::<Vec<_>>(),
                    "{engine:?}"
                );
            }
            let counts = [5, 0, 9];
            let mut recv = vec![0; 14];
            comm.all_gather_v(&message(own, 1, counts[own]), &mut recv, &counts).unwrap();
            let expected: Vec<u8> = (0..3).flat_map(|from| message(from, 1, counts[from])).collect();
            assert_eq!(recv, expected, "{engine:?}");
        });
    }
}

#[test]
fn broadcast_copies_any_root_to_all() {
    for engine in ENGINES {
        ranks(engine, 3, LONG, |mut comm| {
            for root in 0..3 {
                for len in [0, 1, 1001] {
                    let mut bytes = message(comm.rank(), 0, len);
                    comm.broadcast(&mut bytes, root).unwrap();
                    assert_eq!(bytes, message(root, 0, len), "{engine:?}");
                }
            }
        });
    }
}

/// Numbers of very different sizes, so that the order of addition shows.
fn numbers<T: Real>(rank: usize, len: usize) -> Vec<T> {
    let stream = scadles_core::random::RandomStream::new(rank as u64, 3);
    let number = |i: u64| (stream.unit(i) - 0.5) * f64::exp2(stream.below(i + 1_000_000, 20) as f64);
    (0..len as u64).map(|i| T::from_f64(number(i))).collect()
}

fn sum_by_loop<T: Real>(world_size: usize, len: usize) -> Vec<T> {
    let mut sum = numbers::<T>(0, len);
    for rank in 1..world_size {
        sum.iter_mut().zip(numbers::<T>(rank, len)).for_each(|(sum, term)| *sum += term);
    }
    sum
}

fn sums<T: Real>(engine: Engine, world_size: usize, len: usize, order: SumOrder) -> Vec<Vec<T>> {
    ranks(engine, world_size, LONG, |mut comm| {
        let mut values = numbers::<T>(comm.rank(), len);
        comm.all_reduce_sum(T::values_mut(&mut values), order).unwrap();
        values
    })
}

fn sums_have_the_bits_of_a_loop<T: Real>() {
    for engine in ENGINES {
        for world_size in [1, 2, 3, 5] {
            for len in [0, 1, 2, 17, 4099] {
                let expected = sum_by_loop::<T>(world_size, len);
                for sum in sums::<T>(engine, world_size, len, SumOrder::Rank) {
                    assert_eq!(
                        bytes_of(&sum),
                        bytes_of(&expected),
                        "{engine:?}, {world_size} ranks, {len} elements"
                    );
                }
                if world_size <= 2 {
                    for sum in sums::<T>(engine, world_size, len, SumOrder::Native) {
                        assert_eq!(
                            bytes_of(&sum),
                            bytes_of(&expected),
                            "native {engine:?}, {world_size} ranks"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_sum_in_rank_order_has_the_bits_of_a_loop_and_so_has_a_native_one_of_two_ranks() {
    sums_have_the_bits_of_a_loop::<f32>();
    sums_have_the_bits_of_a_loop::<f64>();
}

#[test]
fn a_native_sum_of_many_ranks_is_the_same_on_all_of_them() {
    for engine in ENGINES {
        let sums = sums::<f32>(engine, 4, 1001, SumOrder::Native);
        assert!(sums.iter().all(|sum| bytes_of(sum) == bytes_of(&sums[0])), "{engine:?}");
    }
}

#[test]
fn a_rank_that_leaves_is_an_error_for_the_others_within_the_deadline() {
    let timeout = Duration::from_secs(20);
    for engine in ENGINES {
        let outcomes = ranks(engine, 3, timeout, |mut comm| {
            let mut values = [1.0_f32; 64];
            comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank).unwrap();
            if comm.rank() == 1 {
                return None;
            }
            let start = Instant::now();
            let outcome = comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank);
            Some((outcome, start.elapsed()))
        });
        let survivors: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(survivors.len(), 2);
        for (outcome, elapsed) in survivors {
            assert!(matches!(outcome, Err(EngineError::PeerLost { .. })), "{engine:?}: {outcome:?}");
            assert!(elapsed < timeout, "{engine:?}: {elapsed:?}");
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_an_error_when_the_deadline_passes() {
    let timeout = Duration::from_secs(1);
    for engine in ENGINES {
        let all_done = std::sync::Barrier::new(2);
        let outcomes = ranks(engine, 2, timeout, |mut comm| {
            let outcome = (comm.rank() == 0).then(|| comm.all_gather_equal(&[1], &mut [0; 2]));
            all_done.wait();
            outcome
        });
        let outcome = outcomes[0].as_ref().unwrap();
        assert!(matches!(outcome, Err(EngineError::PeerLost { .. })), "{engine:?}: {outcome:?}");
    }
}

#[test]
fn arguments_that_do_not_fit_together_are_refused_before_anything_is_sent() {
    for engine in ENGINES {
        ranks(engine, 2, LONG, |mut comm| {
            let refused = |outcome| matches!(outcome, Err(EngineError::Argument { .. }));
            assert!(refused(comm.all_to_all_v(&[0; 3], &[1, 1], &mut [0; 2], &[1, 1])));
            assert!(refused(comm.all_to_all_v(&[0; 2], &[1, 1], &mut [0; 2], &[2])));
            assert!(refused(comm.all_gather_equal(&[0; 2], &mut [0; 5])));
            assert!(refused(comm.all_gather_v(&[0; 2], &mut [0; 2], &[1, 1])));
            assert!(refused(comm.broadcast(&mut [0; 2], 2)));
            let mut recv = [0; 2];
            comm.all_gather_equal(&[comm.rank() as u8], &mut recv).unwrap();
            assert_eq!(recv, [0, 1], "{engine:?} is still usable");
        });
    }
}

#[test]
fn in_process_ranks_whose_calls_do_not_match_all_get_an_error() {
    let unlike_sizes = ranks(Engine::InProcess, 3, LONG, |mut comm| {
        let mut bytes = vec![0; 4 + comm.rank()];
        comm.broadcast(&mut bytes, 0)
    });
    let unlike_calls = ranks(Engine::InProcess, 3, LONG, |mut comm| match comm.rank() {
        0 => comm.broadcast(&mut [0; 4], 0),
        _ => comm.all_reduce_sum(f32::values_mut(&mut [0.0]), SumOrder::Rank),
    });
    for outcome in unlike_sizes.into_iter().chain(unlike_calls) {
        assert!(matches!(outcome, Err(EngineError::Mismatch { .. })), "{outcome:?}");
    }
}
