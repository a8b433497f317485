//! Carries a decision out: objects, pods, requests to workers. I/O; everything is idempotent and repeated until seen done.

use std::time::{Duration, Instant};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, Secret},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use scadles_api::{attempt::StopRequest, job::CleanPods, names::labels};
use scadles_control::{
    decide::{Action, Decision, JobPhase, ProcessState, Supervision},
    status::PodTrouble,
};
use scadles_worker_client::WorkerClient;
use serde::{Serialize, de::DeserializeOwned};

use super::{Prepared, build, names, observe::Seen};
use crate::{
    context::{Context, Memory},
    error::Error,
};

/// A pod that has to go at once gets this long: with none at all the API server would forget it while it still runs.
const KILL_GRACE_SECONDS: u32 = 1;
/// Pause after a refused pod.
const REJECTION_PAUSE: Duration = Duration::from_secs(10);
/// A producer that ended too early is made anew after so long.
const PRODUCER_PAUSE: Duration = Duration::from_secs(10);

/// Carries `decision` out. Its memory is stored already.
pub async fn carry_out(
    prepared: &Prepared,
    seen: &Seen,
    decision: &Decision,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let starts = decision.actions.iter().any(|action| matches!(action, Action::StartWorker { .. }));
    if starts {
        apply_shared(prepared, memory, context).await?;
    }
    for action in &decision.actions {
        match action {
            Action::StartWorker { rank, attempt } => {
                start(prepared, *rank, *attempt, memory, context).await?;
            }
            Action::KillWorker { rank, reason } => kill(prepared, seen, *rank, reason, context).await?,
            Action::PostAttempt { rank, attempt } => {
                let attempt = attempt.clone();
                call(prepared, seen, *rank, context, move |client, endpoint| {
                    client.post_attempt(endpoint, &attempt)
                })
                .await;
            }
            Action::RequestStop { rank, checkpoint } => {
                let request = StopRequest { checkpoint: *checkpoint };
                call(prepared, seen, *rank, context, move |client, endpoint| {
                    client.post_stop(endpoint, request)
                })
                .await;
            }
            Action::PostTuning { rank, tuning } => {
                let tuning = *tuning;
                call(prepared, seen, *rank, context, move |client, endpoint| {
                    client.post_tuning(endpoint, &tuning)
                })
                .await;
            }
            Action::Finish(_) => {}
        }
    }
    keep_producer(prepared, seen, &decision.next, memory, context).await?;
    clean(prepared, seen, decision, context).await
}

/// ConfigMap, Secret and NetworkPolicy; only when they changed since they were last applied.
async fn apply_shared(prepared: &Prepared, memory: &mut Memory, context: &Context) -> Result<(), Error> {
    let config_map = build::config_map(prepared);
    let secret = build::secret(prepared, &context.settings.key);
    let policy = build::network_policy(prepared, &context.settings.namespace);
    let text = serde_json::to_vec(&(&config_map, &policy)).unwrap_or_default();
    let hash = twox_hash::XxHash64::oneshot(0, &text);
    if memory.applied == Some(hash) {
        return Ok(());
    }
    // Who may reach the workers is settled before there is one.
    apply::<NetworkPolicy>("NetworkPolicy", &policy, prepared, context).await?;
    apply::<Secret>("Secret", &secret, prepared, context).await?;
    apply::<ConfigMap>("ConfigMap", &config_map, prepared, context).await?;
    memory.applied = Some(hash);
    Ok(())
}

/// Creates an object, or changes the one that is there if it is the job's own.
async fn apply<K>(kind: &'static str, object: &K, prepared: &Prepared, context: &Context) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), prepared.namespace());
    let name = object.name_any();
    context.metrics.call("create", kind);
    match api
        .create(
            &PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() },
            object,
        )
        .await
    {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(Error::api(format!("create {kind} {name}"))(error)),
    }
    // Patching nothing, dry, shows the object to somebody who may not read Secrets.
    let nothing = serde_json::json!({"metadata": {"name": name}});
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    context.metrics.call("patch", kind);
    let there = api
        .patch(&name, &dry, &Patch::Merge(&nothing))
        .await
        .map_err(Error::api(format!("look at {kind} {name}")))?;
    if there.labels().get(labels::JOB_UID) != Some(&prepared.uid) {
        return Err(Error::NameTaken { kind, name });
    }
    context.metrics.call("patch", kind);
    let force = PatchParams::apply(names::MANAGER).force();
    let object = with_type(object);
    api.patch(&name, &force, &Patch::Apply(&object))
        .await
        .map_err(Error::api(format!("apply {kind} {name}")))?;
    Ok(())
}

