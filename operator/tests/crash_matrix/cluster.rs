//! The rest of a cluster: kubelets that run pods, the collector that takes what has lost its owner. As little as needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::ByteString;
use scadles_api::names::labels;
use scadles_operator::controller::names;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    store::{JOBS, Store},
    workers::{End, Script, Workers, message},
};

/// Kinds that a job owns.
const OWNED: [&str; 4] = ["pods", "configmaps", "secrets", "networkpolicies"];
/// Exit code of a process that was asked to go.
const TERMINATED: i32 = 143;

/// Kubelets, the collector, and the processes.
pub(crate) struct Cluster {
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) workers: Workers,
    pub(crate) script: Script,
}

impl Cluster {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time goes on.
    pub(crate) async fn tick(&self) {
        self.collect();
        let pods = self.store().of_kind("pods");
        for pod in &pods {
            self.look_after(pod).await;
        }
        let ends = self.workers.train(self.script, self.samples_come());
        for end in ends {
            self.ended(&end);
        }
    }

    /// What belongs to a job that is gone goes, too.
    fn collect(&self) {
        let mut store = self.store();
        let owners: Vec<Value> =
            store.of_kind(JOBS).iter().map(|job| job["metadata"]["uid"].clone()).collect();
        for kind in OWNED {
            let objects = store.of_kind(kind);
            let is_orphan = |it: &Value| !owners.contains(&it["metadata"]["ownerReferences"][0]["uid"]);
            for orphan in objects.iter().filter(|it| is_orphan(it)) {
                store.delete(kind, text(&orphan["metadata"]["name"]), &Value::Null).unwrap();
            }
        }
    }

    /// One pod goes one stage further in its life.
    async fn look_after(&self, pod: &Value) {
        let (name, phase) = (text(&pod["metadata"]["name"]), text(&pod["status"]["phase"]));
        let is_deleted = !pod["metadata"]["deletionTimestamp"].is_null();
        let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        match phase {
            "Pending" | "Succeeded" | "Failed" if is_deleted => self.store().forget("pods", name),
            "Running" if is_deleted => {
                self.ended(&End { pod: name.to_owned(), code: TERMINATED, words: None });
            }
            "Pending" if self.mounts_are_there(pod) => {
                self.set_status(pod, false, &json!({"running": {}}), "Running");
                self.start(pod).await;
            }
            "Running" if !is_ready => {
                self.set_status(pod, true, &json!({"running": {}}), "Running");
            }
            _ => {}
        }
    }

    /// A kubelet waits for them.
    fn mounts_are_there(&self, pod: &Value) -> bool {
        let store = self.store();
        ["configmaps", "secrets"].iter().all(|kind| store.get(kind, &shared(pod)).is_some())
    }

    /// A trainer opens its endpoint; it knows its token from the Secret.
    async fn start(&self, pod: &Value) {
        let device = label(pod, labels::DEVICE);
        if device.is_empty() {
            return;
        }
        let secret = self.store().get("secrets", &shared(pod)).cloned().unwrap();
        let token = ByteString::deserialize(&secret["data"]["token"]).unwrap();
        let token = String::from_utf8(token.0).unwrap();
        let uid = label(pod, labels::JOB_UID);
        self.workers.start(text(&pod["metadata"]["name"]), device, uid, &token).await;
    }

    /// Samples come from the producer.
    fn samples_come(&self) -> bool {
        let runs = |pod: &Value| {
            label(pod, labels::COMPONENT) == names::PRODUCER && pod["status"]["phase"] == "Running"
        };
        self.store().of_kind("pods").iter().any(|pod| runs(pod))
    }

    /// The container of a pod has ended.
    fn ended(&self, end: &End) {
        self.workers.end(&end.pod);
        let pod = self.store().get("pods", &end.pod).cloned().unwrap();
        let state = json!({"terminated": {
            "exitCode": end.code, "message": message(end.words.as_ref()),
            "reason": if end.code == 0 { "Completed" } else { "Error" },
        }});
        self.set_status(&pod, false, &state, if end.code == 0 { "Succeeded" } else { "Failed" });
    }

    fn set_status(&self, pod: &Value, ready: bool, state: &Value, phase: &str) {
        let container = json!({
            "name": pod["spec"]["containers"][0]["name"], "ready": ready, "state": state,
            "restartCount": 0, "image": "", "imageID": "",
        });
        let mut pod = pod.clone();
        pod["status"] = json!({"phase": phase, "podIP": "10.0.0.1", "containerStatuses": [container]});
        self.store().commit("pods", pod);
    }
}

/// Name of the objects that all pods of a job share.
fn shared(pod: &Value) -> String {
    names::shared(label(pod, labels::JOB))
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    text(&object["metadata"]["labels"][name])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
