//! Checkpoints and results in an object store instead of a claim.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::{Api, api::PostParams};
use scadles_api::status::JobState;
use scadles_e2e::{
    OBJECT_STORE_IMAGE, Scenario, broker,
    job::{START, small},
    pods,
    program::type_line,
};
use serde_json::{Value, json};

/// Keys of the tests' object store.
const KEYS: (&str, &str) = ("reader", "and-writer");

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_job_in_a_bucket_survives_a_crash_and_its_model_is_fetched() {
    Scenario::run("bucket", Duration::from_mins(10), async |scenario| {
        let servers = broker::start(scenario).await?;
        start_store(scenario).await?;
        let endpoint = format!("http://store.{}.svc:9000", scenario.namespace);
        let change = json!({
            "checkpoint": {"storage": {"persistentVolumeClaim": null, "s3": {
                "url": "s3://results/team-a", "endpoint": endpoint, "secret": "store-keys",
            }}},
            "evaluation": {"everySteps": 0},
        });
        scenario.submit(small("kept", &servers, &change)).await?;
        let saved = |status: &scadles_api::ScadlesJobStatus| {
            status.state == Some(JobState::Running)
                && status.checkpoint.as_ref().is_some_and(|it| it.step > 0)
        };
        scenario.until_status("kept", "a checkpoint is durable", START, saved).await?;
        // Rank 0 and its folders go: only the bucket knows what was.
        let trainers = pods::trainers(scenario, &scenario.namespace, "kept").await?;
        let rank_0 = trainers.get("device-0").context("there is no device-0")?;
        pods::crash(&kube::ResourceExt::name_any(rank_0)).await?;
        let status = scenario.until_complete("kept").await?;
        ensure!(status.attempt == 2 && status.restarts == 1, "{status:?}");
        let ledger = status.ledger.as_ref().context("there is no ledger")?;
        ensure!(ledger.lost == 0, "every sample has another fate: {ledger:?}");
        let result = status.result.context("there is no result")?;
        ensure!(result.uri.starts_with("s3://results/team-a/"), "{}", result.uri);
        fetched_is_the_model(scenario, result.top1_percent).await
    });
}

async fn start_store(scenario: &Scenario) -> Result<()> {
    let secret = json!({
        "metadata": {"name": "store-keys"}, "stringData": {"accessKeyId": KEYS.0, "secretAccessKey": KEYS.1},
    });
    scenario.api::<Secret>().create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let service = json!({
        "metadata": {"name": "store"}, "spec": {"selector": {"app": "store"}, "ports": [{"port": 9000}]},
    });
    scenario.api::<Service>().create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let pods: Api<Pod> = scenario.api();
    pods::start(&pods, store_pod()).await?;
    Ok(())
}

fn store_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "store", "labels": {"app": "store"}},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "store", "image": OBJECT_STORE_IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["scadles-object-store", "/buckets", "results"],
                "env": [
                    {"name": "ACCESS_KEY_ID", "value": KEYS.0}, {"name": "SECRET_ACCESS_KEY", "value": KEYS.1},
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "buckets", "mountPath": "/buckets"}],
            }],
            "volumes": [{"name": "buckets", "emptyDir": {}}],
        }
    })
}

/// The model comes out of the bucket, and with it the journal of both attempts.
async fn fetched_is_the_model(scenario: &Scenario, top1_percent: Option<f64>) -> Result<()> {
    let out = tempfile::tempdir()?;
    let (namespace, out) = (&scenario.namespace, out.path().join("kept"));
    let place = out.display();
    type_line(&format!("scadles fetch kept -n {namespace} --out {place}")).await?;
    for attempt in ["0001", "0002"] {
        let segments = std::fs::read_dir(out.join("journal"))?.filter_map(Result::ok);
        let of_attempt = segments.filter(|it| it.file_name().to_string_lossy().starts_with(attempt)).count();
        ensure!(of_attempt > 0, "the journal has nothing of attempt {attempt}");
    }
    let text = type_line(&format!("scadles evaluate {place} --data .cache/data --json")).await?;
    let evaluated = serde_json::from_str::<Value>(&text)?["topK"]["1"].as_f64().context("no Top-1")?;
    let told = top1_percent.context("the status tells no accuracy")?;
    ensure!(
        (100.0 * evaluated - told).abs() < 0.01,
        "the status tells {told} %, the fetched model has {evaluated}"
    );
    Ok(())
}
