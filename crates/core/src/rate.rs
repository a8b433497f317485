//! S_i, the rate at which samples arrive on a device (paper §IV), from the growth of its end offsets. No I/O.
//!
//! Never from what was fetched: after a pause or a restart that is the consumer's speed, not the stream's.

use crate::ewma::Ewma;

/// Time constant of the mean, in seconds.
pub const TIME_CONSTANT_SECONDS: f64 = 1.0;
/// How often the end offsets are polled, in seconds, also while fetching pauses.
pub const POLL_SECONDS: f64 = 0.25;

/// Estimates the stream rate from polls of the sum of a device's end offsets.
///
/// # Guarantees
/// Until there is more than one interval the estimate is the mean from the start to now; after that a mean with time
/// constant [`TIME_CONSTANT_SECONDS`] whatever the intervals. An end that moved back (a topic made anew) restarts the
/// estimate; arrivals counted so far stay counted.
#[derive(Debug, Clone, Default)]
pub struct RateEstimator {
    first_poll_seconds: Option<f64>,
    last_poll_seconds: Option<f64>,
    last_end: u64,
    arrived: u64,
    rate: Ewma,
    last_arrival_seconds: Option<f64>,
    /// The last interval and its gain: most are alike, and an exponential function costs more than all the rest.
    last_gain: (f64, f64),
}

impl RateEstimator {
    /// An estimator without a poll.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one poll in: at `now_seconds` the device's end offsets summed to `end_offset_total`. The first poll is the
    /// start. A poll that is not later than the one before only counts the arrivals.
    pub fn poll(&mut self, now_seconds: f64, end_offset_total: u64) {
        let Some(before_seconds) = self.last_poll_seconds.filter(|_| end_offset_total >= self.last_end)
        else {
            self.rate.reset();
            self.first_poll_seconds.get_or_insert(now_seconds);
            self.last_end = end_offset_total;
            self.last_poll_seconds = Some(now_seconds);
            return;
        };
        let grown = end_offset_total - self.last_end;
        if grown > 0 {
            self.last_arrival_seconds = Some(now_seconds);
        }
        self.arrived += grown;
        self.last_end = end_offset_total;
        let interval_seconds = now_seconds - before_seconds;
        if interval_seconds > 0.0 {
            let gain = self.gain(interval_seconds);
            self.rate.update(grown as f64 / interval_seconds, gain);
            self.last_poll_seconds = Some(now_seconds);
        }
    }

    fn gain(&mut self, interval_seconds: f64) -> f64 {
        if self.last_gain.0.to_bits() != interval_seconds.to_bits() {
            let gain = 1.0 - (-interval_seconds / TIME_CONSTANT_SECONDS).exp();
            self.last_gain = (interval_seconds, gain);
        }
        self.last_gain.1
    }

    /// S_i in samples per second; `None` before the second poll.
    pub fn stream_rate(&self) -> Option<f64> {
        self.rate.value()
    }

    /// Samples that arrived since the first poll.
    pub fn arrived_total(&self) -> u64 {
        self.arrived
    }

    /// For how long polls have seen no new sample, from the first poll on if they saw none at all, up to the last poll, in
    /// seconds: what no poll has looked at does not count. `None` before the first poll.
    pub fn quiet_seconds(&self) -> Option<f64> {
        let since = self.last_arrival_seconds.or(self.first_poll_seconds)?;
        Some(self.last_poll_seconds? - since)
    }

    /// When a poll last saw new samples, in seconds; `None` before the first.
    pub fn last_arrival_seconds(&self) -> Option<f64> {
        self.last_arrival_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polled(rate: f64, offset: u64, interval: impl Fn(u32) -> f64, polls: u32) -> RateEstimator {
        let mut estimator = RateEstimator::new();
        let mut now = 3.0;
        for i in 0..polls {
            estimator.poll(now, offset + ((now - 3.0) * rate) as u64);
            now += interval(i);
        }
        estimator
    }

    #[test]
    fn a_steady_stream_is_measured_within_five_percent_after_a_second() {
        for rate in [12.0, 38.0, 97.0, 300.0, 2_000.0] {
            let estimator = polled(rate, 1 << 30, |_| 0.25, 5);
            let measured = estimator.stream_rate().unwrap();
            assert!((measured / rate - 1.0).abs() <= 0.05, "{measured} for {rate}");
        }
    }

    #[test]
    fn quiet_is_what_polls_have_seen_and_not_the_time_without_them() {
        let mut estimator = RateEstimator::new();
        assert_eq!(estimator.quiet_seconds(), None);
        estimator.poll(2.0, 7);
        estimator.poll(5.0, 7);
        assert_eq!(estimator.quiet_seconds(), Some(3.0));
        estimator.poll(6.0, 8);
        assert_eq!(estimator.quiet_seconds(), Some(0.0));
        // No poll for an hour, as while a broker is away.
        estimator.poll(3606.0, 9);
        assert_eq!(estimator.quiet_seconds(), Some(0.0));
    }

    #[test]
    fn irregular_polls_do_not_bias_the_rate() {
        let estimator = polled(210.0, 5, |i| [0.05, 0.4, 0.25, 1.3][i as usize % 4], 41);
        assert!((estimator.stream_rate().unwrap() / 210.0 - 1.0).abs() < 0.03);
    }

    #[test]
    fn a_backlog_at_the_start_is_not_a_rate() {
        let estimator = polled(50.0, 1_000_000, |_| 0.25, 9);
        assert!(estimator.stream_rate().unwrap() < 55.0);
        assert_eq!(estimator.arrived_total(), 100);
    }

    #[test]
    fn a_change_of_rate_is_followed_with_the_time_constant() {
        let mut estimator = RateEstimator::new();
        for i in 0..=40 {
            estimator.poll(f64::from(i) * 0.25, (f64::from(i) * 25.0) as u64);
        }
        for i in 1..=4 {
            estimator.poll(10.0 + f64::from(i) * 0.25, 1_000 + i as u64 * 50);
        }
        let expected = 200.0 - 100.0 * (-1.0_f64).exp();
        assert!((estimator.stream_rate().unwrap() - expected).abs() < 1.0);
    }

    #[test]
    fn the_gain_follows_the_interval() {
        let mut estimator = polled(100.0, 0, |_| 0.25, 41);
        estimator.poll(14.0, 1_000 + 200);
        let expected = 200.0 - 100.0 * (-1.0_f64).exp();
        assert!((estimator.stream_rate().unwrap() - expected).abs() < 1.0, "{:?}", estimator.stream_rate());
    }

    #[test]
    fn an_end_that_moved_back_restarts_the_estimate() {
        let mut estimator = polled(100.0, 0, |_| 0.25, 9);
        estimator.poll(6.0, 3);
        assert_eq!(estimator.stream_rate(), None);
        assert_eq!(estimator.arrived_total(), 200);
        estimator.poll(6.5, 13);
        assert!((estimator.stream_rate().unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(estimator.arrived_total(), 210);
    }
}
