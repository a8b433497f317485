use super::*;
use scadles_api::job::BackendChoice;

use crate::parse_job;

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: s1, namespace: demo}
spec:
  model: {name: Cnn, inputShape: [1, 28, 28]}
  kafka: {bootstrapServers: 'kafka.demo.svc:9092'}
  devices: {count: 2, template: {resources: {requests: {cpu: 500m, memory: 1Gi}}}}
  data: {image: data}
  producer: {dataset: {name: FashionMnist}, rates: {list: [50, 38]}}
  checkpoint: {storage: {persistentVolumeClaim: {claimName: results}}}
  completion: {maxSamples: 60000}
";

const REQUESTS: &str = "  devices: {count: 2, template: {resources: {requests: {cpu: 500m, memory: 1Gi}}}}";
const GPU_LIMIT: &str = "spec.devices.template.resources.limits[nvidia.com/gpu]";
const CLAIM: &str = "persistentVolumeClaim: {claimName: results}";

fn changed(from: &str, to: &str) -> Result<ClusterJob, Mistakes> {
    assert!(JOB.contains(from), "{from}");
    let text = JOB.replacen(from, to, 1);
    validate_in_cluster(&parse_job(&text).unwrap_or_else(|mistakes| panic!("form: {mistakes}")))
}

#[test]
fn a_job_that_fits_a_cluster_is_resolved() {
    let job = changed("count: 2", "count: 2").unwrap();
    assert_eq!(job.bootstrap_servers, "kafka.demo.svc:9092");
    assert_eq!(job.checkpoints.claim().unwrap().claim_name, "results");
    assert_eq!(job.output, job.checkpoints, "results go beside the checkpoints unless told otherwise");
    assert_eq!((job.clean_pods, job.ttl_seconds, job.suspend), (CleanPods::Running, None, false));
    assert!((job.job.limits.orphan_seconds - ORPHAN_SECONDS).abs() < f64::EPSILON);
}

#[test]
fn a_bucket_is_a_place_as_good_as_a_claim() {
    let job = changed(CLAIM, "s3: {url: 's3://results/team-a', secret: keys}").unwrap();
    let bucket = job.checkpoints.bucket().unwrap();
    assert_eq!(
        (bucket.config.url().as_str(), bucket.config.region.as_str()),
        ("s3://results/team-a", "us-east-1")
    );
    assert_eq!((bucket.secret.as_deref(), bucket.port), (Some("keys"), 443));
    assert_eq!(job.output, job.checkpoints);
}

#[test]
fn every_mistake_of_a_cluster_names_field_and_remedy() {
    let cases = [
        ("  kafka: {bootstrapServers: 'kafka.demo.svc:9092'}\n", "", "spec.kafka"),
        ("kafka.demo.svc:9092", "kafka:9092", "spec.kafka.bootstrapServers"),
        ("kafka.demo.svc:9092", "localhost:9092", "spec.kafka.bootstrapServers"),
        ("kafka.demo.svc:9092", "127.0.0.1:9092", "spec.kafka.bootstrapServers"),
        ("  data: {image: data}\n", "", "spec.data"),
        ("{image: data}", "{image: data, persistentVolumeClaim: {claimName: d}}", "spec.data"),
        (
            "  checkpoint: {storage: {persistentVolumeClaim: {claimName: results}}}\n",
            "",
            "spec.checkpoint.storage.persistentVolumeClaim",
        ),
        (
            "claimName: results",
            "claimName: Results",
            "spec.checkpoint.storage.persistentVolumeClaim.claimName",
        ),
        (
            "claimName: results",
            "claimName: results, subPath: ../x",
            "spec.checkpoint.storage.persistentVolumeClaim.subPath",
        ),
        (CLAIM, "s3: {url: results}", "spec.checkpoint.storage.s3.url"),
        (CLAIM, "s3: {url: 's3://results', endpoint: minio}", "spec.checkpoint.storage.s3.endpoint"),
        (CLAIM, "s3: {url: 's3://results', secret: A B}", "spec.checkpoint.storage.s3.secret"),
        (
            CLAIM,
            "persistentVolumeClaim: {claimName: r}, s3: {url: 's3://results'}",
            "spec.checkpoint.storage",
        ),
        (CLAIM, "path: /tmp", "spec.checkpoint.storage.path"),
        ("name: Cnn,", "name: TorchScript, torchScript: {path: /own.pt},", "spec.model.torchScript.path"),
        ("500m", "lots", "spec.devices.template.resources.requests[cpu]"),
        (
            "{name: FashionMnist}",
            "{name: Files, files: {path: /etc/passwd}}",
            "spec.producer.dataset.files.path",
        ),
        ("  data:", "  backend: Nccl\n  data:", "spec.backend"),
        (
            REQUESTS,
            "  backend: Gloo\n  devices: {count: 2, template: {resources: {limits: {nvidia.com/gpu: 1}}}}",
            "spec.backend",
        ),
        (
            REQUESTS,
            "  devices: {count: 2, template: {resources: {limits: {nvidia.com/gpu: 500m}}}}",
            GPU_LIMIT,
        ),
        (
            REQUESTS,
            "  devices: {count: 2, template: {resources: {requests: {nvidia.com/gpu: 1}}}}",
            GPU_LIMIT,
        ),
        (
            REQUESTS,
            "  devices: {count: 2, template: {resources: {requests: {nvidia.com/gpu: 1}, limits: {nvidia.com/gpu: 2}}}}",
            GPU_LIMIT,
        ),
    ];
    for (from, to, path) in cases {
        let found = changed(from, to).expect_err(to);
        let paths: Vec<&str> = found.iter().map(|mistake| mistake.path.as_str()).collect();
        assert_eq!(paths, [path], "{to}");
        assert!(found.iter().all(|mistake| !mistake.remedy.is_empty()), "{found}");
    }
}

