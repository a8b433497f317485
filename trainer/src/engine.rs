//! Collectives: how ranks exchange numbers. One trait, one engine per transport; network I/O in [`GlooEngine`], [`NcclEngine`] and
//! in the one over MPI.
//!
//! What every engine must do is a suite of tests, `tests/suite`, run on each of them.
//!
//! Guarantees of every engine: a collective ends within the timeout given at the group's making, with the result or an
//! error; after an error the group is unusable and is made anew. Assumptions: all ranks call the same collectives in
//! the same order. Deadlines longer than one collective (the step's) belong to the control channel.

mod collective;
mod gloo;
mod in_process;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;

use tch::Tensor;

pub use gloo::GlooEngine;
pub use in_process::InProcess;
#[cfg(feature = "mpi")]
pub use mpi::MpiEngine;
pub use nccl::{NcclEngine, UniqueId};

use crate::numeric::{Real, ValuesMut, bytes_of, bytes_of_mut};

/// Whether this build has the engine over MPI (feature `mpi`).
pub const HAS_MPI: bool = cfg!(feature = "mpi");

/// Why a collective gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The arguments of this rank do not fit together: a mistake of the caller, nothing was sent.
    #[error("{operation}: {message}")]
    Argument {
        /// The collective.
        operation: &'static str,
        /// Argument, value and what is allowed.
        message: String,
    },
    /// The ranks' calls do not fit together: other sizes, or another collective.
    #[error("failed to {operation}: {message}")]
    Mismatch {
        /// The collective.
        operation: &'static str,
        /// Which ranks differ in what.
        message: String,
    },
    /// A peer is gone or did not come in time.
    #[error("failed to {operation}: {message}")]
    PeerLost {
        /// The collective.
        operation: &'static str,
        /// What the transport said.
        message: String,
    },
}

/// In which order a sum over ranks is added. Floating-point addition depends on it, from three ranks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SumOrder {
    /// ((rank 0 + rank 1) + rank 2) + … in each element: the bits of a plain loop, on every engine, for any cut.
    #[default]
    Rank,
    /// The transport's own. For up to two ranks these are the same bits, since a + b = b + a.
    Native,
}

/// Bytes that leave a rank when it takes part in a sum: its share of 2(n−1)/n of the values.
fn sum_bytes_sent(bytes: usize, world_size: usize) -> u64 {
    (2 * bytes * (world_size - 1) / world_size) as u64
}

/// What a rank uses to exchange numbers with the others of its attempt. Counts are in bytes.
pub trait Communicator: Send {
    /// Position in the attempt's device list.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// Sends `send_counts[j]` bytes of `send`, in order, to rank j, and fills `recv` with `recv_counts[i]` bytes from
    /// each rank i, in rank order. Counts may be zero; `recv_counts[i]` here is `send_counts[rank]` there.
    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError>;

    /// Fills `recv` with every rank's `send`, in rank order; all are of one length.
    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError>;

    /// Fills `recv` with every rank's `send`, in rank order; rank i gives `recv_counts[i]` bytes. `recv_counts` is the
    /// same on all ranks.
    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError>;

    /// Replaces `bytes` by those of rank `root`; one length everywhere.
    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError>;

    /// Replaces `values` (one length everywhere) by their sum over the ranks, with equal bits on all ranks.
    ///
    /// An engine whose transport has nothing better adds in rank order, whatever `order` says: each rank gets all terms of
    /// its own range of the elements, adds them, and gives the sum to all.
    fn all_reduce_sum(&mut self, values: ValuesMut<'_>, _order: SumOrder) -> Result<(), EngineError> {
        match values {
            ValuesMut::F32(values) => sum_by_ranges(self, values),
            ValuesMut::F64(values) => sum_by_ranges(self, values),
        }
    }

    /// Replaces `values`, a contiguous tensor of f32 or f64 on the rank's GPU and of one length everywhere, by their sum over
    /// the ranks, with equal bits on all ranks, in the transport's own order. Engines that know no GPU refuse it.
    fn all_reduce_on_device(&mut self, _values: &mut Tensor) -> Result<(), EngineError> {
        let message = "this engine sums numbers in host memory only".to_owned();
        Err(EngineError::Argument { operation: "all_reduce_on_device", message })
    }

    /// Bytes that this rank has handed to the collectives for others, since the group was made.
    fn bytes_sent(&self) -> u64;
}

fn sum_by_ranges<T: Real>(
    comm: &mut (impl Communicator + ?Sized),
    values: &mut [T],
) -> Result<(), EngineError> {
    let (ranks, len) = (comm.world_size(), values.len());
    let each = len.div_ceil(ranks);
    let range_bytes: Vec<usize> =
        (0..ranks).map(|rank| len.saturating_sub(rank * each).min(each) * size_of::<T>()).collect();
    let own_bytes = range_bytes[comm.rank()];
    let own = own_bytes / size_of::<T>();
    let mut terms = vec![T::default(); ranks * own];
    comm.all_to_all_v(bytes_of(values), &range_bytes, bytes_of_mut(&mut terms), &vec![own_bytes; ranks])?;
    let (sum, others) = terms.split_at_mut(own);
    for term in others.chunks_exact(own.max(1)) {
        sum.iter_mut().zip(term).for_each(|(sum, &term)| *sum += term);
    }
    comm.all_gather_v(bytes_of(sum), bytes_of_mut(values), &range_bytes)
}

/// Checks one rank's counts of an unequal collective.
fn check_counts(
    operation: &'static str,
    what: &str,
    bytes: usize,
    counts: &[usize],
    world_size: usize,
) -> Result<(), EngineError> {
    let refuse = |message| Err(EngineError::Argument { operation, message });
    if counts.len() != world_size {
        return refuse(format!(
            "{what}_counts has {} entries; it must have one per rank, {world_size}",
            counts.len()
        ));
    }
    let total: usize = counts.iter().sum();
    if total != bytes {
        return refuse(format!("{what}_counts sum to {total}, but {what} has {bytes} bytes"));
    }
    Ok(())
}

/// Checks the arguments of [`Communicator::all_gather_v`].
fn check_gather(
    operation: &'static str,
    rank: usize,
    send: &[u8],
    recv: &[u8],
    recv_counts: &[usize],
    world_size: usize,
) -> Result<(), EngineError> {
    check_counts(operation, "recv", recv.len(), recv_counts, world_size)?;
    if recv_counts[rank] == send.len() {
        return Ok(());
    }
    let message =
        format!("rank {rank} sends {} bytes, but recv_counts[{rank}] is {}", send.len(), recv_counts[rank]);
    Err(EngineError::Argument { operation, message })
}
