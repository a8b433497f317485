//! The operator's release: installed as the documentation says, and what its log must not contain.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    program::{say, type_line_within},
    readme, wait,
};

/// Namespace of the release, as documented.
pub const NAMESPACE: &str = "scadles-system";
/// Name of the release and of its Deployment, as documented.
pub const RELEASE: &str = "scadles";
/// The operator is small and its image is on the node.
const READY: Duration = Duration::from_mins(2);

/// Types the documented line of installation.
pub async fn install() -> Result<()> {
    type_line_within(READY, &readme::line_of("README.md", "helm install")?).await?;
    Ok(())
}

/// Sees to it that the release is there as [`install`] makes it, whatever a test before has done to it.
pub async fn ensure_installed(client: &Client) -> Result<()> {
    let installed: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    if installed.get_opt(RELEASE).await?.is_none() {
        install().await?;
        return await_ready(client, NAMESPACE, RELEASE).await;
    }
    upgrade(client, "").await
}

/// Changes the release's values: `settings` are further arguments of `helm upgrade`; what earlier ones changed is forgotten.
pub async fn upgrade(client: &Client, settings: &str) -> Result<()> {
    let line =
        format!("helm upgrade {RELEASE} charts/scadles --namespace {NAMESPACE} --reset-values {settings}");
    type_line_within(READY, line.trim()).await?;
    await_ready(client, NAMESPACE, RELEASE).await
}

/// Waits until all replicas are new and ready, and the old ones are gone.
pub async fn await_ready(client: &Client, namespace: &str, deployment: &str) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let ready = |deployment: &Deployment| {
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        let current = deployment.metadata.generation;
        deployment.status.as_ref().is_some_and(|status| {
            status.observed_generation == current
                && status.updated_replicas == wanted
                && status.ready_replicas == wanted
                && status.replicas == wanted
        })
    };
    wait::until(&deployments, deployment, "all replicas are ready", READY, ready).await?;
    Ok(())
}

/// Sets the number of operators and waits until so many run.
pub async fn scale(client: &Client, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let scaled = json!({"spec": {"replicas": replicas}});
    deployments.patch_scale(RELEASE, &PatchParams::default(), &Patch::Merge(scaled)).await?;
    if replicas > 0 {
        return await_ready(client, NAMESPACE, RELEASE).await;
    }
    for pod in pods(client).await? {
        let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        wait::until_gone(&api, &pod.name_any(), READY).await?;
    }
    Ok(())
}

/// The operator's pods.
pub async fn pods(client: &Client) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let ours =
        ListParams::default().labels("app.kubernetes.io/name=scadles,app.kubernetes.io/component=operator");
    Ok(pods.list(&ours).await?.items)
}

/// The pod that holds the lease.
pub async fn leader(client: &Client) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get(RELEASE).await.context("failed to read the operators' lease")?;
    lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .filter(|holder| !holder.is_empty())
        .context("nobody holds the lease")
}

/// How often each operator's container was started again.
pub async fn restarts(client: &Client) -> Result<BTreeMap<String, i32>> {
    let count = |pod: &Pod| -> i32 {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|container| container.restart_count).sum()
    };
    Ok(pods(client).await?.iter().map(|pod| (pod.name_any(), count(pod))).collect())
}

/// Whether no operator has logged an error since then, or ended more often than `before`.
pub async fn said_no_errors(client: &Client, since: Timestamp, before: &BTreeMap<String, i32>) -> Result<()> {
    for (pod, count) in restarts(client).await? {
        let known = before.get(&pod).copied().unwrap_or(0);
        ensure!(
            count <= known,
            "operator {pod} has ended and was started again: {known} times, then {count}"
        );
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let since = LogParams { since_time: Some(since), ..LogParams::default() };
    let mut errors = Vec::new();
    for pod in pods(client).await? {
        let log = api.logs(&pod.name_any(), &since).await.unwrap_or_default();
        errors.extend(log.lines().filter(|line| is_error(line)).map(str::to_owned));
    }
    for error in &errors {
        say(format!("operator: {error}"));
    }
    ensure!(errors.is_empty(), "the operator logged {} errors, the first: {}", errors.len(), errors[0]);
    Ok(())
}

fn is_error(line: &str) -> bool {
    line.contains(" ERROR ") || line.contains("panicked at")
}
