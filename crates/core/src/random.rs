//! Randomness as a pure function of (seed, stream, index): random access, stable for ever, equal on every machine. No I/O.
//!
//! The generator is SplitMix64's finaliser (Steele, Lea, Flood 2014) applied to a key of seed and stream and then to the
//! index. It serves simulation and augmentation; it is no cryptography. Changing one constant changes every recorded
//! run, so the values are pinned by tests.

/// 2^64 / golden ratio: the increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection of 64 bits in which every input bit reaches every output bit.
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A named stream of random words: what the words are for keeps them apart from all others of the same seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomStream {
    key: u64,
}

impl RandomStream {
    /// The stream `stream` of `seed`.
    pub const fn new(seed: u64, stream: u64) -> Self {
        let key = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(stream.wrapping_mul(GOLDEN)));
        Self { key }
    }

    /// A stream within this stream.
    #[must_use]
    pub const fn substream(self, stream: u64) -> Self {
        Self::new(self.key, stream)
    }

    /// The word at `index`, uniform over 64 bits.
    pub const fn word(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// A number in [0, 1) with 53 random bits.
    pub const fn unit(self, index: u64) -> f64 {
        (self.word(index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number of about the standard normal distribution: twelve even ones minus six (Irwin and Hall). Additions only, so
    /// that no mathematics library has a say in the bits; it never leaves ±6.
    pub fn normal(self, index: u64) -> f64 {
        let first = index * 12;
        (first..first + 12).map(|index| self.unit(index)).sum::<f64>() - 6.0
    }

    /// A number in [0, bound); 0 for a bound of 0. The bias is below bound / 2^64.
    pub const fn below(self, index: u64, bound: u64) -> u64 {
        ((self.word(index) as u128 * bound as u128) >> 64) as u64
    }
}

/// A seeded permutation of `0..len` with random access and no table: a Feistel network over the next even power of two,
/// walked until the image lies inside (at most four times as many points as `len`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    stream: RandomStream,
    len: u64,
    half_bits: u32,
}

/// Rounds of the Feistel network. Four make a pseudo-random permutation (Luby and Rackoff); more cost little and mix
/// small domains better.
const ROUNDS: u64 = 8;

impl Permutation {
    /// The permutation of `0..len` drawn from `stream`.
    pub const fn new(stream: RandomStream, len: u64) -> Self {
        let bits = if len <= 1 { 0 } else { 64 - (len - 1).leading_zeros() };
        let half_bits = if bits < 2 { 1 } else { bits.div_ceil(2) };
        Self { stream, len, half_bits }
    }

    /// Where `index` goes; `index` is taken modulo the length. 0 for an empty permutation.
    pub const fn apply(&self, index: u64) -> u64 {
        if self.len <= 1 {
            return 0;
        }
        let mut image = self.encrypt(index % self.len);
        while image >= self.len {
            image = self.encrypt(image);
        }
        image
    }

    const fn encrypt(&self, word: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let mut left = word >> self.half_bits;
        let mut right = word & mask;
        let mut round = 0;
        while round < ROUNDS {
            let next = left ^ (self.stream.substream(round).word(right) & mask);
            left = right;
            right = next;
            round += 1;
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_for_ever() {
        // SplitMix64 with state 0 gives 0xe220a8397b1dcdaf first: the published reference value of the finaliser.
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
        let stream = RandomStream::new(1234, 7);
        let words: Vec<u64> = (0..3).map(|i| stream.word(i)).collect();
        assert_eq!(words, PINNED_WORDS);
        let permutation = Permutation::new(stream, 10);
        let images: Vec<u64> = (0..10).map(|i| permutation.apply(i)).collect();
        assert_eq!(images, PINNED_PERMUTATION);
    }

    const PINNED_WORDS: [u64; 3] =
        [6_508_596_784_743_280_115, 17_893_673_160_414_006_014, 8_438_080_830_296_065_651];
    const PINNED_PERMUTATION: [u64; 10] = [2, 1, 0, 6, 4, 9, 7, 8, 5, 3];

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        const COUNT: u64 = 100_000;
        let stream = RandomStream::new(3, 2);
        let moment = |power| (0..COUNT).map(|i| stream.normal(i).powi(power)).sum::<f64>() / COUNT as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        // 3 − 0.1: tails end at ±6.
        assert!((moment(4) - 2.9).abs() < 0.1, "fourth moment {}", moment(4));
    }

    #[test]
    fn unit_numbers_fill_the_interval_evenly() {
        let stream = RandomStream::new(3, 1);
        let mut bins = [0_u32; 10];
        for i in 0..100_000 {
            let unit = stream.unit(i);
            assert!((0.0..1.0).contains(&unit));
            bins[(unit * 10.0) as usize] += 1;
        }
        assert!(bins.iter().all(|&n| (9_600..10_400).contains(&n)), "{bins:?}");
    }
}
