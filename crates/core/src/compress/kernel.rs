//! The one pass: compensate, select, keep back, and the energy. No I/O.
//!
//! All instruction sets compute the same operations in the same order, over groups of 16 lanes. None fuses a
//! multiplication with an addition, so the outputs have the same bits.
#![allow(unsafe_code)] // Instructions of this CPU, and writing behind the end of a vector; each says why it may.

#[cfg(target_arch = "x86_64")]
mod x86;

/// Elements treated alike side by side: one AVX-512 register, two AVX2 registers.
const LANES: usize = 16;
/// Elements whose squares are added as f32 before they enter the f64 sum: few enough that the sum stays exact to 1e-6.
const BLOCK_ELEMENTS: usize = 1024;

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 F.
    Avx512,
    /// AVX2.
    Avx2,
    /// What every CPU of the architecture has.
    Baseline,
}

impl InstructionSet {
    /// All that this CPU has, the widest first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                sets.push(Self::Avx512);
            }
            if has_avx2() {
                sets.push(Self::Avx2);
            }
        }
        sets.push(Self::Baseline);
        sets
    }

    /// The widest that this CPU has.
    pub fn widest() -> Self {
        Self::available()[0]
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("popcnt")
}

/// What was selected: indices ascending, one value each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    /// Places, counted from the start of the bucket.
    pub indices: Vec<u32>,
    /// e at these places.
    pub values: Vec<f32>,
}

impl Kept {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.indices.clear();
        self.values.clear();
    }

    fn push(&mut self, index: usize, value: f32) {
        self.indices.push(index as u32);
        self.values.push(value);
    }

    /// Σ of the squares.
    pub fn energy(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
    }
}

/// The scalars of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// η_{t−1}/η_t, what the residual is multiplied by.
    pub rescale: f32,
    /// t: elements of at least this magnitude are kept, and what is no number.
    pub threshold: f32,
    /// Place of the first element within the bucket.
    pub first_index: usize,
}

/// Full groups of at most [`BLOCK_ELEMENTS`], the first element of which has the given index: their squares per lane.
type Block = fn(Pass, usize, &[[f32; LANES]], &mut [[f32; LANES]], &mut Kept) -> [f32; LANES];

/// Replaces `residual` by e = gradient + rescale·residual, moves the elements of at least the threshold's magnitude to
/// the end of `kept` (zero in the residual), and returns ‖e‖². Gradient and residual must be of one length.
pub fn compensate_and_select(
    set: InstructionSet,
    pass: Pass,
    gradient: &[f32],
    residual: &mut [f32],
    kept: &mut Kept,
) -> f64 {
    assert_eq!(gradient.len(), residual.len());
    assert_eq!(kept.indices.len(), kept.values.len());
    let block: Block = match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 if has_avx512() => |pass, index, gradient, residual, kept| {
            // SAFETY: this CPU has the instructions.
            unsafe { x86::avx512_block(pass, index, gradient, residual, kept) }
        },
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 if has_avx2() => |pass, index, gradient, residual, kept| {
            // SAFETY: this CPU has the instructions.
            unsafe { x86::avx2_block(pass, index, gradient, residual, kept) }
        },
        _ => plain_block,
    };
    let mut energy = 0.0_f64;
    let mut index = pass.first_index;
    let blocks = gradient.chunks(BLOCK_ELEMENTS).zip(residual.chunks_mut(BLOCK_ELEMENTS));
    for (gradient, residual) in blocks {
        let (gradient_groups, gradient_rest) = gradient.as_chunks::<LANES>();
        let (residual_groups, residual_rest) = residual.as_chunks_mut::<LANES>();
        let mut squares = block(pass, index, gradient_groups, residual_groups, kept);
        let rest = index + gradient_groups.len() * LANES;
        group(pass, rest, gradient_rest, residual_rest, &mut squares, kept);
        index += gradient.len();
        // One order on every path, in double precision.
        energy += squares.iter().map(|&square| f64::from(square)).sum::<f64>();
    }
    energy
}

