//! Jobs that run, or are about to. Pure.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use scadles_api::{
    BufferState, ScadlesJobStatus,
    job::BatchRuleName,
    names::labels,
    status::{DeviceStatus, FailureStatus, JobState},
};

use super::{
    Answer, Facts,
    ended::{is_of, terminated},
};
use crate::{
    cluster::{
        time,
        words::{in_cluster, list, one_line, rate},
    },
    screen::{grouped, span},
};

/// Exit codes above this say which signal ended a container.
const SIGNAL_BASE: i32 = 128;
/// What a container gets that uses more memory than it may, among others.
const KILLED: i32 = 137;

/// A worker that is gone, and a group that starts anew.
pub(super) fn lost_worker(facts: &Facts<'_>, status: &ScadlesJobStatus, state: JobState) -> Option<Answer> {
    let told = status.failures.last().filter(|failure| match state {
        JobState::Restarting => failure.attempt == status.attempt,
        JobState::Starting => failure.attempt + 1 == status.attempt,
        _ => false,
    });
    let Some(failure) = told else {
        let unrequested = state == JobState::Restarting && !status.message.contains("settings changed");
        return unrequested.then(|| Answer::wrong(one_line(&in_cluster(&status.message))));
    };
    let cause = killed(facts, failure).unwrap_or_else(|| Cause {
        what: format!("attempt {} ended: {}", failure.attempt, one_line(&in_cluster(&failure.message))),
        remedy: None,
    });
    let from = match &status.checkpoint {
        Some(checkpoint) => format!("goes on from step {}", grouped(checkpoint.step)),
        None => "begins anew".to_owned(),
    };
    let of = facts.valid.as_ref().map_or(String::new(), |valid| format!(" of {}", valid.limits.max_restarts));
    let remedy = cause.remedy.map_or(String::new(), |remedy| format!("; {remedy}"));
    Some(Answer::wrong(format!(
        "{}, and attempt {} {from} (restart {}{of}){remedy}",
        cause.what,
        failure.attempt + 1,
        status.restarts,
    )))
}

struct Cause {
    what: String,
    remedy: Option<String>,
}

/// A worker that a signal ended.
fn killed(facts: &Facts<'_>, failure: &FailureStatus) -> Option<Cause> {
    let device = failure.device.as_deref()?;
    let code = failure.exit_code.filter(|code| *code > SIGNAL_BASE)?;
    let out_of_memory = facts.pods.into_iter().flatten().any(|pod| {
        is_of(pod, device, failure.attempt)
            && terminated(pod).is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"))
    });
    let node = failure.node.as_deref();
    let place = node.map_or(String::new(), |node| format!(" on node {node}"));
    let how = match (out_of_memory, code) {
        (true, _) => "out of memory".to_owned(),
        (false, code) => format!("signal {}", code - SIGNAL_BASE),
    };
    let template = facts.job.spec.devices.template.as_ref().and_then(|template| template.resources.as_ref());
    let limit = template.and_then(|resources| resources.limits.as_ref()?.get("memory"));
    let remedy = match (out_of_memory, limit) {
        (true, Some(limit)) => format!("raise spec.devices.template.resources.limits.memory = {}", limit.0),
        (true, None) => "ask for more in spec.devices.template.resources.requests.memory".to_owned(),
        (false, _) if code != KILLED => format!("its log: {}", log_line(facts, device, failure.attempt)?),
        (false, _) => {
            format!("if nobody did it, ask the node: kubectl describe node {}", node.unwrap_or("NODE"))
        }
    };
    Some(Cause {
        what: format!("{device} was killed{place} (exit code {code}: {how})"),
        remedy: Some(remedy),
    })
}

fn log_line(facts: &Facts<'_>, device: &str, attempt: u32) -> Option<String> {
    let pod = facts.pods?.iter().find(|pod| is_of(pod, device, attempt))?;
    Some(format!("kubectl -n {} logs {}", facts.namespace(), pod.name_any()))
}

/// Streams that bring nothing, too much or too little.
pub(super) fn streams(facts: &Facts<'_>, status: &ScadlesJobStatus, state: JobState) -> Option<Answer> {
    if state != JobState::Running {
        return None;
    }
    let those = |wanted: fn(&DeviceStatus) -> bool| -> Vec<&DeviceStatus> {
        status.devices.iter().filter(|device| wanted(device)).collect()
    };
    let silent = those(|device| device.silent_since.is_some());
    if !silent.is_empty() {
        return Some(Answer::wrong(silence(facts, &silent)));
    }
    let full = those(|device| device.state == BufferState::Overflowing);
    if !full.is_empty() {
        return Some(Answer::wrong(flood(&full)));
    }
    let slow = those(|device| device.state == BufferState::Starved);
    (!slow.is_empty()).then(|| Answer::wrong(slowness(facts, status, &slow)))
}

