//! Streams that follow a formula: how many samples have arrived, and when the next ones will have. No I/O.

use serde::{Deserialize, Serialize};

use super::or_infinite;

/// No stream is looked at beyond this, in seconds: thirty years.
const LONGEST_SECONDS: f64 = 1e9;
/// How exactly the moment of an arrival is found where there is no formula for it, in seconds.
const ARRIVAL_SECONDS: f64 = 1e-6;
/// Halvings from [`LONGEST_SECONDS`] down to [`ARRIVAL_SECONDS`].
const MOST_HALVINGS: u32 = 60;

/// How a stream's rate goes over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum RateProfile {
    /// Always the same, in samples per second.
    Constant(f64),
    /// One rate before, another after a moment.
    Step {
        /// Samples per second before.
        before: f64,
        /// Samples per second after.
        after: f64,
        /// The moment, in seconds.
        at_seconds: f64,
    },
    /// mean·(1 + swing·sin(2πt/period)).
    Sine {
        /// Samples per second.
        mean: f64,
        /// In [0, 1].
        swing: f64,
        /// In seconds.
        period_seconds: f64,
    },
    /// Each period ends with a burst.
    Burst {
        /// Samples per second outside of bursts.
        rate: f64,
        /// Samples per second within.
        burst_rate: f64,
        /// Length of a burst, in seconds, at most the period.
        burst_seconds: f64,
        /// From burst to burst, in seconds.
        period_seconds: f64,
    },
    /// Silent for a while.
    DropOut {
        /// Samples per second before and after.
        rate: f64,
        /// Where the silence begins, in seconds.
        from_seconds: f64,
        /// Where it ends; infinite if the device does not come back.
        #[serde(with = "or_infinite")]
        until_seconds: f64,
    },
}

impl RateProfile {
    /// Samples that have arrived at `now` seconds.
    pub fn arrived(&self, now: f64) -> u64 {
        let samples = match *self {
            Self::Constant(rate) => rate * now,
            Self::Step { before, after, at_seconds } => {
                before * now.min(at_seconds) + after * (now - at_seconds).max(0.0)
            }
            Self::Sine { mean, swing, period_seconds } => {
                let turn = std::f64::consts::TAU / period_seconds;
                mean * (now + swing / turn * (1.0 - (turn * now).cos()))
            }
            Self::Burst { rate, burst_rate, burst_seconds, period_seconds } => {
                let quiet_seconds = period_seconds - burst_seconds;
                let periods = (now / period_seconds).floor();
                let rest = now - periods * period_seconds;
                periods * (rate * quiet_seconds + burst_rate * burst_seconds)
                    + rate * rest.min(quiet_seconds)
                    + burst_rate * (rest - quiet_seconds).max(0.0)
            }
            Self::DropOut { rate, from_seconds, until_seconds } => {
                rate * (now.min(from_seconds) + (now - until_seconds).max(0.0))
            }
        };
        samples as u64
    }

    /// The first moment, in seconds and not before `after`, at which `samples` have arrived, to a microsecond; `None` if
    /// that never happens.
    pub fn time_of(&self, samples: u64, after: f64) -> Option<f64> {
        if self.arrived(after) >= samples {
            return Some(after);
        }
        if let Self::Constant(rate) = *self {
            let mut moment = samples as f64 / rate;
            if !moment.is_finite() {
                return None;
            }
            // The quotient may round to just before the arrival.
            while self.arrived(moment) < samples {
                moment = moment.next_up();
            }
            return Some(moment);
        }
        self.search(samples, after)
    }

    fn search(&self, samples: u64, after: f64) -> Option<f64> {
        let (mut before, mut stride) = (after, 1.0);
        let mut there = before + stride;
        while self.arrived(there) < samples {
            if there > LONGEST_SECONDS {
                return None;
            }
            before = there;
            stride *= 2.0;
            there += stride;
        }
        for _ in 0..MOST_HALVINGS {
            if there - before <= ARRIVAL_SECONDS {
                break;
            }
            let middle = f64::midpoint(before, there);
            if self.arrived(middle) < samples {
                before = middle;
            } else {
                there = middle;
            }
        }
        Some(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [RateProfile; 6] = [
        RateProfile::Constant(38.0),
        RateProfile::Step { before: 10.0, after: 90.0, at_seconds: 7.5 },
        RateProfile::Sine { mean: 64.0, swing: 1.0, period_seconds: 20.0 },
        RateProfile::Burst { rate: 20.0, burst_rate: 400.0, burst_seconds: 2.0, period_seconds: 15.0 },
        RateProfile::Burst { rate: 0.0, burst_rate: 100.0, burst_seconds: 1.0, period_seconds: 10.0 },
        RateProfile::DropOut { rate: 50.0, from_seconds: 5.0, until_seconds: 25.0 },
    ];

    #[test]
    fn arrivals_never_go_back_and_follow_the_rate() {
        // The wave stands at its middle, having had one half more of its upper side: mean·swing·period/π.
        let totals = [1_140, 2_100, 1_920 + 407, 2 * 1_060, 300, 500];
        for (profile, total) in PROFILES.iter().zip(totals) {
            let mut last = 0;
            for tick in 0..=3_000 {
                let now = profile.arrived(f64::from(tick) * 0.01);
                assert!(now >= last, "{profile:?}");
                last = now;
            }
            assert!(last.abs_diff(total) <= 1, "{profile:?}: {last} after 30 s, not {total}");
        }
    }

    #[test]
    fn the_moment_of_an_arrival_is_the_first_at_which_it_is_there() {
        for profile in PROFILES {
            for samples in [1, 2, 37, 64, 299, 1_000, 12_345] {
                let moment = profile.time_of(samples, 0.0).unwrap();
                assert!(profile.arrived(moment) >= samples, "{profile:?} {samples} at {moment}");
                let earlier = (moment - 2.0 * ARRIVAL_SECONDS).max(0.0);
                assert!(profile.arrived(earlier) < samples, "{profile:?} {samples} before {moment}");
            }
        }
    }

    #[test]
    fn what_never_arrives_has_no_moment() {
        assert_eq!(RateProfile::Constant(0.0).time_of(1, 0.0), None);
        let gone = RateProfile::DropOut { rate: 50.0, from_seconds: 5.0, until_seconds: f64::INFINITY };
        assert!(gone.time_of(250, 0.0).is_some());
        assert_eq!(gone.time_of(251, 0.0), None);
    }

    #[test]
    fn a_moment_is_never_before_the_one_asked_from() {
        assert_eq!(RateProfile::Constant(10.0).time_of(5, 3.0), Some(3.0));
    }
}
