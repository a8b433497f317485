//! An exponentially weighted mean that is unbiased from its first value, and the median of the last three. No I/O.

use serde::{Deserialize, Serialize};

/// Σ wᵢxᵢ / Σ wᵢ with weights that decay geometrically: the plain mean at first, an EWMA later. Nothing has to be
/// assumed about a value before the first.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ewma {
    weighted_sum: f64,
    weight: f64,
}

impl Ewma {
    /// Takes `value` in; `gain` in (0, 1] is the share of the newest value in the long run.
    pub fn update(&mut self, value: f64, gain: f64) {
        self.weighted_sum = self.weighted_sum * (1.0 - gain) + value * gain;
        self.weight = self.weight * (1.0 - gain) + gain;
    }

    /// The mean, once there is a value.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.weighted_sum / self.weight)
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The last three values, for a median that one outlier does not move.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LastThree([Option<f64>; 3]);

impl LastThree {
    /// Takes a value in and forgets the oldest.
    pub fn push(&mut self, value: f64) {
        self.0 = [self.0[1], self.0[2], Some(value)];
    }

    /// The median; the smaller of two; `None` for a single one. So the first step, which warms up, counts for nothing.
    pub fn median(&self) -> Option<f64> {
        let [oldest, Some(second), Some(last)] = self.0 else { return None };
        let (low, high) = (second.min(last), second.max(last));
        Some(oldest.map_or(low, |oldest| oldest.clamp(low, high)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_does_not_move_the_median() {
        let mut last = LastThree::default();
        let medians = [9.0, 1.0, 2.0, 50.0, 1.5, 1.0].map(|value| {
            last.push(value);
            last.median()
        });
        assert_eq!(medians, [None, Some(1.0), Some(2.0), Some(2.0), Some(2.0), Some(1.5)]);
    }

    #[test]
    fn the_first_value_counts_in_full_and_the_second_by_half_at_small_gain() {
        let mut mean = Ewma::default();
        assert_eq!(mean.value(), None);
        mean.update(4.0, 0.001);
        assert!((mean.value().unwrap() - 4.0).abs() < 1e-9);
        mean.update(6.0, 0.001);
        assert!((mean.value().unwrap() - 5.0).abs() < 1e-2);
    }
}
