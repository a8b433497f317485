//! The large built-in networks: of torchvision's size, begun as torchvision begins, and trained.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot be set up has failed.

mod common;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::Rank;
use scadles_api::worker::{
    ModelConfig,
    ModelName::{self, ResNet18, ResNet34, ResNet50, ResNet152, Vgg11, Vgg16, Vgg19},
    NormStatistics, Normalization, Stem,
};
use scadles_control::parameter_count;
use scadles_trainer::learner::{Learner, set_up_torch};
use serde::Deserialize;

/// torchvision's models of 1000 classes: parameters as in its documentation, tensors as in `named_parameters()`.
const PUBLISHED: [(ModelName, u64, usize); 7] = [
    (ResNet18, 11_689_512, 62),
    (ResNet34, 21_797_672, 110),
    (ResNet50, 25_557_032, 161),
    (ResNet152, 60_192_808, 467),
    (Vgg11, 132_868_840, 38),
    (Vgg16, 138_365_992, 58),
    (Vgg19, 143_678_248, 70),
];

/// One of them at a time: the largest takes two gigabytes.
fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small pictures for a network of torchvision's layers.
fn model(name: ModelName) -> ModelConfig {
    let default = ModelConfig::built_in(name, [3, 32, 32], 1000);
    ModelConfig { stem: default.stem.map(|_| Stem::Imagenet), ..default }
}

#[test]
fn large_networks_are_of_the_published_size_and_a_step_makes_their_loss_smaller() {
    let _turn = turn();
    set_up_torch(1).unwrap();
    for (name, parameters, tensors) in PUBLISHED {
        let config = model(name);
        let mut rank = Rank::<f32>::built_in(&config);
        assert_eq!(rank.learner.parameter_count(), parameters, "{name:?}");
        assert_eq!(rank.learner.flat().layout().len(), tensors, "{name:?}");
        assert_eq!(parameter_count(&config), parameters, "{name:?}");
        rank.learning_rate = 1e-4;
        let before = rank.contribute(0, 0, 2, 2).loss_sum;
        assert!((6.0..100.0).contains(&before), "{name:?}: a loss of {before} for two pictures");
        let reached = |slot: &torch_ext::Slot| {
            let gradients = rank.learner.gradients().unwrap();
            gradients[slot.offset_elements..][..slot.len_elements].iter().any(|gradient| *gradient != 0.0)
        };
        let unreached: Vec<_> = rank.learner.flat().layout().iter().filter(|slot| !reached(slot)).collect();
        assert!(unreached.is_empty(), "{name:?}: no gradient reaches {unreached:?}");
        rank.apply();
        let after = rank.contribute(0, 0, 2, 2).loss_sum;
        assert!(after < before, "{name:?}: a loss of {before} before the step, {after} after it");
    }
}

/// Means and variances that torchvision's models keep, whatever their number of classes.
const NORMS: [(ModelName, usize); 7] =
    [(ResNet18, 20), (ResNet34, 36), (ResNet50, 53), (ResNet152, 155), (Vgg11, 8), (Vgg16, 13), (Vgg19, 16)];

#[test]
fn with_batch_norm_model_files_have_the_tensors_of_torchvisions_and_as_many_parameters() {
    let _turn = turn();
    for ((name, parameters, tensors), (_, norms)) in PUBLISHED.into_iter().zip(NORMS) {
        let statistics = Some(NormStatistics::Agreed);
        let config = ModelConfig { normalization: Normalization::Batch, statistics, ..model(name) };
        let learner = Learner::<f32>::new(&config, 1).unwrap();
        assert_eq!(learner.parameter_count(), parameters, "{name:?}");
        assert_eq!(parameter_count(&config), parameters, "{name:?}");
        let slots = learner.flat().layout();
        assert_eq!(slots.len(), tensors, "{name:?}");
        // A norm's weight has as many values as its bias and follows a convolution; what ends in .weight besides is larger.
        let mut expected: Vec<(String, usize)> = Vec::new();
        for pair in slots.windows(2).filter(|pair| pair[0].len_elements == pair[1].len_elements) {
            let prefix = pair[0]
                .name
                .strip_suffix(".weight")
                .filter(|prefix| pair[1].name == format!("{prefix}.bias"));
            let Some(prefix) = prefix else { continue };
            let kept = ["running_mean", "running_var"].map(|what| format!("{prefix}.{what}"));
            expected.extend(kept.map(|name| (name, pair[0].len_elements)));
        }
        assert_eq!(expected.len(), 2 * norms, "{name:?}");
        expected.extend(slots.iter().map(|slot| (slot.name.clone(), slot.len_elements)));
        let file = learner.encode_model().unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let elements = |view: &safetensors::tensor::TensorView<'_>| view.shape().iter().product::<usize>();
        let mut found: Vec<(String, usize)> =
            file.iter().map(|(name, view)| (name.to_owned(), elements(&view))).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{name:?}");
    }
}

#[test]
fn the_plan_counts_every_resnet_with_either_stem_and_any_picture() {
    let _turn = turn();
    for name in [ResNet18, ResNet34, ResNet50] {
        for (stem, shape, classes) in [(Stem::Cifar, [1, 28, 28], 10), (Stem::Imagenet, [2, 17, 40], 3)] {
            let config = ModelConfig { stem: Some(stem), ..ModelConfig::built_in(name, shape, classes) };
            let learner = Learner::<f32>::new(&config, 1).unwrap();
            assert_eq!(learner.parameter_count(), parameter_count(&config), "{name:?} {shape:?}");
        }
    }
}

/// One parameter as torchvision has drawn it.
#[derive(Deserialize)]
struct Drawn {
    name: String,
    shape: Vec<usize>,
    mean: f64,
    deviation: f64,
}

#[test]
fn first_parameters_are_drawn_as_torchvision_draws_them() {
    let _turn = turn();
    let drawn: BTreeMap<String, Vec<Drawn>> =
        serde_json::from_str(include_str!("fixtures/torchvision_initialisation.json")).unwrap();
    for name in [ResNet18, ResNet50, Vgg11] {
        let learner = Learner::<f32>::new(&model(name), 1).unwrap();
        let theirs = &drawn[&format!("{name:?}")];
        let names: Vec<&str> = theirs.iter().map(|drawn| drawn.name.as_str()).collect();
        let ours: Vec<&str> = learner.flat().layout().iter().map(|slot| slot.name.as_str()).collect();
        assert_eq!(ours, names, "{name:?}");
        for (slot, theirs) in learner.flat().layout().iter().zip(theirs) {
            assert_eq!(slot.len_elements, theirs.shape.iter().product::<usize>(), "{}", slot.name);
            let own = &learner.parameters().unwrap()[slot.offset_elements..][..slot.len_elements];
            assert_drawn_alike(&format!("{name:?} {}", slot.name), own, theirs);
        }
    }
}

/// Both are samples of `values.len()` draws: their means differ by a normal number of deviation σ·√(2/n), their deviations
/// (of normal draws; others vary less) by one of σ/√n. Six of these are never reached by chance.
fn assert_drawn_alike(name: &str, values: &[f32], theirs: &Drawn) {
    let count = values.len() as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    let allowed = 6.0 * theirs.deviation / count.sqrt();
    assert!((mean - theirs.mean).abs() <= allowed * 2.0_f64.sqrt(), "{name}: mean {mean}, {}", theirs.mean);
    let difference = (deviation - theirs.deviation).abs();
    assert!(difference <= allowed, "{name}: deviation {deviation}, {}", theirs.deviation);
}
