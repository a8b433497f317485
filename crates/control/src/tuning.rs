//! Changes of a running job's compression and injection: whether they are possible, and how to tell of them. No I/O.

use std::fmt;

use scadles_api::{ScadlesJob, Tuning, job::CompressionMode, tuning::CompressionTuning};
use serde::{Deserialize, Serialize};

use crate::{
    mistake::{Findings, Mistakes},
    validate::{ValidatedJob, validate},
};

/// What is asked to be another than the job file says, in the fields of the job; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Changes {
    /// `spec.compression.mode`; not `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CompressionMode>,
    /// `spec.compression.ratio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// `spec.compression.delta`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// `spec.injection.donorFraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub donor_fraction: Option<f64>,
    /// `spec.injection.sharedFraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_fraction: Option<f64>,
}

impl Changes {
    /// Both, the later ones where they speak of the same.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        // A bound belongs to the modes with a gate: one that was given for them does not outlive them.
        let delta = if later.mode == Some(CompressionMode::Static) { None } else { self.delta };
        Self {
            mode: later.mode.or(self.mode),
            ratio: later.ratio.or(self.ratio),
            delta: later.delta.or(delta),
            donor_fraction: later.donor_fraction.or(self.donor_fraction),
            shared_fraction: later.shared_fraction.or(self.shared_fraction),
        }
    }

    fn of_compression(&self) -> bool {
        self.mode.is_some() || self.ratio.is_some() || self.delta.is_some()
    }

    fn of_injection(&self) -> bool {
        self.donor_fraction.is_some() || self.shared_fraction.is_some()
    }
}

/// The job with `changes`, checked as its file is checked; or all mistakes.
pub fn tuned(job: &ScadlesJob, changes: &Changes) -> Result<ValidatedJob, Mistakes> {
    let mut found = Findings::default();
    check_parts(&mut found, job, changes);
    found.into_result(())?;
    let mut job = job.clone();
    if let Some(compression) = &mut job.spec.compression {
        if changes.mode == Some(CompressionMode::Static) {
            (compression.delta, compression.energy_of) = (None, None);
        }
        compression.mode = changes.mode.unwrap_or(compression.mode);
        compression.ratio = changes.ratio.or(compression.ratio);
        compression.delta = changes.delta.or(compression.delta);
    }
    if let Some(injection) = &mut job.spec.injection {
        injection.donor_fraction = changes.donor_fraction.or(injection.donor_fraction);
        injection.shared_fraction = changes.shared_fraction.or(injection.shared_fraction);
    }
    validate(&job)
}

/// What a running group has, or has not, cannot be changed: residuals, and consent to share samples.
fn check_parts(found: &mut Findings, job: &ScadlesJob, changes: &Changes) {
    let compression = job.spec.compression.as_ref().map_or(CompressionMode::None, |it| it.mode);
    found.require(
        compression != CompressionMode::None || !changes.of_compression(),
        "spec.compression",
        if job.spec.compression.is_some() { "mode None" } else { "" },
        (
            "the job began without compression: it cannot be switched on while the job runs",
            "stop the job, write spec.compression into its file, and go on with --resume",
        ),
    );
    found.require(
        changes.mode != Some(CompressionMode::None),
        "spec.compression.mode",
        "None",
        (
            "compression cannot be switched off while the job runs: allowed are Static, Adaptive and Auto",
            "choose Adaptive with a small delta, by which nearly every step is dense; or stop the job and go on with --resume",
        ),
    );
    found.require(
        job.spec.injection.is_some() || !changes.of_injection(),
        "spec.injection",
        "",
        (
            "the job began without injection, so no device may share: raw samples leave a device only where the job says so",
            "stop the job, write spec.injection into its file, and go on with --resume",
        ),
    );
}

/// The settings of a job that can be tuned.
pub fn settings(job: &ValidatedJob) -> Tuning {
    Tuning {
        generation: 0,
        compression: job.compression.as_ref().map(Into::into),
        injection: job.injection.as_ref().map(Into::into),
    }
}

/// A field of the job in two tunings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Such as `spec.compression.ratio`.
    pub field: &'static str,
    /// Its value; empty where it has none.
    pub before: String,
    /// Its other value.
    pub after: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &str| if value.is_empty() { "none".to_owned() } else { value.to_owned() };
        write!(formatter, "{} {} → {}", self.field, shown(&self.before), shown(&self.after))
    }
}

