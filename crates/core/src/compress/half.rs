//! All of e in two bytes each: half of a dense step's bytes whatever the gradient is like. No I/O.
//!
//! Every rank sends each owner the elements of the owner's range as bf16; the owner adds them as f32 in rank order, and
//! sends the sum to all, as bf16 again. What rounding takes off stays in the residual of whoever rounded, so mass is
//! conserved as in a sparse step. There are no indices, and lengths are known.

use half::bf16;

use super::{
    compressor::Step, cost::ExchangeCost, gate::CompressionDecision, layout::SparseLayout, wire::WireError,
};
use crate::exchange_plan::Bucket;

/// Bytes of an element.
const HALF_BYTES: usize = 2;

/// Bytes of what `owner` owns of a bucket.
pub fn half_length(bucket: &Bucket, owner: usize) -> usize {
    HALF_BYTES * bucket.owned_range(owner).len()
}

/// Bytes that `rank` sends: to each owner its range, and its own range to all.
pub fn half_bytes(layout: &SparseLayout, rank: usize) -> u64 {
    let own: usize = layout.buckets.iter().map(|bucket| half_length(&bucket.bucket, rank)).sum();
    let others = layout.world_size.saturating_sub(1);
    (HALF_BYTES * layout.total_elements - own + own * others) as u64
}

/// What a step in half precision asks of the rank that sends most.
pub(super) fn half_cost(layout: &SparseLayout) -> ExchangeCost {
    let bytes = (0..layout.world_size).map(|rank| half_bytes(layout, rank));
    ExchangeCost {
        decision: CompressionDecision::Half,
        worst_bytes: bytes.max().unwrap_or(0),
        rounds: 2 * layout.buckets.len() as u32,
        elements: layout.total_elements as u64,
    }
}

impl Step<'_> {
    /// Per owner, all elements of its range of the bucket.
    pub fn halves_for_owners(&mut self, number: usize, gradient: &[f32]) -> Vec<Vec<u8>> {
        self.look(number, gradient);
        let (rescale, ranks) = (self.rescale, self.world_size());
        let bucket = self.bucket(number).clone();
        let residual = self.residual(number);
        let of_owner = |owner: usize| {
            let range = bucket.owned_within(owner);
            let mut out = vec![0; half_length(&bucket, owner)];
            let each = residual[range.clone()].iter_mut().zip(&gradient[range]);
            for ((r, g), out) in each.zip(out.as_chunks_mut().0) {
                (*out, *r) = send(*g + rescale * *r);
            }
            out
        };
        (0..ranks).map(of_owner).collect()
    }

    /// The owner's sum of what the ranks sent of the bucket (`parts`, in rank order), for all.
    pub fn own_halves(&mut self, number: usize, rank: usize, parts: &[&[u8]]) -> Result<Vec<u8>, WireError> {
        let length = half_length(self.bucket(number), rank);
        parts.iter().try_for_each(|part| check(part, length))?;
        let range = self.bucket(number).owned_within(rank);
        let (mut out, mut sum) = (vec![0; length], vec![0.0; range.len()]);
        for (place, part) in parts.iter().enumerate() {
            let terms = sum.iter_mut().zip(part.as_chunks().0);
            // The first is no addition to zero, which would lose the sign of another zero.
            if place == 0 {
                terms.for_each(|(sum, term)| *sum = read(*term));
            } else {
                terms.for_each(|(sum, term)| *sum += read(*term));
            }
        }
        let each = self.residual(number)[range].iter_mut().zip(&sum);
        for ((r, sum), out) in each.zip(out.as_chunks_mut().0) {
            let (sent, error) = send(*sum);
            *out = sent;
            *r += error;
        }
        Ok(out)
    }
}

/// The owners' sums of one bucket into `sum`; `parts` in the order of owners as [`Step::own_halves`] makes them.
pub fn deliver_halves(bucket: &Bucket, parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    for (owner, part) in parts.iter().enumerate() {
        check(part, half_length(bucket, owner))?;
        for (place, sent) in sum[bucket.owned_within(owner)].iter_mut().zip(part.as_chunks().0) {
            *place = read(*sent);
        }
    }
    Ok(())
}

