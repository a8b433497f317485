//! The contract of scadles: every type that is read from a file, sent over a wire or written to a result.
//!
//! Role: plain serde data, shared by the job brain (`scadles-control`), the two bodies (local runner, operator) and the
//! trainer. No I/O, no clock, no decisions.

#![forbid(unsafe_code)]

pub mod attempt;
#[cfg(feature = "crd")]
pub mod crd;
pub mod exit;
pub mod job;
pub mod ledger;
pub mod names;
pub mod progress;
pub mod report;
pub mod samples;
pub mod status;
pub mod tuning;
pub mod units;
pub mod worker;
pub mod yaml;

pub use attempt::{Attempt, CheckpointRef};
pub use exit::ExitCode;
pub use job::{ScadlesJob, ScadlesJobSpec};
pub use ledger::{Ledger, PartitionPosition};
pub use progress::{BufferState, DeviceProgress, LastWords, Phase, Progress};
pub use status::ScadlesJobStatus;
pub use tuning::{Tuned, Tuning};
pub use units::ByteSize;
pub use worker::WorkerConfig;

/// Version of the worker protocol (`/v1/attempt`, `/v1/progress`, control channel). A supervisor refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;
