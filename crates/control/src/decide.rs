//! The only place where start, restart, back-off, deadlines and completion are decided. No I/O, no clock.
//!
//! [`decide`] is a step function: supervision state, what is seen of the world and the time go in; the next state, what
//! to do and the reason in words come out. The same function drives local processes and pods.
//!
//! # Guarantees
//! - Workers of two attempts never live at the same time: an attempt begins when all workers of the one before are gone.
//! - The number of an attempt is in the state before its first worker is started: a body stores the state, then acts.
//! - An attempt counts as at most one restart, whatever number of workers it lost.
//! - Every phase ends: by success, or by a deadline of `spec.runPolicy`.
//!
//! # Assumptions
//! - A body carries out actions *at least once* and they are idempotent: every decision repeats what is still to be done
//!   (start, post, stop, kill) until an observation shows it done.
//! - A start that failed is observed as [`ProcessState::Exited`] without code and signal, with last words that say why.
//! - Workers are observed in the order of ranks, all with `made_for_attempt` of the attempt that they were started for.

mod cause;
pub mod history;
mod situation;
mod tuning;
mod types;

use scadles_api::worker::JobConfig;

use cause::Verdict;
use situation::{Situation, interrupted, renewed, unkillable};
pub use types::{
    Action, AfterStop, BrokerState, Decision, JobPhase, Observation, Outcome, ProcessState, Stopping,
    Supervision, UserRequest, WorkerObservation,
};

/// First pause before a new attempt, in seconds; doubles with every failure in a row.
pub const FIRST_BACK_OFF_SECONDS: f64 = 1.0;
/// Longest pause before a new attempt, in seconds.
pub const LONGEST_BACK_OFF_SECONDS: f64 = 30.0;
/// Training for this long, in seconds, ends a row of failures.
pub const HEALTHY_SECONDS: f64 = 60.0;
/// Rank 0 without progress for this long, in seconds, while its process lives, is lost.
pub const SILENCE_SECONDS: f64 = 15.0;
/// After a loss the others have this long, in seconds, to say what they saw (heartbeats and closed sockets end them on
/// their own); then they are killed. In an orderly stop they have `spec.runPolicy.stopGraceSeconds`: the last ones may
/// still write the agreed checkpoint.
pub const SETTLE_SECONDS: f64 = 2.0;
/// A killed process that is still seen after this long, in seconds, will not go: the job ends rather than hangs.
pub const KILL_PATIENCE_SECONDS: f64 = 60.0;

/// What to do now.
///
/// `now` is in seconds on the clock of [`Supervision::new`]; it never runs backwards.
pub fn decide(job: &JobConfig, state: &Supervision, seen: &Observation, now: f64) -> Decision {
    let mut situation = Situation { job, next: state.clone(), seen, now, actions: Vec::new() };
    situation.remember();
    situation.interrupt();
    let reason = match situation.next.phase.clone() {
        JobPhase::Waiting => situation.wait_for_broker(),
        JobPhase::Starting => situation.start_workers(),
        JobPhase::Running => situation.watch(),
        JobPhase::Settling { since } => situation.settle(since),
        JobPhase::Completing { since } => situation.complete(since),
        JobPhase::Restarting { not_before } => situation.restart(not_before),
        JobPhase::Stopping(stopping) => situation.stop(&stopping),
        JobPhase::Suspended => situation.rest(),
        JobPhase::Done(outcome) => situation.finish(outcome),
    };
    Decision { next: situation.next, actions: situation.actions, reason }
}

