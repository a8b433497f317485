use scadles_api::{
    job::{DatasetName, StreamPolicy},
    worker::{
        BatchRule, Completion, CompressionConfig, DatasetConfig, DonorChoice, EvaluationConfig,
        InjectionConfig, LearningRateScaling, NormStatistics, Normalization, PartitionRule,
    },
};
use scadles_core::{
    compress::gate::EnergyOf,
    sim::{
        ExchangeModel, InjectionMode, InjectionModel, NetworkModel, RateProfile, ReplicateBatch, SimDevice,
        SimLimits, SimSettings,
    },
};

use super::*;
use crate::replay::tests::job as small_job;

const RATES: [f64; 3] = [20.0, 7.0, 3.0];

/// A job of three devices that trains, with the clock that `scadles simulate` would give it.
fn job(folder: &std::path::Path) -> (JobConfig, VirtualClock) {
    let mut job = small_job(folder, RATES.len());
    job.devices.iter_mut().for_each(|device| device.partitions = 1);
    let dataset = DatasetConfig { name: DatasetName::Files, path: Some(folder.join("records")) };
    let evaluation = EvaluationConfig { dataset, every_steps: 4, samples: 40, top_k: vec![1, 2] };
    let job = JobConfig { evaluation: Some(evaluation), completion: Completion::MaxSteps(10), ..job };
    let clock = clock(&job);
    (job, clock)
}

fn clock(job: &JobConfig) -> VirtualClock {
    let device = |&rate: &f64| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample: 0.01 };
    let network = NetworkModel { bytes_per_second: 1e6, latency_seconds: 0.001 };
    VirtualClock {
        settings: SimSettings {
            rule: job.stream.batch,
            bounds: job.stream.batch_bounds,
            policy: job.stream.policy,
            aggregation: job.training.aggregation,
            exchange: ExchangeModel { parameters: 10_000, network, constant_seconds: 0.0, sparse: None },
            injection: job.injection.as_ref().map(|config| InjectionModel {
                mode: config.mode,
                batch: config.batch,
                donor_fraction: config.donor_fraction,
                shared_fraction: config.shared_fraction,
                record_bytes: 65,
            }),
            compute_noise: 0.1,
            seed: 3,
            limits: SimLimits::NONE,
        },
        devices: RATES.iter().map(device).collect(),
    }
}

fn trained(job: &JobConfig, clock: &VirtualClock) -> VirtualRun {
    let _ = std::fs::remove_file(job.output_dir.join("steps.csv"));
    simulate(job, clock, &mut |_| ()).unwrap()
}

fn words(run: &VirtualRun) -> &LastWords {
    run.progress.last_words.as_ref().unwrap()
}

#[test]
fn the_same_job_gives_the_same_bits_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, clock) = job(folder.path());
    let first = trained(&job, &clock);
    assert_eq!(first, trained(&job, &clock));
    job.training.seed += 1;
    assert_ne!(words(&first).parameter_hash, words(&trained(&job, &clock)).parameter_hash);
}

#[test]
fn a_run_has_the_results_of_a_live_one_and_accounts_for_every_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _) = job(folder.path());
    job.stream.policy = StreamPolicy::Truncation;
    let run = trained(&job, &clock(&job));
    assert_eq!((words(&run).code, words(&run).step), (ExitCode::Completed, 10));
    let steps: Vec<u64> = run.accuracy.iter().map(|evaluation| evaluation.step).collect();
    assert_eq!(steps, [4, 8, 10]);
    let pictures: Vec<u64> = run.accuracy.iter().map(|evaluation| evaluation.pictures).collect();
    assert_eq!(pictures, [40, 40, 240], "all at the end");
    assert!(run.accuracy.iter().all(|evaluation| evaluation.seconds <= run.progress.train_seconds));
    let lines = std::fs::read_to_string(folder.path().join("steps.csv")).unwrap().lines().count();
    assert_eq!(lines, 11, "a head and ten steps");
    assert!(folder.path().join("model.safetensors").is_file());
    let ledgers: Vec<Ledger> = run.progress.devices.iter().map(|device| device.ledger).collect();
    assert!(ledgers.iter().all(Ledger::is_balanced), "{ledgers:?}");
    let trained: u64 = ledgers.iter().map(|ledger| ledger.trained).sum();
    assert_eq!(trained, run.progress.samples);
    assert!(ledgers[0].trained > ledgers[2].trained, "the quicker stream trains more");
    job.completion = Completion::MaxSteps(8);
    let again = super::simulate(&job, &clock(&job), &mut |_| ()).unwrap();
    let pictures: Vec<(u64, u64)> = again.accuracy.iter().map(|it| (it.step, it.pictures)).collect();
    assert_eq!(pictures, [(4, 40), (8, 240)], "one evaluation of a step, the larger");
}

