//! The job file: `ScadlesJob`, only the fields that work.
//!
//! A field or enum value enters together with the code that honours it. Optional fields are `Option`: their defaults are
//! resolved by `scadles-control::validate`, never by serde, so that a stored object never changes its meaning.
// KubeSchema copies each type into a function, where `pub` has no meaning.
#![cfg_attr(feature = "crd", allow(unreachable_pub))]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

mod cluster;
mod compression;
mod data;
mod format;
mod injection;
mod model;
#[cfg(feature = "crd")]
pub mod rules;

pub use cluster::*;
pub use compression::*;
pub use data::*;
pub use format::*;
pub use injection::*;
pub use model::*;

/// A streaming training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ScadlesJob {
    /// Always `scadles.io/v1alpha1`.
    pub api_version: String,
    /// Always `ScadlesJob`.
    pub kind: String,
    /// Name, and the namespace that the topics' names carry.
    pub metadata: Metadata,
    /// What to train, on which streams, how.
    pub spec: ScadlesJobSpec,
}

/// The part of Kubernetes' object metadata that a job file uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// A DNS label of at most 30 characters.
    pub name: String,
    /// Defaults to `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Free labels; not used by scadles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Free annotations; not used by scadles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What to train, on which streams, how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, kube::KubeSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "scadles.io",
        version = "v1alpha1",
        kind = "ScadlesJob",
        root = "ScadlesJobObject",
        plural = "scadlesjobs",
        shortname = "sj",
        category = "scadles",
        namespaced,
        cel,
        status = "crate::status::ScadlesJobStatus",
        derive = "PartialEq",
        doc = "A training job on live streams: devices with a topic and a trainer each, one model.",
        validation = rules::JOB_NAME,
        printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
        printcolumn(name = "Step", type_ = "integer", json_path = ".status.step"),
        printcolumn(name = "Samples/s", type_ = "number", json_path = ".status.samplesPerSecond"),
        printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag"),
        printcolumn(name = "Starved", type_ = "integer", json_path = ".status.starved"),
        printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
        printcolumn(name = "Top-1 %", type_ = "number", json_path = ".status.evaluation.top1Percent", priority = 1),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
    )
)]
#[cfg_attr(feature = "crd", x_kube(validation = rules::ONE_RATE_PER_DEVICE, validation = rules::TARGET_NEEDS_EVALUATION, validation = rules::STREAM_END_AND_END, validation = rules::END_WITHOUT_PRODUCER, validation = rules::ONE_WEIGHT_PER_CLASS, validation = rules::SHARING_IS_OPTED_IN, validation = rules::SHARE_OF_A_BATCH, validation = rules::MODEL_IS_FIXED, validation = rules::DEVICE_COUNT_IS_FIXED, validation = rules::DEVICE_NAMES_ARE_FIXED, validation = rules::KAFKA_WHILE_SUSPENDED, validation = rules::STORAGE_WHILE_SUSPENDED, validation = rules::OUTPUT_WHILE_SUSPENDED, validation = rules::MANAGED_BY_IS_FIXED))]
#[serde(rename_all = "camelCase")]
pub struct ScadlesJobSpec {
    /// The network.
    pub model: ModelSpec,
    /// Optimiser, batch base, learning rate, aggregation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingSpec>,
    /// How samples become batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamSpec>,
    /// Where the streams live. Left out: the local body starts an embedded broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSpec>,
    /// The devices: one stream and one worker each.
    pub devices: DevicesSpec,
    /// Where the data sets come from in a cluster. `scadles run` takes them from its own folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// Simulated streams: sends a real data set at a rate of its own to every device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<ProducerSpec>,
    /// What carries the workers' sums, and with it where they compute. Default `Auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendChoice>,
    /// Compression of gradients. Left out: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// Samples that devices share, as they are. Left out: none; every sample is trained where it arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionSpec>,
    /// When and where training state is saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSpec>,
    /// Held-out evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationSpec>,
    /// When the job is done: exactly one member.
    pub completion: CompletionSpec,
    /// Restarts, deadlines, patience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicySpec>,
    /// Where results go in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSpec>,
    /// Image of the trainers (clusters only). Default: the operator's own version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// True stops the job after a checkpoint and keeps it; false goes on from there (clusters only). Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Name of another controller that looks after this object: scadles then leaves it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// What carries the workers' sums, and with it where they compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum BackendChoice {
    /// `Nccl` in a cluster where `devices.template` asks for GPUs (`nvidia.com/gpu`), `Gloo` otherwise.
    #[default]
    Auto,
    /// Gloo, between workers that compute on the CPU.
    Gloo,
    /// NVIDIA's NCCL, between workers that compute on a GPU each.
    Nccl,
}

