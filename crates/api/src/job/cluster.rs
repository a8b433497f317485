//! The parts of a job that only matter in a cluster, and those that name Secrets, claims and images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;
use crate::units::{ByteSize, Quantity};

/// Encryption of the connection to the brokers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Name of a Secret whose key `ca.crt` holds the certificates to trust (PEM). Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
}

/// How the brokers check a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum SaslMechanism {
    /// The password as it is; only with `tls`.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// Who the workers are to the brokers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SaslSpec {
    /// How the password is checked.
    pub mechanism: SaslMechanism,
    /// Name of a Secret with the keys `username` and `password`.
    pub secret: String,
}

/// What happens to the topics that scadles made when the job is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// They stay, with their records.
    Retain,
    /// They are deleted, if the brokers allow it within 30 s.
    Delete,
}

/// What happens to a topic that is there already and does not carry the name that the template gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Adoption {
    /// The job does not start.
    Refuse,
    /// It is used as it is, never grown, changed or deleted.
    Adopt,
}

/// Where the data sets come from in a cluster: exactly one member. Mounted read-only at `/data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::ONE_KIND_OF_DATA))]
#[serde(rename_all = "camelCase")]
pub struct DataSpec {
    /// An image that holds the data sets in its folder `/data` (scadles-data has Fashion-MNIST).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A claim that holds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSpec>,
}

/// A PersistentVolumeClaim of the job's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// Its name. `ReadWriteOnce` is enough for results and checkpoints: rank 0 alone writes them.
    pub claim_name: String,
    /// Folder within the volume. Default: its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// Where files go: exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::ONE_KIND_OF_STORAGE))]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// A folder of this machine (`scadles run` only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A claim (clusters only; `scadles run` writes into its run folder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSpec>,
    /// A bucket of S3 or of a server that speaks its protocol (clusters only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
}

/// A bucket of Amazon S3, or of a server that speaks its protocol (MinIO, Ceph, R2, …).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct S3Spec {
    /// `s3://BUCKET` or `s3://BUCKET/FOLDER`.
    pub url: String,
    /// Address of a server that is not Amazon's: `https://HOST:PORT`, or `http://` without encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region. Default: us-east-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A Secret of the job's namespace with the keys accessKeyId and secretAccessKey, and sessionToken where one is needed.
    /// Default: the identity of the pods' service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Where results go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// Journal, steps.csv and the trained model. Default: the checkpoints' storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// Which pods are deleted when a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum CleanPods {
    /// Those that still run, the producer's among them; ended ones keep their logs.
    Running,
    /// All.
    All,
    /// None.
    None,
}

/// What every trainer pod of a job gets (clusters only).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceTemplate {
    /// Requests and limits of the trainer. Default: 500m CPU and 512Mi memory requested, no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSpec>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the pods tolerate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<TolerationSpec>>,
    /// Container runtime, such as `nvidia`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Priority of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Account of the pods; they never get its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Names of Secrets to pull images with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Further environment variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvSpec>>,
    /// Further labels; those of scadles win.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Size of `/dev/shm`. Default 64Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<ByteSize>,
}

/// Requests and limits by resource name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourcesSpec {
    /// What the scheduler sets aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// What the container may use at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// Which taints of a node do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum TolerationOperator {
    /// The key is there, whatever its value.
    Exists,
    /// Key and value are these.
    Equal,
}

/// A taint that the pods tolerate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TolerationSpec {
    /// The taint's key. Default: every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Default `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// The taint's value, with `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`. Default: every effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// With `NoExecute`: how long the pod stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EnvSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}
