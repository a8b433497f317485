//! Model, optimiser, learning rate.

use scadles_api::{
    job::{LearningRateScalingName, ModelSpec, ScadlesJobSpec, TrainingSpec},
    worker::{
        Aggregation, DatasetName, LearningRateScaling, ModelConfig, ModelName, RecordFormat, Stem,
        TorchScriptConfig, TrainingConfig,
    },
};

use crate::{
    dataset::DatasetFacts,
    mistake::{Allowed, Findings},
};

/// Largest side of a picture.
const LARGEST_SIDE: u32 = 512;
/// Most classes where labels are numbers in a header: each has its row in every evaluation.
const MOST_CLASSES: u32 = 1024;
/// Largest weight of a class; more is a slip of the pen.
const LARGEST_CLASS_WEIGHT: f64 = 1e6;
/// Three poolings or strides by 2 must leave at least one pixel.
const SMALLEST_SIDE_OF_CONVOLUTIONS: u32 = 8;
/// Five poolings by 2 must leave at least one pixel.
const SMALLEST_SIDE_OF_VGG: u32 = 32;

pub(super) fn model(found: &mut Findings, spec: &ScadlesJobSpec, format: RecordFormat) -> ModelConfig {
    let given = &spec.model;
    let input_shape = given.input_shape.unwrap_or([3, 32, 32]);
    check_shape(found, given.name, input_shape);
    let sends_cifar_100 = spec.producer.as_ref().is_some_and(|it| it.dataset.name == DatasetName::Cifar100);
    let default_classes = if sends_cifar_100 || format == RecordFormat::Cifar100 { 100 } else { 10 };
    let num_classes = given.num_classes.unwrap_or(default_classes);
    let (most, why) = match format {
        RecordFormat::CifarBinary => (256, "a CifarBinary label is one byte"),
        RecordFormat::Cifar100 => (100, "CIFAR-100 has so many fine labels"),
        RecordFormat::Image { .. } | RecordFormat::Tensor { .. } => {
            (MOST_CLASSES, "each has its own row in every evaluation")
        }
    };
    if !(2..=most).contains(&num_classes) {
        found.add(
            "spec.model.numClasses",
            num_classes,
            format!("allowed is an integer from 2 to {most}: {why}"),
            "give the number of labels of the data set, for instance 10",
        );
    }
    let (normalization, statistics) = super::batch_norm::norms(found, given);
    let default = ModelConfig::built_in(given.name, input_shape, num_classes);
    ModelConfig {
        normalization,
        statistics,
        stem: stem(found, given, default.stem),
        torch_script: torch_script(found, given),
        ..default
    }
}

fn check_shape(found: &mut Findings, name: ModelName, input_shape: [u32; 3]) {
    let smallest = match name {
        ModelName::Mlp | ModelName::TorchScript => 1,
        ModelName::Vgg11 | ModelName::Vgg16 | ModelName::Vgg19 => SMALLEST_SIDE_OF_VGG,
        ModelName::Cnn
        | ModelName::ResNet18
        | ModelName::ResNet34
        | ModelName::ResNet50
        | ModelName::ResNet152 => SMALLEST_SIDE_OF_CONVOLUTIONS,
    };
    let [channels, height, width] = input_shape;
    let sides = smallest..=LARGEST_SIDE;
    if !(1..=16).contains(&channels) || !sides.contains(&height) || !sides.contains(&width) {
        found.add(
            "spec.model.inputShape",
            format!("{input_shape:?}"),
            format!("{name:?} needs 1 to 16 channels and sides of {smallest} to {LARGEST_SIDE} pixels"),
            "give [channels, height, width] of one picture, for instance [3, 32, 32]",
        );
    }
}

/// `default` is that of the pictures' size; `None` for networks without a choice.
fn stem(found: &mut Findings, given: &ModelSpec, default: Option<Stem>) -> Option<Stem> {
    if let (Some(stem), None) = (given.stem, default) {
        found.add(
            "spec.model.stem",
            format!("{stem:?}"),
            format!("belongs to the ResNets; the model is {:?}", given.name),
            "remove it, or set spec.model.name: ResNet18, ResNet34, ResNet50 or ResNet152",
        );
    }
    default.map(|default| given.stem.unwrap_or(default))
}

