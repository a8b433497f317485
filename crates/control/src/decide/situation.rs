//! The moves of [`super::decide`]: each looks at one fact or makes one transition.

use scadles_api::{
    Attempt, ExitCode, LastWords, PROTOCOL_VERSION, Phase, Progress,
    report::AttemptReport,
    worker::{BatchRule, JobConfig},
};

use super::{
    FIRST_BACK_OFF_SECONDS, HEALTHY_SECONDS, LONGEST_BACK_OFF_SECONDS, SETTLE_SECONDS, SILENCE_SECONDS,
    cause::{Consequence, Verdict, first_cause},
    types::{
        Action, AfterStop, BrokerState, JobPhase, Observation, Outcome, ProcessState, Stopping, Supervision,
        WorkerObservation,
    },
};

/// One call of `decide` on its way.
pub(super) struct Situation<'a> {
    pub(super) job: &'a JobConfig,
    pub(super) next: Supervision,
    pub(super) seen: &'a Observation,
    pub(super) now: f64,
    pub(super) actions: Vec<Action>,
}

/// Facts.
impl Situation<'_> {
    fn worker(&self, rank: usize) -> Option<&WorkerObservation> {
        self.seen.workers.get(rank)
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.job.devices.len()
    }

    pub(super) fn anyone_alive(&self) -> bool {
        self.seen.workers.iter().any(|worker| worker.process.is_alive())
    }

    fn is_of_this_attempt(&self, worker: &WorkerObservation) -> bool {
        worker.made_for_attempt == self.next.attempt
    }

    fn completed(&self, worker: &WorkerObservation) -> bool {
        let code = i32::from(ExitCode::Completed.code());
        self.is_of_this_attempt(worker)
            && matches!(worker.process, ProcessState::Exited { code: Some(seen), .. } if seen == code)
    }

    pub(super) fn someone_completed(&self) -> bool {
        self.seen.workers.iter().any(|worker| self.completed(worker))
    }

    pub(super) fn rank_0_completed(&self) -> bool {
        self.worker(0).is_some_and(|worker| self.completed(worker))
    }

    pub(super) fn rank_0_gone(&self) -> bool {
        self.worker(0).is_none_or(|worker| !worker.process.is_alive())
    }

    /// Whether a worker of this attempt is gone without having completed. Before the group has formed an absent worker
    /// is one that is yet to be started; afterwards it is lost.
    pub(super) fn someone_left(&self) -> bool {
        let formed = self.next.phase == JobPhase::Running;
        self.seen.workers.iter().any(|worker| match worker.process {
            ProcessState::Exited { .. } => self.is_of_this_attempt(worker) && !self.completed(worker),
            ProcessState::Absent => formed,
            ProcessState::Starting { .. } | ProcessState::Listening(_) => false,
        })
    }

    /// How long those that are still there may take to end.
    pub(super) fn settle_seconds(&self) -> f64 {
        if self.stops_in_order() || self.rank_0_finishes() {
            self.job.limits.stop_grace_seconds.max(SETTLE_SECONDS)
        } else {
            SETTLE_SECONDS
        }
    }

    /// Whether rank 0 still writes what a group leaves that has parted: it is the last one to say how it ended.
    fn rank_0_finishes(&self) -> bool {
        let is_finishing = |progress: &Progress| matches!(progress.phase, Phase::Finishing | Phase::Ended);
        !self.rank_0_gone() && self.progress().is_some_and(is_finishing)
    }

    /// Whether a formed group stops at an agreed step: some have ended so, and nobody in another way.
    fn stops_in_order(&self) -> bool {
        let code = i32::from(ExitCode::Stopped.code());
        let end = |worker: &WorkerObservation| match worker.process {
            ProcessState::Exited { code, .. } if self.is_of_this_attempt(worker) => Some(code),
            _ => None,
        };
        // A pod that has stopped in order may be gone already.
        let ends: Vec<Option<i32>> = self.seen.workers.iter().filter_map(end).collect();
        self.next.formed_at.is_some() && !ends.is_empty() && ends.iter().all(|end| *end == Some(code))
    }

    /// Rank 0's progress, if it is of this attempt.
    pub(super) fn progress(&self) -> Option<&Progress> {
        self.seen.progress.as_ref().filter(|progress| progress.attempt == self.next.attempt)
    }

    fn rank_0_last_words(&self) -> Option<&LastWords> {
        let worker = self.worker(0).filter(|worker| self.is_of_this_attempt(worker))?;
        match &worker.process {
            ProcessState::Exited { last_words, .. } => last_words.as_ref(),
            _ => None,
        }
    }

    fn first_step(&self) -> u64 {
        self.next.started_from.as_ref().map_or(0, |checkpoint| checkpoint.step)
    }

    /// The device whose stream is dead: silent for too long, and too little left to train on.
    pub(super) fn stalled(&self) -> Option<Outcome> {
        let limit = self.job.limits.stall_seconds;
        let enough = match self.job.stream.batch {
            BatchRule::Fixed { size } => size,
            BatchRule::StreamRate { .. } | BatchRule::LineRate => self.job.stream.batch_bounds.min,
        };
        let progress = self.progress().filter(|progress| progress.phase == Phase::Training)?;
        let silent = progress
            .devices
            .iter()
            .find(|device| device.silent_seconds > limit && device.ledger.buffered < u64::from(enough))?;
        let topic = self.job.devices.iter().find(|device| device.name == silent.name);
        let topic = topic.map_or("its topic", |device| device.topic.as_str());
        Some(Outcome {
            code: ExitCode::StreamStalled,
            message: format!(
                "{}: no sample on topic {topic} for {:.0} s (spec.runPolicy.stallSeconds = {limit})",
                silent.name, silent.silent_seconds
            ),
            remedy: format!(
                "see that something sends to {topic}; raise spec.runPolicy.stallSeconds for streams that pause \
                 longer; then go on with --resume"
            ),
        })
    }

    /// Seconds for which rank 0 has been silent, if too long.
    pub(super) fn silence_of_rank_0(&self) -> Option<f64> {
        let formed_at = self.next.formed_at?;
        let age = self.seen.progress_age_seconds.unwrap_or(f64::INFINITY).min(self.now - formed_at);
        (age > SILENCE_SECONDS && !self.rank_0_gone()).then_some(age)
    }

    pub(super) fn judge(&self) -> Verdict {
        first_cause(self.job, self.seen, &self.next).unwrap_or_else(|| Verdict {
            consequence: Consequence::Restart,
            code: ExitCode::Internal,
            device: None,
            message: "a worker was lost".to_owned(),
            remedy: String::new(),
        })
    }
}

