//! What a cluster shows of a job: facts → status, and whether that is worth a write. No I/O, no clock.
//!
//! Conditions follow one table (`conditions`); levels are rounded and keep still within a dead band; [`worth_writing`]
//! tells state, levels and counters apart, so that a steady job costs a heartbeat and nothing else.

mod conditions;
mod levels;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use scadles_api::{
    BufferState, Ledger, Progress, ScadlesJobStatus,
    progress::LastWords,
    status::{
        DeviceStatus, EvaluationStatus, FailureStatus, JobState, MOST_DEVICE_ROWS, MOST_FAILURES,
        ResolvedStatus, ResultStatus,
    },
};

use crate::{
    decide::{AfterStop, BrokerState, JobPhase, ProcessState, Supervision, WorkerObservation},
    mistake::Mistakes,
};
pub use levels::{Worth, worth_writing};

/// A stream that has not grown for this long, in seconds, is told as silent.
pub const SILENT_SECONDS: f64 = 10.0;

/// Longest sentence of a status, in characters: the definition allows 4,096 bytes.
const LONGEST_SENTENCE: usize = 1000;

/// What keeps a pod from running, in the cluster's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrouble {
    /// Device of the pod; `producer` for the producer's.
    pub device: String,
    /// A word, such as `ImagePullBackOff`, `Unschedulable` or `PodRejected`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// How a pod of the latest attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPod {
    /// Device.
    pub device: String,
    /// Node that it ran on.
    pub node: Option<String>,
    /// Exit code of the container.
    pub exit_code: Option<i32>,
}

/// Everything that a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Generation of the object.
    pub generation: Option<i64>,
    /// Seconds since 1970.
    pub now: f64,
    /// The supervisor's memory after its latest decision.
    pub supervision: &'a Supervision,
    /// Why it decided so, in words.
    pub reason: &'a str,
    /// In the order of ranks.
    pub workers: &'a [WorkerObservation],
    /// Rank 0's latest answer.
    pub progress: Option<&'a Progress>,
    /// Brokers and topics.
    pub broker: &'a BrokerState,
    /// Pods that do not come up.
    pub troubles: &'a [PodTrouble],
    /// Pods of the latest attempt that have ended.
    pub ended: &'a [EndedPod],
    /// What was resolved.
    pub resolved: &'a ResolvedStatus,
    /// Where the model lies when it is done.
    pub result_uri: &'a str,
    /// What rank 0 said when it ended: the final accuracy, account and model.
    pub last_words: Option<&'a LastWords>,
}

/// The status of a job that can run.
pub fn status(previous: &ScadlesJobStatus, facts: &Facts<'_>) -> ScadlesJobStatus {
    let supervision = facts.supervision;
    let state = state(&supervision.phase);
    let progress = facts.progress.filter(|progress| progress.attempt == supervision.attempt);
    let mut next = ScadlesJobStatus {
        observed_generation: facts.generation,
        state: Some(state),
        message: shortened(&message(facts, state)),
        attempt: supervision.attempt,
        restarts: supervision.restarts,
        ready: ready(facts),
        step: supervision.last_step,
        samples: supervision.last_samples,
        checkpoint: supervision.checkpoint.clone(),
        failures: failures(previous, facts),
        resolved: Some(facts.resolved.clone()),
        started_at: (supervision.attempt > 0)
            .then(|| previous.started_at.clone().unwrap_or_else(|| time(supervision.attempt_started_at))),
        finished_at: supervision
            .outcome()
            .map(|_| previous.finished_at.clone().unwrap_or_else(|| time(facts.now))),
        supervision: Some(memory(supervision)),
        result: result(previous, facts, state),
        evaluation: evaluation(facts).or_else(|| previous.evaluation.clone()),
        ledger: ledger(previous, facts, progress, state),
        ..previous.clone()
    };
    if let Some(progress) = progress {
        show_progress(&mut next, previous, progress, facts.now);
    } else {
        next.samples_per_second = 0.0;
        next.starved = 0;
    }
    next.conditions = conditions::conditions(&next, previous, facts, state);
    next
}

/// The status of a job that is wrong: nothing but an edit helps. What ran before stays as it was.
pub fn invalid(
    previous: &ScadlesJobStatus,
    generation: Option<i64>,
    mistakes: &Mistakes,
    now: f64,
) -> ScadlesJobStatus {
    let mut next = ScadlesJobStatus {
        observed_generation: generation,
        state: Some(JobState::Invalid),
        message: shortened(mistakes.to_string().trim_end()),
        ..previous.clone()
    };
    next.conditions = conditions::invalid(&next, previous, now);
    next
}

