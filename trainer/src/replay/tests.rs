//! A replay against ranks that really ran: threads, each with a learner of its own, and the ranks' own exchange.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scadles_api::job::{DatasetName, ModelName, StreamPolicy};
use scadles_api::worker::{
    Aggregation, BatchBounds, BatchRule, CheckpointConfig, Completion, CompressionConfig, DatasetConfig,
    DeviceConfig, EnergyOf, ImageFit, KafkaConfig, LearningRateScaling, Limits, ModelConfig, NormStatistics,
    Normalization, PartitionRule, ProducerConfig, RecordFormat, StartFrom, StreamConfig, StreamEnd,
    TrainingConfig, Transform,
};
use scadles_api::{PROTOCOL_VERSION, Tuning, names};
use scadles_core::augment::{SampleIdentity, augmentation};
use scadles_core::compress::exchange::SparseExchange;
use scadles_core::compress::gate::{CompressionDecision, CompressionState, SparseChoice};
use scadles_core::learning_rate::LearningRateState;
use scadles_kafka::dataset::{Dataset, DatasetSource, Split};
use scadles_kafka::{Broker, DeviceStream, EmbeddedBroker, PacedProducer, ProducerOptions, TopicSpec};

use super::*;
use crate::batch::{BatchAssembler, SampleRef};
use crate::checkpoint::{DeviceState, DeviceTotals, Manifest};
use crate::engine::InProcess;
use crate::exchange::{GradientExchange, residuals, statistics};
use crate::journal::{DeviceStep, JournalWriter, RecordRange, SegmentHeader};
use crate::learner::Learner;
use crate::optimizer::{Sgd, SgdState};
use crate::source::StreamCheckpoint;
use crate::worker::hash_text;

const PARTITIONS: u32 = 2;
const RECORDS: usize = 240;
const EPOCH_SAMPLES: u64 = 100;
const DEADLINE: Duration = Duration::from_mins(1);

/// A small job of `world_size` devices whose results go to `run`.
pub(crate) fn job(run: &Path, world_size: usize) -> JobConfig {
    let model = ModelConfig::built_in(ModelName::Cnn, [1, 8, 8], 4);
    let record_bytes = 1 + model.picture_values();
    let bytes: Vec<u8> = (0..RECORDS * record_bytes)
        .map(|i| if i % record_bytes == 0 { (i % 4) as u8 } else { (i * i % 251) as u8 })
        .collect();
    std::fs::write(run.join("records"), bytes).unwrap();
    let dataset = DatasetConfig { name: DatasetName::Files, path: Some(run.join("records")) };
    let device = |index| DeviceConfig {
        name: names::numbered_device(index),
        topic: names::numbered_device(index),
        partitions: PARTITIONS,
    };
    JobConfig {
        name: "replayed".to_owned(),
        namespace: "default".to_owned(),
        uid: "uid-1".to_owned(),
        devices: (0..world_size).map(device).collect(),
        kafka: KafkaConfig { bootstrap_servers: "127.0.0.1:1".to_owned(), security: None },
        model,
        training: training(),
        stream: stream(),
        producer: Some(ProducerConfig {
            dataset,
            rates: vec![10.0; world_size],
            partition: PartitionRule::Iid,
            seed: 5,
        }),
        compression: None,
        injection: None,
        checkpoint: CheckpointConfig { root: run.join("checkpoints"), bucket: None, every_steps: 4, keep: 3 },
        evaluation: None,
        completion: Completion::MaxSteps(8),
        limits: Limits {
            max_restarts: 1,
            start_deadline_seconds: 60.0,
            active_deadline_seconds: None,
            stall_seconds: 60.0,
            collective_seconds: 60.0,
            stop_grace_seconds: 10.0,
            orphan_seconds: 60.0,
        },
        output_dir: run.to_owned(),
        output_bucket: None,
        data_dir: run.to_owned(),
        threads: 1,
    }
}

fn training() -> TrainingConfig {
    TrainingConfig {
        micro_batch: 3,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 1e-4,
        milestone_epochs: Vec::new(),
        gamma: 0.2,
        base_batch_size: 64,
        learning_rate_scaling: LearningRateScaling::Linear,
        aggregation: Aggregation::Weighted,
        class_weights: Vec::new(),
        epoch_samples: EPOCH_SAMPLES,
        seed: 11,
    }
}

