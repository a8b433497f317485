//! The held-out pictures of a job and what scores them. Shell: the data set is read from files.

use std::path::Path;

use scadles_api::{
    ExitCode,
    worker::{EvaluationConfig, JobConfig},
};
use scadles_kafka::dataset::{Dataset, Split};

use crate::{
    evaluate::{EvaluateError, Evaluator, Shard, ShardResult},
    learner::Learner,
    worker::Failure,
};

/// Opened once, looked at often.
pub struct HeldOut {
    evaluator: Evaluator<f32>,
    pictures: Dataset,
}

impl HeldOut {
    /// What `settings` of `job` name, found in `data_dir`.
    pub fn open(job: &JobConfig, settings: &EvaluationConfig, data_dir: &Path) -> Result<Self, Failure> {
        let pictures = Dataset::load(&settings.dataset, Split::Test, data_dir, &job.samples())
            .map_err(|error| Failure::new(ExitCode::Configuration, error.to_string()))?;
        let micro_batch = job.training.micro_batch as usize;
        let evaluator = Evaluator::new(&job.samples(), &job.stream.transform, micro_batch, &settings.top_k)?;
        Ok(Self { evaluator, pictures })
    }

    /// A part of the pictures.
    pub fn evaluate(&mut self, learner: &Learner<f32>, shard: Shard) -> Result<ShardResult, EvaluateError> {
        let sample = |index: u64| self.pictures.sample(index as usize);
        self.evaluator.evaluate_shard(learner, self.pictures.len() as u64, sample, shard)
    }

    /// At most `limit` pictures, by one rank.
    pub fn evaluate_alone(
        &mut self,
        learner: &Learner<f32>,
        limit: u64,
    ) -> Result<ShardResult, EvaluateError> {
        self.evaluate(learner, Shard { rank: 0, world_size: 1, limit })
    }
}
