//! Operators that go, come and change, while jobs go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt};
use scadles_api::status::JobState;
use scadles_e2e::{
    CLUSTER, Scenario, broker,
    job::{LIFE, START, endless, small, status},
    operator, pods,
    program::{say, type_line, type_line_within},
    wait,
};
use serde_json::json;

/// The lease lasts 15 s from its last renewal as another operator has seen it; the machine is small and busy.
const TAKEOVER: Duration = Duration::from_secs(40);

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_job_finishes_while_no_operator_runs() {
    Scenario::run("operator-down", Duration::from_mins(10), async |scenario| {
        let servers = broker::start(scenario).await?;
        scenario.submit(small("alone", &servers, &json!({"evaluation": {"everySteps": 0}}))).await?;
        scenario.until_state("alone", JobState::Running, START).await?;
        operator::scale(&scenario.client, 0).await?;
        let outcome = finishes_alone(scenario).await;
        operator::scale(&scenario.client, 1).await?;
        outcome?;
        let status = scenario.until_complete("alone").await?;
        ensure!(status.attempt == 1, "it ran through: {status:?}");
        let accuracy = status.result.and_then(|result| result.top1_percent);
        ensure!(accuracy.is_some(), "the last words came through");
        Ok(())
    });
}

async fn finishes_alone(scenario: &Scenario) -> Result<()> {
    let trainers = pods::trainers(scenario, &scenario.namespace, "alone").await?;
    let rank_0 = trainers.get("device-0").context("there is no device-0")?.name_any();
    let over = |pod: &Pod| pods::phase(pod) == "Succeeded";
    wait::until(&scenario.api(), &rank_0, "rank 0 has finished", LIFE, over).await?;
    Ok(())
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_killed_leader_is_followed_and_no_pod_restarts() {
    Scenario::run("leader", Duration::from_mins(8), async |scenario| {
        let servers = broker::start(scenario).await?;
        operator::upgrade(&scenario.client, "--set replicas=2").await?;
        scenario.submit(small("led", &servers, &endless())).await?;
        scenario.until_state("led", JobState::Running, START).await?;
        let (before, leader) =
            (pods::uids(scenario, "led").await?, operator::leader(&scenario.client).await?);
        let operators: Api<Pod> = Api::namespaced(scenario.client.clone(), operator::NAMESPACE);
        // A container that is started anew in the same pod would be the leader that it was.
        pods::crash(&leader).await?;
        pods::remove(&operators, &leader).await?;
        let began = Instant::now();
        let leases: Api<Lease> = Api::namespaced(scenario.client.clone(), operator::NAMESPACE);
        let another = |lease: &Lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty() && holder != leader)
        };
        wait::until(&leases, operator::RELEASE, "another operator leads", TAKEOVER, another).await?;
        say(format!("another operator leads after {:.1} s", began.elapsed().as_secs_f64()));
        goes_on(scenario, "led").await?;
        ensure!(pods::uids(scenario, "led").await? == before, "the pods are others than before");
        operator::upgrade(&scenario.client, "").await
    });
}

/// The status moves on under whoever supervises now, in the same attempt.
async fn goes_on(scenario: &Scenario, job: &str) -> Result<()> {
    let before = status(&scenario.jobs().get(job).await?);
    let further = |status: &scadles_api::ScadlesJobStatus| status.step > before.step;
    // Counters of a steady job are written once a minute.
    let after = scenario.until_status(job, "it goes on", Duration::from_secs(90), further).await?;
    ensure!(
        after.attempt == before.attempt && after.restarts == before.restarts,
        "it was restarted: {after:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn an_upgrade_of_the_operator_restarts_no_pod() {
    Scenario::run("upgrade", Duration::from_mins(8), async |scenario| {
        let servers = broker::start(scenario).await?;
        scenario.submit(small("lasting", &servers, &endless())).await?;
        scenario.until_state("lasting", JobState::Running, START).await?;
        let before = pods::uids(scenario, "lasting").await?;
        // The same program under another name, and another default image of trainers: what an upgrade changes.
        let next = "e2e-next";
        for name in ["operator", "trainer"] {
            let (image, version) = (format!("ghcr.io/scadles/scadles-{name}"), env!("CARGO_PKG_VERSION"));
            type_line(&format!("docker tag {image}:{version} {image}:{next}")).await?;
            type_line(&format!("kind load docker-image --name {CLUSTER} {image}:{next}")).await?;
        }
        let settings = format!("--set image.tag={next} --set trainer.image.tag={next}");
        operator::upgrade(&scenario.client, &settings).await?;
        goes_on(scenario, "lasting").await?;
        ensure!(pods::uids(scenario, "lasting").await? == before, "the pods are others than before");
        operator::upgrade(&scenario.client, "").await
    });
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn two_releases_look_after_disjoint_namespaces() {
    Scenario::run("releases", Duration::from_mins(10), async |scenario| {
        let servers = broker::start(scenario).await?;
        // The first release looks elsewhere: nobody looks after this namespace.
        operator::upgrade(&scenario.client, &format!("--set watchNamespaces={{{}}}", operator::NAMESPACE))
            .await?;
        let outcome = two_releases(scenario, &servers).await;
        let _ = type_line("helm uninstall second --namespace scadles-second --ignore-not-found").await;
        scenario.remove_namespace("scadles-second", Duration::from_mins(1)).await?;
        operator::upgrade(&scenario.client, "").await?;
        outcome
    });
}

async fn two_releases(scenario: &Scenario, servers: &str) -> Result<()> {
    scenario.submit(small("shared", servers, &json!({}))).await?;
    let line = format!(
        "helm install second charts/scadles --namespace scadles-second --create-namespace --set crds.install=false \
         --set rbac.aggregate=false --set watchNamespaces={{{}}} --wait --timeout 2m",
        scenario.namespace
    );
    // Longer than a release that looks after it would take.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let job = scenario.jobs().get("shared").await?;
    ensure!(job.status.is_none(), "a release looks after a namespace that is not its own: {:?}", job.status);
    type_line_within(Duration::from_secs(150), &line).await?;
    scenario.until_complete("shared").await?;
    Ok(())
}
