//! How much of each bucket and layer a sparse step sends at most. No I/O.

use std::ops::Range;

use crate::exchange_plan::{Bucket, plan_buckets};

/// Bytes of an f32.
pub(super) const ELEMENT_BYTES: usize = 4;
/// k_max = ⌈1.1·CR·len⌉: how far a threshold may miss before the excess stays behind.
const SLACK: f64 = 1.1;
/// Share of its fair part, CR of its elements, that a layer always sends.
const FLOOR_SHARE: f64 = 0.25;

/// One tensor of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Elements, counted from the start of the bucket; the padding behind a tensor is part of it.
    pub range: Range<usize>,
    /// At least so many of its elements are sent, if they are not zero.
    pub floor: usize,
}

/// One bucket, selected and encoded by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseBucket {
    /// Place in the flat buffer, and owner ranges.
    pub bucket: Bucket,
    /// Its tensors in order; they cover it.
    pub layers: Vec<Layer>,
    /// k, the elements that a threshold aims at.
    pub wanted: usize,
    /// k_max, the elements that are sent at most.
    pub most: usize,
}

/// All buckets of a flat gradient buffer, in the order of exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseLayout {
    /// The buckets.
    pub buckets: Vec<SparseBucket>,
    /// Elements of the flat buffer.
    pub total_elements: usize,
    /// n.
    pub world_size: usize,
    /// CR in (0, 1].
    pub ratio: f64,
}

impl SparseLayout {
    /// For a flat f32 buffer of `total_elements` whose tensors start at `slot_offsets` (ascending), between `world_size`
    /// ranks at the compression ratio `ratio`. The buckets are those of the dense exchange.
    pub fn new(slot_offsets: &[usize], total_elements: usize, world_size: usize, ratio: f64) -> Self {
        let buckets = plan_buckets(slot_offsets, total_elements, ELEMENT_BYTES, world_size);
        let buckets = buckets.into_iter().map(|bucket| sparse(bucket, slot_offsets, ratio)).collect();
        Self { buckets, total_elements, world_size, ratio }
    }

    /// The same buffer, cut alike, at another ratio.
    #[must_use]
    pub fn at(&self, ratio: f64) -> Self {
        let bucket = |it: &SparseBucket| {
            let slots: Vec<usize> =
                it.layers.iter().map(|layer| it.bucket.range.start + layer.range.start).collect();
            sparse(it.bucket.clone(), &slots, ratio)
        };
        Self { buckets: self.buckets.iter().map(bucket).collect(), ratio, ..*self }
    }

    /// Elements that the owner of `elements` elements passes on at most.
    pub fn owner_most(&self, elements: usize) -> usize {
        most(self.ratio, elements)
    }
}

/// ⌈1.1·CR·len⌉, at most all.
fn most(ratio: f64, elements: usize) -> usize {
    ((SLACK * ratio * elements as f64).ceil() as usize).min(elements)
}

fn sparse(bucket: Bucket, slot_offsets: &[usize], ratio: f64) -> SparseBucket {
    let Range { start, end } = bucket.range;
    let mut cuts: Vec<usize> =
        slot_offsets.iter().copied().filter(|cut| (start..end).contains(cut)).collect();
    if cuts.first() != Some(&start) {
        cuts.insert(0, start);
    }
    cuts.dedup();
    cuts.push(end);
    let elements = end - start;
    let most = most(ratio, elements);
    let wanted = ((ratio * elements as f64).ceil() as usize).min(most);
    let ranges = cuts.windows(2).map(|pair| pair[0] - start..pair[1] - start);
    let fair = |range: &Range<usize>| (FLOOR_SHARE * ratio * range.len() as f64) as usize;
    // One element for the smallest tensors too, where so many may be sent.
    let floors: usize = ranges.clone().map(|range| fair(&range).max(1)).sum();
    let least = usize::from(floors <= most);
    let layers = ranges.map(|range| Layer { floor: fair(&range).max(least), range }).collect();
    SparseBucket { bucket, layers, wanted, most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_ratio_cuts_the_buffer_as_a_layout_made_for_it_does() {
        let slots: Vec<usize> = (0..40).map(|slot| slot * 16_384).collect();
        for (before, after) in [(0.1, 0.01), (0.01, 0.5), (1.0, 0.001)] {
            let layout = |ratio| SparseLayout::new(&slots, 700_000, 4, ratio);
            assert_eq!(layout(before).at(after), layout(after));
        }
    }

    #[test]
    fn layers_cover_each_bucket_and_their_floors_fit_into_what_is_sent() {
        for ratio in [1.0, 0.1, 0.01, 0.001] {
            for total in [33, 48, 1008, 600_000] {
                let layout = SparseLayout::new(&[0, 16, 32], total, 4, ratio);
                let covered: usize = layout.buckets.iter().map(|bucket| bucket.bucket.range.len()).sum();
                assert_eq!(covered, total);
                for bucket in &layout.buckets {
                    let floors: usize = bucket.layers.iter().map(|layer| layer.floor).sum();
                    assert!(floors <= bucket.most, "{bucket:?}");
                    assert!(bucket.wanted <= bucket.most && bucket.most <= bucket.bucket.range.len());
                    assert_eq!(bucket.layers[0].range.start, 0);
                    assert_eq!(bucket.layers.last().unwrap().range.end, bucket.bucket.range.len());
                }
            }
        }
    }
}