/// Memory.
impl Situation<'_> {
    /// Keeps what later decisions need and later observations may no longer show.
    pub(super) fn remember(&mut self) {
        let first_step = self.first_step();
        if let Some(progress) = self.progress() {
            let (step, samples, phase) = (progress.step, progress.samples, progress.phase);
            let checkpoint = progress.checkpoint.clone();
            let has_stepped = step > first_step || matches!(phase, Phase::Finishing | Phase::Ended);
            if has_stepped {
                self.next.first_step_at.get_or_insert(self.now);
            }
            self.next.last_step = self.next.last_step.max(step);
            self.next.last_samples = self.next.last_samples.max(samples);
            self.keep_checkpoint(checkpoint);
        }
        if let Some(words) = self.rank_0_last_words().cloned() {
            self.next.last_step = self.next.last_step.max(words.step);
            self.next.last_samples = self.next.last_samples.max(words.samples);
            if words.step > first_step {
                self.next.first_step_at.get_or_insert(self.now);
            }
            self.keep_checkpoint(words.checkpoint);
        }
    }

    /// Rank 0 of this attempt reports its last durable checkpoint, so the newest report is the newest checkpoint.
    fn keep_checkpoint(&mut self, reported: Option<scadles_api::CheckpointRef>) {
        let Some(reported) = reported else { return };
        let known = self.next.checkpoint.as_ref();
        let same =
            known.is_some_and(|known| known.job_uid == reported.job_uid && known.name == reported.name);
        if !same && reported.step >= self.first_step() {
            self.next.checkpoint = Some(reported);
        }
    }
}

