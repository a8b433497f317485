//! What the command line changes of a scenario, with clear words for what does not fit. Pure.

use scadles_core::sim::{
    InjectionMode, InjectionModel, RateProfile, ReplicateBatch, SimLimits, SparseKind, SparseModel,
};

use super::{
    args::{Changes, ExchangeName, InjectionName, not_negative, positive, share},
    scenario::Scenario,
};
use crate::failure::{Failure, Result};

/// Bits of a Gbit, in bytes.
const BYTES_PER_GIGABIT: f64 = 1e9 / 8.0;
/// α and β where only the kind of injection is named.
const DEFAULT_FRACTION: f64 = 0.25;
/// Selecting the largest values on one core, in seconds per value (measured: a hundredth of 25.6 million in 9.8 ms).
pub const SELECT_SECONDS_PER_VALUE: f64 = 9.8e-3 / 25.6e6;
/// Rates that a message shows.
const MOST_SHOWN: usize = 10;

/// How the rate of every device goes over time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Shape {
    /// Always the same.
    #[default]
    Constant,
    /// Another rate from a moment on.
    Step {
        /// Times the rate before.
        factor: f64,
        /// The moment, in seconds.
        at_seconds: f64,
    },
    /// A wave around the rate.
    Sine {
        /// In [0, 1].
        swing: f64,
        /// In seconds.
        period_seconds: f64,
    },
    /// Bursts at the end of each period.
    Burst {
        /// Times the rate outside of them.
        factor: f64,
        /// Length of a burst in seconds.
        burst_seconds: f64,
        /// From burst to burst.
        period_seconds: f64,
    },
    /// The first devices fall silent.
    DropOut {
        /// When, in seconds.
        from_seconds: f64,
        /// Until when.
        until_seconds: f64,
        /// How many of them.
        devices: usize,
    },
}

impl Shape {
    /// Reads `step:FACTOR:AT`, `sine:SWING:PERIOD`, `burst:FACTOR:LENGTH:PERIOD`, `drop-out:FROM:UNTIL:DEVICES` or
    /// `constant`.
    pub fn read(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let shape = match parts[..] {
            ["constant"] => Self::Constant,
            ["step", factor, at] => {
                Self::Step { factor: not_negative(factor)?, at_seconds: not_negative(at)? }
            }
            ["sine", swing, period] => Self::Sine { swing: share(swing)?, period_seconds: positive(period)? },
            ["burst", factor, length, period] => Self::Burst {
                factor: not_negative(factor)?,
                burst_seconds: positive(length)?,
                period_seconds: positive(period)?,
            },
            ["drop-out", from, until, devices] => Self::DropOut {
                from_seconds: not_negative(from)?,
                until_seconds: positive(until)?,
                devices: devices
                    .parse()
                    .map_err(|_| format!("`{devices}` is no number of devices; give for instance 1"))?,
            },
            _ => {
                return Err(
                    "allowed are constant, step:FACTOR:AT, sine:SWING:PERIOD, burst:FACTOR:LENGTH:PERIOD, \
                            drop-out:FROM:UNTIL:DEVICES; give for instance sine:0.5:60"
                        .to_owned(),
                );
            }
        };
        match shape {
            Self::Burst { burst_seconds, period_seconds, .. } if burst_seconds > period_seconds => {
                Err("a burst cannot be longer than its period; give for instance burst:8:2:30".to_owned())
            }
            Self::DropOut { from_seconds, until_seconds, .. } if from_seconds >= until_seconds => {
                Err("a silence ends after it begins; give for instance drop-out:30:60:1".to_owned())
            }
            _ => Ok(shape),
        }
    }

    /// The stream of a device with this rate.
    pub fn profile(self, rate: f64, device: usize) -> RateProfile {
        match self {
            Self::Step { factor, at_seconds } => {
                RateProfile::Step { before: rate, after: rate * factor, at_seconds }
            }
            Self::Sine { swing, period_seconds } => RateProfile::Sine { mean: rate, swing, period_seconds },
            Self::Burst { factor, burst_seconds, period_seconds } => {
                RateProfile::Burst { rate, burst_rate: rate * factor, burst_seconds, period_seconds }
            }
            Self::DropOut { from_seconds, until_seconds, devices } if device < devices => {
                RateProfile::DropOut { rate, from_seconds, until_seconds }
            }
            Self::Constant | Self::DropOut { .. } => RateProfile::Constant(rate),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Step { .. } => "step",
            Self::Sine { .. } => "sine",
            Self::Burst { .. } => "burst",
            Self::DropOut { .. } => "drop-out",
        }
    }
}

/// Puts the command line's changes into a scenario. What it replaces is noted there.
pub fn apply(mut scenario: Scenario, changes: &Changes) -> Result<Scenario> {
    streams(&mut scenario, changes)?;
    if let Some(seconds) = changes.seconds_per_sample {
        scenario.note(format!("{seconds} s per sample instead of {}", scenario.seconds_per_sample));
        scenario.seconds_per_sample = seconds;
    }
    scenario.settings.compute_noise = changes.compute_noise;
    scenario.settings.seed = changes.seed;
    network(&mut scenario, changes)?;
    injection(&mut scenario, changes);
    limits(&mut scenario, changes);
    Ok(scenario)
}

