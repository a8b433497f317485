//! The pod that a fetch lives by: it mounts the claim or brings the results out of their bucket, waits to be asked for `tar`,
//! and ends by itself. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, LocalObjectReference,
        NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimVolumeSource, Pod,
        PodSecurityContext, PodSpec, PreferredSchedulingTerm, ResourceRequirements, SeccompProfile,
        SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use scadles_api::{
    crd::ScadlesJobObject,
    job::TolerationOperator,
    names::{OUTPUT_KEYS, labels},
};

use super::source::{Source, Volume as Held};

/// The container's name.
pub const CONTAINER: &str = "fetch";
/// The container that brings results out of a bucket.
const PULL: &str = "pull";
/// Where the results are mounted.
const MOUNT: &str = "/results";
/// Where the resolved job is mounted: it names the bucket.
const JOB: &str = "/etc/scadles/job";
/// The pod ends after so long, whatever became of the program that made it.
const LIFE_SECONDS: i64 = 900;
/// Everything that scadles runs has this user and group; the results are theirs.
const USER: i64 = 65532;

/// The pod; `random` makes its name its own, `node` is where it had best run.
pub fn fetch_pod(job: &ScadlesJobObject, source: &Source, random: &str, node: Option<&str>) -> Pod {
    let name = job.name_any();
    let marks = [
        ("app.kubernetes.io/name", "scadles"),
        // Not the operator's: it looks after what it made itself.
        ("app.kubernetes.io/managed-by", "scadles-cli"),
        (labels::JOB, &name),
        (labels::COMPONENT, CONTAINER),
    ];
    let marks = marks.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let owner = job.owner_ref(&());
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{name}-fetch-{random}")),
            namespace: job.namespace(),
            labels: Some(marks.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(job, source, node)),
        status: None,
    }
}

/// What `tar` is asked for: everything of the run but checkpoints, which may lie in the same folder, and half-written files.
pub fn tar_command(source: &Source) -> Vec<String> {
    let folder = format!("{MOUNT}/{}", source.folder);
    let fixed = [
        "tar",
        "-C",
        &folder,
        "--anchored",
        "--exclude=./[0-9]*-[0-9]*",
        "--no-anchored",
        "--exclude=*.part",
    ];
    fixed.iter().chain(&["-cf", "-", "."]).map(|word| (*word).to_owned()).collect()
}

fn spec(job: &ScadlesJobObject, source: &Source, node: Option<&str>) -> PodSpec {
    let template = job.spec.devices.template.clone().unwrap_or_default();
    PodSpec {
        init_containers: matches!(source.volume, Held::Bucket(_)).then(|| vec![pull(source)]),
        containers: vec![container(source)],
        volumes: Some(volumes(&job.name_any(), source)),
        // In a bucket's case it may be who we are.
        service_account_name: template
            .service_account_name
            .filter(|_| matches!(source.volume, Held::Bucket(_))),
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(LIFE_SECONDS),
        // There is nothing to save.
        termination_grace_period_seconds: Some(0),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        affinity: node.map(near),
        image_pull_secrets: template
            .image_pull_secrets
            .map(|names| names.into_iter().map(|name| LocalObjectReference { name }).collect()),
        tolerations: template.tolerations.map(|them| {
            let toleration = |it: scadles_api::job::TolerationSpec| Toleration {
                key: it.key,
                operator: it.operator.map(|operator| match operator {
                    TolerationOperator::Exists => "Exists".to_owned(),
                    TolerationOperator::Equal => "Equal".to_owned(),
                }),
                value: it.value,
                effect: it.effect,
                toleration_seconds: it.toleration_seconds,
            };
            them.into_iter().map(toleration).collect()
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // The results have the group already: a walk through the whole volume would be for nothing.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

fn volumes(job: &str, source: &Source) -> Vec<Volume> {
    let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    let secret = match &source.volume {
        Held::Claim(claim) => {
            let claim = PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                // The mount is read-only. A volume that was only to be read could not be had while a trainer writes to it.
                read_only: None,
            };
            return vec![Volume { persistent_volume_claim: Some(claim), ..volume("results") }];
        }
        Held::Bucket(secret) => secret,
    };
    let map = ConfigMapVolumeSource { name: format!("{job}-scadles"), ..ConfigMapVolumeSource::default() };
    let keys = secret.as_ref().map(|secret| SecretVolumeSource {
        secret_name: Some(secret.clone()),
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    });
    let results = Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..volume("results") };
    let keys = keys.map(|keys| Volume { secret: Some(keys), ..volume("keys") });
    [results, Volume { config_map: Some(map), ..volume("job") }].into_iter().chain(keys).collect()
}

fn mounted(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

/// Brings the results out of their bucket before the pod counts as up.
fn pull(source: &Source) -> Container {
    let command = ["scadles-trainer", "pull", "--job", &format!("{JOB}/job.json"), "--to"].map(str::to_owned);
    let keys = matches!(source.volume, Held::Bucket(Some(_))).then(|| mounted("keys", OUTPUT_KEYS, true));
    let mounts = [mounted("results", MOUNT, false), mounted("job", JOB, true)];
    Container {
        name: PULL.to_owned(),
        command: Some(command.into_iter().chain([format!("{MOUNT}/{}", source.folder)]).collect()),
        volume_mounts: Some(mounts.into_iter().chain(keys).collect()),
        // Why it could not.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..container(source)
    }
}

fn container(source: &Source) -> Container {
    let amount = |cpu: &str, memory: &str| {
        let of = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
        Some(BTreeMap::from([of("cpu", cpu), of("memory", memory)]))
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(source.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["sleep".to_owned(), LIFE_SECONDS.to_string()]),
        resources: Some(ResourceRequirements {
            requests: amount("50m", "32Mi"),
            // Quotas may ask for limits.
            limits: amount("1", "128Mi"),
            ..ResourceRequirements::default()
        }),
        volume_mounts: Some(vec![mounted("results", MOUNT, true)]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// On this node if it has room: the image is there, and the volume may be bound to it.
fn near(node: &str) -> Affinity {
    let this_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![PreferredSchedulingTerm {
                weight: 100,
                preference: NodeSelectorTerm { match_fields: Some(vec![this_node]), match_expressions: None },
            }]),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}