/// Orders to workers.
impl Situation<'_> {
    pub(super) fn kill_all(&mut self, reason: &str) {
        for rank in self.ranks() {
            if self.worker(rank).is_some_and(|worker| worker.process.is_alive()) {
                self.actions.push(Action::KillWorker { rank, reason: reason.to_owned() });
            }
        }
    }

    /// Whether there were any.
    pub(super) fn kill_workers_of_other_attempts(&mut self) -> bool {
        let attempt = self.next.attempt;
        let before = self.actions.len();
        for rank in self.ranks() {
            let stale = self
                .worker(rank)
                .filter(|worker| worker.process.is_alive() && worker.made_for_attempt != attempt);
            if let Some(worker) = stale {
                let reason = format!("made for attempt {}, not {attempt}", worker.made_for_attempt);
                self.actions.push(Action::KillWorker { rank, reason });
            }
        }
        self.actions.len() > before
    }

    /// How many there were.
    pub(super) fn start_missing_workers(&mut self) -> usize {
        let missing: Vec<usize> = self
            .ranks()
            .filter(|rank| self.worker(*rank).is_none_or(|worker| !worker.process.is_alive()))
            .collect();
        let attempt = self.next.attempt;
        self.actions.extend(missing.iter().map(|rank| Action::StartWorker { rank: *rank, attempt }));
        missing.len()
    }

    /// Rank 0's hub address, once every worker listens.
    pub(super) fn hub_when_all_listen(&self) -> Option<String> {
        let mut hubs = self.ranks().map(|rank| match self.worker(rank).map(|worker| &worker.process) {
            Some(ProcessState::Listening(listening)) => Some(&listening.hub),
            _ => None,
        });
        let first = hubs.next()??;
        hubs.all(|hub| hub.is_some()).then(|| first.clone())
    }

    /// How many workers have yet to confirm the attempt.
    pub(super) fn post_attempt(&mut self, hub: &str) -> usize {
        let devices: Vec<String> = self.job.devices.iter().map(|device| device.name.clone()).collect();
        let number = self.next.attempt;
        let unconfirmed: Vec<usize> = self
            .ranks()
            .filter(|rank| self.worker(*rank).is_some_and(|worker| worker.confirmed_attempt != number))
            .collect();
        for rank in &unconfirmed {
            let attempt = Attempt {
                protocol: PROTOCOL_VERSION,
                number,
                devices: devices.clone(),
                rank: *rank,
                hub: hub.to_owned(),
                checkpoint: self.next.started_from.clone(),
                tuning: self.next.tuning,
            };
            self.actions.push(Action::PostAttempt { rank: *rank, attempt });
        }
        unconfirmed.len()
    }
}

