//! `report.json`: the documented, stable result of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ExitCode, Tuned,
    job::{InjectionMode, ScadlesJob},
    progress::Evaluation,
};

/// Version of the report's format; grows when a field changes its meaning.
pub const REPORT_VERSION: u32 = 1;

/// The result of a run, written at its end however it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// How it ended.
    pub outcome: ExitCode,
    /// The end in one sentence.
    pub message: String,
    /// The job as given.
    pub job: ScadlesJob,
    /// Unique id of the run, part of its checkpoints' path.
    pub job_uid: String,
    /// scadles, torch, CPU kind.
    pub versions: BTreeMap<String, String>,
    /// Embedded, or the bootstrap servers.
    pub broker: String,
    /// Steps committed, along the surviving history.
    pub steps: u64,
    /// Samples trained, along the surviving history.
    pub samples: u64,
    /// Wall-clock seconds from the first step of attempt 1 to the end, evaluations left out.
    pub seconds: f64,
    /// Seconds from the command's start to the first step.
    pub start_seconds: f64,
    /// Compression of gradients, in jobs that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSummary>,
    /// Shared samples, in jobs that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionSummary>,
    /// Settings of compression and injection that changed while the job ran, those that it began with first; empty if none
    /// did. They, and not `job`, say what held from which step on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunings: Vec<Tuned>,
    /// Per device.
    pub devices: Vec<DeviceReport>,
    /// Evaluations in order, by time and by samples.
    pub accuracy: Vec<Evaluation>,
    /// Hash of the parameters per rank; all equal.
    pub parameter_hashes: Vec<String>,
    /// Lives of the group.
    pub attempts: Vec<AttemptReport>,
    /// What a conventional job (`Fixed`, 64 samples) would have trained in the same time.
    pub conventional: Option<Conventional>,
}

/// What compression did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressionSummary {
    /// CR, the share of the elements that a sparse step sends; their mean where steps differ.
    pub ratio: f64,
    /// Steps that sent only the largest elements.
    pub sparse_steps: u64,
    /// Steps that sent all elements in half precision.
    #[serde(default)]
    pub half_steps: u64,
    /// Steps that sent all because the gate was closed.
    pub vetoed_steps: u64,
    /// sparse steps / all steps (the paper's CNC ratio).
    pub cnc: f64,
    /// Bytes handed to the collectives by all workers, indices and headers included.
    pub bytes_sent: u64,
    /// Bytes that the same steps would have handed over without compression.
    pub dense_bytes: u64,
}

/// What data injection did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionSummary {
    /// What became of a shared sample.
    pub mode: InjectionMode,
    /// Samples shared, each counted once.
    pub shared_samples: u64,
    /// Bytes of samples that all workers together sent, every copy counted.
    pub bytes_sent: u64,
    /// The same by the paper's accounting: 3 KB a sample, once.
    pub paper_bytes: u64,
}

/// One device's columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Device name.
    pub name: String,
    /// Records that reached its stream.
    pub arrived: u64,
    /// Samples whose step committed.
    pub trained: u64,
    /// Samples that still wait.
    pub buffered: u64,
    /// Samples given up by the stream policy.
    pub dropped: u64,
    /// Undecodable records.
    pub rejected: u64,
    /// Records that retention removed unread.
    pub lost: u64,
    /// Samples trained by steps that a restart rolled back.
    pub rolled_back: u64,
    /// Samples given or copied to other devices, each counted once.
    #[serde(default)]
    pub shared_out: u64,
    /// Samples of other devices that this one trained.
    #[serde(default)]
    pub received: u64,
    /// Samples per second, measured over the run; arrived / seconds where it was too short to measure.
    pub rate_mean: f64,
    /// Samples per second that the producer was asked for, if any.
    pub rate_asked: Option<f64>,
    /// Mean batch over the steps.
    pub batch_mean: f64,
    /// Mean weight over the steps.
    pub weight_mean: f64,
    /// Bytes handed to the collectives.
    pub bytes_sent: u64,
    /// Seconds of waiting.
    pub wait_seconds: f64,
    /// Test-then-train Top-1 over the latest samples.
    pub prequential_accuracy: Option<f64>,
}

/// One life of the group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    /// From 1.
    pub number: u32,
    /// Step that it started from.
    pub from_step: u64,
    /// Last step that it committed.
    pub to_step: u64,
    /// Why it ended, in the supervisor's words.
    pub ended: String,
    /// Device that was the first cause, if one was.
    pub first_cause: Option<String>,
}

/// What the conventional rule would have done on the same streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conventional {
    /// Samples per device and step.
    pub batch: u32,
    /// size / slowest rate, seconds: what a step waits at least.
    pub step_seconds: f64,
    /// Steps in the time of this run.
    pub steps: u64,
    /// Samples in the time of this run.
    pub samples: u64,
}
