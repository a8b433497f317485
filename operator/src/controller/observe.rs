//! What a pass sees: pods from the cache, the workers' own answers, the brokers. I/O; it judges nothing.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use scadles_api::{ExitCode, LastWords, Progress, crd::ScadlesJobObject, names::labels};
use scadles_control::{
    decide::{JobPhase, Observation, ProcessState, Supervision, UserRequest, WorkerObservation},
    status::{EndedPod, PodTrouble},
};
use scadles_worker_client::WorkerClient;

use super::{Prepared, names};
use crate::context::{Address, Context, Memory};

/// Exit codes above this say which signal ended a container.
const SIGNAL_BASE: i32 = 128;

/// What a pass sees.
pub struct Seen {
    /// For the decision.
    pub observation: Observation,
    /// Memory of the latest decision.
    pub supervision: Supervision,
    /// Seconds since 1970; never before an earlier pass.
    pub now: f64,
    /// Pods that do not come up.
    pub troubles: Vec<PodTrouble>,
    /// Pods of the latest attempt that have ended.
    pub ended: Vec<EndedPod>,
    /// What rank 0 said at its end.
    pub last_words: Option<LastWords>,
    /// The producer's pod, if it is there.
    pub producer: Option<Pod>,
    /// All trainer pods of the job, old ones too.
    pub trainers: Vec<Pod>,
}

/// Looks at everything.
pub async fn observe(prepared: &Prepared, memory: &mut Memory, context: &Context) -> Seen {
    let (trainers, producer) = pods_of(prepared.namespace(), &prepared.uid, context);
    let supervision = supervision(prepared, &trainers, memory, (context.clock)());
    let now = (context.clock)().max(supervision.phase_since);
    let devices: Vec<&str> = prepared.job.job.devices.iter().map(|device| device.name.as_str()).collect();
    let newest = newest_per_device(&devices, &trainers);
    poll(prepared, &supervision, &newest, memory, context).await;
    let started = supervision.attempt > 0;
    let settings = &prepared.job.settings_hash;
    let wanted = || prepared.topics(started);
    let broker =
        memory.topics.look(context.topics.as_ref(), wanted, settings, topics_were_ready(prepared), now).await;
    let workers = workers(&newest, &memory.confirmed, &context.address);
    let last_words = match workers.first().map(|worker| &worker.process) {
        Some(ProcessState::Exited { last_words, .. }) => last_words.clone(),
        _ => None,
    };
    let mut troubles = troubles(prepared, &newest, producer.as_ref());
    troubles.extend(memory.rejected.iter().map(|(trouble, _)| trouble.clone()));
    Seen {
        observation: Observation {
            broker,
            workers,
            progress: memory.progress.as_ref().map(|(progress, _)| progress.clone()),
            progress_age_seconds: memory.progress.as_ref().map(|(_, at)| at.elapsed().as_secs_f64()),
            user_request: prepared.job.suspend.then_some(UserRequest::Suspend),
            settings_hash: prepared.job.settings_hash.clone(),
        },
        ended: ended(prepared, &newest, supervision.attempt),
        supervision,
        now,
        troubles,
        last_words,
        producer,
        trainers,
    }
}

/// Whether the status says so, of the settings that hold now.
fn topics_were_ready(prepared: &Prepared) -> bool {
    let Some(status) = &prepared.object.status else { return false };
    let of_these_settings =
        status.resolved.as_ref().is_some_and(|it| it.spec_hash == prepared.job.settings_hash);
    of_these_settings && status.condition("TopicsReady").is_some_and(|it| it.status == "True")
}

/// The job's pods, by the UID in their labels: those of an earlier job of the same name are not its own.
fn pods_of(namespace: &str, uid: &str, context: &Context) -> (Vec<Pod>, Option<Pod>) {
    let own = |pod: &Pod| {
        pod.namespace().as_deref() == Some(namespace)
            && pod.labels().get(labels::JOB_UID).is_some_and(|of| of == uid)
    };
    let pods = context.pods.state();
    let mut own = pods.iter().filter(|pod| own(pod)).map(|pod| pod.as_ref().clone()).collect::<Vec<_>>();
    let producer = own
        .iter()
        .position(|pod| pod.labels().get(labels::COMPONENT).is_some_and(|it| it == names::PRODUCER))
        .map(|index| own.swap_remove(index));
    (own, producer)
}

