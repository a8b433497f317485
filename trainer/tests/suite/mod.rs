//! What every engine must do, whichever it is: one suite, run on each.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)] // Shared test code.
#![allow(clippy::cast_possible_wrap)]

mod nccl;
mod training;

use std::cell::Cell;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use scadles_trainer::engine::{Communicator, EngineError, InProcess, SumOrder};
use scadles_trainer::learner::set_up_torch;
use scadles_trainer::numeric::{Real, bytes_of};
use torch_ext::TcpStore;

use crate::common::TIMEOUT;
use crate::common::processes::{self, HOST};

#[allow(unused_imports)] // The tests on MPI have no use for them.
pub use nccl::{
    a_group_whose_networks_compute_on_the_device_has_the_bits_of_logical_devices,
    a_sum_on_the_device_is_that_over_the_ranks_and_nothing_goes_through_the_host,
    tensors_that_cannot_be_summed_where_they_are_are_refused_and_unlike_ones_end_the_group,
};
pub use training::*;

/// What carries the collectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    InProcess,
    Gloo,
    /// In processes that `mpiexec` starts.
    Mpi,
    /// The engine over NCCL, on libraries that carry out in host memory what a GPU would.
    NcclMock,
}

/// One test of the suite on one engine.
pub struct Trial {
    engine: Engine,
    /// The test's name, for processes that run it again.
    test: &'static str,
    /// Groups made so far: a process that runs the test again is for one of them.
    groups: Cell<usize>,
}

/// A module of one engine with a test for each claim of the suite.
#[macro_export]
macro_rules! on_engine {
    (@ $module:ident, $engine:ident: $($claim:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $claim() {
                    let test = concat!(stringify!($module), "::", stringify!($claim));
                    let engine = $crate::suite::Engine::$engine;
                    $crate::suite::$claim(&$crate::suite::Trial::new(engine, test));
                }
            )*
        }
    };
    ($module:ident, $engine:ident $(, $claim:ident)*) => {
        $crate::on_engine! { @ $module, $engine:
            all_to_all_v_delivers_odd_and_empty_parts_in_rank_order,
            all_gathers_collect_equal_and_unequal_parts_in_rank_order,
            broadcast_copies_any_root_to_all,
            a_sum_in_rank_order_has_the_bits_of_a_loop_and_so_has_a_native_one_of_two_ranks,
            a_long_sum_has_the_bits_of_a_loop,
            sixteen_ranks_have_the_bits_of_a_loop_also_with_fewer_elements_than_ranks,
            a_native_sum_of_many_ranks_is_the_same_on_all_of_them,
            arguments_that_do_not_fit_together_are_refused_before_anything_is_sent,
            sizes_that_do_not_match_are_an_error_for_all_within_the_deadline,
            lengths_of_sums_that_do_not_match_are_an_error_for_all_within_the_deadline,
            lengths_of_broadcasts_that_do_not_match_are_an_error_for_all_within_the_deadline,
            collectives_that_do_not_match_are_an_error_for_all_within_the_deadline,
            a_rank_that_dies_is_an_error_for_the_others_within_the_deadline_and_a_new_attempt_works,
            a_rank_that_does_not_come_is_an_error_when_the_deadline_passes,
            a_parameter_without_a_gradient_and_batches_from_0_to_64_keep_all_ranks_in_step,
            a_thousand_collectives_and_two_hundred_steps_do_not_make_memory_grow,
            $($claim),*
        }
    };
}

impl Trial {
    pub fn new(engine: Engine, test: &'static str) -> Self {
        Self { engine, test, groups: Cell::new(0) }
    }

