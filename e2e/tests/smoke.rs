//! `make e2e-smoke`: what the README tells a newcomer to type, on a real cluster with a real Kafka, with a killed pod and a
//! stranger on the way; streams that are slow or silent; a namespace that goes although its broker is gone.
#![allow(missing_docs)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, ResourceExt, api::PostParams};
use scadles_api::{
    crd::ScadlesJobObject,
    names::{ENDPOINT_PORT, HUB_PORT},
    status::JobState,
};
use scadles_e2e::{
    Scenario, broker,
    job::{LIFE, START, device, merge, small, status},
    pods,
    program::{root, say, type_line, type_line_within},
    readme::line_of,
    wait,
};
use serde_json::json;

/// Namespace and job of the quickstart.
const DEMO: &str = "demo";
const QUICKSTART: &str = "quickstart";

#[test]
#[ignore = "needs a kind cluster: make e2e-smoke"]
fn a_newcomer_types_the_lines_of_the_readme() {
    Scenario::run("quickstart", Duration::from_mins(10), async |scenario| {
        let outcome = quickstart(scenario).await;
        if outcome.is_err() {
            scadles_e2e::diagnostics::keep(&scenario.client, "quickstart-demo", DEMO).await;
            let _ = scenario.remove_namespace(DEMO, Duration::from_mins(1)).await;
        }
        outcome
    });
}

async fn quickstart(scenario: &Scenario) -> Result<()> {
    scenario.remove_namespace(DEMO, Duration::from_mins(1)).await?;
    type_line(&line_of("README.md", "kubectl apply -f manifests/examples/quickstart.yaml")?).await?;
    let jobs: Api<ScadlesJobObject> = Api::namespaced(scenario.client.clone(), DEMO);
    let running =
        |job: &ScadlesJobObject| status(job).state == Some(JobState::Running) && status(job).step > 0;
    wait::until(&jobs, QUICKSTART, "it trains", Duration::from_mins(4), running).await?;
    say(type_line(&line_of("README.md", "scadles status quickstart")?).await?);
    a_stranger_is_refused(scenario).await?;
    buffers_move(&jobs).await?;
    a_killed_pod_costs_one_attempt(scenario, &jobs).await?;
    type_line_within(LIFE, &line_of("README.md", "kubectl -n demo wait scadlesjob quickstart")?).await?;
    let job = jobs.get(QUICKSTART).await?;
    the_ledger_is_balanced(&job)?;
    the_fetched_model_is_as_good_as_the_status_says(&job).await?;
    let line = line_of("README.md", "kubectl delete namespace demo")?;
    type_line_within(Duration::from_mins(1), &line).await?;
    Ok(())
}

/// The job's NetworkPolicy keeps out a pod that is not the job's; that the job trains shows what it lets in.
async fn a_stranger_is_refused(scenario: &Scenario) -> Result<()> {
    let trainers = pods::trainers(scenario, DEMO, QUICKSTART).await?;
    let (device, pod) = trainers.first_key_value().context("the job has no trainer")?;
    let address = pods::address(pod)?;
    say(format!("a stranger tries {device} at {address}"));
    let doors = [ENDPOINT_PORT, HUB_PORT].map(|port| format!("{address}:{port}"));
    let broker = "kafka.demo.svc:9092".to_owned();
    let targets = [&doors[..], std::slice::from_ref(&broker)].concat();
    let demo: Api<Pod> = Api::namespaced(scenario.client.clone(), DEMO);
    let reached = pods::reached_from(&demo, "stranger", &targets).await?;
    ensure!(
        reached[&broker],
        "the stranger has no network at all, so that its failure proves nothing: {reached:?}"
    );
    ensure!(doors.iter().all(|door| !reached[door]), "a stranger reached a trainer: {reached:?}");
    Ok(())
}

/// Every device's row changes while the job trains.
async fn buffers_move(jobs: &Api<ScadlesJobObject>) -> Result<()> {
    let seen: RefCell<BTreeMap<String, BTreeSet<String>>> = RefCell::default();
    let moving = |job: &ScadlesJobObject| {
        let mut seen = seen.borrow_mut();
        for row in status(job).devices {
            let levels = format!("{} waiting, {}/s, batch {}", row.lag, row.rate, row.batch);
            seen.entry(row.name).or_default().insert(levels);
        }
        let moved = seen.values().filter(|levels| levels.len() >= 2).count();
        // Steady streams stay within the dead band: not every row must change, but most of them have been seen to.
        moved >= 2 && seen.len() == 4
    };
    wait::until(jobs, QUICKSTART, "the buffers are seen moving", Duration::from_secs(90), moving).await?;
    say(format!("seen: {:?}", seen.borrow()));
    Ok(())
}

