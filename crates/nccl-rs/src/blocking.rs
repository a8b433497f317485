//! Safe operations: they return when the device has let go of the memory.

use std::time::{Duration, Instant};

use crate::communicator::Communicator;
use crate::error::Error;
use crate::group;
use crate::memory::{DeviceSlice, DeviceSliceMut, Element, Stream};
use crate::operator::Operator;

/// Looks at the stream: as close together as a kernel is short, then further apart.
const QUICKEST_LOOK: Duration = Duration::from_micros(10);
const SLOWEST_LOOK: Duration = Duration::from_millis(1);

/// Numbers in device memory.
///
/// # Safety
/// While the buffer is borrowed, [`DeviceBuffer::slice`] gives one and the same place, of initialised memory that the
/// communicator's device can read and that is only written through a mutable borrow.
pub unsafe trait DeviceBuffer {
    /// The numbers' type.
    type Element: Element;

    /// Where they are.
    fn slice(&self) -> DeviceSlice<Self::Element>;
}

/// Numbers in device memory that may be written.
///
/// # Safety
/// [`DeviceBufferMut::slice_mut`] is the place of [`DeviceBuffer::slice`], the device can write it, and nobody else reads
/// or writes it while the buffer is mutably borrowed.
pub unsafe trait DeviceBufferMut: DeviceBuffer {
    /// Where they are.
    fn slice_mut(&mut self) -> DeviceSliceMut<Self::Element>;
}

/// A stream that can be asked whether it is through, as `cudaStreamQuery` does.
///
/// # Safety
/// [`StreamQuery::stream`] is a live stream of the communicator's device. When [`StreamQuery::is_idle`] gives `Ok(true)`
/// or an error, nothing that was enqueued before touches memory any more. It does not panic.
pub unsafe trait StreamQuery {
    /// The stream.
    fn stream(&self) -> Stream;

    /// Whether everything enqueued so far is through; an error, as a text, when CUDA has failed on it.
    fn is_idle(&self) -> Result<bool, String>;
}

/// A communicator and a stream, whose operations wait for the device. Made by [`Communicator::blocking`].
///
/// An operation that is not through within the communicator's deadline, or whose communicator fails or is aborted
/// meanwhile, is an error. The communicator is then aborted, and the call returns when the device has stopped: only then
/// is the memory the caller's again.
#[derive(Debug)]
pub struct Blocking<'c, S> {
    comm: &'c Communicator,
    stream: &'c S,
}

impl Communicator {
    /// Operations on `stream` that wait for it.
    pub fn blocking<'c, S: StreamQuery>(&'c self, stream: &'c S) -> Blocking<'c, S> {
        Blocking { comm: self, stream }
    }
}

