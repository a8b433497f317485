//! The magnitude that about k elements of e reach: from a sample of e, anew in every step. No I/O.
//!
//! Nothing is carried from step to step: while residuals build up, the shape of e changes so fast that a carried threshold
//! misses by half. Magnitudes are counted in bins of 1/256 of their binary order, which is exact and so has the same
//! bits everywhere.

/// Elements of the sample at most.
const SAMPLE_ELEMENTS: usize = 1 << 15;
/// The sample is made of runs of so many neighbours: half of a cache line.
const RUN_ELEMENTS: usize = 8;
/// A count of c in the sample deviates by √c. So many deviations more are asked for: a surplus is given back quickly,
/// a lack costs a second pass.
const SURPLUS_DEVIATIONS: f64 = 3.0;
/// A threshold of zero would send zeros.
pub(super) const SMALLEST: f32 = f32::MIN_POSITIVE;
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

    /// Every e.
    pub fn all(&self) -> impl Iterator<Item = f32> {
        self.gradient.iter().zip(self.residual).map(|(g, r)| *g + self.rescale * *r)
    }

    /// At most about 32,768 elements: runs of neighbours, evenly apart. All where there are no more.
    pub fn sample(&self) -> impl Iterator<Item = f32> {
        self.every(sample_stride(self.len()))
    }

    /// Every `stride`-th run of neighbours, the first one among them.
    pub fn every(&self, stride: usize) -> impl Iterator<Item = f32> {
        let (gradient, gradient_rest) = self.gradient.as_chunks::<RUN_ELEMENTS>();
        let (residual, residual_rest) = self.residual.as_chunks::<RUN_ELEMENTS>();
        let runs = gradient.iter().zip(residual).step_by(stride);
        let rest = gradient_rest.iter().zip(residual_rest);
        runs.flat_map(|(g, r)| g.iter().zip(r)).chain(rest).map(|(g, r)| *g + self.rescale * *r)
    }
}

/// The distance between runs at which `elements` elements give a sample of about 32,768 at most.
pub fn sample_stride(elements: usize) -> usize {
    let runs = elements / RUN_ELEMENTS;
    // Odd, because tensors repeat in powers of two.
    runs.div_ceil(SAMPLE_ELEMENTS / RUN_ELEMENTS).max(1) | 1
}

/// A magnitude that `wanted` elements of `e` reach, or by what is known from the sample a few more.
pub fn reached_by(e: Compensated<'_>, wanted: usize) -> f32 {
    let (counts, sampled) = count(e.sample());
    if sampled == e.len() {
        return nth_largest(&counts, wanted);
    }
    let expected = wanted as f64 * sampled as f64 / e.len() as f64;
    nth_largest(&counts, (expected + SURPLUS_DEVIATIONS * expected.sqrt()).ceil() as usize)
}

/// A magnitude that `wanted` elements of `e` reach, or hardly more; all are looked at.
pub(super) fn surely_reached_by(e: Compensated<'_>, wanted: usize) -> f32 {
    nth_largest(&count(e.all()).0, wanted)
}

/// How many values there are per bin, and in all.
fn count(values: impl Iterator<Item = f32>) -> (Vec<u32>, usize) {
    let (mut counts, mut all) = (vec![0_u32; BINS], 0);
    values.for_each(|value| {
        counts[(magnitude_bits(value) >> BIN_SHIFT) as usize] += 1;
        all += 1;
    });
    (counts, all)
}

/// The lower end of the bin in which the `wanted`-th largest lies; with fewer that are not zero, the smallest threshold. So
/// many that are no number make it none, which all reach.
fn nth_largest(counts: &[u32], wanted: usize) -> f32 {
    let mut reached = 0;
    for (bin, &count) in counts.iter().enumerate().skip(1).rev() {
        reached += count as usize;
        if reached >= wanted {
            return f32::from_bits((bin as u32) << BIN_SHIFT);
        }
    }
    SMALLEST
}

/// |value| as an integer of the same order; what is no number is larger than all numbers.
pub(super) fn magnitude_bits(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// The `wanted`-th largest magnitude of `e`, exactly: the reference.
pub fn exactly_reached_by(e: Compensated<'_>, wanted: usize) -> f32 {
    let magnitudes = e.all().map(magnitude_bits);
    let mut magnitudes: Vec<u32> = magnitudes.filter(|&magnitude| magnitude != 0).collect();
    if wanted == 0 || magnitudes.len() <= wanted {
        return SMALLEST;
    }
    let place = magnitudes.len() - wanted;
    let (_, nth, _) = magnitudes.select_nth_unstable(place);
    f32::from_bits(*nth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomStream;

    fn normal(len: usize, seed: u64) -> Vec<f32> {
        let stream = RandomStream::new(seed, 1);
        let draw = |i: usize| (0..12).map(|j| stream.unit((12 * i + j) as u64)).sum::<f64>() as f32 - 6.0;
        (0..len).map(draw).collect()
    }

    fn reaching(values: &[f32], threshold: f32) -> usize {
        values.iter().filter(|value| value.abs() >= threshold).count()
    }

    #[test]
    fn a_sample_finds_what_is_wanted_and_not_much_more() {
        let len = 1_000_000;
        let gradient = normal(len, 3);
        let zeros = vec![0.0; len];
        let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
        let sampled = e.sample().count();
        assert!((SAMPLE_ELEMENTS / 2..=SAMPLE_ELEMENTS).contains(&sampled), "{sampled}");
        // Twice three deviations of the sample's count, and the width of a bin.
        for (wanted, most) in [(100_000, 1.1), (10_000, 1.3), (1000, 1.9)] {
            let found = reaching(&gradient, reached_by(e, wanted));
            assert!(found >= wanted && found as f64 <= most * wanted as f64, "{found} of {wanted}");
        }
    }

    #[test]
    fn a_count_of_all_is_hardly_more_than_the_exact_one() {
        for len in [30_000, 30_003] {
            let gradient = normal(len, 3);
            let zeros = vec![0.0; gradient.len()];
            let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
            assert_eq!(e.sample().count(), len);
            for wanted in [30, 300, 3000] {
                let exact = exactly_reached_by(e, wanted);
                assert_eq!(reaching(&gradient, exact), wanted);
                let found = reaching(&gradient, reached_by(e, wanted));
                assert!((wanted..=wanted + wanted / 15 + 1).contains(&found), "{found} of {wanted}");
            }
        }
    }

    #[test]
    fn zeros_are_never_selected() {
        let zeros = vec![0.0; 100];
        let mut gradient = zeros.clone();
        gradient[7] = 1e-30;
        let e = Compensated { gradient: &gradient, residual: &zeros, rescale: 1.0 };
        assert_eq!(reaching(&gradient, reached_by(e, 10)), 1);
        assert_eq!(reaching(&gradient, exactly_reached_by(e, 10)), 1);
    }
}