async fn a_killed_pod_costs_one_attempt(scenario: &Scenario, jobs: &Api<ScadlesJobObject>) -> Result<()> {
    let before = status(&jobs.get(QUICKSTART).await?).attempt;
    let trainers = pods::trainers(scenario, DEMO, QUICKSTART).await?;
    let victim = trainers.get("device-2").context("there is no device-2")?.name_any();
    let state = status(&jobs.get(QUICKSTART).await?).state;
    ensure!(state == Some(JobState::Running), "too late to kill a pod: the job is {state:?}");
    say(format!("killing {victim}"));
    pods::crash(&victim).await?;
    let began = Instant::now();
    let again = |job: &ScadlesJobObject| {
        let status = status(job);
        status.attempt == before + 1 && status.state == Some(JobState::Running)
    };
    let job = wait::until(jobs, QUICKSTART, "the next attempt trains", START, again).await?;
    say(format!("attempt {} trains {:.1} s after the kill", before + 1, began.elapsed().as_secs_f64()));
    let failures = status(&job).failures;
    let failure = failures.last().context("the status tells of no failure")?;
    ensure!(failure.attempt == before, "{failure:?}");
    ensure!(failure.device.as_deref() == Some("device-2"), "the first cause is device-2: {failure:?}");
    ensure!(failure.exit_code == Some(137), "it was killed, it did not end by itself: {failure:?}");
    Ok(())
}

/// Every sample that arrived has exactly one fate, also over the restart.
fn the_ledger_is_balanced(job: &ScadlesJobObject) -> Result<()> {
    let status = status(job);
    ensure!(status.attempt == 2, "one pod was killed, so this is attempt 2: {}", status.attempt);
    let ledger = status.ledger.context("the status has no ledger")?;
    say(format!("{ledger:?}"));
    ensure!(ledger.is_balanced(), "the ledger is not balanced: {ledger:?}");
    ensure!(ledger.lost == 0 && ledger.rejected == 0, "samples were lost: {ledger:?}");
    ensure!(
        ledger.trained == status.samples,
        "{} samples of the status, {} of the ledger",
        status.samples,
        ledger.trained
    );
    Ok(())
}

async fn the_fetched_model_is_as_good_as_the_status_says(job: &ScadlesJobObject) -> Result<()> {
    let result = status(job).result.context("the job is complete without a result")?;
    let told = result.top1_percent.context("the result has no accuracy")?;
    ensure!(told >= 70.0, "Top-1 is {told} %, expected are 70 % at least");
    let fetched = root().join("fetched");
    ensure!(!fetched.exists(), "{} is in the way: remove it", fetched.display());
    let outcome = evaluate_fetched(told).await;
    let hash = type_line("sha256sum fetched/model.safetensors").await;
    let _ = std::fs::remove_dir_all(&fetched);
    outcome?;
    let wanted = result.sha256.context("the result has no hash of the model")?;
    ensure!(hash?.starts_with(&wanted), "the fetched model is not the one of hash {wanted}");
    Ok(())
}

async fn evaluate_fetched(told: f64) -> Result<()> {
    say(type_line(&line_of("README.md", "scadles fetch quickstart")?).await?);
    let text = type_line(&line_of("README.md", "scadles evaluate fetched")?).await?;
    let top_1 = text.lines().find_map(|line| line.trim().strip_prefix("Top-1 "));
    let top_1: f64 =
        top_1.and_then(|rest| rest.trim().trim_end_matches('%').trim().parse().ok()).context("no Top-1")?;
    // Both are printed in hundredths of a per cent: one picture of the ten thousand.
    ensure!((top_1 - told).abs() < 0.005, "the status says {told} %, the fetched model has {top_1} %");
    Ok(())
}