fn stream() -> StreamConfig {
    StreamConfig {
        format: RecordFormat::CifarBinary,
        start_from: StartFrom::Earliest,
        end: StreamEnd::Never,
        policy: StreamPolicy::Persistence,
        batch: BatchRule::LineRate,
        batch_bounds: BatchBounds { min: 1, max: 16, max_skip: 4 },
        transform: Transform {
            mean: vec![0.5],
            std: vec![0.25],
            random_crop_padding: 1,
            horizontal_flip: true,
        },
        buffer_bytes: 1 << 20,
        max_rejected_share: 0.01,
    }
}

/// A step in which each rank trains a different number of samples, one of them none.
fn record(attempt: u32, step: u64, world_size: usize) -> StepRecord {
    let batches: Vec<u64> = (0..world_size as u64).map(|rank| (rank * 7 + step * 3) % 11).collect();
    let global_batch: u64 = batches.iter().sum();
    let device = |&samples: &u64| {
        let ranges =
            [RecordRange(0, step * 11, samples / 2), RecordRange(1, step * 11, samples - samples / 2)];
        DeviceStep {
            loss_scale: 1.0 / global_batch as f64,
            ranges: ranges.into_iter().filter(|range| range.2 > 0).collect(),
            given: Vec::new(),
            received: Vec::new(),
        }
    };
    StepRecord {
        attempt,
        step,
        epoch: step / 3,
        learning_rate: 0.05 * global_batch as f64 / 64.0 / (3.0 + f64::from(attempt)),
        window_seconds: 0.25,
        global_batch,
        micro_batch: 3,
        devices: batches.iter().map(device).collect(),
        compression: None,
        tuning: None,
        // As after an evaluation.
        statistics_agreed: step.is_multiple_of(3),
        parameter_hash: None,
    }
}

/// One rank as it trains live.
struct Live {
    job: JobConfig,
    rank: usize,
    learner: Learner<f32>,
    momentum: SgdState<f32>,
    exchange: GradientExchange,
    engine: InProcess,
    source: DatasetSource,
}

impl Live {
    fn new(job: &JobConfig, rank: usize, engine: InProcess) -> Self {
        let producer = job.producer.as_ref().unwrap();
        let dataset = Dataset::load(&producer.dataset, Split::Train, &job.data_dir, &job.samples()).unwrap();
        let source =
            DatasetSource::new(Arc::new(dataset), producer.partition, producer.seed, job.devices.len())
                .unwrap();
        let learner = Learner::<f32>::new(&job.model, job.training.seed).unwrap();
        let learner = learner.with_class_weights(&job.training.class_weights).unwrap();
        let momentum = SgdState::new(learner.parameters().unwrap().len());
        let exchange = GradientExchange::new(learner.flat(), job.devices.len(), job.compression);
        Self { job: job.clone(), rank, learner, momentum, exchange, engine, source }
    }

    fn load(&mut self, snapshot: &Snapshot) {
        self.learner.set_model(&snapshot.model).unwrap();
        self.learner.decode(&snapshot.momentum, &mut self.momentum.momentum).unwrap();
        if let GradientExchange::Compressed(exchange) = &mut self.exchange {
            let residuals = crate::worker::decode_residuals(&self.learner, &snapshot.residuals).unwrap();
            let state = snapshot.manifest.devices[self.rank].compressor.unwrap();
            exchange.compressor_mut().restore(&residuals[self.rank], state).unwrap();
        }
    }

    /// All ranks' residuals on rank 0.
    fn residuals(&mut self) -> Vec<Vec<u8>> {
        let Some(exchange) = self.exchange.compressed() else { return Vec::new() };
        let gathered = residuals::gather(&mut self.engine, exchange.residual().unwrap()).unwrap();
        gathered.iter().map(|residual| self.learner.encode(residual).unwrap()).collect()
    }

    fn agree_statistics(&mut self) {
        let Some(rule) = self.job.model.statistics else { return };
        let ranks = statistics::gather(&mut self.engine, &self.learner.statistics().unwrap()).unwrap();
        self.learner.agree_statistics(rule, &ranks).unwrap();
    }

