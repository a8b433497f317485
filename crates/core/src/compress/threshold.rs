//! The magnitude t that about k elements of e reach: estimated, carried from step to step, corrected. No I/O.
//!
//! Magnitudes are counted in bins of 1/256 of their binary order, over all elements or every s-th of them. Counting is
//! exact, so the estimate has the same bits everywhere. Between two full estimates t follows the root mean square of a
//! strided sample: batches, weights and rates change the scale of e from step to step, hardly its shape.

use serde::{Deserialize, Serialize};

/// Steps after which a carried threshold is estimated anew from all elements.
const FULL_EVERY_STEPS: u32 = 32;
/// Buckets up to so many elements are counted whole every time: that costs less than one wrong estimate.
const ALWAYS_FULL_ELEMENTS: usize = 1 << 16;
/// Elements of the sample that the scale is measured on.
const SCALE_SAMPLE: usize = 1 << 16;
/// Share of the relative error of the count by which the threshold is corrected. Where tails are those of a normal or
/// Laplace distribution, 1 % of the threshold is 3 to 13 % of the count.
const CORRECTION: f64 = 0.125;
/// A threshold of zero would send zeros.
const SMALLEST: f32 = f32::MIN_POSITIVE;
/// Bits of a magnitude below those that name its bin.
const BIN_SHIFT: u32 = 15;
const BINS: usize = 1 << (31 - BIN_SHIFT);

/// e without storing it: gradient + rescale·residual.
#[derive(Debug, Clone, Copy)]
pub struct Compensated<'a> {
    /// u.
    pub gradient: &'a [f32],
    /// r, as long.
    pub residual: &'a [f32],
    /// η_{t−1}/η_t.
    pub rescale: f32,
}

impl Compensated<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.gradient.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.gradient.is_empty()
    }

    /// Every `stride`-th e, from the first on.
    pub fn every(&self, stride: usize) -> impl Iterator<Item = f32> {
        let (gradient, residual) = (self.gradient.iter(), self.residual.iter());
        gradient.zip(residual).step_by(stride.max(1)).map(|(g, r)| *g + self.rescale * *r)
    }
}

/// What a bucket's threshold is carried by.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThresholdState {
    /// t over the root mean square of the sample; 0 before the first estimate.
    relative: f64,
    /// Steps until the next full estimate.
    full_in_steps: u32,
}

impl ThresholdState {
    /// t for about `wanted` elements of `e`.
    pub fn threshold(&mut self, e: Compensated<'_>, wanted: usize) -> f32 {
        if e.len() <= ALWAYS_FULL_ELEMENTS {
            return reached_by(e, 1, wanted);
        }
        let scale = root_mean_square_of(e, odd_stride(e.len(), SCALE_SAMPLE));
        if self.full_in_steps == 0 || self.relative <= 0.0 {
            let full = reached_by(e, 1, wanted);
            self.relative = if scale > 0.0 { f64::from(full) / scale } else { 0.0 };
            self.full_in_steps = FULL_EVERY_STEPS;
            return full;
        }
        self.full_in_steps -= 1;
        ((self.relative * scale) as f32).max(SMALLEST)
    }

    /// Learns from the selection with the threshold `used`, in which `found` elements were kept where `wanted` were meant
    /// and `most` possible. `root_mean_square` is that of all elements of e.
    pub fn correct(&mut self, used: f32, root_mean_square: f64, found: usize, wanted: usize, most: usize) {
        // More than a tenth off: the shape of e has changed, as it does while residuals build up.
        if found >= most || 10 * found.abs_diff(wanted) > wanted {
            self.full_in_steps = 0;
        } else if self.relative > 0.0 && root_mean_square > 0.0 && root_mean_square.is_finite() {
            let error = (found as f64 - wanted as f64) / wanted.max(1) as f64;
            self.relative = f64::from(used) / root_mean_square * (1.0 + CORRECTION * error);
        }
    }
}

fn root_mean_square_of(e: Compensated<'_>, stride: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u32);
    for value in e.every(stride) {
        sum += f64::from(value) * f64::from(value);
        count += 1;
    }
    (sum / f64::from(count.max(1))).sqrt()
}

/// The step between elements of a sample of at most `sample` of `len`; odd, because tensors repeat in powers of two.
pub(super) fn odd_stride(len: usize, sample: usize) -> usize {
    len.div_ceil(sample).max(1) | 1
}

/// The magnitude that `wanted` of every `stride`-th element of `e` reach, interpolated within a bin; with fewer
/// elements that are not zero, the smallest threshold.
fn reached_by(e: Compensated<'_>, stride: usize, wanted: usize) -> f32 {
    let Some((bin, share)) = bin_reached_by(e, stride, wanted) else { return SMALLEST };
    let (low, high) = (edge(bin), edge(bin + 1));
    if high.is_finite() { (high - share * (high - low)).max(SMALLEST) } else { low.max(SMALLEST) }
}

