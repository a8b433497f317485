//! Pods of a job, and small pods of the tests themselves.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, PostParams},
};
use scadles_api::names::labels;
use serde_json::{Value, json};

use crate::{CLUSTER, DATA_IMAGE, Scenario, TRAINER_IMAGE, program::program, wait};

/// A pod whose image is on the node starts in seconds; the machine is small and busy.
const START: Duration = Duration::from_secs(90);

/// All trainer pods of jobs of this name, also those that are on their way out.
pub async fn all_trainers(scenario: &Scenario, namespace: &str, job: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(scenario.client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("{}={job},{}=trainer", labels::JOB, labels::COMPONENT));
    Ok(pods.list(&ours).await?.items)
}

/// The newest trainer pod of each device that stays.
pub async fn trainers(scenario: &Scenario, namespace: &str, job: &str) -> Result<BTreeMap<String, Pod>> {
    let mut by_device: BTreeMap<String, Pod> = BTreeMap::new();
    let pods = all_trainers(scenario, namespace, job).await?;
    for pod in pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let device = pod.labels().get(labels::DEVICE).cloned().context("a trainer without a device")?;
        let newer = |old: &Pod| attempt_of(old) < attempt_of(&pod);
        if by_device.get(&device).is_none_or(newer) {
            by_device.insert(device, pod);
        }
    }
    Ok(by_device)
}

/// UIDs of the trainer pods of a job of the scenario, by device: the same pods, not others of the same name.
pub async fn uids(scenario: &Scenario, job: &str) -> Result<BTreeMap<String, Option<String>>> {
    let trainers = trainers(scenario, &scenario.namespace, job).await?;
    Ok(trainers.into_iter().map(|(device, pod)| (device, pod.uid())).collect())
}

/// Waits until a job of the scenario has no producer.
pub async fn await_no_producer(scenario: &Scenario, job: &str, limit: Duration) -> Result<()> {
    let pods: Api<Pod> = scenario.api();
    let producers =
        ListParams::default().labels(&format!("{}={job},{}=producer", labels::JOB, labels::COMPONENT));
    for pod in pods.list(&producers).await? {
        wait::until_gone(&pods, &pod.name_any(), limit).await?;
    }
    Ok(())
}

/// The attempt that a trainer pod was made for.
pub fn attempt_of(pod: &Pod) -> u32 {
    pod.labels().get(labels::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Address of a pod.
pub fn address(pod: &Pod) -> Result<String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    address.with_context(|| format!("{} has no address", pod.name_any()))
}

/// Kills the program of a pod as a crash does: SIGKILL on the node, without last words.
pub async fn crash(name: &str) -> Result<()> {
    // What distinguishes the processes of a pod, seen from its node, is their environment.
    let script = format!(
        "killed=1; for process in /proc/[0-9]*; do if grep -qsz '^HOSTNAME={name}$' $process/environ && \
         grep -qs '^scadles' $process/comm; then kill -KILL ${{process#/proc/}} && killed=0; fi; done; exit $killed"
    );
    program("docker", &["exec", &format!("{CLUSTER}-control-plane"), "bash", "-c", &script]).await?;
    Ok(())
}

/// Deletes a pod without patience. Its program still gets a SIGTERM and a moment.
pub async fn remove(pods: &Api<Pod>, name: &str) -> Result<()> {
    pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

/// A pod of the test that runs a shell script, under the level `restricted`, with the data sets at `/data`.
pub fn script_pod(name: &str, script: &str, files: Option<&str>) -> Value {
    let secured = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    let mut volumes = vec![json!({"name": "data", "emptyDir": {}})];
    let mut mounts = vec![json!({"name": "data", "mountPath": "/data"})];
    if let Some(config_map) = files {
        volumes.push(json!({"name": "files", "configMap": {"name": config_map}}));
        mounts.push(json!({"name": "files", "mountPath": "/files"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": [{
                "name": "data", "image": DATA_IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["cp", "-R", "/data/.", "/target/"], "securityContext": secured,
                "volumeMounts": [{"name": "data", "mountPath": "/target"}],
            }],
            "containers": [{
                "name": "script", "image": TRAINER_IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-c", script], "securityContext": secured, "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }
    })
}

/// Makes a pod and waits until it runs.
pub async fn start(pods: &Api<Pod>, pod: Value) -> Result<Pod> {
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    wait::until(pods, &made.name_any(), "the pod runs", START, |pod| phase(pod) == "Running").await
}

/// From a pod of the test, tries to connect to each `host:port`; whether it could, by address.
pub async fn reached_from(
    pods: &Api<Pod>,
    name: &str,
    addresses: &[String],
) -> Result<BTreeMap<String, bool>> {
    let tries = addresses.iter().map(|address| {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        format!("if timeout 5 bash -c '</dev/tcp/{host}/{port}'; then echo {address} open; else echo {address} closed; fi")
    });
    let script = tries.collect::<Vec<_>>().join("\n");
    pods.create(&PostParams::default(), &serde_json::from_value(script_pod(name, &script, None))?).await?;
    let ended = |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed");
    wait::until(pods, name, "the probe has ended", START, ended).await?;
    let log = pods.logs(name, &LogParams::default()).await?;
    let answers: BTreeMap<String, bool> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, answer)| matches!(*answer, "open" | "closed"))
        .map(|(address, answer)| (address.to_owned(), answer == "open"))
        .collect();
    ensure!(answers.len() == addresses.len(), "the probe {name} said: {log}");
    Ok(answers)
}

/// `Pending`, `Running`, `Succeeded`, `Failed`.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
