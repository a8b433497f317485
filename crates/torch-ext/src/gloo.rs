//! c10d's Gloo process group: how processes on CPUs meet and add up. Network I/O; no decisions.
//!
//! Guarantees: no call waits for longer than the group's timeout without progress; a peer that closed its sockets
//! (its process died) is an error at once; sizes that do not match are one. Assumptions: all ranks call the same
//! collectives in the same order. Caveats: Gloo has no abort, so after an error the group can only be dropped and made anew.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::net::ToSocketAddrs;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::store::{Link, TcpStore};
use crate::{Error, c_count, ffi, milliseconds};

/// One process group. All tensors are CPU, contiguous and one-dimensional; counts are in elements.
#[derive(Debug)]
pub struct Gloo {
    raw: NonNull<ffi::Group>,
    rank: usize,
    world_size: usize,
    /// The first failure; the ranks no longer agree on what comes next after one.
    failure: RefCell<Option<String>>,
    /// Read through a pointer by the group's C++ side, so it must live as long as `raw`; also keeps the server up for
    /// ranks that are still meeting when this one is done.
    _keys: Box<Keys>,
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
        let (rank_c, size_c) =
            (c_count(OPERATION, "rank + 1", rank + 1)? - 1, c_count(OPERATION, "world_size", world_size)?);
        let keys = Box::new(Keys { link: Arc::clone(&store.link), prefix: store.next_group() });
        let options = ffi::GroupOptions {
            context: (&raw const *keys).cast(),
            set: store_set,
            get: store_get,
            rank: rank_c,
            world_size: size_c,
            timeout_ms: milliseconds(OPERATION, timeout)?,
            host: host_c.as_ptr(),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: the strings and the options live over the call; the context is the `Keys` behind the box, which
        // `_keys` keeps alive for longer than the group; `raw` takes the result.
        let outcome = unsafe { ffi::te_gloo_new(&raw const options, &raw mut raw) };
        ffi::check(outcome).map_err(|message| Error::Rendezvous {
            operation: OPERATION,
            message: format!("rank {rank} of {world_size} on {interface_host}: {message}"),
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Rendezvous {
            operation: OPERATION,
            message: "the group was not made, for no stated reason".to_owned(),
        })?;
        Ok(Self { raw, rank, world_size, failure: RefCell::new(None), _keys: keys })
    }

    /// This process's position, below [`Gloo::world_size`].
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Replaces `tensor` (f32 or f64, the same length everywhere, or it is an error on every rank) by the sum over all ranks,
    /// in Gloo's own order of addition. All ranks get the same bits; which bits depends on the number of ranks and the length.
    pub fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), Error> {
        const OPERATION: &str = "all_reduce_sum";
        summable(OPERATION, tensor)?;
        if self.world_size == 1 {
            return self.usable(OPERATION);
        }
        // SAFETY: group and tensor are alive; the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_all_reduce_sum(self.raw.as_ptr(), ffi::tensor(tensor))
        })
    }

    /// Replaces `tensor` (f32 or f64, the same length everywhere, or it is an error on every rank) by the sum over all ranks,
    /// each element added in rank order, ((rank 0 + rank 1) + rank 2) + …: the bits of a plain loop, for any length and any
    /// cut of the data. The group keeps up to 8 MiB of scratch for it.
    pub fn all_reduce_in_rank_order(&self, tensor: &mut Tensor) -> Result<(), Error> {
        const OPERATION: &str = "all_reduce_in_rank_order";
        summable(OPERATION, tensor)?;
        if self.world_size == 1 {
            return self.usable(OPERATION);
        }
        // SAFETY: group and tensor are alive; the call returns after the last byte was read and written.
        self.collective(OPERATION, || unsafe {
            ffi::te_gloo_all_reduce_in_rank_order(self.raw.as_ptr(), ffi::tensor(tensor))
        })
    }

    /// Sends `send_counts[j]` elements of `send`, in order, to rank j, and receives `recv_counts[i]` from rank i into
    /// `recv`, in order. Any kind; counts may be zero. A rank that is sent more or less than it expects gets an error
    /// that says so, and the others one when it leaves.
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
        self.gather(OPERATION, send, recv, &vec![send_len as i64; self.world_size])
    }

    /// Collects `send` of every rank, in rank order, into `recv`: `recv_counts[i]` elements from rank i. Any kind;
    /// counts may be zero and must be the same slice on every rank.
    pub fn all_gather_v(&self, send: &Tensor, recv: &mut Tensor, recv_counts: &[i64]) -> Result<(), Error> {
        const OPERATION: &str = "all_gather_v";
        let send_len = vector(OPERATION, "send", send)?;
        self.counts(OPERATION, "recv", recv, recv_counts)?;
        if recv_counts[self.rank] != send_len as i64 {
            return Err(Error::argument(
                OPERATION,
                format!(
                    "recv_counts[{}] is {}, but send has {send_len} elements",
                    self.rank, recv_counts[self.rank]
                ),
            ));
        }
        self.gather(OPERATION, send, recv, recv_counts)
    }

    fn gather(
        &self,
        operation: &'static str,
        send: &Tensor,
        recv: &mut Tensor,
        recv_counts: &[i64],
    ) -> Result<(), Error> {
        disjoint_and_alike(operation, send, recv)?;
        // SAFETY: group and tensors are alive, the counts are `world_size` numbers that sum to the length of `recv`,
        // and the call returns after the last byte was read and written.
        self.collective(operation, || unsafe {
            ffi::te_gloo_all_gather_v(
                self.raw.as_ptr(),
                ffi::tensor(send),
                ffi::tensor(recv),
                recv_counts.as_ptr(),
                self.world_size,
            )
        })
    }

    /// Replaces `tensor` (any kind, the same length everywhere, or it is an error on every rank) by that of rank `root`.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), Error> {
        const OPERATION: &str = "broadcast";
        vector(OPERATION, "tensor", tensor)?;
        if root >= self.world_size {
            return Err(Error::argument(
                OPERATION,
                format!("root is {root}; it must be below {}", self.world_size),
            ));
        }
        if self.world_size == 1 {
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

/// The store as one group sees it: keys of its own.
#[derive(Debug)]
struct Keys {
    link: Arc<Link>,
    prefix: String,
}

/// Calls `body` with the store and the full key; writes what it gives, or the error's text, to `out`.
///
/// # Safety
/// `context` must point to a live [`Keys`], `key` to `key_len` bytes, `out` to the C++ side's byte buffer.
unsafe fn answer(
    context: *const c_void,
    (key, key_len): (*const c_char, usize),
    out: *mut c_void,
    body: impl FnOnce(&Link, &[u8]) -> std::io::Result<Vec<u8>>,
) -> c_int {
    // SAFETY: the caller's promise.
    let (keys, key) =
        unsafe { (&*context.cast::<Keys>(), std::slice::from_raw_parts(key.cast::<u8>(), key_len)) };
    let (status, bytes) = match body(&keys.link, &[keys.prefix.as_bytes(), key].concat()) {
        Ok(value) => (0, value),
        Err(error) => (1, error.to_string().into_bytes()),
    };
    // SAFETY: `out` is the C++ side's buffer by the caller's promise; the bytes are copied.
    unsafe { ffi::te_bytes_append(out, bytes.as_ptr(), bytes.len()) };
    status
}

unsafe extern "C" fn store_set(
    context: *const c_void,
    key: *const c_char,
    key_len: usize,
    value: *const u8,
    value_len: usize,
    out: *mut c_void,
) -> c_int {
    // SAFETY: the C++ side passes on the context it was given, and pointers that live over the call; an empty value
    // may come without an address.
    unsafe {
        let value = if value_len == 0 { &[] } else { std::slice::from_raw_parts(value, value_len) };
        answer(context, (key, key_len), out, |link, key| link.set(key, value).map(|()| Vec::new()))
    }
}

unsafe extern "C" fn store_get(
    context: *const c_void,
    key: *const c_char,
    key_len: usize,
    timeout_ms: i64,
    out: *mut c_void,
) -> c_int {
    let timeout = Duration::from_millis(timeout_ms.max(0) as u64);
    // SAFETY: as in `store_set`.
    unsafe { answer(context, (key, key_len), out, |link, key| link.get(key, timeout)) }
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

fn summable(operation: &'static str, tensor: &Tensor) -> Result<(), Error> {
    vector(operation, "tensor", tensor)?;
    if !matches!(tensor.kind(), Kind::Float | Kind::Double) {
        return Err(Error::argument(
            operation,
            format!("tensor is {:?}; allowed: Float, Double", tensor.kind()),
        ));
    }
    Ok(())
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
