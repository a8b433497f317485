//! Data sets, and the streams that are simulated from them.

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;

/// Data sets that can be sent and evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum DatasetName {
    /// 50,000 + 10,000 colour pictures of 32×32, 10 classes.
    Cifar10,
    /// 50,000 + 10,000 colour pictures of 32×32, 100 classes.
    Cifar100,
    /// 60,000 + 10,000 grey pictures of 28×28, 10 classes.
    FashionMnist,
    /// Your own records, as described by `files`.
    Files,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::FILES_OF_FILES))]
#[serde(rename_all = "camelCase")]
pub struct DatasetSpec {
    /// Which.
    pub name: DatasetName,
    /// `Files` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesSpec>,
}

/// Own records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FilesSpec {
    /// A file of records, one after another without separators: as the formats `CifarBinary` and `Cifar100` have them; for
    /// `Image` and `Tensor` a label byte (two, little-endian, with more than 256 classes) and the plain values.
    pub path: String,
}

/// How a data set is spread over the devices (paper §II-B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum PartitionName {
    /// Evenly at random.
    Iid,
    /// Every device gets only a few labels.
    LabelSkew,
}

/// Simulated streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::SKEW_OF_LABEL_SKEW))]
#[serde(rename_all = "camelCase")]
pub struct ProducerSpec {
    /// What is sent.
    pub dataset: DatasetSpec,
    /// How fast, per device, in samples per second.
    pub rates: RatesSpec,
    /// Default `Iid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionName>,
    /// `LabelSkew` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_skew: Option<LabelSkewSpec>,
}

/// Settings of the partition `LabelSkew`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LabelSkewSpec {
    /// Labels per device. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_per_device: Option<u32>,
}

/// Stream rates in samples per second: exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::ONE_KIND_OF_RATES))]
#[serde(rename_all = "camelCase")]
pub struct RatesSpec {
    /// One rate per device, each above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<Vec<f64>>,
    /// The same rate for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<f64>,
    /// Drawn evenly, with this mean and standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<DistributionSpec>,
    /// Drawn normally, with this mean and standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normal: Option<DistributionSpec>,
}

/// Mean and standard deviation of drawn rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DistributionSpec {
    /// Samples per second, above 0.
    pub mean: f64,
    /// Samples per second, 0 or more.
    pub standard_deviation: f64,
}
