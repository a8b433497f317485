//! The step journal: what every committed step trained, exactly, so that `replay` can do it again.
//!
//! Rank 0 writes JSON lines in segments `journal/<attempt>-<step>.jsonl`: a header, then one record per committed step.
//! A segment begins at each checkpoint and at the start of each attempt, and carries the name of the checkpoint from
//! which its records go on. Records beyond the checkpoint that a later attempt loaded are superseded: readers follow
//! the surviving history. Lines are flushed per step and synced at each checkpoint; a torn last line is no error.
//!
//! No segment is ever deleted, as checkpoint 0, which the first one continues, never is: about 100 bytes a device and step.
//!
//! [`record`] and [`history`] are plain data and pure; [`writer`] and [`reader`] do the I/O.

pub mod history;
pub mod reader;
pub mod record;
pub mod steps_csv;
pub mod writer;

#[cfg(test)]
mod tests;

pub use history::{History, surviving};
pub use reader::{Segment, read_segments, read_segments_from, read_surviving};
pub use record::{DeviceStep, ReceivedRecords, RecordRange, SegmentHeader, StepRecord};
pub use steps_csv::{CsvDevice, CsvRow, StepsCsv};
pub use writer::JournalWriter;

use scadles_api::ExitCode;

/// A failure of the journal or of `steps.csv`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// A file could not be written.
    #[error("failed to write {place}: {reason}")]
    Write {
        /// The file or folder.
        place: String,
        /// What the file system said.
        reason: String,
    },
    /// A file could not be read.
    #[error("failed to read {place}: {reason}")]
    Read {
        /// The file or folder.
        place: String,
        /// What the file system said.
        reason: String,
    },
    /// A line in the middle of a segment does not read.
    #[error("failed to read {place}, line {line}: {reason}")]
    Damaged {
        /// The segment.
        place: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The steps do not follow each other.
    #[error("failed to follow the journal: segment {segment} continues at step {found}, expected {expected}")]
    Gap {
        /// The segment.
        segment: String,
        /// Step that would follow.
        expected: u64,
        /// Step that is there.
        found: u64,
    },
}

impl JournalError {
    /// The exit code of a process that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Write { .. } | Self::Read { .. } => ExitCode::StorageFailed,
            Self::Damaged { .. } | Self::Gap { .. } => ExitCode::Configuration,
        }
    }

    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Write { .. } => {
                "make room on that disk and check its permissions, or choose another run folder with --out; then go \
                 on with --resume"
            }
            Self::Read { .. } => "check that the run folder is there and readable",
            Self::Damaged { .. } | Self::Gap { .. } => {
                "the journal was changed or lost in part after the run; this run cannot be replayed"
            }
        }
    }
}
