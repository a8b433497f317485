//! A job as somebody would write it, made of settings: the text of a preset or of a method that is compared. Pure.
//!
//! The text goes through the same parser and validation as any job file, so that what is trained can be kept and edited.

use std::fmt::Write as _;

use scadles_api::{
    job::{DatasetName, LearningRateScalingName, ModelName, NormStatistics},
    worker::{Aggregation, BatchBounds, BatchRule, StreamPolicy},
};

/// How gradients travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Travel {
    /// All of them.
    Dense,
    /// CR in every step.
    Static(f64),
    /// CR where the gate of this δ lets it through.
    Adaptive(f64, f64),
    /// What brings the most across per second.
    Auto,
}

/// When the job is complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// So many steps.
    Steps(u64),
    /// So many epochs.
    Epochs(f64),
}

/// A job of simulated streams on pictures of 3×32×32.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Comment lines above the job.
    pub about: Vec<String>,
    /// Name.
    pub name: String,
    /// Network.
    pub model: ModelName,
    /// BatchNorm with these running statistics; `None`: GroupNorm.
    pub batch_norm: Option<NormStatistics>,
    /// What is sent and evaluated.
    pub dataset: DatasetName,
    /// Samples per second by device.
    pub rates: Vec<f64>,
    /// Labels per device; `None`: IID.
    pub labels_per_device: Option<u32>,
    /// Batch rule.
    pub rule: BatchRule,
    /// Bounds of a batch; not for `Fixed`.
    pub bounds: BatchBounds,
    /// Stream policy.
    pub policy: StreamPolicy,
    /// How devices are weighed.
    pub aggregation: Aggregation,
    /// η.
    pub learning_rate: f64,
    /// Epochs of milestones and the factor at each.
    pub milestones: (Vec<f64>, f64),
    /// λ.
    pub weight_decay: f64,
    /// How η follows the batch.
    pub scaling: LearningRateScalingName,
    /// Compression.
    pub travel: Travel,
    /// α = β of copies to all, if samples are shared.
    pub injection: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps from evaluation to evaluation, and pictures looked at.
    pub evaluation: (u64, u64),
    /// Its end.
    pub end: End,
}

impl Draft {
    /// The job file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for line in &self.about {
            let _ = writeln!(text, "# {line}");
        }
        let Self { name, model, policy, seed, .. } = self;
        let _ = write!(
            text,
            "apiVersion: scadles.io/v1alpha1\nkind: ScadlesJob\nmetadata: {{name: {name}}}\nspec:\n  \
             model: {{name: {model:?}{}}}\n  training:\n    baseBatchSize: 64 # per device\n    \
             learningRateScaling: {:?}\n    aggregation: {:?}\n    optimizer: {}\n    seed: {seed}\n  \
             stream:\n    policy: {policy:?}\n    batch: {}\n    \
             transform: {{randomCropPadding: 4, horizontalFlip: true}}\n",
            self.norms(),
            self.scaling,
            self.aggregation,
            self.optimizer(),
            self.batch(),
        );
        let _ = write!(
            text,
            "{}{}  devices: {{count: {}}}\n  producer:\n    dataset: {{name: {:?}}}\n    \
             rates: {{list: {:?}}} # samples per second\n{}",
            self.compression(),
            self.sharing(),
            self.rates.len(),
            self.dataset,
            self.rates,
            self.partition(),
        );
        let (every_steps, samples) = self.evaluation;
        let end = match self.end {
            End::Steps(steps) => format!("maxSteps: {steps}"),
            End::Epochs(epochs) => format!("maxEpochs: {epochs}"),
        };
        let _ = write!(
            text,
            "  evaluation: {{everySteps: {every_steps}, samples: {samples}, topK: [1, 5]}}\n  \
             checkpoint: {{everySteps: 100}}\n  completion: {{{end}}}\n"
        );
        text
    }

    fn norms(&self) -> String {
        self.batch_norm.map_or_else(String::new, |statistics| {
            format!(", normalization: Batch, statistics: {statistics:?}")
        })
    }

    fn optimizer(&self) -> String {
        let (epochs, gamma) = &self.milestones;
        let milestones = if epochs.is_empty() {
            String::new()
        } else {
            format!(", milestoneEpochs: {epochs:?}, gamma: {gamma}")
        };
        let Self { learning_rate, weight_decay, .. } = self;
        format!("{{learningRate: {learning_rate}, momentum: 0.9, weightDecay: {weight_decay}{milestones}}}")
    }

    fn batch(&self) -> String {
        let BatchBounds { min, max, max_skip } = self.bounds;
        let bounds = format!("min: {min}, max: {max}, maxSkip: {max_skip}");
        match self.rule {
            BatchRule::Fixed { size } => format!("{{rule: Fixed, fixed: {{size: {size}}}}}"),
            BatchRule::StreamRate { window_seconds } => {
                format!("{{rule: StreamRate, windowSeconds: {window_seconds}, {bounds}}}")
            }
            BatchRule::LineRate => format!("{{rule: LineRate, {bounds}}}"),
        }
    }

    fn compression(&self) -> String {
        match self.travel {
            Travel::Dense => String::new(),
            Travel::Static(ratio) => format!("  compression: {{mode: Static, ratio: {ratio}}}\n"),
            Travel::Adaptive(ratio, delta) => {
                format!("  compression: {{mode: Adaptive, ratio: {ratio}, delta: {delta}}}\n")
            }
            Travel::Auto => "  compression: {mode: Auto}\n".to_owned(),
        }
    }

    fn sharing(&self) -> String {
        self.injection.map_or_else(String::new, |share| {
            format!(
                "  injection: {{mode: Replicate, donorFraction: {share}, sharedFraction: {share}, optIn: All}}\n"
            )
        })
    }

    fn partition(&self) -> String {
        self.labels_per_device.map_or_else(String::new, |labels| {
            format!("    partition: LabelSkew\n    labelSkew: {{labelsPerDevice: {labels}}}\n")
        })
    }
}