/// The supervisor's memory: our own, else the status', else a new one whose attempt is not below the pods'.
fn supervision(prepared: &Prepared, trainers: &[Pod], memory: &Memory, now: f64) -> Supervision {
    if let Some(supervision) = &memory.supervision {
        return supervision.clone();
    }
    let status = prepared.object.status.as_ref();
    let stored = status.and_then(|status| serde_json::from_str(status.supervision.as_deref()?).ok());
    let highest = trainers.iter().map(attempt_of).max().unwrap_or(0);
    match stored {
        Some(supervision) => supervision,
        None => Supervision {
            attempt: highest,
            // Whatever runs has no memory behind it any more: the next attempt begins when it is gone.
            phase: if highest > 0 { JobPhase::Restarting { not_before: now } } else { JobPhase::Waiting },
            checkpoint: status.and_then(|status| status.checkpoint.clone()),
            restarts: status.map_or(0, |status| status.restarts),
            ..Supervision::new(now, None)
        },
    }
}

/// Attempt that a pod was made for.
pub fn attempt_of(pod: &Pod) -> u32 {
    pod.labels().get(labels::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0)
}

/// In the order of ranks: each device's pod of its highest attempt.
fn newest_per_device<'a>(devices: &[&str], trainers: &'a [Pod]) -> Vec<Option<&'a Pod>> {
    let of = |device: &str| {
        trainers
            .iter()
            .filter(|pod| pod.labels().get(labels::DEVICE).is_some_and(|name| name == device))
            .max_by_key(|pod| attempt_of(pod))
    };
    devices.iter().map(|device| of(device)).collect()
}

/// Pods, in the order of ranks, as workers.
fn workers(newest: &[Option<&Pod>], confirmed: &[u32], address: &Address) -> Vec<WorkerObservation> {
    let worker = |(rank, pod): (usize, Option<&Pod>)| WorkerObservation {
        made_for_attempt: pod.map_or(0, attempt_of),
        process: pod.map_or(ProcessState::Absent, |pod| process(pod, address)),
        confirmed_attempt: confirmed.get(rank).copied().unwrap_or(0),
    };
    newest.iter().copied().enumerate().map(worker).collect()
}

/// A pod as a process.
pub fn process(pod: &Pod, address: &Address) -> ProcessState {
    let status = pod.status.as_ref();
    let container = trainer_status(pod);
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        let said =
            ended.message.as_deref().and_then(|text| serde_json::from_str::<LastWords>(text.trim()).ok());
        let out_of_memory = ended.reason.as_deref() == Some("OOMKilled");
        let last_words = said.or_else(|| {
            out_of_memory.then(|| LastWords {
                remedy:
                    "raise spec.devices.template.resources.limits.memory, or lower spec.stream.bufferBytes"
                        .into(),
                ..LastWords::new(ExitCode::Internal, "the container ran out of memory (OOMKilled)")
            })
        });
        let (code, signal) = match ended.exit_code {
            code if code > SIGNAL_BASE => (None, Some(code - SIGNAL_BASE)),
            code => (Some(code), None),
        };
        return ProcessState::Exited { code, signal, last_words };
    }
    if status.and_then(|status| status.phase.as_deref()) == Some("Failed") {
        // Evicted or rejected by its node before the container could say anything.
        let reason = status.and_then(|status| status.reason.clone()).unwrap_or_default();
        let message = status.and_then(|status| status.message.clone()).unwrap_or_default();
        let words = LastWords::new(ExitCode::Internal, format!("the pod failed: {reason} {message}"));
        return ProcessState::Exited { code: None, signal: None, last_words: Some(words) };
    }
    let ready = container.is_some_and(|container| container.ready);
    match ready.then(|| address(pod)).flatten() {
        Some(listening) => ProcessState::Listening(listening),
        None => ProcessState::Starting {
            since: pod.creation_timestamp().map_or(0.0, |time| time.0.as_millisecond() as f64 / 1000.0),
        },
    }
}

