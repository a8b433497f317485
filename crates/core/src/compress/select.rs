//! Selection within one bucket: the k largest or nearly so, a floor for every layer, never more than k_max. No I/O.

use std::ops::Range;

use super::{
    kernel::{InstructionSet, Kept, Pass, compensate_and_select},
    layout::{Layer, SparseBucket},
    threshold::{Compensated, SMALLEST, exactly_reached_by, magnitude_bits, reached_by, surely_reached_by},
};

/// A count within this share of k is close enough: sorting the surplus would cost more than sending it.
const CLOSE: f64 = 0.08;
/// Up to so many elements, sorting all is cheaper than counting them.
const SORTED_ELEMENTS: usize = 1 << 14;
/// Elements that are looked at again at a time.
const ZEROS: [f32; 4096] = [0.0; 4096];

/// Replaces `residual` by e less what is moved to `kept` (emptied first), and returns ‖e‖². `gradient` and `residual`
/// are the bucket's parts of the flat buffers.
pub fn select(
    set: InstructionSet,
    bucket: &SparseBucket,
    e: (&[f32], &mut [f32]),
    rescale: f32,
    kept: &mut Kept,
) -> f64 {
    let (gradient, residual) = e;
    kept.clear();
    let threshold = reached_by(Compensated { gradient, residual, rescale }, bucket.wanted);
    let pass = Pass { rescale, threshold, first_index: 0 };
    let energy = compensate_and_select(set, pass, gradient, residual, kept);
    let found = kept.len() as f64;
    let wanted = bucket.wanted as f64;
    if found < (1.0 - CLOSE) * wanted && threshold > SMALLEST {
        // The sample was not like the rest.
        give_back(0, residual, kept);
        take_largest(set, bucket.wanted, 0, residual, kept);
    } else if found > (1.0 + CLOSE) * wanted {
        trim(bucket.wanted, 0, residual, kept);
    }
    // Fewer elements may leave more layers below their floors: then all floors are kept free.
    let floors: usize = bucket.layers.iter().map(|layer| layer.floor).sum();
    for reserved in [lacking(bucket, kept), floors] {
        if kept.len() + lacking(bucket, kept) > bucket.most {
            trim(bucket.most - reserved, 0, residual, kept);
        }
    }
    if lacking(bucket, kept) > 0 {
        raise_to_floors(set, bucket, residual, kept);
    }
    energy
}

/// Moves the `wanted` largest of `residual`, exactly, and equal ones in order of place, to `kept`, which is empty. The
/// first element has the index `first_index`. Zeros are never moved.
pub fn take_largest(
    set: InstructionSet,
    wanted: usize,
    first_index: usize,
    residual: &mut [f32],
    kept: &mut Kept,
) {
    let e = Compensated { gradient: residual, residual, rescale: 0.0 };
    let reached = if residual.len() <= SORTED_ELEMENTS { exactly_reached_by } else { surely_reached_by };
    let mut pass = Pass { rescale: 1.0, threshold: reached(e, wanted), first_index };
    for part in residual.chunks_mut(ZEROS.len()) {
        compensate_and_select(set, pass, &ZEROS[..part.len()], part, kept);
        pass.first_index += part.len();
    }
    trim(wanted, first_index, residual, kept);
}

/// Gives all but the `wanted` largest of `kept` back to the residual; of equal ones the first stay.
fn trim(wanted: usize, first_index: usize, residual: &mut [f32], kept: &mut Kept) {
    if kept.len() <= wanted {
        return;
    }
    if wanted == 0 {
        give_back(first_index, residual, kept);
        return;
    }
    let mut magnitudes: Vec<u32> = kept.values.iter().map(|&value| magnitude_bits(value)).collect();
    let place = magnitudes.len() - wanted;
    let (_, &mut smallest, larger) = magnitudes.select_nth_unstable(place);
    let mut ties = wanted - larger.iter().filter(|&&magnitude| magnitude > smallest).count();
    let mut end = 0;
    for place in 0..kept.len() {
        let (index, value) = (kept.indices[place], kept.values[place]);
        let is_tie = magnitude_bits(value) == smallest;
        if magnitude_bits(value) < smallest || (is_tie && ties == 0) {
            residual[index as usize - first_index] = value;
            continue;
        }
        ties -= usize::from(is_tie);
        (kept.indices[end], kept.values[end]) = (index, value);
        end += 1;
    }
    kept.indices.truncate(end);
    kept.values.truncate(end);
}

