//! η_t, the learning rate of one step, from globally counted samples (algorithms §2). No I/O.

pub use scadles_api::job::LearningRateScaling;
use scadles_api::worker::TrainingConfig;
use serde::{Deserialize, Serialize};

/// The job's learning-rate settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningRatePlan {
    /// η, for a global batch of B.
    pub base_learning_rate: f64,
    /// How η follows Σb.
    pub scaling: LearningRateScaling,
    /// B in samples: base batch per device times devices.
    pub base_global_batch: u64,
    /// Samples of one epoch, over all devices together.
    pub epoch_samples: u64,
    /// Epochs at which η is multiplied by `gamma`.
    pub milestone_epochs: Vec<f64>,
    /// Factor at each milestone.
    pub gamma: f64,
}

impl LearningRatePlan {
    /// The plan of a job with `devices` devices.
    pub fn of(training: &TrainingConfig, devices: usize) -> Self {
        Self {
            base_learning_rate: training.learning_rate,
            scaling: training.learning_rate_scaling,
            base_global_batch: u64::from(training.base_batch_size) * devices as u64,
            epoch_samples: training.epoch_samples,
            milestone_epochs: training.milestone_epochs.clone(),
            gamma: training.gamma,
        }
    }

    /// η_t for a step of `global_batch` samples that begins after `samples` have been trained by all devices together.
    pub fn scaled_learning_rate(&self, samples: u64, global_batch: u64) -> f64 {
        let epoch = self.epoch(samples);
        // Multiplied one by one: a power function may differ in the last bit between machines.
        let milestones = self.milestone_epochs.iter().filter(|&&milestone| epoch >= milestone).count();
        let learning_rate = (0..milestones).fold(self.base_learning_rate, |rate, _| rate * self.gamma);
        match self.scaling {
            LearningRateScaling::None => learning_rate,
            LearningRateScaling::Linear => {
                learning_rate * (global_batch as f64 / self.base_global_batch.max(1) as f64)
            }
        }
    }

    /// Epochs, whole and part, that `samples` make.
    pub fn epoch(&self, samples: u64) -> f64 {
        samples as f64 / self.epoch_samples.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scaling: LearningRateScaling) -> LearningRatePlan {
        LearningRatePlan {
            base_learning_rate: 0.1,
            scaling,
            base_global_batch: 256,
            epoch_samples: 50_000,
            milestone_epochs: vec![1.0, 2.5],
            gamma: 0.2,
        }
    }

    #[test]
    fn linear_scaling_follows_the_global_batch() {
        let plan = plan(LearningRateScaling::Linear);
        assert_eq!(plan.scaled_learning_rate(0, 256), 0.1);
        assert_eq!(plan.scaled_learning_rate(0, 64), 0.1 * 0.25);
        assert_eq!(plan.scaled_learning_rate(49_999, 512), 0.1 * 2.0);
    }

    #[test]
    fn milestones_count_global_samples() {
        let plan = plan(LearningRateScaling::None);
        let at = |samples| plan.scaled_learning_rate(samples, 7);
        assert_eq!([at(49_999), at(50_000), at(125_000)], [0.1, 0.1 * 0.2, 0.1 * 0.2 * 0.2]);
    }
}
