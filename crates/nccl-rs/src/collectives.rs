//! Operations on device memory, checked and enqueued.
//!
//! All are `unsafe` for one reason, told at [`Communicator::all_reduce`]: they return before the device is through.

use std::ffi::c_int;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::memory::{DeviceSlice, DeviceSliceMut, Element, Stream, check_pair};
use crate::operator::Operator;
use crate::sys;

impl Communicator {
    /// Reduces `send` of all ranks, of one length everywhere, element by element into `recv` of all ranks. `recv` may be
    /// `send`.
    ///
    /// Returns when NCCL has enqueued the operation on `stream`; inside of a group that is at the group's end.
    ///
    /// # Safety
    /// Until `stream` has passed the operation, or the communicator was aborted and the stream has come to rest:
    /// - `send` is memory that the communicator's device can read, initialised when the stream comes to the operation, and
    ///   nobody writes to it;
    /// - `recv` is memory that the device can write, and nobody else reads or writes it;
    /// - `stream` is a live stream of that device.
    pub unsafe fn all_reduce<T: Element>(
        &self,
        send: DeviceSlice<T>,
        recv: DeviceSliceMut<T>,
        op: impl Operator<T>,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "all_reduce";
        same_length(OPERATION, send.len(), recv.len())?;
        check_pair(OPERATION, send, recv, send.is_at(recv.as_slice()))?;
        let op = op.raw(OPERATION, self)?;
        self.enqueue(OPERATION, send.len(), |functions, comm| {
            // SAFETY: the communicator is live; addresses, lengths and stream are the caller's promise.
            unsafe {
                (functions.all_reduce)(
                    send.address().cast(),
                    recv.address().cast(),
                    send.len(),
                    T::TYPE.raw(),
                    op,
                    comm,
                    stream.raw(),
                )
            }
        })
    }

    /// Collects `send` of all ranks, of one length everywhere, in rank order into `recv`. `send` may be this rank's part
    /// of `recv`.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`].
    pub unsafe fn all_gather<T: Element>(
        &self,
        send: DeviceSlice<T>,
        recv: DeviceSliceMut<T>,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "all_gather";
        self.one_part_of(OPERATION, ("send", send.len()), ("recv", recv.len()))?;
        check_pair(
            OPERATION,
            send,
            recv,
            self.own_part(recv.as_slice(), send.len()).is_some_and(|own| own.is_at(send)),
        )?;
        self.enqueue(OPERATION, send.len(), |functions, comm| {
            // SAFETY: the communicator is live; addresses, lengths and stream are the caller's promise.
            unsafe {
                (functions.all_gather)(
                    send.address().cast(),
                    recv.address().cast(),
                    send.len(),
                    T::TYPE.raw(),
                    comm,
                    stream.raw(),
                )
            }
        })
    }

    /// Reduces `send` of all ranks, of one length everywhere, and writes this rank's part of the result to `recv`; the
    /// parts are equal and in rank order. `recv` may be this rank's part of `send`.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`].
    pub unsafe fn reduce_scatter<T: Element>(
        &self,
        send: DeviceSlice<T>,
        recv: DeviceSliceMut<T>,
        op: impl Operator<T>,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "reduce_scatter";
        self.one_part_of(OPERATION, ("recv", recv.len()), ("send", send.len()))?;
        check_pair(
            OPERATION,
            send,
            recv,
            self.own_part(send, recv.len()).is_some_and(|own| own.is_at(recv.as_slice())),
        )?;
        let op = op.raw(OPERATION, self)?;
        self.enqueue(OPERATION, recv.len(), |functions, comm| {
            // SAFETY: the communicator is live; addresses, lengths and stream are the caller's promise.
            unsafe {
                (functions.reduce_scatter)(
                    send.address().cast(),
                    recv.address().cast(),
                    recv.len(),
                    T::TYPE.raw(),
                    op,
                    comm,
                    stream.raw(),
                )
            }
        })
    }

