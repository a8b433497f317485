//! The settings of the paper and of its reference repository, as one table. Pure data.
//!
//! The ten entry points of the repository run on 8, 10 or 25 devices; the paper's own set-ups, which no entry point has, are
//! those under `paper/`. Rates are the lists of the repository where it has one, repeated where there are more devices.

use scadles_api::{
    job::{DatasetName, ModelName},
    worker::{Aggregation, BatchBounds, BatchRule, StreamPolicy},
};
use scadles_control::rates::{Shape, draw};
use scadles_core::rates::{S1, S1_NORMAL, S1_NORMAL_25, S2_NORMAL};

/// Seed of the rates that have no list.
const RATES_SEED: u64 = 1234;
/// Names that an unknown one is answered with.
const MOST_SUGGESTIONS: usize = 3;

/// A network of the paper, with the times that it publishes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperNetwork {
    /// Name.
    pub label: &'static str,
    /// Values of its gradient.
    pub parameters: u64,
    /// Table II: a step with 64 samples, in seconds.
    pub step_seconds: f64,
    /// Fig. 4b: the part of it that is exchange, on 8 GPUs.
    pub sync_seconds: f64,
    /// The same network of ours.
    pub model: ModelName,
    /// What it is trained on.
    pub dataset: DatasetName,
    /// λ.
    pub weight_decay: f64,
    /// Epochs after which η falls.
    pub milestone_epochs: [f64; 3],
}

/// ResNet-152, trained on CIFAR-10.
pub const RESNET152: PaperNetwork = PaperNetwork {
    label: "ResNet-152",
    parameters: 60_192_808,
    step_seconds: 1.2,
    sync_seconds: 1.05,
    model: ModelName::ResNet152,
    dataset: DatasetName::Cifar10,
    weight_decay: 1e-4,
    milestone_epochs: [75.0, 150.0, 225.0],
};
/// VGG-19 with batch norm, trained on CIFAR-100.
pub const VGG19: PaperNetwork = PaperNetwork {
    label: "VGG-19",
    parameters: 143_678_248,
    step_seconds: 1.6,
    sync_seconds: 1.45,
    model: ModelName::Vgg19,
    dataset: DatasetName::Cifar100,
    weight_decay: 5e-4,
    milestone_epochs: [75.0, 150.0, 200.0],
};

/// Where a preset's rates come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PresetRates {
    /// A list; more devices begin it anew.
    List(&'static [f64]),
    /// The same for all.
    Same(f64),
    /// Even draws with this mean and standard deviation.
    Uniform(f64, f64),
}

impl PresetRates {
    /// One rate per device, in samples per second.
    pub fn of(self, devices: usize) -> Vec<f64> {
        match self {
            Self::List(list) => list.iter().copied().cycle().take(devices).collect(),
            Self::Same(rate) => vec![rate; devices],
            Self::Uniform(mean, deviation) => draw(Shape::Uniform, (mean, deviation), RATES_SEED, devices),
        }
    }
}

/// Compression of a preset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compression {
    /// CR.
    pub ratio: f64,
    /// δ of the gate; `None`: every step is sparse.
    pub delta: Option<f64>,
    /// CNC that the paper's Table V tells for these; the gate itself needs gradients.
    pub sparse_share: f64,
}

/// One set of settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// Where it comes from.
    pub about: &'static str,
    /// Network.
    pub network: PaperNetwork,
    /// Devices.
    pub devices: usize,
    /// Rates.
    pub rates: PresetRates,
    /// Batch rule.
    pub rule: BatchRule,
    /// Bounds of a batch.
    pub bounds: BatchBounds,
    /// Stream policy.
    pub policy: StreamPolicy,
    /// How devices are weighed.
    pub aggregation: Aggregation,
    /// η and the factor at its milestones.
    pub learning_rate: (f64, f64),
    /// Labels per device; `None`: IID.
    pub labels_per_device: Option<u32>,
    /// Compression, if any.
    pub compression: Option<Compression>,
    /// α = β of data injection, if any.
    pub injection: Option<f64>,
}

