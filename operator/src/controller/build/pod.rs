//! Specifications of trainer and producer pods: restricted pod security, a read-only root, nothing of the API server. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
        EnvVarSource, HTTPGetAction, LocalObjectReference, ObjectFieldSelector,
        PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, Probe, ResourceRequirements,
        SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use scadles_api::{
    job::{ClaimSpec, DeviceTemplate, ResourcesSpec, TolerationOperator},
    names::{ENDPOINT_PORT, HUB_PORT, OUTPUT_KEYS},
    worker::Backend,
};

use scadles_control::cluster::Storage;

use super::{CHECKPOINTS_KEYS, KAFKA_FOLDER, Prepared, USER, names};

/// `/dev/shm` if the job does not say.
const SHARED_MEMORY_BYTES: u64 = 64 << 20;
/// Room for what libraries write into `/tmp`.
const TMP_SIZE: &str = "64Mi";
/// A worker that was asked to go has so much longer than `stopGraceSeconds` to write its checkpoint and last words.
const LAST_WORDS_SECONDS: i64 = 10;

/// Of a device's trainer. Rank 0 alone has the claims and the buckets' keys: it alone writes.
pub(super) fn trainer(prepared: &Prepared, rank: usize) -> PodSpec {
    let device = &prepared.job.job.devices[rank].name;
    let mut volumes = vec![job_volume(prepared), token_volume(prepared)];
    let mut mounts = vec![mount("job", "/etc/scadles/job", true), mount("token", "/etc/scadles/token", true)];
    let storage = (rank == 0).then_some([&prepared.job.output, &prepared.job.checkpoints]);
    with_folders(storage, &mut volumes, &mut mounts);
    with_keys(storage, &mut volumes, &mut mounts);
    let template = &prepared.job.template;
    let shared_memory = template.shared_memory.map_or(SHARED_MEMORY_BYTES, |size| size.0);
    volumes.push(memory("shm", shared_memory));
    mounts.push(mount("shm", "/dev/shm", false));
    let container = Container {
        name: names::TRAINER.to_owned(),
        image: Some(prepared.image.clone()),
        command: Some(vec!["scadles-trainer".to_owned()]),
        args: Some(trainer_arguments(device, prepared.plan.backend.backend)),
        env: Some(environment(template)),
        ports: Some(vec![container_port("http", ENDPOINT_PORT), container_port("hub", HUB_PORT)]),
        readiness_probe: Some(readiness()),
        resources: Some(resources(template.resources.as_ref())),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..container(mounts)
    };
    let grace = prepared.job.job.limits.stop_grace_seconds.ceil() as i64 + LAST_WORDS_SECONDS;
    let spec = with_data(prepared, with_secrets(prepared, pod(template, container, volumes)));
    PodSpec { termination_grace_period_seconds: Some(grace), ..spec }
}

/// Folders of results and checkpoints: rank 0's claims, or folders that live and die with the pod.
fn with_folders(storage: Option<[&Storage; 2]>, volumes: &mut Vec<Volume>, mounts: &mut Vec<VolumeMount>) {
    let [output_claim, checkpoints_claim] = storage.map_or([None; 2], |both| both.map(Storage::claim));
    let (output, output_mount) = folder("output", "/output", output_claim);
    let (checkpoints, mut checkpoints_mount) = folder("checkpoints", "/checkpoints", checkpoints_claim);
    let name = |claim: Option<&ClaimSpec>| claim.map(|claim| claim.claim_name.clone());
    // A kubelet waits for ever for a pod that has one claim as two volumes: then both folders are mounted from the first.
    if output_claim.is_some() && name(output_claim) == name(checkpoints_claim) {
        checkpoints_mount.name.clone_from(&output_mount.name);
    } else {
        volumes.push(checkpoints);
    }
    volumes.push(output);
    mounts.extend([output_mount, checkpoints_mount]);
}

