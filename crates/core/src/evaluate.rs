//! Counters of accuracy that sum over ranks, and the accuracy of a stream that is tested before it is trained. No I/O.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ewma::Ewma;

/// Counts over a set of predictions. Integers, so that the sum over ranks does not depend on their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EvaluationCounts {
    /// Pictures evaluated.
    pub samples: u64,
    /// For each asked k: pictures whose label was among the k highest scores.
    pub correct_at: BTreeMap<u32, u64>,
    /// Pictures by class.
    pub class_samples: Vec<u64>,
    /// Pictures by class whose highest score was their label's.
    pub class_correct: Vec<u64>,
}

impl EvaluationCounts {
    /// Counters for `num_classes` classes and the given k of Top-k; Top-1 is always counted.
    pub fn new(num_classes: usize, accuracy_ks: &[u32]) -> Self {
        Self {
            samples: 0,
            correct_at: accuracy_ks.iter().copied().chain([1]).map(|k| (k, 0)).collect(),
            class_samples: vec![0; num_classes],
            class_correct: vec![0; num_classes],
        }
    }

    /// Counts one picture from its `scores`, one per class. Among equal scores the lower class comes first; a label
    /// without a comparable score (not a number, or out of range) is counted as wrong.
    pub fn observe(&mut self, scores: &[f32], label: usize) {
        self.samples += 1;
        if let Some(count) = self.class_samples.get_mut(label) {
            *count += 1;
        }
        let Some(place) = place_of(scores, label) else { return };
        for (&k, correct) in &mut self.correct_at {
            *correct += u64::from(place < k as usize);
        }
        if place == 0
            && let Some(correct) = self.class_correct.get_mut(label)
        {
            *correct += 1;
        }
    }

    /// Adds another rank's counts.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        for (&k, &correct) in &other.correct_at {
            *self.correct_at.entry(k).or_insert(0) += correct;
        }
        add_counts(&mut self.class_samples, &other.class_samples);
        add_counts(&mut self.class_correct, &other.class_correct);
    }

    /// Top-k accuracy in [0, 1]; `None` without pictures or for a k that was not asked for.
    pub fn accuracy(&self, accuracy_k: u32) -> Option<f64> {
        let correct = *self.correct_at.get(&accuracy_k)?;
        (self.samples > 0).then(|| correct as f64 / self.samples as f64)
    }

    /// Top-1 accuracy in [0, 1].
    pub fn top_1(&self) -> Option<f64> {
        self.accuracy(1)
    }

    /// Top-1 accuracy of each class; `None` for a class without pictures.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        let pairs = self.class_samples.iter().zip(&self.class_correct);
        pairs.map(|(&n, &correct)| (n > 0).then(|| correct as f64 / n as f64)).collect()
    }
}

fn add_counts(sums: &mut Vec<u64>, parts: &[u64]) {
    if sums.len() < parts.len() {
        sums.resize(parts.len(), 0);
    }
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum += part;
    }
}

/// How many classes come before `label`; `None` if its score compares with nothing.
fn place_of(scores: &[f32], label: usize) -> Option<usize> {
    let own = *scores.get(label)?;
    if own.is_nan() {
        return None;
    }
    let comes_before = |(class, score): &(usize, &f32)| match score.partial_cmp(&&own) {
        Some(Ordering::Greater) => true,
        Some(Ordering::Equal) => *class < label,
        _ => false,
    };
    Some(scores.iter().enumerate().filter(comes_before).count())
}

/// The share of the picture indices `0..len` that `rank` of `world_size` evaluates: contiguous, covering all once.
pub fn evaluation_shard(len: u64, rank: usize, world_size: usize) -> std::ops::Range<u64> {
    let cut = |i: usize| len * i as u64 / world_size.max(1) as u64;
    cut(rank)..cut(rank + 1)
}

/// Share of the newest thousand or so samples in the recent prequential accuracy.
const RECENT_SAMPLES: f64 = 1_000.0;

/// Prequential (test-then-train) accuracy of one device, from the training forward: each sample is predicted before the
/// model has learned from it. The natural metric of a stream: nothing has to be held back from it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PrequentialAccuracy {
    samples: u64,
    correct: u64,
    recent: Ewma,
}

impl PrequentialAccuracy {
    /// Takes one batch in: `correct` of `samples` were predicted right.
    pub fn observe(&mut self, samples: u64, correct: u64) {
        if samples == 0 {
            return;
        }
        self.samples += samples;
        self.correct += correct;
        let gain = (samples as f64 / RECENT_SAMPLES).min(1.0);
        self.recent.update(correct as f64 / samples as f64, gain);
    }

    /// Over all samples so far, in [0, 1].
    pub fn total(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.correct as f64 / self.samples as f64)
    }

    /// Over about the last thousand samples, in [0, 1].
    pub fn recent(&self) -> Option<f64> {
        self.recent.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_counts_places_and_classes() {
        let mut counts = EvaluationCounts::new(3, &[1, 2]);
        counts.observe(&[0.1, 0.7, 0.2], 1);
        counts.observe(&[0.1, 0.7, 0.2], 2);
        counts.observe(&[0.1, 0.7, 0.2], 0);
        assert_eq!(counts.accuracy(1), Some(1.0 / 3.0));
        assert_eq!(counts.accuracy(2), Some(2.0 / 3.0));
        assert_eq!(counts.class_accuracies(), [Some(0.0), Some(1.0), Some(0.0)]);
        assert_eq!(counts.accuracy(5), None);
    }

    #[test]
    fn equal_scores_are_not_all_right_and_no_number_is_wrong() {
        let mut counts = EvaluationCounts::new(10, &[5]);
        for label in 0..10 {
            counts.observe(&[0.5; 10], label);
        }
        assert_eq!((counts.accuracy(1), counts.accuracy(5)), (Some(0.1), Some(0.5)));
        counts.observe(&[f32::NAN; 10], 0);
        assert_eq!(counts.correct_at[&5], 5);
    }

    #[test]
    fn shards_sum_to_the_whole() {
        let score = |i: u64| [(i % 3) as f32, (i % 5) as f32, (i % 7) as f32];
        let count = |range: std::ops::Range<u64>| {
            let mut counts = EvaluationCounts::new(3, &[1, 2]);
            range.for_each(|i| counts.observe(&score(i), (i % 3) as usize));
            counts
        };
        let mut sum = EvaluationCounts::default();
        (0..7).for_each(|rank| sum.add(&count(evaluation_shard(2_000, rank, 7))));
        assert_eq!(sum, count(0..2_000));
    }

    #[test]
    fn prequential_accuracy_keeps_the_total_and_follows_the_recent() {
        let mut accuracy = PrequentialAccuracy::default();
        assert_eq!(accuracy.total(), None);
        (0..50).for_each(|_| accuracy.observe(100, 10));
        (0..50).for_each(|_| accuracy.observe(100, 90));
        assert_eq!(accuracy.total(), Some(0.5));
        assert!(accuracy.recent().unwrap() > 0.88);
    }
}