impl<S: StreamQuery> Blocking<'_, S> {
    /// Replaces `buffer` of all ranks, of one length everywhere, by its reduction over the ranks.
    pub fn all_reduce<B: DeviceBufferMut>(
        &self,
        buffer: &mut B,
        op: impl Operator<B::Element>,
    ) -> Result<(), Error> {
        let recv = buffer.slice_mut();
        // SAFETY: borrowed until the stream is through.
        self.run("all_reduce", |comm, stream| unsafe { comm.all_reduce(recv.as_slice(), recv, op, stream) })
    }

    /// Collects `send` of all ranks, of one length everywhere, in rank order into `recv`.
    pub fn all_gather<B, R>(&self, send: &B, recv: &mut R) -> Result<(), Error>
    where
        B: DeviceBuffer,
        R: DeviceBufferMut<Element = B::Element>,
    {
        let (send, recv) = (send.slice(), recv.slice_mut());
        // SAFETY: both are borrowed until the stream is through.
        self.run("all_gather", |comm, stream| unsafe { comm.all_gather(send, recv, stream) })
    }

    /// Reduces `send` of all ranks, of one length everywhere, and writes this rank's equal part of the result to `recv`.
    pub fn reduce_scatter<B, R>(
        &self,
        send: &B,
        recv: &mut R,
        op: impl Operator<B::Element>,
    ) -> Result<(), Error>
    where
        B: DeviceBuffer,
        R: DeviceBufferMut<Element = B::Element>,
    {
        let (send, recv) = (send.slice(), recv.slice_mut());
        // SAFETY: both are borrowed until the stream is through.
        self.run("reduce_scatter", |comm, stream| unsafe { comm.reduce_scatter(send, recv, op, stream) })
    }

    /// Replaces `buffer` by that of rank `root`; one length everywhere.
    pub fn broadcast<B: DeviceBufferMut>(&self, buffer: &mut B, root: usize) -> Result<(), Error> {
        let buffer = buffer.slice_mut();
        // SAFETY: borrowed until the stream is through.
        self.run("broadcast", |comm, stream| unsafe { comm.broadcast(buffer, root, stream) })
    }

    /// Sends to rank `peer`, which receives as much. For ranks that send to each other there is [`Blocking::exchange`].
    pub fn send<B: DeviceBuffer>(&self, send: &B, peer: usize) -> Result<(), Error> {
        let send = send.slice();
        // SAFETY: borrowed until the stream is through.
        self.run("send", |comm, stream| unsafe { comm.send(send, peer, stream) })
    }

    /// Receives from rank `peer`, which sends as much.
    pub fn recv<B: DeviceBufferMut>(&self, recv: &mut B, peer: usize) -> Result<(), Error> {
        let recv = recv.slice_mut();
        // SAFETY: borrowed until the stream is through.
        self.run("recv", |comm, stream| unsafe { comm.recv(recv, peer, stream) })
    }

    /// Sends `send_counts[j]` elements of `send`, in order, to rank j, and fills `recv` with `recv_counts[i]` elements
    /// from each rank i, in rank order. Counts may be zero; `recv_counts[i]` here is `send_counts[rank]` there.
    pub fn exchange<B, R>(
        &self,
        send: &B,
        send_counts: &[usize],
        recv: &mut R,
        recv_counts: &[usize],
    ) -> Result<(), Error>
    where
        B: DeviceBuffer,
        R: DeviceBufferMut<Element = B::Element>,
    {
        const OPERATION: &str = "exchange";
        let (send, recv) = (send.slice(), recv.slice_mut());
        // Everything that could be refused, before anything is enqueued.
        send.check(OPERATION, "send")?;
        recv.as_slice().check(OPERATION, "recv")?;
        let send_parts = self.parts(OPERATION, "send", send.len(), send_counts)?;
        let recv_parts = self.parts(OPERATION, "recv", recv.len(), recv_counts)?;
        let own = self.comm.rank();
        if send_counts[own] != recv_counts[own] {
            let (sent, expected) = (send_counts[own], recv_counts[own]);
            let message = format!("rank {own} sends itself {sent} elements and expects {expected}");
            return Err(Error::argument(OPERATION, message));
        }
        let sends = send_parts.into_iter().map(|part| send.part(part));
        self.messages(OPERATION, sends, recv_parts.into_iter().map(|part| recv.part(part)))
    }

    /// Collects `send` of all ranks in rank order into `recv`; rank i gives `recv_counts[i]` elements, which may be none.
    /// `recv_counts` is the same on all ranks.
    pub fn all_gather_v<B, R>(&self, send: &B, recv: &mut R, recv_counts: &[usize]) -> Result<(), Error>
    where
        B: DeviceBuffer,
        R: DeviceBufferMut<Element = B::Element>,
    {
        const OPERATION: &str = "all_gather_v";
        let (send, recv) = (send.slice(), recv.slice_mut());
        send.check(OPERATION, "send")?;
        recv.as_slice().check(OPERATION, "recv")?;
        let parts = self.parts(OPERATION, "recv", recv.len(), recv_counts)?;
        let own = self.comm.rank();
        if recv_counts[own] != send.len() {
            let message =
                format!("rank {own} sends {} elements and expects {}", send.len(), recv_counts[own]);
            return Err(Error::argument(OPERATION, message));
        }
        self.messages(OPERATION, vec![Some(send); parts.len()], parts.into_iter().map(|part| recv.part(part)))
    }

    /// Sends and receives one part of each rank, those that are there, as one group.
    fn messages<T: Element>(
        &self,
        operation: &'static str,
        sends: impl IntoIterator<Item = Option<DeviceSlice<T>>>,
        recvs: impl IntoIterator<Item = Option<DeviceSliceMut<T>>>,
    ) -> Result<(), Error> {
        let (sends, recvs) = (sends.into_iter().enumerate(), recvs.into_iter().enumerate());
        self.run(operation, |comm, stream| {
            comm.library().group(|| {
                for (peer, part) in sends {
                    // SAFETY: a part of a buffer that is borrowed until the stream is through.
                    part.map_or(Ok(()), |part| unsafe { comm.send(part, peer, stream) })?;
                }
                for (peer, part) in recvs {
                    // SAFETY: likewise; the parts do not overlap.
                    part.map_or(Ok(()), |part| unsafe { comm.recv(part, peer, stream) })?;
                }
                Ok(())
            })
        })
    }

    /// Where each rank's part of a buffer lies.
    fn parts(
        &self,
        operation: &'static str,
        name: &str,
        len: usize,
        counts: &[usize],
    ) -> Result<Vec<std::ops::Range<usize>>, Error> {
        let ranks = self.comm.world_size();
        let total = counts.iter().try_fold(0_usize, |sum, &count| sum.checked_add(count));
        if counts.len() != ranks || total != Some(len) {
            return Err(Error::argument(
                operation,
                format!(
                    "{name}_counts is {counts:?}; it must have {ranks} numbers that add up to {len}, the elements of {name}"
                ),
            ));
        }
        let starts = counts.iter().scan(0, |end, &count| {
            let start = *end;
            *end += count;
            Some(start..*end)
        });
        Ok(starts.collect())
    }

    /// Enqueues and waits; on every other outcome than success and a refusal, after which nothing is enqueued, the
    /// communicator is ended and the device has stopped before this returns.
    fn run(
        &self,
        operation: &'static str,
        enqueue: impl FnOnce(&Communicator, Stream) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Inside of a group nothing starts before its end, and there would be nothing to wait for.
        group::refuse(operation)?;
        let error = match enqueue(self.comm, self.stream.stream()) {
            Err(refused @ Error::Argument { .. }) => return Err(refused),
            Err(error) => error,
            Ok(()) => match self.through(operation) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
        };
        self.comm.shared().note(&error.to_string());
        // The first error is the one to tell.
        let _ = self.comm.shared().abort();
        self.come_to_rest();
        Err(error)
    }

    /// Waits for the stream, as long as the communicator is well and the deadline has not passed.
    fn through(&self, operation: &'static str) -> Result<(), Error> {
        let timeout = self.comm.timeout();
        let deadline = Instant::now() + timeout;
        let mut pause = QUICKEST_LOOK;
        loop {
            match self.stream.is_idle() {
                // An abort, too, brings the stream to rest.
                Ok(true) => return self.comm.shared().look(operation).map(|_| ()),
                Ok(false) => {}
                Err(message) => return Err(Error::Stream { operation, message }),
            }
            self.comm.shared().look(operation)?;
            if Instant::now() >= deadline {
                return Err(Error::TimedOut { operation, timeout });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }

    /// Waits until nothing touches memory any more, however long an aborted device takes.
    fn come_to_rest(&self) {
        while matches!(self.stream.is_idle(), Ok(false)) {
            std::thread::sleep(SLOWEST_LOOK);
        }
    }
}
