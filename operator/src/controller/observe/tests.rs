use std::{collections::BTreeMap, sync::Arc};

use scadles_api::attempt::Listening;
use scadles_control::decide::history::History;
use serde_json::json;

use super::*;

fn address() -> Address {
    Arc::new(|_| Some(Listening { endpoint: "10.0.0.1:7200".to_owned(), hub: "10.0.0.1:7201".to_owned() }))
}

fn pod(status: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": status,
    }))
    .unwrap()
}

fn trainer(state: &serde_json::Value, ready: bool) -> Pod {
    let container = json!({"name": "trainer", "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state});
    pod(&json!({"phase": "Running", "containerStatuses": [container]}))
}

#[test]
fn a_pod_listens_when_its_probe_says_so() {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    assert!(
        matches!(process(&trainer(&running, false), &address()), ProcessState::Starting { since } if since > 1e9)
    );
    assert!(matches!(process(&trainer(&running, true), &address()), ProcessState::Listening(_)));
}

#[test]
fn last_words_come_from_the_termination_message() {
    let words = LastWords { step: 7, ..LastWords::new(ExitCode::Completed, "done") };
    let message = serde_json::to_string(&words).unwrap();
    let ended = trainer(&json!({"terminated": {"exitCode": 0, "message": message}}), false);
    let expected = ProcessState::Exited { code: Some(0), signal: None, last_words: Some(words) };
    assert_eq!(process(&ended, &address()), expected);
}

#[test]
fn a_killed_container_ended_by_a_signal_and_out_of_memory_is_told() {
    let killed = trainer(&json!({"terminated": {"exitCode": 137, "reason": "Error"}}), false);
    assert_eq!(
        process(&killed, &address()),
        ProcessState::Exited { code: None, signal: Some(9), last_words: None }
    );
    let starved = trainer(&json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), false);
    let ProcessState::Exited { last_words: Some(words), .. } = process(&starved, &address()) else {
        panic!()
    };
    assert!(words.message.contains("OOMKilled") && words.remedy.contains("limits.memory"), "{words:?}");
}

#[test]
fn an_evicted_pod_has_ended_with_the_nodes_words() {
    let evicted = pod(&json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}));
    let ProcessState::Exited { last_words: Some(words), code: None, .. } = process(&evicted, &address())
    else {
        panic!()
    };
    assert!(words.message.contains("Evicted low on memory"), "{words:?}");
}

#[test]
fn what_keeps_a_pod_from_running_is_told_in_the_clusters_words() {
    let unschedulable = pod(&json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
    }]}));
    let found = trouble("gate", &unschedulable).unwrap();
    assert_eq!((found.reason.as_str(), found.message.as_str()), ("Unschedulable", "0/3 nodes are available"));
    let waiting =
        |reason: &str| trainer(&json!({"waiting": {"reason": reason, "message": "no such image"}}), false);
    assert_eq!(trouble("gate", &waiting("ImagePullBackOff")).unwrap().reason, "ImagePullBackOff");
    assert_eq!(trouble("gate", &waiting("ContainerCreating")), None);
}

/// What the runner of a machine saw of a worker, as the cluster shows it.
fn pod_of(device: &str, seen: &WorkerObservation) -> Option<Pod> {
    let (since, container) = match &seen.process {
        ProcessState::Absent => return None,
        ProcessState::Starting { since } => {
            (*since, json!({"ready": false, "state": {"running": {"startedAt": null}}}))
        }
        ProcessState::Listening(_) => {
            (0.0, json!({"ready": true, "state": {"running": {"startedAt": null}}}))
        }
        ProcessState::Exited { code, signal, last_words } => {
            let exit_code = code.or(signal.map(|signal| SIGNAL_BASE + signal)).unwrap_or(1);
            let message = last_words.as_ref().map(|words| serde_json::to_string(words).unwrap());
            (
                0.0,
                json!({"ready": false, "state": {"terminated": {"exitCode": exit_code, "message": message}}}),
            )
        }
    };
    let mut container = container;
    for (name, value) in
        [("name", json!("trainer")), ("restartCount", json!(0)), ("image", json!("")), ("imageID", json!(""))]
    {
        container[name] = value;
    }
    let made = k8s_openapi::jiff::Timestamp::from_millisecond((since * 1000.0) as i64).unwrap();
    let pod = json!({
        "metadata": {
            "name": device, "creationTimestamp": made.to_string(),
            "labels": {labels::DEVICE: device, labels::ATTEMPT: seen.made_for_attempt.to_string()},
        },
        "status": {"phase": "Running", "containerStatuses": [container]},
    });
    Some(serde_json::from_value(pod).unwrap())
}

/// The workers that have ended, and how.
fn ends(workers: &[WorkerObservation]) -> Vec<(usize, &ProcessState)> {
    let states = workers.iter().map(|worker| &worker.process).enumerate();
    states.filter(|(_, process)| matches!(process, ProcessState::Exited { .. })).collect()
}

/// A history that `scadles run` recorded, a killed worker in it, is seen through pods, and what is to be done is the same.
#[test]
fn pods_lead_to_the_decisions_that_processes_led_to() {
    let history = History::read(include_str!("../../../../crates/control/tests/history.jsonl")).unwrap();
    let devices: Vec<&str> = history.origin.job.devices.iter().map(|device| device.name.as_str()).collect();
    let again = history.decide_again(|look, _| {
        let pods: Vec<Option<Pod>> =
            devices.iter().zip(&look.seen.workers).map(|(device, seen)| pod_of(device, seen)).collect();
        let listening: BTreeMap<String, Listening> = devices
            .iter()
            .zip(&look.seen.workers)
            .filter_map(|(device, seen)| match &seen.process {
                ProcessState::Listening(listening) => Some(((*device).to_owned(), listening.clone())),
                _ => None,
            })
            .collect();
        let address: Address = Arc::new(move |pod| listening.get(&pod.name_any()).cloned());
        let trainers: Vec<Pod> = pods.into_iter().flatten().collect();
        let confirmed: Vec<u32> = look.seen.workers.iter().map(|seen| seen.confirmed_attempt).collect();
        let newest = newest_per_device(&devices, &trainers);
        let seen = workers(&newest, &confirmed, &address);
        // Kubernetes tells a signal as an exit code, and what was said as a text: both must come through whole.
        assert_eq!(ends(&seen), ends(&look.seen.workers), "at {}", look.now);
        Observation { workers: seen, ..look.seen.clone() }
    });
    assert_eq!(again.len(), history.looks.len());
    for (look, decision) in history.looks.iter().zip(&again) {
        assert_eq!(decision.actions, look.actions, "at {}", look.now);
        assert_eq!(
            (decision.next.attempt, &decision.next.phase),
            (look.attempt, &look.phase),
            "at {}",
            look.now
        );
    }
}
