//! How quickly the simulated devices send: lists, seeded distributions, and the sets of the papers (algorithms §6). No I/O.

use serde::{Deserialize, Serialize};

use crate::random::RandomStream;

/// Keeps these words apart from all others drawn from the job's seed.
const STREAM: u64 = 0x5ced_0002;
/// Draws per device before its rate falls back to the mean. With a positive mean at least every second draw is positive.
const MOST_DRAWS: u64 = 128;

/// S1, uniform with mean 38 and sd 24, samples per second.
pub const S1: [f64; 8] = [50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0];
/// S1′, normal with mean 64 and sd 24.
pub const S1_NORMAL: [f64; 10] = [92.0, 38.0, 62.0, 42.0, 48.0, 88.0, 90.0, 22.0, 44.0, 28.0];
/// S2′, normal with mean 256 and sd 28.
pub const S2_NORMAL: [f64; 10] = [270.0, 218.0, 300.0, 246.0, 232.0, 284.0, 284.0, 236.0, 274.0, 228.0];
/// The list of 25 devices.
pub const S1_NORMAL_25: [f64; 25] = [
    92.0, 22.0, 62.0, 42.0, 48.0, 36.0, 18.0, 38.0, 84.0, 60.0, 108.0, 40.0, 58.0, 16.0, 44.0, 78.0, 92.0,
    28.0, 30.0, 52.0, 84.0, 20.0, 16.0, 38.0, 66.0,
];

/// Rates of all devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RatePlan {
    /// One rate per device, samples per second.
    List(Vec<f64>),
    /// Uniform: mean ± √3·sd.
    Uniform {
        /// Samples per second.
        mean: f64,
        /// Samples per second.
        sd: f64,
    },
    /// Normal.
    Normal {
        /// Samples per second.
        mean: f64,
        /// Samples per second.
        sd: f64,
    },
}

/// S2: uniform with mean 300 and sd 112, which draws from about 106 to 494.
pub const S2: RatePlan = RatePlan::Uniform { mean: 300.0, sd: 112.0 };

/// Rates that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A list of another length.
    #[error("failed to plan rates: the list has {rates} entries for {devices} devices; give one per device")]
    ListLength {
        /// Entries.
        rates: usize,
        /// Devices.
        devices: usize,
    },
    /// A rate that is not a positive number.
    #[error(
        "failed to plan rates: the rate of device {device} is {rate}; give a number above 0 (samples per second)"
    )]
    NotPositive {
        /// Device.
        device: usize,
        /// Its rate.
        rate: f64,
    },
    /// A distribution that draws no positive rates.
    #[error(
        "failed to plan rates: mean {mean}, sd {sd}; give a mean above 0 and an sd of at least 0 (samples per second)"
    )]
    Distribution {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        sd: f64,
    },
}

impl RatePlan {
    /// The rates of `devices` devices, samples per second, all above 0: draws at or below 0 are drawn again. A device's
    /// rate does not depend on how many devices there are.
    pub fn rates(&self, seed: u64, devices: usize) -> Result<Vec<f64>, Error> {
        let stream = RandomStream::new(seed, STREAM);
        match self {
            Self::List(rates) => {
                if rates.len() != devices {
                    return Err(Error::ListLength { rates: rates.len(), devices });
                }
                let wrong = rates.iter().position(|&rate| !(rate.is_finite() && rate > 0.0));
                wrong.map_or(Ok(rates.clone()), |device| {
                    Err(Error::NotPositive { device, rate: rates[device] })
                })
            }
            &Self::Uniform { mean, sd } => draw(devices, mean, sd, |device, i| {
                3.0_f64.sqrt() * (2.0 * stream.substream(device).unit(i) - 1.0)
            }),
            &Self::Normal { mean, sd } => {
                draw(devices, mean, sd, |device, i| stream.substream(device).normal(i))
            }
        }
    }
}

/// Draws mean + sd·`standard(device, i)` for the first i at which it is above 0.
fn draw(devices: usize, mean: f64, sd: f64, standard: impl Fn(u64, u64) -> f64) -> Result<Vec<f64>, Error> {
    if !(mean.is_finite() && mean > 0.0 && sd.is_finite() && sd >= 0.0) {
        return Err(Error::Distribution { mean, sd });
    }
    let rate = |device| {
        (0..MOST_DRAWS).map(|i| mean + sd * standard(device, i)).find(|&rate| rate > 0.0).unwrap_or(mean)
    };
    Ok((0..devices as u64).map(rate).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(rates: &[f64]) -> (f64, f64) {
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        (mean, (rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn drawn_rates_have_the_asked_moments() {
        for plan in [S2, RatePlan::Normal { mean: 256.0, sd: 28.0 }] {
            let (mean, sd) = moments(&plan.rates(7, 20_000).unwrap());
            let (RatePlan::Uniform { mean: m, sd: s } | RatePlan::Normal { mean: m, sd: s }) = plan else {
                unreachable!()
            };
            assert!((mean / m - 1.0).abs() < 0.01 && (sd / s - 1.0).abs() < 0.02, "{mean} {sd}");
        }
    }

    #[test]
    fn rates_are_positive_seeded_and_independent_of_the_number_of_devices() {
        let plan = RatePlan::Normal { mean: 10.0, sd: 30.0 };
        let many = plan.rates(1, 1_000).unwrap();
        assert!(many.iter().all(|&rate| rate > 0.0));
        assert_eq!(plan.rates(1, 10).unwrap(), many[..10]);
        assert_ne!(plan.rates(2, 10).unwrap(), many[..10]);
    }

    #[test]
    fn impossible_rates_are_refused() {
        assert!(matches!(
            RatePlan::List(S1.into()).rates(0, 7),
            Err(Error::ListLength { rates: 8, devices: 7 })
        ));
        assert!(matches!(
            RatePlan::List(vec![1.0, 0.0]).rates(0, 2),
            Err(Error::NotPositive { device: 1, rate: 0.0 })
        ));
        assert!(matches!(
            RatePlan::Uniform { mean: 0.0, sd: 1.0 }.rates(0, 2),
            Err(Error::Distribution { .. })
        ));
    }
}
