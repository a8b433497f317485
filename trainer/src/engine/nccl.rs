//! Ranks with a GPU each, over NVIDIA's NCCL. Network and device I/O.
//!
//! What lies in host memory travels through buffers on the GPU; [`Communicator::all_reduce_on_device`] sums where the numbers
//! are. Before its data every rank tells all others which collective it is in, and how much it sends and expects: calls that do
//! not fit together are an error on all ranks at once, which NCCL itself would leave to the deadline.
//!
//! Assumptions: work of libtorch that a sum on the device depends on is on CUDA's default stream, as libtorch has it unless
//! told otherwise; the engine's stream waits for that one. Caveats: the order of NCCL's own sums is NCCL's. They are equal on
//! all ranks, bit for bit, but their bits depend on ranks, lengths and machines.

mod call;

use std::time::Duration;

use nccl_rs::cuda::{CudaBuffer, CudaError, CudaStream, CudaViewMut};
use nccl_rs::{DeviceBufferMut, ErrorCode, ReduceOp};
use tch::{Kind, Tensor};

pub use nccl_rs::UniqueId;

use super::collective::Collective;
use super::{Communicator, EngineError, SumOrder, check_counts, check_gather, sum_by_ranges, sum_bytes_sent};
use crate::gpu::Gpu;
use crate::numeric::{Real, TensorValues, ValuesMut};
use call::{Call, difference};

/// Sums and broadcasts from host memory go in pieces of this size, so that little of the GPU's memory is taken.
const PIECE_BYTES: usize = 32 << 20;
/// Buffers on the GPU grow by this much.
const GROWTH_BYTES: usize = 1 << 20;
/// From three ranks on a sum depends on the order of addition.
const ORDER_FREE_RANKS: usize = 2;

/// What NCCL or CUDA has refused or failed at.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Nccl(#[from] nccl_rs::Error),
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl Trouble {
    fn during(self, operation: &'static str) -> EngineError {
        match self {
            Self::Nccl(nccl_rs::Error::Argument { message, .. })
            | Self::Cuda(CudaError::Argument { message, .. }) => EngineError::Argument { operation, message },
            other => EngineError::PeerLost { operation, message: other.to_string() },
        }
    }
}

/// One rank of an NCCL communicator.
#[derive(Debug)]
pub struct NcclEngine {
    // Ends first: its stream and memory must outlive it.
    comm: nccl_rs::Communicator,
    stream: CudaStream,
    staging: Staging,
    gpu: Gpu,
    /// The first failure; the ranks no longer agree on what comes next after one.
    failure: Option<String>,
    bytes_sent: u64,
}

impl NcclEngine {
    /// Joins the ranks that call this with the same `id`, which rank 0 has made ([`Gpu::unique_id`]), on `gpu`. `timeout` bounds
    /// this and every collective.
    pub fn connect(
        gpu: &Gpu,
        id: &UniqueId,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        const OPERATION: &str = "connect over NCCL";
        let open = || {
            gpu.cuda().set_device(gpu.index())?;
            let stream = CudaStream::new(gpu.cuda())?;
            let staging = Staging::new(gpu)?;
            let config = nccl_rs::Config::new(timeout);
            let comm = nccl_rs::Communicator::init(gpu.nccl(), id, rank, world_size, &config)?;
            Ok(Self { comm, stream, staging, gpu: gpu.clone(), failure: None, bytes_sent: 0 })
        };
        open().map_err(|trouble| match trouble {
            // Such as two ranks on one GPU: the next attempt would be refused likewise.
            Trouble::Nccl(nccl_rs::Error::Nccl {
                code: ErrorCode::InvalidUsage | ErrorCode::InvalidArgument,
                message,
                ..
            }) => EngineError::Argument { operation: OPERATION, message },
            other => other.during(OPERATION),
        })
    }

    fn usable(&self, operation: &'static str) -> Result<(), EngineError> {
        let Some(first) = &self.failure else { return Ok(()) };
        let message = format!("the group failed before and must be made anew ({first})");
        Err(EngineError::PeerLost { operation, message })
    }