fn torch_script(found: &mut Findings, given: &ModelSpec) -> Option<TorchScriptConfig> {
    let path = given.torch_script.as_ref().map(|file| file.path.clone());
    match (given.name == ModelName::TorchScript, path) {
        (false, None) => None,
        (false, Some(path)) => {
            found.add(
                "spec.model.torchScript",
                path,
                format!("belongs to the model TorchScript; the model is {:?}", given.name),
                "remove it, or set spec.model.name: TorchScript",
            );
            None
        }
        (true, None) => {
            found.add(
                "spec.model.torchScript",
                "",
                "the model TorchScript needs the path of a file",
                "give spec.model.torchScript.path: a file written by torch.jit.script(module).save(FILE)",
            );
            None
        }
        (true, Some(path)) if path.trim().is_empty() => {
            let remedy = "name a file written by torch.jit.script(module).save(FILE)";
            found.add("spec.model.torchScript.path", path, "is empty", remedy);
            None
        }
        (true, Some(path)) => Some(TorchScriptConfig { path: path.into(), parameters: None }),
    }
}

pub(super) fn training(
    found: &mut Findings,
    spec: &ScadlesJobSpec,
    model: &ModelConfig,
    producer_facts: Option<DatasetFacts>,
    devices: usize,
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
        learning_rate_scaling: learning_rate_scaling(found, given, devices),
        aggregation: given.and_then(|it| it.aggregation).unwrap_or(Aggregation::Weighted),
        class_weights: class_weights(
            found,
            given.and_then(|it| it.class_weights.as_deref()),
            model.num_classes,
        ),
        epoch_samples: found.integer(
            &path("epochSamples"),
            given.and_then(|it| it.epoch_samples),
            epoch,
            1..=1_000_000_000_000,
        ),
        seed: given.and_then(|it| it.seed).unwrap_or(1234),
    }
}

fn learning_rate_scaling(
    found: &mut Findings,
    given: Option<&TrainingSpec>,
    devices: usize,
) -> LearningRateScaling {
    let name = given.and_then(|it| it.learning_rate_scaling).unwrap_or(LearningRateScalingName::Linear);
    let cap = given.and_then(|it| it.learning_rate_cap.as_ref());
    let path = "spec.training.learningRateCap";
    if cap.is_some() && name != LearningRateScalingName::Capped {
        let problem = format!("belongs to learningRateScaling Capped; the job's is {name:?}");
        found.add(path, "", problem, "remove it, or set spec.training.learningRateScaling: Capped");
    }
    match name {
        LearningRateScalingName::None => LearningRateScaling::None,
        LearningRateScalingName::Linear => LearningRateScaling::Linear,
        LearningRateScalingName::Capped => LearningRateScaling::Capped {
            factor: found.number(
                &format!("{path}.factor"),
                cap.and_then(|it| it.factor),
                2.0,
                Allowed::Positive(1000.0),
            ),
            warm_up_epochs: found.number(
                &format!("{path}.warmUpEpochs"),
                cap.and_then(|it| it.warm_up_epochs),
                1.0,
                Allowed::NotNegative(1000.0),
            ),
        },
        LearningRateScalingName::AdaScale => {
            found.require(
                devices != 1,
                "spec.training.learningRateScaling",
                "AdaScale",
                (
                    "measures how the gradients of different devices differ; the job has one device",
                    "set Linear, Capped or None, or give at least two devices in spec.devices",
                ),
            );
            LearningRateScaling::AdaScale
        }
    }
}

fn class_weights(found: &mut Findings, given: Option<&[f64]>, num_classes: u32) -> Vec<f32> {
    let Some(given) = given else { return Vec::new() };
    let path = "spec.training.classWeights";
    if given.len() != num_classes as usize {
        found.add(
            path,
            format!("{} weights", given.len()),
            format!("needs one weight for each of the {num_classes} classes of spec.model.numClasses"),
            "give one number per class, in the order of labels",
        );
    }
    for (class, weight) in given.iter().enumerate() {
        let path = format!("{path}[{class}]");
        found.number(&path, Some(*weight), 1.0, Allowed::NotNegative(LARGEST_CLASS_WEIGHT));
    }
    found.require(
        given.iter().any(|weight| *weight > 0.0) || given.is_empty(),
        path,
        format!("{given:?}"),
        ("all are 0: no sample would teach anything", "give at least one class a weight above 0"),
    );
    given.iter().map(|weight| *weight as f32).collect()
}
