//! Selection within one bucket: one threshold, a floor for every layer, never more than k_max. No I/O.

use std::ops::Range;

use super::{
    kernel::{InstructionSet, Kept, Pass, compensate_and_select},
    layout::{Layer, SparseBucket},
    threshold::{Compensated, ThresholdState, exactly_reached_by, surely_reached_by},
};

/// Up to here a layer's floor is its largest elements exactly; in larger ones sorting would cost more than it is worth.
const EXACT_FLOOR_ELEMENTS: usize = 1 << 14;

/// Replaces `residual` by e less what is moved to `kept` (emptied first), and returns ‖e‖². `gradient` and `residual`
/// are the bucket's parts of the flat buffers.
pub fn select(
    set: InstructionSet,
    bucket: &SparseBucket,
    e: (&[f32], &mut [f32]),
    rescale: f32,
    state: &mut ThresholdState,
    kept: &mut Kept,
) -> f64 {
    let (gradient, residual) = e;
    kept.clear();
    let threshold = state.threshold(Compensated { gradient, residual, rescale }, bucket.wanted);
    let mut reserved: usize = bucket.layers.iter().map(|layer| layer.floor).sum();
    let mut energy = 0.0;
    for Layer { range, floor } in &bucket.layers {
        reserved -= floor;
        let before = kept.len();
        let pass = Pass { rescale, threshold, first_index: range.start, room: bucket.most - reserved };
        let (gradient, residual) = (&gradient[range.clone()], &mut residual[range.clone()]);
        energy += compensate_and_select(set, pass, gradient, residual, kept);
        if kept.len() - before < *floor {
            raise_to_floor(*floor, range, residual, before, kept);
        }
    }
    let root_mean_square = (energy / gradient.len().max(1) as f64).sqrt();
    state.correct(threshold, root_mean_square, kept.len(), bucket.wanted, bucket.most);
    energy
}

/// Selects the `floor` largest of a layer whose magnitudes hardly reach the bucket's threshold.
fn raise_to_floor(floor: usize, range: &Range<usize>, residual: &mut [f32], before: usize, kept: &mut Kept) {
    put_back(range.start, residual, before, kept);
    let zeros = vec![0.0; residual.len()];
    if residual.len() <= EXACT_FLOOR_ELEMENTS {
        take_exactly(floor, range.start, &zeros, residual, 1.0, kept);
        return;
    }
    let threshold = surely_reached_by(Compensated { gradient: &zeros, residual, rescale: 1.0 }, floor);
    let pass = Pass { rescale: 1.0, threshold, first_index: range.start, room: before + floor };
    compensate_and_select(InstructionSet::widest(), pass, &zeros, residual, kept);
}

/// Returns what was kept from place `from` on to the residual.
fn put_back(first_index: usize, residual: &mut [f32], from: usize, kept: &mut Kept) {
    for (index, value) in kept.indices.drain(from..).zip(kept.values.drain(from..)) {
        residual[index as usize - first_index] = value;
    }
}

/// The `wanted` largest exactly, equal ones in order of place: the reference, and the way for few elements. Appends to
/// `kept`; `residual` becomes e less those; returns ‖e‖².
pub fn take_exactly(
    wanted: usize,
    first_index: usize,
    gradient: &[f32],
    residual: &mut [f32],
    rescale: f32,
    kept: &mut Kept,
) -> f64 {
    // With `wanted` 0 all candidates are surplus.
    let threshold = exactly_reached_by(Compensated { gradient, residual, rescale }, wanted);
    let from = kept.len();
    let pass = Pass { rescale, threshold, first_index, room: usize::MAX };
    let energy = compensate_and_select(InstructionSet::widest(), pass, gradient, residual, kept);
    let is_tie = |value: &f32| value.abs() <= threshold;
    let larger = kept.values[from..].iter().filter(|value| !is_tie(value)).count();
    // More than wanted are as large as the smallest wanted: the last of those stay behind.
    let mut ties = wanted.saturating_sub(larger);
    let mut end = from;
    for place in from..kept.len() {
        let (index, value) = (kept.indices[place], kept.values[place]);
        if is_tie(&value) && ties == 0 {
            residual[index as usize - first_index] = value;
            continue;
        }
        ties -= usize::from(is_tie(&value));
        (kept.indices[end], kept.values[end]) = (index, value);
        end += 1;
    }
    kept.indices.truncate(end);
    kept.values.truncate(end);
    energy
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compress::layout::SparseLayout;

    #[test]
    fn the_exact_selection_is_the_k_largest_and_equal_ones_in_order() {
        let mut residual = vec![0.0; 7];
        let mut kept = Kept::default();
        let gradient = [1.0, -5.0, 2.0, 2.0, -2.0, 9.0, 0.0];
        let energy = take_exactly(4, 0, &gradient, &mut residual, 1.0, &mut kept);
        assert_eq!(kept.indices, [1, 2, 3, 5]);
        assert_eq!(kept.values, [-5.0, 2.0, 2.0, 9.0]);
        assert_eq!(residual, [1.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0]);
        assert_eq!(energy, 1.0 + 25.0 + 4.0 + 4.0 + 4.0 + 81.0);
    }

    #[test]
    fn a_small_quiet_layer_sends_its_floor() {
        let total = 1600;
        let layout = SparseLayout::new(&[0, 1504], total, 2, 0.1);
        let bucket = &layout.buckets[0];
        let gradient: Vec<f32> =
            (0..total).map(|i| if i < 1504 { 1.0 + i as f32 } else { 1e-6 * (i as f32) }).collect();
        let mut residual = vec![0.0; total];
        let mut kept = Kept::default();
        select(
            InstructionSet::widest(),
            bucket,
            (&gradient, &mut residual),
            1.0,
            &mut ThresholdState::default(),
            &mut kept,
        );
        let of_quiet: Vec<u32> = kept.indices.iter().copied().filter(|index| *index >= 1504).collect();
        assert_eq!(of_quiet, [1598, 1599], "a quarter of a tenth of 96");
        assert!(kept.len() <= bucket.most && kept.len() >= bucket.wanted, "{}", kept.len());
        assert!(kept.indices.is_sorted());
    }

    #[test]
    fn a_large_quiet_layer_sends_its_floor_of_about_its_largest() {
        let (loud, total) = (160_000, 260_000);
        let layout = SparseLayout::new(&[0, loud], total, 2, 0.01);
        let bucket = &layout.buckets[0];
        let gradient: Vec<f32> =
            (0..total).map(|i| if i < loud { 1.0 + i as f32 } else { 1e-6 * (i - loud) as f32 }).collect();
        let (mut residual, mut kept) = (vec![0.0; total], Kept::default());
        let mut state = ThresholdState::default();
        let e = (gradient.as_slice(), residual.as_mut_slice());
        select(InstructionSet::widest(), bucket, e, 1.0, &mut state, &mut kept);
        let of_quiet: Vec<u32> =
            kept.indices.iter().copied().filter(|index| *index as usize >= loud).collect();
        assert_eq!(of_quiet.len(), 250, "a quarter of a hundredth of 100,000");
        assert!(of_quiet.iter().all(|index| *index as usize >= total - 1000), "{of_quiet:?}");
        assert!(kept.indices.is_sorted() && kept.len() <= bucket.most);
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
                let mut state = ThresholdState::default();
                let e = (&gradient[range.clone()], residual.as_mut_slice());
                select(InstructionSet::widest(), bucket, e, 0.5, &mut state, &mut kept);
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
