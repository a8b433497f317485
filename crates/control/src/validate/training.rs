//! Model, optimiser, learning rate.

use scadles_api::{
    job::{ModelSpec, ScadlesJobSpec},
    worker::{Aggregation, LearningRateScaling, ModelConfig, ModelName, Normalization, TrainingConfig},
};

use crate::{
    dataset::DatasetFacts,
    mistake::{Allowed, Findings},
};

/// Largest side of a picture.
const LARGEST_SIDE: u32 = 512;
/// Labels are one byte in `CifarBinary` records.
const MOST_CLASSES: u32 = 256;
/// Three poolings or strides by 2 must leave at least one pixel.
const SMALLEST_SIDE_OF_CONVOLUTIONS: u32 = 8;

pub(super) fn model(found: &mut Findings, given: &ModelSpec) -> ModelConfig {
    let input_shape = given.input_shape.unwrap_or([3, 32, 32]);
    let smallest = match given.name {
        ModelName::Mlp => 1,
        ModelName::Cnn | ModelName::ResNet18 => SMALLEST_SIDE_OF_CONVOLUTIONS,
    };
    let [channels, height, width] = input_shape;
    let sides = smallest..=LARGEST_SIDE;
    if !(1..=16).contains(&channels) || !sides.contains(&height) || !sides.contains(&width) {
        found.add(
            "spec.model.inputShape",
            format!("{input_shape:?}"),
            format!(
                "{:?} needs 1 to 16 channels and sides of {smallest} to {LARGEST_SIDE} pixels",
                given.name
            ),
            "give [channels, height, width] of one picture, for instance [3, 32, 32]",
        );
    }
    let num_classes = given.num_classes.unwrap_or(10);
    if !(2..=MOST_CLASSES).contains(&num_classes) {
        found.add(
            "spec.model.numClasses",
            num_classes,
            format!("allowed is an integer from 2 to {MOST_CLASSES}: a CifarBinary label is one byte"),
            "give the number of labels of the data set, for instance 10",
        );
    }
    ModelConfig {
        name: given.name,
        normalization: given.normalization.unwrap_or(Normalization::Group),
        num_classes,
        input_shape,
    }
}

pub(super) fn training(
    found: &mut Findings,
    spec: &ScadlesJobSpec,
    producer_facts: Option<DatasetFacts>,
) -> TrainingConfig {
    let given = spec.training.as_ref();
    let optimizer = given.and_then(|it| it.optimizer.as_ref());
    let milestone_epochs = optimizer.and_then(|it| it.milestone_epochs.clone()).unwrap_or_default();
    let ascending = milestone_epochs.windows(2).all(|pair| pair[0] < pair[1]);
    let positive = milestone_epochs.iter().all(|epoch| epoch.is_finite() && *epoch > 0.0);
    found.require(
        ascending && positive,
        "spec.training.optimizer.milestoneEpochs",
        format!("{milestone_epochs:?}"),
        ("needs epochs above 0 in ascending order, each once", "sort them, for instance [75, 150, 225]"),
    );
    let path = |name: &str| format!("spec.training.{name}");
    let optimizer_path = |name: &str| format!("spec.training.optimizer.{name}");
    let epoch = producer_facts.map_or(50_000, |facts| facts.train_samples);
    TrainingConfig {
        micro_batch: found.integer_32(&path("microBatch"), given.and_then(|it| it.micro_batch), 64, 1..=4096),
        learning_rate: found.number(
            &optimizer_path("learningRate"),
            optimizer.and_then(|it| it.learning_rate),
            0.1,
            Allowed::Positive(100.0),
        ),
        momentum: found.number(
            &optimizer_path("momentum"),
            optimizer.and_then(|it| it.momentum),
            0.9,
            Allowed::ShareBelowOne,
        ),
        weight_decay: found.number(
            &optimizer_path("weightDecay"),
            optimizer.and_then(|it| it.weight_decay),
            0.0001,
            Allowed::NotNegative(1.0),
        ),
        milestone_epochs,
        gamma: found.number(
            &optimizer_path("gamma"),
            optimizer.and_then(|it| it.gamma),
            0.2,
            Allowed::PositiveShare,
        ),
        base_batch_size: found.integer_32(
            &path("baseBatchSize"),
            given.and_then(|it| it.base_batch_size),
            64,
            1..=super::LARGEST_BATCH,
        ),
        learning_rate_scaling: given
            .and_then(|it| it.learning_rate_scaling)
            .unwrap_or(LearningRateScaling::Linear),
        aggregation: given.and_then(|it| it.aggregation).unwrap_or(Aggregation::Weighted),
        epoch_samples: found.integer(
            &path("epochSamples"),
            given.and_then(|it| it.epoch_samples),
            epoch,
            1..=1_000_000_000_000,
        ),
        seed: given.and_then(|it| it.seed).unwrap_or(1234),
    }
}
