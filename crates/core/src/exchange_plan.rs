//! How a flat gradient buffer is cut into buckets and each bucket into owner ranges, and the order of addition. No I/O.
//!
//! All CPU engines add in rank order: the owner of a range adds rank 0 … n−1. So in-process, Gloo and replay give the
//! same bits, whatever the cut.

use std::ops::{AddAssign, Range};

/// Elements of an owner range are a multiple of this: 64 bytes of f32.
pub const OWNER_ALIGN_ELEMENTS: usize = 16;
/// Bytes of the first bucket: small, so that the exchange begins early in backward.
pub const FIRST_BUCKET_BYTES: usize = 1 << 20;
/// Bytes of the other buckets.
pub const BUCKET_BYTES: usize = 25 << 20;
/// Elements added at a time: one contribution and the sum stay in the first-level cache.
const ADD_BLOCK_ELEMENTS: usize = 4096;

/// One contiguous part of the flat buffer that is exchanged at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Elements of the flat buffer.
    pub range: Range<usize>,
    /// Elements that each rank owns, the same for all so that an equal all-gather serves; the last ranks' may reach past
    /// the bucket's end, into padding.
    pub owned_elements: usize,
}

impl Bucket {
    /// What `rank` owns, in elements of the flat buffer, without padding: empty for a rank past the end.
    pub fn owned_range(&self, rank: usize) -> Range<usize> {
        let cut = |rank: usize| (self.range.start + rank * self.owned_elements).min(self.range.end);
        cut(rank)..cut(rank + 1)
    }

    /// The same, counted from the start of the bucket.
    pub fn owned_within(&self, rank: usize) -> Range<usize> {
        let Range { start, end } = self.owned_range(rank);
        start - self.range.start..end - self.range.start
    }
}

/// Cuts a flat buffer of `total_elements` elements of `element_bytes` bytes into buckets, in the order of exchange:
/// reverse layer order, because backward finishes the last layer first. `slot_offsets` are the first elements of the
/// tensors, ascending; a tensor is never cut. Together the buckets cover the buffer once, padding included.
pub fn plan_buckets(
    slot_offsets: &[usize],
    total_elements: usize,
    element_bytes: usize,
    world_size: usize,
) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    let mut end = total_elements;
    for (i, &offset) in slot_offsets.iter().enumerate().rev() {
        // What lies before the first tensor belongs to its bucket.
        let start = if i == 0 { 0 } else { offset };
        let wanted_bytes = if buckets.is_empty() { FIRST_BUCKET_BYTES } else { BUCKET_BYTES };
        if (i == 0 || (end - start) * element_bytes >= wanted_bytes) && end > start {
            buckets
                .push(Bucket { range: start..end, owned_elements: owned_elements(end - start, world_size) });
            end = start;
        }
    }
    buckets
}

fn owned_elements(elements: usize, world_size: usize) -> usize {
    elements.div_ceil(world_size.max(1)).next_multiple_of(OWNER_ALIGN_ELEMENTS)
}

/// `out` = contribution of rank 0 + … + contribution of rank n−1, added in this order in each element. Contributions must
/// be as long as `out`; without contributions `out` keeps its values.
pub fn add_in_rank_order<T: Copy + AddAssign>(out: &mut [T], contributions: &[&[T]]) {
    let Some((first, others)) = contributions.split_first() else { return };
    for (i, block) in out.chunks_mut(ADD_BLOCK_ELEMENTS).enumerate() {
        let part = i * ADD_BLOCK_ELEMENTS..i * ADD_BLOCK_ELEMENTS + block.len();
        block.copy_from_slice(&first[part.clone()]);
        for other in others {
            for (sum, &term) in block.iter_mut().zip(&other[part.clone()]) {
                *sum += term;
            }
        }
    }
}

#[cfg(test)]
mod tests;
