use std::sync::Arc;

use kube::ResourceExt;
use scadles_api::crd::ScadlesJobObject;
use scadles_control::validate_in_cluster;
use serde_json::{Value, json};

use super::*;
use crate::controller::prepare_for_tests;

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: quick, namespace: demo, uid: 0f8fad5b-d9cb-469f-a165-70867728950e}
spec:
  model: {name: Cnn, inputShape: [1, 28, 28]}
  kafka: {bootstrapServers: 'kafka-0.demo.svc:9092,kafka-1.demo.svc:9094', tls: {caSecret: ca}, sasl: {mechanism: ScramSha512, secret: user}}
  devices: {named: [{name: gate}, {name: door}], template: {labels: {team: a, scadles.io/job: mine}, env: [{name: A, value: b}]}}
  data: {image: 'data:1'}
  producer: {dataset: {name: FashionMnist}, rates: {list: [50, 38]}}
  checkpoint: {storage: {persistentVolumeClaim: {claimName: results, subPath: a/b}}}
  completion: {maxSamples: 60000}
";

fn prepared() -> Prepared {
    let object: ScadlesJobObject = scadles_api::yaml::from_str(JOB).unwrap();
    prepare_for_tests(Arc::new(object), "trainer:1")
}

fn pod(rank: usize) -> Value {
    serde_json::to_value(trainer(&prepared(), rank, 3)).unwrap()
}

#[test]
fn a_pod_is_named_and_labelled_by_job_device_and_attempt() {
    let pod = trainer(&prepared(), 1, 3);
    assert!(pod.name_any().starts_with("quick-door-3-"), "{}", pod.name_any());
    let label = |key: &str| pod.labels().get(key).map(String::as_str);
    assert_eq!(label("scadles.io/device"), Some("door"));
    assert_eq!(label("scadles.io/attempt"), Some("3"));
    assert_eq!(label("team"), Some("a"));
    assert_eq!(label("scadles.io/job"), Some("quick"), "a template cannot take a pod away from its job");
    let owner = &pod.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.controller, owner.block_owner_deletion),
        ("ScadlesJob", Some(true), Some(false))
    );
}

#[test]
fn pods_are_as_restricted_as_pod_security_asks() {
    for pod in [pod(0), serde_json::to_value(producer(&prepared())).unwrap()] {
        let spec = &pod["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
        assert_eq!(spec["automountServiceAccountToken"], json!(false));
        assert_eq!(spec["restartPolicy"], json!("Never"));
        let containers =
            spec["containers"].as_array().unwrap().iter().chain(spec["initContainers"].as_array().unwrap());
        for container in containers {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], json!(false), "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], json!(true));
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        }
    }
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name).unwrap()
}

#[test]
fn rank_0_alone_mounts_the_claims() {
    assert_eq!(volume(&pod(0), "output")["persistentVolumeClaim"]["claimName"], json!("results"));
    for name in ["output", "checkpoints"] {
        assert!(volume(&pod(1), name)["emptyDir"].is_object());
    }
    let text = pod(0).to_string();
    assert_eq!(text.matches("\"claimName\":\"results\"").count(), 1, "one claim as two volumes never mounts");
    let mounts = pod(0)["spec"]["containers"][0]["volumeMounts"].clone();
    let output = mounts.as_array().unwrap().iter().find(|mount| mount["name"] == "output").unwrap();
    assert_eq!(output["subPath"], json!("a/b"));
    assert_eq!(result_uri(&prepared()), "claim://results/a/b/0f8fad5b-d9cb-469f-a165-70867728950e");
}

#[test]
fn with_buckets_rank_0_alone_has_the_keys_and_the_way_to_their_servers() {
    let bucket = "{s3: {url: 's3://results/team', endpoint: 'http://minio.store.svc:9000', secret: keys}}";
    let output = "output: {storage: {s3: {url: 's3://models'}}}";
    let text = JOB.replace("{persistentVolumeClaim: {claimName: results, subPath: a/b}}", bucket);
    let text = text.replace("  completion:", &format!("  {output}\n  completion:"));
    let prepared = prepare_for_tests(Arc::new(scadles_api::yaml::from_str(&text).unwrap()), "trainer:1");
    let pods = [0, 1].map(|rank| serde_json::to_value(trainer(&prepared, rank, 1)).unwrap());
    assert_eq!(volume(&pods[0], "checkpoints-keys")["secret"]["secretName"], json!("keys"));
    assert!(volume(&pods[0], "output")["emptyDir"].is_object());
    assert!(!pods[1].to_string().contains("checkpoints-keys"));
    let job = prepared.config();
    let checkpoints = job.checkpoint.bucket.as_ref().unwrap();
    assert_eq!(checkpoints.url(), "s3://results/team");
    assert_eq!(checkpoints.credentials.as_deref().and_then(std::path::Path::to_str), Some(CHECKPOINTS_KEYS));
    assert_eq!(job.output_bucket.as_ref().unwrap().credentials, None, "the service account says who we are");
    assert_eq!(result_uri(&prepared), format!("s3://models/{}", prepared.uid));
    let policy = serde_json::to_string(&network_policy(&prepared, "scadles-system")).unwrap();
    for port in ["443", "9000", "9092", "9094"] {
        assert!(policy.contains(&format!("\"port\":{port}")), "{port}: {policy}");
    }
}

