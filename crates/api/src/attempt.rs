//! What a supervisor sends to workers: one life of the group, and requests within it.

use serde::{Deserialize, Serialize};

use crate::Tuning;

/// Body of `POST /v1/attempt`: everything a worker needs to join one life of the group. Repeated by the supervisor until
/// `/v1/progress` shows the number; a worker that already runs it answers 200 and changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Number of the attempt, from 1.
    pub number: u32,
    /// Device names in the order of ranks.
    pub devices: Vec<String>,
    /// Rank of the worker that is addressed.
    pub rank: usize,
    /// `host:port` of rank 0's control hub.
    pub hub: String,
    /// Checkpoint to load; `None` only for an attempt that starts from nothing and writes checkpoint 0.
    pub checkpoint: Option<CheckpointRef>,
    /// Settings that have changed since the job began, or none.
    pub tuning: Tuning,
}

/// A durable checkpoint by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRef {
    /// Unique id of the job whose checkpoint it is.
    pub job_uid: String,
    /// Name below the job's folder, see [`crate::names::checkpoint`].
    pub name: String,
    /// Step after which it was taken.
    pub step: u64,
    /// The records of the streams are gone (an embedded broker died with its runner): keep the model, start the streams
    /// anew from where they begin now.
    pub restart_streams: bool,
}

/// Body of `POST /v1/stop`: stop all ranks at one agreed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopRequest {
    /// Write a checkpoint at that step.
    pub checkpoint: bool,
}

/// The one line that a worker prints on stdout when its endpoint is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listening {
    /// `host:port` of the endpoint (`/v1/…`, `/metrics`).
    pub endpoint: String,
    /// `host:port` of the control hub that is used if this worker becomes rank 0.
    pub hub: String,
}
