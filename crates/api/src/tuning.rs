//! Settings that may change while a job runs: what workers are told, and what came of it. Plain data.

use serde::{Deserialize, Serialize};

use crate::{
    units::is_positive_share,
    worker::{CompressionConfig, InjectionConfig, JobConfig},
};

/// Body of `POST /v1/tuning`: settings that hold from the next step on that all ranks agree on. Values are resolved, so
/// that a request may be repeated and one that is late changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tuning {
    /// Grows with every change: of two tunings the one of the greater generation holds. 0: as the job began.
    pub generation: u64,
    /// Compression; `None` leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionTuning>,
    /// Data injection; `None` leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionTuning>,
}

/// What may change of a [`CompressionConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CompressionTuning {
    /// CR in (0, 1]; the least of them where the choice is free.
    pub ratio: f64,
    /// Whether the ranks choose how gradients travel (`Auto`).
    pub is_free: bool,
    /// δ of the gate in (0, 1]; `None` compresses every step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
}

/// What may change of an [`InjectionConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct InjectionTuning {
    /// α in (0, 1].
    pub donor_fraction: f64,
    /// β in (0, 1].
    pub shared_fraction: f64,
}

/// A tuning that all ranks have switched to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tuned {
    /// The first step that it held for.
    pub step: u64,
    /// The settings.
    pub tuning: Tuning,
}

impl From<&CompressionConfig> for CompressionTuning {
    fn from(config: &CompressionConfig) -> Self {
        Self { ratio: config.ratio, is_free: config.is_free, delta: config.delta }
    }
}

impl From<&InjectionConfig> for InjectionTuning {
    fn from(config: &InjectionConfig) -> Self {
        Self { donor_fraction: config.donor_fraction, shared_fraction: config.shared_fraction }
    }
}

impl Tuning {
    /// The settings that a job begins with.
    pub fn of(job: &JobConfig) -> Self {
        Self {
            generation: 0,
            compression: job.compression.as_ref().map(Into::into),
            injection: job.injection.as_ref().map(Into::into),
        }
    }

    /// Whether both say the same, whichever came first.
    pub fn has_settings_of(&self, other: &Self) -> bool {
        (self.compression, self.injection) == (other.compression, other.injection)
    }

    /// The settings that hold when this tuning follows upon `before`.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self {
            compression: self.compression.or(before.compression),
            injection: self.injection.or(before.injection),
            ..self
        }
    }

    /// The job with these settings; what it has not stays away.
    pub fn applied_to(&self, job: &JobConfig) -> JobConfig {
        let mut job = job.clone();
        if let (Some(config), Some(tuned)) = (&mut job.compression, self.compression) {
            let CompressionTuning { ratio, is_free, delta } = tuned;
            *config = CompressionConfig { ratio, is_free, delta, ..*config };
        }
        if let (Some(config), Some(tuned)) = (&mut job.injection, self.injection) {
            config.donor_fraction = tuned.donor_fraction;
            config.shared_fraction = tuned.shared_fraction;
        }
        job
    }

    /// Refuses, in words, what a job that began with `began` cannot be tuned to.
    pub fn check(&self, began: &Self) -> Result<(), String> {
        for (name, given, has) in [
            ("compression", self.compression.is_some(), began.compression.is_some()),
            ("injection", self.injection.is_some(), began.injection.is_some()),
        ] {
            if given && !has {
                return Err(format!(
                    "{name}: the job began without it; it cannot be switched on while it runs"
                ));
            }
        }
        let compression = self.compression.map(|it| [("ratio", Some(it.ratio)), ("delta", it.delta)]);
        let injection = self.injection.map(|it| {
            [("donorFraction", Some(it.donor_fraction)), ("sharedFraction", Some(it.shared_fraction))]
        });
        for (name, value) in compression.into_iter().chain(injection).flatten() {
            if let Some(value) = value.filter(|value| !is_positive_share(*value)) {
                return Err(format!("{name} = {value}: allowed is a number above 0, at most 1"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(ratio: f64, delta: Option<f64>) -> Tuning {
        let compression = Some(CompressionTuning { ratio, is_free: false, delta });
        Tuning { generation: 1, compression, injection: None }
    }

    #[test]
    fn what_a_job_does_not_have_or_no_share_is_refused_with_its_name() {
        let began = compressed(0.1, Some(0.3));
        assert_eq!(compressed(0.05, None).check(&began), Ok(()));
        assert_eq!(compressed(1.0, Some(1.0)).check(&began), Ok(()));
        for (tuning, word) in [
            (compressed(0.0, None), "ratio = 0"),
            (compressed(1.5, None), "ratio = 1.5"),
            (compressed(f64::NAN, None), "ratio = NaN"),
            (compressed(0.1, Some(-1.0)), "delta = -1"),
        ] {
            assert!(tuning.check(&began).unwrap_err().starts_with(word), "{tuning:?}");
        }
        let injection = Some(InjectionTuning { donor_fraction: 0.5, shared_fraction: 0.5 });
        let other = Tuning { injection, ..began };
        assert!(other.check(&began).unwrap_err().starts_with("injection: the job began without it"));
        let none = Tuning {
            injection: Some(InjectionTuning { donor_fraction: 0.5, shared_fraction: 0.0 }),
            ..other
        };
        assert!(none.check(&other).unwrap_err().starts_with("sharedFraction = 0"));
    }

    #[test]
    fn what_a_tuning_leaves_open_stays_as_it_is() {
        let injection = Some(InjectionTuning { donor_fraction: 0.5, shared_fraction: 0.25 });
        let before = Tuning { injection, ..compressed(0.1, None) };
        let after = Tuning { generation: 2, ..compressed(0.05, Some(0.2)) }.after(&before);
        assert_eq!(after, Tuning { generation: 2, injection, ..compressed(0.05, Some(0.2)) });
    }
}