    /// One collective: the ranks make sure that they are in the same one, then `carry_out` moves the data.
    fn collective(
        &mut self,
        operation: &'static str,
        call: &Call,
        carry_out: impl FnOnce(&mut Self) -> Result<(), Trouble>,
    ) -> Result<(), EngineError> {
        self.usable(operation)?;
        let outcome = self.agree(operation, call);
        let outcome = outcome.and_then(|()| carry_out(self).map_err(|trouble| trouble.during(operation)));
        outcome.inspect_err(|error| self.failure = Some(error.to_string()))
    }

    fn agree(&mut self, operation: &'static str, call: &Call) -> Result<(), EngineError> {
        let own = call.words();
        let mut all = vec![0; own.len() * self.world_size()];
        let mut gather = || {
            // Training and sharing call from threads of their own, in turn.
            self.gpu.cuda().set_device(self.gpu.index())?;
            let (mut send, mut recv) = self.staging.views(&self.gpu, own.len(), all.len())?;
            self.stream.upload(&own, &mut send)?;
            self.comm.blocking(&self.stream).all_gather(&send, &mut recv)?;
            Ok(self.stream.download(&recv, &mut all)?)
        };
        gather().map_err(|trouble: Trouble| trouble.during(operation))?;
        match difference(&all, self.world_size()) {
            None => Ok(()),
            Some(message) => Err(EngineError::Mismatch { operation, message }),
        }
    }

    /// Replaces `values`, on the host, by their sum as NCCL adds it.
    fn native_sum<T: Real + nccl_rs::Element>(&mut self, values: &mut [T]) -> Result<(), EngineError> {
        let call = Call::common(Collective::sum(T::KIND), size_of_val(values), self.world_size());
        self.collective("all_reduce_sum", &call, |engine| {
            let Self { comm, stream, staging, gpu, .. } = engine;
            for piece in values.chunks_mut(PIECE_BYTES / size_of::<T>()) {
                let staged = &mut staging.send(gpu, piece.len())?;
                stream.upload(piece, staged)?;
                comm.blocking(stream).all_reduce(staged, ReduceOp::Sum)?;
                stream.download(staged, piece)?;
            }
            Ok(())
        })
    }

    fn sum<T: Real + nccl_rs::Element>(
        &mut self,
        values: &mut [T],
        order: SumOrder,
    ) -> Result<(), EngineError> {
        if order == SumOrder::Rank && self.world_size() > ORDER_FREE_RANKS {
            return sum_by_ranges(self, values);
        }
        self.bytes_sent += sum_bytes_sent(size_of_val(values), self.world_size());
        self.native_sum(values)
    }

    fn sum_in_place<T: Real + nccl_rs::Element>(&mut self, values: &mut Tensor) -> Result<(), EngineError> {
        const OPERATION: &str = "all_reduce_on_device";
        let mut values = TensorValues::<T>::of(values)
            .map_err(|message| EngineError::Argument { operation: OPERATION, message })?;
        let bytes = values.slice_mut().len() * size_of::<T>();
        let call = Call::common(Collective::sum(T::KIND), bytes, self.world_size());
        self.bytes_sent += sum_bytes_sent(bytes, self.world_size());
        self.collective(OPERATION, &call, |engine| {
            Ok(engine.comm.blocking(&engine.stream).all_reduce(&mut values, ReduceOp::Sum)?)
        })
    }

    fn gather(
        &mut self,
        operation: &'static str,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        let ranks = self.world_size();
        check_gather(operation, self.rank(), send, recv, recv_counts, ranks)?;
        self.bytes_sent += (send.len() * (ranks - 1)) as u64;
        let call = Call::parts(Collective::Gather, vec![send.len(); ranks], recv_counts.to_vec());
        self.collective(operation, &call, |engine| {
            let Self { comm, stream, staging, gpu, .. } = engine;
            let (mut staged, mut gathered) = staging.views(gpu, send.len(), recv.len())?;
            stream.upload(send, &mut staged)?;
            comm.blocking(stream).all_gather_v(&staged, &mut gathered, recv_counts)?;
            Ok(stream.download(&gathered, recv)?)
        })
    }
}

