//! How gradients are compressed.

use serde::{Deserialize, Serialize};

/// Whose energy the gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum EnergyOf {
    /// Of the gradient with what compression kept back before: what is really sent or not.
    Compensated,
    /// Of the gradient alone, as in the paper; always estimated from a sample.
    Gradient,
}
