//! What a worker is told once, at its start: the resolved job, every default filled in.
//!
//! `scadles-control::plan` makes these from a validated job; a worker never sees the raw spec. Everything that may change
//! between attempts travels in [`crate::Attempt`] instead.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::job::{
    Aggregation, DatasetName, EnergyOf, LearningRateScaling, ModelName, Normalization, RecordFormat,
    SaslMechanism, StartFrom, StreamPolicy,
};

/// The configuration of one worker: a file in the local body; in a cluster made from the job's file and the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerConfig {
    /// [`crate::PROTOCOL_VERSION`] of who wrote the file.
    pub protocol: u32,
    /// Position of this worker's device in `job.devices`.
    pub device_index: usize,
    /// Address that the worker listens on and binds its collectives to, such as 127.0.0.1.
    pub host: String,
    /// Port of the endpoint; 0 = any free one, reported on stdout.
    pub port: u16,
    /// Port of the control hub that is used if this worker becomes rank 0; 0 = any free one, reported on stdout.
    pub hub_port: u16,
    /// Every request to the worker carries this token.
    pub token: String,
    /// The same for all workers of the job.
    pub job: JobConfig,
}

impl WorkerConfig {
    /// The device that this worker trains on.
    pub fn device(&self) -> &DeviceConfig {
        &self.job.devices[self.device_index]
    }
}

/// The resolved job, the same for all its workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobConfig {
    /// Job name.
    pub name: String,
    /// Namespace, part of topic names.
    pub namespace: String,
    /// Unique for one life of the job; checkpoints of another uid are never resumed by accident.
    pub uid: String,
    /// All devices in the order of ranks.
    pub devices: Vec<DeviceConfig>,
    /// Broker.
    pub kafka: KafkaConfig,
    /// Network.
    pub model: ModelConfig,
    /// Optimiser and aggregation.
    pub training: TrainingConfig,
    /// Batches and buffers.
    pub stream: StreamConfig,
    /// Simulated streams, if any: `replay` regenerates their records.
    pub producer: Option<ProducerConfig>,
    /// Compression of gradients, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionConfig>,
    /// Saved state.
    pub checkpoint: CheckpointConfig,
    /// Held-out evaluation, if any.
    pub evaluation: Option<EvaluationConfig>,
    /// When the job is done.
    pub completion: Completion,
    /// Deadlines and patience.
    pub limits: Limits,
    /// Folder of journal, steps.csv, model.safetensors.
    pub output_dir: PathBuf,
    /// Where that folder is copied to with each checkpoint and in the end, if it does not outlive the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bucket: Option<BucketConfig>,
    /// Folder of the data sets.
    pub data_dir: PathBuf,
    /// Compute threads per worker.
    pub threads: u32,
}

/// One device: a stream and the worker that trains on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceConfig {
    /// Device name.
    pub name: String,
    /// Topic of its stream.
    pub topic: String,
    /// Number of partitions.
    pub partitions: u32,
}

/// Connection to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConfig {
    /// Comma-separated `host:port` list.
    pub bootstrap_servers: String,
    /// Encryption and identity; `None` is plain text and nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<KafkaSecurity>,
}

/// Encryption and identity of a connection. Secrets stay in files: what is written here may be read by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSecurity {
    /// TLS; without it the connection is plain text.
    pub tls: bool,
    /// File with the certificates to trust (PEM); `None`: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Who the client is; `None`: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
}

/// User and password of a connection, each in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    /// How the password is checked.
    pub mechanism: SaslMechanism,
    /// File that holds the user's name.
    pub username_file: PathBuf,
    /// File that holds the password.
    pub password_file: PathBuf,
}

/// Network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelConfig {
    /// Which network.
    pub name: ModelName,
    /// Normalisation between layers.
    pub normalization: Normalization,
    /// Number of labels.
    pub num_classes: u32,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
}

impl ModelConfig {
    /// Bytes of one picture: channels × height × width, one byte each.
    pub fn picture_bytes(&self) -> usize {
        self.input_shape.iter().map(|side| *side as usize).product()
    }

    /// Bytes of one `CifarBinary` record: a label byte and the picture.
    pub fn record_bytes(&self) -> usize {
        1 + self.picture_bytes()
    }
}

/// Optimiser and aggregation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainingConfig {
    /// At most this many samples per forward pass.
    pub micro_batch: u32,
    /// η at the base global batch.
    pub learning_rate: f64,
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
    /// Epochs after which η is multiplied by `gamma`, ascending.
    pub milestone_epochs: Vec<f64>,
    /// Factor at each milestone.
    pub gamma: f64,
    /// Per device: B = base_batch_size × devices.
    pub base_batch_size: u32,
    /// How η follows Σb.
    pub learning_rate_scaling: LearningRateScaling,
    /// How gradients are combined.
    pub aggregation: Aggregation,
    /// Samples of all devices that make an epoch.
    pub epoch_samples: u64,
    /// Seed of everything random.
    pub seed: u64,
}

