//! An exponentially weighted mean that is unbiased from its first value. No I/O.

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

#[cfg(test)]
mod tests {
    use super::*;

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