/// The fields of a tuning and their values, empty where they have none.
pub fn fields(tuning: &Tuning) -> [(&'static str, String); 5] {
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let (compression, injection) = (tuning.compression, tuning.injection);
    [
        ("spec.compression.mode", compression.map_or_else(String::new, |it| format!("{:?}", mode(&it)))),
        ("spec.compression.ratio", text(compression.map(|it| it.ratio))),
        ("spec.compression.delta", text(compression.and_then(|it| it.delta))),
        ("spec.injection.donorFraction", text(injection.map(|it| it.donor_fraction))),
        ("spec.injection.sharedFraction", text(injection.map(|it| it.shared_fraction))),
    ]
}

/// The fields in which two tunings differ.
pub fn differences(before: &Tuning, after: &Tuning) -> Vec<Difference> {
    let pairs = fields(before).into_iter().zip(fields(after));
    pairs
        .filter(|((_, before), (_, after))| before != after)
        .map(|((field, before), (_, after))| Difference { field, before, after })
        .collect()
}

/// The differences in one line; empty if there are none.
pub fn in_words(before: &Tuning, after: &Tuning) -> String {
    let words: Vec<String> = differences(before, after).iter().map(ToString::to_string).collect();
    words.join(", ")
}

fn mode(tuning: &CompressionTuning) -> CompressionMode {
    match (tuning.is_free, tuning.delta) {
        (true, _) => CompressionMode::Auto,
        (false, Some(_)) => CompressionMode::Adaptive,
        (false, None) => CompressionMode::Static,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(parts: &str) -> ScadlesJob {
        let text = format!(
            "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {{name: tuned}}
spec:
  model: {{name: Cnn}}
  devices: {{count: 4}}
  producer: {{dataset: {{name: Cifar10}}, rates: {{constant: 50}}}}
  stream: {{batch: {{rule: Fixed, fixed: {{size: 16}}}}}}
  completion: {{maxSteps: 10}}
{parts}"
        );
        crate::parse_job(&text).unwrap()
    }

    const BOTH: &str = "
  compression: {mode: Adaptive, ratio: 0.1, delta: 0.3, energyOf: Gradient}
  injection: {mode: Move, optIn: All, donorFraction: 0.5, sharedFraction: 0.5}";

    fn settings_of(changes: &Changes) -> Tuning {
        settings(&tuned(&job(BOTH), changes).unwrap())
    }

    fn mistakes(parts: &str, changes: &Changes) -> Vec<(String, String)> {
        let found = tuned(&job(parts), changes).unwrap_err();
        assert!(found.iter().all(|it| !it.problem.is_empty() && !it.remedy.is_empty()), "{found}");
        found.iter().map(|it| (it.path.clone(), it.value.clone())).collect()
    }

    #[test]
    fn changes_become_the_settings_and_are_told_field_by_field() {
        let before = settings_of(&Changes::default());
        let changes = Changes { ratio: Some(0.05), shared_fraction: Some(0.25), ..Changes::default() };
        let after = settings_of(&changes);
        assert_eq!(
            in_words(&before, &after),
            "spec.compression.ratio 0.1 → 0.05, spec.injection.sharedFraction 0.5 → 0.25"
        );
        assert_eq!(in_words(&after, &after), "");
    }

    #[test]
    fn a_mode_without_a_gate_has_no_bound_whoever_gave_one() {
        let gated = Changes { delta: Some(0.2), ..Changes::default() };
        let ungated = Changes { mode: Some(CompressionMode::Static), ..Changes::default() };
        let (before, after) = (settings_of(&Changes::default()), settings_of(&gated.and(ungated)));
        assert_eq!(
            in_words(&before, &after),
            "spec.compression.mode Adaptive → Static, spec.compression.delta 0.3 → none"
        );
        let again = Changes { mode: Some(CompressionMode::Adaptive), ..Changes::default() };
        assert_eq!(settings_of(&gated.and(ungated).and(again)), before, "as the file has it");
        let wrong = Changes { delta: Some(0.2), ..ungated };
        assert_eq!(
            mistakes(BOTH, &wrong),
            [("spec.compression.delta".to_owned(), "with mode Static".to_owned())]
        );
    }

    #[test]
    fn impossible_values_are_the_mistakes_of_a_job_file() {
        let wrong = Changes {
            ratio: Some(0.0),
            delta: Some(1.5),
            donor_fraction: Some(-0.5),
            shared_fraction: Some(0.01),
            ..Changes::default()
        };
        let paths: Vec<String> = mistakes(BOTH, &wrong).into_iter().map(|(path, _)| path).collect();
        assert_eq!(
            paths,
            [
                "spec.compression.delta",
                "spec.compression.ratio",
                "spec.injection.donorFraction",
                "spec.injection.sharedFraction"
            ],
            "the last one would share no sample of a batch of 16"
        );
    }

    #[test]
    fn what_the_job_began_without_cannot_be_tuned_and_compression_not_be_switched_off() {
        let both = Changes { ratio: Some(0.1), donor_fraction: Some(0.5), ..Changes::default() };
        let began_without = |path: &str, value: &str| (path.to_owned(), value.to_owned());
        assert_eq!(
            mistakes("", &both),
            [began_without("spec.compression", ""), began_without("spec.injection", "")]
        );
        assert_eq!(
            mistakes("  compression: {mode: None}", &Changes { delta: Some(0.1), ..Changes::default() }),
            [began_without("spec.compression", "mode None")]
        );
        let off = Changes { mode: Some(CompressionMode::None), ..Changes::default() };
        assert_eq!(mistakes(BOTH, &off), [began_without("spec.compression.mode", "None")]);
    }
}