#[test]
fn mistakes_of_the_job_and_of_the_cluster_are_told_together() {
    let found = changed("kafka.demo.svc:9092'}\n  devices: {count: 2", "kafka:9092'}\n  devices: {count: 0")
        .unwrap_err();
    let paths: Vec<&str> = found.iter().map(|mistake| mistake.path.as_str()).collect();
    assert!(
        paths.contains(&"spec.kafka.bootstrapServers") && paths.contains(&"spec.devices.count"),
        "{found}"
    );
}

#[test]
fn a_bare_name_is_completed_with_the_jobs_namespace() {
    let found = changed("kafka.demo.svc:9092", "kafka:9092").unwrap_err();
    assert_eq!(found.iter().next().unwrap().remedy, "write kafka.demo.svc:9092");
}

/// A golden value: an operator that computes another hash after an upgrade would restart every running job.
#[test]
fn the_hash_of_the_settings_is_pinned() {
    assert_eq!(changed("count: 2", "count: 2").unwrap().settings_hash, "b4ba8f23345ba64d");
}

#[test]
fn only_settings_that_need_a_new_attempt_change_the_hash() {
    let hash = |from: &str, to: &str| changed(from, to).unwrap().settings_hash;
    let same = hash("count: 2", "count: 2");
    assert_eq!(hash("  data:", "  suspend: true\n  data:"), same);
    assert_eq!(hash("  data:", "  runPolicy: {cleanPods: All}\n  data:").len(), 16);
    assert_ne!(hash("maxSamples: 60000", "maxSamples: 60001"), same);
    assert_ne!(hash("memory: 1Gi", "memory: 2Gi"), same);
}

#[test]
fn what_a_running_group_can_be_told_asks_for_no_new_attempt() {
    let hash = |parts: &str| changed("  data:", &format!("{parts}\n  data:")).unwrap().settings_hash;
    let compressed = |fields: &str| hash(&format!("  compression: {{{fields}}}"));
    let began = compressed("mode: Static, ratio: 0.1");
    for tuned in ["mode: Static", "mode: Adaptive, ratio: 0.05, delta: 0.2", "mode: Auto"] {
        assert_eq!(compressed(tuned), began, "{tuned}");
    }
    for other in ["mode: None", "mode: Adaptive, energyOf: Gradient"] {
        assert_ne!(compressed(other), began, "{other}");
    }
    let injected = |fields: &str| hash(&format!("  injection: {{optIn: All, {fields}}}"));
    let began = injected("mode: Move");
    assert_eq!(injected("mode: Move, donorFraction: 0.25, sharedFraction: 0.9"), began);
    assert_ne!(injected("mode: Replicate"), began);
    assert_ne!(injected("mode: Move, budgetBytesPerStep: 1Mi"), began);
}

#[test]
fn a_template_that_asks_for_gpus_makes_a_job_of_nccl_and_its_words_are_in_the_remedy_where_it_does_not() {
    let limits = "  devices: {count: 2, template: {resources: {limits: {nvidia.com/gpu: 1}}}}";
    let job = changed(REQUESTS, limits).unwrap().job;
    assert_eq!((job.backend, job.gpus_per_device), (BackendChoice::Auto, 1));
    assert_eq!(changed(REQUESTS, REQUESTS).unwrap().job.gpus_per_device, 0);
    let zero = changed(REQUESTS, &limits.replace("gpu: 1", "gpu: 0")).unwrap().job;
    assert_eq!(zero.gpus_per_device, 0);
    let found = changed("  data:", "  backend: Nccl\n  data:").unwrap_err();
    let mistake = found.iter().next().unwrap();
    assert_eq!(mistake.remedy, "add limits: {nvidia.com/gpu: 1} there, or write backend: Auto");
}

#[test]
fn a_network_of_torch_script_does_not_go_on_gpus_whoever_asks_for_them() {
    let own = ("name: Cnn,", "name: TorchScript, torchScript: {path: own.pt},");
    let text = JOB.replacen(own.0, own.1, 1);
    let on_gpus = text.replacen(
        REQUESTS,
        "  devices: {count: 2, template: {resources: {limits: {nvidia.com/gpu: 1}}}}",
        1,
    );
    for backend in ["", "  backend: Nccl\n"] {
        let text = on_gpus.replacen("  data:", &format!("{backend}  data:"), 1);
        let found = validate_in_cluster(&parse_job(&text).unwrap()).unwrap_err();
        let paths: Vec<&str> = found.iter().map(|mistake| mistake.path.as_str()).collect();
        assert_eq!(paths, ["spec.backend"], "{backend}");
    }
    assert!(validate_in_cluster(&parse_job(&text).unwrap()).is_ok());
}
