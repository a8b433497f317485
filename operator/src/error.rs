//! What can go wrong in a pass over an object. "Not ready yet" is an outcome, not an error.

use std::time::Duration;

/// A pass that could not be finished; it is repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to {what}")]
    Api {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// Somebody else has changed the object meanwhile; the next pass sees it.
    #[error("the object has changed meanwhile")]
    Conflict,
    /// An object of this name is there and is not the job's.
    #[error("{kind} {name} is there already and does not belong to this job")]
    NameTaken {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// The object has no name, namespace or UID: it does not come from an API server.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// The settings' plan and the cluster's facts disagree.
    #[error("failed to plan the job: {0}")]
    Plan(#[from] scadles_control::mistake::Mistakes),
}

impl Error {
    /// Wraps the API server's answer.
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| match source {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            source => Self::Api { what, source: Box::new(source) },
        }
    }

    /// The kind of error, from a closed list, for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Conflict => "conflict",
            Self::NameTaken { .. } => "name_taken",
            Self::Incomplete(_) => "incomplete",
            Self::Plan(_) => "plan",
        }
    }

    /// Pause before the pass is repeated: doubles with every failure in a row.
    pub fn retry_after(&self, failures_in_row: u32) -> Duration {
        match self {
            Self::Conflict => Duration::from_millis(200),
            _ => Duration::from_secs(1 << failures_in_row.min(6)),
        }
    }
}