    /// Runs `body` as every rank of a group, each a thread of this process, which leaves the group when it returns.
    pub fn ranks<R: Send>(
        &self,
        world_size: usize,
        timeout: Duration,
        body: impl Fn(&mut dyn Communicator) -> R + Sync,
    ) -> Vec<R> {
        type Connect = Box<dyn FnOnce() -> Box<dyn Communicator> + Send>;
        let store =
            (self.engine == Engine::Gloo).then(|| TcpStore::serve(HOST, 0, world_size, TIMEOUT).unwrap());
        let mut in_process = InProcess::group(world_size, timeout).into_iter();
        let id = nccl::gpu(0).unique_id().unwrap();
        let connect = |rank: usize| -> Connect {
            match self.engine {
                Engine::InProcess => {
                    let own = in_process.next().unwrap();
                    Box::new(move || Box::new(own))
                }
                Engine::Gloo => {
                    let port = store.as_ref().unwrap().port();
                    Box::new(move || Box::new(processes::gloo_rank(port, rank, world_size, timeout)))
                }
                Engine::NcclMock => Box::new(move || Box::new(nccl::connect(&id, rank, world_size, timeout))),
                Engine::Mpi => panic!("a process is one rank of MPI"),
            }
        };
        let connects: Vec<Connect> = (0..world_size).map(connect).collect();
        std::thread::scope(|scope| {
            let body = &body;
            let start = |connect: Connect| {
                scope.spawn(move || {
                    set_up_torch(1).unwrap();
                    body(&mut *connect())
                })
            };
            let threads: Vec<_> = connects.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Runs `body`, which checks all that is to be checked, as every rank of a group: as threads of this process where the
    /// engine can.
    pub fn each(&self, world_size: usize, timeout: Duration, body: impl Fn(&mut dyn Communicator) + Sync) {
        if self.engine != Engine::Mpi {
            self.ranks(world_size, timeout, body);
            return;
        }
        let outcomes = self.apart(world_size, timeout, |comm| {
            body(comm);
            Some(0)
        });
        if let Some(outcomes) = outcomes {
            assert_eq!(outcomes, vec![Some(0); world_size]);
        }
    }

    /// A deadline within which this engine sees that a rank is gone: MPI by the deadline alone.
    fn patience(&self) -> Duration {
        if self.engine == Engine::Mpi { Duration::from_secs(5) } else { TIMEOUT }
    }

    /// Runs `body` as every rank of a group outside of this process: in processes of their own where the engine can, in
    /// one otherwise. A rank that returns nothing dies. There is no outcome in a process that is
    /// for another group of the test.
    pub fn apart(
        &self,
        world_size: usize,
        timeout: Duration,
        body: impl Fn(&mut dyn Communicator) -> Option<u64> + Sync,
    ) -> Option<Vec<Option<u64>>> {
        let label = self.groups.replace(self.groups.get() + 1).to_string();
        match self.engine {
            Engine::Gloo => processes::on_gloo(self.test, &label, world_size, timeout, body),
            Engine::Mpi => processes::on_mpi(self.test, &label, world_size, timeout, body),
            Engine::InProcess | Engine::NcclMock => {
                processes::in_one(self.test, &label, || self.ranks(world_size, timeout, &body))
            }
        }
    }
}

/// Bytes that tell who sent them to whom.
fn message(from: usize, to: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (from * 100 + to * 10 + i) as u8).collect()
}

pub fn all_to_all_v_delivers_odd_and_empty_parts_in_rank_order(at: &Trial) {
    // What rank i sends to rank j: some nothing, rank 2 receives nothing at all.
    let len = |from: usize, to: usize| if to == 2 { 0 } else { (from * 7 + to * 3) % 11 };
    at.each(4, TIMEOUT, |comm| {
        let own = comm.rank();
        let send: Vec<u8> = (0..4).flat_map(|to| message(own, to, len(own, to))).collect();
        let send_counts: Vec<usize> = (0..4).map(|to| len(own, to)).collect();
        let recv_counts: Vec<usize> = (0..4).map(|from| len(from, own)).collect();
        let mut recv = vec![0; recv_counts.iter().sum()];
        comm.all_to_all_v(&send, &send_counts, &mut recv, &recv_counts).unwrap();
        let expected: Vec<u8> = (0..4).flat_map(|from| message(from, own, len(from, own))).collect();
        assert_eq!(recv, expected);
        assert_eq!(comm.bytes_sent(), (send.len() - len(own, own)) as u64);
    });
}

pub fn all_gathers_collect_equal_and_unequal_parts_in_rank_order(at: &Trial) {
    at.each(3, TIMEOUT, |comm| {
        let own = comm.rank();
        for len in [0, 1, 13] {
            let mut recv = vec![0; 3 * len];
            comm.all_gather_equal(&message(own, 0, len), &mut recv).unwrap();
            assert_eq!(recv, (0..3).flat_map(|from| message(from, 0, len)).collect::<Vec<_>>());
        }
        let counts = [5, 0, 9];
        let mut recv = vec![0; 14];
        comm.all_gather_v(&message(own, 1, counts[own]), &mut recv, &counts).unwrap();
        let expected: Vec<u8> = (0..3).flat_map(|from| message(from, 1, counts[from])).collect();
        assert_eq!(recv, expected);
    });
}

pub fn broadcast_copies_any_root_to_all(at: &Trial) {
    at.each(3, TIMEOUT, |comm| {
        for root in 0..3 {
            for len in [0, 1, 1001, 3_000_001] {
                let mut bytes = message(comm.rank(), 0, len);
                comm.broadcast(&mut bytes, root).unwrap();
                assert_eq!(bytes, message(root, 0, len));
            }
        }
    });
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

/// Sums of these lengths, each in turn, compared with a loop's.
fn sums_have_the_bits_of_a_loop(at: &Trial, world_size: usize, lens: &[usize]) {
    at.each(world_size, TIMEOUT, |comm| {
        for &len in lens {
            sum_has_the_bits_of_a_loop::<f32>(comm, len);
            sum_has_the_bits_of_a_loop::<f64>(comm, len);
        }
    });
}

fn sum_has_the_bits_of_a_loop<T: Real>(comm: &mut dyn Communicator, len: usize) {
    let world_size = comm.world_size();
    let expected = sum_by_loop::<T>(world_size, len);
    let native = (world_size <= 2).then_some(SumOrder::Native);
    for order in [SumOrder::Rank].into_iter().chain(native) {
        let mut values = numbers::<T>(comm.rank(), len);
        comm.all_reduce_sum(T::values_mut(&mut values), order).unwrap();
        assert_eq!(bytes_of(&values), bytes_of(&expected), "{order:?}, {world_size} ranks, {len} elements");
    }
}

pub fn a_sum_in_rank_order_has_the_bits_of_a_loop_and_so_has_a_native_one_of_two_ranks(at: &Trial) {
    for world_size in [1, 2, 3, 5] {
        sums_have_the_bits_of_a_loop(at, world_size, &[0, 1, 2, 3, 17, 4099]);
    }
}

/// Longer than what any engine sends at once.
pub fn a_long_sum_has_the_bits_of_a_loop(at: &Trial) {
    for world_size in [2, 3] {
        sums_have_the_bits_of_a_loop(at, world_size, &[1_000_003]);
    }
}

pub fn sixteen_ranks_have_the_bits_of_a_loop_also_with_fewer_elements_than_ranks(at: &Trial) {
    sums_have_the_bits_of_a_loop(at, 16, &[0, 1, 15, 16, 17, 1001]);
}

pub fn a_native_sum_of_many_ranks_is_the_same_on_all_of_them(at: &Trial) {
    at.each(4, TIMEOUT, |comm| {
        let mut values = numbers::<f32>(comm.rank(), 1001);
        comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Native).unwrap();
        let mut of_all = vec![0; 4 * 1001 * 4];
        comm.all_gather_equal(bytes_of(&values), &mut of_all).unwrap();
        assert!(of_all.chunks(1001 * 4).all(|sum| sum == bytes_of(&values)));
    });
}

pub fn arguments_that_do_not_fit_together_are_refused_before_anything_is_sent(at: &Trial) {
    at.each(2, TIMEOUT, |comm| {
        let refused = |outcome| matches!(outcome, Err(EngineError::Argument { .. }));
        assert!(refused(comm.all_to_all_v(&[0; 3], &[1, 1], &mut [0; 2], &[1, 1])));
        assert!(refused(comm.all_to_all_v(&[0; 2], &[1, 1], &mut [0; 2], &[2])));
        assert!(refused(comm.all_gather_equal(&[0; 2], &mut [0; 5])));
        assert!(refused(comm.all_gather_v(&[0; 2], &mut [0; 2], &[1, 1])));
        assert!(refused(comm.broadcast(&mut [0; 2], 2)));
        let mut recv = [0; 2];
        comm.all_gather_equal(&[comm.rank() as u8], &mut recv).unwrap();
        assert_eq!(recv, [0, 1], "still usable");
    });
}

/// "Within the deadline" on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);
/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_secs(2);

pub fn sizes_that_do_not_match_are_an_error_for_all_within_the_deadline(at: &Trial) {
    let engine = at.engine;
    let outcomes = at.apart(3, SHORT, |comm| {
        let start = Instant::now();
        // Rank 1 expects more of rank 0 than that sends.
        let send_counts = [3_usize; 3];
        let recv_counts = if comm.rank() == 1 { [5, 3, 3] } else { [3; 3] };
        let mut recv = vec![0; recv_counts.iter().sum()];
        let first = comm.all_to_all_v(&[1; 9], &send_counts, &mut recv, &recv_counts);
        // A rank that was served by all notices at its next collective.
        let outcome = first.and_then(|()| comm.all_gather_equal(&[1], &mut [0; 3]));
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        Some(u64::from(match outcome {
            Err(EngineError::Mismatch { .. }) => true,
            Err(EngineError::PeerLost { .. }) => engine != Engine::InProcess,
            _ => false,
        }))
    });
    if let Some(outcomes) = outcomes {
        assert_eq!(outcomes, [Some(1); 3]);
    }
}

/// Lengths of the ranks but rank 1, and of that one: longer, shorter, by whole pieces, nothing at all.
const UNLIKE_LENGTHS: [(usize, usize); 4] = [(3000, 3001), (3000, 0), (0, 3000), (3000, 2_000_000)];

/// Whether all ranks end `first`, which they call with lengths of their own, or their next collective, with an error.
fn lengths_do_not_match(at: &Trial, first: impl Fn(&mut dyn Communicator) -> Result<(), EngineError> + Sync) {
    let outcomes = at.apart(3, TIMEOUT, |comm| {
        let start = Instant::now();
        let outcome = first(comm).and_then(|()| comm.all_gather_equal(&[1], &mut [0; 3]));
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        Some(u64::from(outcome.is_err()))
    });
    if let Some(outcomes) = outcomes {
        assert_eq!(outcomes, [Some(1); 3]);
    }
}

pub fn lengths_of_sums_that_do_not_match_are_an_error_for_all_within_the_deadline(at: &Trial) {
    for (number, (usual, of_rank_1)) in UNLIKE_LENGTHS.into_iter().enumerate() {
        let order = if number % 2 == 0 { SumOrder::Rank } else { SumOrder::Native };
        lengths_do_not_match(at, |comm| {
            let len = if comm.rank() == 1 { of_rank_1 } else { usual };
            comm.all_reduce_sum(f32::values_mut(&mut vec![1.0; len]), order)
        });
    }
}

pub fn lengths_of_broadcasts_that_do_not_match_are_an_error_for_all_within_the_deadline(at: &Trial) {
    for (number, (usual, of_rank_1)) in UNLIKE_LENGTHS.into_iter().enumerate() {
        lengths_do_not_match(at, |comm| {
            let len = if comm.rank() == 1 { of_rank_1 } else { usual };
            comm.broadcast(&mut vec![1; len], number % 2)
        });
    }
}

pub fn collectives_that_do_not_match_are_an_error_for_all_within_the_deadline(at: &Trial) {
    let outcomes = at.apart(3, SHORT, |comm| {
        let outcome = match comm.rank() {
            0 => comm.all_to_all_v(&[1; 12], &[4; 3], &mut [0; 12], &[4; 3]),
            _ => comm.all_reduce_sum(f32::values_mut(&mut [0.0; 3000]), SumOrder::Rank),
        };
        let outcome = outcome.and_then(|()| comm.all_gather_equal(&[1], &mut [0; 3]));
        Some(u64::from(outcome.is_err()))
    });
    if let Some(outcomes) = outcomes {
        assert_eq!(outcomes, [Some(1); 3]);
    }
}

/// A sum, after which rank 1 dies; the others tell whether they saw it in time.
fn seen_in_time(comm: &mut dyn Communicator) -> Option<u64> {
    let mut values = [1.0_f32; 64];
    comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank).unwrap();
    // When rank 1 is through with this one the others have the sum.
    let start = Instant::now();
    let gathered = comm.all_gather_equal(&[1], &mut [0; 3]);
    if comm.rank() == 1 {
        gathered.unwrap();
        return None;
    }
    let outcome = gathered.and_then(|()| comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank));
    let in_time = start.elapsed() < DEADLINE;
    let again = comm.all_gather_equal(&[1], &mut [0; 3]);
    let lost = matches!(outcome, Err(EngineError::PeerLost { .. }));
    Some(u64::from(lost && in_time && again.is_err()))
}

