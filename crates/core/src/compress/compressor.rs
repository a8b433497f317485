//! One rank's side of compression: its residual, and what it last learned by. No I/O.

use serde::{Deserialize, Serialize};

use super::{
    exchange::{add, next_message, nothing_left},
    gate::{EnergyOf, EnergyStatistics},
    kernel::{InstructionSet, Kept},
    layout::SparseLayout,
    select::{select, take_largest},
    threshold::Compensated,
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

/// One rank's compression. Nothing is committed before the decision: which function is called *is* the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressor {
    /// One per ratio, with the same buckets; never empty.
    layouts: Vec<SparseLayout>,
    energy_of: EnergyOf,
    format: ValueFormat,
    set: InstructionSet,
    residual: Vec<f32>,
    state: CompressorState,
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
    pub fn residual(&self) -> &[f32] {
        &self.residual
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
        Ok(())
    }

    /// The dense path: `gradient` (u) becomes e at the rate `learning_rate` (η_t), nothing stays behind.
    pub fn compensate(&mut self, gradient: &mut [f32], learning_rate: f64) -> EnergyStatistics {
        let rescale = self.rescale(learning_rate);
        let energy = self.sampled(gradient, rescale);
        for (g, r) in gradient.iter_mut().zip(&mut self.residual) {
            *g += rescale * *r;
            *r = 0.0;
        }
        self.state.learning_rate = learning_rate;
        energy
    }

    /// The sparse path of an all-gather: one message per bucket, one after another, and what was lost.
    pub fn compress_for_all(
        &mut self,
        level: u8,
        gradient: &[f32],
        learning_rate: f64,
    ) -> (Vec<u8>, EnergyStatistics) {
        let mut out = Vec::new();
        let format = self.format;
        let energy = self.compress(level, gradient, learning_rate, |bucket, kept, residual| {
            send(kept, format, &mut residual[bucket.range.clone()], &mut out);
        });
        (out, energy)
    }

    /// The sparse path of a reduce-scatter: per owner one message per bucket, and what was lost.
    pub fn compress_for_owners(
        &mut self,
        level: u8,
        gradient: &[f32],
        learning_rate: f64,
    ) -> (Vec<Vec<u8>>, EnergyStatistics) {
        let format = self.format;
        let mut out = vec![Vec::new(); self.layout().world_size];
        let energy = self.compress(level, gradient, learning_rate, |bucket, kept, residual| {
            let mut from = 0;
            for (owner, out) in out.iter_mut().enumerate() {
                let range = bucket.owned_range(owner);
                let first = range.start - bucket.range.start;
                let end = first + range.len();
                let to = from + kept.indices[from..].partition_point(|&index| (index as usize) < end);
                let mut part = Kept {
                    indices: kept.indices[from..to].iter().map(|index| index - first as u32).collect(),
                    values: kept.values[from..to].to_vec(),
                };
                send(&mut part, format, &mut residual[range], out);
                from = to;
            }
        });
        (out, energy)
    }

    /// The owner's part of a reduce-scatter: adds what the ranks sent (`parts`, in rank order), selects a second time,
    /// keeps the rest and the quantisation error, and gives the message for all.
    pub fn own(&mut self, level: u8, rank: usize, parts: &[&[u8]]) -> Result<Vec<u8>, WireError> {
        let mut rests = parts.to_vec();
        let (mut out, mut kept) = (Vec::new(), Kept::default());
        let layout = &self.layouts[usize::from(level)];
        for bucket in &layout.buckets {
            let range = bucket.bucket.owned_range(rank);
            let mut sum = vec![0.0; range.len()];
            for rest in &mut rests {
                *rest = next_message(rest, range.len(), &mut kept)?;
                add(&kept, &mut sum);
            }
            kept.clear();
            take_largest(self.set, layout.owner_most(range.len()), 0, &mut sum, &mut kept);
            send(&mut kept, self.format, &mut sum, &mut out);
            for (r, left) in self.residual[range].iter_mut().zip(sum) {
                *r += left;
            }
        }
        rests.into_iter().try_for_each(nothing_left)?;
        Ok(out)
    }

    /// Selects in every bucket and hands each selection to `emit`, with the whole residual for what does not travel.
    fn compress(
        &mut self,
        level: u8,
        gradient: &[f32],
        learning_rate: f64,
        mut emit: impl FnMut(&Bucket, &mut Kept, &mut [f32]),
    ) -> EnergyStatistics {
        let rescale = self.rescale(learning_rate);
        // What the other ratios would have lost, or the gradient alone, is not seen in the selection.
        let is_seen = self.energy_of == EnergyOf::Compensated && self.layouts.len() == 1;
        let estimated = (!is_seen).then(|| self.sampled(gradient, rescale));
        let (mut energy, mut sent, mut kept) = (0.0, 0.0, Kept::default());
        for bucket in &self.layouts[usize::from(level)].buckets {
            let range = bucket.bucket.range.clone();
            let e = (&gradient[range.clone()], &mut self.residual[range]);
            energy += select(self.set, bucket, e, rescale, &mut kept);
            sent += kept.energy();
            emit(&bucket.bucket, &mut kept, &mut self.residual);
        }
        self.state.learning_rate = learning_rate;
        estimated.unwrap_or_else(|| {
            let mut seen = EnergyStatistics { energy, ..EnergyStatistics::default() };
            seen.lost[0] = (energy - sent).max(0.0);
            seen
        })
    }

    /// η_{t−1}/η_t.
    pub(super) fn rescale(&self, learning_rate: f64) -> f32 {
        let before = self.state.learning_rate;
        if before > 0.0 && learning_rate > 0.0 { (before / learning_rate) as f32 } else { 1.0 }
    }

    /// What each ratio would lose of e, or in the paper's reading of the gradient alone, from a sample.
    pub(super) fn sampled(&self, gradient: &[f32], rescale: f32) -> EnergyStatistics {
        let rescale = if self.energy_of == EnergyOf::Gradient { 0.0 } else { rescale };
        let e = Compensated { gradient, residual: &self.residual, rescale };
        EnergyStatistics::of_sample(e.sample(), self.layouts.iter().map(|layout| layout.ratio))
    }

    /// Residual and buckets, and the rate that the residual will have.
    pub(super) fn keeping(&mut self, learning_rate: Option<f64>) -> (&mut [f32], &SparseLayout) {
        if let Some(learning_rate) = learning_rate {
            self.state.learning_rate = learning_rate;
        }
        (&mut self.residual, &self.layouts[0])
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

    #[test]
    fn a_state_of_another_model_is_refused() {
        let layout = |elements| SparseLayout::new(&[0], elements, 2, 0.1);
        let other = Compressor::new(vec![layout(32)], EnergyOf::Compensated, ValueFormat::Bf16);
        let mut own = Compressor::new(vec![layout(16)], EnergyOf::Compensated, ValueFormat::Bf16);
        let error = own.restore(other.residual(), other.state()).unwrap_err();
        assert_eq!((error.elements, error.expected_elements), (32, 16));
    }

    #[test]
    fn a_residual_follows_the_rate() {
        let layout = SparseLayout::new(&[0], 64, 2, 0.1);
        let mut rank = Compressor::new(vec![layout], EnergyOf::Compensated, ValueFormat::F32);
        let gradient: Vec<f32> = (0..64).map(|i| i as f32).collect();
        rank.compress_for_all(0, &gradient, 0.2);
        assert_eq!(rank.residual()[10], 10.0);
        let mut dense = vec![1.0; 64];
        rank.compensate(&mut dense, 0.1);
        assert_eq!(dense[10], 21.0, "half the rate, twice the residual");
        assert!(rank.residual().iter().all(|r| *r == 0.0), "a dense step leaves nothing");
    }

    #[test]
    fn another_ratio_keeps_the_residual_and_is_that_of_the_next_selection() {
        let layout = |ratio| SparseLayout::new(&[0], 4096, 2, ratio);
        let gradient: Vec<f32> = (0..4096).map(|i| (i % 97) as f32).collect();
        let mut rank = Compressor::new(vec![layout(0.1)], EnergyOf::Compensated, ValueFormat::F32);
        rank.compress_for_all(0, &gradient, 0.1);
        let mut other = Compressor::new(vec![layout(0.01)], EnergyOf::Compensated, ValueFormat::F32);
        other.restore(rank.residual(), rank.state()).unwrap();
        rank.tune(&[0.01]);
        assert_eq!(rank, other, "nothing but the ratio has changed");
        assert_eq!(rank.compress_for_all(0, &gradient, 0.1), other.compress_for_all(0, &gradient, 0.1));
    }

    #[test]
    fn both_readings_of_energy_differ_by_the_residual() {
        let layout = SparseLayout::new(&[0], 64, 2, 0.1);
        let gradient: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let [compensated, plain] = [EnergyOf::Compensated, EnergyOf::Gradient].map(|energy_of| {
            let mut rank = Compressor::new(vec![layout.clone()], energy_of, ValueFormat::F32);
            rank.compress_for_all(0, &gradient, 0.1);
            rank.compress_for_all(0, &gradient, 0.1).1
        });
        let squares: f64 = (0..64).map(|i| f64::from(i * i)).sum();
        assert_eq!(plain.energy, squares);
        assert!(compensated.energy > squares);
    }
}
