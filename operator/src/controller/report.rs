//! The one write of a pass: the status, before anything that follows from it is done. Events after it. I/O.

use std::time::{Duration, Instant};

use kube::{
    Api, Resource, ResourceExt,
    api::PostParams,
    runtime::events::{Event, EventType},
};
use scadles_api::{
    ScadlesJobStatus,
    crd::ScadlesJobObject,
    status::{JobState, ResolvedStatus},
};
use scadles_control::{
    decide::{Decision, Supervision},
    mistake::Mistakes,
    status::{Facts, Worth, invalid, status, time, worth_writing},
    tuning::in_words,
};

use super::{Prepared, build, observe::Seen};
use crate::{
    context::{Context, Memory},
    error::Error,
};

/// Levels are written no more often.
const LEVELS_INTERVAL: Duration = Duration::from_secs(10);

/// Writes the status if it is worth it. Without a write nothing that the decision remembers has changed, except counters.
pub async fn write(
    prepared: &Prepared,
    seen: &Seen,
    decision: &Decision,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let previous = prepared.object.status.clone().unwrap_or_default();
    let resolved = resolved(prepared, &previous, &seen.supervision, &decision.next);
    let uri = build::result_uri(prepared);
    let mut fresh = status(
        &previous,
        &Facts {
            generation: prepared.object.metadata.generation,
            now: seen.now,
            supervision: &decision.next,
            reason: &decision.reason,
            workers: &seen.observation.workers,
            progress: seen.observation.progress.as_ref(),
            broker: &seen.observation.broker,
            troubles: &seen.troubles,
            ended: &seen.ended,
            resolved: &resolved,
            result_uri: &uri,
            last_words: seen.last_words.as_ref(),
        },
    );
    context.metrics.job(prepared, &fresh, seen.observation.progress.as_ref());
    if !is_due(worth_writing(&previous, &fresh), memory, context) {
        return Ok(());
    }
    fresh.heartbeat_at = Some(time(seen.now));
    store(&prepared.object, fresh.clone(), memory, context).await?;
    tell_changes(prepared, &previous, &fresh, context).await;
    Ok(())
}

/// Image and settings stay as they were when the attempt was decided.
fn resolved(
    prepared: &Prepared,
    previous: &ScadlesJobStatus,
    before: &Supervision,
    after: &Supervision,
) -> ResolvedStatus {
    let kept = previous.resolved.clone().filter(|_| after.attempt > 0 && after.attempt == before.attempt);
    kept.unwrap_or_else(|| ResolvedStatus {
        image: prepared.image.clone(),
        spec_hash: prepared.job.settings_hash.clone(),
        backend: prepared.plan.backend.to_string(),
    })
}

fn is_due(worth: Worth, memory: &Memory, context: &Context) -> bool {
    let age = memory.written.map(|at| at.elapsed());
    let heartbeat = Duration::from_secs(context.settings.heartbeat_seconds);
    let due = match worth {
        Worth::State => true,
        Worth::Levels => age.is_none_or(|age| age >= LEVELS_INTERVAL),
        Worth::Counters => !heartbeat.is_zero() && age.is_none_or(|age| age >= heartbeat),
        Worth::Nothing => false,
    };
    if !due && worth > Worth::Nothing {
        context.metrics.suppressed();
    }
    due
}

/// Replaces the status of the very version that was looked at: a deposed leader, or an edit in between, gets a conflict.
async fn store(
    object: &ScadlesJobObject,
    status: ScadlesJobStatus,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let namespace = object.namespace().ok_or(Error::Incomplete("namespace"))?;
    let api: Api<ScadlesJobObject> = Api::namespaced(context.client.clone(), &namespace);
    let mut next = object.clone();
    next.metadata.managed_fields = None;
    next.status = Some(status);
    context.metrics.call("update", "ScadlesJob/status");
    let written = api.replace_status(&object.name_any(), &PostParams::default(), &next).await;
    let written = match written {
        // Gone meanwhile: there is nothing left to write.
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::Conflict),
        written => written.map_err(Error::api("write the status")),
    };
    let written = written.inspect_err(|error| {
        if matches!(error, Error::Conflict) {
            // Somebody else may have written: what we remember is worth no more than the status.
            memory.supervision = None;
        }
    })?;
    context.metrics.written();
    memory.written = Some(Instant::now());
    // A write that changes nothing gives no new version, and no news to wait for.
    memory.behind = (written.resource_version() != object.resource_version())
        .then(|| object.resource_version())
        .flatten();
    Ok(())
}

/// A job that is wrong: said in the status, once; nothing runs anew until it is edited.
pub async fn mistakes(
    object: &ScadlesJobObject,
    mistakes: &Mistakes,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    let fresh = invalid(&previous, object.metadata.generation, mistakes, (context.clock)());
    if worth_writing(&previous, &fresh) == Worth::State {
        store(object, fresh.clone(), memory, context).await?;
        publish(object, context, EventType::Warning, "InvalidSpec", &fresh.message).await;
    }
    Ok(())
}

/// Events come at changes of state, after the write: a write that was refused tells nothing twice.
async fn tell_changes(
    prepared: &Prepared,
    previous: &ScadlesJobStatus,
    fresh: &ScadlesJobStatus,
    context: &Context,
) {
    let known = previous.failures.last().map_or(0, |failure| failure.attempt);
    for failure in fresh.failures.iter().filter(|failure| failure.attempt > known) {
        context.metrics.restart();
        event(prepared, context, EventType::Warning, "AttemptFailed", &failure.message).await;
    }
    if let (Some(before), Some(now)) = (&previous.tuning, &fresh.tuning)
        && let words = in_words(&before.tuning, &now.tuning)
        && !words.is_empty()
    {
        let note = format!("step {}: {words}, on all ranks", now.step);
        event(prepared, context, EventType::Normal, "Tuned", &note).await;
    }
    if previous.state == fresh.state {
        return;
    }
    let Some(state) = fresh.state else { return };
    let kind = if state == JobState::Failed { EventType::Warning } else { EventType::Normal };
    event(prepared, context, kind, &format!("{state:?}"), &fresh.message).await;
}

/// Publishes an event about the job.
pub async fn event(prepared: &Prepared, context: &Context, kind: EventType, reason: &str, note: &str) {
    publish(&prepared.object, context, kind, reason, note).await;
}

/// Longest note of an event that the API server takes.
const LONGEST_NOTE: usize = 1000;

async fn publish(object: &ScadlesJobObject, context: &Context, kind: EventType, reason: &str, note: &str) {
    let (namespace, job) = (object.namespace().unwrap_or_default(), object.name_any());
    tracing::info!(namespace, job, reason, "{note}");
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    // An event is news for people, nothing depends on it.
    if let Err(error) = context.recorder.publish(&event, &object.object_ref(&())).await {
        tracing::debug!(%error, "an event could not be published");
    }
}
