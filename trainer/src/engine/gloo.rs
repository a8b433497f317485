//! Ranks as processes, over libtorch's Gloo. Network I/O.

use std::time::Duration;

use tch::TchError;
use torch_ext::{Gloo, TcpStore};

use super::{Communicator, EngineError, SumOrder, check_counts, check_gather, sum_bytes_sent};
use crate::numeric::{Scalar, ValuesMut, lend, lend_mut};

/// One rank of a Gloo process group.
#[derive(Debug)]
pub struct GlooEngine {
    group: Gloo,
    bytes_sent: u64,
}

impl GlooEngine {
    /// Meets the other ranks over `store` and connects to each of them within `timeout`, which bounds every collective
    /// too. `interface_host` is this process's own address as its peers reach it.
    pub fn connect(
        store: &TcpStore,
        rank: usize,
        world_size: usize,
        interface_host: &str,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        let group = Gloo::connect(store, rank, world_size, interface_host, timeout).map_err(from_gloo)?;
        Ok(Self { group, bytes_sent: 0 })
    }

    fn sum<T: Scalar>(&self, values: &mut [T], order: SumOrder) -> Result<(), EngineError> {
        let summed = lend_mut(values, |tensor| match order {
            SumOrder::Rank => self.group.all_reduce_in_rank_order(tensor),
            SumOrder::Native => self.group.all_reduce_sum(tensor),
        });
        flatten("all_reduce_sum", summed)
    }
}

impl Communicator for GlooEngine {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world_size(&self) -> usize {
        self.group.world_size()
    }

    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_to_all_v";
        check_counts(OPERATION, "send", send.len(), send_counts, self.world_size())?;
        check_counts(OPERATION, "recv", recv.len(), recv_counts, self.world_size())?;
        let (send_i64, recv_i64) = (signed(send_counts), signed(recv_counts));
        self.bytes_sent += (send.len() - send_counts[self.rank()]) as u64;
        let exchanged = lend(send, |send| {
            lend_mut(recv, |recv| self.group.all_to_all_v(send, &send_i64, recv, &recv_i64))
        });
        flatten(OPERATION, exchanged.and_then(|inner| inner))
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        self.bytes_sent += (send.len() * (self.world_size() - 1)) as u64;
        let gathered = lend(send, |send| lend_mut(recv, |recv| self.group.all_gather_equal(send, recv)));
        flatten("all_gather_equal", gathered.and_then(|inner| inner))
    }

    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_gather_v";
        check_gather(OPERATION, self.rank(), send, recv, recv_counts, self.world_size())?;
        self.bytes_sent += (send.len() * (self.world_size() - 1)) as u64;
        let counts = signed(recv_counts);
        let gathered = lend(send, |send| lend_mut(recv, |recv| self.group.all_gather_v(send, recv, &counts)));
        flatten(OPERATION, gathered.and_then(|inner| inner))
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        if root == self.rank() {
            self.bytes_sent += (bytes.len() * (self.world_size() - 1)) as u64;
        }
        flatten("broadcast", lend_mut(bytes, |tensor| self.group.broadcast(tensor, root)))
    }

    fn all_reduce_sum(&mut self, values: ValuesMut<'_>, order: SumOrder) -> Result<(), EngineError> {
        self.bytes_sent += sum_bytes_sent(values.len_bytes(), self.world_size());
        match values {
            ValuesMut::F32(values) => self.sum(values, order),
            ValuesMut::F64(values) => self.sum(values, order),
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

/// Both ways in which a collective over lent memory may fail, as one.
fn flatten(
    operation: &'static str,
    outcome: Result<Result<(), torch_ext::Error>, TchError>,
) -> Result<(), EngineError> {
    match outcome {
        Ok(result) => result.map_err(from_gloo),
        Err(error) => Err(refused(operation, &error)),
    }
}

fn refused(operation: &'static str, error: &TchError) -> EngineError {
    EngineError::Argument { operation, message: error.to_string() }
}

fn signed(counts: &[usize]) -> Vec<i64> {
    counts.iter().map(|&count| count as i64).collect()
}

fn from_gloo(error: torch_ext::Error) -> EngineError {
    match error {
        torch_ext::Error::Argument { operation, message } => EngineError::Argument { operation, message },
        torch_ext::Error::Rendezvous { operation, message }
        | torch_ext::Error::Collective { operation, message }
        | torch_ext::Error::Torch { operation, message } => EngineError::PeerLost { operation, message },
    }
}