/// The files of the buckets' Secrets.
fn with_keys(storage: Option<[&Storage; 2]>, volumes: &mut Vec<Volume>, mounts: &mut Vec<VolumeMount>) {
    let places = [("output-keys", OUTPUT_KEYS), ("checkpoints-keys", CHECKPOINTS_KEYS)];
    for ((name, path), storage) in places.into_iter().zip(storage.into_iter().flatten()) {
        let Some(secret) = storage.bucket().and_then(|bucket| bucket.secret.as_deref()) else { continue };
        volumes.push(secret_volume(name, secret));
        mounts.push(mount(name, path, true));
    }
}

/// Of the simulated streams.
pub(super) fn producer(prepared: &Prepared) -> PodSpec {
    let arguments = ["produce", "/etc/scadles/job/job.yaml", "--data", "/data", "--secrets", KAFKA_FOLDER];
    let container = Container {
        name: names::PRODUCER.to_owned(),
        image: Some(prepared.producer_image.clone()),
        command: Some(vec!["scadles".to_owned()]),
        args: Some(arguments.map(str::to_owned).to_vec()),
        resources: Some(resources(Some(&ResourcesSpec {
            requests: Some(quantities(&[("cpu", "100m"), ("memory", "256Mi")])),
            limits: None,
        }))),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..container(vec![mount("job", "/etc/scadles/job", true)])
    };
    // The template's place in the cluster is the trainers'; the producer stands for machines elsewhere.
    let template = DeviceTemplate {
        image_pull_secrets: prepared.job.template.image_pull_secrets.clone(),
        ..DeviceTemplate::default()
    };
    let spec =
        with_data(prepared, with_secrets(prepared, pod(&template, container, vec![job_volume(prepared)])));
    PodSpec { termination_grace_period_seconds: Some(LAST_WORDS_SECONDS), ..spec }
}

fn trainer_arguments(device: &str, backend: Backend) -> Vec<String> {
    let text = format!(
        "worker --job /etc/scadles/job/job.json --device {device} --host $(POD_IP) --port {ENDPOINT_PORT} \
         --hub-port {HUB_PORT} --token-file /etc/scadles/token/token --termination-log /dev/termination-log --detached"
    );
    let backend = (backend == Backend::Nccl).then_some(["--backend", "nccl"]);
    text.split_whitespace().chain(backend.into_iter().flatten()).map(str::to_owned).collect()
}

