//! `make bench-operator`: what the operator costs and how quick it is, on the cluster of `scripts/e2e.sh`. The numbers are
//! printed beside their aims; they are the machine's as well, so only a number that is far off fails.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use scadles_api::status::JobState;
use scadles_e2e::{
    Scenario, broker,
    job::{START, endless, merge, small, status},
    operator, pods,
    program::{program, root, say, type_line},
    wait,
};
use serde_json::{Value, json};

/// Times that each fault is made.
const ROUNDS: usize = 5;
/// How long a steady job is looked at.
const STEADY: Duration = Duration::from_mins(3);

#[test]
#[ignore = "needs a kind cluster: make bench-operator"]
fn what_the_operator_costs_and_how_quick_it_is() {
    Scenario::run("bench", Duration::from_mins(20), async |scenario| {
        let servers = broker::start(scenario).await?;
        sizes().await?;
        // A checkpoint is state, and its name is written at once: a job that makes one every five seconds is not steady.
        let rare = json!({"runPolicy": {"maxRestarts": 100}, "checkpoint": {"everySteps": 100_000}});
        let steady = merged(&endless(), &rare);
        scenario.submit(small("steady", &servers, &steady)).await?;
        scenario.until_state("steady", JobState::Running, START).await?;
        status_writes(scenario).await?;
        memory(scenario).await?;
        new_attempts(scenario).await?;
        takeovers(scenario).await
    });
}

fn merged(base: &Value, change: &Value) -> Value {
    let mut all = base.clone();
    merge(&mut all, change);
    all
}

/// A line of the result: what, how much, the aim.
fn tell(what: &str, measured: &str, aim: &str) {
    say(format!("bench-operator: {what}: {measured} (aim: {aim})"));
}

/// Smallest, median, largest.
fn spread(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let of = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
    format!("{:.2} s ({:.2} to {:.2})", of(seconds.len() / 2), of(0), of(seconds.len().saturating_sub(1)))
}

async fn sizes() -> Result<()> {
    let definition = std::fs::metadata(root().join("crds/scadlesjobs.scadles.io.yaml"))?.len();
    tell("definition of ScadlesJob", &format!("{:.1} KB", definition as f64 / 1e3), "below 100 KB");
    ensure!(definition < 100_000, "the definition has {definition} bytes");
    let image = concat!("ghcr.io/scadles/scadles-operator:", env!("CARGO_PKG_VERSION"));
    let bytes = type_line(&format!("docker image inspect -f '{{{{.Size}}}}' {image}")).await?;
    let megabytes: f64 = bytes.trim().parse::<f64>()? / 1e6;
    tell("image of the operator", &format!("{megabytes:.1} MB"), "below 30 MB");
    Ok(())
}

/// A counter of the leader's metrics.
async fn counter(name: &str) -> Result<f64> {
    let service = format!(
        "/api/v1/namespaces/{}/services/{}:http/proxy/metrics",
        operator::NAMESPACE,
        operator::RELEASE
    );
    let text = program("kubectl", &["get", "--raw", &service]).await?;
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    values.reduce(|a, b| a + b).with_context(|| format!("the metrics have no {name}"))
}

async fn status_writes(scenario: &Scenario) -> Result<()> {
    let before = (counter("scadles_operator_status_writes_total").await?, status(&job(scenario).await?).step);
    tokio::time::sleep(STEADY).await;
    let after = (counter("scadles_operator_status_writes_total").await?, status(&job(scenario).await?).step);
    ensure!(after.1 > before.1, "the job stands still at step {}", after.1);
    let per_minute = (after.0 - before.0) / STEADY.as_secs_f64() * 60.0;
    tell("status writes of a steady job", &format!("{per_minute:.1} a minute"), "at most 6");
    ensure!(per_minute <= 12.0, "levels are written every 10 s at most: {per_minute} a minute");
    Ok(())
}

async fn job(scenario: &Scenario) -> Result<scadles_api::crd::ScadlesJobObject> {
    Ok(scenario.jobs().get("steady").await?)
}

/// The operator's working set, as the kubelet measures it.
async fn memory(scenario: &Scenario) -> Result<()> {
    let names: Vec<String> =
        operator::pods(&scenario.client).await?.iter().map(ResourceExt::name_any).collect();
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(scenario.client.clone());
    for node in nodes.list(&ListParams::default()).await? {
        let summary = format!("/api/v1/nodes/{}/proxy/stats/summary", node.name_any());
        let summary: Value = serde_json::from_str(&program("kubectl", &["get", "--raw", &summary]).await?)?;
        let ours = summary["pods"].as_array().into_iter().flatten();
        for pod in ours.filter(|pod| names.iter().any(|name| pod["podRef"]["name"] == **name)) {
            let bytes = pod["memory"]["workingSetBytes"].as_f64().context("no memory in the summary")?;
            tell("memory of the operator", &format!("{:.1} MiB", bytes / f64::from(1 << 20)), "below 64 MiB");
        }
    }
    Ok(())
}

/// From a pod's death to the next attempt in the status, and to its first step.
async fn new_attempts(scenario: &Scenario) -> Result<()> {
    let (mut written, mut trains) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = status(&job(scenario).await?).attempt;
        let trainers = pods::trainers(scenario, &scenario.namespace, "steady").await?;
        let victim = trainers.get("device-1").context("there is no device-1")?.name_any();
        pods::crash(&victim).await?;
        let began = Instant::now();
        let next = |status: &scadles_api::ScadlesJobStatus| status.attempt == before + 1;
        scenario.until_status("steady", "the next attempt is written", START, next).await?;
        written.push(began.elapsed().as_secs_f64());
        scenario.until_state("steady", JobState::Running, START).await?;
        trains.push(began.elapsed().as_secs_f64());
    }
    tell("pod failure to new attempt written", &spread(written), "below 5 s, and the restart's pause");
    tell("pod failure to training again", &spread(trains), "reported");
    Ok(())
}

/// From the leader's death to another holder of the lease.
async fn takeovers(scenario: &Scenario) -> Result<()> {
    operator::upgrade(&scenario.client, "--set replicas=2").await?;
    let operators: Api<Pod> = Api::namespaced(scenario.client.clone(), operator::NAMESPACE);
    let leases: Api<Lease> = Api::namespaced(scenario.client.clone(), operator::NAMESPACE);
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        // An operator that ends in order gives the lease back: for a moment nobody has it.
        // And one that the upgrade replaces may still be named when it is gone.
        let leader = wait::retry(START, "the leader is killed", async || {
            let leader = operator::leader(&scenario.client).await?;
            pods::crash(&leader).await?;
            Ok(leader)
        });
        let leader = leader.await?;
        pods::remove(&operators, &leader).await?;
        let began = Instant::now();
        let another = |lease: &Lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty() && holder != leader)
        };
        wait::until(&leases, operator::RELEASE, "another operator leads", START, another).await?;
        seconds.push(began.elapsed().as_secs_f64());
        operator::await_ready(&scenario.client, operator::NAMESPACE, operator::RELEASE).await?;
    }
    tell("leader killed to another leading", &spread(seconds), "below 20 s: the lease lasts 15 s");
    operator::upgrade(&scenario.client, "").await
}
