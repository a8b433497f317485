//! Jobs that cannot run: the status says why, nothing else suffers, and an edit helps.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::{
    api::core::v1::ConfigMap, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use scadles_api::{crd::ScadlesJobObject, status::JobState};
use scadles_e2e::{
    Scenario, broker,
    job::{START, endless, merge, small, status},
    wait,
};
use serde_json::{Value, json};

/// Causes are shown within 15 s; the kubelet takes a few to find out.
const TOLD: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn an_image_that_is_not_there_is_told_and_an_edit_helps() {
    Scenario::run("bad-image", Duration::from_mins(7), async |scenario| {
        let servers = broker::start(scenario).await?;
        let image = "ghcr.io/scadles/no-such-image:0";
        scenario.submit(small("typo", &servers, &json!({"image": image}))).await?;
        let told = |status: &scadles_api::ScadlesJobStatus| {
            status
                .condition("PodsReady")
                .is_some_and(|pods| pods.reason == "ImagePullFailed" && pods.message.contains(image))
        };
        // From the pods' creation, which waits for the topics.
        let started = |status: &scadles_api::ScadlesJobStatus| status.attempt > 0;
        scenario.until_status("typo", "an attempt is decided", START, started).await?;
        let status = scenario.until_status("typo", "the image's failure is told", TOLD, told).await?;
        ensure!(status.restarts == 0, "an image that is not there is no failure of a worker: {status:?}");
        scenario.edit("typo", &json!({"image": null})).await?;
        scenario.until_complete("typo").await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn one_malformed_job_among_fifty_leaves_the_others_reconciled() {
    Scenario::run("malformed", Duration::from_mins(5), async |scenario| {
        let definitions: Api<CustomResourceDefinition> = Api::all(scenario.client.clone());
        let installed = definitions.get("scadlesjobs.scadles.io").await?;
        // As an object of a later version looks to an earlier operator: a network that the types do not know.
        loosen(&definitions, &installed).await?;
        let outcome = fifty_jobs(scenario).await;
        let mut original = installed;
        original.metadata.resource_version = definitions.get(&original.name_any()).await?.resource_version();
        definitions.replace(&original.name_any(), &PostParams::default(), &original).await?;
        outcome
    });
}

async fn loosen(
    definitions: &Api<CustomResourceDefinition>,
    installed: &CustomResourceDefinition,
) -> Result<()> {
    let mut loose = serde_json::to_value(installed)?;
    let name = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/model/properties/name";
    let Some(Value::Object(node)) = loose.pointer_mut(name) else {
        anyhow::bail!("the definition has no {name}")
    };
    node.remove("enum");
    node.insert("maxLength".to_owned(), json!(64));
    definitions
        .replace(&installed.name_any(), &PostParams::default(), &serde_json::from_value(loose)?)
        .await?;
    Ok(())
}

async fn fifty_jobs(scenario: &Scenario) -> Result<()> {
    let untyped: Api<DynamicObject> = Api::namespaced_with(
        scenario.client.clone(),
        &scenario.namespace,
        &ApiResource::erase::<ScadlesJobObject>(&()),
    );
    let resting = |name: &str| small(name, "kafka.nowhere.svc:9092", &json!({"suspend": true}));
    let mut malformed = resting("malformed");
    merge(&mut malformed, &json!({"spec": {"model": {"name": "Transformer"}}}));
    // The API server takes a moment to serve the looser definition.
    let stored = wait::retry(TOLD, "the malformed job is stored", async || {
        Ok(untyped.create(&PostParams::default(), &serde_json::from_value(malformed.clone())?).await?)
    });
    stored.await?;
    let names: Vec<String> = (0..49).map(|number| format!("good-{number}")).collect();
    for name in &names {
        scenario.submit(resting(name)).await?;
    }
    for name in &names {
        let seen = |job: &ScadlesJobObject| {
            status(job).state.is_some() && status(job).observed_generation == job.metadata.generation
        };
        wait::until(&scenario.jobs(), name, "it is reconciled", Duration::from_mins(1), seen).await?;
    }
    let left_alone = untyped.get("malformed").await?;
    ensure!(left_alone.data.get("status").is_none(), "what cannot be read cannot be judged: {left_alone:?}");
    untyped.delete("malformed", &DeleteParams::default()).await?;
    Ok(())
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn an_object_of_somebody_else_is_never_overwritten() {
    Scenario::run("foreign", Duration::from_mins(7), async |scenario| {
        let servers = broker::start(scenario).await?;
        let files: Api<ConfigMap> = scenario.api();
        let foreign = json!({"metadata": {"name": "taken-scadles"}, "data": {"mine": "yes"}});
        let foreign = files.create(&PostParams::default(), &serde_json::from_value(foreign)?).await?;
        scenario.submit(small("taken", &servers, &json!({}))).await?;
        let started = |status: &scadles_api::ScadlesJobStatus| status.attempt > 0;
        scenario.until_status("taken", "an attempt is decided", START, started).await?;
        let told = |status: &scadles_api::ScadlesJobStatus| status.message.contains("taken-scadles");
        scenario.until_status("taken", "the name that is taken is told", TOLD, told).await?;
        let still = files.get("taken-scadles").await?;
        ensure!(
            still.resource_version() == foreign.resource_version(),
            "somebody else's object was changed: {still:?}"
        );
        files.delete("taken-scadles", &DeleteParams::default()).await?;
        scenario.until_complete("taken").await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn what_only_an_edit_helps_is_said_once_and_runs_after_the_edit() {
    Scenario::run("bad-spec", Duration::from_mins(7), async |scenario| {
        let servers = broker::start(scenario).await?;
        // The rules of the API server cannot say this: a data set of another shape than the model's.
        let misfit = json!({"producer": {"dataset": {"name": "Cifar10"}}});
        scenario.submit(small("misfit", &servers, &misfit)).await?;
        let job = scenario.until_state("misfit", JobState::Invalid, TOLD).await?;
        ensure!(status(&job).message.contains("spec.producer.dataset.name"), "{}", status(&job).message);
        let stalled = status(&job).condition("Stalled").map(|condition| condition.status.clone());
        ensure!(stalled.as_deref() == Some("True"), "only an edit helps: {stalled:?}");
        scenario.edit("misfit", &json!({"producer": {"dataset": {"name": "FashionMnist"}}})).await?;
        scenario.edit("misfit", &endless()).await?;
        scenario.until_state("misfit", JobState::Running, START).await?;
        Ok(())
    });
}