fn streams(scenario: &mut Scenario, changes: &Changes) -> Result<()> {
    let asked = changes.devices.map(|devices| devices as usize);
    let devices = asked.unwrap_or(scenario.device_names.len());
    let before = scenario.device_names.len();
    if !changes.rates.is_empty() {
        scenario.rates = one_per_device(&changes.rates, devices)?;
        scenario.note(format!("rates of --rates, mean {:.1}/s", mean(&scenario.rates)));
    } else if scenario.rates.is_empty() {
        return Err(Failure::configuration(
            format!("{}: the job has no spec.producer, so its rates are not known", scenario.name),
            "give them: --rates 50,38,12,36 (samples per second, one per device or one for all)",
        ));
    } else if devices > scenario.rates.len() {
        return Err(Failure::configuration(
            format!(
                "--devices = {devices}: {} has {} rates; allowed is at most that many devices",
                scenario.name,
                scenario.rates.len()
            ),
            format!("lower --devices, or give {devices} rates with --rates"),
        ));
    }
    scenario.rates.truncate(devices);
    if devices != before {
        scenario.note(format!("{devices} devices instead of {before}"));
        scenario.device_names = (0..devices).map(|index| format!("device-{index}")).collect();
    }
    if changes.stream != Shape::Constant {
        scenario.note(format!("streams follow the shape `{}`", changes.stream.words()));
    }
    scenario.shape = changes.stream;
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The rates of the command line: one for all, or one per device.
pub(super) fn one_per_device(rates: &[f64], devices: usize) -> Result<Vec<f64>> {
    match rates {
        [rate] => Ok(vec![*rate; devices]),
        rates if rates.len() >= devices => Ok(rates.to_vec()),
        rates => {
            let shown: Vec<String> = rates.iter().take(MOST_SHOWN).map(f64::to_string).collect();
            let more = if rates.len() > MOST_SHOWN { ",…" } else { "" };
            Err(Failure::configuration(
                format!(
                    "--rates = {}{more}: {} rates for {devices} devices; allowed is one rate for all, or one per device",
                    shown.join(","),
                    rates.len()
                ),
                format!("give {devices} rates, or lower the number with --devices {}", rates.len()),
            ))
        }
    }
}

fn network(scenario: &mut Scenario, changes: &Changes) -> Result<()> {
    let compression = changes.compression_ratio;
    let sparse_kind = match changes.exchange {
        Some(ExchangeName::Dense) => None,
        Some(ExchangeName::AllGather) => Some(SparseKind::AllGather { index_bytes: 4 }),
        Some(ExchangeName::AllGather64) => Some(SparseKind::AllGather { index_bytes: 8 }),
        Some(ExchangeName::ReduceScatter) => Some(SparseKind::ReduceScatter),
        None => compression.map(|_| SparseKind::AllGather { index_bytes: 4 }),
    };
    let exchange = &mut scenario.settings.exchange;
    if let Some(gigabits) = changes.bandwidth_gbit {
        exchange.network.bytes_per_second = gigabits * BYTES_PER_GIGABIT;
    }
    if let Some(milliseconds) = changes.latency_ms {
        exchange.network.latency_seconds = milliseconds / 1e3;
    }
    exchange.constant_seconds += changes.constant_seconds;
    if changes.exchange == Some(ExchangeName::Dense) {
        exchange.sparse = None;
    }
    if let Some(kind) = sparse_kind {
        let ratio = compression.or(exchange.sparse.map(|sparse| sparse.compression_ratio));
        let Some(compression_ratio) = ratio else {
            return Err(Failure::configuration(
                "--exchange names a sparse exchange, but no share of values to keep",
                "give it as well, for instance --compression-ratio 0.1",
            ));
        };
        let select_seconds = SELECT_SECONDS_PER_VALUE * exchange.parameters as f64;
        let sparse_share = exchange.sparse.map_or(1.0, |sparse| sparse.sparse_share);
        exchange.sparse = Some(SparseModel { kind, compression_ratio, sparse_share, select_seconds });
    }
    match (&mut exchange.sparse, changes.sparse_share) {
        (Some(sparse), Some(share)) => sparse.sparse_share = share,
        (None, Some(share)) => {
            return Err(Failure::configuration(
                format!("--sparse-share = {share}: no step is sparse without compression"),
                "give --compression-ratio as well, or leave it out",
            ));
        }
        (_, None) => {}
    }
    Ok(())
}

fn injection(scenario: &mut Scenario, changes: &Changes) {
    let Some(name) = changes.injection else { return };
    let given = scenario.settings.injection;
    let mode = match name {
        InjectionName::Move => InjectionMode::Move,
        InjectionName::Replicate => InjectionMode::Replicate,
    };
    let fraction = |asked: Option<f64>, own: Option<f64>| asked.or(own).unwrap_or(DEFAULT_FRACTION);
    scenario.settings.injection = Some(InjectionModel {
        mode,
        batch: given.map_or(ReplicateBatch::Grow, |given| given.batch),
        donor_fraction: fraction(changes.donor_fraction, given.map(|given| given.donor_fraction)),
        shared_fraction: fraction(changes.shared_fraction, given.map(|given| given.shared_fraction)),
        record_bytes: scenario.record_bytes,
    });
}

fn limits(scenario: &mut Scenario, changes: &Changes) {
    if changes.seconds.is_none() && changes.steps.is_none() && changes.epochs.is_none() {
        return;
    }
    let epochs = changes.epochs.map(|epochs| scenario.samples_of(epochs));
    scenario.settings.limits = SimLimits {
        seconds: changes.seconds.unwrap_or(f64::INFINITY),
        steps: changes.steps.unwrap_or(u64::MAX),
        samples: epochs.unwrap_or(u64::MAX),
    };
}
