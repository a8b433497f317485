//! One pass over an object, and the loop that makes passes.
//!
//! Guarantees: the status is written before anything that follows from it is done; a pass that failed is repeated with a
//! pause of its own object; one object that cannot be read holds up no other.

pub mod apply;
pub mod build;
pub mod cleanup;
pub mod names;
pub mod observe;
pub mod report;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{
        Controller,
        controller::Action,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use scadles_api::{ScadlesJob, crd::ScadlesJobObject, job::DeletionPolicy, worker::Backend};
use scadles_control::{
    Body, BrokerKind, ClusterJob, Plan, SecretFiles,
    backend::BackendPlan,
    decide::{JobPhase, decide},
    plan, validate_in_cluster,
};

use crate::{
    context::{Context, Images, Memory},
    error::Error,
};

/// An object that may not be readable.
pub type Guarded = DeserializeGuard<ScadlesJobObject>;

/// Time between two passes over a job that is in motion.
const QUICK: Duration = Duration::from_secs(1);
/// Time between two passes over a job that trains.
const STEADY: Duration = Duration::from_secs(2);
/// The same while it rests.
const RESTING: Duration = Duration::from_secs(15);
/// The cache is behind our own write: it will catch up in moments.
const MOMENT: Duration = Duration::from_millis(100);
/// Most passes at the same time.
const CONCURRENCY: u16 = 64;

/// A job that is as it should be, and what follows from that.
pub struct Prepared {
    /// The object.
    pub object: Arc<ScadlesJobObject>,
    /// Its UID.
    pub uid: String,
    /// Resolved.
    pub job: ClusterJob,
    /// Topics and workers.
    pub plan: Plan,
    /// Image of the trainers.
    pub image: String,
    /// Image of the producer, which needs nothing of CUDA.
    pub producer_image: String,
}

/// The loop: passes over the objects of one namespace (or all) until `stop`. Beside it the cache of the objects.
pub fn run(
    jobs: Api<Guarded>,
    pods: Api<Pod>,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> (Store<Guarded>, impl Stream<Item = ()>) {
    let config = kube::runtime::controller::Config::default().concurrency(CONCURRENCY);
    let controller = Controller::new(jobs, watcher::Config::default());
    let cache = controller.store();
    let passes = controller
        .owns(pods, watcher::Config::default().labels(names::MANAGED_SELECTOR))
        .with_config(config)
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .map(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "pass");
            }
        });
    (cache, passes)
}

/// One pass over an object, as the loop makes it; a test makes passes one by one.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let _timer = context.metrics.pass();
    let object = match &guarded.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(invalid) => return Ok(unreadable(invalid, &context)),
    };
    if object.spec.managed_by.as_deref().is_some_and(|name| name != names::MANAGER) {
        return Ok(Action::await_change());
    }
    let uid = object.uid().ok_or(Error::Incomplete("UID"))?;
    let memory = context.memory(&uid);
    let mut memory = memory.lock().await;
    if memory.is_behind(&object) {
        return Ok(Action::requeue(MOMENT));
    }
    let outcome = pass(object, uid, &mut memory, &context).await;
    memory.failures_in_row = if outcome.is_ok() { 0 } else { memory.failures_in_row.saturating_add(1) };
    outcome
}

/// The steps.
async fn pass(
    object: Arc<ScadlesJobObject>,
    uid: String,
    memory: &mut Memory,
    context: &Context,
) -> Result<Action, Error> {
    let prepared = match prepare(object.clone(), &uid, &context.settings.images) {
        Ok(prepared) => prepared,
        Err(_) if object.metadata.deletion_timestamp.is_some() => {
            return cleanup::let_go(&object, context).await;
        }
        Err(mistakes) => {
            report::mistakes(&object, &mistakes, memory, context).await?;
            let alone = !observe::keep_company(&object, &uid, context).await;
            return Ok(if alone { Action::await_change() } else { Action::requeue(STEADY) });
        }
    };
    if object.metadata.deletion_timestamp.is_some() {
        return cleanup::before_deletion(&prepared, context).await;
    }
    cleanup::hold(&prepared, context).await?;
    let seen = observe::observe(&prepared, memory, context).await;
    let decision = decide(&prepared.config(), &seen.supervision, &seen.observation, seen.now);
    report::write(&prepared, &seen, &decision, memory, context).await?;
    memory.supervision = Some(decision.next.clone());
    let carried_out = apply::carry_out(&prepared, &seen, &decision, memory, context).await;
    match &carried_out {
        Ok(()) => apply::forget_taken_name(memory),
        Err(error @ Error::NameTaken { .. }) => {
            apply::remember_refusal(memory, prepared.name(), apply::NAME_TAKEN, error.to_string());
        }
        Err(_) => {}
    }
    carried_out?;
    next_pass(&decision.next.phase, &prepared, &seen, context).await
}