#[test]
fn secrets_are_mounted_and_never_written_into_the_configuration() {
    let pod = pod(0);
    assert_eq!(volume(&pod, "kafka-ca")["secret"]["secretName"], json!("ca"));
    assert_eq!(volume(&pod, "kafka-sasl")["secret"]["secretName"], json!("user"));
    let key = b"0123456789abcdef";
    let made = token(key, &prepared().uid);
    assert_eq!(made.len(), 64);
    assert_ne!(made, token(key, "another job"), "a token opens one job only");
    let map = serde_json::to_string(&config_map(&prepared())).unwrap();
    assert!(!map.contains(&made));
    assert!(map.contains("/etc/scadles/kafka/sasl/password"), "the file's place, not its content");
}

#[test]
fn the_mounted_job_is_what_the_trainers_read() {
    let map = config_map(&prepared());
    let data = map.data.unwrap();
    let job: scadles_api::worker::JobConfig = serde_json::from_str(&data[JOB_FILE]).unwrap();
    assert_eq!(job.devices.len(), 2);
    assert_eq!(job.output_dir.to_str(), Some("/output/0f8fad5b-d9cb-469f-a165-70867728950e"));
    let given = scadles_control::parse_job(&data[JOB_YAML]).unwrap();
    assert!(validate_in_cluster(&given).is_ok());
}

#[test]
fn a_stranger_reaches_no_worker_and_a_worker_only_what_it_needs() {
    let policy = serde_json::to_value(network_policy(&prepared(), "scadles-system")).unwrap();
    let spec = &policy["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    let ingress = spec["ingress"].as_array().unwrap();
    assert_eq!(ingress.len(), 2);
    assert!(ingress.iter().all(|rule| rule["from"].as_array().is_some_and(|from| !from.is_empty())));
    assert_eq!(ingress[1]["ports"], json!([{"protocol": "TCP", "port": 7200}]));
    let brokers = &spec["egress"][2]["ports"];
    assert_eq!(brokers, &json!([{"protocol": "TCP", "port": 9092}, {"protocol": "TCP", "port": 9094}]));
}

#[test]
fn data_of_an_image_is_copied_before_the_trainer_starts() {
    let pod = pod(1);
    let init = &pod["spec"]["initContainers"][0];
    assert_eq!((&init["image"], &init["command"]), (&json!("data:1"), &json!(["cp"])));
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let data = mounts.iter().find(|mount| mount["mountPath"] == "/data").unwrap();
    assert_eq!(data["readOnly"], json!(true));
}

#[test]
fn pods_of_a_job_on_gpus_ask_for_them_run_the_image_for_cuda_and_exchange_over_nccl() {
    let limits = "template: {resources: {requests: {cpu: '2'}, limits: {nvidia.com/gpu: 1}}";
    let text = JOB.replacen("template: {", &format!("{limits}, "), 1);
    let prepared = prepare_for_tests(Arc::new(scadles_api::yaml::from_str(&text).unwrap()), "trainer:1");
    assert_eq!(
        prepared.plan.backend.to_string(),
        "Nccl: spec.devices.template asks for 1 nvidia.com/gpu per device"
    );
    for rank in [0, 1] {
        let pod = serde_json::to_value(trainer(&prepared, rank, 1)).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["image"], json!("trainer:1-cuda"));
        assert_eq!(container["resources"]["limits"], json!({"nvidia.com/gpu": "1"}));
        let arguments = container["args"].as_array().unwrap();
        assert_eq!(arguments[arguments.len() - 2..], [json!("--backend"), json!("nccl")]);
    }
    let producer = serde_json::to_value(producer(&prepared)).unwrap();
    let container = &producer["spec"]["containers"][0];
    assert_eq!(container["image"], json!("trainer:1"), "it needs nothing of CUDA");
    assert_eq!(container["resources"]["limits"], Value::Null);
    assert!(!pod(0).to_string().contains("nccl"), "a job without GPUs knows nothing of it");
}

#[test]
fn a_job_on_gpus_that_names_its_image_runs_that_one_everywhere() {
    let text = JOB.replacen("template: {", "template: {resources: {limits: {nvidia.com/gpu: 1}}, ", 1);
    let text = text.replacen("  completion:", "  image: own:7\n  completion:", 1);
    let prepared = prepare_for_tests(Arc::new(scadles_api::yaml::from_str(&text).unwrap()), "trainer:1");
    assert_eq!((prepared.image.as_str(), prepared.producer_image.as_str()), ("own:7", "own:7"));
}

#[test]
fn a_job_that_began_under_an_operator_without_gpus_goes_on_as_it_began() {
    let text = JOB.replacen("template: {", "template: {resources: {limits: {nvidia.com/gpu: 1}}, ", 1);
    let mut object: ScadlesJobObject = scadles_api::yaml::from_str(&text).unwrap();
    let spec_hash = prepare_for_tests(Arc::new(object.clone()), "trainer:2").job.settings_hash;
    let mut image_with = |backend: &str| {
        let resolved = json!({"image": "trainer:1", "specHash": spec_hash, "backend": backend});
        object.status = Some(serde_json::from_value(json!({"resolved": resolved})).unwrap());
        let prepared = prepare_for_tests(Arc::new(object.clone()), "trainer:2");
        (prepared.image.clone(), trainer(&prepared, 1, 2).spec.unwrap().containers[0].args.clone().unwrap())
    };
    let (image, arguments) = image_with("");
    assert_eq!(image, "trainer:1");
    assert!(!arguments.contains(&"--backend".to_owned()), "its image does not know the flag");
    let (image, arguments) = image_with("Nccl: as it was");
    assert_eq!(image, "trainer:1");
    assert!(arguments.contains(&"--backend".to_owned()));
}
