//! Invariant 3, conservation of gradient mass, and invariant 4, bytes: against a replay of its own in f64.

use proptest::prelude::*;

use super::{
    compressor::Compressor,
    exchange::{SparseExchange, allowed_exchanges, combine_logical, dense_bytes},
    gate::{CompressionDecision, EnergyOf, SparseChoice},
    kernel::InstructionSet,
    layout::SparseLayout,
    wire::ValueFormat,
};
use crate::random::RandomStream;

/// What a case draws.
#[derive(Debug, Clone)]
struct Case {
    world_size: usize,
    elements: usize,
    ratio: f64,
    format: ValueFormat,
    energy_of: EnergyOf,
    steps: u64,
    seed: u64,
}

fn cases(steps: u64) -> impl Strategy<Value = Case> {
    let format =
        prop::sample::select(vec![ValueFormat::F32, ValueFormat::F16, ValueFormat::Bf16, ValueFormat::Int8]);
    let energy_of = prop::sample::select(vec![EnergyOf::Compensated, EnergyOf::Gradient]);
    (1_usize..7, 1_usize..700, 0.002_f64..1.0, format, energy_of, any::<u64>()).prop_map(
        move |(world_size, elements, ratio, format, energy_of, seed)| Case {
            world_size,
            elements,
            ratio: if seed % 3 == 0 { ratio * 0.05 + 0.001 } else { ratio },
            format,
            energy_of,
            steps,
            seed,
        },
    )
}

impl Case {
    /// At two ratios, in one to three buckets.
    fn layouts(&self) -> Vec<SparseLayout> {
        let first = self.elements / 3;
        let starts = [0, first, first + self.elements / 7];
        let buckets = 1 + (self.seed / 3 % 3) as usize;
        let at = |ratio| {
            let layout =
                |slots: &[usize], elements| SparseLayout::new(slots, elements, self.world_size, ratio);
            if buckets == 1 {
                return layout(&starts, self.elements);
            }
            let mut whole = layout(&[], self.elements);
            // Each as the only bucket of a smaller buffer, the last first.
            let mut end = self.elements;
            for &start in starts[..buckets].iter().rev().filter(|start| **start < self.elements) {
                for mut bucket in layout(&[0], end - start).buckets {
                    bucket.bucket.range = start..end;
                    whole.buckets.push(bucket);
                }
                end = start;
            }
            whole
        };
        vec![at(self.ratio), at(self.ratio / 7.0)]
    }

    fn compressors(&self) -> Vec<Compressor> {
        (0..self.world_size).map(|_| Compressor::new(self.layouts(), self.energy_of, self.format)).collect()
    }

    /// Changing rates, and now and then a tenth of it as at a milestone.
    fn learning_rate(&self, step: u64) -> f64 {
        let stream = RandomStream::new(self.seed, 1);
        (0.02 + 0.2 * stream.unit(step)) * if step > self.steps / 2 { 0.2 } else { 1.0 }
    }

    /// u of one rank: batches of very different weight, some of them empty, all of them in some steps of some ranks.
    fn gradient(&self, rank: usize, step: u64) -> Vec<f32> {
        let stream = RandomStream::new(self.seed, 2).substream(rank as u64).substream(step);
        let weight = [0.0, 1.0, 7.0, 64.0][stream.below(0, 4) as usize] / 72.0;
        let value = |i: usize| {
            let unit = stream.unit(1 + i as u64) - 0.5;
            (weight * unit * unit * unit * if i.is_multiple_of(5) { 40.0 } else { 1.0 }) as f32
        };
        (0..self.elements).map(value).collect()
    }

    fn decision(&self, step: u64) -> CompressionDecision {
        let sparse = |exchange, level| CompressionDecision::Sparse(SparseChoice { exchange, level });
        match RandomStream::new(self.seed, 3).below(step, 7) {
            0 => CompressionDecision::Dense,
            1 => CompressionDecision::Half,
            2 | 3 => sparse(SparseExchange::ReduceScatter, 0),
            4 => sparse(SparseExchange::ReduceScatter, 1),
            5 => sparse(SparseExchange::AllGather, 0),
            _ => sparse(SparseExchange::AllGather, 1),
        }
    }
}