pub fn a_rank_that_dies_is_an_error_for_the_others_within_the_deadline_and_a_new_attempt_works(at: &Trial) {
    if let Some(outcomes) = at.apart(3, at.patience(), seen_in_time) {
        assert_eq!(outcomes, [Some(1), None, Some(1)]);
    }
    let again = at.apart(3, TIMEOUT, |comm| {
        let mut values = [comm.rank() as f32; 5];
        comm.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank).unwrap();
        Some(values[4] as u64)
    });
    if let Some(sums) = again {
        assert_eq!(sums, [Some(3); 3]);
    }
}

pub fn a_group_that_lost_a_rank_is_made_anew_in_the_same_processes(at: &Trial) {
    let lost = at.ranks(3, TIMEOUT, seen_in_time);
    assert_eq!(lost, [Some(1), None, Some(1)]);
    sums_have_the_bits_of_a_loop(at, 3, &[17]);
}

pub fn a_rank_that_does_not_come_is_an_error_when_the_deadline_passes(at: &Trial) {
    if at.engine == Engine::Mpi {
        return a_process_that_comes_too_late_is_an_error(at);
    }
    let all_done = Barrier::new(2);
    let outcomes = at.ranks(2, SHORT, |comm| {
        let outcome = (comm.rank() == 0).then(|| comm.all_gather_equal(&[1], &mut [0; 2]));
        all_done.wait();
        outcome
    });
    let outcome = outcomes[0].as_ref().unwrap();
    assert!(matches!(outcome, Err(EngineError::PeerLost { .. })), "{outcome:?}");
}

fn a_process_that_comes_too_late_is_an_error(at: &Trial) {
    let outcomes = at.apart(2, SHORT, |comm| {
        if comm.rank() == 1 {
            std::thread::sleep(2 * SHORT);
            return Some(0);
        }
        let outcome = comm.all_gather_equal(&[1], &mut [0; 2]);
        Some(u64::from(matches!(outcome, Err(EngineError::PeerLost { .. }))))
    });
    if let Some(outcomes) = outcomes {
        assert_eq!(outcomes, [Some(1), Some(0)]);
    }
}
