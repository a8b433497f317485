//! Kafka in the cluster: the broker and the claim of the quickstart, in a namespace of the test's choice.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{PersistentVolumeClaim, Service},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{Scenario, program::root, wait};

/// A Java program on a small machine that does other things as well.
const START: Duration = Duration::from_secs(150);
/// File whose broker the tests use.
const QUICKSTART: &str = "manifests/examples/quickstart.yaml";
/// Its namespace.
const NAMESPACE: &str = "demo";

/// The objects of the quickstart's file, with another namespace.
pub fn quickstart_in(namespace: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(root().join(QUICKSTART))
        .with_context(|| format!("failed to read {QUICKSTART}"))?;
    let text = text
        .replace(&format!("namespace: {NAMESPACE}"), &format!("namespace: {namespace}"))
        .replace(&format!("kafka.{NAMESPACE}.svc"), &format!("kafka.{namespace}.svc"));
    Ok(scadles_api::yaml::documents(&text)?)
}

/// Starts the quickstart's broker and makes its claim in the test's namespace; `host:port` for the jobs there.
pub async fn start(scenario: &Scenario) -> Result<String> {
    for object in quickstart_in(&scenario.namespace)? {
        match object["kind"].as_str() {
            Some("Service") => create::<Service>(scenario, object).await?,
            Some("Deployment") => create::<Deployment>(scenario, object).await?,
            Some("PersistentVolumeClaim") => create::<PersistentVolumeClaim>(scenario, object).await?,
            _ => {}
        }
    }
    await_ready(scenario).await?;
    Ok(format!("kafka.{}.svc:9092", scenario.namespace))
}

/// Waits for the broker of the test's namespace.
pub async fn await_ready(scenario: &Scenario) -> Result<()> {
    let ready = |deployment: &Deployment| {
        deployment.status.as_ref().and_then(|status| status.ready_replicas).is_some_and(|ready| ready > 0)
    };
    wait::until(&scenario.api(), "kafka", "the broker is ready", START, ready).await?;
    Ok(())
}

/// Takes the broker away, with all that it holds.
pub async fn take_away(scenario: &Scenario) -> Result<()> {
    let deployments: Api<Deployment> = scenario.api();
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    deployments.patch_scale("kafka", &PatchParams::default(), &none).await?;
    let gone = |deployment: &Deployment| {
        deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0) == 0
    };
    wait::until(&deployments, "kafka", "the broker is gone", START, gone).await?;
    Ok(())
}

async fn create<K>(scenario: &Scenario, object: Value) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = scenario.api();
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}