#[test]
fn compression_follows_the_gate_and_shortens_the_exchange() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _) = job(folder.path());
    let dense = trained(&job, &clock(&job));
    let energy_of = EnergyOf::Compensated;
    let every_step = CompressionConfig { ratio: 0.02, is_free: false, delta: None, energy_of };
    job.compression = Some(every_step);
    let sparse = trained(&job, &clock(&job));
    let seen = sparse.progress.compression.unwrap();
    assert_eq!((seen.sparse_steps, seen.vetoed_steps), (10, 0));
    let bytes = |run: &VirtualRun| run.progress.devices.iter().map(|device| device.bytes_sent).sum::<u64>();
    assert!(bytes(&sparse) * 5 < bytes(&dense), "{} of {}", bytes(&sparse), bytes(&dense));
    // 53 ms of every dense step are the exchange's.
    let busy = |run: &VirtualRun| run.progress.devices[0].busy_seconds;
    assert!(busy(&sparse) < busy(&dense) - 0.3, "{} {}", busy(&sparse), busy(&dense));
    // A gate that never opens: the dense run's bits.
    job.compression = Some(CompressionConfig { delta: Some(0.0), ..every_step });
    let closed = trained(&job, &clock(&job));
    assert_eq!(closed.progress.compression.unwrap().vetoed_steps, 9, "of the first nothing is known");
    assert_eq!(words(&closed).parameter_hash, words(&dense).parameter_hash);
}

/// The column `learning_rate` of `steps.csv`.
fn learning_rates(job: &JobConfig) -> Vec<f64> {
    let text = std::fs::read_to_string(job.output_dir.join("steps.csv")).unwrap();
    let place = text.lines().next().unwrap().split(',').position(|name| name == "learning_rate").unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(place).unwrap().parse().unwrap()).collect()
}

#[test]
fn the_rate_follows_the_noise_of_the_gradients_between_one_and_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _) = job(folder.path());
    job.training.learning_rate_scaling = LearningRateScaling::AdaScale;
    job.training.base_batch_size = 2;
    job.stream.batch = BatchRule::Fixed { size: 8 };
    let run = trained(&job, &clock(&job));
    let gains: Vec<f64> = learning_rates(&job).iter().map(|rate| rate / job.training.learning_rate).collect();
    assert!((gains[0] - 1.0).abs() < 1e-6, "of the first step nothing is known: {gains:?}");
    assert!(gains[1..].iter().all(|gain| (1.0..=4.0 + 1e-6).contains(gain)), "{gains:?}");
    assert!(gains[1..].iter().any(|gain| *gain > 1.05 && *gain < 3.95), "{gains:?}");
    assert_eq!(run, trained(&job, &clock(&job)));
    // What is selected holds less or more than the gradients: bounds are bounds.
    let every_step =
        CompressionConfig { ratio: 0.02, is_free: false, delta: None, energy_of: EnergyOf::Compensated };
    job.compression = Some(every_step);
    trained(&job, &clock(&job));
    let sparse = learning_rates(&job);
    assert!(
        sparse.iter().all(|rate| (1.0..=4.0 + 1e-6).contains(&(rate / job.training.learning_rate))),
        "{sparse:?}"
    );
}

/// The job with batches that no time decides, as its devices share samples; the run and its model's parameters.
fn sharing(job: &JobConfig, injection: Option<InjectionConfig>) -> (VirtualRun, Vec<f32>) {
    let mut job = JobConfig { injection, ..job.clone() };
    job.stream.batch = BatchRule::Fixed { size: 8 };
    let run = trained(&job, &clock(&job));
    (run, model_values(&job, ""))
}

/// Values of the model's tensors whose names end like this, in the order of names.
fn model_values(job: &JobConfig, ending: &str) -> Vec<f32> {
    let model = std::fs::read(job.output_dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&model).unwrap();
    let mut names: Vec<_> = tensors.names().into_iter().filter(|name| name.ends_with(ending)).collect();
    names.sort_unstable();
    let values =
        names.iter().flat_map(|name| tensors.tensor(name).unwrap().data().to_vec()).collect::<Vec<u8>>();
    values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn half_of_all(mode: InjectionMode) -> InjectionConfig {
    InjectionConfig {
        mode,
        batch: ReplicateBatch::Grow,
        donor_fraction: 0.5,
        shared_fraction: 0.5,
        donors: DonorChoice::Random,
        may_share: vec![true; RATES.len()],
        budget_bytes_per_step: None,
    }
}

/// ‖a − b‖ / ‖a‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut a.iter().map(|a| f64::from(*a)))
}

