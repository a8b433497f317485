//! Data injection: who shares how much, and that somebody does.

use scadles_api::{
    job::{DonorChoice, InjectionMode, InjectionSpec, OptIn, ReplicateBatch, ScadlesJobSpec},
    worker::{BatchRule, InjectionConfig, SampleShape, StreamConfig},
};
use scadles_core::inject::{InjectionRule, shared_of};

use crate::mistake::{Allowed, Findings};

/// α and β of the paper's setting that shares most (§V-F).
const DEFAULT_FRACTION: f64 = 0.5;

pub(super) fn injection(
    found: &mut Findings,
    spec: &ScadlesJobSpec,
    devices: usize,
    stream: &StreamConfig,
    samples: SampleShape,
) -> Option<InjectionConfig> {
    let given = spec.injection.as_ref()?;
    found.require(
        given.replicate.is_none() || given.mode == InjectionMode::Replicate,
        "spec.injection.replicate",
        format!("with mode {:?}", given.mode),
        ("belongs to the mode Replicate", "leave it out, or choose that mode"),
    );
    let share = |found: &mut Findings, name: &str, given| {
        found.number(&format!("spec.injection.{name}"), given, DEFAULT_FRACTION, Allowed::PositiveShare)
    };
    let config = InjectionConfig {
        mode: given.mode,
        batch: given.replicate.as_ref().and_then(|it| it.batch).unwrap_or(ReplicateBatch::Grow),
        donor_fraction: share(found, "donorFraction", given.donor_fraction),
        shared_fraction: share(found, "sharedFraction", given.shared_fraction),
        donors: given.donors.unwrap_or(DonorChoice::Random),
        may_share: willing(spec, given, devices),
        budget_bytes_per_step: given.budget_bytes_per_step.map(|bytes| bytes.0),
    };
    check_opt_in(found, given, &config);
    check_share(found, &config, stream, samples);
    check_budget(found, &config, samples);
    Some(config)
}

/// Per device, whether its raw samples may leave it. Nobody's may unless the job says so.
fn willing(spec: &ScadlesJobSpec, given: &InjectionSpec, devices: usize) -> Vec<bool> {
    match (given.opt_in.unwrap_or(OptIn::Named), &spec.devices.named) {
        (OptIn::All, _) => vec![true; devices],
        (OptIn::Named, None) => vec![false; devices],
        (OptIn::Named, Some(named)) => {
            named.iter().map(|device| device.share_data.unwrap_or(false)).collect()
        }
    }
}

fn check_opt_in(found: &mut Findings, given: &InjectionSpec, config: &InjectionConfig) {
    found.require(
        config.may_share.iter().any(|may_share| *may_share),
        "spec.injection.optIn",
        format!("{:?}", given.opt_in.unwrap_or(OptIn::Named)),
        (
            "no device may share, so there are no donors: a device's raw samples leave it only where the job says so",
            "set shareData: true on devices of spec.devices.named, or optIn: All if those of every device may leave it",
        ),
    );
}

/// The largest batch must have a sample to share; of the batches that streams give, the plan warns.
fn check_share(found: &mut Findings, config: &InjectionConfig, stream: &StreamConfig, samples: SampleShape) {
    let (largest, field) = match stream.batch {
        BatchRule::Fixed { size } => (size, "spec.stream.batch.fixed.size"),
        BatchRule::StreamRate { .. } | BatchRule::LineRate => {
            (stream.batch_bounds.max, "spec.stream.batch.max")
        }
    };
    let rule = InjectionRule::new(config, samples.sample_bytes() as u64, 0);
    let batch = rule.own_batch(u64::from(largest));
    let beta = config.shared_fraction;
    // What is no share at all is told at its own field.
    if beta > 0.0 && beta <= 1.0 && batch > 0 && shared_of(beta, batch) == 0 {
        found.add(
            "spec.injection.sharedFraction",
            beta,
            format!("of a batch of {batch} ({field}) not one sample is shared: {beta} · {batch} is below 1"),
            format!("give at least {}, or a larger batch", 1.0 / batch as f64),
        );
    }
}

fn check_budget(found: &mut Findings, config: &InjectionConfig, samples: SampleShape) {
    let copies = match config.mode {
        InjectionMode::Move => 1,
        InjectionMode::Replicate => (config.may_share.len() as u64).saturating_sub(1).max(1),
    };
    let least = samples.sample_bytes() as u64 * copies;
    if let Some(budget) = config.budget_bytes_per_step.filter(|budget| *budget < least) {
        found.add(
            "spec.injection.budgetBytesPerStep",
            budget,
            format!("one sample takes {least} bytes, with a copy to every device that gets it: none would be shared"),
            format!("give at least {least}, or leave it out"),
        );
    }
}
