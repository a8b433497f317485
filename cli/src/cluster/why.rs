//! `scadles why JOB`: the first cause in one sentence. [`why()`] is pure; [`explain`] asks.
//!
//! Causes come in an order: one that has others for its consequences is looked for first. The operator's own words are
//! used where it has them; pods and warnings tell the rest, and what has happened since it last wrote.

mod ended;
mod pods;
mod running;
mod topics;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use scadles_api::{
    ExitCode, ScadlesJob, ScadlesJobStatus,
    crd::ScadlesJobObject,
    status::{Condition, JobState},
};
use scadles_control::{ValidatedJob, validate};

use super::{HOW_TO_INSTALL, args::WhyArgs, client::Cluster, in_runtime, time};
use crate::{
    failure::Result,
    screen::{say, span},
};

pub use pods::{Trouble, What, troubles};

/// An operator that runs has looked at a new job by then, in seconds.
const FIRST_LOOK_SECONDS: f64 = 30.0;
/// An operator that runs has seen a change of pods by then, in seconds.
const NOTICE_SECONDS: f64 = 30.0;
/// A job that takes steps has its status written by then, in seconds: heartbeats come every minute.
const STALE_SECONDS: f64 = 300.0;
/// Deletion takes no longer, in seconds: topics are given up on after a while.
const DELETION_SECONDS: f64 = 60.0;

/// Name of the operator in `spec.managedBy`.
const MANAGER: &str = "scadles-operator";

/// Everything that the sentence is made from.
pub struct Facts<'a> {
    job: &'a ScadlesJobObject,
    /// Warnings about pods of the namespace.
    events: &'a [Event],
    /// Pods of the job; `None` where they may not be seen.
    pods: Option<&'a [Pod]>,
    /// Seconds since 1970.
    now: f64,
    /// The job with its defaults, unless it is wrong.
    valid: Option<ValidatedJob>,
}

/// The sentence, and whether there is nothing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// One sentence: what, and what to do.
    pub sentence: String,
    /// The job does what it should.
    pub fine: bool,
}

impl Answer {
    fn fine(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), fine: true }
    }

    fn wrong(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), fine: false }
    }
}

impl<'a> Facts<'a> {
    /// Facts about `job` at the time `now`, seconds since 1970.
    pub fn new(job: &'a ScadlesJobObject, events: &'a [Event], pods: Option<&'a [Pod]>, now: f64) -> Self {
        Self { job, events, pods, now, valid: validate(&ScadlesJob::from(job)).ok() }
    }

    fn name(&self) -> String {
        self.job.name_any()
    }

    fn namespace(&self) -> String {
        self.job.namespace().unwrap_or_default()
    }

    /// Seconds since a time of the status.
    fn age(&self, time: &str) -> Option<f64> {
        time::parse(time).map(|then| (self.now - then).max(0.0))
    }
}

/// A condition that does not hold, and says why.
fn denied<'a>(status: &'a ScadlesJobStatus, kind: &str) -> Option<&'a Condition> {
    status.condition(kind).filter(|it| it.status == "False" && !it.message.is_empty())
}

/// The first cause.
pub fn why(facts: &Facts<'_>) -> Answer {
    if let Some(answer) = leaving(facts) {
        return answer;
    }
    let Some((status, state)) = facts.job.status.as_ref().and_then(|status| Some((status, status.state?)))
    else {
        return not_looked_at(facts);
    };
    match state {
        JobState::Complete => ended::complete(facts, status),
        JobState::Invalid => ended::invalid(facts, status),
        JobState::Failed => ended::failed(facts, status),
        JobState::Suspended => ended::suspended(facts, status),
        JobState::Waiting
        | JobState::Starting
        | JobState::Running
        | JobState::Restarting
        | JobState::Stopping => ended::unseen_completion(facts, status)
            .or_else(|| topics::answer(facts, status))
            .or_else(|| pods::answer(facts, status))
            .or_else(|| running::lost_worker(facts, status, state))
            .or_else(|| running::streams(facts, status, state))
            .or_else(|| stale(facts, status, state))
            .unwrap_or_else(|| running::fine(facts, status, state)),
    }
}

/// An object that goes, or is somebody else's.
fn leaving(facts: &Facts<'_>) -> Option<Answer> {
    if let Some(since) = &facts.job.metadata.deletion_timestamp {
        let age = facts.now - time::of(since);
        if age <= DELETION_SECONDS {
            return Some(Answer::fine(format!("it is being deleted, for {} now", span(age))));
        }
        let holders = facts.job.finalizers().join(", ");
        return Some(Answer::wrong(format!(
            "it has been deleted {} ago and is still there, held by {holders}: its operator is down; start it again, or \
             let go of the job's topics with: kubectl -n {} patch scadlesjob {} --type merge -p \
             '{{\"metadata\":{{\"finalizers\":null}}}}'",
            span(age),
            facts.namespace(),
            facts.name()
        )));
    }
    let manager = facts.job.spec.managed_by.as_deref().filter(|manager| *manager != MANAGER)?;
    Some(Answer::fine(format!(
        "nothing is done because spec.managedBy = {manager}: scadles leaves it to that controller"
    )))
}

/// An object without a status.
fn not_looked_at(facts: &Facts<'_>) -> Answer {
    let age = facts.job.creation_timestamp().map_or(0.0, |made| (facts.now - time::of(&made)).max(0.0));
    if age <= FIRST_LOOK_SECONDS {
        return Answer::fine(format!(
            "nothing is wrong yet: it was made {} ago and no operator has looked at it",
            span(age)
        ));
    }
    Answer::wrong(format!(
        "no operator has looked at it in the {} since it was made: none runs, or none watches namespace {}; install one: \
         {HOW_TO_INSTALL}",
        span(age),
        facts.namespace()
    ))
}

/// A status that stands still although the job takes steps.
fn stale(facts: &Facts<'_>, status: &ScadlesJobStatus, state: JobState) -> Option<Answer> {
    let written = status.heartbeat_at.as_deref().filter(|_| state == JobState::Running)?;
    facts.age(written).filter(|age| *age > STALE_SECONDS)?;
    Some(Answer::wrong(format!(
        "its status has not been written {}: the operator is down, or the group takes no steps; look at: kubectl get pods -A \
         -l app.kubernetes.io/part-of=scadles",
        time::since(written, facts.now)
    )))
}

/// Prints the sentence.
pub fn explain(args: &WhyArgs) -> Result<ExitCode> {
    let answer = in_runtime(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        let job = cluster.job(&args.job).await?;
        // Who may see the job but not its pods is told what the status knows.
        let pods = cluster.pods(&job).await.ok();
        let events = cluster.warnings().await.unwrap_or_default();
        Ok(why(&Facts::new(&job, &events, pods.as_deref(), time::now())))
    })?;
    say(&answer.sentence);
    // Code 1 is what scripts take for "something is wrong".
    Ok(if answer.fine { ExitCode::Completed } else { ExitCode::Internal })
}
