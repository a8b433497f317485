//! Why a worker ends before its work is done: an exit code, a sentence, a remedy. No I/O.

use scadles_api::ExitCode;

use crate::{
    batch::BatchError, channel::ChannelError, checkpoint::CheckpointError, engine::EngineError,
    evaluate::EvaluateError, gpu::GpuError, journal::JournalError, learner::LearnerError,
    replay::ReplayError, source::SourceError,
};

/// The end of a worker, ready for its last words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Class of the failure: decides about a new attempt.
    pub code: ExitCode,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

impl Failure {
    /// A failure without a known remedy.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: String::new() }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

/// An error with the errors behind it, joined by colons.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent wrappers repeat their source's text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(error.exit_code(), chain(&error)).with_remedy(error.remedy())
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::new(error.exit_code(), chain(&error)).with_remedy(error.remedy())
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::new(error.exit_code(), chain(&error)).with_remedy(error.remedy())
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        Self::new(error.exit_code(), chain(&error)).with_remedy(error.remedy())
    }
}

impl From<ChannelError> for Failure {
    fn from(error: ChannelError) -> Self {
        // A hub that refuses us serves another attempt: the supervisor has moved on.
        Self::new(ExitCode::PeerLost, chain(&error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match error {
            EngineError::PeerLost { .. } => ExitCode::PeerLost,
            EngineError::Argument { .. } | EngineError::Mismatch { .. } => ExitCode::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<LearnerError> for Failure {
    fn from(error: LearnerError) -> Self {
        Self::new(error.exit_code(), chain(&error)).with_remedy(error.remedy())
    }
}

impl From<GpuError> for Failure {
    fn from(error: GpuError) -> Self {
        Self::new(ExitCode::Configuration, chain(&error)).with_remedy(error.remedy())
    }
}

macro_rules! internal {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(ExitCode::Internal, chain(&error))
            }
        })+
    };
}
internal!(BatchError, EvaluateError, crate::optimizer::LengthError, torch_ext::Error);
