use std::{fs, io::Read};

use http::Method;
use k8s_openapi::api::core::v1::Pod;
use scadles_api::{ScadlesJob, worker::JobConfig};
use scadles_control::{Body, BrokerKind, SecretFiles, plan, validate};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::{
    pod::{fetch_pod, tar_command},
    unpack::{check, unpack},
    *,
};
use crate::cluster::testing::{cluster, refusal, wait_for};

/// A hash that no file here has.
const HASH: &str = "d2c9a5b8d8d86d5d5ef3b4d7a8a5f2f3";

fn job() -> ScadlesJobObject {
    serde_json::from_value(json!({
        "apiVersion": "scadles.io/v1alpha1", "kind": "ScadlesJob",
        "metadata": {"name": "fashion", "namespace": "demo", "uid": "u-1"},
        "spec": {
            "model": {"name": "Mlp", "inputShape": [1, 28, 28]},
            "stream": {"transform": {"mean": [0.5], "std": [0.5]}},
            "kafka": {"bootstrapServers": "kafka.demo.svc:9092"},
            "devices": {"count": 2, "template": {
                "imagePullSecrets": ["registry"], "tolerations": [{"key": "gpu", "operator": "Exists"}],
            }},
            "evaluation": {"dataset": {"name": "FashionMnist"}},
            "completion": {"maxSteps": 10},
        },
        "status": {
            "state": "Complete", "supervision": "{}", "resolved": {"image": "trainer:1", "specHash": "h"},
            "result": {"uri": "claim://results/team/u-1", "sha256": HASH},
        },
    }))
    .unwrap()
}

fn source() -> Source {
    Source::of(&job()).unwrap()
}

/// The resolved job as the operator writes it into the ConfigMap.
fn job_json() -> String {
    let valid = validate(&ScadlesJob::from(&job())).unwrap();
    let body = Body {
        broker: BrokerKind::Servers("kafka.demo.svc:9092".to_owned()),
        uid: "u-1".to_owned(),
        host: String::new(),
        output_dir: "/output/u-1".into(),
        data_dir: "/data".into(),
        checkpoint_root: Some("/checkpoints".into()),
        buckets: scadles_control::Buckets::default(),
        token: String::new(),
        threads: 1,
        cores: 2,
        secrets: SecretFiles::Missing,
        cluster: true,
    };
    serde_json::to_string(&plan(&valid, &body).unwrap().workers[0].job).unwrap()
}

fn header(name: &str, kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_ustar();
    // Written by hand: the library makes no path that leads out of a folder.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o600);
    header.set_cksum();
    header
}

/// What `tar` would send: folders and files, then whatever does not belong there.
fn stream() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append(&header("./", EntryType::Directory, 0), std::io::empty()).unwrap();
    builder.append(&header("./journal/", EntryType::Directory, 0), std::io::empty()).unwrap();
    let files: [(&str, &[u8]); 5] = [
        ("./model.safetensors", b"the model"),
        ("./steps.csv", b"step,loss\n"),
        ("./journal/0001-00000000.jsonl", b"{}\n"),
        ("../outside", b"bad"),
        ("/etc/outside", b"bad"),
    ];
    for (name, bytes) in files {
        builder.append(&header(name, EntryType::Regular, bytes.len()), bytes).unwrap();
    }
    let mut link = header("./link", EntryType::Symlink, 0);
    link.set_link_name("/etc/passwd").unwrap();
    link.set_cksum();
    builder.append(&link, std::io::empty()).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn what_comes_is_a_run_folder_that_evaluate_reads() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("runs/fashion");
    let unpacked = unpack(stream().as_slice(), staging(&out).unwrap(), |_| {}).unwrap();
    let texts =
        [("job.json".to_owned(), job_json()), ("job.yaml".to_owned(), "kind: ScadlesJob\n".to_owned())];
    complete(unpacked.folder.path(), &job(), &texts).unwrap();
    let folder = unpacked.folder.path();
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["job.json", "job.yaml", "journal", "model.safetensors", "status.json", "steps.csv"]);
    // What `scadles-trainer evaluate` looks at: the resolved job with its evaluation, and the model beside it.
    let read: JobConfig = serde_json::from_slice(&fs::read(folder.join("job.json")).unwrap()).unwrap();
    assert!(read.evaluation.is_some());
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"the model");
    assert_eq!(fs::read(folder.join("journal/0001-00000000.jsonl")).unwrap(), b"{}\n");
    let status: Value = serde_json::from_slice(&fs::read(folder.join("status.json")).unwrap()).unwrap();
    assert_eq!((status["state"].as_str(), status.get("supervision")), (Some("Complete"), None));
    assert!(!scratch.path().join("outside").exists() && !scratch.path().join("runs/outside").exists());
}

