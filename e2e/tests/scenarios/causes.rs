//! What `scadles why` says of causes that were made for real: a golden sentence each, `*` where times, addresses and the
//! words of others stand.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{ResourceExt, api::PostParams};
use scadles_api::status::JobState;
use scadles_e2e::{
    Scenario, broker,
    job::{START, endless, small},
    pods,
    program::{say, type_line},
    wait,
};
use serde_json::{Value, json};

/// Kubelet, scheduler and operator have told what they know by then; a silent stream is one after half a minute.
const TOLD: Duration = Duration::from_secs(100);
/// No broker's address.
const NOWHERE: &str = "kafka.nowhere.svc:9092";

/// A job with something wrong, and what is said of it.
struct Cause {
    job: &'static str,
    change: Value,
    sentence: &'static str,
}

fn cause(job: &'static str, change: Value, sentence: &'static str) -> Cause {
    Cause { job, change, sentence }
}

/// Causes that keep pods from running.
fn no_pods() -> Vec<Cause> {
    vec![
        cause(
            "image",
            json!({"image": "ghcr.io/scadles/no-such-image:0"}),
            "image ghcr.io/scadles/no-such-image:0 (spec.image) cannot be pulled for *device-0*: *",
        ),
        cause(
            "node",
            json!({"devices": {"template": {"resources": {"requests": {"cpu": "1000"}}}}}),
            "no node takes the pod of device-0 and device-1: 0/1 nodes are available: 1 Insufficient cpu; ask for less in \
             spec.devices.template.resources.requests, or add nodes",
        ),
        cause(
            "quota",
            json!({"devices": {"template": {"resources": {
                "requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"},
            }}}}),
            "the API server refuses the pod of device-0: exceeded quota: small, requested: requests.example.com/gpu=1, used: \
             requests.example.com/gpu=0, limited: requests.example.com/gpu=0; raise the quota, or ask for less in \
             spec.devices.template.resources",
        ),
        cause(
            "no-secret",
            json!({"checkpoint": {"storage": {"persistentVolumeClaim": null, "s3": {"url": "s3://results", "secret": "keys"}}}}),
            "Secret e2e-causes/keys (spec.checkpoint.storage.s3.secret) is missing; make it: kubectl -n e2e-causes create secret \
             generic keys --from-literal=accessKeyId=ID --from-literal=secretAccessKey=KEY",
        ),
        cause(
            "no-claim",
            json!({"checkpoint": {"storage": {"persistentVolumeClaim": {"claimName": "nowhere"}}}}),
            "PersistentVolumeClaim e2e-causes/nowhere (spec.checkpoint.storage.persistentVolumeClaim) is missing; make it \
             (ReadWriteOnce is enough), or correct its name",
        ),
    ]
}

/// Causes that keep a job from its first attempt.
fn no_attempt() -> Vec<Cause> {
    vec![
        cause(
            "broker",
            json!({"kafka": {"bootstrapServers": NOWHERE}}),
            "no broker answers at kafka.nowhere.svc:9092 since * (*): *; see that Kafka runs there and that \
             spec.kafka.bootstrapServers is right (it gives up in *)",
        ),
        cause(
            "foreign",
            json!({"kafka": {"topics": {"nameTemplate": "orders.{device}"}}}),
            "topic orders.device-* is not this job's own, whose names begin with e2e-causes.; set spec.kafka.topics.adoption: Adopt \
             to use it as it is, or give another name in spec.kafka.topics.nameTemplate",
        ),
        cause(
            "forbidden",
            json!({"kafka": {"tls": {"caSecret": "kafka-ca"}}}),
            "the operator may not read Secret e2e-causes/kafka-ca, which it needs to make the topics; allow it: helm upgrade *",
        ),
        cause(
            "wrong",
            json!({"producer": {"dataset": {"name": "Cifar10"}}}),
            "the job has a mistake: spec.producer.dataset.name*",
        ),
        cause(
            "elsewhere",
            json!({"managedBy": "kueue.x-k8s.io/multikueue"}),
            "nothing is done because spec.managedBy = kueue.x-k8s.io/multikueue: scadles leaves it to that controller",
        ),
        cause(
            "resting",
            json!({"suspend": true}),
            "nothing is wrong: it rests because spec.suspend is true*; go on with: kubectl -n e2e-causes patch scadlesjob resting \
             --type merge -p '{\"spec\":{\"suspend\":false}}'",
        ),
        cause(
            "late",
            json!({"kafka": {"bootstrapServers": NOWHERE}, "runPolicy": {"startDeadlineSeconds": 5.0}}),
            "it has failed: *5 s*spec.runPolicy.startDeadlineSeconds*; then delete the job and apply it anew",
        ),
    ]
}

