use std::sync::Arc;

use scadles_api::attempt::Listening;
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