/// Address of the pod first: the arguments refer to it. Then what the job adds.
fn environment(template: &DeviceTemplate) -> Vec<EnvVar> {
    let address = EnvVar {
        name: "POD_IP".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: "status.podIP".to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let threads = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| variable(name, "1"));
    let given = template.env.iter().flatten().map(|given| variable(&given.name, &given.value));
    std::iter::once(address).chain(threads).chain(given).collect()
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

fn readiness() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/livez".to_owned()),
            port: IntOrString::Int(ENDPOINT_PORT.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(1),
        failure_threshold: Some(30),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// What all containers have in common.
fn container(mut mounts: Vec<VolumeMount>) -> Container {
    mounts.push(mount("tmp", "/tmp", false));
    Container {
        image_pull_policy: Some("IfNotPresent".to_owned()),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// What all pods have in common.
fn pod(template: &DeviceTemplate, container: Container, mut volumes: Vec<Volume>) -> PodSpec {
    volumes.push(Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(TMP_SIZE.to_owned())),
            medium: None,
        }),
        ..Volume::default()
    });
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: template.node_selector.clone(),
        tolerations: template.tolerations.as_ref().map(|them| them.iter().map(toleration).collect()),
        runtime_class_name: template.runtime_class_name.clone(),
        priority_class_name: template.priority_class_name.clone(),
        service_account_name: template.service_account_name.clone(),
        image_pull_secrets: template
            .image_pull_secrets
            .as_ref()
            .map(|names| names.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn toleration(given: &scadles_api::job::TolerationSpec) -> Toleration {
    Toleration {
        key: given.key.clone(),
        operator: given.operator.map(|operator| {
            match operator {
                TolerationOperator::Exists => "Exists",
                TolerationOperator::Equal => "Equal",
            }
            .to_owned()
        }),
        value: given.value.clone(),
        effect: given.effect.clone(),
        toleration_seconds: given.toleration_seconds,
    }
}

/// The data sets, read-only at `/data` of the container.
fn with_data(prepared: &Prepared, mut spec: PodSpec) -> PodSpec {
    let Some(data) = &prepared.job.data else { return spec };
    let claim = data.persistent_volume_claim.as_ref();
    let (volume, mounted) = folder("data", "/data", claim);
    let read_only = VolumeMount { read_only: Some(true), ..mounted };
    spec.volumes.get_or_insert_default().push(volume);
    for container in &mut spec.containers {
        container.volume_mounts.get_or_insert_default().push(read_only.clone());
    }
    if let Some(image) = &data.image {
        let arguments = ["-R", "/data/.", "/target/"].map(str::to_owned).to_vec();
        spec.init_containers = Some(vec![Container {
            name: "data".to_owned(),
            image: Some(image.clone()),
            command: Some(vec!["cp".to_owned()]),
            args: Some(arguments),
            resources: Some(resources(Some(&ResourcesSpec {
                requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
                limits: None,
            }))),
            ..container(vec![mount("data", "/target", false)])
        }]);
    }
    spec
}

/// The files of Kafka's Secrets.
fn with_secrets(prepared: &Prepared, mut spec: PodSpec) -> PodSpec {
    let secrets = &prepared.job.job.kafka_secrets;
    let ca = secrets.tls.iter().flatten().map(|secret| ("ca", secret));
    let sasl = secrets.sasl.iter().map(|(_, secret)| ("sasl", secret));
    for (role, secret) in ca.chain(sasl) {
        spec.volumes.get_or_insert_default().push(secret_volume(&format!("kafka-{role}"), secret));
        for container in &mut spec.containers {
            let mounted = mount(&format!("kafka-{role}"), &format!("{KAFKA_FOLDER}/{role}"), true);
            container.volume_mounts.get_or_insert_default().push(mounted);
        }
    }
    spec
}

fn job_volume(prepared: &Prepared) -> Volume {
    Volume {
        name: "job".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::shared(prepared.name()),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn token_volume(prepared: &Prepared) -> Volume {
    secret_volume("token", &names::shared(prepared.name()))
}

fn secret_volume(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A claim, or a folder that lives and dies with the pod.
fn folder(name: &str, path: &str, claim: Option<&ClaimSpec>) -> (Volume, VolumeMount) {
    let volume = match claim {
        Some(claim) => Volume {
            name: name.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        },
        None => Volume {
            name: name.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    };
    let sub_path = claim.and_then(|claim| claim.sub_path.clone());
    (volume, VolumeMount { sub_path, ..mount(name, path, false) })
}

fn memory(name: &str, bytes: u64) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity(bytes.to_string())),
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn container_port(name: &str, number: u16) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number.into(), ..ContainerPort::default() }
}

fn quantities(list: &[(&str, &str)]) -> BTreeMap<String, scadles_api::units::Quantity> {
    list.iter()
        .map(|(name, text)| ((*name).to_owned(), scadles_api::units::Quantity((*text).to_owned())))
        .collect()
}

fn resources(given: Option<&ResourcesSpec>) -> ResourceRequirements {
    let default = || quantities(&[("cpu", "500m"), ("memory", "512Mi")]);
    let map = |quantities: BTreeMap<String, scadles_api::units::Quantity>| {
        quantities.into_iter().map(|(name, quantity)| (name, Quantity(quantity.0))).collect()
    };
    ResourceRequirements {
        requests: Some(map(given.and_then(|given| given.requests.clone()).unwrap_or_else(default))),
        limits: given.and_then(|given| given.limits.clone()).map(map),
        claims: None,
    }
}