/// A job to whose topics nobody sends, and one that waits a minute for each batch of its slow stream.
fn streams() -> Vec<Cause> {
    vec![
        cause(
            "silent",
            json!({"producer": null}),
            "no sample arrives on device-0 and device-1 since * (*); see that something sends to e2e-causes.silent.device-0*",
        ),
        cause(
            "slow",
            json!({
                "producer": {"rates": {"list": [40.0, 1.0]}},
                "stream": {"batch": {"rule": "Fixed", "fixed": {"size": 64}}},
            }),
            "the group waits for the stream of device-1 (*/s), the fastest brings */s; send more there, or set \
             spec.stream.batch.rule: LineRate, with which no device waits for another's stream",
        ),
    ]
}

#[test]
#[ignore = "needs a kind cluster: make e2e"]
fn why_names_causes_that_were_made_for_real() {
    Scenario::run("causes", Duration::from_mins(14), async |scenario| {
        let servers = broker::start(scenario).await?;
        scenario.submit(small("first", &servers, &json!({}))).await?;
        scenario.until_complete("first").await?;
        says(scenario, "first", "nothing is wrong: it is complete after * steps and * samples; bring the model here with: scadles fetch first -n e2e-causes").await?;
        let quota =
            json!({"metadata": {"name": "small"}, "spec": {"hard": {"requests.example.com/gpu": "0"}}});
        scenario
            .api::<ResourceQuota>()
            .create(&PostParams::default(), &serde_json::from_value(quota)?)
            .await?;
        all_say(scenario, &servers, no_attempt()).await?;
        all_say(scenario, &servers, no_pods()).await?;
        all_say(scenario, &servers, streams()).await?;
        killed(scenario, &servers).await
    });
}

/// Makes all jobs, then listens to what is said of each, and deletes them.
async fn all_say(scenario: &Scenario, servers: &str, causes: Vec<Cause>) -> Result<()> {
    for cause in &causes {
        scenario.submit(small(cause.job, servers, &cause.change)).await?;
    }
    for cause in &causes {
        says(scenario, cause.job, cause.sentence).await?;
    }
    for cause in &causes {
        scenario.jobs().delete(cause.job, &kube::api::DeleteParams::default()).await?;
    }
    Ok(())
}

/// A worker that is killed, first within the limit of restarts, then beyond it.
async fn killed(scenario: &Scenario, servers: &str) -> Result<()> {
    let mut change = endless();
    change["runPolicy"] = json!({"maxRestarts": 1});
    scenario.submit(small("killed", servers, &change)).await?;
    kill(scenario, 1).await?;
    let first = "nothing is wrong: it trains at * samples/s, step *, 2/2 workers ready; it has restarted once, the last time because \
                 device-1 (rank 1): killed by signal 9";
    says(scenario, "killed", first).await?;
    kill(scenario, 2).await?;
    let second = "it has failed: failed again after 1 restart* (spec.runPolicy.maxRestarts); last: device-1 (rank 1): killed by \
                  signal 9; *; then delete the job and apply it anew";
    says(scenario, "killed", second).await
}

/// Kills device-1 once the attempt trains.
async fn kill(scenario: &Scenario, attempt: u32) -> Result<()> {
    let trains = |status: &scadles_api::ScadlesJobStatus| {
        status.attempt == attempt && status.state == Some(JobState::Running)
    };
    scenario.until_status("killed", &format!("attempt {attempt} trains"), START, trains).await?;
    let trainers = pods::trainers(scenario, &scenario.namespace, "killed").await?;
    let victim = trainers.get("device-1").map(ResourceExt::name_any).unwrap_or_default();
    pods::crash(&victim).await
}

/// Waits until `scadles why` says it.
async fn says(scenario: &Scenario, job: &str, sentence: &str) -> Result<()> {
    // Code 1 says that something is wrong.
    let line = format!("scadles why {job} -n {} || [ $? = 1 ]", scenario.namespace);
    let what = format!("`scadles why {job}` says: {sentence}");
    let said = wait::retry(TOLD, &what, async || {
        let said = type_line(&line).await?;
        ensure!(fits(said.trim(), sentence), "it says: {said}");
        Ok(said)
    });
    say(format!("why {job}: {}", said.await?.trim()));
    Ok(())
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return text == pattern };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in middle {
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn a_star_stands_for_anything() {
    assert!(fits("a bit", "a bit") && fits("a bit more", "a * more") && fits("a bit", "a*"));
    assert!(
        !fits("a bit", "a bit more")
            && !fits("a bit more", "a bit")
            && !fits("b", "a*")
            && !fits("a more", "* bit*")
    );
}