impl Communicator for NcclEngine {
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
        const OPERATION: &str = "all_to_all_v";
        check_counts(OPERATION, "send", send.len(), send_counts, self.world_size())?;
        check_counts(OPERATION, "recv", recv.len(), recv_counts, self.world_size())?;
        self.bytes_sent += (send.len() - send_counts[self.rank()]) as u64;
        let call = Call::parts(Collective::AllToAll, send_counts.to_vec(), recv_counts.to_vec());
        self.collective(OPERATION, &call, |engine| {
            let Self { comm, stream, staging, gpu, .. } = engine;
            let (mut staged, mut received) = staging.views(gpu, send.len(), recv.len())?;
            stream.upload(send, &mut staged)?;
            comm.blocking(stream).exchange(&staged, send_counts, &mut received, recv_counts)?;
            Ok(stream.download(&received, recv)?)
        })
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        let counts = vec![send.len(); self.world_size()];
        self.gather("all_gather_equal", send, recv, &counts)
    }

    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        self.gather("all_gather_v", send, recv, recv_counts)
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        const OPERATION: &str = "broadcast";
        let (own, ranks) = (self.rank(), self.world_size());
        if root >= ranks {
            let message = format!("root is {root}; it must be below {ranks}");
            return Err(EngineError::Argument { operation: OPERATION, message });
        }
        if root == own {
            self.bytes_sent += (bytes.len() * (ranks - 1)) as u64;
        }
        let call = Call::broadcast(root, own, bytes.len(), ranks);
        self.collective(OPERATION, &call, |engine| {
            let Self { comm, stream, staging, gpu, .. } = engine;
            for piece in bytes.chunks_mut(PIECE_BYTES) {
                let staged = &mut staging.send(gpu, piece.len())?;
                stream.upload(piece, staged)?;
                comm.blocking(stream).broadcast(staged, root)?;
                stream.download(staged, piece)?;
            }
            Ok(())
        })
    }

    fn all_reduce_sum(&mut self, values: ValuesMut<'_>, order: SumOrder) -> Result<(), EngineError> {
        match values {
            ValuesMut::F32(values) => self.sum(values, order),
            ValuesMut::F64(values) => self.sum(values, order),
        }
    }

    fn all_reduce_on_device(&mut self, values: &mut Tensor) -> Result<(), EngineError> {
        match values.kind() {
            Kind::Double => self.sum_in_place::<f64>(values),
            _ => self.sum_in_place::<f32>(values),
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

/// Memory of the GPU for what is sent and what is received, as much as the largest collective so far has needed.
#[derive(Debug)]
struct Staging {
    send: CudaBuffer,
    recv: CudaBuffer,
}

impl Staging {
    fn new(gpu: &Gpu) -> Result<Self, CudaError> {
        let empty = || CudaBuffer::zeroed(gpu.cuda(), 0);
        Ok(Self { send: empty()?, recv: empty()? })
    }

    /// Room for so many numbers.
    fn send<T: nccl_rs::Element>(&mut self, gpu: &Gpu, len: usize) -> Result<CudaViewMut<'_, T>, CudaError> {
        make_room(&mut self.send, gpu, len * size_of::<T>())?;
        self.send.view_mut(len)
    }

    /// Room for what is sent and for what is received.
    fn views<T: nccl_rs::Element>(
        &mut self,
        gpu: &Gpu,
        send_len: usize,
        recv_len: usize,
    ) -> Result<(CudaViewMut<'_, T>, CudaViewMut<'_, T>), CudaError> {
        make_room(&mut self.send, gpu, send_len * size_of::<T>())?;
        make_room(&mut self.recv, gpu, recv_len * size_of::<T>())?;
        Ok((self.send.view_mut(send_len)?, self.recv.view_mut(recv_len)?))
    }
}

fn make_room(buffer: &mut CudaBuffer, gpu: &Gpu, bytes: usize) -> Result<(), CudaError> {
    if buffer.len_bytes() < bytes {
        // The old one first: the GPU may not have room for both.
        *buffer = CudaBuffer::zeroed(gpu.cuda(), 0)?;
        *buffer = CudaBuffer::zeroed(gpu.cuda(), bytes.next_multiple_of(GROWTH_BYTES))?;
    }
    Ok(())
}