#[test]
fn the_progress_of_each_file_is_told() {
    let told = std::cell::RefCell::new(Vec::new());
    unpack(stream().as_slice(), tempfile::tempdir().unwrap(), |coming| told.borrow_mut().push(coming))
        .unwrap();
    let told = told.into_inner();
    let first = unpack::Coming { name: "model.safetensors".to_owned(), here: 9, all: 9 };
    assert_eq!((told.len(), &told[0]), (3, &first));
}

#[test]
fn another_model_than_the_job_wrote_is_refused() {
    let unpacked = unpack(stream().as_slice(), tempfile::tempdir().unwrap(), |_| {}).unwrap();
    let hash = unpacked.model_sha256.clone().unwrap();
    assert!(check(&unpacked, Some(&hash), "claim://results/u-1").is_ok());
    assert!(check(&unpacked, None, "claim://results/u-1").is_ok());
    let failure = check(&unpacked, Some(HASH), "claim://results/u-1").unwrap_err();
    assert!(
        failure.message.ends_with(&format!("has sha256 {hash}, and the job wrote one with {HASH}")),
        "{failure}"
    );
    let empty = Builder::new(Vec::new()).into_inner().unwrap();
    let unpacked = unpack(empty.as_slice(), tempfile::tempdir().unwrap(), |_| {}).unwrap();
    let failure = check(&unpacked, None, "claim://results/u-1").unwrap_err();
    assert_eq!(failure.message, "claim://results/u-1 holds no model.safetensors");
}

#[test]
fn a_stream_that_breaks_off_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let staging = staging(&scratch.path().join("out")).unwrap();
    let whole = stream();
    let broken = std::io::Cursor::new(whole).take(1700);
    let failure = unpack(broken, staging, |_| {}).unwrap_err();
    assert!(failure.message.starts_with("the transfer broke off"), "{failure}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_job_without_a_result_says_what_to_wait_for() {
    let mut job = job();
    let status = job.status.as_mut().unwrap();
    status.result = None;
    status.state = Some(scadles_api::status::JobState::Running);
    let failure = Source::of(&job).unwrap_err();
    assert_eq!(failure.message, "demo/fashion has no result: it is Running");
    assert_eq!(
        failure.remedy,
        "wait: kubectl -n demo wait --for=condition=Complete --timeout=1h scadlesjob/fashion"
    );
    job.status.as_mut().unwrap().state = Some(scadles_api::status::JobState::Failed);
    assert_eq!(Source::of(&job).unwrap_err().remedy, "see: scadles why -n demo fashion");
}

#[test]
fn the_pod_fits_the_restricted_level_and_touches_nothing() {
    let pod = serde_json::to_value(fetch_pod(&job(), &source(), "0a1b2c", Some("kind-worker"))).unwrap();
    assert_eq!(pod["metadata"]["name"], "fashion-fetch-0a1b2c");
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/managed-by"], "scadles-cli");
    assert_eq!(
        pod["metadata"]["labels"].get("scadles.io/job-uid"),
        None,
        "the operator must not take it for its own"
    );
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
    let expected = json!({
        "activeDeadlineSeconds": 900,
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["kind-worker"]}]},
        }]}},
        "automountServiceAccountToken": false,
        "containers": [{
            "command": ["sleep", "900"],
            "image": "trainer:1",
            "imagePullPolicy": "IfNotPresent",
            "name": "fetch",
            "resources": {"limits": {"cpu": "1", "memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "32Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [{"mountPath": "/results", "name": "results", "readOnly": true}],
        }],
        "enableServiceLinks": false,
        "imagePullSecrets": [{"name": "registry"}],
        "restartPolicy": "Never",
        "securityContext": {
            "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch", "runAsGroup": 65532, "runAsNonRoot": true,
            "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "results", "persistentVolumeClaim": {"claimName": "results"}}],
    });
    assert_eq!(pod["spec"], expected);
    assert_eq!(tar_command(&source())[..3], ["tar", "-C", "/results/team/u-1"]);
}

