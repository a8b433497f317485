//! What a checkpoint says about itself. Plain data.

use scadles_api::progress::Evaluation;
use scadles_api::{CheckpointRef, Tuned, names};
use scadles_core::compress::{compressor::CompressorState, gate::CompressionState};
use scadles_core::learning_rate::LearningRateState;
use serde::{Deserialize, Serialize};

use crate::source::StreamCheckpoint;

/// Content of `manifest.json`: everything a new attempt needs beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`scadles_api::PROTOCOL_VERSION`] of who wrote it.
    pub protocol: u32,
    /// Unique id of the job.
    pub job_uid: String,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// Step after which it was taken.
    pub step: u64,
    /// Samples trained by all devices since the job began.
    pub samples: u64,
    /// samples / epoch_samples.
    pub epoch: f64,
    /// Seed of the model's first parameters.
    pub learner_seed: u64,
    /// Agreed window T in seconds; 0 for rules without one.
    pub window_seconds: f64,
    /// Seconds of training since the job began, evaluations left out.
    pub train_seconds: f64,
    /// What the ranks know about compression.
    #[serde(default)]
    pub compression: CompressionState,
    /// What the ranks know about the learning rate.
    #[serde(default)]
    pub learning_rate: LearningRateState,
    /// Settings so far, as [`scadles_api::Progress::tunings`] lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunings: Vec<Tuned>,
    /// Hash of the parameters, hexadecimal: checked after loading.
    pub parameter_hash: String,
    /// Hash of the running statistics that all ranks had agreed on; nothing for networks without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_hash: Option<String>,
    /// Name of the journal segment that continues from here.
    pub journal_segment: String,
    /// Per device, in the order of ranks.
    pub devices: Vec<DeviceState>,
    /// Evaluations so far, in order.
    pub evaluations: Vec<Evaluation>,
    /// The other files of the checkpoint; filled in by the store.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Name of the checkpoint below the job's folder.
    pub fn name(&self) -> String {
        names::checkpoint(self.attempt, self.step)
    }

    /// The reference by which an attempt is told to load this checkpoint.
    pub fn reference(&self) -> CheckpointRef {
        CheckpointRef {
            job_uid: self.job_uid.clone(),
            name: self.name(),
            step: self.step,
            restart_streams: false,
        }
    }
}

/// One device's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    /// Device name.
    pub name: String,
    /// Next untrained offsets and the ledger's counters.
    pub stream: StreamCheckpoint,
    /// Sums since the job began.
    pub totals: DeviceTotals,
    /// What its residual means nothing without; only beside a file of residuals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressor: Option<CompressorState>,
}

/// Sums of one device since the job began: report and progress go on counting from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTotals {
    /// Σ of local batches.
    pub local_batches: u64,
    /// Σ of aggregation weights.
    pub aggregation_weights: f64,
    /// Bytes of gradients handed to the collectives.
    pub bytes_sent: u64,
    /// Bytes that the same steps would have handed over without compression; 0 in jobs without it.
    #[serde(default)]
    pub dense_bytes: u64,
    /// Samples given or copied to other devices, each counted once.
    #[serde(default)]
    pub shared_out: u64,
    /// Samples of other devices that were trained.
    #[serde(default)]
    pub received: u64,
    /// Bytes of samples handed to the collectives, every copy counted.
    #[serde(default)]
    pub sample_bytes_sent: u64,
    /// Seconds of waiting for samples or for others.
    pub wait_seconds: f64,
    /// Seconds of compute, exchange and update.
    pub busy_seconds: f64,
}

/// One file beside the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Name within the checkpoint's folder.
    pub name: String,
    /// Length.
    pub bytes: u64,
}
