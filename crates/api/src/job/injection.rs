//! How devices share samples.

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;
use crate::units::ByteSize;

/// What becomes of a shared sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum InjectionMode {
    /// Its device gives it away and does not train it; one other device trains it.
    Move,
    /// Its device keeps it, and every other device trains a copy (the paper's).
    Replicate,
}

/// How large batches are beside copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum ReplicateBatch {
    /// Copies come on top (the paper's).
    Grow,
    /// Devices take fewer samples from their streams, so that with copies batches are about as large as without (SelSync's).
    Shrink,
}

/// Which of the devices that may share do so in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum DonorChoice {
    /// All of them alike, drawn anew in each step (the paper's).
    Random,
    /// Drawn anew as well, more often those whose batches hold labels that the other batches lack.
    LabelDeficit,
}

/// Which devices may give raw samples away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum OptIn {
    /// Every device of the job.
    All,
    /// Those with `shareData: true` in `spec.devices.named`.
    Named,
}

/// Data injection: in each step some devices share a part of their batches with others, as the samples are (paper §IV).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::REPLICATE_OF_REPLICATE))]
#[serde(rename_all = "camelCase")]
pub struct InjectionSpec {
    /// What becomes of a shared sample.
    pub mode: InjectionMode,
    /// α: share of the devices that are donors in a step, rounded up. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub donor_fraction: Option<f64>,
    /// β: share of its batch that a donor shares, rounded down. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_fraction: Option<f64>,
    /// Which devices may be donors: their raw samples leave them. Default `Named`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_in: Option<OptIn>,
    /// Which of these are donors in a step. Default `Random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub donors: Option<DonorChoice>,
    /// Most bytes of samples that one device sends in a step, every copy counted. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_bytes_per_step: Option<ByteSize>,
    /// `Replicate` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicate: Option<ReplicateSpec>,
}

/// Settings of the mode `Replicate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicateSpec {
    /// How large batches are beside copies. Default `Grow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<ReplicateBatch>,
}
