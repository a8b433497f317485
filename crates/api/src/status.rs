//! The status of a ScadlesJob: what `kubectl get` and `kubectl describe` show. Plain data.
//!
//! Three classes of fields, written at different paces: *state* (conditions, attempt, failures) at once, *levels* (rates,
//! batches, lag) in two significant digits and rarely, *counters* (step, samples) with the others or the heartbeat. Times,
//! never ages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BufferState, CheckpointRef, Ledger, Tuned};

/// Most devices with a row of their own; counts by state cover all.
pub const MOST_DEVICE_ROWS: usize = 64;
/// Failures that are kept.
pub const MOST_FAILURES: usize = 5;

/// What is known of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ScadlesJobStatus {
    /// Generation of the object that this status was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the job stands, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// The same in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The usual conditions, always all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Number of the latest life of the group; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Restarts that count towards `spec.runPolicy.maxRestarts`.
    #[serde(default)]
    pub restarts: u32,
    /// Workers that are ready, of all: `3/4`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// Steps committed along the surviving history of the model.
    #[serde(default)]
    pub step: u64,
    /// Samples trained along it.
    #[serde(default)]
    pub samples: u64,
    /// Passes over `spec.training.epochSamples`.
    #[serde(default)]
    pub epoch: f64,
    /// All devices.
    #[serde(default)]
    pub samples_per_second: f64,
    /// Weighted mean loss of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Samples that wait, of all devices: in the workers and at the broker.
    #[serde(default)]
    pub lag: u64,
    /// Devices whose stream the group waits for.
    #[serde(default)]
    pub starved: u32,
    /// What became of every sample, of all devices, restarts included:
    /// arrived = trained + buffered + dropped + rejected + lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// Last durable checkpoint: what the next attempt loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// Settings of compression and injection that all ranks run on, and the first step that they held for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuned>,
    /// Latest evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationStatus>,
    /// The devices that need a look first, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceStatus>,
    /// Number of devices by state of their buffer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_counts: BTreeMap<String, u32>,
    /// The last five failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailureStatus>,
    /// What came out of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultStatus>,
    /// What was resolved when the attempt was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedStatus>,
    /// When the first attempt was decided, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When the job ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// When the counters were last written, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<String>,
    /// The supervisor's own memory: JSON, not meant to be read or edited by others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervision: Option<String>,
}

impl ScadlesJobStatus {
    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum JobState {
    /// The job itself is wrong: only an edit helps.
    Invalid,
    /// For brokers, topics, Secrets or claims.
    Waiting,
    /// Pods come up.
    Starting,
    /// Training.
    Running,
    /// A worker was lost; the group starts anew.
    Restarting,
    /// On its way to a checkpoint.
    Stopping,
    /// Stopped on request, its last checkpoint kept.
    Suspended,
    /// Its completion rule was met.
    Complete,
    /// It has ended for another reason.
    Failed,
}

/// A condition, as everywhere in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name, such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A word from a closed list.
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// Generation of the object that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
}

/// One device's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Device name.
    pub name: String,
    /// State of its buffer.
    pub state: BufferState,
    /// Samples that wait for it.
    pub lag: u64,
    /// Arriving samples per second.
    pub rate: f64,
    /// Samples in the last step.
    pub batch: u32,
    /// Weight in the last step.
    pub weight: f64,
    /// Samples given up by the stream policy.
    pub dropped: u64,
    /// Records that retention removed unread.
    pub lost: u64,
    /// Records that could not be decoded.
    pub rejected: u64,
    /// When a sample last arrived, RFC 3339; absent while the stream flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<String>,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// Number of the attempt.
    pub attempt: u32,
    /// Device that was the first cause, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Node of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Exit code of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What happened.
    pub message: String,
    /// When it was seen, RFC 3339.
    pub at: String,
}

/// Accuracy on held-out samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EvaluationStatus {
    /// After this step.
    pub step: u64,
    /// Pictures looked at.
    pub pictures: u64,
    /// Top-1 in per cent.
    pub top1_percent: f64,
}

/// What came out of a complete job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResultStatus {
    /// Where the model is: `claim://NAME/PATH` or `s3://BUCKET/PATH`.
    pub uri: String,
    /// Of model.safetensors, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Hash of the parameters, the same on all ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_hash: Option<String>,
    /// Top-1 in per cent over the whole held-out set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_percent: Option<f64>,
}

/// Values that stay as they were when the attempt was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResolvedStatus {
    /// Image of the trainers.
    pub image: String,
    /// Hash over the fields of the spec whose change asks for a new attempt.
    pub spec_hash: String,
    /// What carries the workers' sums, and why: `Nccl: spec.devices.template asks for …`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend: String,
}
