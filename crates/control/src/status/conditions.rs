//! The table of conditions. Reasons come from a closed list. No I/O.

use scadles_api::{
    BufferState, ScadlesJobStatus,
    status::{Condition, JobState},
};

use super::{Facts, time};
use crate::decide::BrokerState;

/// A condition before it gets its times: type, holds, reason, message.
struct Row(&'static str, Option<bool>, &'static str, String);

pub(super) fn conditions(
    next: &ScadlesJobStatus,
    previous: &ScadlesJobStatus,
    facts: &Facts<'_>,
    state: JobState,
) -> Vec<Condition> {
    let message = next.message.clone();
    let is = |wanted: JobState| state == wanted;
    let (ready, ready_reason) = match state {
        JobState::Running => (true, "Training"),
        JobState::Suspended => (true, "Suspended"),
        JobState::Complete => (true, "Completed"),
        JobState::Invalid => (false, "InvalidSpec"),
        JobState::Failed => (false, "Failed"),
        JobState::Waiting => (false, "WaitingForBroker"),
        JobState::Starting => (false, "Starting"),
        JobState::Restarting => (false, "Restarting"),
        JobState::Stopping => (false, "Stopping"),
    };
    let settled = matches!(
        state,
        JobState::Running | JobState::Suspended | JobState::Complete | JobState::Failed | JobState::Invalid
    );
    let said = |holds: bool| if holds { message.clone() } else { String::new() };
    let word = |holds: bool, yes: &'static str, no: &'static str| if holds { yes } else { no };
    let failed = is(JobState::Failed);
    let rows = vec![
        Row("Ready", Some(ready), ready_reason, message.clone()),
        Row("Reconciling", Some(!settled), word(!settled, "Progressing", "Settled"), said(!settled)),
        Row("Stalled", Some(failed), word(failed, "Failed", "NotStalled"), said(failed)),
        Row(
            "Suspended",
            Some(is(JobState::Suspended)),
            word(is(JobState::Suspended), "Asked", "NotAsked"),
            String::new(),
        ),
        Row(
            "Complete",
            Some(is(JobState::Complete)),
            word(is(JobState::Complete), "Completed", "NotYet"),
            said(is(JobState::Complete)),
        ),
        Row("Failed", Some(failed), failed_reason(facts, failed), said(failed)),
        topics(facts),
        pods(facts, state),
        streams(next, state),
    ];
    dated(rows, next, previous, facts.now)
}

/// Why the job has failed, in a word: the name of the exit code.
fn failed_reason(facts: &Facts<'_>, failed: bool) -> &'static str {
    use scadles_api::ExitCode as Code;
    let Some(outcome) = facts.supervision.outcome().filter(|_| failed) else { return "NotFailed" };
    match outcome.code {
        Code::Configuration => "ConfigurationError",
        Code::BrokerLost => "BrokerLost",
        Code::StorageFailed => "StorageFailed",
        Code::StreamStalled => "StreamStalled",
        Code::TooManyRejected => "TooManyRejected",
        Code::Diverged => "Diverged",
        Code::TopicLost => "TopicLost",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::TooManyRestarts => "TooManyRestarts",
        Code::Interrupted | Code::Stopped => "Stopped",
        Code::Completed | Code::Internal | Code::PeerLost | Code::Orphaned => "InternalError",
    }
}

fn topics(facts: &Facts<'_>) -> Row {
    match facts.broker {
        BrokerState::Ready => Row("TopicsReady", Some(true), "TopicsReady", String::new()),
        BrokerState::Waiting { problem, .. } => {
            Row("TopicsReady", Some(false), "BrokerUnreachable", problem.clone())
        }
    }
}

fn pods(facts: &Facts<'_>, state: JobState) -> Row {
    if let Some(trouble) = facts.troubles.first() {
        let reason = match trouble.reason.as_str() {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                "ImagePullFailed"
            }
            "Unschedulable" => "Unschedulable",
            "PodRejected" => "PodRejected",
            "NameTaken" => "NameTaken",
            "CreateContainerConfigError" | "CreateContainerError" => "ContainerConfigError",
            "SecretMissing" => "SecretMissing",
            "ClaimMissing" => "ClaimMissing",
            _ => "PodsNotReady",
        };
        return Row("PodsReady", Some(false), reason, format!("{}: {}", trouble.device, trouble.message));
    }
    match state {
        JobState::Running => Row("PodsReady", Some(true), "AllReady", String::new()),
        JobState::Complete | JobState::Suspended | JobState::Failed => {
            Row("PodsReady", Some(false), "NotNeeded", String::new())
        }
        _ => Row("PodsReady", Some(false), "PodsNotReady", String::new()),
    }
}

/// A stream that flows too slowly is told apart from one that is silent.
fn streams(next: &ScadlesJobStatus, state: JobState) -> Row {
    if state != JobState::Running || next.devices.is_empty() {
        return Row("StreamsHealthy", None, "NotMeasured", String::new());
    }
    let names = |wanted: &dyn Fn(&scadles_api::status::DeviceStatus) -> bool| -> Vec<&str> {
        next.devices.iter().filter(|row| wanted(row)).map(|row| row.name.as_str()).collect()
    };
    let silent = names(&|row| row.silent_since.is_some());
    let overflowing = names(&|row| row.state == BufferState::Overflowing);
    let starved = names(&|row| row.state == BufferState::Starved);
    let bad = |reason, what: &str, names: &[&str]| {
        Row("StreamsHealthy", Some(false), reason, format!("{what}: {}", shortened(names)))
    };
    if !silent.is_empty() {
        bad("StreamSilent", "no sample arrives", &silent)
    } else if !overflowing.is_empty() {
        bad("StreamOverflowing", "more arrives than is trained, the buffer is full", &overflowing)
    } else if !starved.is_empty() {
        bad("StreamSlow", "the group waits for samples", &starved)
    } else {
        Row("StreamsHealthy", Some(true), "AllFlowing", String::new())
    }
}

/// At most five names.
fn shortened(names: &[&str]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}

pub(super) fn invalid(next: &ScadlesJobStatus, previous: &ScadlesJobStatus, now: f64) -> Vec<Condition> {
    let no = |kind, reason| Row(kind, Some(false), reason, String::new());
    let rows = vec![
        Row("Ready", Some(false), "InvalidSpec", next.message.clone()),
        no("Reconciling", "Settled"),
        Row("Stalled", Some(true), "InvalidSpec", next.message.clone()),
        no("Suspended", "NotAsked"),
        no("Complete", "NotYet"),
        no("Failed", "NotFailed"),
        no("TopicsReady", "InvalidSpec"),
        no("PodsReady", "InvalidSpec"),
        Row("StreamsHealthy", None, "NotMeasured", String::new()),
    ];
    dated(rows, next, previous, now)
}

/// The time of a condition is that of its last change of status.
fn dated(rows: Vec<Row>, next: &ScadlesJobStatus, previous: &ScadlesJobStatus, now: f64) -> Vec<Condition> {
    rows.into_iter()
        .map(|Row(kind, holds, reason, message)| {
            let status = match holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let earlier = previous.conditions.iter().find(|it| it.kind == kind && it.status == status);
            Condition {
                kind: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message,
                observed_generation: next.observed_generation,
                last_transition_time: earlier.map_or_else(|| time(now), |it| it.last_transition_time.clone()),
            }
        })
        .collect()
}
