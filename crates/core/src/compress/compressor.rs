//! One rank's side of compression: its residual, and what it last learned by. No I/O.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    exchange::add_messages,
    gate::{EnergyOf, EnergyStatistics},
    kernel::{InstructionSet, Kept},
    layout::SparseLayout,
    select::{select, take_largest},
    threshold::{Compensated, sample_stride},
    wire::{ValueFormat, WireError, encode},
};
use crate::exchange_plan::Bucket;

/// What a residual means nothing without.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressorState {
    /// η of the step that left the residual; 0 before the first.
    pub learning_rate: f64,
}

/// A residual of another model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to restore a residual: it has {elements} elements, the model {expected_elements}")]
pub struct StateError {
    /// Elements of the residual.
    pub elements: usize,
    /// Elements of the flat buffer.
    pub expected_elements: usize,
}

/// A step has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the last step has not ended, so the residual is of no step; go on from a checkpoint")]
pub struct TornError;

/// One rank's compression.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressor {
    /// One per ratio, with the same buckets; never empty.
    layouts: Vec<SparseLayout>,
    energy_of: EnergyOf,
    format: ValueFormat,
    set: InstructionSet,
    residual: Vec<f32>,
    state: CompressorState,
    /// From the begin of a step to its end.
    is_torn: bool,
}

impl Compressor {
    /// A rank that has kept nothing back yet. Of `layouts` there is at least one; they differ in their ratios only.
    pub fn new(layouts: Vec<SparseLayout>, energy_of: EnergyOf, format: ValueFormat) -> Self {
        let residual = vec![0.0; layouts[0].total_elements];
        Self {
            layouts,
            energy_of,
            format,
            set: InstructionSet::widest(),
            residual,
            state: CompressorState::default(),
            is_torn: false,
        }
    }

    /// The same on another instruction set: for tests.
    #[must_use]
    pub fn on(self, set: InstructionSet) -> Self {
        Self { set, ..self }
    }

    /// From now on selects at these ratios, of which there is at least one; what was kept back stays.
    pub fn tune(&mut self, ratios: &[f64]) {
        if self.layouts.iter().map(|layout| layout.ratio).ne(ratios.iter().copied()) {
            self.layouts = ratios.iter().map(|ratio| self.layouts[0].at(*ratio)).collect();
        }
    }

    /// Buckets, and the bounds of the first ratio.
    pub fn layout(&self) -> &SparseLayout {
        &self.layouts[0]
    }

    /// r_i, laid out like the gradients.
    pub fn residual(&self) -> Result<&[f32], TornError> {
        if self.is_torn { Err(TornError) } else { Ok(&self.residual) }
    }

    /// What belongs to the residual in a checkpoint.
    pub fn state(&self) -> CompressorState {
        self.state
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, residual: &[f32], state: CompressorState) -> Result<(), StateError> {
        if residual.len() != self.residual.len() {
            return Err(StateError { elements: residual.len(), expected_elements: self.residual.len() });
        }
        self.residual.copy_from_slice(residual);
        self.state = state;
        self.is_torn = false;
        Ok(())
    }

    /// Begins a step at the rate `learning_rate` (η_t). Until it has ended nobody sees the residual.
    pub fn begin(&mut self, learning_rate: f64) -> Result<Step<'_>, TornError> {
        if self.is_torn {
            return Err(TornError);
        }
        self.is_torn = true;
        let before = self.state.learning_rate;
        let is_known = before > 0.0 && learning_rate > 0.0;
        let rescale = if is_known { (before / learning_rate) as f32 } else { 1.0 };
        let stride = sample_stride(self.residual.len());
        let found = Found::default();
        Ok(Step { compressor: self, learning_rate, rescale, stride, found, kept: Kept::default() })
    }
}

/// What a step has found out about energies so far.
#[derive(Debug, Default)]
struct Found {
    /// Of e, or in the paper's reading of the gradient alone.
    sample: Vec<f32>,
    /// ‖e‖² and ‖topk(e)‖² of the buckets that were selected from, where that says all that the gate asks.
    seen: Option<(f64, f64)>,
}

/// One step of one rank: its buckets, each once and in order, whether backward still computes the others or not. Which
/// functions are called *is* the decision. A step that is dropped before [`Step::finish`] has committed nothing: it leaves a
/// residual of which a part is that of another step, and that nobody gets to see.
#[derive(Debug)]
pub struct Step<'a> {
    compressor: &'a mut Compressor,
    learning_rate: f64,
    /// η_{t−1}/η_t.
    pub(super) rescale: f32,
    stride: usize,
    found: Found,
    kept: Kept,
}

