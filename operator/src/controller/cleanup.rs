//! The end of a job: topics, the object itself. I/O, bounded in time: a namespace that goes never waits for a broker.

use std::time::Duration;

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{controller::Action, events::EventType},
};
use scadles_api::crd::ScadlesJobObject;

use super::{Prepared, report};
use crate::{context::Context, error::Error};

/// Held only by jobs whose topics go with them.
const FINALIZER: &str = "scadles.io/topics";
/// How often a job that has ended is looked at: a worker may hang, an event be lost.
const LOOK: Duration = Duration::from_mins(1);

/// Puts the finalizer on a job that needs it, and takes it from one that does not any more.
pub async fn hold(prepared: &Prepared, context: &Context) -> Result<(), Error> {
    let held = prepared.object.finalizers().iter().any(|name| name == FINALIZER);
    if held == prepared.deletes_topics() {
        return Ok(());
    }
    set_finalizer(&prepared.object, prepared.deletes_topics(), context).await
}

/// A job that is wrong is being deleted: which topics were its own cannot be told any more, and it must not stay for them.
pub async fn let_go(object: &ScadlesJobObject, context: &Context) -> Result<Action, Error> {
    if object.finalizers().iter().any(|name| name == FINALIZER) {
        set_finalizer(object, false, context).await?;
    }
    Ok(Action::await_change())
}

/// The object is being deleted: its topics go first, as far as the brokers answer in time.
pub async fn before_deletion(prepared: &Prepared, context: &Context) -> Result<Action, Error> {
    if prepared.object.finalizers().iter().any(|name| name == FINALIZER) {
        if prepared.deletes_topics() {
            let problems = context.topics.delete(prepared.topics(true)).await.unwrap_or_default();
            for problem in problems {
                let note = format!("a topic stays: {problem}");
                report::event(prepared, context, EventType::Warning, "TopicNotDeleted", &note).await;
            }
        }
        set_finalizer(&prepared.object, false, context).await?;
    }
    Ok(Action::await_change())
}

async fn set_finalizer(object: &ScadlesJobObject, held: bool, context: &Context) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|name| name != FINALIZER);
    if held {
        finalizers.push(FINALIZER.to_owned());
    }
    // With the version: somebody else's finalizer must not get lost.
    let patch = serde_json::json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.resource_version(),
    }});
    context.metrics.call("patch", "ScadlesJob");
    let name = object.name_any();
    match jobs(object, context).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        // The object as we have it is behind now; or it was let go before, and is gone.
        Ok(_) => Err(Error::Conflict),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::Conflict),
        Err(error) => Err(Error::api("set the finalizer")(error)),
    }
}

/// A job that has ended: deleted when its time has come, else left alone.
pub async fn after_the_end(prepared: &Prepared, context: &Context) -> Result<Action, Error> {
    let Some(ttl_seconds) = prepared.job.ttl_seconds else {
        return Ok(Action::requeue(LOOK));
    };
    let Some(finished) = finished_at(prepared) else { return Ok(Action::requeue(Duration::from_secs(1))) };
    let left = finished + ttl_seconds as f64 - (context.clock)();
    if left > 0.0 {
        return Ok(Action::requeue(Duration::from_secs_f64(left.min(LOOK.as_secs_f64()))));
    }
    context.metrics.call("delete", "ScadlesJob");
    match jobs(&prepared.object, context).delete(&prepared.object.name_any(), &DeleteParams::default()).await
    {
        Ok(_) => Ok(Action::await_change()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Action::await_change()),
        Err(error) => Err(Error::api("delete the finished job")(error)),
    }
}

fn finished_at(prepared: &Prepared) -> Option<f64> {
    let text = prepared.object.status.as_ref()?.finished_at.as_ref()?;
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond() as f64 / 1000.0)
}

fn jobs(object: &ScadlesJobObject, context: &Context) -> Api<ScadlesJobObject> {
    Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default())
}
