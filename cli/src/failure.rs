//! The one error type of the commands: what happened, what to do, which exit code follows.

use scadles_api::ExitCode;

/// Result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command ends without having done what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The process's exit code.
    pub code: ExitCode,
    /// What happened, naming the field or file and its value.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

impl Failure {
    /// The job or its surroundings are wrong; the same start would fail again.
    pub fn configuration(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: ExitCode::Configuration, message: message.into(), remedy: remedy.into() }
    }

    /// Something could not be written or read back.
    pub fn storage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: ExitCode::StorageFailed, message: message.into(), remedy: remedy.into() }
    }

    /// A file or folder that could not be written, with the remedy that fits the cause.
    pub fn write(path: &std::path::Path, error: &std::io::Error) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "free some space, or choose another place with --out DIR"
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "choose a place that you may write to with --out DIR"
            }
            _ => "choose another place with --out DIR",
        };
        Self::storage(format!("{} cannot be written: {error}", path.display()), remedy)
    }

    /// Something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: ExitCode::Internal, message: message.into(), remedy: String::new() }
    }

    /// A failure at Kafka. Its message names the field and the remedy itself.
    pub fn kafka(error: &scadles_kafka::Error) -> Self {
        use scadles_kafka::Error as Kafka;
        let code = match error {
            Kafka::Unreachable { .. } | Kafka::Timeout { .. } => ExitCode::BrokerLost,
            Kafka::TopicRecreated { .. } => ExitCode::TopicLost,
            Kafka::Client { .. } => ExitCode::Internal,
            _ => ExitCode::Configuration,
        };
        Self { code, message: error.to_string(), remedy: String::new() }
    }
}