#[test]
fn results_in_a_bucket_are_brought_before_the_pod_counts_as_up() {
    let mut job = job();
    let storage = json!({"s3": {"url": "s3://results/team", "secret": "keys"}});
    job.spec.checkpoint = serde_json::from_value(json!({"storage": storage})).unwrap();
    job.status.as_mut().unwrap().result.as_mut().unwrap().uri = "s3://results/team/u-1".to_owned();
    let mut elsewhere = job.clone();
    let models = json!({"s3": {"url": "s3://models", "secret": "other-keys"}});
    elsewhere.spec.output = serde_json::from_value(json!({"storage": models})).unwrap();
    let volume = Source::of(&elsewhere).unwrap().volume;
    assert_eq!(
        volume,
        source::Volume::Bucket(Some("other-keys".to_owned())),
        "results have a place of their own"
    );
    let source = Source::of(&job).unwrap();
    let pod = serde_json::to_value(fetch_pod(&job, &source, "0a1b2c", None)).unwrap();
    let pull = &pod["spec"]["initContainers"][0];
    let command =
        ["scadles-trainer", "pull", "--job", "/etc/scadles/job/job.json", "--to", "/results/team/u-1"];
    assert_eq!(pull["command"], json!(command));
    let mounts = json!([
        {"mountPath": "/results", "name": "results", "readOnly": false},
        {"mountPath": "/etc/scadles/job", "name": "job", "readOnly": true},
        {"mountPath": "/etc/scadles/storage/output", "name": "keys", "readOnly": true},
    ]);
    assert_eq!(pull["volumeMounts"], mounts);
    let volumes = json!([
        {"emptyDir": {}, "name": "results"},
        {"configMap": {"name": "fashion-scadles"}, "name": "job"},
        {"name": "keys", "secret": {"defaultMode": 0o440, "secretName": "keys"}},
    ]);
    assert_eq!(pod["spec"]["volumes"], volumes);
    assert_eq!(tar_command(&source)[..3], ["tar", "-C", "/results/team/u-1"]);
}

/// A pod in this phase; its container runs if `running`.
fn seen(phase: &str, running: bool) -> (u16, Value) {
    let state =
        if running { json!({"running": {}}) } else { json!({"waiting": {"reason": "ContainerCreating"}}) };
    let container = json!({
        "name": "fetch", "state": state, "ready": running, "restartCount": 0, "image": "", "imageID": "",
    });
    let pod = json!({
        "metadata": {"name": "fashion-fetch-1", "namespace": "demo"},
        "spec": {"containers": [{"name": "fetch"}]},
        "status": {"phase": phase, "containerStatuses": [container]},
    });
    (200, pod)
}

/// Brings from a cluster that answers so; what was said and what was asked.
fn bring_from(
    answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static,
) -> (Failure, Vec<String>) {
    let (cluster, calls) = cluster(answer);
    let pod: Pod = fetch_pod(&job(), &source(), "1", None);
    let failure =
        wait_for(transfer::bring(&cluster, pod, &source(), tempfile::tempdir().unwrap())).unwrap_err();
    let calls = calls.lock().unwrap().clone();
    (failure, calls)
}

const PODS: &str = "/api/v1/namespaces/demo/pods";

#[test]
fn a_pod_that_is_refused_is_not_deleted() {
    let (failure, calls) = bring_from(|_, _| {
        refusal(
            403,
            "Forbidden",
            "pods \"fashion-fetch-1\" is forbidden: exceeded quota: small, limited: pods=4",
        )
    });
    assert!(failure.message.ends_with("exceeded quota: small, limited: pods=4"), "{failure}");
    assert_eq!(calls, [format!("POST {PODS}")]);
}

#[test]
fn a_pod_that_ends_at_once_is_deleted() {
    let (failure, calls) = bring_from(|method, _| match *method {
        Method::GET => seen("Failed", false),
        _ => seen("Pending", false),
    });
    assert!(failure.message.starts_with("pod fashion-fetch-1 ended at once: Failed"), "{failure}");
    assert_eq!(calls.last().unwrap(), &format!("DELETE {PODS}/fashion-fetch-1"));
}

#[test]
fn a_pod_in_which_nothing_may_be_run_is_deleted() {
    let (failure, calls) = bring_from(|method, path| match *method {
        _ if path.ends_with("/exec") => {
            refusal(403, "Forbidden", "User \"jane\" cannot create resource \"pods/exec\"")
        }
        Method::GET => seen("Running", true),
        _ => seen("Pending", false),
    });
    assert!(failure.message.contains("run tar in pod fashion-fetch-1"), "{failure}");
    assert!(
        failure.remedy.contains("pods/exec") || failure.message.contains("pods/exec"),
        "{failure}: {}",
        failure.remedy
    );
    assert_eq!(calls.last().unwrap(), &format!("DELETE {PODS}/fashion-fetch-1"));
}