/// Transitions.
impl Situation<'_> {
    pub(super) fn enter(&mut self, phase: JobPhase) {
        self.next.phase = phase;
        self.next.phase_since = self.now;
    }

    /// Writes the number of the next attempt down; its workers are started by the next decision.
    pub(super) fn begin_attempt(&mut self) -> String {
        self.next.attempt += 1;
        self.next.started_from = self.next.checkpoint.clone();
        self.next.attempt_started_at = self.now;
        self.next.formed_at = None;
        self.next.first_step_at = None;
        self.next.broker_waiting_since = None;
        self.next.settings_hash.clone_from(&self.seen.settings_hash);
        self.next.tuning = self.wanted_tuning();
        self.next.last_step = self.first_step();
        self.enter(JobPhase::Starting);
        match &self.next.started_from {
            Some(checkpoint) => {
                format!("attempt {} begins from step {}", self.next.attempt, checkpoint.step)
            }
            None => format!("attempt {} begins", self.next.attempt),
        }
    }

    pub(super) fn begin_settling(&mut self) -> String {
        self.enter(JobPhase::Settling { since: self.now });
        format!("attempt {}: a worker was lost", self.next.attempt)
    }

    pub(super) fn begin_completing(&mut self) -> String {
        self.enter(JobPhase::Completing { since: self.now });
        "the completion rule is met: workers finish".to_owned()
    }

    /// Stops the group; one that is whole is asked for a checkpoint first.
    pub(super) fn begin_stop(&mut self, outcome: Outcome, then: AfterStop) {
        let save = match &self.next.phase {
            JobPhase::Stopping(stopping) => stopping.save,
            phase => matches!(phase, JobPhase::Running | JobPhase::Completing { .. }),
        };
        self.enter(JobPhase::Stopping(Stopping { since: self.now, outcome, save, then }));
    }

    /// Brings the job to rest, if it does not rest already.
    pub(super) fn begin_suspension(&mut self) {
        match self.next.phase {
            JobPhase::Suspended | JobPhase::Stopping(_) => {}
            JobPhase::Waiting => self.enter(JobPhase::Suspended),
            _ => self.begin_stop(suspended(), AfterStop::Suspend),
        }
    }

    /// Whether the running attempt was decided with other settings than the job has now.
    pub(super) fn settings_changed(&self) -> bool {
        let runs = matches!(self.next.phase, JobPhase::Starting | JobPhase::Running);
        runs && self.next.settings_hash != self.seen.settings_hash
    }

    /// Ends the job without asking the workers.
    pub(super) fn stop_at_once(&mut self) {
        let stopping = match &self.next.phase {
            JobPhase::Done(_) => return,
            JobPhase::Stopping(stopping) if stopping.then == AfterStop::End => {
                Stopping { save: false, ..stopping.clone() }
            }
            _ => Stopping { since: self.now, outcome: interrupted(), save: false, then: AfterStop::End },
        };
        self.next.phase = JobPhase::Stopping(stopping);
    }

    /// Closes the attempt: to the history, and on to a restart or the end.
    pub(super) fn end_attempt(&mut self, verdict: &Verdict) -> String {
        let trained_long = self.next.first_step_at.is_some_and(|at| self.now - at >= HEALTHY_SECONDS);
        self.close_attempt(&verdict.message, verdict.device.clone());
        if verdict.consequence == Consequence::Fail {
            let outcome = Outcome {
                code: verdict.code,
                message: verdict.message.clone(),
                remedy: verdict.remedy.clone(),
            };
            return self.stop_without_saving(outcome);
        }
        if verdict.consequence == Consequence::Restart {
            let allowed = self.job.limits.max_restarts;
            if self.next.restarts >= allowed {
                let outcome = too_many_restarts(allowed, verdict);
                return self.stop_without_saving(outcome);
            }
            self.next.restarts += 1;
        }
        if trained_long {
            self.next.failures_in_row = 0;
        }
        let not_before = self.now + back_off_seconds(self.next.failures_in_row);
        self.next.failures_in_row = self.next.failures_in_row.saturating_add(1);
        self.enter(JobPhase::Restarting { not_before });
        self.kill_all("the group starts anew");
        format!("attempt {} ended: {}", self.next.attempt, verdict.message)
    }

    fn stop_without_saving(&mut self, outcome: Outcome) -> String {
        let reason = outcome.message.clone();
        let stopping = Stopping { since: self.now, outcome, save: false, then: AfterStop::End };
        self.enter(JobPhase::Stopping(stopping));
        self.kill_all("the job has failed");
        reason
    }

    fn close_attempt(&mut self, ended: &str, first_cause: Option<String>) {
        let number = self.next.attempt;
        if number == 0 || self.next.history.last().is_some_and(|last| last.number == number) {
            return;
        }
        self.next.history.push(AttemptReport {
            number,
            from_step: self.first_step(),
            to_step: self.next.last_step,
            ended: ended.to_owned(),
            first_cause,
        });
    }

    pub(super) fn finish_completed(&mut self) -> String {
        let message = self.rank_0_last_words().map_or_else(
            || format!("complete after {} steps", self.next.last_step),
            |words| words.message.clone(),
        );
        self.close_attempt(&message, None);
        self.finish(Outcome { code: ExitCode::Completed, message, remedy: String::new() })
    }

    /// All are gone after a stop. A group that completed in that moment has completed.
    pub(super) fn finish_stopped(&mut self, stopping: &Stopping) -> String {
        if self.rank_0_completed() {
            return self.finish_completed();
        }
        let outcome = stopping.outcome.clone();
        self.close_attempt(&outcome.message, None);
        match stopping.then {
            AfterStop::End => return self.finish(outcome),
            AfterStop::Suspend => self.enter(JobPhase::Suspended),
            AfterStop::Renew => self.enter(JobPhase::Restarting { not_before: self.now }),
        }
        outcome.message
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> String {
        self.kill_all("the job is over");
        let reason = outcome.message.clone();
        if self.next.outcome().is_none() {
            self.enter(JobPhase::Done(outcome.clone()));
        }
        self.actions.push(Action::Finish(outcome));
        reason
    }
}

