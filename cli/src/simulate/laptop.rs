//! A preset as a job that this machine can train: the settings of the reference, with a network, a number of devices and a
//! length that may be replaced, and are told if they are. Pure.

use scadles_api::job::{DatasetName, LearningRateScalingName, ModelName};
use scadles_control::dataset::facts;

use super::{
    draft::{Draft, End, Travel},
    options::one_per_device,
    presets::{Preset, nearest},
};
use crate::failure::{Failure, Result};

/// Networks that a preset may be trained with.
const MODELS: [ModelName; 9] = [
    ModelName::Cnn,
    ModelName::Mlp,
    ModelName::ResNet18,
    ModelName::ResNet34,
    ModelName::ResNet50,
    ModelName::ResNet152,
    ModelName::Vgg11,
    ModelName::Vgg16,
    ModelName::Vgg19,
];
/// Devices of a preset where nobody says how many.
const DEVICES: usize = 4;
/// Epochs, likewise.
const EPOCHS: f64 = 1.0;
/// Epochs of the paper's runs.
const FULL_EPOCHS: f64 = 250.0;
/// Evaluations: steps between two, pictures of each.
const EVALUATION: (u64, u64) = (50, 2000);
/// Seed of a job that names none.
const SEED: u64 = 1234;

/// What the command line puts in the place of a preset's size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Size {
    /// Network.
    pub model: Option<ModelName>,
    /// Devices.
    pub devices: Option<usize>,
    /// Samples per second: one for all, or one per device; empty: the preset's.
    pub rates: Vec<f64>,
    /// Its end.
    pub end: Option<End>,
}

/// Reads the name of a built-in network, in any case.
pub fn read_model(text: &str) -> std::result::Result<ModelName, String> {
    let name = |model: &ModelName| format!("{model:?}");
    let known = MODELS.iter().find(|model| name(model).eq_ignore_ascii_case(text.trim()));
    known.copied().ok_or_else(|| {
        let names: Vec<String> = MODELS.iter().map(name).collect();
        let near = nearest(text, names.iter().map(String::as_str));
        format!("allowed are {}; did you mean {}?", names.join(", "), near[0])
    })
}

/// The preset as a job of this size. `has_cifar_100`: whether CIFAR-100 lies among the data sets; without it CIFAR-10 takes
/// its place.
pub fn draft(preset: &Preset, size: &Size, has_cifar_100: bool) -> Result<Draft> {
    let network = &preset.network;
    let model = size.model.unwrap_or(ModelName::Cnn);
    let devices = size.devices.unwrap_or(DEVICES.min(preset.devices));
    let dataset = if has_cifar_100 { network.dataset } else { DatasetName::Cifar10 };
    let classes = facts(dataset).map_or(0, |facts| facts.num_classes);
    let labels_per_device =
        preset.labels_per_device.map(|labels| labels.max(classes.div_ceil(devices as u32)));
    let rates = if size.rates.is_empty() {
        preset.rates.of(devices)
    } else {
        one_per_device(&size.rates, devices)?.into_iter().take(devices).collect()
    };
    let travel = match preset.compression {
        None => Travel::Dense,
        Some(given) => {
            given.delta.map_or(Travel::Static(given.ratio), |delta| Travel::Adaptive(given.ratio, delta))
        }
    };
    let draft = Draft {
        about: Vec::new(),
        name: preset.name.replace('/', "-"),
        model,
        batch_norm: None,
        dataset,
        rates,
        labels_per_device,
        rule: preset.rule,
        bounds: preset.bounds,
        policy: preset.policy,
        aggregation: preset.aggregation,
        learning_rate: preset.learning_rate.0,
        milestones: (network.milestone_epochs.to_vec(), preset.learning_rate.1),
        weight_decay: network.weight_decay,
        scaling: LearningRateScalingName::Linear,
        travel,
        injection: preset.injection,
        seed: SEED,
        evaluation: EVALUATION,
        end: size.end.unwrap_or(End::Epochs(EPOCHS)),
    };
    Ok(Draft { about: about(preset, &draft, !size.rates.is_empty()), ..draft })
}