/// Three streams: one quick, one slow, one that falls silent. Then everything goes, with the broker down.
#[test]
#[ignore = "needs a kind cluster: make e2e-smoke"]
fn slow_and_silent_streams_are_told_apart_and_the_namespace_goes_without_its_broker() {
    Scenario::run("streams", Duration::from_mins(7), async |scenario| {
        let servers = broker::start(scenario).await?;
        let names = ["quick", "slow", "fading"];
        let named: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        let streams = json!({
            "devices": {"count": null, "named": named},
            "kafka": {"topics": {"management": "Operator", "deletionPolicy": "Delete"}},
            "producer": null,
            "completion": {"maxSamples": null, "maxSteps": 1_000_000},
        });
        scenario.submit(small("streams", &servers, &streams)).await?;
        let ready = |status: &scadles_api::ScadlesJobStatus| {
            status.condition("TopicsReady").is_some_and(|condition| condition.status == "True")
        };
        scenario.until_status("streams", "the topics are there", START, ready).await?;
        send(scenario, "sender", &servers, &[("quick", 60.0), ("slow", 3.0)]).await?;
        send(scenario, "fading-sender", &servers, &[("fading", 40.0)]).await?;
        all_streams_flow(scenario).await?;
        one_falls_silent(scenario).await?;
        broker::take_away(scenario).await?;
        let began = Instant::now();
        scenario.remove_namespace(&scenario.namespace, Duration::from_mins(1)).await?;
        say(format!("the namespace went in {:.1} s without its broker", began.elapsed().as_secs_f64()));
        Ok(())
    });
}

async fn all_streams_flow(scenario: &Scenario) -> Result<()> {
    let flowing = |status: &scadles_api::ScadlesJobStatus| {
        let rows = ["quick", "slow", "fading"].map(|name| device(status, name));
        rows.iter().all(|row| row.is_some_and(|row| row.rate > 0.0 && row.silent_since.is_none()))
    };
    scenario.until_status("streams", "samples arrive on all three streams", START, flowing).await?;
    Ok(())
}

async fn one_falls_silent(scenario: &Scenario) -> Result<()> {
    let senders: Api<Pod> = scenario.api();
    pods::remove(&senders, "fading-sender").await?;
    let told = |status: &scadles_api::ScadlesJobStatus| {
        let [quick, slow, fading] = ["quick", "slow", "fading"].map(|name| device(status, name));
        let flows = |row: Option<&scadles_api::status::DeviceStatus>| {
            row.is_some_and(|row| row.silent_since.is_none())
        };
        let silent = fading.is_some_and(|row| row.silent_since.is_some());
        let says_so = status.condition("StreamsHealthy").is_some_and(|condition| {
            condition.reason == "StreamSilent" && condition.message.ends_with(": fading")
        });
        flows(quick) && flows(slow) && silent && says_so
    };
    let what = "the silent stream is told from the slow one";
    let status = scenario.until_status("streams", what, Duration::from_secs(30), told).await?;
    let slow = device(&status, "slow").context("the slow stream has no row")?;
    ensure!(slow.rate > 0.5 && slow.rate < 10.0, "the slow stream of 3 per second is shown as {slow:?}");
    Ok(())
}

/// A pod that sends Fashion-MNIST to some topics of the job, each at its rate.
async fn send(scenario: &Scenario, name: &str, servers: &str, streams: &[(&str, f64)]) -> Result<()> {
    let namespace = &scenario.namespace;
    let named: Vec<_> = streams
        .iter()
        .map(|(device, _)| json!({"name": device, "topic": format!("{namespace}.streams.{device}")}))
        .collect();
    let rates: Vec<f64> = streams.iter().map(|(_, rate)| *rate).collect();
    let change = json!({
        "devices": {"count": null, "named": named},
        "kafka": {"topics": {"management": "External"}},
        "producer": {"rates": {"list": rates}},
    });
    let mut job = small(name, servers, &change);
    merge(&mut job, &json!({"metadata": {"namespace": namespace}}));
    let files: Api<ConfigMap> = scenario.api();
    let file = json!({"metadata": {"name": name}, "data": {"job.yaml": scadles_api::yaml::to_string(&job)?}});
    files.create(&PostParams::default(), &serde_json::from_value(file)?).await?;
    let script = "exec scadles produce /files/job.yaml --data /data";
    pods::start(&scenario.api(), pods::script_pod(name, script, Some(name))).await?;
    Ok(())
}
