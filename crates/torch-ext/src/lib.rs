//! What the trainer needs of libtorch and `tch` does not bind: c10d's TCP store and Gloo process group, parameters and
//! gradients in one flat buffer each, gradients that are handed on while backward computes, a look into scripted modules,
//! and a few process-wide switches.
//!
//! Role: a narrow safe face over two C++ files. Gloo and the store talk to the network; the rest does no I/O.
//! Arguments are checked before they cross, C++ exceptions come back as [`Error`].
#![allow(unsafe_code)] // This crate is the border to C++; each block says why it holds.
#![allow(clippy::cast_possible_wrap)] // Element counts: a tensor of 2^63 elements does not exist.

mod ffi;
mod flat;
mod gloo;
mod script;
mod store;

use std::ffi::CStr;
use std::time::Duration;

pub use flat::{ALIGNMENT_BYTES, Element, FlatParameters, LentGradients, Loan, Slot};
pub use gloo::Gloo;
pub use script::{ScriptFinding, inspect_script};
pub use store::TcpStore;

/// What can go wrong here. `operation` is the called function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument that was refused before anything was done: a mistake of the caller.
    #[error("{operation}: {message}")]
    Argument {
        /// The function that refused.
        operation: &'static str,
        /// The argument, its value and what is allowed.
        message: String,
    },
    /// The rendezvous failed: the store could not be served or reached, or the ranks did not meet in time.
    #[error("failed to {operation}: {message}")]
    Rendezvous {
        /// The function that failed.
        operation: &'static str,
        /// What the socket layer or the store said.
        message: String,
    },
    /// A collective failed or ran into the group's timeout, usually because a peer is gone. The group is then
    /// unusable: every later collective on it returns this variant at once.
    #[error("failed to {operation} over Gloo: {message}")]
    Collective {
        /// The collective.
        operation: &'static str,
        /// What Gloo said.
        message: String,
    },
    /// libtorch refused something outside a collective.
    #[error("failed to {operation}: {message}")]
    Torch {
        /// The function that failed.
        operation: &'static str,
        /// What libtorch said.
        message: String,
    },
}

impl Error {
    fn argument(operation: &'static str, message: impl Into<String>) -> Self {
        Self::Argument { operation, message: message.into() }
    }
}

/// Sets how many threads one torch operation may use (process-wide; at least 1). One per worker makes sums
/// reproducible and keeps workers on one machine from fighting for cores.
pub fn set_threads(intra_op: i32) -> Result<(), Error> {
    const OPERATION: &str = "set_threads";
    at_least_one(OPERATION, intra_op)?;
    // SAFETY: takes a number, touches no memory of ours.
    ffi::check(unsafe { ffi::te_set_threads(intra_op) })
        .map_err(|message| Error::Torch { operation: OPERATION, message })
}

/// Sets how many torch operations may run side by side (process-wide; at least 1). libtorch accepts a change only
/// before its pool has started: call it first thing in `main`. Asking for the present number always succeeds.
pub fn set_interop_threads(threads: i32) -> Result<(), Error> {
    const OPERATION: &str = "set_interop_threads";
    at_least_one(OPERATION, threads)?;
    // SAFETY: takes a number, touches no memory of ours.
    ffi::check(unsafe { ffi::te_set_interop_threads(threads) })
        .map_err(|message| Error::Torch { operation: OPERATION, message })
}

fn at_least_one(operation: &'static str, threads: i32) -> Result<(), Error> {
    if threads < 1 {
        return Err(Error::argument(
            operation,
            format!("the number of threads is {threads}; it must be at least 1"),
        ));
    }
    Ok(())
}

/// Turns subnormal numbers into zero (`true`) or keeps them (`false`), for the calling thread and the threads that it
/// starts afterwards. Call it at the start of each thread that computes. Returns whether the CPU can do it.
pub fn set_flush_denormal(on: bool) -> bool {
    // SAFETY: sets a control register of the calling thread.
    unsafe { ffi::te_set_flush_denormal(i32::from(on)) != 0 }
}

/// Keeps memory that was freed for the next allocation instead of giving it back to the system (process-wide). A step
/// allocates what the step before has freed, hundreds of megabytes; glibc would have the system take the pages away and
/// clear new ones each time, which costs more than the optimizer. What a process has once used it then holds to its end.
/// To be called before the first tensor is made: it changes how libtorch takes memory, too, so that a block that was freed
/// fits again. On the main thread; what other threads allocate in one piece of more than 64 MiB is given back all the same. Returns
/// whether the allocator can do it.
pub fn keep_freed_memory() -> bool {
    // SAFETY: sets two numbers of the C allocator, which any thread may do at any time.
    unsafe { ffi::te_keep_freed_memory() != 0 }
}

/// Loads libtorch's part for CUDA, `libtorch_cuda.so` of the same version, so that tensors on GPUs can be made. This crate does
/// not link it: one program serves machines with and without. To be called before libtorch is first asked about CUDA,
/// since it remembers that there was none. Calling it again does nothing.
pub fn load_cuda() -> Result<(), Error> {
    // SAFETY: runs the library's initialisers, as linking it would.
    ffi::check(unsafe { ffi::te_load_cuda() })
        .map_err(|message| Error::Torch { operation: "load libtorch for CUDA", message })
}

/// Gives memory that was freed so far back to the system, once, where the allocator can: after work that is not done
/// again, such as drawing start values.
pub fn release_freed_memory() {
    // SAFETY: the C allocator looks through its free memory, under its own locks.
    unsafe { ffi::te_release_freed_memory() }
}

/// The version of libtorch that this crate was compiled against, for example `2.11.0`.
pub fn torch_version() -> &'static str {
    // SAFETY: returns a string literal of the C++ file, valid for the life of the process.
    let version = unsafe { CStr::from_ptr(ffi::te_torch_version()) };
    version.to_str().unwrap_or("unknown")
}

/// A number from 1 to what C takes.
pub(crate) fn c_count(operation: &'static str, name: &str, value: usize) -> Result<i32, Error> {
    i32::try_from(value)
        .ok()
        .filter(|&value| value > 0)
        .ok_or_else(|| Error::argument(operation, format!("{name} is {value}; allowed: 1 to {}", i32::MAX)))
}

/// The longest wait for a peer, in milliseconds: a day is longer than any step.
const LONGEST_WAIT_MILLIS: u128 = 86_400_000;

/// A time limit as C takes it, of a day at most.
pub(crate) fn milliseconds(operation: &'static str, timeout: Duration) -> Result<i64, Error> {
    let millis = timeout.as_millis();
    if millis == 0 {
        // c10d takes 0 for "for ever".
        return Err(Error::argument(
            operation,
            format!("the timeout is {timeout:?}; allowed: 1 ms and more"),
        ));
    }
    Ok(millis.min(LONGEST_WAIT_MILLIS) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_of_weeks_is_one_of_a_day() {
        assert_eq!(milliseconds("wait", Duration::from_secs(1_000_000)).ok(), Some(86_400_000));
        assert_eq!(milliseconds("wait", Duration::from_millis(7)).ok(), Some(7));
        assert!(milliseconds("wait", Duration::ZERO).is_err());
    }
}
