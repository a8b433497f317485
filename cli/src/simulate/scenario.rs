//! What is simulated: a planned job or a preset, with its streams, compute and network. Pure.

use std::fmt::Write as _;

use scadles_api::worker::{Completion, JobConfig};
use scadles_control::{
    Estimate,
    cost::{network_of_machine, parameter_count},
    estimate::rule_name,
};
use scadles_core::sim::{
    ExchangeModel, InjectionMode, InjectionModel, NetworkModel, ReplicateBatch, SimDevice, SimLimits,
    SimSettings, SparseKind, SparseModel, exchange::dense_bytes,
};

use super::{
    options::{SELECT_SECONDS_PER_VALUE, Shape},
    presets::{Compression, Preset},
};

/// Virtual time of a job whose end depends on accuracy, in seconds.
const HOUR_SECONDS: f64 = 3600.0;
/// Devices on which the paper measured the exchange (Fig. 4b).
const MEASURED_WORLD_SIZE: usize = 8;
/// Batch for which it gives the time of a step.
const MEASURED_BATCH: f64 = 64.0;
/// The paper's link, 5 Gbit/s.
const LINK_BYTES_PER_SECOND: f64 = 5e9 / 8.0;
/// Epochs of the paper's runs.
const PRESET_EPOCHS: f64 = 250.0;
/// Pictures of CIFAR-10 and of CIFAR-100 to train on.
const CIFAR_SAMPLES: u64 = 50_000;
/// A label byte (two would be CIFAR-100's own format) and 3×32×32 bytes.
const CIFAR_RECORD_BYTES: u64 = 3_073;

/// Something that can be simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name of the job or preset.
    pub name: String,
    /// The network that is trained.
    pub model: String,
    /// By rank.
    pub device_names: Vec<String>,
    /// Samples per second by rank; empty where they are only measured.
    pub rates: Vec<f64>,
    /// How they go over time.
    pub shape: Shape,
    /// Forward and backward of a sample, in seconds.
    pub seconds_per_sample: f64,
    /// Bytes of one record.
    pub record_bytes: u64,
    /// Samples of an epoch.
    pub epoch_samples: u64,
    /// Everything else.
    pub settings: SimSettings,
    /// What was assumed or replaced, in sentences.
    pub notes: Vec<String>,
}

impl Scenario {
    /// A planned job and what its plan says of its cost, on so many cores.
    pub fn of_job(job: &JobConfig, estimate: &Estimate, cores: u32) -> Self {
        let world_size = job.devices.len();
        let mut scenario = Self {
            name: job.name.clone(),
            model: format!("{:?}", job.model.name),
            device_names: job.devices.iter().map(|device| device.name.clone()).collect(),
            rates: estimate.rates.clone().unwrap_or_default(),
            shape: Shape::Constant,
            seconds_per_sample: estimate.cost.seconds_per_sample,
            record_bytes: job.samples().payload_bytes() as u64,
            epoch_samples: job.training.epoch_samples,
            settings: SimSettings {
                rule: job.stream.batch,
                bounds: job.stream.batch_bounds,
                policy: job.stream.policy,
                aggregation: job.training.aggregation,
                exchange: ExchangeModel {
                    parameters: parameter_count(&job.model),
                    network: network_of_machine(world_size, cores),
                    constant_seconds: 0.0,
                    sparse: None,
                },
                injection: injection_of(job),
                compute_noise: 0.0,
                seed: 0,
                limits: SimLimits::NONE,
            },
            notes: Vec::new(),
        };
        scenario.settings.limits = match job.completion {
            Completion::MaxSteps(steps) => SimLimits::steps(steps),
            Completion::MaxSamples(samples) => SimLimits::samples(samples),
            Completion::MaxEpochs(epochs) => SimLimits::samples(scenario.samples_of(epochs)),
            Completion::TargetAccuracy(_) => {
                scenario.note("accuracy is not simulated: an hour of virtual time (--seconds)".to_owned());
                SimLimits::seconds(HOUR_SECONDS)
            }
            Completion::StreamEnd => {
                scenario.note("streams have no end here: an hour of virtual time (--seconds)".to_owned());
                SimLimits::seconds(HOUR_SECONDS)
            }
        };
        scenario
    }

