//! What a step costs, from documented constants: good for sizing and for comparing rules, not for promises. No I/O.

mod networks;

use scadles_api::worker::{BatchBounds, BatchRule, ModelConfig, ModelName};
use scadles_core::sim::NetworkModel;
pub use scadles_core::{
    batch::SHORTEST_WINDOW_SECONDS,
    sim::exchange::{BYTES_PER_VALUE as BYTES_PER_PARAMETER, dense_bytes as bytes_sent_per_step},
};

/// Share of its time a device may be busy for a `LineRate` batch to settle; above it the batch runs into its bound.
const HIGHEST_LOAD: f64 = 0.99;
/// Bytes per second and rank that the exchange moves within one machine.
const EXCHANGE_BYTES_PER_SECOND: f64 = 5e8;
/// Seconds that an exchange takes however small it is, per rank beyond the first.
const EXCHANGE_LATENCY_SECONDS: f64 = 5e-4;
/// Pixels of the pictures for which the small networks' seconds per sample are given.
const REFERENCE_PIXELS: f64 = 1024.0;
/// Forward and backward of one sample of ResNet-18 at 3×32×32, stem `Cifar`, on one core, in seconds.
const RESNET18_SECONDS: f64 = 8e-2;
/// Multiplications of its forward pass.
const RESNET18_MULTIPLICATIONS: f64 = 555_422_720.0;
/// Its parameters with 10 labels.
const RESNET18_PARAMETERS: u64 = 11_173_962;

/// Number of trained numbers of a network, as the trainer builds it (its tests compare the two).
pub fn parameter_count(model: &ModelConfig) -> u64 {
    let [channels, height, width] = model.input_shape.map(u64::from);
    let classes = u64::from(model.num_classes);
    match model.name {
        // Convolutions 3×3 to 16, 32 and 64 channels without bias, each with scale and shift; one linear layer.
        ModelName::Cnn => {
            let convolutions = 9 * (channels * 16 + 16 * 32 + 32 * 64);
            convolutions + 2 * (16 + 32 + 64) + (64 * (height / 8) * (width / 8) + 1) * classes
        }
        ModelName::Mlp => (channels * height * width + 1) * 128 + (128 + 1) * 128 + (128 + 1) * classes,
        // Where nobody has looked into the file: as many as ResNet-18 has.
        ModelName::TorchScript => {
            model.torch_script.as_ref().and_then(|file| file.parameters).unwrap_or(RESNET18_PARAMETERS)
        }
        _ => large_network(model).parameters,
    }
}

/// Size of a network of many layers; nothing for the others.
fn large_network(model: &ModelConfig) -> networks::Size {
    match model.name {
        ModelName::Cnn | ModelName::Mlp | ModelName::TorchScript => networks::Size::default(),
        ModelName::ResNet18 => networks::resnet(model, [2, 2, 2, 2], false),
        ModelName::ResNet34 => networks::resnet(model, [3, 4, 6, 3], false),
        ModelName::ResNet50 => networks::resnet(model, [3, 4, 6, 3], true),
        ModelName::ResNet152 => networks::resnet(model, [3, 8, 36, 3], true),
        ModelName::Vgg11 => networks::vgg(model, [1, 1, 2, 2, 2]),
        ModelName::Vgg16 => networks::vgg(model, [2, 2, 3, 3, 3]),
        ModelName::Vgg19 => networks::vgg(model, [2, 2, 4, 4, 4]),
    }
}

/// Forward and backward of one sample on one core, in seconds: a rough figure of a present-day laptop. The small networks'
/// is proportional to the pixels of a picture, the large ones' to their multiplications; a network of the user's own is
/// taken to work its parameters as hard as ResNet-18.
pub fn default_seconds_per_sample(model: &ModelConfig) -> f64 {
    let [_, height, width] = model.input_shape.map(f64::from);
    let pixels = height * width / REFERENCE_PIXELS;
    match model.name {
        ModelName::Cnn => 8e-4 * pixels,
        ModelName::Mlp => 5e-5 * pixels,
        ModelName::TorchScript => {
            RESNET18_SECONDS * (parameter_count(model) as f64 / RESNET18_PARAMETERS as f64)
        }
        _ => RESNET18_SECONDS * (large_network(model).multiplications as f64 / RESNET18_MULTIPLICATIONS),
    }
}

/// How many workers share a core, at least 1.
fn crowding(world_size: usize, cores: u32) -> f64 {
    (world_size as f64 / f64::from(cores.max(1))).max(1.0)
}

/// The line between workers that share one machine of so many cores.
pub fn network_of_machine(world_size: usize, cores: u32) -> NetworkModel {
    NetworkModel {
        bytes_per_second: EXCHANGE_BYTES_PER_SECOND / crowding(world_size, cores),
        latency_seconds: EXCHANGE_LATENCY_SECONDS,
    }
}

