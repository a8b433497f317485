//! What a worker tells about itself: `GET /v1/progress`. Counters only grow within an attempt.

use serde::{Deserialize, Serialize};

use crate::{CheckpointRef, ExitCode, Ledger, PartitionPosition, Tuned, job::InjectionMode};

/// Where a worker stands within an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Endpoint open, no attempt yet.
    Idle,
    /// Loading, connecting to the hub, building the group.
    Forming,
    /// Taking steps.
    Training,
    /// Final evaluation and results.
    Finishing,
    /// Done; `last_words` tell how.
    Ended,
}

/// State of a device's stream buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum BufferState {
    /// Not enough seen yet.
    #[default]
    Unknown,
    /// The step waits for this stream.
    Starved,
    /// Arrivals and training are in balance.
    Healthy,
    /// More arrives than is trained.
    Backlogged,
    /// The arena is full and the backlog grows.
    Overflowing,
}

/// Answer of `GET /v1/progress`. Rank 0 has one entry per device, all of the same step; other ranks only their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The worker's device.
    pub device: String,
    /// Attempt that the worker runs; 0 = none yet.
    pub attempt: u32,
    /// Rank in it.
    pub rank: usize,
    /// Where the worker stands.
    pub phase: Phase,
    /// Steps committed since the job began (rolled-back ones not counted).
    pub step: u64,
    /// Samples trained by all devices since the job began.
    pub samples: u64,
    /// samples / epoch_samples.
    pub epoch: f64,
    /// Weighted mean loss of the last step.
    pub loss: Option<f64>,
    /// Rate η_t of the last step.
    pub learning_rate: f64,
    /// Agreed window T in seconds; 0 for rules without one.
    pub window_seconds: f64,
    /// Duration of the last step, commit to commit, in seconds.
    pub step_seconds: f64,
    /// All devices, averaged over the last seconds.
    pub samples_per_second: f64,
    /// Seconds of training since the job began, along the surviving history; evaluation left out.
    pub train_seconds: f64,
    /// Compression so far, in jobs that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionProgress>,
    /// Shared samples so far, in jobs that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionProgress>,
    /// Settings of compression and injection along the surviving history, in jobs that have one of them: those that the
    /// job began with, then those that it was tuned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunings: Vec<Tuned>,
    /// Latest evaluation, if any.
    pub evaluation: Option<Evaluation>,
    /// Last durable checkpoint.
    pub checkpoint: Option<CheckpointRef>,
    /// Next untrained offsets in that checkpoint, per device: what a restart must still find at the broker.
    pub durable_positions: Vec<Vec<PartitionPosition>>,
    /// Per device.
    pub devices: Vec<DeviceProgress>,
    /// How the attempt ended, once it has.
    pub last_words: Option<LastWords>,
}

/// One device in a [`Progress`] or a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProgress {
    /// Device name.
    pub name: String,
    /// Account of its samples.
    pub ledger: Ledger,
    /// Measured from end offsets, samples per second.
    pub stream_rate: f64,
    /// b_i of the last step: what it took from the device's own stream.
    pub local_batch: u32,
    /// Weight in the last step.
    pub aggregation_weight: f64,
    /// Samples in the worker's arena.
    pub buffered_local: u64,
    /// Age of the oldest waiting sample, seconds.
    pub oldest_seconds: f64,
    /// State of the buffer.
    pub state: BufferState,
    /// Seconds since the stream last grew; 0 once it is over (`spec.stream.end`).
    pub silent_seconds: f64,
    /// Test-then-train Top-1 over the latest samples.
    pub prequential_accuracy: Option<f64>,
    /// Bytes handed to the collectives, since the job began.
    pub bytes_sent: u64,
    /// Bytes that the same steps would have handed over without compression; 0 in jobs without it.
    #[serde(default)]
    pub dense_bytes: u64,
    /// Bytes of samples handed to the collectives for other devices, every copy counted, since the job began.
    #[serde(default)]
    pub sample_bytes_sent: u64,
    /// Seconds spent waiting for samples or for others, since the job began.
    pub wait_seconds: f64,
    /// Seconds of compute, exchange and update, since the job began.
    pub busy_seconds: f64,
    /// Position per partition.
    pub positions: Vec<PartitionPosition>,
}

