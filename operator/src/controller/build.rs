//! The objects of a job. Pure: a prepared job has nothing left that could be wrong.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, api::ObjectMeta};
use scadles_api::{
    names::{OUTPUT_KEYS, labels},
    worker::BucketConfig,
};
use scadles_control::{ClusterJob, cluster::Storage, plan::Buckets};
use sha2::Sha256;

use super::{Prepared, names};

mod network;
mod pod;

pub use network::network_policy;

/// Where pods find the files of Kafka's Secrets: folders `ca` and `sasl` below it.
pub const KAFKA_FOLDER: &str = "/etc/scadles/kafka";
/// Where rank 0 finds the keys of the bucket of checkpoints.
const CHECKPOINTS_KEYS: &str = "/etc/scadles/storage/checkpoints";
/// User and group of all containers.
const USER: i64 = 65532;
/// Key of the resolved job in the ConfigMap.
pub const JOB_FILE: &str = "job.json";
/// Key of the job as given.
pub const JOB_YAML: &str = "job.yaml";

/// Token of a job's workers: only who has the operator's key can make it, and it differs from job to job.
pub fn token(key: &[u8], uid: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(uid.as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Metadata of everything that belongs to the job and goes with it.
fn metadata(prepared: &Prepared, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(prepared.namespace().to_owned()),
        labels: Some(names::labels_of(prepared.name(), &prepared.uid)),
        owner_references: prepared.object.controller_owner_ref(&()).map(|owner| vec![unblocking(owner)]),
        ..ObjectMeta::default()
    }
}

/// An owner reference that never holds up the owner's deletion.
fn unblocking(owner: OwnerReference) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(false), ..owner }
}

/// The resolved job for the trainers, and the job as given for the producer.
pub fn config_map(prepared: &Prepared) -> ConfigMap {
    // Plain data always has a JSON and a YAML form.
    let resolved = serde_json::to_string(&prepared.config()).unwrap_or_default();
    let given = scadles_api::ScadlesJob::from(prepared.object.as_ref());
    let given = scadles_api::yaml::to_string(&given).unwrap_or_default();
    ConfigMap {
        metadata: metadata(prepared, names::shared(prepared.name())),
        data: Some(BTreeMap::from([(JOB_FILE.to_owned(), resolved), (JOB_YAML.to_owned(), given)])),
        ..ConfigMap::default()
    }
}

/// The token of the workers.
pub fn secret(prepared: &Prepared, key: &[u8]) -> Secret {
    Secret {
        metadata: metadata(prepared, names::shared(prepared.name())),
        string_data: Some(BTreeMap::from([("token".to_owned(), token(key, &prepared.uid))])),
        ..Secret::default()
    }
}

/// The pod of a device for an attempt.
pub fn trainer(prepared: &Prepared, rank: usize, attempt: u32) -> Pod {
    let device = &prepared.job.job.devices[rank].name;
    let mut metadata =
        metadata(prepared, names::trainer_pod(prepared.name(), device, attempt, &prepared.uid));
    let template = &prepared.job.template;
    let own = [
        (labels::COMPONENT, names::TRAINER.to_owned()),
        (labels::DEVICE, device.clone()),
        (labels::ATTEMPT, attempt.to_string()),
    ];
    let mut all = template.labels.clone().unwrap_or_default();
    all.extend(metadata.labels.take().unwrap_or_default());
    all.extend(own.map(|(key, value)| (key.to_owned(), value)));
    metadata.labels = Some(all);
    metadata.annotations.clone_from(&template.annotations);
    Pod { metadata, spec: Some(pod::trainer(prepared, rank)), ..Pod::default() }
}

/// The pod of the simulated streams.
pub fn producer(prepared: &Prepared) -> Pod {
    let mut metadata = metadata(prepared, names::producer_pod(prepared.name(), &prepared.uid));
    if let Some(all) = &mut metadata.labels {
        all.insert(labels::COMPONENT.to_owned(), names::PRODUCER.to_owned());
        all.insert(names::SETTINGS.to_owned(), prepared.job.settings_hash.clone());
    }
    Pod { metadata, spec: Some(pod::producer(prepared)), ..Pod::default() }
}

/// The buckets that rank 0 talks to, and where it finds the keys.
pub fn buckets(job: &ClusterJob) -> Buckets {
    let config = |storage: &Storage, keys: &str| {
        let bucket = storage.bucket()?;
        let credentials = bucket.secret.as_ref().map(|_| keys.into());
        Some(BucketConfig { credentials, ..bucket.config.clone() })
    };
    Buckets {
        checkpoints: config(&job.checkpoints, CHECKPOINTS_KEYS),
        output: config(&job.output, OUTPUT_KEYS),
    }
}

/// Where the trained model lies.
pub fn result_uri(prepared: &Prepared) -> String {
    let claim = match &prepared.job.output {
        Storage::Claim(claim) => claim,
        Storage::Bucket(bucket) => return format!("{}/{}", bucket.config.url(), prepared.uid),
    };
    let folder =
        claim.sub_path.as_deref().map_or_else(String::new, |path| format!("{}/", path.trim_matches('/')));
    format!("claim://{}/{folder}{}", claim.claim_name, prepared.uid)
}

#[cfg(test)]
mod tests;
