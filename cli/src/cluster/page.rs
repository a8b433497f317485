//! `scadles status JOB`: all that matters of one job. Pure.

use kube::ResourceExt;
use scadles_api::{
    ScadlesJobStatus,
    crd::ScadlesJobObject,
    status::{Condition, DeviceStatus},
};

use super::{
    table::aligned,
    time,
    words::{in_cluster, one_line},
};
use crate::screen::{grouped, span};

/// `demo/fashion`.
pub fn full_name(job: &ScadlesJobObject) -> String {
    format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any())
}

/// The page, line by line.
pub fn page(job: &ScadlesJobObject, now: f64) -> Vec<String> {
    let Some(status) = job.status.as_ref().filter(|status| status.state.is_some()) else {
        let age = job.creation_timestamp().map_or(0.0, |made| now - time::of(&made));
        return vec![
            headline(job, None, now),
            format!("no operator has looked at it yet, {} after it was made", span(age)),
        ];
    };
    let mut lines = vec![headline(job, Some(status), now)];
    lines.extend(sentence(status));
    lines.push(String::new());
    lines.push(facts(status));
    lines.extend(conditions(status, now));
    lines.extend(devices(status, now));
    lines.extend(failures(status, now));
    lines.extend(results(status));
    lines
}

fn headline(job: &ScadlesJobObject, status: Option<&ScadlesJobStatus>, now: f64) -> String {
    let mut parts = Vec::new();
    if let Some(status) = status {
        parts.extend(status.state.map(|state| format!("{state:?}")));
        if status.attempt > 0 {
            parts.push(format!("attempt {}", status.attempt));
        }
        if status.restarts > 0 {
            parts.push(format!("restarts {}", status.restarts));
        }
        if !status.ready.is_empty() {
            parts.push(format!("ready {}", status.ready));
        }
    }
    if let Some(made) = job.creation_timestamp() {
        parts.push(format!("made {} ago", span(now - time::of(&made))));
    }
    if let Some(finished) = status.and_then(|status| time::parse(status.finished_at.as_deref()?)) {
        parts.push(format!("ended {} ago", span(now - finished)));
    }
    format!("{}: {}", full_name(job), parts.join(" · "))
}

/// One sentence; the mistakes of a wrong job keep their lines.
fn sentence(status: &ScadlesJobStatus) -> Vec<String> {
    in_cluster(&status.message)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn facts(status: &ScadlesJobStatus) -> String {
    let mut parts = vec![
        format!("step {}", grouped(status.step)),
        format!("samples {}", grouped(status.samples)),
        format!("epoch {:.2}", status.epoch),
        format!("{:.0}/s", status.samples_per_second),
    ];
    parts.extend(status.loss.map(|loss| format!("loss {loss:.3}")));
    if let Some(evaluation) = &status.evaluation {
        parts.push(format!("Top-1 {:.1} % at step {}", evaluation.top1_percent, grouped(evaluation.step)));
    }
    parts.push(format!("lag {}", grouped(status.lag)));
    if status.starved > 0 {
        parts.push(format!("starved {}", status.starved));
    }
    parts.join("  ")
}

/// Those that say something beyond the state.
fn conditions(status: &ScadlesJobStatus, now: f64) -> Vec<String> {
    let telling: Vec<&Condition> =
        status.conditions.iter().filter(|condition| is_telling(condition)).collect();
    if telling.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = telling
        .iter()
        .map(|condition| {
            let age = time::parse(&condition.last_transition_time)
                .map_or(String::new(), |then| time::brief(now - then));
            vec![
                condition.kind.clone(),
                condition.reason.clone(),
                age,
                one_line(&in_cluster(&condition.message)),
            ]
        })
        .collect();
    section(aligned(&[("condition", false), ("reason", false), ("for", true), ("", false)], &rows))
}

/// A condition that is not as it should be. Ready, Reconciling, Complete, Failed and Suspended only say the state again.
fn is_telling(condition: &Condition) -> bool {
    let quiet = ["NotNeeded", "PodsNotReady", "InvalidSpec"].contains(&condition.reason.as_str());
    match condition.kind.as_str() {
        "TopicsReady" | "PodsReady" | "StreamsHealthy" => {
            condition.status == "False" && !(quiet && condition.message.is_empty())
        }
        "StreamGap" => condition.status == "True",
        _ => false,
    }
}

fn devices(status: &ScadlesJobStatus, now: f64) -> Vec<String> {
    if status.devices.is_empty() {
        return Vec::new();
    }
    let columns = [
        ("device", false),
        ("state", false),
        ("rate/s", true),
        ("batch", true),
        ("weight", true),
        ("lag", true),
        ("dropped", true),
        ("lost", true),
        ("rejected", true),
        ("silent", true),
    ];
    let silence = |device: &DeviceStatus| {
        let since = device.silent_since.as_deref().and_then(time::parse);
        since.map_or("-".to_owned(), |since| span(now - since))
    };
    let rows: Vec<Vec<String>> = status
        .devices
        .iter()
        .map(|device| {
            vec![
                device.name.clone(),
                format!("{:?}", device.state),
                format!("{:.1}", device.rate),
                device.batch.to_string(),
                format!("{:.3}", device.weight),
                grouped(device.lag),
                grouped(device.dropped),
                grouped(device.lost),
                grouped(device.rejected),
                silence(device),
            ]
        })
        .collect();
    let mut lines = section(aligned(&columns, &rows));
    let all: u32 = status.device_counts.values().sum();
    if all as usize > status.devices.len() {
        let counts = status.device_counts.iter().map(|(state, count)| format!("{count} {state}"));
        lines.push(format!(
            "… and {} more devices; of all {all}: {}",
            all as usize - status.devices.len(),
            counts.collect::<Vec<_>>().join(", ")
        ));
    }
    lines
}

fn failures(status: &ScadlesJobStatus, now: f64) -> Vec<String> {
    if status.failures.is_empty() {
        return Vec::new();
    }
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = status
        .failures
        .iter()
        .map(|failure| {
            vec![
                failure.attempt.to_string(),
                or_nothing(failure.device.clone()),
                or_nothing(failure.node.clone()),
                or_nothing(failure.exit_code.map(|code| code.to_string())),
                time::parse(&failure.at)
                    .map_or(failure.at.clone(), |at| format!("{} ago", time::brief(now - at))),
                one_line(&in_cluster(&failure.message)),
            ]
        })
        .collect();
    let columns = [
        ("failed", true),
        ("device", false),
        ("node", false),
        ("exit", true),
        ("when", true),
        ("what happened", false),
    ];
    section(aligned(&columns, &rows))
}

fn results(status: &ScadlesJobStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(checkpoint) = &status.checkpoint {
        lines.push(format!("checkpoint  {} (step {})", checkpoint.name, grouped(checkpoint.step)));
    }
    if let Some(result) = &status.result {
        lines.push(format!("result      {}", result.uri));
        lines.extend(result.top1_percent.map(|percent| format!("top-1       {percent:.2} %")));
        lines.extend(result.sha256.as_ref().map(|hash| format!("sha256      {hash}")));
    }
    if let Some(resolved) = &status.resolved {
        lines.push(format!("image       {}", resolved.image));
    }
    section(lines)
}

/// Lines with an empty one before them.
fn section(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() { lines } else { std::iter::once(String::new()).chain(lines).collect() }
}