/// Compression since the job began, along the surviving history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressionProgress {
    /// CR, the share of the elements that a sparse step sends; their mean where steps differ.
    pub ratio: f64,
    /// Steps that sent only the largest elements.
    pub sparse_steps: u64,
    /// Steps that sent all elements in half precision.
    #[serde(default)]
    pub half_steps: u64,
    /// Steps that sent all because ℓ was above δ.
    pub vetoed_steps: u64,
    /// Mean energy loss ℓ that the gate looks at, in [0, 1], at the largest of the job's ratios; `None` before the first
    /// step.
    pub energy_loss: Option<f64>,
}

/// Shared samples since the job began, along the surviving history; devices' shares are in their rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionProgress {
    /// What becomes of a shared sample.
    pub mode: InjectionMode,
    /// Samples shared, each counted once.
    pub shared_samples: u64,
    /// Bytes of samples that all devices together sent, every copy counted.
    pub bytes_sent: u64,
}

/// Bytes that the paper counts per shared sample, once for all its copies (3 KB, §V-F): for comparison with its figures.
const PAPER_BYTES_PER_SAMPLE: u64 = 3 * 1024;

impl InjectionProgress {
    /// What the paper's accounting makes of it: 3 KB a sample, once.
    pub const fn paper_bytes(&self) -> u64 {
        self.shared_samples * PAPER_BYTES_PER_SAMPLE
    }
}

/// Result of an evaluation over the held-out set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// After this step.
    pub step: u64,
    /// Samples trained by then.
    pub samples_trained: u64,
    /// Seconds since the job began.
    pub seconds: f64,
    /// Pictures looked at.
    pub pictures: u64,
    /// Mean loss.
    pub loss: f64,
    /// Share of right guesses per k, in the order of `evaluation.topK`.
    pub top_k: Vec<TopK>,
    /// Top-1 share per class.
    pub per_class: Vec<f64>,
}

impl Evaluation {
    /// Top-1 share.
    pub fn top_1(&self) -> Option<f64> {
        self.top_k.iter().find(|entry| entry.accuracy_k == 1).map(|entry| entry.share)
    }
}

/// Share of samples whose label was among the k best guesses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopK {
    /// k.
    pub accuracy_k: u32,
    /// Share in [0, 1].
    pub share: f64,
}

/// A worker's final summary: the answer of `/v1/progress`, a line on stdout, and the pod's termination message (at most
/// 4 KiB): all that a supervisor needs to know that it did not see itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastWords {
    /// The exit code that follows.
    pub code: ExitCode,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
    /// Last committed step.
    pub step: u64,
    /// Samples trained by all devices.
    pub samples: u64,
    /// Hash of the parameters, the same on all ranks; hexadecimal.
    pub parameter_hash: Option<String>,
    /// Checkpoint written at the end, if any.
    pub checkpoint: Option<CheckpointRef>,
    /// Latest evaluation (rank 0).
    pub accuracy: Option<Accuracy>,
    /// Account of all devices together (rank 0).
    pub ledger: Option<Ledger>,
    /// SHA-256 of the `model.safetensors` that was written, hexadecimal (rank 0).
    pub model_sha256: Option<String>,
}

impl LastWords {
    /// How a worker ended of which nothing else is known.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: String::new(),
            step: 0,
            samples: 0,
            parameter_hash: None,
            checkpoint: None,
            accuracy: None,
            ledger: None,
            model_sha256: None,
        }
    }
}

/// What `scadles-trainer simulate` prints of a job that it has trained on the virtual clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRun {
    /// As rank 0 of a live run would tell it; with last words.
    pub progress: Progress,
    /// All evaluations, the last one included.
    pub accuracy: Vec<Evaluation>,
}

/// What matters of an [`Evaluation`] when all is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accuracy {
    /// After this step.
    pub step: u64,
    /// Pictures looked at.
    pub pictures: u64,
    /// Share of right guesses per k, in the order of `evaluation.topK`.
    pub top_k: Vec<TopK>,
}

impl From<&Evaluation> for Accuracy {
    fn from(evaluation: &Evaluation) -> Self {
        Self { step: evaluation.step, pictures: evaluation.pictures, top_k: evaluation.top_k.clone() }
    }
}