fn names(devices: &[&DeviceStatus]) -> String {
    list(&devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>())
}

fn silence(facts: &Facts<'_>, silent: &[&DeviceStatus]) -> String {
    // Times of one form sort as texts.
    let since = silent.iter().filter_map(|device| device.silent_since.as_deref()).min().unwrap_or_default();
    let valid = facts.valid.as_ref();
    let topic = |device: &DeviceStatus| {
        let known = valid?.devices.iter().find(|known| known.name == device.name)?;
        Some(known.topic.clone())
    };
    let topics: Vec<String> = silent.iter().filter_map(|device| topic(device)).collect();
    let remedy = producer(facts).unwrap_or_else(|| match topics.as_slice() {
        [] => "; see that something sends to them".to_owned(),
        topics => format!("; see that something sends to {}", list(topics)),
    });
    format!("no sample arrives on {} {}{remedy}", names(silent), time::since(since, facts.now))
}

/// A job with simulated streams has its sender at hand.
fn producer(facts: &Facts<'_>) -> Option<String> {
    facts.job.spec.producer.as_ref()?;
    let is_producer =
        |pod: &&Pod| pod.labels().get(labels::COMPONENT).is_some_and(|component| component == "producer");
    let Some(pod) = facts.pods?.iter().find(is_producer) else {
        return Some(": its producer's pod is not there".to_owned());
    };
    let name = pod.name_any();
    let log = format!("kubectl -n {} logs {name}", facts.namespace());
    Some(match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => format!("; its producer runs, see its log: {log}"),
        Some(phase) => format!(": its producer's pod is {phase}; see its log: {log}"),
        None => ": its producer's pod has not started".to_owned(),
    })
}

fn flood(full: &[&DeviceStatus]) -> String {
    let lag: u64 = full.iter().map(|device| device.lag).sum();
    let rate_of_all: f64 = full.iter().map(|device| device.rate).sum();
    format!(
        "more arrives on {} than it trains ({}, {} samples wait) and its buffer is full; give it more CPU in \
         spec.devices.template.resources, raise spec.stream.batch.max, or drop the oldest with spec.stream.policy: Truncation",
        names(full),
        rate(rate_of_all),
        grouped(lag)
    )
}

fn slowness(facts: &Facts<'_>, status: &ScadlesJobStatus, slow: &[&DeviceStatus]) -> String {
    let rates: Vec<String> =
        slow.iter().map(|device| format!("{} ({})", device.name, rate(device.rate))).collect();
    let fastest = status.devices.iter().map(|device| device.rate).fold(0.0, f64::max);
    let rule =
        facts.job.spec.stream.as_ref().and_then(|stream| stream.batch.as_ref()).map(|batch| batch.rule);
    let remedy = match rule {
        Some(BatchRuleName::Fixed) => {
            "send more there, or set spec.stream.batch.rule: LineRate, with which no device waits for another's stream"
        }
        _ => "send more there, or lower spec.stream.batch.min",
    };
    format!(
        "the group waits for the stream of {}, the fastest brings {}; {remedy}",
        list(&rates),
        rate(fastest)
    )
}

/// Nothing to mend.
pub(super) fn fine(facts: &Facts<'_>, status: &ScadlesJobStatus, state: JobState) -> Answer {
    let ready = &status.ready;
    Answer::fine(match state {
        JobState::Running if status.step == 0 => {
            format!("nothing is wrong: it waits for its first step, {ready} workers ready")
        }
        JobState::Running => format!(
            "nothing is wrong: it trains at {:.0} samples/s, step {}, {ready} workers ready{}",
            status.samples_per_second,
            grouped(status.step),
            history(status)
        ),
        JobState::Starting => {
            let since = status.condition("Ready");
            let age = since.and_then(|condition| facts.age(&condition.last_transition_time));
            let age = age.map_or(String::new(), |age| format!(", for {} now", span(age)));
            format!("nothing is wrong yet: attempt {} starts, {ready} workers ready{age}", status.attempt)
        }
        JobState::Stopping => {
            "nothing is wrong: it saves a checkpoint and stops, as it was asked to".to_owned()
        }
        _ => format!("nothing is wrong yet: {}", one_line(&in_cluster(&status.message))),
    })
}

fn history(status: &ScadlesJobStatus) -> String {
    match (status.restarts, status.failures.last()) {
        (0, _) | (_, None) => String::new(),
        (restarts, Some(last)) => {
            let times = if restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
            format!(
                "; it has restarted {times}, the last time because {}",
                one_line(&in_cluster(&last.message))
            )
        }
    }
}
