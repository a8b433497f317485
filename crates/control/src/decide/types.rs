//! Plain data of the supervision: what goes into a decision and what comes out.

use scadles_api::{
    Attempt, CheckpointRef, ExitCode, LastWords, Progress, Tuning, attempt::Listening, report::AttemptReport,
};
use serde::{Deserialize, Serialize};

/// Everything that the supervisor remembers. Stored by the body after every decision that changed it and before the
/// decision's actions are carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervision {
    /// Where the job stands.
    pub phase: JobPhase,
    /// When the phase began.
    pub phase_since: f64,
    /// Number of the latest attempt; 0 before the first.
    pub attempt: u32,
    /// Restarts that count towards `spec.runPolicy.maxRestarts`.
    pub restarts: u32,
    /// Failures in a row, for the back-off.
    pub failures_in_row: u32,
    /// Last durable checkpoint: what the next attempt loads.
    pub checkpoint: Option<CheckpointRef>,
    /// Checkpoint that the latest attempt was started from; fixed for its whole life.
    pub started_from: Option<CheckpointRef>,
    /// When supervision began.
    pub job_started_at: f64,
    /// When the latest attempt began.
    pub attempt_started_at: f64,
    /// When all workers had confirmed the latest attempt.
    pub formed_at: Option<f64>,
    /// When the latest attempt was first seen with a step of its own.
    pub first_step_at: Option<f64>,
    /// Since when the job waits for the broker, while it does.
    pub broker_waiting_since: Option<f64>,
    /// Latest step seen of the latest attempt.
    pub last_step: u64,
    /// Samples trained by then.
    pub last_samples: u64,
    /// When the user asked to stop.
    pub stop_requested_at: Option<f64>,
    /// Hash of the job's settings that the latest attempt was decided with; empty where none are told.
    #[serde(default)]
    pub settings_hash: String,
    /// Settings of compression and injection that the group is told of: with each attempt, and when the job's change.
    #[serde(default)]
    pub tuning: Tuning,
    /// Attempts that have ended.
    pub history: Vec<AttemptReport>,
}

impl Supervision {
    /// A job that was never started; with `resume`, one whose first attempt loads that checkpoint.
    pub fn new(now: f64, resume: Option<CheckpointRef>) -> Self {
        let step = resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        Self {
            phase: JobPhase::Waiting,
            phase_since: now,
            attempt: 0,
            restarts: 0,
            failures_in_row: 0,
            checkpoint: resume,
            started_from: None,
            job_started_at: now,
            attempt_started_at: now,
            formed_at: None,
            first_step_at: None,
            broker_waiting_since: None,
            last_step: step,
            last_samples: 0,
            stop_requested_at: None,
            settings_hash: String::new(),
            tuning: Tuning::default(),
            history: Vec::new(),
        }
    }

    /// The job of an earlier supervisor, taken up again: attempts and tunings are numbered on and the history is kept;
    /// restarts and deadlines begin anew, because a person has looked at it since.
    pub fn resume(earlier: Self, now: f64, checkpoint: Option<CheckpointRef>) -> Self {
        let fresh = Self::new(now, checkpoint);
        let mut history = earlier.history;
        if earlier.attempt > history.last().map_or(0, |last| last.number) {
            history.push(AttemptReport {
                number: earlier.attempt,
                from_step: earlier.started_from.map_or(0, |checkpoint| checkpoint.step),
                to_step: earlier.last_step,
                ended: "its supervisor ended".to_owned(),
                first_cause: None,
            });
        }
        Self { attempt: earlier.attempt, tuning: earlier.tuning, history, ..fresh }
    }

    /// The outcome, once there is one.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            JobPhase::Done(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// Where the job stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobPhase {
    /// For the broker and its topics; no worker yet.
    Waiting,
    /// Workers of the attempt come up and receive it.
    Starting,
    /// The group has the attempt.
    Running,
    /// A worker was lost; the others are given time to tell what they saw.
    Settling {
        /// When the loss was seen.
        since: f64,
    },
    /// Workers end because the completion rule is met.
    Completing {
        /// When the first was seen to have ended.
        since: f64,
    },
    /// The attempt has ended; the next begins when all are gone, the broker is there and this time has come.
    #[serde(rename_all = "camelCase")]
    Restarting {
        /// End of the back-off.
        not_before: f64,
    },
    /// The group is being stopped before the completion rule is met.
    Stopping(Stopping),
    /// Stopped on request, to go on later; no worker.
    Suspended,
    /// It has ended.
    Done(Outcome),
}

