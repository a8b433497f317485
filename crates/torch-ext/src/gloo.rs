//! c10d's TCP store and Gloo process group: how processes on CPUs meet and add up. Network I/O; no decisions.
//!
//! Guarantees: no call waits for longer than the group's timeout without progress; a peer that closed its sockets
//! (its process died) is an error at once. Assumptions: all ranks call the same collectives in the same order with
//! matching sizes. Caveats: Gloo has no abort, so after an error the group can only be dropped and made anew.

use std::cell::RefCell;
use std::ffi::CString;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::IntoRawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi};

/// The key-value store over which the ranks of a group find each other. One process serves it, all connect.
#[derive(Debug)]
pub struct TcpStore {
    raw: NonNull<ffi::Store>,
    port: u16,
    world_size: usize,
}

// SAFETY: the store may be used and dropped by any thread (c10d locks each operation); it is not `Sync`, since the
// count of groups beside it is not locked.
unsafe impl Send for TcpStore {}

impl TcpStore {
    /// Serves a store on `host`:`port` (0: any free port) for `world_size` ranks and connects to it. Listens on that
    /// address alone. Returns at once; the ranks meet in [`Gloo::connect`]. The server ends when this value and every
    /// group made over it are dropped. Errors: [`Error::Rendezvous`] when the address cannot be bound.
    pub fn serve(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self, Error> {
        const OPERATION: &str = "serve the store";
        let failed = |error: std::io::Error| Error::Rendezvous {
            operation: OPERATION,
            message: format!("{host}:{port}: {error}"),
        };
        // Bound here and not by c10d, which would listen on every interface of the machine.
        let listener = TcpListener::bind((host, port)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Self::open(OPERATION, (host, port), Some(listener), world_size, timeout)
    }

    /// Connects to the store that another process serves on `host`:`port`, trying again until `timeout`.
    pub fn connect(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self, Error> {
        Self::open("connect to the store", (host, port), None, world_size, timeout)
    }

    /// The port that the store is served on.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn open(
        operation: &'static str,
        (host, port): (&str, u16),
        listener: Option<TcpListener>,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let host_c = c_host(operation, host)?;
        let timeout_ms = milliseconds(operation, timeout)?;
        c_count(operation, "world_size", world_size)?;
        let listen_fd = listener.map_or(-1, IntoRawFd::into_raw_fd);
        let mut raw = ptr::null_mut();
        // SAFETY: the string lives over the call, `raw` takes the result, the descriptor is ours to give away.
        let outcome = unsafe {
            ffi::te_store_new(host_c.as_ptr(), port, listen_fd, world_size, timeout_ms, &raw mut raw)
        };
        ffi::check(outcome).map_err(|message| Error::Rendezvous {
            operation,
            message: format!("{host}:{port}: {message}"),
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Rendezvous {
            operation,
            message: "the store was not made, for no stated reason".to_owned(),
        })?;
        Ok(Self { raw, port, world_size })
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: made by `te_store_new`, deleted once; groups hold their own reference to what is inside.
        unsafe { ffi::te_store_delete(self.raw.as_ptr()) };
    }
}

/// One process group. All tensors are CPU, contiguous and one-dimensional; counts are in elements.
#[derive(Debug)]
pub struct Gloo {
    raw: NonNull<ffi::Group>,
    rank: usize,
    world_size: usize,
    /// The first failure; the ranks no longer agree on what comes next after one.
    failure: RefCell<Option<String>>,
}

// SAFETY: a process group has no thread of its own choosing: one thread at a time may call it, and it is not `Sync`.
unsafe impl Send for Gloo {}

impl Gloo {
    /// Meets the other ranks and connects to each of them, within `timeout`, which also bounds every collective.
    /// `interface_host` is this process's own address, as its peers reach it (`127.0.0.1` on one machine).
    /// Several groups may be made over one store if every rank makes them in the same order.
    pub fn connect(
        store: &TcpStore,
        rank: usize,
        world_size: usize,
        interface_host: &str,
        timeout: Duration,
    ) -> Result<Self, Error> {
        const OPERATION: &str = "connect the group";
        if world_size != store.world_size {
            return Err(Error::argument(
                OPERATION,
                format!("world_size is {world_size}, but the store was opened for {}", store.world_size),
            ));
        }
        if rank >= world_size {
            return Err(Error::argument(OPERATION, format!("rank is {rank}; it must be below {world_size}")));
        }
        // Gloo's own message for an unknown name does not contain the name.
        (interface_host, 0).to_socket_addrs().map_err(|error| Error::Rendezvous {
            operation: OPERATION,
            message: format!("interface_host {interface_host}: {error}"),
        })?;
        let host_c = c_host(OPERATION, interface_host)?;
        let timeout_ms = milliseconds(OPERATION, timeout)?;
        let (rank_c, size_c) =
            (c_count(OPERATION, "rank + 1", rank + 1)? - 1, c_count(OPERATION, "world_size", world_size)?);
        let mut raw = ptr::null_mut();
        // SAFETY: the store is alive and borrowed, the string lives over the call, `raw` takes the result.
        let outcome = unsafe {
            ffi::te_gloo_new(store.raw.as_ptr(), rank_c, size_c, host_c.as_ptr(), timeout_ms, &raw mut raw)
        };
        ffi::check(outcome).map_err(|message| Error::Rendezvous {
            operation: OPERATION,
            message: format!("rank {rank} of {world_size} on {interface_host}: {message}"),
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Rendezvous {
            operation: OPERATION,
            message: "the group was not made, for no stated reason".to_owned(),
        })?;
        Ok(Self { raw, rank, world_size, failure: RefCell::new(None) })
    }

    /// This process's position, below [`Gloo::world_size`].
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Replaces `tensor` (f32 or f64, the same length everywhere) by the sum over all ranks, in Gloo's own order of
    /// addition. All ranks get the same bits; which bits depends on the number of ranks and the length.
    pub fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), Error> {
        const OPERATION: &str = "all_reduce_sum";
        let len = vector(OPERATION, "tensor", tensor)?;
        if !matches!(tensor.kind(), Kind::Float | Kind::Double) {
            return Err(Error::argument(
                OPERATION,
                format!("tensor is {:?}; allowed: Float, Double", tensor.kind()),
            ));
        }
        if len == 0 {
            return self.usable(OPERATION);
        }
        // SAFETY: group and tensor are alive; the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_all_reduce_sum(self.raw.as_ptr(), ffi::tensor(tensor))
        })
    }

    /// Sends `send_counts[j]` elements of `send`, in order, to rank j, and receives `recv_counts[i]` from rank i into
    /// `recv`, in order. Any kind; counts may be zero; the counts must match between ranks (this is not checked
    /// across processes: a mismatch ends in an error or the timeout).
    pub fn all_to_all_v(
        &self,
        send: &Tensor,
        send_counts: &[i64],
        recv: &mut Tensor,
        recv_counts: &[i64],
    ) -> Result<(), Error> {
        const OPERATION: &str = "all_to_all_v";
        self.counts(OPERATION, "send", send, send_counts)?;
        self.counts(OPERATION, "recv", recv, recv_counts)?;
        disjoint_and_alike(OPERATION, send, recv)?;
        let own = self.rank;
        if send_counts[own] != recv_counts[own] {
            return Err(Error::argument(
                OPERATION,
                format!(
                    "rank {own} sends itself {} elements and expects {} from itself",
                    send_counts[own], recv_counts[own]
                ),
            ));
        }
        // SAFETY: group and tensors are alive, the count slices hold `world_size` numbers that sum to the tensors'
        // lengths, and the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_all_to_all_v(
                self.raw.as_ptr(),
                ffi::tensor(send),
                send_counts.as_ptr(),
                ffi::tensor(recv),
                recv_counts.as_ptr(),
                self.world_size,
            )
        })
    }

    /// Collects `send` of every rank, in rank order, into `recv` (`world_size` times as long). Any kind; the length
    /// must be the same on every rank.
    pub fn all_gather_equal(&self, send: &Tensor, recv: &mut Tensor) -> Result<(), Error> {
        const OPERATION: &str = "all_gather_equal";
        let send_len = vector(OPERATION, "send", send)?;
        let recv_len = vector(OPERATION, "recv", recv)?;
        if recv_len != send_len * self.world_size {
            return Err(Error::argument(
                OPERATION,
                format!(
                    "recv has {recv_len} elements; it must have {send_len} (send) x {} (ranks)",
                    self.world_size
                ),
            ));
        }
        disjoint_and_alike(OPERATION, send, recv)?;
        if send_len == 0 {
            return self.usable(OPERATION);
        }
        // SAFETY: group and tensors are alive; the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_all_gather(self.raw.as_ptr(), ffi::tensor(send), ffi::tensor(recv))
        })
    }

    /// Replaces `tensor` (any kind, the same length everywhere) by that of rank `root`.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), Error> {
        const OPERATION: &str = "broadcast";
        let len = vector(OPERATION, "tensor", tensor)?;
        if root >= self.world_size {
            return Err(Error::argument(
                OPERATION,
                format!("root is {root}; it must be below {}", self.world_size),
            ));
        }
        if len == 0 {
            return self.usable(OPERATION);
        }
        let root = c_count(OPERATION, "root + 1", root + 1)? - 1;
        // SAFETY: group and tensor are alive; the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_broadcast(self.raw.as_ptr(), ffi::tensor(tensor), root)
        })
    }

    /// Returns when every rank has called it.
    pub fn barrier(&self) -> Result<(), Error> {
        // SAFETY: the group is alive.
        self.collective("barrier", || unsafe { ffi::te_gloo_barrier(self.raw.as_ptr()) })
    }

    fn usable(&self, operation: &'static str) -> Result<(), Error> {
        match &*self.failure.borrow() {
            None => Ok(()),
            Some(first) => Err(Error::Collective {
                operation,
                message: format!("the group failed before and must be made anew ({first})"),
            }),
        }
    }

    fn collective(&self, operation: &'static str, call: impl FnOnce() -> ffi::Outcome) -> Result<(), Error> {
        self.usable(operation)?;
        ffi::check(call()).map_err(|message| {
            *self.failure.borrow_mut() = Some(format!("{operation}: {message}"));
            Error::Collective { operation, message }
        })
    }

    fn counts(
        &self,
        operation: &'static str,
        name: &str,
        tensor: &Tensor,
        counts: &[i64],
    ) -> Result<(), Error> {
        let len = vector(operation, name, tensor)?;
        if counts.len() != self.world_size {
            return Err(Error::argument(
                operation,
                format!(
                    "{name}_counts has {} numbers; it must have one for each of {} ranks",
                    counts.len(),
                    self.world_size
                ),
            ));
        }
        let sum = counts.iter().try_fold(
            0_i64,
            |sum, &count| {
                if count < 0 { None } else { sum.checked_add(count) }
            },
        );
        if sum.and_then(|sum| usize::try_from(sum).ok()) != Some(len) {
            return Err(Error::argument(
                operation,
                format!(
                    "{name}_counts is {counts:?}; the numbers must not be negative and add up to the {len} elements of {name}"
                ),
            ));
        }
        Ok(())
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: made by `te_gloo_new`, deleted once; no collective is under way, since each waits for its end.
        unsafe { ffi::te_gloo_delete(self.raw.as_ptr()) };
    }
}

