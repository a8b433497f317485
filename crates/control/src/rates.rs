//! Seeded draws of stream rates from distributions as in the paper's Table I. No I/O.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014): the n-th number depends on seed and n alone, is the same on
//! every machine and stays so. The rates of a job are drawn once, in the plan, and travel as a list.

/// 2^64 divided by the golden ratio: the increment of SplitMix64.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps the draws of rates apart from everything else that uses the job's seed.
const STREAM: u64 = 0x7261_7465_7321;
/// Draws per device before its rate falls back to the mean. The acceptance of a distribution with a mean above 0 is at
/// least one half, so the bound is out of reach.
const MOST_DRAWS: u64 = 1 << 10;
/// Rates are whole samples per second, as in the paper's lists, unless the mean is so small that this distorts them.
const WHOLE_FROM_MEAN: f64 = 4.0;

/// The n-th output of the generator with this state.
const fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A number in [0, 1) with 53 random bits.
fn unit(seed: u64, index: u64) -> f64 {
    let key = mix(seed.wrapping_add(INCREMENT)).wrapping_add(STREAM);
    let word = mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(INCREMENT)));
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

/// Shape of a distribution with mean 0 and standard deviation 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Even over mean ± √3·sd.
    Uniform,
    /// Normal, as the sum of twelve even draws (Irwin and Hall): additions only, equal on all machines.
    Normal,
}

impl Shape {
    fn draw(self, seed: u64, draw: u64) -> f64 {
        let first = draw.wrapping_mul(12);
        match self {
            Self::Uniform => (2.0 * unit(seed, first) - 1.0) * 3_f64.sqrt(),
            Self::Normal => (0..12).map(|part| unit(seed, first.wrapping_add(part))).sum::<f64>() - 6.0,
        }
    }
}

/// One rate per device in samples per second, each above 0: draws at or below 0 are repeated.
///
/// `mean` must be above 0. More devices do not change the rates of the first ones.
pub fn draw(shape: Shape, (mean, standard_deviation): (f64, f64), seed: u64, devices: usize) -> Vec<f64> {
    let rate = |device: u64| {
        (0..MOST_DRAWS)
            .map(|attempt| {
                let value = mean + standard_deviation * shape.draw(seed, device * MOST_DRAWS + attempt);
                if mean >= WHOLE_FROM_MEAN { value.round() } else { value }
            })
            .find(|rate| *rate > 0.0)
            .unwrap_or(mean)
    };
    (0..devices as u64).map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(rates: &[f64]) -> (f64, f64) {
        let count = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / count;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt())
    }

    #[test]
    fn drawn_rates_have_the_mean_and_deviation_asked_for() {
        for shape in [Shape::Uniform, Shape::Normal] {
            let (mean, deviation) = moments(&draw(shape, (300.0, 40.0), 7, 20_000));
            assert!(
                (mean - 300.0).abs() < 1.0 && (deviation - 40.0).abs() < 1.0,
                "{shape:?} {mean} {deviation}"
            );
        }
    }

    #[test]
    fn uniform_rates_stay_within_root_three_deviations() {
        let rates = draw(Shape::Uniform, (300.0, 112.0), 3, 10_000);
        assert!(rates.iter().all(|rate| (106.0..=494.0).contains(rate)));
    }

    #[test]
    fn no_drawn_rate_is_zero_or_less_even_with_a_wide_spread() {
        for shape in [Shape::Uniform, Shape::Normal] {
            assert!(draw(shape, (5.0, 50.0), 1, 5_000).iter().all(|rate| *rate > 0.0));
        }
    }

    #[test]
    fn a_seed_gives_the_same_rates_for_ever_and_more_devices_leave_the_first_ones_alone() {
        let four = draw(Shape::Uniform, (38.0, 24.0), 1234, 4);
        assert_eq!(four, draw(Shape::Uniform, (38.0, 24.0), 1234, 16)[..4]);
        assert_ne!(four, draw(Shape::Uniform, (38.0, 24.0), 1235, 4));
        assert_eq!(four, PINNED);
    }

    const PINNED: [f64; 4] = [5.0, 25.0, 48.0, 10.0];
}
