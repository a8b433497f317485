//! An engine over `nccl-rs` on its mock library: host memory stands where a GPU has its own.

#[path = "../../../crates/nccl-rs/tests/common/mod.rs"]
mod mock;

use std::time::Duration;

use mock::{Host, MockStream, mock};
use nccl_rs::{Blocking, Config, Error, UniqueId};
use scadles_trainer::engine::{Communicator, EngineError};

pub struct NcclOnHost {
    comm: nccl_rs::Communicator,
    stream: MockStream,
    bytes_sent: u64,
}

impl NcclOnHost {
    pub fn unique_id() -> UniqueId {
        mock().nccl.unique_id().unwrap()
    }

    pub fn connect(id: &UniqueId, rank: usize, world_size: usize, timeout: Duration) -> Self {
        let comm =
            nccl_rs::Communicator::init(&mock().nccl, id, rank, world_size, &Config::new(timeout)).unwrap();
        Self { comm, stream: mock().stream(), bytes_sent: 0 }
    }

    /// One operation; the mock's record of calls, which nobody reads here, stays short.
    fn run(
        &self,
        operation: impl FnOnce(Blocking<'_, MockStream>) -> Result<(), Error>,
    ) -> Result<(), EngineError> {
        let outcome = operation(self.comm.blocking(&self.stream));
        mock().calls();
        outcome.map_err(|error| match error {
            Error::Argument { operation, message } => EngineError::Argument { operation, message },
            other => EngineError::PeerLost { operation: "run over NCCL", message: other.to_string() },
        })
    }
}

impl Communicator for NcclOnHost {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn world_size(&self) -> usize {
        self.comm.world_size()
    }

    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        let (from, mut to) = (Host(send.to_vec()), Host(recv.to_vec()));
        self.run(|blocking| blocking.exchange(&from, send_counts, &mut to, recv_counts))?;
        recv.copy_from_slice(&to.0);
        self.bytes_sent += (send.len() - send_counts[self.rank()]) as u64;
        Ok(())
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        let (from, mut to) = (Host(send.to_vec()), Host(recv.to_vec()));
        self.run(|blocking| blocking.all_gather(&from, &mut to))?;
        recv.copy_from_slice(&to.0);
        self.bytes_sent += (send.len() * (self.world_size() - 1)) as u64;
        Ok(())
    }

    /// Everybody sends everybody the same.
    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        let ranks = self.world_size();
        self.all_to_all_v(&send.repeat(ranks), &vec![send.len(); ranks], recv, recv_counts)
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        let mut staged = Host(bytes.to_vec());
        self.run(|blocking| blocking.broadcast(&mut staged, root))?;
        bytes.copy_from_slice(&staged.0);
        if root == self.rank() {
            self.bytes_sent += (bytes.len() * (self.world_size() - 1)) as u64;
        }
        Ok(())
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}
