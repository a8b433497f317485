//! What can go wrong with saved state and with the copy of results, and what to do about it.

use scadles_api::ExitCode;

/// A failure of saved state. `place` is a folder or file of this machine, or the URL of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The root folder cannot be used.
    #[error("failed to open {place}: {reason}")]
    Open {
        /// The folder.
        place: String,
        /// What the file system said.
        reason: String,
    },
    /// A file could not be written.
    #[error("failed to write {place}: {reason}")]
    Write {
        /// The file.
        place: String,
        /// What the file system said.
        reason: String,
    },
    /// A file could not be read or listed.
    #[error("failed to read {place}: {reason}")]
    Read {
        /// The file or folder.
        place: String,
        /// What the file system said.
        reason: String,
    },
    /// The checkpoint of that name exists already, complete.
    #[error("failed to write {place}: it exists already")]
    Exists {
        /// The manifest.
        place: String,
    },
    /// There is no complete checkpoint of that name.
    #[error("failed to load {place}: there is no complete checkpoint there")]
    Missing {
        /// The folder.
        place: String,
    },
    /// The checkpoint does not say what it should.
    #[error("failed to load {place}: {reason}")]
    Damaged {
        /// The file.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The writer's thread ended before its work was done.
    #[error("failed to write a checkpoint: the writer's thread ended")]
    WriterEnded,
}

impl CheckpointError {
    /// The exit code of a worker that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Open { .. } | Self::Write { .. } | Self::Read { .. } => ExitCode::StorageFailed,
            Self::Exists { .. } | Self::Missing { .. } | Self::Damaged { .. } => ExitCode::Configuration,
            Self::WriterEnded => ExitCode::Internal,
        }
    }

    /// What to do about it; empty if nothing.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Open { place, .. } | Self::Write { place, .. } | Self::Read { place, .. }
                if place.starts_with("s3://") =>
            {
                "check url, endpoint and secret of the storage's s3, that the bucket is there and may be read and written, and \
                 that the pods may reach its server"
            }
            Self::Open { .. } | Self::Write { .. } => {
                "make room on that disk and check its permissions, or set spec.checkpoint.storage.path to another \
                 folder; then go on with --resume"
            }
            Self::Read { .. } => "check that the folder is there and readable",
            Self::Exists { .. } => "use another run folder, or go on with --resume",
            Self::Missing { .. } => {
                "resume from one of the checkpoints that lie in that folder, or start anew"
            }
            Self::Damaged { .. } => "delete that folder and resume from the checkpoint before it",
            Self::WriterEnded => "",
        }
    }
}