/// The supervisor's memory as the status keeps it: attempts that ended long ago are left to the events.
fn memory(supervision: &Supervision) -> String {
    let mut kept = supervision.clone();
    kept.history.drain(..kept.history.len().saturating_sub(MOST_FAILURES));
    kept.history.iter_mut().for_each(|attempt| attempt.ended = shortened(&attempt.ended));
    // Plain data always has a JSON form.
    serde_json::to_string(&kept).unwrap_or_default()
}

/// A sentence that fits into the status.
fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_SENTENCE).collect()
}

/// The state in one word.
fn state(phase: &JobPhase) -> JobState {
    match phase {
        JobPhase::Waiting => JobState::Waiting,
        JobPhase::Starting => JobState::Starting,
        JobPhase::Running | JobPhase::Completing { .. } => JobState::Running,
        JobPhase::Settling { .. } | JobPhase::Restarting { .. } => JobState::Restarting,
        JobPhase::Stopping(stopping) if stopping.then == AfterStop::Renew => JobState::Restarting,
        JobPhase::Stopping(_) => JobState::Stopping,
        JobPhase::Suspended => JobState::Suspended,
        JobPhase::Done(outcome) if outcome.code == scadles_api::ExitCode::Completed => JobState::Complete,
        JobPhase::Done(_) => JobState::Failed,
    }
}

/// One sentence. It changes with the state, not with every look.
fn message(facts: &Facts<'_>, state: JobState) -> String {
    if let Some(outcome) = facts.supervision.outcome() {
        return match outcome.remedy.as_str() {
            "" => outcome.message.clone(),
            remedy => format!("{}; {remedy}", outcome.message),
        };
    }
    match (state, facts.broker, facts.troubles.first()) {
        (JobState::Waiting | JobState::Restarting, BrokerState::Waiting { problem, .. }, _) => {
            format!("waiting for the broker: {problem}")
        }
        (JobState::Waiting | JobState::Starting | JobState::Restarting, _, Some(trouble)) => {
            format!("{}: {}: {}", trouble.device, trouble.reason, trouble.message)
        }
        (JobState::Running, _, _) => "training".to_owned(),
        (JobState::Starting, _, _) => format!("attempt {} starts", facts.supervision.attempt),
        (JobState::Restarting, _, _) => {
            let last = facts.supervision.history.last().map_or(facts.reason, |last| last.ended.as_str());
            format!("the group starts anew: {last}")
        }
        (JobState::Suspended, _, _) => match &facts.supervision.checkpoint {
            Some(kept) => format!("suspended; checkpoint {} of step {} is kept", kept.name, kept.step),
            None => "suspended before the first checkpoint".to_owned(),
        },
        _ => facts.reason.to_owned(),
    }
}

/// Workers that have the attempt, of all.
fn ready(facts: &Facts<'_>) -> String {
    let attempt = facts.supervision.attempt;
    let ready = facts.workers.iter().filter(|worker| {
        worker.made_for_attempt == attempt && matches!(worker.process, ProcessState::Listening(_))
    });
    format!("{}/{}", ready.count(), facts.workers.len())
}

/// One entry per attempt that failed, the newest last.
fn failures(previous: &ScadlesJobStatus, facts: &Facts<'_>) -> Vec<FailureStatus> {
    let mut failures = previous.failures.clone();
    let known = failures.last().map_or(0, |failure| failure.attempt);
    let not_a_failure = ["suspended", "the job's settings changed"];
    let complete = facts
        .supervision
        .outcome()
        .filter(|outcome| outcome.code == scadles_api::ExitCode::Completed)
        .map_or(0, |_| facts.supervision.attempt);
    for ended in &facts.supervision.history {
        if ended.number <= known || ended.number == complete || not_a_failure.contains(&ended.ended.as_str())
        {
            continue;
        }
        let pod = ended
            .first_cause
            .as_ref()
            .and_then(|device| facts.ended.iter().find(|pod| pod.device == *device));
        failures.push(FailureStatus {
            attempt: ended.number,
            device: ended.first_cause.clone(),
            node: pod.and_then(|pod| pod.node.clone()),
            exit_code: pod.and_then(|pod| pod.exit_code),
            message: shortened(&ended.ended),
            at: time(facts.now),
        });
    }
    failures.drain(..failures.len().saturating_sub(MOST_FAILURES));
    failures
}

/// The account of all devices together, as rank 0 has it. A group that has not begun its first round has none yet; what is
/// known when all is over or at rest is newer than what was last polled.
fn ledger(
    previous: &ScadlesJobStatus,
    facts: &Facts<'_>,
    progress: Option<&Progress>,
    state: JobState,
) -> Option<Ledger> {
    let told = facts.last_words.and_then(|words| words.ledger);
    let polled = progress.filter(|progress| !progress.devices.is_empty());
    let polled = polled.map(|progress| progress.devices.iter().map(|device| device.ledger).sum());
    let is_over = matches!(state, JobState::Complete | JobState::Failed | JobState::Suspended);
    let earlier = previous.ledger;
    told.or(if is_over { earlier.or(polled) } else { polled.or(earlier) })
}