/// A magnitude that at least `wanted` elements of `e` reach, if so many are not zero, and hardly more.
pub(super) fn surely_reached_by(e: Compensated<'_>, wanted: usize) -> f32 {
    bin_reached_by(e, 1, wanted).map_or(SMALLEST, |(bin, _)| edge(bin).max(SMALLEST))
}

/// The bin in which the `wanted`-th largest lies, and which share of the bin is wanted, counted from its upper end.
fn bin_reached_by(e: Compensated<'_>, stride: usize, wanted: usize) -> Option<(usize, f32)> {
    let mut counts = vec![0_u32; BINS];
    for value in e.every(stride) {
        counts[bin(value)] += 1;
    }
    let mut above = 0;
    for (bin, &count) in counts.iter().enumerate().skip(1).rev() {
        if above + count as usize >= wanted {
            return Some((bin, (wanted - above) as f32 / count.max(1) as f32));
        }
        above += count as usize;
    }
    None
}

fn bin(value: f32) -> usize {
    ((value.to_bits() & 0x7fff_ffff) >> BIN_SHIFT) as usize
}

/// The smallest magnitude of a bin.
fn edge(bin: usize) -> f32 {
    f32::from_bits((bin as u32) << BIN_SHIFT)
}

/// The `wanted`-th largest magnitude of `e`, exactly: the reference.
pub fn exactly_reached_by(e: Compensated<'_>, wanted: usize) -> f32 {
    let magnitudes = e.every(1).map(|value| value.to_bits() & 0x7fff_ffff);
    let mut magnitudes: Vec<u32> = magnitudes.filter(|&magnitude| magnitude != 0).collect();
    if wanted == 0 || magnitudes.len() <= wanted {
        return SMALLEST;
    }
    let place = magnitudes.len() - wanted;
    let (_, nth, _) = magnitudes.select_nth_unstable(place);
    f32::from_bits(*nth).max(SMALLEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomStream;

    fn normal(len: usize, seed: u64, scale: f32) -> Vec<f32> {
        let stream = RandomStream::new(seed, 1);
        let draw = |i: usize| (0..12).map(|j| stream.unit((12 * i + j) as u64)).sum::<f64>() as f32 - 6.0;
        (0..len).map(|i| scale * draw(i)).collect()
    }

    fn count(values: &[f32], threshold: f32) -> usize {
        values.iter().filter(|value| value.abs() >= threshold).count()
    }

    #[test]
    fn a_carried_threshold_keeps_the_count_within_a_tenth_while_the_scale_changes() {
        let len = 200_000;
        let zeros = vec![0.0; len];
        let (wanted, most) = (2000, 2200);
        let mut state = ThresholdState::default();
        let mut carried = 0;
        for step in 0..40_u64 {
            let gradient = normal(len, step, if step % 2 == 0 { 1e-4 } else { 30.0 });
            let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
            let threshold = state.threshold(e, wanted);
            let found = count(&gradient, threshold);
            carried += usize::from(state.full_in_steps < FULL_EVERY_STEPS);
            assert!(found.abs_diff(wanted) <= wanted / 10, "step {step}: {found}");
            state.correct(threshold, root_mean_square_of(e, 1), found.min(most), wanted, most);
        }
        assert!(carried > 30, "{carried} of 40");
    }

    #[test]
    fn the_estimate_is_within_three_percent_of_the_exact_count() {
        let gradient = normal(60_000, 3, 1.0);
        let zeros = vec![0.0; gradient.len()];
        let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
        for wanted in [60, 600, 6000] {
            let exact = exactly_reached_by(e, wanted);
            assert_eq!(count(&gradient, exact), wanted);
            let found = count(&gradient, ThresholdState::default().threshold(e, wanted));
            assert!(found.abs_diff(wanted) as f64 <= 0.03 * wanted as f64 + 1.0, "{found} of {wanted}");
        }
    }

    #[test]
    fn zeros_are_never_selected() {
        let zeros = vec![0.0; 100];
        let mut gradient = zeros.clone();
        gradient[7] = 1e-30;
        let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
        assert_eq!(count(&gradient, ThresholdState::default().threshold(e, 10)), 1);
        assert_eq!(count(&gradient, exactly_reached_by(e, 10)), 1);
    }

    #[test]
    fn a_count_far_off_asks_for_a_full_estimate() {
        let mut state = ThresholdState { relative: 2.0, full_in_steps: 20 };
        state.correct(3.0, 1.5, 100, 100, 110);
        assert_eq!(state, ThresholdState { relative: 2.0, full_in_steps: 20 });
        state.correct(3.0, 1.5, 108, 100, 110);
        assert_eq!(state, ThresholdState { relative: 2.02, full_in_steps: 20 });
        state.correct(3.0, 1.5, 49, 100, 110);
        assert_eq!(state.full_in_steps, 0);
    }
}