/// How the learning rate follows the global batch Σb (paper §IV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum LearningRateScalingName {
    /// η stays as given.
    None,
    /// η·Σb/B with B = baseBatchSize × devices.
    Linear,
    /// `Linear` up to a bound, reached gradually: see `learningRateCap`.
    Capped,
    /// η times the gain that the noise of the gradients allows, between 1 and Σb/B; milestones count gain·B
    /// samples a step.
    AdaScale,
}

/// Bounds of the scaling `Capped` (after Goyal et al. 2017, §2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LearningRateCapSpec {
    /// η is multiplied by this at most. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Over so many epochs the factor grows from 1 to what it is without warm-up; 0: at once. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up_epochs: Option<f64>,
}

/// How local gradients are combined (paper Eqn 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Aggregation {
    /// By samples: w_i = b_i/Σb; with `classWeights` by the sums of their samples' weights.
    Weighted,
    /// Every device that took part counts the same.
    Uniform,
}

/// Optimiser, batch base, learning rate, aggregation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::CAP_OF_CAPPED))]
#[serde(rename_all = "camelCase")]
pub struct TrainingSpec {
    /// At most this many samples per forward pass; larger batches are split, the result is the same. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// SGD with momentum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerSpec>,
    /// Per device: B = baseBatchSize × devices is the batch that `learningRate` is meant for. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_batch_size: Option<u32>,
    /// Default `Linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate_scaling: Option<LearningRateScalingName>,
    /// `learningRateScaling: Capped` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate_cap: Option<LearningRateCapSpec>,
    /// Default `Weighted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// What a sample of each class counts in the loss: one number of 0 or more per class. Default: all count the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<Vec<f64>>,
    /// Samples that make an epoch, all devices together. Default: the size of the producer's data set, else 50000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_samples: Option<u64>,
    /// Seed of initialisation, augmentation, producers and drawn rates. Default 1234.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// SGD with momentum; weight decay is added after aggregation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OptimizerSpec {
    /// η at the base global batch. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// μ in [0, 1). Default 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// λ ≥ 0. Default 0.0001.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// After each of these epochs η is multiplied by `gamma`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestone_epochs: Option<Vec<f64>>,
    /// Factor at each milestone, in (0, 1]. Default 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
}

/// What happens to samples that no batch has taken (paper §II-C, §IV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum StreamPolicy {
    /// Keep all until trained.
    Persistence,
    /// After a batch, keep only the newest second's worth.
    Truncation,
}

/// When a step starts and how large a device's batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum BatchRuleName {
    /// Conventional: the same batch everywhere; the step waits for the slowest stream.
    Fixed,
    /// The paper's: what arrived in one window.
    StreamRate,
    /// Batches follow rate and compute time; no device waits for another's stream.
    LineRate,
}

/// How samples become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::IMAGE_OF_IMAGE, validation = rules::TENSOR_OF_TENSOR, validation = rules::TIMESTAMP_OF_TIMESTAMP, validation = rules::END_BEHIND_THE_START))]
#[serde(rename_all = "camelCase")]
pub struct StreamSpec {
    /// Default `CifarBinary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<RecordFormatName>,
    /// `Image` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// `Tensor` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<TensorSpec>,
    /// Default `Earliest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFromName>,
    /// `startFrom: Timestamp` only: an RFC 3339 time such as `2026-05-04T08:30:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// When streams are over. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<StreamEndSpec>,
    /// Default `Persistence`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<StreamPolicy>,
    /// Default `LineRate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
    /// Applied to every training sample; normalisation also to evaluation samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<TransformSpec>,
    /// Memory per device for samples that wait in the worker; what does not fit waits at the broker. Default 64Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_bytes: Option<ByteSize>,
    /// Share of undecodable records above which the job fails, in [0, 1]. Default 0.01.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rejected_share: Option<f64>,
}

/// The batch rule and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::BATCH_BOUNDS, validation = rules::WINDOW_OF_STREAM_RATE, validation = rules::FIXED_OF_FIXED, validation = rules::FIXED_WITHIN_BOUNDS))]
#[serde(rename_all = "camelCase")]
pub struct BatchSpec {
    /// Which rule.
    pub rule: BatchRuleName,
    /// Below this a device sits a step out. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Never more than this in one step. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Steps that a device may sit out in a row before it takes part with 2 samples or more. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_skip: Option<u32>,
    /// `StreamRate` only: length of a window in seconds. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<f64>,
    /// `Fixed` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<FixedBatchSpec>,
}

