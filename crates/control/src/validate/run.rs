//! Checkpoints, completion, deadlines.

use std::path::PathBuf;

use scadles_api::{
    job::{CheckpointSpec, RunPolicySpec, ScadlesJobSpec, StorageSpec, StreamEndName},
    worker::{Completion, EvaluationConfig, Limits},
};

use super::ValidatedCheckpoint;
use crate::mistake::{Allowed, Findings};

/// A number of steps or samples above this is a slip of the pen.
const MOST: u64 = 1_000_000_000_000;
/// Default of `spec.runPolicy.stallSeconds`.
pub(super) const STALL_SECONDS: f64 = 300.0;
/// Ten years, in seconds.
const LONGEST_SECONDS: f64 = 315_360_000.0;

pub(super) fn checkpoint(found: &mut Findings, given: Option<&CheckpointSpec>) -> ValidatedCheckpoint {
    let storage = given.and_then(|it| it.storage.as_ref());
    if let Some(storage) = storage {
        one_kind_of_storage(found, "spec.checkpoint.storage", storage);
    }
    let path = storage.and_then(|storage| storage.path.as_ref());
    found.require(
        path.is_none_or(|path| !path.is_empty()),
        "spec.checkpoint.storage.path",
        "",
        ("is empty", "give a folder, or remove spec.checkpoint.storage"),
    );
    ValidatedCheckpoint {
        every_steps: found.integer(
            "spec.checkpoint.everySteps",
            given.and_then(|it| it.every_steps),
            40,
            1..=MOST,
        ),
        keep: found.integer_32("spec.checkpoint.keep", given.and_then(|it| it.keep), 3, 1..=1000),
        path: path.map(PathBuf::from),
    }
}

/// Exactly one place.
pub(crate) fn one_kind_of_storage(found: &mut Findings, path: &str, storage: &StorageSpec) {
    let members = [
        ("path", storage.path.is_some()),
        ("persistentVolumeClaim", storage.persistent_volume_claim.is_some()),
        ("s3", storage.s3.is_some()),
    ];
    found.exactly_one(path, &members);
}

pub(super) fn completion(
    found: &mut Findings,
    spec: &ScadlesJobSpec,
    evaluation: Option<&EvaluationConfig>,
) -> Completion {
    let given = &spec.completion;
    let path = |name: &str| format!("spec.completion.{name}");
    found.exactly_one(
        "spec.completion",
        &[
            ("maxEpochs", given.max_epochs.is_some()),
            ("maxSteps", given.max_steps.is_some()),
            ("maxSamples", given.max_samples.is_some()),
            ("targetAccuracy", given.target_accuracy.is_some()),
            ("streamEnd", given.stream_end.is_some()),
        ],
    );
    let mut completion = Completion::MaxSteps(1);
    if let Some(epochs) = given.max_epochs {
        let allowed = Allowed::Positive(1e6);
        completion = Completion::MaxEpochs(found.number(&path("maxEpochs"), Some(epochs), 10.0, allowed));
    }
    if let Some(steps) = given.max_steps {
        completion = Completion::MaxSteps(found.integer(&path("maxSteps"), Some(steps), 1000, 1..=MOST));
    }
    if let Some(samples) = given.max_samples {
        completion =
            Completion::MaxSamples(found.integer(&path("maxSamples"), Some(samples), 60_000, 1..=MOST));
    }
    if let Some(share) = given.target_accuracy {
        let share = found.number(&path("targetAccuracy"), Some(share), 0.5, Allowed::PositiveShare);
        if evaluation.is_none_or(|evaluation| evaluation.every_steps == 0) {
            found.add(
                path("targetAccuracy"),
                share,
                "is never reached without evaluations during the run",
                "give spec.evaluation with everySteps above 0",
            );
        }
        completion = Completion::TargetAccuracy(share);
    }
    if stream_end(found, spec) {
        completion = Completion::StreamEnd;
    }
    completion
}

/// Whether the job is complete with its streams: then they must have an end, and where they have one nothing else would
/// complete a job that has trained them.
fn stream_end(found: &mut Findings, spec: &ScadlesJobSpec) -> bool {
    let path = "spec.completion.streamEnd";
    let has_end = spec.stream.as_ref().and_then(|stream| stream.end.as_ref());
    let has_end = has_end.is_some_and(|end| end.rule != StreamEndName::Never);
    let given = spec.completion.stream_end;
    match given {
        Some(false) => {
            found.add(path, "false", "must be true", "write true, or leave it out for another member");
        }
        Some(true) if !has_end => found.add(
            path,
            "true",
            "is never reached: streams have no end",
            "give spec.stream.end: {rule: OffsetsAtStart} or {rule: Idle}",
        ),
        None if has_end => found.add(
            path,
            "",
            "is missing: streams that end (spec.stream.end) would leave the job waiting",
            "write spec.completion: {streamEnd: true}, or remove spec.stream.end",
        ),
        _ => {}
    }
    given.is_some()
}

pub(super) fn limits(found: &mut Findings, given: Option<&RunPolicySpec>) -> Limits {
    let mut seconds = |name: &str, given: Option<f64>, default: f64| {
        found.number(&format!("spec.runPolicy.{name}"), given, default, Allowed::Positive(LONGEST_SECONDS))
    };
    let of = |member: fn(&RunPolicySpec) -> Option<f64>| given.and_then(member);
    Limits {
        start_deadline_seconds: seconds("startDeadlineSeconds", of(|it| it.start_deadline_seconds), 600.0),
        active_deadline_seconds: of(|it| it.active_deadline_seconds)
            .map(|limit| seconds("activeDeadlineSeconds", Some(limit), 3600.0)),
        stall_seconds: seconds("stallSeconds", of(|it| it.stall_seconds), STALL_SECONDS),
        collective_seconds: seconds("collectiveSeconds", of(|it| it.collective_seconds), 60.0),
        stop_grace_seconds: seconds("stopGraceSeconds", of(|it| it.stop_grace_seconds), 30.0),
        orphan_seconds: seconds("orphanSeconds", of(|it| it.orphan_seconds), 60.0),
        max_restarts: found.integer_32(
            "spec.runPolicy.maxRestarts",
            given.and_then(|it| it.max_restarts),
            10,
            0..=10_000,
        ),
    }
}