/// ‖delivered + kept − given‖ / ‖given‖ after all steps, all of it summed in f64.
fn lost_mass(case: &Case) -> f64 {
    let mut ranks = case.compressors();
    let (mut given, mut delivered) = (vec![0.0_f64; case.elements], vec![0.0_f64; case.elements]);
    let (mut given_squares, mut sum) = (0.0_f64, vec![0.0_f32; case.elements]);
    for step in 0..case.steps {
        let learning_rate = case.learning_rate(step);
        let mut gradients: Vec<Vec<f32>> =
            (0..case.world_size).map(|rank| case.gradient(rank, step)).collect();
        for gradient in &gradients {
            for (given, u) in given.iter_mut().zip(gradient) {
                *given += learning_rate * f64::from(*u);
                given_squares += (learning_rate * f64::from(*u)).powi(2);
            }
        }
        combine_logical(&mut ranks, &mut gradients, case.decision(step), learning_rate, &mut sum).unwrap();
        for (delivered, d) in delivered.iter_mut().zip(&sum) {
            *delivered += learning_rate * f64::from(*d);
        }
    }
    let last = case.learning_rate(case.steps - 1);
    let mut off = 0.0;
    for i in 0..case.elements {
        let kept: f64 = ranks.iter().map(|rank| f64::from(rank.residual().unwrap()[i])).sum();
        off += (delivered[i] + last * kept - given[i]).powi(2);
    }
    if given_squares == 0.0 { off.sqrt() } else { (off / given_squares).sqrt() }
}

#[test]
fn from_2_to_32_ranks_a_sparse_step_is_possible_and_sends_no_more_than_a_dense_one() {
    let (format, energy_of) = (ValueFormat::Bf16, EnergyOf::Compensated);
    for (world_size, ratio) in (2..=32).flat_map(|ranks| [(ranks, 0.1), (ranks, 0.01)]) {
        let case = Case { world_size, elements: 20_000, ratio, format, energy_of, steps: 1, seed: 5 };
        let layout = &case.layouts()[..1];
        let (dense, mut sum) = (dense_bytes(&layout[0]), vec![0.0; case.elements]);
        let mut allowed = allowed_exchanges(layout, format);
        allowed.retain(|cost| matches!(cost.decision, CompressionDecision::Sparse(_)));
        assert!(!allowed.is_empty(), "{world_size} ranks at {ratio}");
        for cost in allowed {
            let mut gradients: Vec<Vec<f32>> = (0..world_size).map(|rank| case.gradient(rank, 0)).collect();
            let mut ranks = case.compressors();
            let done = combine_logical(&mut ranks, &mut gradients, cost.decision, 0.1, &mut sum).unwrap();
            assert!(done.bytes_sent.iter().all(|bytes| *bytes <= dense), "{cost:?}: {done:?}, dense {dense}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gradient_mass_is_conserved_over_200_steps_of_changing_batches_rates_and_gates(case in cases(200)) {
        let lost = lost_mass(&case);
        prop_assert!(lost <= 1e-5, "{}", lost);
    }

    #[test]
    fn a_sparse_step_that_is_allowed_never_sends_more_than_a_dense_one(case in cases(12)) {
        let (mut ranks, layouts) = (case.compressors(), case.layouts());
        let dense = dense_bytes(&layouts[0]);
        let mut sum = vec![0.0; case.elements];
        for step in 0..case.steps {
            for cost in allowed_exchanges(&layouts, case.format) {
                let mut gradients: Vec<Vec<f32>> =
                    (0..case.world_size).map(|rank| case.gradient(rank, step)).collect();
                let done = combine_logical(&mut ranks, &mut gradients, cost.decision, 0.1, &mut sum).unwrap();
                for bytes in done.bytes_sent {
                    prop_assert!(bytes <= cost.worst_bytes, "{} above {:?}", bytes, cost);
                    prop_assert!(bytes <= dense, "{} above dense {}", bytes, dense);
                }
            }
        }
    }

    #[test]
    fn a_step_has_the_same_bits_on_every_instruction_set(case in cases(6)) {
        let outcomes: Vec<_> = InstructionSet::available()
            .into_iter()
            .map(|set| {
                let mut ranks: Vec<Compressor> = case.compressors().into_iter().map(|rank| rank.on(set)).collect();
                let mut sum = vec![0.0; case.elements];
                let mut energies = Vec::new();
                for step in 0..case.steps {
                    let mut gradients: Vec<Vec<f32>> =
                        (0..case.world_size).map(|rank| case.gradient(rank, step)).collect();
                    let decision = case.decision(step);
                    let done = combine_logical(&mut ranks, &mut gradients, decision, 0.1, &mut sum).unwrap();
                    energies.extend(done.energies);
                }
                let residuals: Vec<u32> = ranks.iter().flat_map(|rank| rank.residual().unwrap()).map(|r| r.to_bits()).collect();
                (sum.iter().map(|d| d.to_bits()).collect::<Vec<_>>(), residuals, energies)
            })
            .collect();
        prop_assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