impl Step<'_> {
    /// Bucket `number`.
    pub fn bucket(&self, number: usize) -> &Bucket {
        &self.compressor.layout().buckets[number].bucket
    }

    /// n.
    pub(super) fn world_size(&self) -> usize {
        self.compressor.layout().world_size
    }

    /// The dense path: the bucket's `gradient` (u) becomes e, nothing stays behind.
    pub fn compensate(&mut self, number: usize, gradient: &mut [f32]) {
        self.look(number, gradient);
        let rescale = self.rescale;
        for (g, r) in gradient.iter_mut().zip(self.residual(number)) {
            *g += rescale * *r;
            *r = 0.0;
        }
    }

    /// The sparse path of an all-gather: the bucket's message.
    pub fn select_for_all(&mut self, level: u8, number: usize, gradient: &[f32]) -> Vec<u8> {
        self.select(level, number, gradient);
        let (mut kept, mut out) = (std::mem::take(&mut self.kept), Vec::new());
        let format = self.compressor.format;
        send(&mut kept, format, self.residual(number), &mut out);
        self.kept = kept;
        out
    }

    /// The sparse path of a reduce-scatter: the bucket's message for each owner.
    pub fn select_for_owners(&mut self, level: u8, number: usize, gradient: &[f32]) -> Vec<Vec<u8>> {
        self.select(level, number, gradient);
        let (kept, bucket) = (std::mem::take(&mut self.kept), self.bucket(number).clone());
        let (format, ranks) = (self.compressor.format, self.world_size());
        let residual = self.residual(number);
        let mut from = 0;
        let of_owner = |owner: usize| {
            let Range { start, end } = bucket.owned_within(owner);
            let to = from + kept.indices[from..].partition_point(|&index| (index as usize) < end);
            let mut part = Kept {
                indices: kept.indices[from..to].iter().map(|index| index - start as u32).collect(),
                values: kept.values[from..to].to_vec(),
            };
            from = to;
            let mut out = Vec::new();
            send(&mut part, format, &mut residual[start..end], &mut out);
            out
        };
        let out = (0..ranks).map(of_owner).collect();
        self.kept = kept;
        out
    }

    /// The owner's part of a reduce-scatter: adds what the ranks sent (`parts`, in rank order), selects a second time,
    /// keeps the rest and the quantisation error, and gives the message for all.
    pub fn own(
        &mut self,
        level: u8,
        number: usize,
        rank: usize,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, WireError> {
        let range = self.bucket(number).owned_within(rank);
        let most = self.compressor.layouts[usize::from(level)].owner_most(range.len());
        let (set, format) = (self.compressor.set, self.compressor.format);
        let (mut out, mut kept, mut sum) = (Vec::new(), Kept::default(), vec![0.0; range.len()]);
        add_messages(parts, &mut kept, &mut sum)?;
        kept.clear();
        take_largest(set, most, 0, &mut sum, &mut kept);
        send(&mut kept, format, &mut sum, &mut out);
        for (r, left) in self.residual(number)[range].iter_mut().zip(sum) {
            *r += left;
        }
        Ok(out)
    }

    /// All buckets have arrived: the residual is that of this step. What selection has lost, or would have.
    pub fn finish(self) -> EnergyStatistics {
        let Self { compressor, learning_rate, found, .. } = self;
        compressor.state.learning_rate = learning_rate;
        compressor.is_torn = false;
        let ratios = compressor.layouts.iter().map(|layout| layout.ratio);
        let Some((energy, sent)) = found.seen else {
            return EnergyStatistics::of_sample(found.sample.into_iter(), ratios);
        };
        let mut seen = EnergyStatistics { energy, ..EnergyStatistics::default() };
        seen.lost[0] = (energy - sent).max(0.0);
        seen
    }

    /// The bucket's part of the residual.
    pub(super) fn residual(&mut self, number: usize) -> &mut [f32] {
        let range = self.bucket(number).range.clone();
        &mut self.compressor.residual[range]
    }

    /// Adds to the sample of e, or in the paper's reading of the gradient alone, before the residual changes.
    pub(super) fn look(&mut self, number: usize, gradient: &[f32]) {
        let is_plain = self.compressor.energy_of == EnergyOf::Gradient;
        let rescale = if is_plain { 0.0 } else { self.rescale };
        let range = self.bucket(number).range.clone();
        let e = Compensated { gradient, residual: &self.compressor.residual[range], rescale };
        self.found.sample.extend(e.every(self.stride));
    }

    /// Moves what is sent of the bucket to `kept`.
    fn select(&mut self, level: u8, number: usize, gradient: &[f32]) {
        // What the other ratios would have lost, or the gradient alone, is not seen in the selection.
        let is_seen =
            self.compressor.energy_of == EnergyOf::Compensated && self.compressor.layouts.len() == 1;
        if !is_seen {
            self.look(number, gradient);
        }
        let Compressor { layouts, set, residual, .. } = &mut *self.compressor;
        let bucket = &layouts[usize::from(level)].buckets[number];
        let e = (gradient, &mut residual[bucket.bucket.range.clone()]);
        let energy = select(*set, bucket, e, self.rescale, &mut self.kept);
        if is_seen {
            let (all, sent) = self.found.seen.get_or_insert_default();
            *all += energy;
            *sent += self.kept.energy();
        }
    }
}