/// Validates and plans. Mistakes are the user's.
fn prepare(
    object: Arc<ScadlesJobObject>,
    uid: &str,
    images: &Images,
) -> Result<Prepared, scadles_control::mistake::Mistakes> {
    let job = validate_in_cluster(&ScadlesJob::from(object.as_ref()))?;
    let body = Body {
        broker: BrokerKind::Servers(job.bootstrap_servers.clone()),
        uid: uid.to_owned(),
        host: String::new(),
        output_dir: format!("/output/{uid}").into(),
        data_dir: scadles_control::cluster::DATA_FOLDER.into(),
        checkpoint_root: Some("/checkpoints".into()),
        buckets: build::buckets(&job),
        // Tokens travel in a Secret, never in a configuration.
        token: String::new(),
        threads: 1,
        cores: job.job.devices.len().try_into().unwrap_or(u32::MAX),
        secrets: SecretFiles::ByRole(build::KAFKA_FOLDER.into()),
        cluster: true,
    };
    let mut plan = plan(&job.job, &body)?;
    // An attempt keeps what it was decided with, whatever the operator's version by now.
    let resolved = object.status.as_ref().and_then(|status| status.resolved.as_ref());
    let resolved = resolved.filter(|resolved| resolved.spec_hash == job.settings_hash);
    if resolved.is_some_and(|resolved| resolved.backend.is_empty()) {
        plan.backend = BackendPlan::of_older_operator();
    }
    let on_gpus = plan.backend.backend == Backend::Nccl;
    let default = if on_gpus { &images.trainer_cuda } else { &images.trainer };
    let image = match resolved {
        Some(resolved) => resolved.image.clone(),
        None => job.image.clone().unwrap_or_else(|| default.clone()),
    };
    let producer_image = if on_gpus && job.image.is_none() { images.trainer.clone() } else { image.clone() };
    Ok(Prepared { object, uid: uid.to_owned(), job, plan, image, producer_image })
}

impl Prepared {
    /// Name of the job.
    pub fn name(&self) -> &str {
        &self.job.job.name
    }

    /// Namespace of the job.
    pub fn namespace(&self) -> &str {
        &self.job.job.namespace
    }

    /// The job as all workers see it. A validated job has at least one device, hence one worker.
    pub fn config(&self) -> scadles_api::worker::JobConfig {
        self.plan.workers[0].job.clone()
    }

    /// Whether the topics go with the job.
    pub fn deletes_topics(&self) -> bool {
        self.job.job.topics.deletion_policy == DeletionPolicy::Delete
    }

    /// The topics that the job wants.
    pub fn topics(&self, started: bool) -> crate::topics::TopicsWanted {
        let topics = self.object.spec.kafka.as_ref().and_then(|kafka| kafka.topics.as_ref());
        let template = topics.and_then(|topics| topics.name_template.as_deref());
        let template = template.unwrap_or(scadles_api::names::DEFAULT_TOPIC_TEMPLATE);
        crate::topics::TopicsWanted::of(&self.job, &self.plan, template, started)
    }
}

/// When to look again.
async fn next_pass(
    phase: &JobPhase,
    prepared: &Prepared,
    seen: &observe::Seen,
    context: &Context,
) -> Result<Action, Error> {
    match phase {
        JobPhase::Running => Ok(Action::requeue(STEADY)),
        // The cache of pods may be behind the event that brought us here: the last one to end may be seen only later.
        JobPhase::Suspended if !seen.trainers.is_empty() => Ok(Action::requeue(STEADY)),
        // Its producer goes on, and may have to be made anew.
        JobPhase::Suspended => Ok(Action::requeue(RESTING)),
        JobPhase::Done(_) => cleanup::after_the_end(prepared, context).await,
        _ => Ok(Action::requeue(QUICK)),
    }
}

/// An object that does not fit the types: told once in the log, and left alone until it changes.
fn unreadable(invalid: &InvalidObject, context: &Context) -> Action {
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
    tracing::warn!(namespace, name, error = %invalid.error, "this ScadlesJob cannot be read; it is left alone");
    context.metrics.error("unreadable");
    Action::await_change()
}

// The signature is the library's.
#[expect(clippy::needless_pass_by_value)]
fn on_error(guarded: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.error(error.category());
    let reference = ObjectRef::from_obj(guarded.as_ref());
    let failures = guarded
        .uid()
        .and_then(|uid| context.memory(&uid).try_lock().ok().map(|memory| memory.failures_in_row))
        .unwrap_or(1);
    let pause = error.retry_after(failures);
    match error {
        Error::Conflict => tracing::debug!(%reference, "the object has changed meanwhile"),
        error => {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%reference, %error, cause, ?pause, "pass failed");
        }
    }
    Action::requeue(pause)
}

#[cfg(test)]
pub(crate) fn prepare_for_tests(object: Arc<ScadlesJobObject>, image: &str) -> Prepared {
    let uid = object.uid().expect("a UID");
    let images = Images { trainer: image.to_owned(), trainer_cuda: format!("{image}-cuda") };
    prepare(object, &uid, &images).expect("a job without mistakes")
}
