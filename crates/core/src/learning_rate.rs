//! η_t, the learning rate of one step, from globally counted samples and, with `AdaScale`, from the noise of the gradients.
//! No I/O.

pub use scadles_api::worker::LearningRateScaling;
use scadles_api::worker::TrainingConfig;
use serde::{Deserialize, Serialize};

use crate::ewma::Ewma;

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

/// One rank's gradient in a step, as `AdaScale` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GradientReport {
    /// ‖u_i‖² of the weighted gradient, before anything was added to it or selected from it.
    pub own_energy: f64,
    /// ‖ḡ‖² of what the exchange delivered, the same on all ranks.
    pub delivered_energy: f64,
    /// Samples that the rank trained.
    pub samples: u64,
    /// w_i.
    pub aggregation_weight: f64,
}

/// What the ranks know of their gradients: means over the steps so far, each unbiased, so that one alone may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GradientNoise {
    /// trΣ: variance of one sample's gradient, summed over its elements.
    sample_variance: Ewma,
    /// G²: squared norm of the expected gradient.
    signal: Ewma,
}

/// What all ranks have in common about the learning rate between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearningRateState {
    /// Samples by which the schedule is ahead of those trained: Σ (gain·B − Σb) of `AdaScale`, else 0.
    pub ahead_samples: f64,
    /// What `AdaScale` has measured.
    pub noise: GradientNoise,
}

/// The batches of one step, as the learning rate sees them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaledBatch {
    /// Σ of what the ranks train, copies counted.
    pub trained: u64,
    /// Σb, each sample once.
    pub arrived: u64,
    /// Samples that a plain mean of as little noise would have: 1/Σ(w_i²/b_i), which is Σb with weights b_i/Σb.
    pub independent: f64,
}

impl ScaledBatch {
    /// Of a step's plan: samples and weights by rank.
    pub fn of(trained_batches: &[u64], aggregation_weights: &[f64], arrived: u64) -> Self {
        let parts = trained_batches.iter().zip(aggregation_weights).filter(|(samples, _)| **samples > 0);
        let noise: f64 = parts.map(|(&samples, weight)| weight * weight / samples as f64).sum();
        let independent = if noise > 0.0 { noise.recip() } else { 0.0 };
        Self { trained: trained_batches.iter().sum(), arrived, independent }
    }
}

impl GradientNoise {
    /// What is known with the ranks' reports of one step, in rank order. With w_i and b_i of the ranks that trained,
    /// E Σw_i‖g_i‖² = G² + trΣ·Σ w_i/b_i and E‖ḡ‖² = G² + trΣ·Σ w_i²/b_i (for w_i = b_i/Σb the sums are n'/Σb and 1/Σb).
    /// One rank alone, or what is no number, teaches nothing.
    #[must_use]
    pub fn observed(mut self, reports: &[Option<GradientReport>]) -> Self {
        let took_part = |report: &&GradientReport| report.samples > 0 && report.aggregation_weight > 0.0;
        let parts: Vec<&GradientReport> = reports.iter().flatten().filter(took_part).collect();
        let [first, _, ..] = parts[..] else { return self };
        let (mut energy, mut apart, mut together) = (0.0, 0.0, 0.0);
        for &&GradientReport { own_energy, samples, aggregation_weight: weight, .. } in &parts {
            // ‖u_i‖² is w_i²‖g_i‖².
            energy += own_energy / weight;
            apart += weight / samples as f64;
            together += weight * weight / samples as f64;
        }
        let variance = (energy - first.delivered_energy) / (apart - together);
        let signal = first.delivered_energy - variance * together;
        if variance.is_finite() && signal.is_finite() {
            let gain = newest_share(reports.len());
            self.sample_variance.update(variance, gain);
            self.signal.update(signal, gain);
        }
        self
    }

    /// r: how many steps of batch `base` one step of `batch` is worth, between 1 and batch/base (Johnson et al. 2020,
    /// Eqn. 3). The least of these while nothing is known.
    pub fn gain(&self, batch: f64, base: f64) -> f64 {
        let (least, most) = (1.0_f64.min(batch / base), 1.0_f64.max(batch / base));
        let (Some(variance), Some(signal)) = (self.sample_variance.value(), self.signal.value()) else {
            return least;
        };
        let (variance, signal) = (variance.max(0.0), signal.max(0.0));
        let gain = (variance / base + signal) / (variance / batch + signal);
        if gain.is_finite() { gain.clamp(least, most) } else { least }
    }
}

/// Share of the newest step in the means: n/100, at most all, as for the gate of compression.
fn newest_share(ranks: usize) -> f64 {
    (ranks as f64 / 100.0).clamp(0.01, 1.0)
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

    /// η_t for a step that begins after `samples` have been trained by all devices together, and what is known once it is
    /// taken.
    pub fn scale(
        &self,
        state: LearningRateState,
        samples: u64,
        batch: &ScaledBatch,
    ) -> (f64, LearningRateState) {
        let learning_rate = self.scheduled(samples as f64 + state.ahead_samples);
        let base = self.base_global_batch.max(1) as f64;
        let ratio = batch.trained as f64 / base;
        match self.scaling {
            LearningRateScaling::None => (learning_rate, state),
            LearningRateScaling::Linear => (learning_rate * ratio, state),
            LearningRateScaling::Capped { factor, warm_up_epochs } => {
                let factor = self.warmed(ratio.min(factor), samples, warm_up_epochs);
                (learning_rate * factor, state)
            }
            LearningRateScaling::AdaScale => {
                let gain = state.noise.gain(batch.independent, base);
                let ahead_samples = state.ahead_samples + gain * base - batch.arrived as f64;
                (learning_rate * gain, LearningRateState { ahead_samples, ..state })
            }
        }
    }

    /// η after the milestones that `scheduled_samples` have passed.
    fn scheduled(&self, scheduled_samples: f64) -> f64 {
        let epoch = scheduled_samples / self.epoch_samples.max(1) as f64;
        // Multiplied one by one: a power function may differ in the last bit between machines.
        let milestones = self.milestone_epochs.iter().filter(|&&milestone| epoch >= milestone).count();
        (0..milestones).fold(self.base_learning_rate, |rate, _| rate * self.gamma)
    }

    /// The factor of a step within the warm-up or after it. A batch below B is no reason to begin with more.
    fn warmed(&self, factor: f64, samples: u64, warm_up_epochs: f64) -> f64 {
        let epoch = self.epoch(samples);
        if factor <= 1.0 || epoch >= warm_up_epochs {
            return factor;
        }
        1.0 + (factor - 1.0) * (epoch / warm_up_epochs)
    }

    /// Epochs, whole and part, that `samples` make.
    pub fn epoch(&self, samples: u64) -> f64 {
        samples as f64 / self.epoch_samples.max(1) as f64
    }
}

/// ‖values‖², added in eight lanes.
pub fn energy(values: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f64; LANES];
    for chunk in chunks {
        for (sum, value) in lanes.iter_mut().zip(chunk) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    let rest = rest.iter().map(|value| f64::from(*value) * f64::from(*value));
    lanes.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests;
