//! Jobs that have come to an end, or to rest. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::ResourceExt;
use scadles_api::{ExitCode, ScadlesJobStatus, names::labels};

use super::{Answer, Facts, NOTICE_SECONDS};
use crate::{
    cluster::{
        time,
        words::{between, in_cluster, one_line},
    },
    screen::{grouped, span},
};

pub(super) fn complete(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Answer {
    let top_1 = status.result.as_ref().and_then(|result| result.top1_percent);
    let top_1 = top_1.map_or(String::new(), |percent| format!(", Top-1 {percent:.1} %"));
    Answer::fine(format!(
        "nothing is wrong: it is complete after {} steps and {} samples{top_1}; bring the model here with: scadles fetch {} \
         -n {}",
        grouped(status.step),
        grouped(status.samples),
        facts.name(),
        facts.namespace()
    ))
}

/// The first of the operator's list of mistakes, and their number.
pub(super) fn invalid(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Answer {
    let looked_at = status.observed_generation >= facts.job.metadata.generation;
    let when = if looked_at { "" } else { " (its latest change has not been looked at yet)" };
    let sentence = first_mistake(&status.message)
        .unwrap_or_else(|| one_line(status.message.lines().next().unwrap_or("the job is wrong")));
    Answer::wrong(format!("{sentence}{when}"))
}

fn first_mistake(message: &str) -> Option<String> {
    let count = between(message, "the job has ", " mistake")?;
    let mut lines = message.lines().skip(1).filter(|line| !line.trim().is_empty());
    let field = lines.next()?.trim();
    let block: Vec<&str> = lines.take_while(|line| line.starts_with(' ')).collect();
    // A problem or remedy may be of several lines.
    let block = one_line(&block.join(" "));
    let (problem, remedy) = match block.split_once("remedy:") {
        Some((problem, remedy)) => (problem, remedy.trim()),
        None => (block.as_str(), ""),
    };
    let problem = problem.trim().trim_start_matches("problem:").trim();
    let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
    Some(match count {
        "1" => format!("the job has a mistake: {field}: {problem}{remedy}"),
        count => format!("the job has {count} mistakes, the first: {field}: {problem}{remedy}"),
    })
}

pub(super) fn failed(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Answer {
    let message = one_line(&in_cluster(&status.message));
    let log = facts
        .pods
        .and_then(|pods| failed_pod(status, pods))
        .map_or(String::new(), |pod| format!("; its log: kubectl -n {} logs {pod}", facts.namespace()));
    let again = "; then delete the job and apply it anew";
    Answer::wrong(format!("it has failed: {message}{log}{again}"))
}

/// The pod whose end was the last one too many.
fn failed_pod(status: &ScadlesJobStatus, pods: &[Pod]) -> Option<String> {
    let failure = status.failures.last()?;
    let device = failure.device.as_deref()?;
    pods.iter().find(|pod| is_of(pod, device, failure.attempt)).map(ResourceExt::name_any)
}

/// Whether a pod was made for this device and attempt.
pub(super) fn is_of(pod: &Pod, device: &str, attempt: u32) -> bool {
    let label = |key| pod.labels().get(key).map(String::as_str);
    label(labels::DEVICE) == Some(device) && label(labels::ATTEMPT) == Some(attempt.to_string().as_str())
}

pub(super) fn suspended(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Answer {
    let kept = match &status.checkpoint {
        Some(checkpoint) => {
            format!("checkpoint {} (step {}) is kept", checkpoint.name, grouped(checkpoint.step))
        }
        None => "it had no checkpoint yet and will begin at step 0".to_owned(),
    };
    if facts.job.spec.suspend != Some(true) {
        return Answer::wrong(format!(
            "it still rests although spec.suspend is no longer true: the operator has not looked at generation {}; see \
             that it runs: kubectl get pods -A -l app.kubernetes.io/part-of=scadles",
            facts.job.metadata.generation.unwrap_or_default()
        ));
    }
    Answer::fine(format!(
        "nothing is wrong: it rests because spec.suspend is true, and {kept}; go on with: kubectl -n {} patch scadlesjob {} \
         --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'",
        facts.namespace(),
        facts.name()
    ))
}

/// Rank 0 has written the results and ended, and nobody has noticed.
pub(super) fn unseen_completion(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Option<Answer> {
    let rank_0 = &facts.valid.as_ref()?.devices.first()?.name;
    let pod = facts.pods?.iter().find(|pod| is_of(pod, rank_0, status.attempt))?;
    let end = terminated(pod).filter(|end| end.exit_code == i32::from(ExitCode::Completed.code()))?;
    let age = facts.now - time::of(end.finished_at.as_ref()?);
    (age > NOTICE_SECONDS).then(|| {
        Answer::wrong(format!(
            "its workers completed it {} ago and no operator has noticed: it is down, and the model is safe on its claim; \
             see: kubectl get pods -A -l app.kubernetes.io/part-of=scadles",
            span(age)
        ))
    })
}

/// How the trainer of a pod ended.
pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == "trainer")?.state.as_ref()?.terminated.as_ref()
}