/// Batches and buffers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamConfig {
    /// Layout of a record.
    pub format: RecordFormat,
    /// Where a stream without checkpoint is read from.
    pub start_from: StartFrom,
    /// What happens to samples that no batch has taken.
    pub policy: StreamPolicy,
    /// When a step starts, how large a batch is.
    pub batch: BatchRule,
    /// Bounds of a batch.
    pub batch_bounds: BatchBounds,
    /// Normalisation and augmentation.
    pub transform: Transform,
    /// Arena of the worker in bytes.
    pub buffer_bytes: u64,
    /// Share of undecodable records above which the job fails.
    pub max_rejected_share: f64,
}

/// When a step starts and how large a device's batch is (algorithms.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all_fields = "camelCase")]
pub enum BatchRule {
    /// Every device trains `size` samples; the step waits for the slowest stream.
    Fixed {
        /// Samples per device and step.
        size: u32,
    },
    /// What arrived in one window, windows back to back.
    StreamRate {
        /// Length of a window.
        window_seconds: f64,
    },
    /// Batch = rate × agreed window, the window as long as compute and exchange need.
    LineRate,
}

/// Bounds of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchBounds {
    /// Below this a device sits out.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Steps sat out in a row before the device takes part with 2 samples or more.
    pub max_skip: u32,
}

/// Normalisation and augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transform {
    /// Per channel, of values in [0, 1].
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
    /// Zero padding before a random crop; 0 = no crop.
    pub random_crop_padding: u32,
    /// Mirror half of the samples.
    pub horizontal_flip: bool,
}

/// A data set by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetConfig {
    /// Which.
    pub name: DatasetName,
    /// File of records, for `Files`.
    pub path: Option<PathBuf>,
}

/// Simulated streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerConfig {
    /// What is sent.
    pub dataset: DatasetConfig,
    /// Samples per second, one entry per device.
    pub rates: Vec<f64>,
    /// How the data set is spread over the devices.
    pub partition: PartitionRule,
    /// Seed of order and spread.
    pub seed: u64,
}

/// How a data set is spread over the devices (paper §II-B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all_fields = "camelCase")]
pub enum PartitionRule {
    /// Evenly at random.
    Iid,
    /// Every device gets only a few labels.
    LabelSkew {
        /// Labels per device.
        labels_per_device: u32,
    },
}

/// Compression of gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressionConfig {
    /// CR in (0, 1].
    pub ratio: f64,
    /// δ of the gate; `None` compresses every step.
    pub delta: Option<f64>,
    /// Whose energy the gate looks at.
    pub energy_of: EnergyOf,
}

/// Saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointConfig {
    /// Root folder; checkpoints lie under `<root>/<job uid>/`.
    pub root: PathBuf,
    /// They lie there instead, under `<prefix>/<job uid>/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<BucketConfig>,
    /// Steps between checkpoints.
    pub every_steps: u64,
    /// Checkpoints kept.
    pub keep: u32,
}

/// A bucket of an object store that speaks the protocol of Amazon S3. Keys stay in files: what is written here may be read
/// by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketConfig {
    /// Its name.
    pub name: String,
    /// Folder within it, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Address of the server, `http://` or `https://`; `None`: Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Folder with the files `accessKeyId`, `secretAccessKey` and, where needed, `sessionToken`; `None`: the surroundings
    /// say who we are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
}

impl BucketConfig {
    /// `s3://NAME/PREFIX`, without a slash at its end.
    pub fn url(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.name, self.prefix)
    }
}

/// Held-out evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationConfig {
    /// Its test split is used.
    pub dataset: DatasetConfig,
    /// Steps between evaluations; 0 = only at the end.
    pub every_steps: u64,
    /// Pictures per evaluation during the run.
    pub samples: u64,
    /// Accuracy's k, ascending, at least `[1]`.
    pub top_k: Vec<u32>,
}

/// When the job is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", content = "value")]
pub enum Completion {
    /// Epochs of `training.epoch_samples` samples.
    MaxEpochs(f64),
    /// Steps.
    MaxSteps(u64),
    /// Samples of all devices.
    MaxSamples(u64),
    /// Top-1 share of an evaluation.
    TargetAccuracy(f64),
}

/// Deadlines and patience, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Restarts of the group before the job fails.
    pub max_restarts: u32,
    /// Time until the first step of an attempt.
    pub start_deadline_seconds: f64,
    /// Time until the job must be complete.
    pub active_deadline_seconds: Option<f64>,
    /// A device without a sample for this long ends the attempt.
    pub stall_seconds: f64,
    /// Time that one collective may take.
    pub collective_seconds: f64,
    /// Time from a request to stop until processes are killed.
    pub stop_grace_seconds: f64,
    /// A worker whose supervisor is silent for this long exits.
    pub orphan_seconds: f64,
}