fn plain_block(
    pass: Pass,
    first_index: usize,
    gradient: &[[f32; LANES]],
    residual: &mut [[f32; LANES]],
    kept: &mut Kept,
) -> [f32; LANES] {
    let mut squares = [0.0; LANES];
    for (number, (g, r)) in gradient.iter().zip(residual).enumerate() {
        group(pass, first_index + number * LANES, g, r, &mut squares, kept);
    }
    squares
}

/// e of up to 16 elements, less those that are large enough, into `residual`; their squares into the lanes.
fn group(
    pass: Pass,
    index: usize,
    gradient: &[f32],
    residual: &mut [f32],
    squares: &mut [f32; LANES],
    kept: &mut Kept,
) {
    let mut mask = 0_u32;
    for (lane, ((g, r), square)) in gradient.iter().zip(&mut *residual).zip(squares).enumerate() {
        let e = *g + pass.rescale * *r;
        *r = e;
        *square += e * e;
        // What is no number is sent: kept back it would stay for ever and unseen.
        let is_small = e.abs() < pass.threshold;
        mask |= u32::from(!is_small) << lane;
    }
    while mask != 0 {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        kept.push(index + lane, residual[lane]);
        residual[lane] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, without groups or lanes.
    fn plainly(pass: Pass, gradient: &[f32], residual: &mut [f32], kept: &mut Kept) -> f64 {
        let mut energy = 0.0;
        for (i, (g, r)) in gradient.iter().zip(residual).enumerate() {
            *r = *g + pass.rescale * *r;
            energy += f64::from(*r) * f64::from(*r);
            let is_small = r.abs() < pass.threshold;
            if !is_small {
                kept.push(pass.first_index + i, *r);
                *r = 0.0;
            }
        }
        energy
    }

    /// All that is no number counts as one.
    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
    }

    fn numbers(len: usize) -> impl Strategy<Value = Vec<f32>> {
        let number = prop_oneof![
            8 => (-4.0_f32..4.0).prop_map(|x| x * x * x),
            1 => Just(0.0_f32),
            1 => any::<f32>(),
            1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-0.0)],
        ];
        proptest::collection::vec(number, len)
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_bits_of_the_plain_loop(
            (gradient, residual) in (0_usize..3000).prop_flat_map(|len| (numbers(len), numbers(len))),
            rescale in 0.1_f32..3.0,
            threshold in 0.0_f32..20.0,
        ) {
            let pass = Pass { rescale, threshold, first_index: 7 };
            let (mut expected_residual, mut expected) = (residual.clone(), Kept::default());
            let plain_energy = plainly(pass, &gradient, &mut expected_residual, &mut expected);
            let mut first_energy = None;
            for set in InstructionSet::available() {
                let (mut own_residual, mut kept) = (residual.clone(), Kept::default());
                let energy = compensate_and_select(set, pass, &gradient, &mut own_residual, &mut kept);
                prop_assert_eq!(bits(&own_residual), bits(&expected_residual), "{:?}", set);
                prop_assert_eq!(&kept.indices, &expected.indices, "{:?}", set);
                prop_assert_eq!(bits(&kept.values), bits(&expected.values), "{:?}", set);
                let first = *first_energy.get_or_insert(energy);
                prop_assert!(energy == first || energy.is_nan() && first.is_nan(), "{:?}", set);
                if plain_energy < 1e30 {
                    prop_assert!((energy - plain_energy).abs() <= 1e-5 * plain_energy, "{} {}", energy, plain_energy);
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_sent_and_not_kept_back() {
        let pass = Pass { rescale: 1.0, threshold: 10.0, first_index: 0 };
        let (mut residual, mut kept) = (vec![1.0, 2.0], Kept::default());
        compensate_and_select(
            InstructionSet::widest(),
            pass,
            &[f32::NAN, f32::INFINITY],
            &mut residual,
            &mut kept,
        );
        assert_eq!(kept.indices, [0, 1]);
        assert!(kept.values[0].is_nan());
        assert_eq!(residual, [0.0, 0.0]);
    }
}
