//! Why a run cannot be replayed, and what to do about it.

use scadles_api::ExitCode;

use crate::checkpoint::CheckpointError;
use crate::journal::JournalError;
use crate::learner::LearnerError;

/// A failure of a replay. That the bits differ is a result, not a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The folder holds no run.
    #[error("failed to read {place}: {reason}")]
    NotARun {
        /// The file.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// No checkpoint lies on the history that the journal still has.
    #[error("failed to find a checkpoint in {place} from which the journal goes on")]
    NoCheckpoint {
        /// The folder.
        place: String,
    },
    /// The journal names a device that the job does not have.
    #[error("the journal names the device {name:?}, which job.json does not have")]
    UnknownDevice {
        /// Its name.
        name: String,
    },
    /// A resumed run had other settings than before: its records cannot all be followed with one `job.json`.
    #[error(
        "segment {segment} of the journal was trained with other settings than job.json has: one of spec.model, \
         spec.stream.transform, spec.training.seed, spec.training.optimizer.momentum or weightDecay, spec.compression, \
         spec.producer, or the partitions of its topics"
    )]
    Settings {
        /// The segment.
        segment: String,
    },
    /// Records of a step could not be had again.
    #[error("failed to get the records of step {step} again: {reason}")]
    Records {
        /// The step.
        step: u64,
        /// Why.
        reason: String,
    },
    /// The data set could not be read, or the broker not be reached.
    #[error("failed to open the streams: {reason}")]
    Streams {
        /// Why.
        reason: String,
    },
    /// A step could not be computed.
    #[error("failed to compute: {reason}")]
    Compute {
        /// Why.
        reason: String,
    },
    /// The file of the network is missing, unusable, or another than that of the run.
    #[error("{reason}")]
    ModelFile {
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl ReplayError {
    /// The exit code of a process that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Checkpoint(error) => error.exit_code(),
            Self::Journal(error) => error.exit_code(),
            Self::Compute { .. } => ExitCode::Internal,
            _ => ExitCode::Configuration,
        }
    }

    /// What to do about it; empty if nothing.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotARun { .. } => "name the folder of a run of `scadles run`",
            Self::NoCheckpoint { .. } => {
                "keep the run's checkpoints beside its journal; checkpoint 0 is never pruned by scadles itself"
            }
            Self::Records { .. } => {
                "records of topics can be replayed only as long as the broker keeps them; jobs with spec.producer \
                 always can"
            }
            Self::Streams { .. } => {
                "name the data folder with --data, or a running broker with --kafka HOST:PORT"
            }
            Self::UnknownDevice { .. } => "use the job.json that the run was made with",
            Self::Settings { .. } => {
                "a run that was resumed with such a change can be replayed up to it only, with the job.json of before (its \
                 journal and checkpoints from then on moved away)"
            }
            Self::Checkpoint(error) => error.remedy(),
            Self::Journal(error) => error.remedy(),
            Self::ModelFile { remedy, .. } => remedy,
            Self::Compute { .. } => "",
        }
    }

    /// An error of the learner, which may be one of the network's file.
    pub(super) fn learner(error: LearnerError) -> Self {
        match error.exit_code() {
            ExitCode::Configuration => Self::ModelFile { reason: error.to_string(), remedy: error.remedy() },
            _ => Self::compute(error),
        }
    }

    /// An error of model code, with the errors behind it.
    pub(super) fn compute(error: impl std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        Self::Compute { reason }
    }
}