const FIXED: BatchRule = BatchRule::Fixed { size: 64 };
const WINDOW: BatchRule = BatchRule::StreamRate { window_seconds: 1.0 };
/// The repository has no lower bound.
const REPOSITORY_BOUNDS: BatchBounds = BatchBounds { min: 1, max: 1024, max_skip: 0 };
const PAPER_BOUNDS: BatchBounds = BatchBounds { min: 8, max: 1024, max_skip: 4 };
const STATIC: Compression = Compression { ratio: 0.01, delta: None, sparse_share: 1.0 };
const ADAPTIVE: Compression = Compression { ratio: 0.1, delta: Some(0.3), sparse_share: 1.0 };

const REPOSITORY: Preset = Preset {
    name: "",
    about: "an entry point of the reference repository",
    network: RESNET152,
    devices: 10,
    rates: PresetRates::List(&S2_NORMAL),
    rule: FIXED,
    bounds: REPOSITORY_BOUNDS,
    policy: StreamPolicy::Persistence,
    aggregation: Aggregation::Weighted,
    learning_rate: (0.1, 0.2),
    labels_per_device: None,
    compression: None,
    injection: None,
};
const REPOSITORY_VGG: Preset = Preset {
    network: VGG19,
    devices: 25,
    rates: PresetRates::List(&S1_NORMAL_25),
    learning_rate: (0.01, 0.3),
    ..REPOSITORY
};
const SCADLES: Preset = Preset {
    about: "the paper's own set-up: 16 IID devices, Table VI (CR 0.1, δ 0.3, truncation)",
    devices: 16,
    rule: WINDOW,
    bounds: PAPER_BOUNDS,
    policy: StreamPolicy::Truncation,
    compression: Some(ADAPTIVE),
    ..REPOSITORY
};
const DDL: Preset = Preset {
    about: "conventional training in the paper's set-up: 16 IID devices",
    devices: 16,
    aggregation: Aggregation::Uniform,
    ..REPOSITORY
};
const SKEWED: Preset = Preset {
    about: "the paper's label-skewed set-up, full ScaDLES",
    rule: WINDOW,
    bounds: PAPER_BOUNDS,
    compression: Some(ADAPTIVE),
    injection: Some(0.5),
    ..REPOSITORY
};
const VGG_RATE: (f64, f64) = (0.01, 0.3);
const LIST_S1: PresetRates = PresetRates::List(&S1);
const LIST_S1_NORMAL: PresetRates = PresetRates::List(&S1_NORMAL);
const LIST_S2_NORMAL: PresetRates = PresetRates::List(&S2_NORMAL);
/// S2 has no list in the repository.
const DRAWN_S2: PresetRates = PresetRates::Uniform(300.0, 112.0);

const fn on(base: Preset, name: &'static str, rates: PresetRates) -> Preset {
    Preset { name, rates, ..base }
}

const fn on_vgg(base: Preset, name: &'static str, rates: PresetRates) -> Preset {
    Preset { name, rates, network: VGG19, learning_rate: VGG_RATE, ..base }
}