fn evaluation(facts: &Facts<'_>) -> Option<EvaluationStatus> {
    let of = |step, pictures, top_k: &[scadles_api::progress::TopK]| {
        let top_1 = top_k.iter().find(|entry| entry.accuracy_k == 1)?;
        Some(EvaluationStatus { step, pictures, top1_percent: percent(top_1.share) })
    };
    if let Some(accuracy) = facts.last_words.and_then(|words| words.accuracy.as_ref()) {
        return of(accuracy.step, accuracy.pictures, &accuracy.top_k);
    }
    let evaluation = facts.progress?.evaluation.as_ref()?;
    of(evaluation.step, evaluation.pictures, &evaluation.top_k)
}

fn result(previous: &ScadlesJobStatus, facts: &Facts<'_>, state: JobState) -> Option<ResultStatus> {
    if state != JobState::Complete {
        return previous.result.clone();
    }
    let (earlier, words) = (previous.result.as_ref(), facts.last_words);
    let kept = |fresh: Option<&String>, earlier: Option<&String>| fresh.or(earlier).cloned();
    Some(ResultStatus {
        uri: facts.result_uri.to_owned(),
        sha256: kept(
            words.and_then(|it| it.model_sha256.as_ref()),
            earlier.and_then(|it| it.sha256.as_ref()),
        ),
        parameter_hash: kept(
            words.and_then(|it| it.parameter_hash.as_ref()),
            earlier.and_then(|it| it.parameter_hash.as_ref()),
        ),
        top1_percent: evaluation(facts)
            .map(|evaluation| evaluation.top1_percent)
            .or_else(|| earlier.and_then(|it| it.top1_percent)),
    })
}

fn show_progress(next: &mut ScadlesJobStatus, previous: &ScadlesJobStatus, progress: &Progress, now: f64) {
    next.step = next.step.max(progress.step);
    next.samples = next.samples.max(progress.samples);
    next.epoch = levels::significant(progress.epoch, 3);
    next.tuning = progress.tunings.last().copied().or(previous.tuning);
    next.loss = progress.loss.filter(|loss| loss.is_finite()).map(|loss| levels::significant(loss, 3));
    next.samples_per_second = levels::calm(previous.samples_per_second, progress.samples_per_second);
    let lag = progress.devices.iter().map(|device| device.ledger.buffered).sum::<u64>();
    next.lag = levels::calm(previous.lag as f64, lag as f64) as u64;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for device in &progress.devices {
        *counts.entry(format!("{:?}", device.state)).or_default() += 1;
    }
    next.starved = counts.get("Starved").copied().unwrap_or(0);
    next.device_counts = counts;
    let mut rows: Vec<&scadles_api::DeviceProgress> = progress.devices.iter().collect();
    rows.sort_by_key(|device| {
        (urgency(device.state), std::cmp::Reverse(device.ledger.lost), device.name.clone())
    });
    next.devices = rows.iter().take(MOST_DEVICE_ROWS).map(|device| row(device, previous, now)).collect();
}

/// The rows that need a look first come first.
fn urgency(state: BufferState) -> u8 {
    match state {
        BufferState::Overflowing => 0,
        BufferState::Starved => 1,
        BufferState::Backlogged => 2,
        BufferState::Unknown => 3,
        BufferState::Healthy => 4,
    }
}

fn row(device: &scadles_api::DeviceProgress, previous: &ScadlesJobStatus, now: f64) -> DeviceStatus {
    let earlier = previous.devices.iter().find(|row| row.name == device.name);
    let calm = |of: fn(&DeviceStatus) -> f64, fresh: f64| levels::calm(earlier.map_or(0.0, of), fresh);
    let silent_since = (device.silent_seconds > SILENT_SECONDS).then(|| {
        let known = earlier.and_then(|row| row.silent_since.clone());
        known.unwrap_or_else(|| time(now - device.silent_seconds))
    });
    DeviceStatus {
        name: device.name.clone(),
        state: device.state,
        lag: calm(|row| row.lag as f64, device.ledger.buffered as f64) as u64,
        rate: calm(|row| row.rate, device.stream_rate),
        batch: calm(|row| f64::from(row.batch), f64::from(device.local_batch)) as u32,
        weight: calm(|row| row.weight, device.aggregation_weight),
        dropped: device.ledger.dropped,
        lost: device.ledger.lost,
        rejected: device.ledger.rejected,
        silent_since,
    }
}

fn percent(share: f64) -> f64 {
    (share * 10_000.0).round() / 100.0
}

/// Seconds since 1970 in RFC 3339.
pub fn time(seconds: f64) -> String {
    let since = Duration::from_secs_f64(seconds.clamp(0.0, 1e11));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests;
