//! A job's life: rest and resume, deletion and a new job of the same name.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{ResourceExt, api::DeleteParams};
use scadles_api::status::JobState;
use scadles_e2e::{
    Scenario, broker,
    job::{START, endless, merge, small, status},
    pods, wait,
};
use serde_json::json;

/// A checkpoint that all agree on, then the end of the pods.
const STOP: Duration = Duration::from_mins(1);
/// Patience of workers with a silent supervisor.
const ORPHAN: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_suspended_job_keeps_its_checkpoint_and_goes_on_from_it() {
    Scenario::run("suspend", Duration::from_mins(8), async |scenario| {
        let servers = broker::start(scenario).await?;
        scenario.submit(small("resting", &servers, &json!({}))).await?;
        let well_under_way = |status: &scadles_api::ScadlesJobStatus| {
            status.state == Some(JobState::Running)
                && status.checkpoint.as_ref().is_some_and(|it| it.step > 0)
        };
        scenario.until_status("resting", "a checkpoint is there", START, well_under_way).await?;
        scenario.edit("resting", &json!({"suspend": true})).await?;
        let rested = status(&scenario.until_state("resting", JobState::Suspended, STOP).await?);
        let kept = rested.checkpoint.clone().context("a job at rest without a checkpoint")?;
        ensure!(
            kept.step == rested.step,
            "the checkpoint is of step {}, the job at {}",
            kept.step,
            rested.step
        );
        for pod in pods::all_trainers(scenario, &scenario.namespace, "resting").await? {
            wait::until_gone(&scenario.api::<Pod>(), &pod.name_any(), STOP).await?;
        }
        scenario.edit("resting", &json!({"suspend": false})).await?;
        let complete = scenario.until_complete("resting").await?;
        ensure!(complete.step > kept.step, "it did not go on: {complete:?}");
        ensure!(complete.restarts == rested.restarts, "a rest on request is no failure: {complete:?}");
        let ledger = complete.ledger.context("the status has no ledger")?;
        ensure!(ledger.is_balanced() && ledger.rolled_back == 0, "a rest rolls nothing back: {ledger:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_wrong_edit_stops_nothing_and_a_producer_that_is_taken_out_goes() {
    Scenario::run("wrong-edit", Duration::from_mins(7), async |scenario| {
        let servers = broker::start(scenario).await?;
        let mut job = small("edited", &servers, &endless());
        merge(&mut job["spec"], &json!({"runPolicy": {"orphanSeconds": ORPHAN.as_secs()}}));
        scenario.submit(job).await?;
        scenario.until_state("edited", JobState::Running, START).await?;
        let (before, attempt) = (pods::uids(scenario, "edited").await?, 1);
        scenario.edit("edited", &json!({"producer": {"dataset": {"name": "Cifar10"}}})).await?;
        scenario.until_state("edited", JobState::Invalid, STOP).await?;
        // Workers that nobody speaks to end.
        tokio::time::sleep(2 * ORPHAN).await;
        scenario.edit("edited", &json!({"producer": {"dataset": {"name": "FashionMnist"}}})).await?;
        let job = scenario.until_state("edited", JobState::Running, STOP).await?;
        ensure!(status(&job).attempt == attempt, "it was started anew: {:?}", status(&job));
        ensure!(pods::uids(scenario, "edited").await? == before, "the pods are others than before");
        scenario.edit("edited", &json!({"producer": null})).await?;
        let renewed = |status: &scadles_api::ScadlesJobStatus| status.attempt > attempt;
        scenario.until_status("edited", "the next attempt begins", START, renewed).await?;
        pods::await_no_producer(scenario, "edited", STOP).await
    });
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn a_job_can_be_deleted_and_applied_again_five_times() {
    Scenario::run("again", Duration::from_mins(15), async |scenario| {
        let servers = broker::start(scenario).await?;
        for round in 1..=5 {
            let job = scenario.submit(small("again", &servers, &endless())).await?;
            scenario.until_state("again", JobState::Running, START).await?;
            let trainers = pods::trainers(scenario, &scenario.namespace, "again").await?;
            let uid = job.uid().context("an object without a UID")?;
            let own = |pod: &Pod| pod.labels().get(scadles_api::names::labels::JOB_UID) == Some(&uid);
            ensure!(
                trainers.len() == 2 && trainers.values().all(own),
                "round {round}: pods of another job: {trainers:?}"
            );
            scenario.jobs().delete("again", &DeleteParams::default()).await?;
            wait::until_gone(&scenario.jobs(), "again", STOP).await?;
        }
        nothing_is_left_of(scenario, "again").await
    });
}

async fn nothing_is_left_of(scenario: &Scenario, job: &str) -> Result<()> {
    let shared = format!("{job}-scadles");
    wait::until_gone(&scenario.api::<NetworkPolicy>(), &shared, STOP).await?;
    wait::until_gone(&scenario.api::<ConfigMap>(), &shared, STOP).await?;
    for pod in pods::all_trainers(scenario, &scenario.namespace, job).await? {
        wait::until_gone(&scenario.api::<Pod>(), &pod.name_any(), STOP).await?;
    }
    Ok(())
}