/// Server-side apply wants to read what it gets.
fn with_type<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> serde_json::Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    value
}

/// Creates the pod of a rank. A refusal by quota, pod security or a webhook is an outcome: told, and tried again later.
async fn start(
    prepared: &Prepared,
    rank: usize,
    attempt: u32,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    if memory.rejected.as_ref().is_some_and(|(_, again)| Instant::now() < *again) {
        return Ok(());
    }
    let pod = build::trainer(prepared, rank, attempt);
    let device = prepared.job.job.devices[rank].name.clone();
    if make_pod(&pod, &device, prepared, memory, context).await? {
        memory.confirmed[rank] = 0;
    }
    Ok(())
}

/// Whether the server has taken the pod of `device`; what it says otherwise is remembered until it has.
async fn make_pod(
    pod: &Pod,
    device: &str,
    prepared: &Prepared,
    memory: &mut Memory,
    context: &Context,
) -> Result<bool, Error> {
    if let Some(message) = create_pod(pod, prepared, context).await? {
        remember_refusal(memory, device, "PodRejected", message);
        return Ok(false);
    }
    memory.rejected.take_if(|(trouble, _)| trouble.device == device);
    Ok(true)
}

/// Reason of a refusal: somebody else's object has the name.
pub const NAME_TAKEN: &str = "NameTaken";

/// Shows in the status why something cannot be made, and waits before the next try.
pub fn remember_refusal(memory: &mut Memory, device: &str, reason: &str, message: String) {
    let trouble = PodTrouble { device: device.to_owned(), reason: reason.to_owned(), message };
    memory.rejected = Some((trouble, Instant::now() + REJECTION_PAUSE));
}

/// A pass went well: a name that was taken when it was last tried is free by now.
pub fn forget_taken_name(memory: &mut Memory) {
    let is_free = |(trouble, again): &mut (PodTrouble, Instant)| {
        trouble.reason == NAME_TAKEN && Instant::now() >= *again
    };
    memory.rejected.take_if(is_free);
}

/// Creates a pod; the server's words if it refuses.
async fn create_pod(pod: &Pod, prepared: &Prepared, context: &Context) -> Result<Option<String>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), prepared.namespace());
    let name = pod.name_any();
    context.metrics.call("create", "Pod");
    match api.create(&PostParams::default(), pod).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // Ours from an earlier pass that the cache does not show yet, or somebody else's.
            let there = api.get_opt(&name).await.map_err(Error::api(format!("look at pod {name}")))?;
            match there {
                Some(there) if there.labels().get(labels::JOB_UID) != Some(&prepared.uid) => {
                    Err(Error::NameTaken { kind: "Pod", name })
                }
                _ => Ok(None),
            }
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => Ok(Some(status.message.clone())),
        Err(error) => Err(Error::api(format!("create pod {name}"))(error)),
    }
}

/// Deletes the pods of a rank that could still act.
async fn kill(
    prepared: &Prepared,
    seen: &Seen,
    rank: usize,
    reason: &str,
    context: &Context,
) -> Result<(), Error> {
    let device = &prepared.job.job.devices[rank].name;
    for pod in seen.trainers.iter().filter(|pod| pod.labels().get(labels::DEVICE) == Some(device)) {
        if is_over(pod) {
            continue;
        }
        tracing::info!(namespace = prepared.namespace(), pod = pod.name_any(), reason, "ending a worker");
        delete(pod, Some(KILL_GRACE_SECONDS), prepared, context).await?;
    }
    Ok(())
}

fn is_over(pod: &Pod) -> bool {
    matches!(phase_of(pod), Some("Succeeded" | "Failed"))
}

fn phase_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|status| status.phase.as_deref())
}

/// Deletes this very pod, not one of the same name that came after it.
async fn delete(
    pod: &Pod,
    grace_seconds: Option<u32>,
    prepared: &Prepared,
    context: &Context,
) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), prepared.namespace());
    let parameters = DeleteParams {
        grace_period_seconds: grace_seconds,
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    context.metrics.call("delete", "Pod");
    match api.delete(&pod.name_any(), &parameters).await {
        Ok(_) => Ok(()),
        // Gone, or another pod by now: either way this one is not there any more.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::api(format!("delete pod {}", pod.name_any()))(error)),
    }
}