/// The number of elements, after making sure that Gloo may read and write the tensor's bytes as one run.
fn vector(operation: &'static str, name: &str, tensor: &Tensor) -> Result<usize, Error> {
    let refuse = |what: String| Err(Error::argument(operation, format!("{name} {what}")));
    if !tensor.defined() {
        return refuse("is undefined".to_owned());
    }
    if tensor.device() != Device::Cpu {
        return refuse(format!("is on {:?}; it must be on the CPU", tensor.device()));
    }
    if tensor.is_sparse() || tensor.dim() != 1 {
        return refuse(format!("has shape {:?}; it must be dense and one-dimensional", tensor.size()));
    }
    if !tensor.is_contiguous() {
        return refuse("is not contiguous".to_owned());
    }
    Ok(tensor.numel())
}

fn disjoint_and_alike(operation: &'static str, send: &Tensor, recv: &Tensor) -> Result<(), Error> {
    if send.kind() != recv.kind() {
        return Err(Error::argument(
            operation,
            format!("send is {:?} and recv is {:?}; both must be of one kind", send.kind(), recv.kind()),
        ));
    }
    let bytes = |tensor: &Tensor| {
        let start = tensor.data_ptr() as usize;
        start..start + tensor.numel() * tensor.kind().elt_size_in_bytes()
    };
    let (send, recv) = (bytes(send), bytes(recv));
    if send.start < recv.end && recv.start < send.end {
        return Err(Error::argument(operation, "send and recv overlap in memory"));
    }
    Ok(())
}

fn c_host(operation: &'static str, host: &str) -> Result<CString, Error> {
    CString::new(host)
        .map_err(|_| Error::argument(operation, format!("host {host:?} contains a NUL character")))
}

fn c_count(operation: &'static str, name: &str, value: usize) -> Result<i32, Error> {
    i32::try_from(value)
        .ok()
        .filter(|&value| value > 0)
        .ok_or_else(|| Error::argument(operation, format!("{name} is {value}; allowed: 1 to {}", i32::MAX)))
}

fn milliseconds(operation: &'static str, timeout: Duration) -> Result<i64, Error> {
    // A day is longer than any step; c10d takes 0 for "for ever".
    let millis = timeout.as_millis();
    if millis == 0 || millis > 86_400_000 {
        return Err(Error::argument(operation, format!("the timeout is {timeout:?}; allowed: 1 ms to 24 h")));
    }
    Ok(millis as i64)
}
