//! Compression of gradients.

use scadles_api::{
    job::{CompressionMode, CompressionSpec, EnergyOf},
    worker::CompressionConfig,
};

use crate::mistake::{Allowed, Findings};

/// CR and δ that the paper ends with.
const DEFAULT_RATIO: f64 = 0.1;
/// The least CR of a free choice: below it accuracy suffers before time is saved.
const DEFAULT_LEAST_RATIO: f64 = 0.01;
const DEFAULT_DELTA: f64 = 0.3;

pub(super) fn compression(
    found: &mut Findings,
    given: Option<&CompressionSpec>,
) -> Option<CompressionConfig> {
    let given = given?;
    let is_free = given.mode == CompressionMode::Auto;
    let adaptive = is_free || given.mode == CompressionMode::Adaptive;
    for (name, is_given, belongs, modes) in [
        (
            "ratio",
            given.ratio.is_some(),
            given.mode != CompressionMode::None,
            "modes Static, Adaptive and Auto",
        ),
        ("delta", given.delta.is_some(), adaptive, "modes Adaptive and Auto"),
        ("energyOf", given.energy_of.is_some(), adaptive, "modes Adaptive and Auto"),
    ] {
        found.require(
            !is_given || belongs,
            &format!("spec.compression.{name}"),
            format!("with mode {:?}", given.mode),
            (&format!("belongs to the {modes}"), "leave it out, or choose such a mode"),
        );
    }
    if given.mode == CompressionMode::None {
        return None;
    }
    let default = if is_free { DEFAULT_LEAST_RATIO } else { DEFAULT_RATIO };
    let ratio = found.number("spec.compression.ratio", given.ratio, default, Allowed::PositiveShare);
    let delta = found.number("spec.compression.delta", given.delta, DEFAULT_DELTA, Allowed::PositiveShare);
    Some(CompressionConfig {
        ratio,
        is_free,
        delta: adaptive.then_some(delta),
        energy_of: given.energy_of.unwrap_or(EnergyOf::Compensated),
    })
}