/// Sends a request to a rank. What it does not take now is decided upon, and sent, again.
async fn call(
    prepared: &Prepared,
    seen: &Seen,
    rank: usize,
    context: &Context,
    request: impl FnOnce(&WorkerClient, &str) -> Result<(), scadles_worker_client::ClientError> + Send + 'static,
) {
    let Some(ProcessState::Listening(listening)) =
        seen.observation.workers.get(rank).map(|worker| &worker.process)
    else {
        return;
    };
    let (endpoint, token) = (listening.endpoint.clone(), build::token(&context.settings.key, &prepared.uid));
    let outcome = tokio::task::spawn_blocking(move || request(&WorkerClient::new(&token), &endpoint)).await;
    if let Ok(Err(error)) = outcome {
        tracing::debug!(namespace = prepared.namespace(), job = prepared.name(), rank, %error, "a request failed");
    }
}

/// The producer runs from the first attempt to the end, through suspensions; one that ended, or was made for other
/// settings, is made anew, and one that the job does not want any more goes.
async fn keep_producer(
    prepared: &Prepared,
    seen: &Seen,
    next: &Supervision,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let is_time = next.attempt > 0 && !matches!(next.phase, JobPhase::Waiting | JobPhase::Done(_));
    if prepared.plan.producer.is_none()
        && let Some(pod) = seen.producer.iter().find(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        return delete(pod, None, prepared, context).await;
    }
    if prepared.plan.producer.is_none() || !is_time {
        return Ok(());
    }
    match &seen.producer {
        None if memory.producer_not_before.is_none_or(|at| Instant::now() >= at) => {
            // An operator that was stopped after it had made the trainers starts none, but their producer is missing.
            apply_shared(prepared, memory, context).await?;
            make_pod(&build::producer(prepared), names::PRODUCER, prepared, memory, context).await?;
            // The cache shows it in a moment; until then it is not made again.
            memory.producer_not_before = Some(Instant::now() + PRODUCER_PAUSE);
        }
        Some(pod) if pod.metadata.deletion_timestamp.is_some() => {}
        Some(pod) if is_over(pod) => {
            tracing::warn!(
                namespace = prepared.namespace(),
                pod = pod.name_any(),
                "the producer ended: it is made anew"
            );
            memory.producer_not_before = Some(Instant::now() + PRODUCER_PAUSE);
            delete(pod, None, prepared, context).await?;
        }
        Some(pod) if has_other_settings(pod, prepared) => delete(pod, None, prepared, context).await?,
        _ => {}
    }
    Ok(())
}

/// The job was edited since the producer was made. One that does not say what it was made for is left alone.
fn has_other_settings(producer: &Pod, prepared: &Prepared) -> bool {
    producer.labels().get(names::SETTINGS).is_some_and(|hash| *hash != prepared.job.settings_hash)
}

/// Workers of a job that has ended end by themselves: so long, in seconds, none is deleted for still running.
const OWN_END_SECONDS: f64 = 30.0;

/// Pods of earlier attempts once the next one runs, all of a job at rest, and what `cleanPods` says at the end.
async fn clean(
    prepared: &Prepared,
    seen: &Seen,
    decision: &Decision,
    context: &Context,
) -> Result<(), Error> {
    let done = matches!(decision.next.phase, JobPhase::Done(_));
    let resting = matches!(decision.next.phase, JobPhase::Suspended);
    let policy = prepared.job.clean_pods;
    let is_ending = |pod: &Pod| {
        phase_of(pod) == Some("Running") && seen.now - decision.next.phase_since < OWN_END_SECONDS
    };
    let goes = |pod: &Pod| {
        let old = super::observe::attempt_of(pod) < decision.next.attempt;
        if done {
            let asked = policy == CleanPods::All || (policy == CleanPods::Running && !is_over(pod));
            asked && !is_ending(pod)
        } else {
            (old || resting) && is_over(pod)
        }
    };
    let old_pods_may_go = done || resting || decision.next.formed_at.is_some();
    let trainers = seen.trainers.iter().filter(|pod| old_pods_may_go && goes(pod));
    let producer = seen.producer.iter().filter(|_| done && policy != CleanPods::None);
    for pod in trainers.chain(producer).filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        delete(pod, None, prepared, context).await?;
    }
    Ok(())
}