#[test]
fn samples_that_move_train_the_model_that_they_train_at_home_up_to_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let (job, _) = job(folder.path());
    let (at_home, expected) = sharing(&job, None);
    let (moved, found) = sharing(&job, Some(half_of_all(InjectionMode::Move)));
    assert_ne!(
        words(&at_home).parameter_hash,
        words(&moved).parameter_hash,
        "nothing was added in another order"
    );
    assert!(distance(&expected, &found) < 1e-5, "{}", distance(&expected, &found));
    assert_eq!(at_home.progress.samples, moved.progress.samples);
    let ledgers: Vec<Ledger> = moved.progress.devices.iter().map(|device| device.ledger).collect();
    assert!(ledgers.iter().all(Ledger::is_balanced), "{ledgers:?}");
    let sum: Ledger = ledgers.into_iter().sum();
    // Two donors, four of eight samples each.
    assert_eq!((sum.shared_out, sum.received, sum.trained), (80, 80, 240));
    let told = moved.progress.injection.unwrap();
    assert_eq!((told.shared_samples, told.bytes_sent, told.paper_bytes()), (80, 80 * 65, 80 * 3072));
    assert_eq!(at_home.progress.injection, None);

    let (copied, other) = sharing(&job, Some(half_of_all(InjectionMode::Replicate)));
    assert!(distance(&expected, &other) > 1e-3, "{}", distance(&expected, &other));
    assert_eq!(copied.progress.samples, at_home.progress.samples, "copies are no samples of an epoch");
    let sum: Ledger = copied.progress.devices.iter().map(|device| device.ledger).sum();
    assert_eq!((sum.shared_out, sum.received, sum.trained), (80, 160, 240));
    assert_eq!(copied.progress.injection.unwrap().bytes_sent, 160 * 65);
}

#[test]
fn shared_samples_lengthen_the_compute_of_those_that_train_them_and_shrinking_takes_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (job, _) = job(folder.path());
    let busy = |run: &VirtualRun| run.progress.devices[0].busy_seconds;
    let grown = half_of_all(InjectionMode::Replicate);
    let shrunk = InjectionConfig { batch: ReplicateBatch::Shrink, ..grown.clone() };
    let named = InjectionConfig { donors: DonorChoice::LabelDeficit, ..shrunk.clone() };
    let (at_home, grown) = (sharing(&job, None).0, sharing(&job, Some(grown)).0);
    let (shrunk, named) = (sharing(&job, Some(shrunk)).0, sharing(&job, Some(named)).0);
    assert!(busy(&grown) > 1.2 * busy(&at_home), "{} {}", busy(&grown), busy(&at_home));
    assert!(busy(&shrunk) < 1.1 * busy(&at_home), "{} {}", busy(&shrunk), busy(&at_home));
    // 8 / (1 + 2 · 0.5) of each stream; the rest waits.
    assert_eq!((shrunk.progress.samples, named.progress.samples), (3 * 4 * 10, 3 * 4 * 10));
    assert_ne!(words(&shrunk).parameter_hash, words(&named).parameter_hash, "other donors");
}

/// Pictures that are the brighter the greater their label.
fn tell_labels_by_brightness(job: &JobConfig) {
    let path = job.producer.as_ref().unwrap().dataset.path.clone().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    for record in bytes.chunks_mut(job.samples().sample_bytes()) {
        let (label, picture) = record.split_first_mut().unwrap();
        for value in picture {
            *value = *label * 60 + *value % 40;
        }
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn running_statistics_are_of_all_labels_where_devices_agree_on_them_and_else_of_the_first_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _) = job(folder.path());
    tell_labels_by_brightness(&job);
    job.model.normalization = Normalization::Batch;
    job.producer.as_mut().unwrap().partition = PartitionRule::LabelSkew { labels_per_device: 1 };
    job.stream.batch = BatchRule::Fixed { size: 8 };
    let mut trained_with = |rule| {
        job.model.statistics = Some(rule);
        let run = trained(&job, &clock(&job));
        (run, model_values(&job, ".running_mean"))
    };
    let agreed = trained_with(NormStatistics::Agreed);
    assert_eq!(agreed, trained_with(NormStatistics::Agreed));
    let local = trained_with(NormStatistics::Local);
    let hash = |run: &VirtualRun| words(run).parameter_hash.clone();
    assert_eq!(hash(&agreed.0), hash(&local.0), "training goes by its batches");
    assert!(distance(&agreed.1, &local.1) > 0.1, "{}", distance(&agreed.1, &local.1));
    let loss = |run: &VirtualRun| run.accuracy.last().unwrap().loss;
    assert!(loss(&agreed.0) < loss(&local.0), "{} {}", loss(&agreed.0), loss(&local.0));
}