    /// Copies `buffer` of rank `root` to that of all ranks; one length everywhere.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`], with `buffer` for both.
    pub unsafe fn broadcast<T: Element>(
        &self,
        buffer: DeviceSliceMut<T>,
        root: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "broadcast";
        let root = self.existing(OPERATION, "root", root)?;
        buffer.as_slice().check(OPERATION, "buffer")?;
        self.enqueue(OPERATION, buffer.len(), |functions, comm| {
            // SAFETY: the communicator is live; address, length and stream are the caller's promise.
            unsafe {
                (functions.broadcast)(
                    buffer.address().cast_const().cast(),
                    buffer.address().cast(),
                    buffer.len(),
                    T::TYPE.raw(),
                    root,
                    comm,
                    stream.raw(),
                )
            }
        })
    }

    /// Sends to rank `peer`, which receives as many elements of the same kind. Ranks that send to each other need a group.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`].
    pub unsafe fn send<T: Element>(
        &self,
        send: DeviceSlice<T>,
        peer: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "send";
        let peer = self.existing(OPERATION, "peer", peer)?;
        send.check(OPERATION, "send")?;
        self.enqueue(OPERATION, send.len(), |functions, comm| {
            // SAFETY: the communicator is live; address, length and stream are the caller's promise.
            unsafe {
                (functions.send)(send.address().cast(), send.len(), T::TYPE.raw(), peer, comm, stream.raw())
            }
        })
    }

    /// Receives from rank `peer`, which sends as many elements of the same kind.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`].
    pub unsafe fn recv<T: Element>(
        &self,
        recv: DeviceSliceMut<T>,
        peer: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        const OPERATION: &str = "recv";
        let peer = self.existing(OPERATION, "peer", peer)?;
        recv.as_slice().check(OPERATION, "recv")?;
        self.enqueue(OPERATION, recv.len(), |functions, comm| {
            // SAFETY: the communicator is live; address, length and stream are the caller's promise.
            unsafe {
                (functions.recv)(recv.address().cast(), recv.len(), T::TYPE.raw(), peer, comm, stream.raw())
            }
        })
    }

    /// Has NCCL enqueue an operation whose arguments have been checked. One on nothing is none, but it is refused like any
    /// other on a communicator that has failed or ended.
    fn enqueue(
        &self,
        operation: &'static str,
        elements: usize,
        call: impl FnOnce(&sys::Functions, *mut sys::Comm) -> c_int,
    ) -> Result<(), Error> {
        if elements == 0 { self.shared().usable(operation) } else { self.shared().call(operation, call) }
    }

    /// This rank's part of a buffer of equal parts.
    fn own_part<T: Element>(&self, whole: DeviceSlice<T>, part: usize) -> Option<DeviceSlice<T>> {
        whole.part(self.rank() * part..(self.rank() + 1) * part)
    }

    /// Refuses lengths that are not one part and the whole of `world_size` parts.
    fn one_part_of(
        &self,
        operation: &'static str,
        (part_name, part): (&str, usize),
        (whole_name, whole): (&str, usize),
    ) -> Result<(), Error> {
        let ranks = self.world_size();
        if part.checked_mul(ranks) == Some(whole) {
            return Ok(());
        }
        Err(Error::argument(
            operation,
            format!("{whole_name} has {whole} elements; it must have {part} ({part_name}) x {ranks} (ranks)"),
        ))
    }

    /// A rank as C takes it.
    pub(crate) fn existing(&self, operation: &'static str, name: &str, rank: usize) -> Result<c_int, Error> {
        let ranks = self.world_size();
        c_int::try_from(rank)
            .ok()
            .filter(|_| rank < ranks)
            .ok_or_else(|| Error::argument(operation, format!("{name} is {rank}; it must be below {ranks}")))
    }
}

fn same_length(operation: &'static str, send: usize, recv: usize) -> Result<(), Error> {
    if send == recv {
        return Ok(());
    }
    Err(Error::argument(operation, format!("send has {send} elements and recv {recv}; both must be as long")))
}