/// Cost of a step on the machine at hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Seconds of forward and backward per sample and device, with all devices at work.
    pub seconds_per_sample: f64,
    /// Seconds of exchange and update per step.
    pub exchange_seconds: f64,
}

impl StepCost {
    /// `seconds_per_sample` on one core and undisturbed; `None` takes the default of the model. Workers share the cores.
    pub fn new(model: &ModelConfig, world_size: usize, cores: u32, seconds_per_sample: Option<f64>) -> Self {
        let alone = seconds_per_sample.unwrap_or_else(|| default_seconds_per_sample(model));
        let bytes = bytes_sent_per_step(parameter_count(model), world_size);
        Self {
            seconds_per_sample: alone * crowding(world_size, cores),
            exchange_seconds: network_of_machine(world_size, cores).exchange_seconds(bytes, world_size),
        }
    }
}

/// One device in a settled step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceStep {
    /// b_i, mean over the steps.
    pub local_batch: f64,
    /// w_i = b_i/Σb.
    pub aggregation_weight: f64,
    /// Seconds of a step in which the device neither computes nor exchanges.
    pub wait_seconds: f64,
}

/// A settled step of one batch rule at constant stream rates.
#[derive(Clone, Debug, PartialEq)]
pub struct SettledStep {
    /// From one step to the next, in seconds.
    pub step_seconds: f64,
    /// Of all devices.
    pub samples_per_second: f64,
    /// Devices whose streams bring more than they train; with `Persistence` their buffers grow.
    pub backlogged: usize,
    /// In the order of ranks.
    pub devices: Vec<DeviceStep>,
}

/// What a rule settles to for these rates (samples per second per device; at least one device).
pub fn settle(rule: BatchRule, bounds: BatchBounds, rates: &[f64], cost: StepCost) -> SettledStep {
    let most = f64::from(bounds.max);
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let busy = |batch: f64| batch * cost.seconds_per_sample + cost.exchange_seconds;
    let (step_seconds, batches): (f64, Vec<f64>) = match rule {
        BatchRule::Fixed { size } => {
            let size = f64::from(size);
            ((size / lowest).max(busy(size)), vec![size; rates.len()])
        }
        BatchRule::StreamRate { window_seconds } => {
            let batches: Vec<f64> = rates.iter().map(|rate| (rate * window_seconds).min(most)).collect();
            (window_seconds.max(busy(batches.iter().copied().fold(0.0, f64::max))), batches)
        }
        BatchRule::LineRate => {
            let window = line_rate_window(highest, most, cost);
            (window, rates.iter().map(|rate| (rate * window).min(most)).collect())
        }
    };
    let global: f64 = batches.iter().sum();
    let tolerance = 1.001;
    let backlogged = rates
        .iter()
        .zip(&batches)
        .filter(|(rate, batch)| **rate * step_seconds > **batch * tolerance)
        .count();
    let devices = batches
        .iter()
        .map(|batch| DeviceStep {
            local_batch: *batch,
            aggregation_weight: batch / global,
            wait_seconds: (step_seconds - busy(*batch)).max(0.0),
        })
        .collect();
    SettledStep { step_seconds, samples_per_second: global / step_seconds, backlogged, devices }
}

/// T = max(T_min, a·b + exchange) with b = S·T for the quickest stream, or b at its bound.
fn line_rate_window(highest_rate: f64, most: f64, cost: StepCost) -> f64 {
    let load = highest_rate * cost.seconds_per_sample;
    let bounded = most * cost.seconds_per_sample + cost.exchange_seconds;
    let settled =
        if load < HIGHEST_LOAD { (cost.exchange_seconds / (1.0 - load)).min(bounded) } else { bounded };
    settled.max(SHORTEST_WINDOW_SECONDS)
}

#[cfg(test)]
mod tests {
    use scadles_api::worker::{Stem, TorchScriptConfig};

    use super::*;

    const BOUNDS: BatchBounds = BatchBounds { min: 8, max: 1024, max_skip: 4 };
    const QUICK: StepCost = StepCost { seconds_per_sample: 1e-4, exchange_seconds: 0.01 };
    const S1: [f64; 8] = [50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0];

    fn model(name: ModelName) -> ModelConfig {
        ModelConfig::built_in(name, [3, 32, 32], 10)
    }

    #[test]
    fn parameter_counts_are_those_of_the_networks() {
        assert_eq!(parameter_count(&model(ModelName::Cnn)), 33_946);
        assert_eq!(
            parameter_count(&model(ModelName::Mlp)),
            3072 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
        );
        assert_eq!(parameter_count(&model(ModelName::ResNet18)), RESNET18_PARAMETERS);
    }