/// Returns all that was kept to the residual.
fn give_back(first_index: usize, residual: &mut [f32], kept: &mut Kept) {
    for (index, value) in kept.indices.drain(..).zip(kept.values.drain(..)) {
        residual[index as usize - first_index] = value;
    }
}

/// Each layer with its places in `kept`.
fn shares<'a>(bucket: &'a SparseBucket, kept: &Kept) -> impl Iterator<Item = (&'a Layer, Range<usize>)> {
    let mut from = 0;
    bucket.layers.iter().map(move |layer| {
        let own = kept.indices[from..].partition_point(|&index| (index as usize) < layer.range.end);
        let share = from..from + own;
        from = share.end;
        (layer, share)
    })
}

/// Elements that layers have less than their floors.
fn lacking(bucket: &SparseBucket, kept: &Kept) -> usize {
    shares(bucket, kept).map(|(layer, share)| layer.floor.saturating_sub(share.len())).sum()
}

/// Adds the largest of those layers whose magnitudes hardly reach the bucket's threshold.
fn raise_to_floors(set: InstructionSet, bucket: &SparseBucket, residual: &mut [f32], kept: &mut Kept) {
    let mut raised = Kept::default();
    for (layer, share) in shares(bucket, kept) {
        let own = kept.indices[share.clone()].iter().copied().zip(kept.values[share.clone()].iter().copied());
        let mut elements: Vec<(u32, f32)> = own.collect();
        if share.len() < layer.floor {
            let mut more = Kept::default();
            let residual = &mut residual[layer.range.clone()];
            take_largest(set, layer.floor - share.len(), layer.range.start, residual, &mut more);
            elements.extend(more.indices.into_iter().zip(more.values));
            elements.sort_unstable_by_key(|(index, _)| *index);
        }
        raised.indices.extend(elements.iter().map(|(index, _)| index));
        raised.values.extend(elements.iter().map(|(_, value)| value));
    }
    *kept = raised;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{compress::layout::SparseLayout, random::RandomStream};

    /// A bucket of one rank of two, its gradient, and nothing left from earlier steps.
    fn selected(gradient: &[f32], offsets: &[usize], ratio: f64) -> (SparseBucket, Kept, Vec<f32>) {
        let layout = SparseLayout::new(offsets, gradient.len(), 2, ratio);
        let bucket = layout.buckets[0].clone();
        let (mut residual, mut kept) = (vec![0.0; gradient.len()], Kept::default());
        select(InstructionSet::widest(), &bucket, (gradient, &mut residual), 1.0, &mut kept);
        assert!(kept.indices.is_sorted_by(|a, b| a < b) && kept.len() <= bucket.most);
        (bucket, kept, residual)
    }

    #[test]
    fn the_exact_selection_is_the_k_largest_and_equal_ones_in_order() {
        let mut residual = vec![1.0, -5.0, 2.0, 2.0, -2.0, 9.0, 0.0];
        let mut kept = Kept::default();
        take_largest(InstructionSet::widest(), 4, 10, &mut residual, &mut kept);
        assert_eq!(kept.indices, [11, 12, 13, 15]);
        assert_eq!(kept.values, [-5.0, 2.0, 2.0, 9.0]);
        assert_eq!(residual, [1.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0]);
    }

    #[test]
    fn the_count_is_close_to_k_however_steep_the_tail() {
        let stream = RandomStream::new(5, 1);
        for power in [0.1_f64, 1.0, 8.0] {
            let gradient: Vec<f32> =
                (0..300_000_u64).map(|i| stream.unit(i).powf(power) as f32 - 0.001).collect();
            for ratio in [0.1, 0.01, 0.001] {
                let (bucket, kept, _) = selected(&gradient, &[0], ratio);
                assert!(kept.len().abs_diff(bucket.wanted) * 10 <= bucket.wanted, "{} {power}", kept.len());
            }
        }
    }

    #[test]
    fn what_a_sample_misses_is_mended() {
        // Of 300,000 elements the sample takes every eleventh run of eight: sees no large one, only large ones.
        for (place, ratio) in [(3, 1.0 / 11.0), (0, 0.2)] {
            let value = |i: usize| if i / 8 % 11 == place { 1.0 } else { 0.001 + i as f32 * 1e-9 };
            let gradient: Vec<f32> = (0..300_000).map(value).collect();
            let (bucket, kept, residual) = selected(&gradient, &[0], ratio);
            assert_eq!(kept.len(), bucket.wanted);
            let least = kept.values.iter().copied().fold(1.0, f32::min);
            assert!(residual.iter().all(|r| *r <= least), "a larger one than {least} is left");
        }
        let (bucket, kept, _) = selected(&vec![1.0; 300_000], &[0], 0.01);
        assert_eq!((kept.len(), kept.indices[bucket.wanted - 1]), (bucket.wanted, bucket.wanted as u32 - 1));
    }

    #[test]
    fn floors_take_no_more_room_than_they_lack() {
        // The quiet layer lacks all of its floor of 405, the loud one nothing of its own.
        let (loud, total) = (238_000, 400_000);
        let gradient: Vec<f32> = (0..total)
            .map(|i| if i < loud { 1.0 + (i % 997) as f32 } else { 1e-6 * (i - loud) as f32 })
            .collect();
        let (bucket, kept, _) = selected(&gradient, &[0, loud], 0.01);
        assert_eq!(kept.len(), bucket.most, "{} are wanted", bucket.wanted);
    }

    #[test]
    fn all_that_is_no_number_is_sent_up_to_the_bound() {
        let (bucket, kept, _) = selected(&[f32::NAN; 1000], &[0], 0.1);
        assert_eq!(kept.len(), bucket.wanted);
    }

    #[test]
    fn a_small_quiet_layer_sends_its_floor() {
        let total = 1600;
        let gradient: Vec<f32> =
            (0..total).map(|i| if i < 1504 { 1.0 + i as f32 } else { 1e-6 * (i as f32) }).collect();
        let (bucket, kept, _) = selected(&gradient, &[0, 1504], 0.1);
        let of_quiet: Vec<u32> = kept.indices.iter().copied().filter(|index| *index >= 1504).collect();
        assert_eq!(of_quiet, [1598, 1599], "a quarter of a tenth of 96");
        assert!(kept.len() >= bucket.wanted, "{}", kept.len());
    }

    #[test]
    fn a_large_quiet_layer_sends_its_floor_of_about_its_largest() {
        let (loud, total) = (160_000, 260_000);
        let gradient: Vec<f32> =
            (0..total).map(|i| if i < loud { 1.0 + i as f32 } else { 1e-6 * (i - loud) as f32 }).collect();
        let (_, kept, _) = selected(&gradient, &[0, loud], 0.01);
        let of_quiet: Vec<u32> =
            kept.indices.iter().copied().filter(|index| *index as usize >= loud).collect();
        assert_eq!(of_quiet.len(), 250, "a quarter of a hundredth of 100,000");
        assert!(of_quiet.iter().all(|index| *index as usize >= total - 250), "{of_quiet:?}");
    }

    proptest! {
        #[test]
        fn what_is_sent_and_what_stays_are_all_there_was_and_never_too_much(
            values in proptest::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..800),
            cut in 0_usize..800,
            ratio in 0.001_f64..1.0,
        ) {
            let total = values.len();
            let layout = SparseLayout::new(&[0, cut.min(total)], total, 3, ratio);
            let (gradient, start): (Vec<f32>, Vec<f32>) = values.iter().copied().unzip();
            for bucket in &layout.buckets {
                let range = bucket.bucket.range.clone();
                let mut residual = start[range.clone()].to_vec();
                let mut kept = Kept::default();
                let e = (&gradient[range.clone()], residual.as_mut_slice());
                select(InstructionSet::widest(), bucket, e, 0.5, &mut kept);
                prop_assert!(kept.len() <= bucket.most);
                prop_assert!(kept.indices.is_sorted_by(|a, b| a < b));
                for (i, r) in residual.iter().enumerate() {
                    let e = gradient[range.start + i] + 0.5 * start[range.start + i];
                    match kept.indices.binary_search(&(i as u32)) {
                        Ok(place) => prop_assert!(kept.values[place] == e && *r == 0.0),
                        Err(_) => prop_assert!(*r == e),
                    }
                }
            }
        }
    }
}