/// Appends the message of `kept` to `out`; what the format rounds off goes back into `residual`.
fn send(kept: &mut Kept, format: ValueFormat, residual: &mut [f32], out: &mut Vec<u8>) {
    let exact = kept.values.clone();
    encode(kept, residual.len(), format, out);
    for ((&index, exact), told) in kept.indices.iter().zip(exact).zip(&kept.values) {
        let error = exact - told;
        // What is no number has been sent; it must not come back.
        if error.is_finite() {
            residual[index as usize] += error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(layout: SparseLayout, energy_of: EnergyOf) -> Compressor {
        Compressor::new(vec![layout], energy_of, ValueFormat::F32)
    }

    /// A sparse step of a layout with one bucket.
    fn sparse_step(
        rank: &mut Compressor,
        gradient: &[f32],
        learning_rate: f64,
    ) -> (Vec<u8>, EnergyStatistics) {
        let mut step = rank.begin(learning_rate).unwrap();
        (step.select_for_all(0, 0, gradient), step.finish())
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let layout = |elements| SparseLayout::new(&[0], elements, 2, 0.1);
        let other = rank(layout(32), EnergyOf::Compensated);
        let mut own = rank(layout(16), EnergyOf::Compensated);
        let error = own.restore(other.residual().unwrap(), other.state()).unwrap_err();
        assert_eq!((error.elements, error.expected_elements), (32, 16));
    }

    #[test]
    fn a_residual_follows_the_rate() {
        let mut rank = rank(SparseLayout::new(&[0], 64, 2, 0.1), EnergyOf::Compensated);
        let gradient: Vec<f32> = (0..64).map(|i| i as f32).collect();
        sparse_step(&mut rank, &gradient, 0.2);
        assert_eq!(rank.residual().unwrap()[10], 10.0);
        let mut dense = vec![1.0; 64];
        let mut step = rank.begin(0.1).unwrap();
        step.compensate(0, &mut dense);
        step.finish();
        assert_eq!(dense[10], 21.0, "half the rate, twice the residual");
        assert!(rank.residual().unwrap().iter().all(|r| *r == 0.0), "a dense step leaves nothing");
    }

    #[test]
    fn a_step_that_does_not_end_commits_nothing_and_leaves_no_residual_to_go_on_with() {
        let layout = SparseLayout::new(&[0, 300_000], 600_000, 2, 0.1);
        assert_eq!(layout.buckets.len(), 2);
        let mut rank = rank(layout, EnergyOf::Compensated);
        let mut gradient = vec![1.0; 300_000];
        for number in 0..2 {
            let before = rank.clone();
            let mut step = rank.begin(0.1).unwrap();
            step.select_for_all(0, 0, &gradient);
            if number == 1 {
                // Nor does a dense one.
                step.compensate(1, &mut gradient);
            }
            drop(step);
            assert_eq!(rank.residual(), Err(TornError));
            assert_eq!(rank.begin(0.1).err(), Some(TornError));
            assert_eq!(rank.state(), CompressorState::default(), "the rate is that of the step before");
            rank.restore(before.residual().unwrap(), before.state()).unwrap();
            assert_eq!(rank, before);
        }
    }

    #[test]
    fn another_ratio_keeps_the_residual_and_is_that_of_the_next_selection() {
        let layout = |ratio| SparseLayout::new(&[0], 4096, 2, ratio);
        let gradient: Vec<f32> = (0..4096).map(|i| (i % 97) as f32).collect();
        let mut one = rank(layout(0.1), EnergyOf::Compensated);
        sparse_step(&mut one, &gradient, 0.1);
        let mut other = rank(layout(0.01), EnergyOf::Compensated);
        other.restore(one.residual().unwrap(), one.state()).unwrap();
        one.tune(&[0.01]);
        assert_eq!(one, other, "nothing but the ratio has changed");
        assert_eq!(sparse_step(&mut one, &gradient, 0.1), sparse_step(&mut other, &gradient, 0.1));
    }

    #[test]
    fn both_readings_of_energy_differ_by_the_residual() {
        let layout = SparseLayout::new(&[0], 64, 2, 0.1);
        let gradient: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let [compensated, plain] = [EnergyOf::Compensated, EnergyOf::Gradient].map(|energy_of| {
            let mut rank = rank(layout.clone(), energy_of);
            sparse_step(&mut rank, &gradient, 0.1);
            sparse_step(&mut rank, &gradient, 0.1).1
        });
        let squares: f64 = (0..64).map(|i| f64::from(i * i)).sum();
        assert_eq!(plain.energy, squares);
        assert!(compensated.energy > squares);
    }
}
