//! [NCCL](https://docs.nvidia.com/deeplearning/nccl/), NVIDIA's collectives between GPUs, loaded at run time.
//!
//! A program that uses this crate builds and starts on machines without a GPU: `libnccl.so.2` is looked for when
//! [`Library::load`] is called, and a missing one is an error that says where it was looked for.
//!
//! Three rungs, each built of the one below:
//!
//! - [`sys`]: NCCL's functions and types as `nccl.h` declares them, nothing checked.
//! - [`Communicator`]: lengths, ranks, addresses and overlaps are checked before a call, errors are typed and carry
//!   NCCL's last message, and no call waits for longer than the deadline of its [`Config`]. Operations on device memory
//!   are `unsafe`, because they only *enqueue*: what the caller still has to promise is that the memory stays until the
//!   stream has passed them.
//! - [`Blocking`]: safe. Its operations return when the device has let go of the memory, with the result or an error,
//!   for buffers that implement [`DeviceBuffer`] and streams that implement [`StreamQuery`]. [`cuda`] has some.
//!
//! # Guarantees
//!
//! - Every communicator is made non-blocking. A call that NCCL goes on with in the background is polled until it is
//!   through, has failed, was aborted, or the deadline has passed.
//! - After an error of NCCL, a deadline or an abort a communicator refuses every further operation and names the first
//!   cause; it is to be dropped and made anew.
//! - A group ([`Library::group`]) always ends, also by an error or a panic inside of it.
//! - Dropping a communicator never waits for other ranks and never panics: without [`Communicator::finalize`] it aborts.
//!
//! # Assumptions
//!
//! - The current CUDA device of the thread that calls [`Communicator::init`] or [`Communicator::split`] is the rank's.
//!   This crate calls CUDA only for who uses [`cuda`].
//! - All ranks call the same collectives in the same order with the same lengths, as NCCL demands. This cannot be seen
//!   from one rank: it ends at the deadline.
//! - One NCCL of version 2.18 to 2.x. It is never unloaded, because it may have threads of its own.
//!
//! # Example
//!
//! Rank 0 makes the id and sends it to the others, by whatever means the program has.
//!
//! ```no_run
//! use std::time::Duration;
//! use nccl_rs::{Communicator, Config, DeviceSlice, DeviceSliceMut, Library, ReduceOp, Stream, UniqueId};
//!
//! # fn id_from_rank_0() -> [u8; 128] { [0; 128] }
//! # fn device_memory() -> (*mut f32, usize) { (std::ptr::null_mut(), 0) }
//! # fn cuda_stream() -> *mut std::ffi::c_void { std::ptr::null_mut() }
//! # fn main() -> Result<(), nccl_rs::Error> {
//! # let (rank, world_size) = (0, 2);
//! let nccl = Library::load()?;
//! let id = if rank == 0 { nccl.unique_id()? } else { UniqueId::from_bytes(id_from_rank_0()) };
//! let comm = Communicator::init(&nccl, &id, rank, world_size, &Config::new(Duration::from_secs(60)))?;
//!
//! // Another thread may end whatever this rank waits for.
//! let handle = comm.handle();
//! std::thread::spawn(move || { /* on a lost peer: */ handle.abort() });
//!
//! let (address, len) = device_memory();
//! let stream = Stream::from_raw(cuda_stream());
//! // SAFETY: `len` numbers of this rank's device, which nobody else uses until the stream has passed the sum.
//! unsafe {
//!     let (send, recv) = (DeviceSlice::new(address, len), DeviceSliceMut::new(address, len));
//!     comm.all_reduce(send, recv, ReduceOp::Sum, stream)?;
//! }
//! // … synchronise the stream, then:
//! comm.finalize()
//! # }
//! ```
#![allow(unsafe_code)] // This crate is the border to NCCL; each block says why it holds.

mod blocking;
mod collectives;
mod communicator;
pub mod cuda;
mod error;
mod group;
mod library;
mod memory;
mod operator;
pub mod sys;

pub use blocking::{Blocking, DeviceBuffer, DeviceBufferMut, StreamQuery};
pub use communicator::{Communicator, CommunicatorHandle, Config};
pub use error::{Error, ErrorCode};
pub use library::{LIBRARY_VARIABLE, Library, UniqueId, Version};
pub use memory::{DataType, DeviceSlice, DeviceSliceMut, Element, Stream};
pub use operator::{Operator, PreMultipliedSum, ReduceOp};