/// Settings of the rule `Fixed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FixedBatchSpec {
    /// Samples per device and step. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// Normalisation and augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TransformSpec {
    /// Per channel, of values in [0, 1]. Default: of the producer's data set, else 0.5; of tensors of `F32` 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Per channel, above 0. Default: of the producer's data set, else 0.25; of tensors of `F32` 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
    /// Zero padding around the picture before a random crop to its size; 0 = no crop. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_crop_padding: Option<u32>,
    /// Mirror half of the samples. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizontal_flip: Option<bool>,
}

/// Where the streams live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::PLAIN_NEEDS_TLS))]
#[serde(rename_all = "camelCase")]
pub struct KafkaSpec {
    /// Comma-separated `host:port` list.
    pub bootstrap_servers: String,
    /// Encrypts the connections. Default: plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Who the workers are to the brokers. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
    /// Topics of the devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<TopicsSpec>,
}

/// Who makes the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum TopicManagement {
    /// scadles creates what is missing.
    Operator,
    /// Topics must exist; nothing is created or changed.
    External,
}

/// Topics of the devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::PARTITIONS_ONLY_GROW))]
#[serde(rename_all = "camelCase")]
pub struct TopicsSpec {
    /// Default `Operator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management: Option<TopicManagement>,
    /// Default `{namespace}.{job}.{device}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_template: Option<String>,
    /// Partitions per device. Default: 1, with the embedded broker what its limits need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Copies of each partition. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// How long the broker keeps a record. Default: the broker's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Further settings of the topics, such as `segment.bytes`; keys that are not named are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    /// Default `Retain` (clusters only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Default `Refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adoption: Option<Adoption>,
}

/// The devices: exactly one of `count` and `named`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::COUNT_OR_NAMED, validation = rules::SOME_DEVICE))]
#[serde(rename_all = "camelCase")]
pub struct DevicesSpec {
    /// This many devices, named `device-0`, `device-1`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Devices by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<Vec<NamedDevice>>,
    /// What every trainer pod gets (clusters only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<DeviceTemplate>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::DEVICE_NAME))]
#[serde(rename_all = "camelCase")]
pub struct NamedDevice {
    /// A DNS label of at most 18 characters, unique in the job.
    pub name: String,
    /// Its topic. Default: from the template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whether its raw samples may leave it, with `spec.injection`. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_data: Option<bool>,
}

/// When and where training state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckpointSpec {
    /// Steps between checkpoints. Default 40.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// Checkpoints kept; older ones go. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// Default: folder `checkpoints` of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// Held-out evaluation, shared between the ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSpec {
    /// Its test split is used. Default: the producer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetSpec>,
    /// Steps between evaluations; 0 = only at the end. Default 40.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// Pictures per evaluation during the run (all of them at the end). Default 2000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// A sample counts as right when its label is among the k best guesses. Default [1, 5].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<Vec<u32>>,
}

/// When the job is done: exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::ONE_COMPLETION, validation = rules::STREAM_END_IS_TRUE))]
#[serde(rename_all = "camelCase")]
pub struct CompletionSpec {
    /// Epochs: each is `training.epochSamples` samples of all devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_epochs: Option<f64>,
    /// Steps of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Samples trained by all devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<u64>,
    /// Top-1 share of an evaluation, in (0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_accuracy: Option<f64>,
    /// `true`: when all streams are over (`spec.stream.end`) and all that could be trained is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_end: Option<bool>,
}

/// Restarts, deadlines, patience.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RunPolicySpec {
    /// Restarts of the group before the job fails. Default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
    /// Time until the first step of an attempt. Default 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_deadline_seconds: Option<f64>,
    /// Time until the job must be complete. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<f64>,
    /// A device without a sample for this long ends the attempt. Default 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_seconds: Option<f64>,
    /// Time that one collective may take once all ranks entered the step. Default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collective_seconds: Option<f64>,
    /// Time from a request to stop until processes are killed. Default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_seconds: Option<f64>,
    /// A worker whose supervisor is silent for this long exits. Default 60; in a cluster 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_seconds: Option<f64>,
    /// The object is deleted so long after the job has ended (clusters only). Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<u64>,
    /// Which pods are deleted when the job has ended (clusters only). Default `Running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_pods: Option<CleanPods>,
}
