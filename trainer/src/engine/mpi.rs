//! Ranks as processes that one `mpiexec` has started, over the system's MPI (Open MPI, MPICH). Network I/O.
//!
//! A collective is messages between pairs of ranks. Before its data every rank tells every other which collective it is in and
//! how much it sends, so that calls that do not fit together are an error on all ranks, and nothing is received that is not
//! expected. All of it is polled until the collective's deadline.
//!
//! Assumptions: MPI moves messages within calls only, and gives `MPI_THREAD_SERIALIZED`, since training and sharing call from
//! threads of their own, in turn. Caveats: MPI cannot be left after an error; what was under way keeps its memory, and the
//! process has to end. A rank that is lost without a closed connection is seen by the deadline; the control channel is quicker.

mod exchange;
mod raw;

use std::time::{Duration, Instant};

use exchange::{Call, Exchange, PIECE_BYTES, Parts, SumOfTwo, Term, Traffic};
use raw::{Trouble, World, library};

use super::collective::Collective;
use super::{Communicator, EngineError, SumOrder, check_counts, check_gather};
use crate::numeric::{ValuesMut, bytes_of, bytes_of_mut};

/// One rank of the world that `mpiexec` has made.
#[derive(Debug)]
pub struct MpiEngine {
    world: World,
    timeout: Duration,
    /// The first failure; the ranks no longer agree on what comes next after one.
    failure: Option<String>,
    spare: Vec<Vec<u8>>,
    bytes_sent: u64,
}

impl Trouble {
    fn during(self, operation: &'static str) -> EngineError {
        match self {
            Self::Unusable(message) => EngineError::Argument { operation, message },
            Self::Lost(message) => EngineError::PeerLost { operation, message },
        }
    }
}

impl MpiEngine {
    /// Opens MPI, which waits for all ranks of the world, `within` this time; `timeout` bounds every collective. This process
    /// must be rank `rank` of `world_size`, as `mpiexec` started it.
    ///
    /// A process has one world in its life: after an error, new processes make a new one.
    pub fn connect(
        rank: usize,
        world_size: usize,
        within: Duration,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        const OPERATION: &str = "open MPI";
        let world = World::open(within).map_err(|trouble| trouble.during(OPERATION))?;
        if (world.rank(), world.size()) != (rank, world_size) {
            let message = format!(
                "this process is rank {} of {} in the world of {}; it must be rank {rank} of {world_size}: start all \
                 ranks by one mpiexec of that MPI, in the order of the ranks",
                world.rank(),
                world.size(),
                library()
            );
            return Err(EngineError::Argument { operation: OPERATION, message });
        }
        Ok(Self { world, timeout, failure: None, spare: Vec::new(), bytes_sent: 0 })
    }

    /// The orderly end: waits until all ranks have come to it, for the group's timeout at most. A rank that just leaves may
    /// take messages with it that others still wait for.
    pub fn finalize(self) -> Result<(), EngineError> {
        const OPERATION: &str = "close MPI";
        self.usable(OPERATION)?;
        self.world.close(self.timeout).map_err(|trouble| trouble.during(OPERATION))
    }

    fn usable(&self, operation: &'static str) -> Result<(), EngineError> {
        let Some(first) = &self.failure else { return Ok(()) };
        let message = format!("the group failed before and must be made anew ({first})");
        Err(EngineError::PeerLost { operation, message })
    }

    fn call(&self, operation: &'static str, kind: Collective, common: [usize; 2]) -> Call {
        Call { operation, kind, common, deadline: Instant::now() + self.timeout }
    }

    fn exchange(&mut self, call: Call, traffic: impl Traffic) -> Result<(), EngineError> {
        self.usable(call.operation)?;
        let others = (0..self.world.size()).filter(|peer| *peer != self.world.rank());
        self.bytes_sent += others.map(|peer| traffic.send_len(peer) as u64).sum::<u64>();
        let exchange = Exchange { world: &self.world, call, traffic, spare: &mut self.spare };
        exchange.run().inspect_err(|error| self.failure = Some(error.to_string()))
    }

    /// Collects every rank's `send` in `recv`.
    fn gather(
        &mut self,
        call: Call,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        let own = self.world.rank();
        let mut receives = split_mut(recv, recv_counts);
        std::mem::take(&mut receives[own]).copy_from_slice(send);
        self.exchange(call, Parts { sends: vec![send; recv_counts.len()], receives })
    }

    fn sum<T: Term>(&mut self, kind: Collective, values: &mut [T]) -> Result<(), EngineError> {
        let call = self.call("all_reduce_sum", kind, [size_of_val(values), 0]);
        if self.world.size() <= 2 || values.is_empty() {
            return self.exchange(call, SumOfTwo { values });
        }
        let mut terms = Vec::new();
        for piece in values.chunks_mut(PIECE_BYTES / size_of::<T>() * self.world.size()) {
            self.sum_by_ranges(call, piece, &mut terms)?;
        }
        Ok(())
    }