/// Deadlines and ends.
impl Situation<'_> {
    /// Why the attempt cannot begin yet, if the broker is the reason; ends the job after the start deadline.
    pub(super) fn broker_missing(&mut self) -> Option<String> {
        let BrokerState::Waiting { problem, .. } = &self.seen.broker else {
            self.next.broker_waiting_since = None;
            return None;
        };
        let since = *self.next.broker_waiting_since.get_or_insert(self.now);
        let limit = self.job.limits.start_deadline_seconds;
        if self.now - since <= limit {
            return Some(format!("waiting for the broker: {problem}"));
        }
        Some(self.finish(Outcome {
            code: ExitCode::BrokerLost,
            message: format!("the broker was not ready within {limit} s: {problem}"),
            remedy: format!(
                "see that spec.kafka.bootstrapServers = {} is right and that the broker runs; raise \
                 spec.runPolicy.startDeadlineSeconds if it needs longer",
                self.job.kafka.bootstrap_servers
            ),
        }))
    }

    /// Ends the job if the attempt has had no step within the start deadline.
    pub(super) fn start_deadline_passed(&mut self) -> Option<String> {
        let limit = self.job.limits.start_deadline_seconds;
        if self.next.first_step_at.is_some() || self.now - self.next.attempt_started_at <= limit {
            return None;
        }
        let outcome = Outcome {
            code: ExitCode::DeadlineExceeded,
            message: format!(
                "attempt {} had no step within {limit} s (spec.runPolicy.startDeadlineSeconds): {}",
                self.next.attempt,
                self.whom_it_waits_for()
            ),
            remedy: "look into the logs of these workers and at their streams, or raise \
                     spec.runPolicy.startDeadlineSeconds"
                .to_owned(),
        };
        let reason = outcome.message.clone();
        self.begin_stop(outcome, AfterStop::End);
        Some(reason)
    }

    fn whom_it_waits_for(&self) -> String {
        let name = |rank: usize| self.job.devices.get(rank).map_or("?", |device| device.name.as_str());
        let late: Vec<&str> = self
            .ranks()
            .filter(|rank| self.worker(*rank).is_none_or(|it| it.confirmed_attempt != self.next.attempt))
            .map(name)
            .collect();
        if !late.is_empty() {
            return format!("not ready: {}", late.join(", "));
        }
        let poor: Vec<&str> = self.progress().map_or_else(Vec::new, |progress| {
            progress
                .devices
                .iter()
                .filter(|device| device.ledger.buffered < u64::from(self.job.stream.batch_bounds.min))
                .map(|device| device.name.as_str())
                .collect()
        });
        match poor.as_slice() {
            [] => "all workers had the attempt".to_owned(),
            names => format!("too few samples: {}", names.join(", ")),
        }
    }

    pub(super) fn active_deadline_passed(&self) -> Option<Outcome> {
        let limit = self.job.limits.active_deadline_seconds?;
        (self.now - self.next.job_started_at > limit).then(|| Outcome {
            code: ExitCode::DeadlineExceeded,
            message: format!(
                "not complete within {limit} s (spec.runPolicy.activeDeadlineSeconds): step {}, {} samples",
                self.next.last_step, self.next.last_samples
            ),
            remedy: "go on with --resume, or raise spec.runPolicy.activeDeadlineSeconds".to_owned(),
        })
    }
}

pub(super) fn interrupted() -> Outcome {
    Outcome {
        code: ExitCode::Interrupted,
        message: "stopped by the user".to_owned(),
        remedy: "go on with --resume".to_owned(),
    }
}

/// The end of an attempt, not of the job.
pub(super) fn suspended() -> Outcome {
    Outcome {
        code: ExitCode::Stopped,
        message: "suspended".to_owned(),
        remedy: "set spec.suspend to false to go on".to_owned(),
    }
}

/// The end of an attempt, not of the job.
pub(super) fn renewed() -> Outcome {
    Outcome {
        code: ExitCode::Stopped,
        message: "the job's settings changed".to_owned(),
        remedy: String::new(),
    }
}

pub(super) fn unkillable() -> Outcome {
    Outcome {
        code: ExitCode::Internal,
        message: "workers of the last attempt could not be ended".to_owned(),
        remedy: "end them by hand, then go on with --resume".to_owned(),
    }
}

fn too_many_restarts(allowed: u32, verdict: &Verdict) -> Outcome {
    let remedy = if verdict.remedy.is_empty() {
        "look into that worker's log; raise spec.runPolicy.maxRestarts if this is expected".to_owned()
    } else {
        verdict.remedy.clone()
    };
    Outcome {
        code: ExitCode::TooManyRestarts,
        message: format!(
            "failed again after {allowed} restarts (spec.runPolicy.maxRestarts); last: {}",
            verdict.message
        ),
        remedy,
    }
}

/// 1 s, 2 s, 4 s … 30 s.
fn back_off_seconds(failures_in_row: u32) -> f64 {
    let doubled = FIRST_BACK_OFF_SECONDS * 2_f64.powi(failures_in_row.min(16).cast_signed());
    doubled.min(LONGEST_BACK_OFF_SECONDS)
}
