//! What records look like, and where a stream begins and ends.

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;

/// Layout of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum RecordFormatName {
    /// One label byte, then channels × height × width bytes (3,073 for CIFAR-10, 785 for Fashion-MNIST).
    CifarBinary,
    /// A coarse label byte, a fine label byte, which is the one that counts, then channels × height × width bytes (3,074 for
    /// CIFAR-100).
    Cifar100,
    /// A PNG or JPEG file; the label is a decimal number in the record's header `label`.
    Image,
    /// Channels × height × width plain numbers, little-endian; the label is a decimal number in the record's header `label`.
    Tensor,
}

/// Settings of the format `Image`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Default `Exact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<ImageFit>,
}

/// What happens to pictures of another size than `spec.model.inputShape`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum ImageFit {
    /// They are rejected.
    Exact,
    /// They are scaled to that size, whatever their proportions.
    Stretch,
    /// They are scaled until that size is covered, and cut to its middle.
    Crop,
}

/// Settings of the format `Tensor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TensorSpec {
    /// Default `U8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<ValueType>,
}

/// Type of a sample's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum ValueType {
    /// A byte; `spec.stream.transform` sees it as a number from 0 to 1.
    U8,
    /// Four bytes; `spec.stream.transform` sees the number as it is.
    F32,
}

/// Where a stream is read from when there is no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum StartFromName {
    /// The oldest record that the broker still has.
    Earliest,
    /// Only what arrives after the start.
    Latest,
    /// The first record that is as new as `timestamp`, by the records' own times.
    Timestamp,
}

/// When a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum StreamEndName {
    /// Never.
    Never,
    /// Behind the records that were there when the job first looked.
    OffsetsAtStart,
    /// When no record has come for a while.
    Idle,
}

/// When streams are over. What an ended stream still holds is trained, whatever `spec.stream.batch` wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::IDLE_OF_IDLE))]
#[serde(rename_all = "camelCase")]
pub struct StreamEndSpec {
    /// Which rule.
    pub rule: StreamEndName,
    /// `Idle` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleSpec>,
}

/// Settings of the end `Idle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IdleSpec {
    /// Seconds without a new record, while the broker answers. Default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}