/// All presets.
pub const PRESETS: [Preset; 28] = [
    Preset {
        name: "streamsim-resnet152",
        rates: PresetRates::Same(64.0),
        rule: WINDOW,
        bounds: BatchBounds { max: 64, ..REPOSITORY_BOUNDS },
        learning_rate: (0.4, 0.1),
        ..REPOSITORY
    },
    Preset {
        name: "streamsim-vgg19",
        network: VGG19,
        rates: PresetRates::Same(64.0),
        rule: WINDOW,
        bounds: BatchBounds { max: 64, ..REPOSITORY_BOUNDS },
        policy: StreamPolicy::Truncation,
        learning_rate: (0.01, 0.2),
        ..REPOSITORY
    },
    Preset { name: "staticcompression-resnet152", compression: Some(STATIC), ..REPOSITORY },
    Preset { name: "staticcompression-vgg19", compression: Some(STATIC), ..REPOSITORY_VGG },
    Preset {
        name: "datainjection-resnet152",
        labels_per_device: Some(1),
        injection: Some(0.25),
        ..REPOSITORY
    },
    Preset {
        name: "datainjection-vgg19",
        about: "an entry point of the reference repository; the paper has 25 devices here",
        devices: 8,
        labels_per_device: Some(4),
        injection: Some(0.25),
        ..REPOSITORY_VGG
    },
    Preset { name: "adapcomp-resnet152", compression: Some(ADAPTIVE), ..REPOSITORY },
    Preset { name: "adapcomp-vgg19", compression: Some(ADAPTIVE), ..REPOSITORY_VGG },
    Preset {
        name: "adapcomp-injection-resnet152",
        rates: LIST_S1_NORMAL,
        rule: WINDOW,
        labels_per_device: Some(1),
        compression: Some(ADAPTIVE),
        injection: Some(0.5),
        ..REPOSITORY
    },
    Preset {
        name: "adapcomp-injection-vgg19",
        rule: WINDOW,
        labels_per_device: Some(4),
        compression: Some(ADAPTIVE),
        injection: Some(0.5),
        ..REPOSITORY_VGG
    },
    on(SCADLES, "paper/s1-resnet152", LIST_S1),
    on(SCADLES, "paper/s2-resnet152", DRAWN_S2),
    on(SCADLES, "paper/s1-normal-resnet152", LIST_S1_NORMAL),
    on(SCADLES, "paper/s2-normal-resnet152", LIST_S2_NORMAL),
    on_vgg(SCADLES, "paper/s1-vgg19", LIST_S1),
    on_vgg(SCADLES, "paper/s2-vgg19", DRAWN_S2),
    on_vgg(SCADLES, "paper/s1-normal-vgg19", LIST_S1_NORMAL),
    on_vgg(SCADLES, "paper/s2-normal-vgg19", LIST_S2_NORMAL),
    on(DDL, "paper/s1-resnet152-ddl", LIST_S1),
    on(DDL, "paper/s2-resnet152-ddl", DRAWN_S2),
    on(DDL, "paper/s1-normal-resnet152-ddl", LIST_S1_NORMAL),
    on(DDL, "paper/s2-normal-resnet152-ddl", LIST_S2_NORMAL),
    on_vgg(DDL, "paper/s1-vgg19-ddl", LIST_S1),
    on_vgg(DDL, "paper/s2-vgg19-ddl", DRAWN_S2),
    on_vgg(DDL, "paper/s1-normal-vgg19-ddl", LIST_S1_NORMAL),
    on_vgg(DDL, "paper/s2-normal-vgg19-ddl", LIST_S2_NORMAL),
    Preset { labels_per_device: Some(1), ..on(SKEWED, "paper/skew10-resnet152", LIST_S1_NORMAL) },
    Preset {
        devices: 25,
        labels_per_device: Some(4),
        ..on_vgg(SKEWED, "paper/skew25-vgg19", PresetRates::List(&S1_NORMAL_25))
    },
];

/// The preset of a name, or the names most like it.
pub fn find(name: &str) -> Result<&'static Preset, Vec<&'static str>> {
    PRESETS
        .iter()
        .find(|preset| preset.name == name)
        .ok_or_else(|| nearest(name, PRESETS.iter().map(|preset| preset.name)))
}

/// The known names most like a mistyped one, the nearest first.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = name.to_lowercase();
    let mut known: Vec<(f64, &str)> =
        known.map(|known| (strsim::normalized_damerau_levenshtein(&lower, known), known)).collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    known.into_iter().take(MOST_SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_ten_entry_points_and_the_papers_set_ups_are_there_under_names_of_their_own() {
        let names: BTreeSet<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        assert_eq!(names.len(), PRESETS.len());
        let families = ["streamsim", "staticcompression", "datainjection", "adapcomp", "adapcomp-injection"];
        for family in families {
            for network in ["resnet152", "vgg19"] {
                assert!(find(&format!("{family}-{network}")).is_ok(), "{family}-{network}");
            }
        }
        assert_eq!(names.iter().filter(|name| !name.starts_with("paper/")).count(), 10);
        assert_eq!(names.iter().filter(|name| name.ends_with("-ddl")).count(), 8);
    }

    #[test]
    fn a_mistyped_name_is_answered_with_its_neighbours() {
        assert_eq!(find("adapcom-vgg19").unwrap_err()[0], "adapcomp-vgg19");
        assert_eq!(find("Paper/S1-ResNet152").unwrap_err()[0], "paper/s1-resnet152");
    }

    #[test]
    fn lists_are_repeated_and_draws_stay_within_root_three_deviations() {
        assert_eq!(LIST_S1.of(10)[..8], S1);
        assert_eq!(LIST_S1.of(10)[8..], S1[..2]);
        let drawn = DRAWN_S2.of(16);
        assert!(drawn.iter().all(|rate| (106.0..=494.0).contains(rate)), "{drawn:?}");
        assert_eq!(drawn, DRAWN_S2.of(16));
    }
}
