//! Exit codes of the worker and of `scadles run`: the first word of every diagnosis.

use serde::{Deserialize, Serialize};

/// Why a process ended. The number is the process's exit code; the retry class decides whether a new attempt helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// The job reached its completion rule.
    Completed = 0,
    /// An error nobody foresaw; treated as a crash.
    Internal = 1,
    /// The job or its environment is wrong; the same start would fail again. Never retried.
    Configuration = 2,
    /// Another worker of the group was lost. A follower's code: never the first cause.
    PeerLost = 3,
    /// The broker could not be reached for longer than the deadline.
    BrokerLost = 4,
    /// A checkpoint, journal or result could not be written (disk full, permission, object store).
    StorageFailed = 5,
    /// A device got no sample for longer than `spec.runPolicy.stallSeconds`. Never retried: the stream itself is silent.
    StreamStalled = 6,
    /// More records than `spec.stream.maxRejectedShare` could not be decoded. Never retried.
    TooManyRejected = 7,
    /// Ranks no longer hold the same parameters, or the loss is not a number.
    Diverged = 8,
    /// Stopped on request, after an agreed checkpoint.
    Stopped = 9,
    /// The supervisor was gone for longer than `spec.runPolicy.orphanSeconds`, or closed stdin.
    Orphaned = 10,
    /// A device's topic disappeared or was made anew while the job ran. Never retried: its offsets mean nothing any more.
    TopicLost = 11,
    /// `scadles run`: a deadline of `spec.runPolicy` passed.
    DeadlineExceeded = 12,
    /// `scadles run`: as many restarts as `spec.runPolicy.maxRestarts` allows did not help.
    TooManyRestarts = 13,
    /// Interrupted from the keyboard (128 + SIGINT); what was done is saved.
    Interrupted = 130,
}

impl ExitCode {
    /// All codes, for documentation and look-up.
    pub const ALL: [Self; 15] = [
        Self::Completed,
        Self::Internal,
        Self::Configuration,
        Self::PeerLost,
        Self::BrokerLost,
        Self::StorageFailed,
        Self::StreamStalled,
        Self::TooManyRejected,
        Self::Diverged,
        Self::Stopped,
        Self::Orphaned,
        Self::TopicLost,
        Self::DeadlineExceeded,
        Self::TooManyRestarts,
        Self::Interrupted,
    ];

    /// The process exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a process's exit code; `None` for codes that are not ours (signals, panics).
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| i32::from(known.code()) == code)
    }

    /// Whether a new attempt may help. Wrong configuration and finished work are final.
    pub const fn is_retryable(self) -> bool {
        !matches!(
            self,
            Self::Completed
                | Self::Configuration
                | Self::TooManyRejected
                | Self::StreamStalled
                | Self::TopicLost
                | Self::DeadlineExceeded
                | Self::TooManyRestarts
                | Self::Interrupted
        )
    }

    /// Whether this end only follows from another worker's: the supervisor looks for the first cause elsewhere.
    pub const fn is_consequence(self) -> bool {
        matches!(self, Self::PeerLost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number() {
        for known in ExitCode::ALL {
            assert_eq!(ExitCode::from_code(i32::from(known.code())), Some(known));
        }
        assert_eq!(ExitCode::from_code(137), None);
    }
}