#[test]
fn a_free_choice_sends_all_where_time_is_no_matter_and_less_on_a_slow_link() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _) = job(folder.path());
    let energy_of = EnergyOf::Compensated;
    let dense = trained(&job, &clock(&job));
    job.compression = Some(CompressionConfig { ratio: 0.02, is_free: true, delta: Some(0.9), energy_of });
    let mut quick = clock(&job);
    quick.settings.exchange.network.bytes_per_second = 1e15;
    let all = trained(&job, &quick);
    let seen = all.progress.compression.unwrap();
    assert_eq!((seen.sparse_steps, seen.half_steps), (0, 0));
    assert_eq!(
        words(&all).parameter_hash,
        words(&dense).parameter_hash,
        "the bits of a job without compression"
    );
    let mut slow = clock(&job);
    slow.settings.exchange.network.bytes_per_second = 1e4;
    let chosen = trained(&job, &slow);
    let seen = chosen.progress.compression.unwrap();
    assert_eq!(seen.sparse_steps, 9, "of the first nothing is known: {seen:?}");
    job.compression = None;
    let patient = trained(&job, &slow);
    assert!(chosen.progress.train_seconds * 3.0 < patient.progress.train_seconds);
}

#[test]
fn a_stream_that_ends_is_told_and_a_limit_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, mut clock) = job(folder.path());
    clock.settings.limits = SimLimits::steps(3);
    assert_eq!(
        (words(&trained(&job, &clock)).code, words(&trained(&job, &clock)).step),
        (ExitCode::Stopped, 3)
    );
    job.stream.batch = BatchRule::Fixed { size: 8 };
    clock.settings.rule = job.stream.batch;
    clock.settings.limits = SimLimits::NONE;
    clock.devices[1].stream =
        RateProfile::DropOut { rate: 7.0, from_seconds: 3.0, until_seconds: f64::INFINITY };
    let run = trained(&job, &clock);
    assert_eq!(words(&run).code, ExitCode::StreamStalled);
    assert_eq!(
        words(&run).message,
        "device device-1 waits for samples that never come, after 2 steps, 48 samples"
    );
}

#[test]
fn what_cannot_be_trained_on_the_virtual_clock_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (job, clock) = job(folder.path());
    let refused = |job: &JobConfig, clock: &VirtualClock| {
        let failure = simulate(job, clock, &mut |_| ()).unwrap_err();
        assert!(failure.code == ExitCode::Configuration && !failure.remedy.is_empty());
        failure.message
    };
    let without = JobConfig { producer: None, ..job.clone() };
    assert_eq!(refused(&without, &clock), "spec.producer: missing");
    let mut shared = clock.clone();
    shared.settings.injection = Some(InjectionModel {
        mode: InjectionMode::Move,
        batch: ReplicateBatch::Grow,
        donor_fraction: 0.5,
        shared_fraction: 0.5,
        record_bytes: 1,
    });
    assert!(refused(&job, &shared).starts_with("--injection"));
    let mut fewer = clock.clone();
    fewer.devices.pop();
    assert_eq!(refused(&job, &fewer), "the clock has 2 devices, the job 3");
}

#[test]
fn a_clock_comes_back_from_its_file_endless_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut clock) = job(folder.path());
    clock.devices[0].stream =
        RateProfile::DropOut { rate: 7.0, from_seconds: 3.0, until_seconds: f64::INFINITY };
    clock.settings.exchange = ExchangeModel::constant(1.0);
    let text = serde_json::to_string(&clock).unwrap();
    assert_eq!(serde_json::from_str::<VirtualClock>(&text).unwrap(), clock);
}

#[test]
fn a_run_that_diverges_is_told_with_what_there_was_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, clock) = job(folder.path());
    job.training.learning_rate = 1e30;
    let run = trained(&job, &clock);
    assert_eq!(words(&run).code, ExitCode::Diverged);
    assert!(words(&run).message.ends_with("is not a number") && !words(&run).remedy.is_empty());
    assert!(words(&run).step > 0 && words(&run).model_sha256.is_none());
    let trained: u64 = run.progress.devices.iter().map(|device| device.ledger.trained).sum();
    assert_eq!(trained, run.progress.samples, "the step that diverged is in every account");
    let text = serde_json::to_string(&run).unwrap();
    assert_eq!(serde_json::from_str::<VirtualRun>(&text).unwrap(), run, "JSON has words for all of it");
}
