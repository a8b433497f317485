//! Jobs of the tests: small enough for two cores, and what is read from their status.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use scadles_api::{
    crd::ScadlesJobObject,
    status::{DeviceStatus, JobState, ScadlesJobStatus},
};
use serde_json::{Value, json};

use crate::{DATA_IMAGE, Scenario, wait};

/// From a job that is applied to the first step, with images on the node.
pub const START: Duration = Duration::from_mins(2);
/// A small job's whole life, on a machine that does other things as well.
pub const LIFE: Duration = Duration::from_mins(4);

/// A job of two devices with the smallest network, 60 pictures per second in all. `change` is merged into `spec`.
pub fn small(name: &str, servers: &str, change: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "scadles.io/v1alpha1", "kind": "ScadlesJob", "metadata": {"name": name},
        "spec": {
            "model": {"name": "Mlp", "numClasses": 10, "inputShape": [1, 28, 28]},
            "kafka": {"bootstrapServers": servers},
            "devices": {"count": 2, "template": {
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            }},
            "data": {"image": DATA_IMAGE},
            "producer": {"dataset": {"name": "FashionMnist"}, "rates": {"list": [40.0, 20.0]}},
            "checkpoint": {"everySteps": 20, "storage": {"persistentVolumeClaim": {
                "claimName": "results", "subPath": name,
            }}},
            "completion": {"maxSamples": 3000},
        }
    });
    merge(&mut job["spec"], change);
    job
}

/// Members of `change` into `target`; `null` removes one (RFC 7396).
pub fn merge(target: &mut Value, change: &Value) {
    let Value::Object(changes) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        match target.as_object_mut() {
            Some(members) if change.is_null() => drop(members.remove(name)),
            _ => merge(&mut target[name], change),
        }
    }
}

/// A change that lets a job train until it is stopped.
pub fn endless() -> Value {
    json!({"completion": {"maxSamples": null, "maxSteps": 1_000_000}})
}

impl Scenario {
    /// Creates a job.
    pub async fn submit(&self, job: Value) -> Result<ScadlesJobObject> {
        Ok(self.jobs().create(&PostParams::default(), &serde_json::from_value(job)?).await?)
    }

    /// Edits the spec of a job.
    pub async fn edit(&self, name: &str, change: &Value) -> Result<()> {
        let change = Patch::Merge(json!({"spec": change}));
        self.jobs().patch(name, &PatchParams::default(), &change).await?;
        Ok(())
    }

    /// Waits for a state; the job.
    pub async fn until_state(
        &self,
        name: &str,
        state: JobState,
        limit: Duration,
    ) -> Result<ScadlesJobObject> {
        let what = format!("the state is {state:?}");
        wait::until(&self.jobs(), name, &what, limit, |job| status(job).state == Some(state)).await
    }

    /// Waits until something holds of the status; the status.
    pub async fn until_status(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        condition: impl Fn(&ScadlesJobStatus) -> bool,
    ) -> Result<ScadlesJobStatus> {
        let job = wait::until(&self.jobs(), name, what, limit, |job| condition(&status(job))).await?;
        Ok(status(&job))
    }

    /// Waits until a job is complete; its status, whose result must be there.
    pub async fn until_complete(&self, name: &str) -> Result<ScadlesJobStatus> {
        let job = self.until_state(name, JobState::Complete, LIFE).await?;
        let status = status(&job);
        ensure!(status.result.is_some(), "{name} is complete without a result: {status:?}");
        Ok(status)
    }
}

/// The status, empty before there is one.
pub fn status(job: &ScadlesJobObject) -> ScadlesJobStatus {
    job.status.clone().unwrap_or_default()
}

/// The row of a device.
pub fn device<'a>(status: &'a ScadlesJobStatus, name: &str) -> Option<&'a DeviceStatus> {
    status.devices.iter().find(|row| row.name == name)
}