    /// torchvision's models of 1000 classes, their documentation's `num_params`.
    const PUBLISHED: [(ModelName, u64); 7] = [
        (ModelName::ResNet18, 11_689_512),
        (ModelName::ResNet34, 21_797_672),
        (ModelName::ResNet50, 25_557_032),
        (ModelName::ResNet152, 60_192_808),
        (ModelName::Vgg11, 132_868_840),
        (ModelName::Vgg16, 138_365_992),
        (ModelName::Vgg19, 143_678_248),
    ];

    #[test]
    fn large_networks_count_as_published() {
        for (name, parameters) in PUBLISHED {
            let model = ModelConfig::built_in(name, [3, 224, 224], 1000);
            assert_eq!(model.stem, name.is_resnet().then_some(Stem::Imagenet));
            assert_eq!(parameter_count(&model), parameters, "{name:?}");
        }
    }

    #[test]
    fn seconds_follow_the_multiplications() {
        let seconds = |name| default_seconds_per_sample(&model(name));
        assert!((seconds(ModelName::ResNet18) - RESNET18_SECONDS).abs() < 1e-12);
        // torchvision's documentation counts 4.09 and 11.51 thousand million multiplications at 224×224.
        for (name, giga) in
            [(ModelName::ResNet50, 4.09), (ModelName::ResNet152, 11.51), (ModelName::Vgg19, 19.63)]
        {
            let large = large_network(&ModelConfig::built_in(name, [3, 224, 224], 1000));
            assert!((large.multiplications as f64 / 1e9 / giga - 1.0).abs() < 0.01, "{name:?}: {large:?}");
        }
        assert!(seconds(ModelName::ResNet152) > 2.0 * seconds(ModelName::ResNet50));
    }

    #[test]
    fn an_own_network_is_guessed_until_its_file_was_looked_into() {
        let mut own = model(ModelName::TorchScript);
        assert_eq!(parameter_count(&own), RESNET18_PARAMETERS);
        own.torch_script = Some(TorchScriptConfig { path: "own.pt".into(), parameters: Some(1000) });
        assert_eq!(parameter_count(&own), 1000);
        assert!(default_seconds_per_sample(&own) < 1e-4);
    }

    #[test]
    fn a_fixed_step_waits_for_the_slowest_stream() {
        let step = settle(BatchRule::Fixed { size: 64 }, BOUNDS, &S1, QUICK);
        assert!((step.step_seconds - 64.0 / 12.0).abs() < 1e-9);
        assert!((step.samples_per_second - 8.0 * 12.0).abs() < 1e-9);
        assert_eq!(step.backlogged, 7);
    }

    #[test]
    fn a_stream_rate_step_trains_what_arrived_and_weighs_by_it() {
        let step = settle(BatchRule::StreamRate { window_seconds: 1.0 }, BOUNDS, &S1, QUICK);
        assert!((step.samples_per_second - S1.iter().sum::<f64>()).abs() < 1e-9);
        assert_eq!(step.backlogged, 0);
        let weights: f64 = step.devices.iter().map(|device| device.aggregation_weight).sum();
        assert!((weights - 1.0).abs() < 1e-12);
        assert!((step.devices[6].aggregation_weight - 82.0 / 305.0).abs() < 1e-12);
    }

    #[test]
    fn a_line_rate_step_is_as_short_as_compute_and_exchange_allow() {
        let quick = settle(BatchRule::LineRate, BOUNDS, &S1, QUICK);
        assert!((quick.step_seconds - SHORTEST_WINDOW_SECONDS).abs() < 1e-12);
        let slow = StepCost { seconds_per_sample: 0.5 / 82.0, exchange_seconds: 0.2 };
        let settled = settle(BatchRule::LineRate, BOUNDS, &S1, slow);
        assert!((settled.step_seconds - 0.4).abs() < 1e-9, "{settled:?}");
        assert!((settled.samples_per_second - 305.0).abs() < 1e-6);
    }

    #[test]
    fn a_line_rate_batch_saturates_where_a_device_cannot_keep_up() {
        let overloaded = StepCost { seconds_per_sample: 1.2 / 82.0, exchange_seconds: 0.01 };
        let step = settle(BatchRule::LineRate, BOUNDS, &S1, overloaded);
        assert!((step.devices[6].local_batch - 1024.0).abs() < 1e-9);
        assert!(step.backlogged >= 1);
    }

    #[test]
    fn a_dense_step_sends_twice_the_parameters_but_for_the_own_share() {
        assert_eq!(bytes_sent_per_step(1000, 1), 0);
        assert_eq!(bytes_sent_per_step(1000, 2), 4000);
        assert_eq!(bytes_sent_per_step(1000, 4), 6000);
    }
}