    /// A preset with the reference's settings, on so many devices if it is not to be its own number.
    pub fn of_preset(preset: &Preset, devices: Option<usize>) -> Self {
        let network = preset.network;
        let compute_seconds = network.step_seconds - network.sync_seconds;
        let measured_bytes = dense_bytes(network.parameters, MEASURED_WORLD_SIZE) as f64;
        let injection = preset.injection.map(|fraction| InjectionModel {
            mode: InjectionMode::Replicate,
            batch: ReplicateBatch::Grow,
            donor_fraction: fraction,
            shared_fraction: fraction,
            record_bytes: CIFAR_RECORD_BYTES,
        });
        let rates = preset.rates.of(devices.unwrap_or(preset.devices));
        let mut scenario = Self {
            name: preset.name.to_owned(),
            model: network.label.to_owned(),
            device_names: (0..preset.devices).map(|index| format!("device-{index}")).collect(),
            rates,
            shape: Shape::Constant,
            seconds_per_sample: compute_seconds / MEASURED_BATCH,
            record_bytes: CIFAR_RECORD_BYTES,
            epoch_samples: CIFAR_SAMPLES,
            settings: SimSettings {
                rule: preset.rule,
                bounds: preset.bounds,
                policy: preset.policy,
                aggregation: preset.aggregation,
                exchange: ExchangeModel {
                    parameters: network.parameters,
                    network: NetworkModel {
                        bytes_per_second: measured_bytes / network.sync_seconds,
                        latency_seconds: 0.0,
                    },
                    constant_seconds: 0.0,
                    sparse: preset.compression.map(|given| sparse_of(given, network.parameters)),
                },
                injection,
                compute_noise: 0.0,
                seed: 0,
                limits: SimLimits::NONE,
            },
            notes: preset_notes(preset, measured_bytes / network.sync_seconds),
        };
        scenario.settings.limits = SimLimits::samples(scenario.samples_of(PRESET_EPOCHS));
        scenario
    }

    /// Samples of so many epochs.
    pub fn samples_of(&self, epochs: f64) -> u64 {
        (epochs * self.epoch_samples as f64).ceil() as u64
    }

    /// Notes what was assumed or replaced.
    pub fn note(&mut self, sentence: String) {
        self.notes.push(sentence);
    }

    /// The devices as the simulator wants them.
    pub fn sim_devices(&self) -> Vec<SimDevice> {
        let device = |(index, &rate): (usize, &f64)| SimDevice {
            stream: self.shape.profile(rate, index),
            seconds_per_sample: self.seconds_per_sample,
        };
        self.rates.iter().enumerate().map(device).collect()
    }

    /// In one line.
    pub fn title(&self) -> String {
        let Self { model, settings, .. } = self;
        let mut title = format!(
            "{model}, {} devices, {}, {:?}",
            self.device_names.len(),
            rule_name(settings.rule),
            settings.policy
        );
        if let Some(sparse) = settings.exchange.sparse {
            let _ = write!(
                title,
                ", CR {} in {:.0} % of the steps",
                sparse.compression_ratio,
                sparse.sparse_share * 100.0
            );
        }
        if let Some(injection) = settings.injection {
            let _ = write!(
                title,
                ", {:?} α {} β {}",
                injection.mode, injection.donor_fraction, injection.shared_fraction
            );
        }
        title
    }
}

/// How the job shares samples, as far as the simulator goes: it knows how many are shared, not the budget of a device.
fn injection_of(job: &JobConfig) -> Option<InjectionModel> {
    let config = job.injection.as_ref()?;
    let willing = config.may_share.iter().filter(|may_share| **may_share).count();
    Some(InjectionModel {
        mode: config.mode,
        batch: config.batch,
        donor_fraction: config.donor_fraction.min(willing as f64 / config.may_share.len().max(1) as f64),
        shared_fraction: config.shared_fraction,
        record_bytes: job.samples().sample_bytes() as u64,
    })
}

/// A step of this compression, as the reference repository sends it.
pub fn sparse_of(given: Compression, parameters: u64) -> SparseModel {
    SparseModel {
        kind: SparseKind::AllGather { index_bytes: 8 },
        compression_ratio: given.ratio,
        sparse_share: given.sparse_share,
        select_seconds: SELECT_SECONDS_PER_VALUE * parameters as f64,
    }
}

fn preset_notes(preset: &Preset, bytes_per_second: f64) -> Vec<String> {
    let network = preset.network;
    let mut notes = vec![
        preset.about.to_owned(),
        format!(
            "{}: {} s a step of 64 samples (Table II), {} s of it exchange on {MEASURED_WORLD_SIZE} GPUs (Fig. 4b)",
            network.label, network.step_seconds, network.sync_seconds
        ),
    ];
    if bytes_per_second > LINK_BYTES_PER_SECOND {
        notes.push(
            "these times of the paper need more than its link of 5 Gbit/s (see --bandwidth-gbit)".to_owned(),
        );
    }
    if let Some(Compression { ratio, delta: Some(delta), sparse_share }) = preset.compression {
        notes.push(format!(
            "CR {ratio} with δ {delta} compresses the share {sparse_share} of the steps (Table V); the gate needs gradients"
        ));
    }
    notes
}
