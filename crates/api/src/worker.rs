//! What a worker is told once, at its start: the resolved job, every default filled in.
//!
//! `scadles-control::plan` makes these from a validated job; a worker never sees the raw spec. Everything that may change
//! between attempts travels in [`crate::Attempt`] instead.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::job::{
    Aggregation, DatasetName, DonorChoice, EnergyOf, ImageFit, InjectionMode, ModelName, NormStatistics,
    Normalization, ReplicateBatch, SaslMechanism, Stem, StreamPolicy, ValueType,
};
pub use crate::samples::{RecordFormat, SampleShape};

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
    /// What carries the collectives of its group; all workers of an attempt have the same.
    #[serde(default, skip_serializing_if = "Backend::is_gloo")]
    pub backend: Backend,
    /// The same for all workers of the job.
    pub job: JobConfig,
}

impl WorkerConfig {
    /// The device that this worker trains on.
    pub fn device(&self) -> &DeviceConfig {
        &self.job.devices[self.device_index]
    }
}

/// What carries the collectives of a group. Between Gloo and MPI the bits of a model do not depend on it; a GPU computes other
/// ones than a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// Gloo, between any processes.
    #[default]
    Gloo,
    /// The system's MPI, between processes that one `mpiexec` has started in the order of ranks.
    Mpi,
    /// NVIDIA's NCCL, between workers that compute on a GPU each.
    Nccl,
}

impl Backend {
    /// Whether it is the one that needs nothing.
    pub fn is_gloo(&self) -> bool {
        *self == Self::Gloo
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
    /// Samples that devices share, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionConfig>,
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

impl JobConfig {
    /// What one sample of the job is.
    pub fn samples(&self) -> SampleShape {
        SampleShape::new(self.stream.format, &self.model)
    }
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
    /// What becomes of running statistics; `None` for networks without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<NormStatistics>,
    /// Number of labels.
    pub num_classes: u32,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// First layers of a ResNet; `None` for other networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// File of a network that is not built in; `None` for those that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_script: Option<TorchScriptConfig>,
}

/// A network of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TorchScriptConfig {
    /// The file; a relative path is below the folder of the data sets.
    pub path: PathBuf,
    /// Trained numbers in it; `None` where nobody has looked yet (in a cluster only the workers can).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
}

/// What the trainer says of a network that is not built in, on one line of standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ModelVerdict {
    /// It can be trained.
    Usable {
        /// Trained numbers in it.
        parameters: u64,
    },
    /// It cannot.
    Refused {
        /// What is wrong with it.
        message: String,
        /// What to do.
        remedy: String,
    },
}

impl ModelConfig {
    /// A built-in network with its default norm and first layers.
    pub fn built_in(name: ModelName, input_shape: [u32; 3], num_classes: u32) -> Self {
        Self {
            name,
            normalization: Normalization::Group,
            statistics: None,
            num_classes,
            input_shape,
            stem: name.is_resnet().then(|| Stem::of_pictures(input_shape)),
            torch_script: None,
        }
    }

    /// The same network with the path of its file, if it has one and that is relative, below `folder`.
    #[must_use]
    pub fn below(&self, folder: &Path) -> Self {
        let mut model = self.clone();
        if let Some(file) = &mut model.torch_script {
            file.path = folder.join(&file.path);
        }
        model
    }

    /// The same network without its file: what can be compared when that may lie elsewhere or is told apart by what it holds.
    #[must_use]
    pub fn without_file(&self) -> Self {
        Self { torch_script: None, ..self.clone() }
    }

    /// Values of one picture: channels × height × width.
    pub fn picture_values(&self) -> usize {
        self.input_shape.iter().map(|side| *side as usize).product()
    }
}

/// How the learning rate follows the global batch Σb, for a base batch B.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum LearningRateScaling {
    /// η.
    None,
    /// η·Σb/B (paper §IV).
    Linear,
    /// η·min(Σb/B, factor), with warm-up (Goyal et al. 2017, §2.2).
    Capped {
        /// The bound.
        factor: f64,
        /// Epochs over which what the factor has above 1 grows; 0: none.
        warm_up_epochs: f64,
    },
    /// η·gain, the gain following the measured noise of the gradients (Johnson et al. 2020, "AdaScale SGD").
    AdaScale,
}

impl LearningRateScaling {
    /// Whether it looks at each rank's own gradient, before they are summed.
    pub const fn reads_gradients(self) -> bool {
        matches!(self, Self::AdaScale)
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
    /// What a sample of each class counts in the loss; empty: all count the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_weights: Vec<f32>,
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
    /// When a stream is over.
    #[serde(default, skip_serializing_if = "StreamEnd::is_never")]
    pub end: StreamEnd,
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

impl StreamConfig {
    /// Samples of this size that the arena has room for, its bytes shared equally by the partitions.
    pub fn samples_that_fit(&self, sample_bytes: usize, partitions: u32) -> u64 {
        let partitions = u64::from(partitions.max(1));
        self.buffer_bytes / partitions / (sample_bytes as u64).max(1) * partitions
    }
}

/// Where a stream without checkpoint is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum StartFrom {
    /// The oldest record that the broker still has.
    Earliest,
    /// Only what arrives after the start.
    Latest,
    /// The first record that is as new as this.
    Timestamp {
        /// Milliseconds since the Unix epoch.
        unix_millis: i64,
    },
}

/// When a stream is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all_fields = "camelCase")]
pub enum StreamEnd {
    /// Never.
    #[default]
    Never,
    /// Behind the records that were there when the job first looked.
    OffsetsAtStart,
    /// When no record has come for a while.
    Idle {
        /// For so long, while the broker answers.
        seconds: f64,
    },
}

impl StreamEnd {
    /// Whether streams have no end.
    pub fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// When a step starts and how large a device's batch is (ARCHITECTURE.md, "Batch rules").
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
    /// Per channel, of values in [0, 1]; of tensors of f32, as they are.
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
    /// CR in (0, 1]; the least of them where the choice is free.
    pub ratio: f64,
    /// Whether the ranks choose, step by step, what is quickest for what it loses: dense, half precision, a ratio.
    #[serde(default)]
    pub is_free: bool,
    /// δ of the gate; `None` compresses every step.
    pub delta: Option<f64>,
    /// Whose energy the gate looks at.
    pub energy_of: EnergyOf,
}

/// Samples that devices share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionConfig {
    /// What becomes of a shared sample.
    pub mode: InjectionMode,
    /// How large batches are beside copies; `Grow` with `Move`, which makes none.
    pub batch: ReplicateBatch,
    /// α in (0, 1].
    pub donor_fraction: f64,
    /// β in (0, 1].
    pub shared_fraction: f64,
    /// Which of the devices that may share do so in a step.
    pub donors: DonorChoice,
    /// Per device, in the order of `devices`: whether its raw samples may leave it.
    pub may_share: Vec<bool>,
    /// Most bytes of samples that one device sends in a step; `None`: no bound.
    pub budget_bytes_per_step: Option<u64>,
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
    /// All streams are over and trained.
    StreamEnd,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_of_a_network_is_below_the_data_and_an_absolute_one_stays() {
        let path = |path: &str| {
            let file = TorchScriptConfig { path: path.into(), parameters: None };
            let own = ModelConfig::built_in(ModelName::TorchScript, [1, 8, 8], 10);
            let own = ModelConfig { torch_script: Some(file), ..own }.below(Path::new("/data"));
            own.torch_script.unwrap().path
        };
        assert_eq!(path("nets/own.pt"), Path::new("/data/nets/own.pt"));
        assert_eq!(path("/home/own.pt"), Path::new("/home/own.pt"));
    }
}