    fn step(&mut self, record: &StepRecord) {
        let (job, device) = (&self.job, &record.devices[self.rank]);
        let mut assembler = BatchAssembler::<f32>::new(&job.samples(), &job.stream.transform, 64).unwrap();
        let mut samples = Vec::new();
        for &RecordRange(partition, first, count) in &device.ranges {
            for offset in first..first + count {
                let identity =
                    SampleIdentity { device: self.rank as u64, partition, offset, epoch: record.epoch };
                let number = offset * u64::from(PARTITIONS) + u64::from(partition);
                let sample = self.source.sample(self.rank, number);
                samples.push((sample, augmentation(job.training.seed, identity, 1, true)));
            }
        }
        let samples =
            samples.iter().map(|(payload, augmentation)| SampleRef { payload, augmentation: *augmentation });
        let batch = assembler.assemble(samples).unwrap();
        self.learner.contribute(batch, device.loss_scale, record.micro_batch as usize).unwrap();
        let decision = record.compression.unwrap_or_default();
        let gradients = self.learner.gradients_mut().unwrap();
        self.exchange.combine(&mut self.engine, gradients, decision, record.learning_rate).unwrap();
        let sgd = Sgd { momentum: job.training.momentum, weight_decay: job.training.weight_decay };
        let (parameters, gradients) = self.learner.parameters_and_gradients_mut().unwrap();
        sgd.step(record.learning_rate, parameters, gradients, &mut self.momentum).unwrap();
    }

    /// Thresholds of so small a model are none: all ranks have rank 0's state.
    fn snapshot(&self, attempt: u32, step: u64, residuals: Vec<Vec<u8>>) -> Snapshot {
        let device = |device: &DeviceConfig| DeviceState {
            name: device.name.clone(),
            stream: StreamCheckpoint::default(),
            totals: DeviceTotals::default(),
            compressor: self.exchange.compressed().map(|it| it.compressor().state()),
        };
        let manifest = Manifest {
            protocol: PROTOCOL_VERSION,
            job_uid: self.job.uid.clone(),
            attempt,
            step,
            samples: 0,
            epoch: 0.0,
            learner_seed: self.job.training.seed,
            window_seconds: 0.25,
            train_seconds: 1.0,
            compression: CompressionState::default(),
            learning_rate: LearningRateState::default(),
            tunings: Vec::new(),
            parameter_hash: hash_text(self.learner.parameter_hash().unwrap()),
            statistics_hash: self.learner.statistics_hash().unwrap().map(hash_text),
            journal_segment: names::checkpoint(attempt, step),
            devices: self.job.devices.iter().map(device).collect(),
            evaluations: Vec::new(),
            files: Vec::new(),
        };
        let model = self.learner.encode_model().unwrap();
        let momentum = self.learner.encode(&self.momentum.momentum).unwrap();
        Snapshot { manifest, model, momentum, residuals }
    }
}

/// One attempt of all ranks from `start` on; rank 0 keeps journal and checkpoints as the worker does.
fn attempt(job: &JobConfig, number: u32, start: Option<&Snapshot>, last_step: u64, checkpoint_every: u64) {
    let world_size = job.devices.len();
    let from_step = start.map_or(0, |snapshot| snapshot.manifest.step);
    let header = SegmentHeader {
        protocol: PROTOCOL_VERSION,
        job_uid: job.uid.clone(),
        attempt: number,
        from_step,
        checkpoint: start.map_or_else(|| names::checkpoint(number, 0), |snapshot| snapshot.manifest.name()),
        cpu: cpu_kind(),
        torch: torch_ext::torch_version().to_owned(),
        threads: 1,
        devices: job.devices.iter().map(|device| device.name.clone()).collect(),
        config_hash: config_hash(job),
    };
    let engines = InProcess::group(world_size, DEADLINE);
    std::thread::scope(|scope| {
        for (rank, engine) in engines.into_iter().enumerate() {
            let header = header.clone();
            scope.spawn(move || {
                set_up_torch(1).unwrap();
                let store = CheckpointStore::open(&job.checkpoint.root).unwrap();
                let mut journal = (rank == 0).then(|| JournalWriter::open(&job.output_dir, header).unwrap());
                let mut live = Live::new(job, rank, engine);
                if let Some(snapshot) = start {
                    live.load(snapshot);
                } else if rank == 0 {
                    store.write(live.snapshot(number, 0, Vec::new())).unwrap();
                }
                for step in from_step + 1..=last_step {
                    let compression = job.compression.map(|_| decision(step));
                    let record = StepRecord { compression, ..record(number, step, world_size) };
                    live.step(&record);
                    // A checkpoint that no step announces is told by the segment that it begins.
                    if record.statistics_agreed || step % checkpoint_every == 0 {
                        live.agree_statistics();
                    }
                    let residuals = if step % checkpoint_every == 0 { live.residuals() } else { Vec::new() };
                    let Some(journal) = &mut journal else { continue };
                    journal.append(&record).unwrap();
                    if step % checkpoint_every == 0 {
                        journal.checkpoint(step).unwrap();
                        store.write(live.snapshot(number, step, residuals)).unwrap();
                    }
                }
                live.agree_statistics();
                if rank == 0 {
                    live.learner.save(&job.output_dir.join("model.safetensors")).unwrap();
                }
            });
        }
    });
}

