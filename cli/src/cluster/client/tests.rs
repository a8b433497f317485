use serde_json::{Value, json};

use crate::cluster::{
    page::page,
    table::table,
    testing::{cluster, list, not_found, refusal, wait_for},
    time,
};

const JOBS: &str = "/apis/scadles.io/v1alpha1/namespaces/demo/scadlesjobs";
const ALL_JOBS: &str = "/apis/scadles.io/v1alpha1/scadlesjobs";

fn job(name: &str) -> Value {
    json!({
        "apiVersion": "scadles.io/v1alpha1", "kind": "ScadlesJob",
        "metadata": {"name": name, "namespace": "demo", "uid": "u-1", "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {"model": {"name": "Cnn"}, "devices": {"count": 2}, "completion": {"maxSteps": 10}},
        "status": {
            "state": "Running", "message": "training", "ready": "2/2", "attempt": 2, "restarts": 1, "step": 1214,
            "samples": 29104, "epoch": 0.5, "samplesPerSecond": 540.0, "loss": 0.4123, "lag": 1143, "starved": 1,
            "evaluation": {"step": 1200, "pictures": 10000, "top1Percent": 47.31},
            "checkpoint": {"jobUid": "u-1", "name": "0002-00001200", "step": 1200, "restartStreams": false},
            "resolved": {"image": "trainer:1", "specHash": "h"},
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Training", "message": "training",
                 "lastTransitionTime": "2026-01-31T12:01:00Z"},
                {"type": "StreamsHealthy", "status": "False", "reason": "StreamSilent",
                 "message": "no sample arrives: device-1", "lastTransitionTime": "2026-01-31T12:02:00Z"},
                {"type": "PodsReady", "status": "False", "reason": "NotNeeded", "message": "",
                 "lastTransitionTime": "2026-01-31T12:01:00Z"},
            ],
            "devices": [
                {"name": "device-1", "state": "Starved", "lag": 31, "rate": 0.0, "batch": 12, "weight": 0.194,
                 "dropped": 0, "lost": 0, "rejected": 0, "silentSince": "2026-01-31T12:01:50Z"},
                {"name": "device-0", "state": "Healthy", "lag": 1112, "rate": 199.8, "batch": 50, "weight": 0.806,
                 "dropped": 7, "lost": 0, "rejected": 0},
            ],
            "deviceCounts": {"Healthy": 99, "Starved": 1},
            "failures": [
                {"attempt": 1, "device": "device-0", "node": "kind-worker", "exitCode": 137,
                 "message": "device-0 (rank 0): killed by signal 9", "at": "2026-01-31T12:01:00Z"},
            ],
        },
    })
}

fn asked_at() -> f64 {
    time::parse("2026-01-31T12:04:00Z").unwrap()
}

#[test]
fn jobs_are_listed_by_namespace_and_name_and_one_that_cannot_be_read_hides_no_other() {
    let (cluster, calls) = cluster(|_, path| {
        assert_eq!(path, ALL_JOBS);
        let mut other = job("words");
        other["metadata"]["namespace"] = "a-team".into();
        let mut strange = job("strange");
        strange["status"]["state"] = "Dreaming".into();
        list(&[strange, job("fashion"), other])
    });
    let jobs = wait_for(cluster.jobs(true)).unwrap();
    let expected = [
        "namespace  name     state       ready  step  samples/s   lag  starved  attempt  top-1  age",
        "a-team     words    Running       2/2  1214        540  1143        1        2  47.3%   4m",
        "demo       fashion  Running       2/2  1214        540  1143        1        2  47.3%   4m",
        "demo       strange  Unreadable      -     -          -     -        -        -      -   4m",
    ];
    assert_eq!(table(&jobs, true, asked_at()), expected);
    assert_eq!(calls.lock().unwrap().as_slice(), [format!("GET {ALL_JOBS}")]);
}

#[test]
fn the_page_of_a_job_has_all_that_matters_and_no_more() {
    let (cluster, _) = cluster(|_, path| {
        assert_eq!(path, format!("{JOBS}/fashion"));
        (200, job("fashion"))
    });
    let fashion = wait_for(cluster.job("fashion")).unwrap();
    let expected = "\
demo/fashion: Running · attempt 2 · restarts 1 · ready 2/2 · made 4 min 00 s ago
training

step 1 214  samples 29 104  epoch 0.50  540/s  loss 0.412  Top-1 47.3 % at step 1 200  lag 1 143  starved 1

condition       reason        for
StreamsHealthy  StreamSilent   2m  no sample arrives: device-1

device    state    rate/s  batch  weight    lag  dropped  lost  rejected      silent
device-1  Starved     0.0     12   0.194     31        0     0         0  2 min 10 s
device-0  Healthy   199.8     50   0.806  1 112        7     0         0           -
… and 98 more devices; of all 100: 99 Healthy, 1 Starved

failed  device    node         exit    when  what happened
     1  device-0  kind-worker   137  3m ago  device-0 (rank 0): killed by signal 9

checkpoint  0002-00001200 (step 1 200)
image       trainer:1";
    assert_eq!(page(&fashion, asked_at()).join("\n"), expected);
}

#[test]
fn a_job_that_nobody_has_looked_at_has_a_short_page() {
    let (cluster, _) = cluster(|_, _| {
        let mut fresh = job("fashion");
        fresh.as_object_mut().unwrap().remove("status");
        (200, fresh)
    });
    let fashion = wait_for(cluster.job("fashion")).unwrap();
    assert_eq!(
        page(&fashion, asked_at()),
        [
            "demo/fashion: made 4 min 00 s ago",
            "no operator has looked at it yet, 4 min 00 s after it was made"
        ]
    );
}

#[test]
fn a_name_that_is_not_there_is_answered_with_the_nearest_that_are() {
    let (cluster, _) = cluster(|_, path| match path {
        JOBS => list(&[job("fashion")]),
        ALL_JOBS => refusal(403, "Forbidden", "User \"jane\" cannot list resource \"scadlesjobs\""),
        _ => not_found("fashoin"),
    });
    let failure = wait_for(cluster.job("fashoin")).unwrap_err();
    assert_eq!(failure.message, "there is no ScadlesJob fashoin in namespace demo");
    assert_eq!(failure.remedy, "there is fashion");
}

#[test]
fn without_the_definition_the_answer_is_how_to_install_it() {
    let (cluster, _) = cluster(|_, _| (404, "404 page not found\n".into()));
    let failure = wait_for(cluster.job("fashion")).unwrap_err();
    assert!(
        failure.message.ends_with("does not know ScadlesJobs: scadles is not installed there"),
        "{failure}"
    );
    assert!(failure.remedy.starts_with("install it: helm install scadles"), "{}", failure.remedy);
}

#[test]
fn a_job_of_another_version_is_said_to_be_one() {
    let (cluster, _) = cluster(|_, _| {
        let mut strange = job("strange");
        strange["status"]["state"] = "Dreaming".into();
        (200, strange)
    });
    let failure = wait_for(cluster.job("strange")).unwrap_err();
    assert!(failure.message.contains("unknown variant `Dreaming`"), "{failure}");
}