    /// Each rank gets all terms of its own range of the elements, adds them in rank order, and gives the sum to all.
    fn sum_by_ranges<T: Term>(
        &mut self,
        call: Call,
        values: &mut [T],
        terms: &mut Vec<u8>,
    ) -> Result<(), EngineError> {
        let (own, ranks, len) = (self.world.rank(), self.world.size(), values.len());
        let each = len.div_ceil(ranks);
        let range = |rank: usize| (rank * each).min(len)..((rank + 1) * each).min(len);
        let range_bytes: Vec<usize> = (0..ranks).map(|rank| range(rank).len() * size_of::<T>()).collect();
        terms.resize(range_bytes[own] * ranks, 0);
        let mut sends = split(bytes_of(values), &range_bytes);
        let mut receives = split_mut(terms, &vec![range_bytes[own]; ranks]);
        std::mem::take(&mut receives[own]).copy_from_slice(std::mem::take(&mut sends[own]));
        self.exchange(call, Parts { sends, receives })?;
        let sum = &mut values[range(own)];
        let (first, others) = terms.split_at(range_bytes[own]);
        bytes_of_mut(sum).copy_from_slice(first);
        others.chunks_exact(range_bytes[own].max(1)).for_each(|term| T::add_bytes(sum, term));
        let sum = sum.to_vec();
        self.gather(call, bytes_of(&sum), bytes_of_mut(values), &range_bytes)
    }
}

impl Communicator for MpiEngine {
    fn rank(&self) -> usize {
        self.world.rank()
    }

    fn world_size(&self) -> usize {
        self.world.size()
    }

    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_to_all_v";
        let own = self.world.rank();
        check_counts(OPERATION, "send", send.len(), send_counts, self.world_size())?;
        check_counts(OPERATION, "recv", recv.len(), recv_counts, self.world_size())?;
        if send_counts[own] != recv_counts[own] {
            let (sent, expected) = (send_counts[own], recv_counts[own]);
            let message = format!("rank {own} sends itself {sent} bytes and expects {expected} from itself");
            return Err(EngineError::Argument { operation: OPERATION, message });
        }
        let (mut sends, mut receives) = (split(send, send_counts), split_mut(recv, recv_counts));
        std::mem::take(&mut receives[own]).copy_from_slice(std::mem::take(&mut sends[own]));
        let call = self.call(OPERATION, Collective::AllToAll, [0, 0]);
        self.exchange(call, Parts { sends, receives })
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        const OPERATION: &str = "all_gather_equal";
        let counts = vec![send.len(); self.world_size()];
        check_gather(OPERATION, self.rank(), send, recv, &counts, self.world_size())?;
        let call = self.call(OPERATION, Collective::Gather, [recv.len(), 0]);
        self.gather(call, send, recv, &counts)
    }

    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_gather_v";
        check_gather(OPERATION, self.rank(), send, recv, recv_counts, self.world_size())?;
        let call = self.call(OPERATION, Collective::Gather, [recv.len(), 0]);
        self.gather(call, send, recv, recv_counts)
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        const OPERATION: &str = "broadcast";
        let (own, ranks) = (self.rank(), self.world_size());
        if root >= ranks {
            let message = format!("root is {root}; it must be below {ranks}");
            return Err(EngineError::Argument { operation: OPERATION, message });
        }
        let call = self.call(OPERATION, Collective::Broadcast, [bytes.len(), root]);
        let mut receives: Vec<&mut [u8]> = (0..ranks).map(|_| &mut [][..]).collect();
        let sends: Vec<&[u8]> = if own == root {
            vec![bytes; ranks]
        } else {
            receives[root] = bytes;
            vec![&[]; ranks]
        };
        self.exchange(call, Parts { sends, receives })
    }

    /// Rank order is this engine's own order too.
    fn all_reduce_sum(&mut self, values: ValuesMut<'_>, _order: SumOrder) -> Result<(), EngineError> {
        match values {
            ValuesMut::F32(values) => self.sum(Collective::SumF32, values),
            ValuesMut::F64(values) => self.sum(Collective::SumF64, values),
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

fn split<'a>(mut bytes: &'a [u8], counts: &[usize]) -> Vec<&'a [u8]> {
    let mut next = |count: &usize| bytes.split_off(..*count).unwrap_or_default();
    counts.iter().map(&mut next).collect()
}

fn split_mut<'a>(mut bytes: &'a mut [u8], counts: &[usize]) -> Vec<&'a mut [u8]> {
    let mut next = |count: &usize| bytes.split_off_mut(..*count).unwrap_or_default();
    counts.iter().map(&mut next).collect()
}