impl Situation<'_> {
    /// Requests of the user, new settings and the deadline of the whole job come before everything else.
    fn interrupt(&mut self) {
        let request = self.seen.user_request;
        if matches!(request, Some(UserRequest::Stop | UserRequest::Kill)) {
            self.next.stop_requested_at.get_or_insert(self.now);
        }
        if request == Some(UserRequest::Kill) {
            self.stop_at_once();
        }
        // Rank 0 wrote the results before it exited: the job is complete, what is left is to end the others.
        let ends_anyway = match &self.next.phase {
            JobPhase::Stopping(stopping) => {
                stopping.then == AfterStop::End || request != Some(UserRequest::Stop)
            }
            JobPhase::Done(_) => true,
            JobPhase::Completing { .. } => self.rank_0_completed(),
            _ => false,
        };
        if ends_anyway {
            return;
        }
        match request {
            Some(UserRequest::Stop | UserRequest::Kill) => self.begin_stop(interrupted(), AfterStop::End),
            Some(UserRequest::Suspend) => self.begin_suspension(),
            // The time of the rest is not counted yet: `rest` does that.
            None if self.next.phase == JobPhase::Suspended => {}
            None if self.settings_changed() => self.begin_stop(renewed(), AfterStop::Renew),
            None => {
                if let Some(outcome) = self.active_deadline_passed() {
                    self.begin_stop(outcome, AfterStop::End);
                }
            }
        }
    }

    /// Before attempt 1: the broker has the topics, or the job waits for it until the start deadline.
    fn wait_for_broker(&mut self) -> String {
        if let Some(reason) = self.broker_missing() {
            return reason;
        }
        self.begin_attempt()
    }

    /// All workers up, then the attempt posted to each of them until each has confirmed it.
    fn start_workers(&mut self) -> String {
        if self.someone_left() {
            return self.begin_settling();
        }
        if self.someone_completed() {
            return self.begin_completing();
        }
        if let Some(reason) = self.start_deadline_passed() {
            return reason;
        }
        if self.kill_workers_of_other_attempts() {
            return "workers of an earlier attempt are still there".to_owned();
        }
        let missing = self.start_missing_workers();
        if missing > 0 {
            return format!("attempt {}: {missing} workers start", self.next.attempt);
        }
        let Some(hub) = self.hub_when_all_listen() else {
            return format!("attempt {}: waiting for workers to listen", self.next.attempt);
        };
        let unconfirmed = self.post_attempt(&hub);
        if unconfirmed > 0 {
            return format!("attempt {}: {unconfirmed} workers have yet to confirm it", self.next.attempt);
        }
        self.next.formed_at = Some(self.now);
        self.enter(JobPhase::Running);
        format!("attempt {}: all workers have it", self.next.attempt)
    }

    /// The group trains.
    fn watch(&mut self) -> String {
        if self.rank_0_completed() {
            return self.begin_completing();
        }
        if self.someone_left() {
            return self.begin_settling();
        }
        if self.someone_completed() {
            return self.begin_completing();
        }
        if let Some(reason) = self.start_deadline_passed() {
            return reason;
        }
        if let Some(outcome) = self.stalled() {
            let reason = outcome.message.clone();
            self.begin_stop(outcome, AfterStop::End);
            return reason;
        }
        if let Some(seconds) = self.silence_of_rank_0() {
            let verdict = Verdict::silent(self.job, seconds);
            return self.end_attempt(&verdict);
        }
        self.tune();
        match self.next.first_step_at {
            None => format!("attempt {}: before its first step", self.next.attempt),
            Some(_) => format!("attempt {} trains: step {}", self.next.attempt, self.next.last_step),
        }
    }

    /// A worker was lost: the others say what they saw, then the attempt ends.
    fn settle(&mut self, since: f64) -> String {
        if self.rank_0_completed() {
            return self.begin_completing();
        }
        // A follower's end may be seen before that of the first cause, so judge only when all had the time to end.
        if self.anyone_alive() && self.now - since < self.settle_seconds() {
            return format!("attempt {}: a worker was lost, the others end", self.next.attempt);
        }
        let verdict = self.judge();
        self.end_attempt(&verdict)
    }

    /// At least one worker completed; rank 0's end tells whether the job did.
    fn complete(&mut self, since: f64) -> String {
        let grace = self.job.limits.stop_grace_seconds;
        if !self.anyone_alive() || (self.rank_0_gone() && !self.rank_0_completed()) {
            return if self.rank_0_completed() { self.finish_completed() } else { self.begin_settling() };
        }
        if self.now - since <= grace {
            return "waiting for all workers to finish".to_owned();
        }
        if !self.rank_0_completed() {
            let verdict = Verdict::unfinished(self.job, grace);
            return self.end_attempt(&verdict);
        }
        self.kill_all(&format!("still running {grace} s after rank 0 completed"));
        if self.now - since > grace + KILL_PATIENCE_SECONDS {
            return self.finish_completed();
        }
        "the job is complete; workers that did not end are killed".to_owned()
    }

    /// Between two attempts: nobody left, the pause over, the broker there.
    fn restart(&mut self, not_before: f64) -> String {
        if self.anyone_alive() {
            self.kill_all("the group starts anew");
            if self.now - self.next.phase_since > KILL_PATIENCE_SECONDS {
                return self.finish(unkillable());
            }
            return "waiting for the workers of the last attempt to end".to_owned();
        }
        if self.now < not_before {
            return format!("attempt {} starts in {:.1} s", self.next.attempt + 1, not_before - self.now);
        }
        if let Some(reason) = self.broker_missing() {
            return reason;
        }
        self.begin_attempt()
    }

    /// Resting: nothing runs. The time does not count towards the deadline of the job.
    fn rest(&mut self) -> String {
        if self.seen.user_request == Some(UserRequest::Suspend) {
            return "suspended".to_owned();
        }
        self.next.job_started_at += self.now - self.next.phase_since;
        self.enter(JobPhase::Restarting { not_before: self.now });
        "going on after a suspension".to_owned()
    }

    /// The group stops: an agreed checkpoint if there is a group to agree, then the workers go.
    fn stop(&mut self, stopping: &Stopping) -> String {
        let waited = self.now - stopping.since;
        let grace = self.job.limits.stop_grace_seconds;
        if !self.anyone_alive() {
            return self.finish_stopped(stopping);
        }
        if stopping.save && self.next.formed_at.is_some() && waited <= grace {
            self.actions.push(Action::RequestStop { rank: 0, checkpoint: true });
            return "stopping at an agreed step".to_owned();
        }
        self.kill_all("the job ends");
        if waited > grace + KILL_PATIENCE_SECONDS {
            return self.finish_stopped(stopping);
        }
        "waiting for the workers to end".to_owned()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod tests;