fn check(part: &[u8], length: usize) -> Result<(), WireError> {
    if part.len() == length { Ok(()) } else { Err(WireError::Length { bytes: part.len(), needed: length }) }
}

/// `value` as it travels, and what that rounds off. What is no number is sent and nothing of it kept, so that it does not come
/// back.
fn send(value: f32) -> ([u8; HALF_BYTES], f32) {
    let most = bf16::MAX.to_f32();
    let narrow = narrowed(value.clamp(-most, most));
    let sent = narrow.to_le_bytes();
    let error = value - read(sent);
    (sent, if error.is_finite() { error } else { 0.0 })
}

/// The bits of [`bf16::from_f32`], to nearest and to even, without a branch: several elements at a time.
fn narrowed(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let no_number = (bits >> 16) | 0x40;
    (if value.is_nan() { no_number } else { nearest }) as u16
}

fn read(sent: [u8; HALF_BYTES]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(sent)) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{compressor::Compressor, exchange::dense_bytes, gate::EnergyOf, wire::ValueFormat};

    fn rank(layout: &SparseLayout) -> Compressor {
        Compressor::new(vec![layout.clone()], EnergyOf::Compensated, ValueFormat::Bf16)
    }

    #[test]
    fn it_takes_half_of_the_bytes_of_a_dense_step() {
        for ranks in [2, 3, 4, 8, 32] {
            let layout = SparseLayout::new(&[0, 4000], 1_000_000, ranks, 0.1);
            let share = half_cost(&layout).worst_bytes as f64 / dense_bytes(&layout) as f64;
            assert!((0.5..0.51).contains(&share), "{ranks}: {share}");
        }
    }

    #[test]
    fn what_rounding_takes_off_is_kept_and_what_is_no_number_is_not() {
        let layout = SparseLayout::new(&[0], 4, 2, 1.0);
        let mut one = rank(&layout);
        let value = 1.0 + f32::EPSILON;
        let mut step = one.begin(0.1).unwrap();
        let parts = step.halves_for_owners(0, &[value, f32::INFINITY, f32::NAN, 3.0]);
        step.finish();
        assert_eq!(one.residual().unwrap(), [f32::EPSILON, 0.0, 0.0, 0.0]);
        let read_at = |at: usize| read([parts[0][at], parts[0][at + 1]]);
        assert_eq!((read_at(0), read_at(2)), (1.0, bf16::MAX.to_f32()));
        assert!(read_at(4).is_nan());
    }

    #[test]
    fn values_are_rounded_as_the_format_says() {
        let odd =
            [0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, -f32::NAN].map(f32::to_bits);
        // All exponents and signs, with ties, their neighbours and whatever else a stride meets.
        let bits = (0..=u32::MAX).step_by(65_521).chain((0..=u32::MAX).step_by(1 << 15)).chain(odd);
        for bits in bits.flat_map(|bits| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)]) {
            let value = f32::from_bits(bits);
            assert_eq!(narrowed(value), bf16::from_f32(value).to_bits(), "{bits:#x}");
        }
        for bits in 0..=u16::MAX {
            let (value, expected) = (read(bits.to_le_bytes()), bf16::from_bits(bits).to_f32());
            assert!(
                value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn a_part_of_another_length_is_an_error() {
        let layout = SparseLayout::new(&[0], 40, 2, 1.0);
        let mut owner = rank(&layout);
        let refused = owner.begin(0.1).unwrap().own_halves(0, 0, &[&[0; 64], &[0; 62]]);
        assert_eq!(refused, Err(WireError::Length { bytes: 62, needed: 64 }));
        let mut sum = vec![0.0; 40];
        assert!(
            deliver_halves(&layout.buckets[0].bucket, &[&[0; 64], &[0; 64]], &mut sum).is_err(),
            "the second owns 8"
        );
    }
}
