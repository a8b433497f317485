//! What can go wrong, and NCCL's result codes as types.

use std::ffi::c_int;
use std::fmt;
use std::time::Duration;

use crate::library::Version;
use crate::sys;

/// Why something did not happen. `operation` is the called function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No NCCL could be loaded.
    #[error(
        "found no NCCL library (tried {}): install libnccl2, or set {variable} to the file libnccl.so.2",
        tried.join("; "), variable = crate::LIBRARY_VARIABLE
    )]
    NotFound {
        /// Each place with what the loader said about it.
        tried: Vec<String>,
    },
    /// A library is there, but is not an NCCL that can be used.
    #[error("{library} has no function {symbol}: it is no NCCL of version {} to 2.x", Version::OLDEST)]
    Symbol {
        /// The library, as it was found.
        library: String,
        /// The function that it lacks.
        symbol: &'static str,
    },
    /// The library's version is not supported.
    #[error("{library} is NCCL {found}; needed is {} to 2.x", Version::OLDEST)]
    Version {
        /// The library, as it was found.
        library: String,
        /// What it is.
        found: Version,
    },
    /// An argument that was refused before NCCL was called: a mistake of the caller, nothing was sent.
    #[error("{operation}: {message}")]
    Argument {
        /// The function that refused.
        operation: &'static str,
        /// The argument, its value and what is allowed.
        message: String,
    },
    /// NCCL refused or failed.
    #[error("failed to {operation}: {code}: {message}")]
    Nccl {
        /// What was asked for.
        operation: &'static str,
        /// The kind of failure.
        code: ErrorCode,
        /// NCCL's last message.
        message: String,
    },
    /// What goes on in the background, or on the device, was not through in time; usually because a peer is gone or
    /// calls something else.
    #[error("failed to {operation} within {timeout:?}")]
    TimedOut {
        /// What was asked for.
        operation: &'static str,
        /// The communicator's deadline for one operation.
        timeout: Duration,
    },
    /// The device's stream failed.
    #[error("failed to {operation}: the stream failed: {message}")]
    Stream {
        /// What was asked for.
        operation: &'static str,
        /// What its [`StreamQuery`](crate::StreamQuery) said.
        message: String,
    },
    /// The communicator was aborted, by a [`CommunicatorHandle`](crate::CommunicatorHandle) or after a failure.
    #[error("failed to {operation}: the communicator was aborted")]
    Aborted {
        /// What was asked for.
        operation: &'static str,
    },
    /// The communicator failed before and must be made anew.
    #[error("failed to {operation}: the communicator failed before and must be made anew ({first})")]
    FailedBefore {
        /// What was asked for.
        operation: &'static str,
        /// The first failure.
        first: String,
    },
}

impl Error {
    pub(crate) fn argument(operation: &'static str, message: impl Into<String>) -> Self {
        Self::Argument { operation, message: message.into() }
    }
}

/// NCCL's kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A call of CUDA failed.
    UnhandledCuda,
    /// A call of the operating system failed.
    System,
    /// A bug in NCCL, or memory that was overwritten.
    Internal,
    /// NCCL found an argument that has no allowed value.
    InvalidArgument,
    /// The calls do not fit together.
    InvalidUsage,
    /// A peer has failed or is gone.
    Remote,
    /// A result that this crate does not know.
    Other(i32),
}

impl ErrorCode {
    pub(crate) fn from_result(result: c_int) -> Self {
        match result {
            sys::UNHANDLED_CUDA_ERROR => Self::UnhandledCuda,
            sys::SYSTEM_ERROR => Self::System,
            sys::INTERNAL_ERROR => Self::Internal,
            sys::INVALID_ARGUMENT => Self::InvalidArgument,
            sys::INVALID_USAGE => Self::InvalidUsage,
            sys::REMOTE_ERROR => Self::Remote,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnhandledCuda => out.write_str("unhandled CUDA error"),
            Self::System => out.write_str("system error"),
            Self::Internal => out.write_str("internal error"),
            Self::InvalidArgument => out.write_str("invalid argument"),
            Self::InvalidUsage => out.write_str("invalid usage"),
            Self::Remote => out.write_str("remote error"),
            Self::Other(result) => write!(out, "result {result}"),
        }
    }
}