impl JobPhase {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Settling { .. } => "Settling",
            Self::Completing { .. } => "Completing",
            Self::Restarting { .. } => "Restarting",
            Self::Stopping(_) => "Stopping",
            Self::Suspended => "Suspended",
            Self::Done(_) => "Done",
        }
    }
}

/// How the group is being stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopping {
    /// Since when.
    pub since: f64,
    /// The end to be reported; of the attempt alone where the job goes on.
    pub outcome: Outcome,
    /// Whether the group is asked for a checkpoint first.
    pub save: bool,
    /// What follows.
    #[serde(default)]
    pub then: AfterStop,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterStop {
    /// The job is over.
    #[default]
    End,
    /// It rests until it is asked to go on.
    Suspend,
    /// The next attempt begins at once, with new settings; it does not count as a restart.
    Renew,
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Exit code of the supervisor.
    pub code: ExitCode,
    /// What happened.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

/// What the body sees of the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// The broker and its topics.
    pub broker: BrokerState,
    /// One entry per device, in the order of ranks.
    pub workers: Vec<WorkerObservation>,
    /// Rank 0's latest answer.
    pub progress: Option<Progress>,
    /// Age of that answer in seconds; `None` while there was none.
    pub progress_age_seconds: Option<f64>,
    /// What the user wants. [`UserRequest::Stop`] and [`UserRequest::Kill`] stay set once given.
    pub user_request: Option<UserRequest>,
    /// Hash of the settings of the job as they are now: when it changes, a running attempt is replaced after a
    /// checkpoint. Empty where settings cannot change.
    pub settings_hash: String,
}

/// The broker and its topics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BrokerState {
    /// Reachable, topics there.
    Ready,
    /// Not yet.
    Waiting {
        /// Since when.
        since: f64,
        /// In words, such as "127.0.0.1:9092 refused the connection".
        problem: String,
    },
}

/// One worker as its body sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerObservation {
    /// Attempt that the process (or pod) was started for; 0 if there was none.
    pub made_for_attempt: u32,
    /// The process.
    pub process: ProcessState,
    /// Attempt in the worker's own `/v1/progress`; 0 = none.
    pub confirmed_attempt: u32,
}

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
// One per device and look: a box for the rarer kind would cost more words than it saves bytes.
#[expect(clippy::large_enum_variant)]
pub enum ProcessState {
    /// Never started, or removed without a trace.
    Absent,
    /// Started, endpoint not yet open.
    Starting {
        /// Since when.
        since: f64,
    },
    /// Endpoint open.
    Listening(Listening),
    /// Gone.
    Exited {
        /// Exit code, unless a signal ended it.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
        /// What it said at the end, if anything.
        last_words: Option<LastWords>,
    },
}

impl ProcessState {
    /// Whether there is a process that could still act.
    pub const fn is_alive(&self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Listening(_))
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserRequest {
    /// End the job at an agreed step, with a checkpoint (first Ctrl-C).
    Stop,
    /// End it now (second Ctrl-C).
    Kill,
    /// Rest after an agreed step with a checkpoint, for as long as this is asked.
    Suspend,
}

/// What the body has to do. All of it idempotent, all of it repeated until seen done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Start the process of this rank for this attempt.
    StartWorker {
        /// Which.
        rank: usize,
        /// For [`WorkerObservation::made_for_attempt`].
        attempt: u32,
    },
    /// `POST /v1/attempt` to this rank.
    PostAttempt {
        /// To whom.
        rank: usize,
        /// The body of the request.
        attempt: Attempt,
    },
    /// `POST /v1/stop` to this rank.
    RequestStop {
        /// To whom.
        rank: usize,
        /// Write a checkpoint first.
        checkpoint: bool,
    },
    /// `POST /v1/tuning` to this rank.
    PostTuning {
        /// To whom.
        rank: usize,
        /// The body of the request.
        tuning: Tuning,
    },
    /// End the process of this rank at once.
    KillWorker {
        /// Which.
        rank: usize,
        /// Why, for the log.
        reason: String,
    },
    /// The job is over: write the report and leave with this code.
    Finish(Outcome),
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// State to store.
    pub next: Supervision,
    /// What to do, in this order, after the state is stored.
    pub actions: Vec<Action>,
    /// Why, in words.
    pub reason: String,
}