fn trainer_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == names::TRAINER)
}

/// Asks rank 0 how it is getting on, and those that have yet to confirm their attempt.
async fn poll(
    prepared: &Prepared,
    supervision: &Supervision,
    newest: &[Option<&Pod>],
    memory: &mut Memory,
    context: &Context,
) {
    memory.confirmed.resize(newest.len(), 0);
    let attempt = supervision.attempt;
    let token = super::build::token(&context.settings.key, &prepared.uid);
    let asked = newest.iter().enumerate().filter_map(|(rank, pod)| {
        let pod = (*pod)?;
        let of_interest = attempt_of(pod) == attempt && (rank == 0 || memory.confirmed[rank] != attempt);
        let ProcessState::Listening(listening) = process(pod, &context.address) else { return None };
        of_interest.then(|| (rank, listening.endpoint, WorkerClient::new(&token)))
    });
    let answers = asked.map(|(rank, endpoint, client)| async move {
        let answer = tokio::task::spawn_blocking(move || client.progress(&endpoint)).await;
        (rank, answer.ok().and_then(Result::ok))
    });
    let answers: Vec<(usize, Option<Progress>)> = futures_util::future::join_all(answers).await;
    for (rank, progress) in answers {
        let Some(progress) = progress else { continue };
        memory.confirmed[rank] = progress.attempt;
        if rank == 0 {
            memory.progress = Some((progress, Instant::now()));
        }
    }
}

/// Speaks to the workers of a job that an edit made invalid: what runs goes on, and must not take its supervisor for lost.
/// Whether there were any.
pub async fn keep_company(object: &ScadlesJobObject, uid: &str, context: &Context) -> bool {
    let (trainers, _) = pods_of(&object.namespace().unwrap_or_default(), uid, context);
    let token = super::build::token(&context.settings.key, uid);
    let asked = trainers.iter().filter_map(|pod| {
        let ProcessState::Listening(listening) = process(pod, &context.address) else { return None };
        let client = WorkerClient::new(&token);
        Some(tokio::task::spawn_blocking(move || client.progress(&listening.endpoint)))
    });
    !futures_util::future::join_all(asked).await.is_empty()
}

fn ended(prepared: &Prepared, newest: &[Option<&Pod>], attempt: u32) -> Vec<EndedPod> {
    let devices = prepared.job.job.devices.iter();
    devices
        .zip(newest)
        .filter_map(|(device, pod)| {
            let pod = (*pod).filter(|pod| attempt_of(pod) == attempt)?;
            let exit_code = trainer_status(pod)?.state.as_ref()?.terminated.as_ref()?.exit_code;
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            Some(EndedPod { device: device.name.clone(), node, exit_code: Some(exit_code) })
        })
        .collect()
}

/// What keeps pods from running, in the cluster's own words.
fn troubles(prepared: &Prepared, newest: &[Option<&Pod>], producer: Option<&Pod>) -> Vec<PodTrouble> {
    let devices = prepared.job.job.devices.iter().map(|device| device.name.as_str());
    let trainers = devices.zip(newest).filter_map(|(device, pod)| trouble(device, (*pod)?));
    trainers.chain(producer.and_then(|pod| trouble(names::PRODUCER, pod))).collect()
}

fn trouble(device: &str, pod: &Pod) -> Option<PodTrouble> {
    let status = pod.status.as_ref()?;
    let told = |reason: &str, message: &str| PodTrouble {
        device: device.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|condition| condition.status == "False") {
        let reason = condition.reason.as_deref().unwrap_or("Unschedulable");
        return Some(told(reason, condition.message.as_deref().unwrap_or_default()));
    }
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref())
        .filter(|waiting| {
            !matches!(waiting.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing"))
        })
        .map(|waiting| {
            told(
                waiting.reason.as_deref().unwrap_or_default(),
                waiting.message.as_deref().unwrap_or_default(),
            )
        })
        .next()
}

#[cfg(test)]
mod tests;
