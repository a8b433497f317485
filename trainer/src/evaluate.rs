//! Held-out evaluation, shared between the ranks. No I/O: the records are given.

use std::borrow::Cow;

use scadles_api::progress::{Evaluation, TopK};
use scadles_api::worker::{SampleShape, Transform};
use scadles_core::agree::GlobalState;
use scadles_core::evaluate::{EvaluationCounts, evaluation_shard};
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::batch::{BatchAssembler, BatchError, SampleRef};
use crate::learner::{Learner, LearnerError};
use crate::numeric::Real;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A held-out record does not fit the model.
    #[error("failed to read held-out picture {index}")]
    Record {
        /// First picture of the batch that failed.
        index: u64,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The model could not score the pictures.
    #[error("failed to score held-out pictures")]
    Learner(#[from] LearnerError),
}

/// Counts and loss of a part of the held-out set; parts of all ranks add up to the whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardResult {
    /// Top-k and per-class counts.
    pub counts: EvaluationCounts,
    /// Sum of the pictures' cross-entropy in nats.
    pub loss_sum: f64,
}

impl ShardResult {
    /// Adds another rank's part. The loss is a float: add in rank order where bits matter.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.loss_sum += other.loss_sum;
    }
}

/// What progress and report say of an evaluation of all ranks after the step of `state`, `seconds` into the job.
pub fn summary(counts: &EvaluationCounts, loss_sum: f64, state: &GlobalState, seconds: f64) -> Evaluation {
    Evaluation {
        step: state.step,
        samples_trained: state.samples,
        seconds,
        pictures: counts.samples,
        loss: loss_sum / counts.samples.max(1) as f64,
        top_k: counts
            .correct_at
            .keys()
            .filter_map(|&accuracy_k| Some(TopK { accuracy_k, share: counts.accuracy(accuracy_k)? }))
            .collect(),
        per_class: counts.class_accuracies().into_iter().map(|share| share.unwrap_or(0.0)).collect(),
    }
}

/// Which pictures are looked at, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// This rank.
    pub rank: usize,
    /// Ranks that share the work.
    pub world_size: usize,
    /// Pictures looked at by all ranks together; more than there are means all.
    pub limit: u64,
}

impl Shard {
    /// The pictures of this rank, of `available` ones: `limit` pictures spread evenly over the set, always the same
    /// ones, so that evaluations of one run compare; each by exactly one rank.
    pub fn pictures(self, available: u64) -> impl Iterator<Item = u64> {
        let chosen = self.limit.min(available);
        // The k-th of `chosen` pictures: floor(k·available / chosen), distinct as chosen ≤ available.
        let spread = move |k: u64| (u128::from(k) * u128::from(available) / u128::from(chosen.max(1))) as u64;
        evaluation_shard(chosen, self.rank, self.world_size).map(spread)
    }
}

/// Evaluates models of one configuration, with memory that is kept from one evaluation to the next.
pub struct Evaluator<T: Real> {
    assembler: BatchAssembler<T>,
    transform: Transform,
    shape: SampleShape,
    micro_batch: usize,
    accuracy_ks: Vec<u32>,
}

impl<T: Real> Evaluator<T> {
    /// Pictures are normalised as in training, neither cropped nor mirrored, and scored `micro_batch` at a time.
    pub fn new(
        shape: &SampleShape,
        transform: &Transform,
        micro_batch: usize,
        accuracy_ks: &[u32],
    ) -> Result<Self, BatchError> {
        let micro_batch = micro_batch.max(1);
        Ok(Self {
            assembler: BatchAssembler::new(shape, transform, micro_batch)?,
            transform: transform.clone(),
            shape: *shape,
            micro_batch,
            accuracy_ks: accuracy_ks.to_vec(),
        })
    }

    /// This rank's part of an evaluation over `available` pictures; `sample(i)` is the i-th one.
    pub fn evaluate_shard<'a>(
        &mut self,
        learner: &Learner<T>,
        available: u64,
        sample: impl Fn(u64) -> Cow<'a, [u8]>,
        shard: Shard,
    ) -> Result<ShardResult, EvaluateError> {
        let counts = EvaluationCounts::new(self.shape.num_classes as usize, &self.accuracy_ks);
        let mut result = ShardResult { counts, loss_sum: 0.0 };
        let pictures: Vec<u64> = shard.pictures(available).collect();
        for part in pictures.chunks(self.micro_batch) {
            let samples: Vec<Cow<'_, [u8]>> = part.iter().map(|&i| sample(i)).collect();
            let plain = samples.iter().map(|sample| SampleRef::plain(sample, &self.transform));
            let batch = self.assembler.assemble(plain);
            let batch = batch.map_err(|source| EvaluateError::Record { index: part[0], source })?;
            let (scores, loss_sum) = learner.score(batch)?;
            result.loss_sum += loss_sum;
            let labels = samples.iter().map(|sample| self.shape.label(sample) as usize);
            self.count(&scores, labels, &mut result.counts)?;
        }
        Ok(result)
    }

    fn count(
        &self,
        scores: &tch::Tensor,
        labels: impl Iterator<Item = usize>,
        counts: &mut EvaluationCounts,
    ) -> Result<(), LearnerError> {
        let scores = scores.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut values = vec![0_f32; scores.numel()];
        scores.f_copy_data(&mut values, scores.numel())?;
        for (row, label) in values.chunks_exact(self.shape.num_classes as usize).zip(labels) {
            counts.observe(row, label);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