/// A run whose first attempt was lost after step 6 and whose second went on from the checkpoint of step 4.
fn run(world_size: usize) -> (tempfile::TempDir, JobConfig) {
    run_with(world_size, None)
}

fn run_with(world_size: usize, compression: Option<CompressionConfig>) -> (tempfile::TempDir, JobConfig) {
    run_changed(world_size, |job| job.compression = compression)
}

fn run_changed(world_size: usize, change: impl FnOnce(&mut JobConfig)) -> (tempfile::TempDir, JobConfig) {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), world_size);
    change(&mut job);
    std::fs::write(folder.path().join("job.json"), serde_json::to_vec(&job).unwrap()).unwrap();
    attempt(&job, 1, None, 6, 4);
    let store = CheckpointStore::open(&job.checkpoint.root).unwrap();
    let loaded = store.load(&store.latest(&job.uid).unwrap().unwrap()).unwrap();
    assert_eq!(loaded.manifest.step, 4);
    attempt(&job, 2, Some(&loaded), 10, 4);
    (folder, job)
}

#[test]
fn a_replay_has_the_running_statistics_of_every_rank_wherever_they_were_agreed_on() {
    let mut found = Vec::new();
    for rule in [NormStatistics::Agreed, NormStatistics::Local] {
        let (folder, _) = run_changed(4, |job| {
            job.model.normalization = Normalization::Batch;
            job.model.statistics = Some(rule);
        });
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        assert!(result.equal, "{rule:?}: {result:?}");
        assert_eq!((result.compared_on_the_way, result.first_difference), (2, None));
        assert!(result.statistics_hash.is_some());
        found.push((result.parameter_hash, result.statistics_hash));

        if rule == NormStatistics::Local {
            // No agreement changes what rank 0 has seen.
            continue;
        }
        // A journal that does not tell of an agreement leads elsewhere.
        let path = folder.path().join("journal/0002-00000004.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(r#","statisticsAgreed":true"#).count(), 1, "{text}");
        std::fs::write(&path, text.replace(r#","statisticsAgreed":true"#, "")).unwrap();
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        // The journal is younger than the results now: what remains to compare with is the last checkpoint.
        assert_eq!((result.first_difference, result.equal), (Some(8), false), "{result:?}");
        assert_ne!(result.statistics_hash, result.expected_statistics);
        assert_ne!(result.parameter_hash, result.expected_hash, "rank 3 trains a lone sample in step 8");
    }
    assert_ne!(found[0], found[1]);
}

#[test]
fn a_replay_gives_the_bits_of_four_ranks_across_a_restart() {
    let (folder, _) = run(4);
    let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(result.equal, "{result:?}");
    assert_eq!((result.steps, result.from_checkpoint.as_str()), (10, "0001-00000000"));
    assert_eq!(result.compared_with, "model.safetensors");
    // The checkpoints of steps 4 and 8.
    assert_eq!((result.compared_on_the_way, result.first_difference), (2, None));
    assert_eq!(result.other_cpu, None);
}

#[test]
fn a_replay_gives_the_bits_of_a_run_with_class_weights_or_with_another_format() {
    let weighted: fn(&mut JobConfig) = |job| job.training.class_weights = vec![0.25, 4.0, 0.0, 1.0];
    let pictures: fn(&mut JobConfig) = |job| job.stream.format = RecordFormat::Image { fit: ImageFit::Exact };
    let plain: fn(&mut JobConfig) = |_| ();
    let hashes = [plain, weighted, pictures].map(|change| {
        let (folder, _) = run_changed(2, change);
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        assert!(result.equal, "{result:?}");
        std::fs::read(folder.path().join("model.safetensors")).unwrap()
    });
    assert_ne!(hashes[0], hashes[1], "class weights change nothing");
    assert_eq!(hashes[0], hashes[2], "the same values train the same model however they travel");
}

/// Every way in which a step's gradients may travel, in turn.
fn decision(step: u64) -> CompressionDecision {
    let sparse = |exchange, level| CompressionDecision::Sparse(SparseChoice { exchange, level });
    match step % 4 {
        // Checkpoints are taken after steps 4 and 8: something must be kept back then.
        1 => CompressionDecision::Dense,
        2 if step > 4 => CompressionDecision::Half,
        2 | 3 => sparse(SparseExchange::AllGather, 0),
        _ => sparse(SparseExchange::ReduceScatter, 1),
    }
}

#[test]
fn a_replay_of_a_compressed_run_gives_its_bits_from_checkpoint_0_and_from_a_residual() {
    let compression =
        CompressionConfig { ratio: 0.02, is_free: true, delta: Some(0.3), energy_of: EnergyOf::Compensated };
    for world_size in [2, 4] {
        let (folder, job) = run_with(world_size, Some(compression));
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        assert!(result.equal, "{world_size}: {result:?}");
        assert_eq!(result.compared_on_the_way, 2);
        let (dense, _) = run(world_size);
        let of_dense = replay(dense.path(), &ReplayOptions::default()).unwrap();
        assert_ne!(result.parameter_hash, of_dense.parameter_hash, "compression changed nothing");
        std::fs::remove_dir_all(job.checkpoint.root.join("uid-1/0001-00000000")).unwrap();
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        assert!(result.equal, "{world_size}: {result:?}");
        assert_eq!(result.from_checkpoint, "0001-00000004");
    }
}

#[test]
fn a_replay_of_a_run_that_was_tuned_selects_as_the_run_did_whatever_the_job_says() {
    let compression =
        CompressionConfig { ratio: 0.02, is_free: true, delta: Some(0.3), energy_of: EnergyOf::Compensated };
    let (folder, mut job) = run_with(2, Some(compression));
    let tuning = Tuning::of(&job);
    // As if the job began with another ratio and was tuned to this one.
    job.compression = Some(CompressionConfig { ratio: 0.05, ..compression });
    std::fs::write(folder.path().join("job.json"), serde_json::to_vec(&job).unwrap()).unwrap();
    let untold = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(!untold.equal, "the ratio makes no difference");
    for segment in std::fs::read_dir(journal_dir(folder.path())).unwrap() {
        let path = segment.unwrap().path();
        let told = format!("\"tuning\":{},\"compression\":", serde_json::to_string(&tuning).unwrap());
        let text = std::fs::read_to_string(&path).unwrap().replace("\"compression\":", &told);
        std::fs::write(&path, text).unwrap();
    }
    std::fs::File::options()
        .append(true)
        .open(folder.path().join("model.safetensors"))
        .unwrap()
        .set_modified(std::time::SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    let again = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(again.equal, "{again:?}");
}

#[test]
fn a_run_that_went_on_with_other_settings_is_refused_and_one_with_another_end_is_not() {
    let (folder, job) = run(1);
    let rewrite = |job: &JobConfig| {
        std::fs::write(folder.path().join("job.json"), serde_json::to_vec(job).unwrap()).unwrap();
        replay(folder.path(), &ReplayOptions::default())
    };
    let mut longer = job.clone();
    longer.completion = Completion::MaxSteps(1000);
    longer.training.learning_rate *= 2.0;
    assert!(rewrite(&longer).unwrap().equal, "the records hold the rate of each step");
    let mut other = job;
    other.training.momentum = 0.5;
    let error = rewrite(&other).unwrap_err();
    assert_eq!(error, ReplayError::Settings { segment: "0001-00000000".to_owned() });
    assert_eq!(error.exit_code(), scadles_api::ExitCode::Configuration);
}

#[test]
fn a_replay_gives_the_bits_of_two_ranks_and_of_one() {
    for world_size in [1, 2] {
        let (folder, _) = run(world_size);
        let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
        assert!(result.equal, "{world_size}: {result:?}");
    }
}

#[test]
fn one_bit_in_one_number_of_the_journal_is_found_and_placed() {
    let (folder, _) = run(2);
    let path = journal_dir(folder.path()).join("0002-00000004.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let rate = record(2, 6, 2).learning_rate;
    let changed = f64::from(rate as f32 * (1.0 + 2.0 * f32::EPSILON));
    let altered =
        text.replacen(&format!("\"learningRate\":{rate}"), &format!("\"learningRate\":{changed}"), 1);
    assert_ne!(altered, text);
    let (model, age) = (folder.path().join("model.safetensors"), std::time::SystemTime::now());
    std::fs::write(&path, altered).unwrap();
    std::fs::File::options()
        .append(true)
        .open(&model)
        .unwrap()
        .set_modified(age + Duration::from_secs(5))
        .unwrap();
    let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(!result.equal);
    assert_eq!(result.first_difference, Some(8), "the checkpoint after step 6");
}

#[test]
fn a_run_that_was_killed_is_compared_with_its_newest_checkpoint() {
    let (folder, _) = run(2);
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(result.equal, "{result:?}");
    assert_eq!((result.steps, result.compared_with.as_str()), (8, "checkpoint 0002-00000008"));
}

#[test]
fn a_replay_without_checkpoint_0_begins_at_the_oldest_that_is_left() {
    let (folder, job) = run(2);
    std::fs::remove_dir_all(job.checkpoint.root.join("uid-1/0001-00000000")).unwrap();
    let result = replay(folder.path(), &ReplayOptions::default()).unwrap();
    assert!(result.equal, "{result:?}");
    assert_eq!((result.steps, result.from_checkpoint.as_str()), (6, "0001-00000004"));
}

#[test]
fn a_moved_run_folder_takes_its_checkpoints_along() {
    let (folder, _) = run(1);
    let moved = tempfile::tempdir().unwrap();
    let place = moved.path().join("run");
    let data = folder.path().join("records");
    let kept = moved.path().join("records");
    std::fs::copy(&data, &kept).unwrap();
    std::fs::rename(folder.path(), &place).unwrap();
    std::fs::create_dir(folder.path()).unwrap();
    std::fs::copy(&kept, &data).unwrap();
    let result = replay(&place, &ReplayOptions::default()).unwrap();
    assert!(result.equal, "{result:?}");
}

#[test]
fn without_a_producer_the_topics_give_the_records_that_were_trained() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 2);
    let broker = EmbeddedBroker::start().unwrap();
    job.kafka.bootstrap_servers = broker.servers().to_owned();
    let topics: Vec<TopicSpec> = job
        .devices
        .iter()
        .map(|device| TopicSpec { name: device.topic.clone(), partitions: PARTITIONS, replication: None })
        .collect();
    broker.ensure_topics(&topics, DEADLINE).unwrap();
    let stream = |device: &DeviceConfig| DeviceStream {
        topic: device.topic.clone(),
        partitions: PARTITIONS,
        samples_per_second: 1e9,
        max_records: Some(150),
    };
    let source = Live::new(&job, 0, InProcess::group(1, DEADLINE).remove(0)).source;
    let streams = job.devices.iter().map(stream).collect();
    let producer =
        PacedProducer::start(broker.connection(), streams, Box::new(source), ProducerOptions::default())
            .unwrap();
    while !producer.statistics().iter().all(|stream| stream.finished) {
        assert_eq!(producer.failure(), None);
        std::thread::yield_now();
    }
    producer.stop(DEADLINE).unwrap();
    let mut made_again = records::open(&job).unwrap();
    job.producer = None;
    let mut stored = records::open(&job).unwrap();
    for (device, range) in
        [(0, RecordRange(0, 3, 40)), (1, RecordRange(1, 70, 5)), (0, RecordRange(1, 0, 75))]
    {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        made_again.read(device, range, &mut a).unwrap();
        stored.read(device, range, &mut b).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.len() as u64, range.2);
    }
    let reason = stored.read(0, RecordRange(0, 70, 20), &mut Vec::new()).unwrap_err();
    assert!(reason.contains("has only 5 of them"), "{reason}");
}

#[test]
fn a_folder_that_is_no_run_is_an_error_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let error = replay(folder.path(), &ReplayOptions::default()).unwrap_err();
    assert!(error.to_string().contains("job.json"), "{error}");
    assert!(error.remedy().contains("scadles run"));
    assert_eq!(error.exit_code(), scadles_api::ExitCode::Configuration);
}