/// What the preset is, and what of it the draft replaces.
fn about(preset: &Preset, draft: &Draft, has_own_rates: bool) -> Vec<String> {
    let network = &preset.network;
    let mut replaced = Vec::new();
    let mut replace = |before: String, after: String| {
        if before != after {
            replaced.push(format!("{before} → {after}"));
        }
    };
    replace(format!("{:?}", network.model), format!("{:?}", draft.model));
    replace(counted(preset.devices, "device"), counted(draft.rates.len(), "device"));
    replace(format!("{:?}", network.dataset), format!("{:?}", draft.dataset));
    if let (Some(before), Some(after)) = (preset.labels_per_device, draft.labels_per_device) {
        let each = |labels: u32| format!("{} a device", counted(labels as usize, "label"));
        replace(each(before), each(after));
    }
    if has_own_rates {
        replace("rates".to_owned(), format!("{:?}", draft.rates));
    }
    replace(end_words(End::Epochs(FULL_EPOCHS)), end_words(draft.end));
    let mut lines = vec![format!("preset {}: {}", preset.name, preset.about)];
    if !replaced.is_empty() {
        lines.push(format!("replaced: {}", replaced.join(", ")));
    }
    lines
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn end_words(end: End) -> String {
    match end {
        End::Steps(steps) => counted(steps as usize, "step"),
        End::Epochs(epochs) if epochs > 1.0 => format!("{epochs} epochs"),
        End::Epochs(epochs) => format!("{epochs} epoch"),
    }
}

/// A network that does not fit is refused before anything is started.
pub fn check_memory(model: ModelName, devices: usize, needed: u64, machine: u64) -> Result<()> {
    const GIBIBYTE: f64 = (1_u64 << 30) as f64;
    if needed <= machine {
        return Ok(());
    }
    Err(Failure::configuration(
        format!(
            "--model {model:?} on {}: parameters, gradients and buffers need {:.1} GiB, this machine has {:.1} GiB",
            counted(devices, "device"),
            needed as f64 / GIBIBYTE,
            machine as f64 / GIBIBYTE
        ),
        "choose a smaller network (--model Cnn) or fewer devices (--devices 4)",
    ))
}

#[cfg(test)]
mod tests {
    use scadles_control::{parse_job, validate};

    use super::*;
    use crate::simulate::presets::{PRESETS, find};

    fn line(preset: &str, size: &Size, has_cifar_100: bool) -> String {
        draft(find(preset).unwrap(), size, has_cifar_100).unwrap().about.pop().unwrap()
    }

    #[test]
    fn every_preset_is_a_job_without_mistakes_that_keeps_the_references_settings() {
        for preset in &PRESETS {
            for has_cifar_100 in [false, true] {
                let text = draft(preset, &Size::default(), has_cifar_100).unwrap().text();
                let job = parse_job(&text).unwrap_or_else(|mistakes| panic!("{}: {mistakes}", preset.name));
                let job = validate(&job).unwrap_or_else(|mistakes| panic!("{}: {mistakes}", preset.name));
                assert_eq!((job.stream.batch, job.stream.policy), (preset.rule, preset.policy));
                assert_eq!(job.training.aggregation, preset.aggregation);
                assert_eq!((job.training.learning_rate, job.training.gamma), preset.learning_rate);
                assert_eq!(job.training.milestone_epochs, preset.network.milestone_epochs);
                assert_eq!(job.compression.map(|it| it.ratio), preset.compression.map(|it| it.ratio));
                assert_eq!(
                    job.compression.and_then(|it| it.delta),
                    preset.compression.and_then(|it| it.delta)
                );
                assert_eq!(job.injection.map(|it| it.donor_fraction), preset.injection);
                assert_eq!(job.producer.unwrap().rates, preset.rates.of(4));
                if !matches!(preset.rule, scadles_api::worker::BatchRule::Fixed { .. }) {
                    assert_eq!(job.stream.batch_bounds, preset.bounds);
                }
            }
        }
    }

    #[test]
    fn what_is_replaced_is_told_and_what_is_not_is_not() {
        let laptop = Size::default();
        assert_eq!(
            line("adapcomp-resnet152", &laptop, false),
            "replaced: ResNet152 → Cnn, 10 devices → 4 devices, 250 epochs → 1 epoch"
        );
        assert_eq!(
            line("datainjection-vgg19", &laptop, false),
            "replaced: Vgg19 → Cnn, 8 devices → 4 devices, Cifar100 → Cifar10, 250 epochs → 1 epoch"
        );
        assert_eq!(
            line("datainjection-vgg19", &laptop, true),
            "replaced: Vgg19 → Cnn, 8 devices → 4 devices, 4 labels a device → 25 labels a device, \
             250 epochs → 1 epoch"
        );
        let full = Size {
            model: Some(ModelName::ResNet152),
            devices: Some(16),
            end: Some(End::Epochs(250.0)),
            ..Size::default()
        };
        let about = draft(find("paper/s1-resnet152").unwrap(), &full, true).unwrap().about;
        assert_eq!(about.len(), 1, "{about:?}");
    }

    #[test]
    fn rates_of_the_command_line_must_be_enough() {
        let size = |rates: &[f64]| Size { devices: Some(3), rates: rates.to_vec(), ..Size::default() };
        let drafted = |rates: &[f64]| draft(find("adapcomp-vgg19").unwrap(), &size(rates), false);
        assert_eq!(drafted(&[5.0]).unwrap().rates, [5.0; 3]);
        assert_eq!(drafted(&[5.0, 6.0, 7.0]).unwrap().rates, [5.0, 6.0, 7.0]);
        let failure = drafted(&[5.0, 6.0]).unwrap_err();
        assert!(failure.message.contains("2 rates for 3 devices"), "{failure}");
    }

    #[test]
    fn a_network_is_known_in_any_case_and_a_mistyped_one_is_answered_with_its_neighbour() {
        assert_eq!(read_model("resnet18"), Ok(ModelName::ResNet18));
        assert!(read_model("ResNet19").unwrap_err().contains("did you mean ResNet18?"));
        assert!(read_model("TorchScript").is_err());
    }

    #[test]
    fn a_network_that_does_not_fit_names_what_it_needs() {
        assert!(check_memory(ModelName::Cnn, 4, 1 << 30, 1 << 30).is_ok());
        let failure = check_memory(ModelName::Vgg19, 25, 42 << 30, 23 << 30).unwrap_err();
        assert_eq!(
            failure.message,
            "--model Vgg19 on 25 devices: parameters, gradients and buffers need 42.0 GiB, this machine has 23.0 GiB"
        );
        assert!(failure.remedy.contains("--devices"));
    }
}
