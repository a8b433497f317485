//! All of e in two bytes each: half of a dense step's bytes whatever the gradient is like. No I/O.
//!
//! Every rank sends each owner the elements of the owner's range as bf16; the owner adds them as f32 in rank order, and
//! sends the sum to all, as bf16 again. What rounding takes off stays in the residual of whoever rounded, so mass is
//! conserved as in a sparse step. There are no indices, and lengths are known.

use half::bf16;

use super::{
    compressor::Compressor,
    cost::ExchangeCost,
    gate::{CompressionDecision, EnergyStatistics},
    layout::SparseLayout,
    wire::WireError,
};

/// Bytes of an element.
const HALF_BYTES: usize = 2;

/// Bytes of what `owner` owns.
pub fn half_length(layout: &SparseLayout, owner: usize) -> usize {
    let elements = layout.buckets.iter().map(|bucket| bucket.bucket.owned_range(owner).len());
    HALF_BYTES * elements.sum::<usize>()
}

/// Bytes that `rank` sends: to each owner its range, and its own range to all.
pub fn half_bytes(layout: &SparseLayout, rank: usize) -> u64 {
    let own = half_length(layout, rank);
    let others = layout.world_size.saturating_sub(1);
    (HALF_BYTES * layout.total_elements - own + own * others) as u64
}

/// What a step in half precision asks of the rank that sends most.
pub(super) fn half_cost(layout: &SparseLayout) -> ExchangeCost {
    let bytes = (0..layout.world_size).map(|rank| half_bytes(layout, rank));
    ExchangeCost {
        decision: CompressionDecision::Half,
        worst_bytes: bytes.max().unwrap_or(0),
        rounds: 2,
        elements: layout.total_elements as u64,
    }
}

impl Compressor {
    /// Per owner, all elements of its ranges, bucket after bucket; and what the job's ratios would have lost.
    pub fn halves_for_owners(
        &mut self,
        gradient: &[f32],
        learning_rate: f64,
    ) -> (Vec<Vec<u8>>, EnergyStatistics) {
        let rescale = self.rescale(learning_rate);
        let energy = self.sampled(gradient, rescale);
        let (residual, layout) = self.keeping(Some(learning_rate));
        let of_owner = |owner: usize| {
            let mut out = Vec::with_capacity(half_length(layout, owner));
            for bucket in &layout.buckets {
                let range = bucket.bucket.owned_range(owner);
                for (r, g) in residual[range.clone()].iter_mut().zip(&gradient[range]) {
                    *r = send(*g + rescale * *r, &mut out);
                }
            }
            out
        };
        ((0..layout.world_size).map(of_owner).collect(), energy)
    }

    /// The owner's sum of what the ranks sent (`parts`, in rank order), for all.
    pub fn own_halves(&mut self, rank: usize, parts: &[&[u8]]) -> Result<Vec<u8>, WireError> {
        let (residual, layout) = self.keeping(None);
        let length = half_length(layout, rank);
        parts.iter().try_for_each(|part| check(part, length))?;
        let (mut out, mut at) = (Vec::with_capacity(length), 0);
        for bucket in &layout.buckets {
            for r in &mut residual[bucket.bucket.owned_range(rank)] {
                let sum = parts.iter().map(|part| read(part, at)).reduce(|sum, term| sum + term);
                *r += send(sum.unwrap_or(0.0), &mut out);
                at += HALF_BYTES;
            }
        }
        Ok(out)
    }
}

/// The owners' sums into `sum`; `parts` in the order of owners as [`Compressor::own_halves`] makes them.
pub fn deliver_halves(layout: &SparseLayout, parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    for (owner, part) in parts.iter().enumerate() {
        check(part, half_length(layout, owner))?;
        let mut at = 0;
        for bucket in &layout.buckets {
            for place in &mut sum[bucket.bucket.owned_range(owner)] {
                *place = read(part, at);
                at += HALF_BYTES;
            }
        }
    }
    Ok(())
}

fn check(part: &[u8], length: usize) -> Result<(), WireError> {
    if part.len() == length { Ok(()) } else { Err(WireError::Length { bytes: part.len(), needed: length }) }
}

/// Appends `value`; what that rounds off. What is no number is sent and nothing of it kept, so that it does not come back.
fn send(value: f32, out: &mut Vec<u8>) -> f32 {
    let most = bf16::MAX.to_f32();
    let narrow = bf16::from_f32(value.clamp(-most, most));
    out.extend_from_slice(&narrow.to_le_bytes());
    let error = value - narrow.to_f32();
    if error.is_finite() { error } else { 0.0 }
}

fn read(part: &[u8], at: usize) -> f32 {
    bf16::from_le_bytes([part[at], part[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{exchange::dense_bytes, gate::EnergyOf, wire::ValueFormat};

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
        let (parts, _) = one.halves_for_owners(&[value, f32::INFINITY, f32::NAN, 3.0], 0.1);
        assert_eq!(one.residual(), [f32::EPSILON, 0.0, 0.0, 0.0]);
        assert_eq!(read(&parts[0], 0), 1.0);
        assert_eq!(read(&parts[0], 2), bf16::MAX.to_f32());
        assert!(read(&parts[0], 4).is_nan());
    }

    #[test]
    fn a_part_of_another_length_is_an_error() {
        let layout = SparseLayout::new(&[0], 40, 2, 1.0);
        let refused = rank(&layout).own_halves(0, &[&[0; 64], &[0; 62]]);
        assert_eq!(refused, Err(WireError::Length { bytes: 62, needed: 64 }));
        let mut sum = vec![0.0; 40];
        assert!(deliver_halves(&layout, &[&[0; 64], &[0; 64]], &mut sum).is_err(), "the second owns 8");
    }
}
