//! How gradients are compressed.

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;

/// When gradients are compressed (paper §IV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum CompressionMode {
    /// Never: every step sends all of the gradient.
    None,
    /// In every step.
    Static,
    /// In the steps whose expected energy loss is at most `delta` (the paper's).
    Adaptive,
    /// Whatever brings gradients across soonest for what it loses: dense, in half precision, or a share of the elements
    /// that the gate lets through, decided in every step by what was measured. Never slower than dense.
    Auto,
}

/// Whose energy the gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum EnergyOf {
    /// Of the gradient with what compression kept back before: what is really sent or not.
    Compensated,
    /// Of the gradient alone, as in the paper; always estimated from a sample.
    Gradient,
}

/// Top-k compression of gradients with error feedback: what is not sent is added to the next step's gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::RATIO_OF_COMPRESSION, validation = rules::DELTA_OF_ADAPTIVE, validation = rules::ENERGY_OF_ADAPTIVE))]
#[serde(rename_all = "camelCase")]
pub struct CompressionSpec {
    /// When gradients are compressed.
    pub mode: CompressionMode,
    /// CR: share of the elements that a compressed step sends; with `Auto` the least share. Default 0.1, with `Auto` 0.01.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// δ: the largest share of the energy that a compressed step of `Adaptive` or `Auto` may leave behind. Default 0.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Whose energy `delta` is about, with `Adaptive` and `Auto`. Default `Compensated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_of: Option<EnergyOf>,
}
