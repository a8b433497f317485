use scadles_api::worker::{
    BatchBounds, BatchRule, DatasetConfig, DatasetName, ImageFit, LearningRateScaling, ModelName,
    PartitionRule, RecordFormat, StartFrom, Stem, StreamEnd, StreamPolicy, Transform, ValueType,
};

use super::*;
use crate::parse_job;

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: s1, namespace: demo}
spec:
  model: {name: Cnn}
  training: {seed: 7}
  stream: {batch: {rule: LineRate}}
  kafka: {bootstrapServers: '127.0.0.1:9092', topics: {partitions: 2}}
  devices: {named: [{name: a}, {name: b, topic: mine}]}
  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}
  checkpoint: {storage: {path: ck}}
  evaluation: {everySteps: 20}
  completion: {maxSamples: 60000}
  runPolicy: {maxRestarts: 3}
";

fn check(text: &str) -> Result<ValidatedJob, Mistakes> {
    validate(&parse_job(text).unwrap_or_else(|mistakes| panic!("form: {mistakes}")))
}

fn changed(changes: &[(&str, &str)]) -> Result<ValidatedJob, Mistakes> {
    let text = changes.iter().fold(JOB.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    check(&text)
}

/// Path and problem of the only mistake after one change of the good job.
fn mistake(from: &str, to: &str) -> (String, String) {
    let found = changed(&[(from, to)]).expect_err(to);
    assert_eq!(found.count(), 1, "{to}: {found}");
    let only = found.iter().next().unwrap();
    assert!(!only.remedy.is_empty(), "{only}");
    (only.path.clone(), only.problem.clone())
}

fn resolved_stream() -> StreamConfig {
    StreamConfig {
        format: scadles_api::worker::RecordFormat::CifarBinary,
        start_from: StartFrom::Earliest,
        end: StreamEnd::Never,
        policy: StreamPolicy::Persistence,
        batch: BatchRule::LineRate,
        batch_bounds: BatchBounds { min: 8, max: 1024, max_skip: 4 },
        transform: Transform {
            mean: vec![0.4914, 0.48216, 0.44653],
            std: vec![0.24703, 0.24349, 0.26159],
            random_crop_padding: 0,
            horizontal_flip: false,
        },
        buffer_bytes: 64 << 20,
        max_rejected_share: 0.01,
    }
}

#[test]
fn a_job_without_mistakes_has_every_default_filled_in() {
    let expected = ValidatedJob {
        name: "s1".to_owned(),
        namespace: "demo".to_owned(),
        devices: [("a", "demo.s1.a"), ("b", "mine")]
            .map(|(name, topic)| ValidatedDevice { name: name.to_owned(), topic: topic.to_owned() })
            .to_vec(),
        bootstrap_servers: Some("127.0.0.1:9092".to_owned()),
        topics: ValidatedTopics {
            management: TopicManagement::Operator,
            partitions: Some(2),
            replication: 1,
            config: std::collections::BTreeMap::new(),
            adoption: Adoption::Refuse,
            deletion_policy: DeletionPolicy::Retain,
        },
        kafka_secrets: KafkaSecrets::default(),
        cluster_only: vec![],
        model: ModelConfig {
            name: ModelName::Cnn,
            normalization: scadles_api::worker::Normalization::Group,
            statistics: None,
            num_classes: 10,
            input_shape: [3, 32, 32],
            stem: None,
            torch_script: None,
        },
        training: TrainingConfig {
            micro_batch: 64,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 0.0001,
            milestone_epochs: vec![],
            gamma: 0.2,
            base_batch_size: 64,
            learning_rate_scaling: LearningRateScaling::Linear,
            aggregation: scadles_api::worker::Aggregation::Weighted,
            class_weights: vec![],
            epoch_samples: 50_000,
            seed: 7,
        },
        stream: resolved_stream(),
        producer: Some(ProducerConfig {
            dataset: DatasetConfig { name: DatasetName::Cifar10, path: None },
            rates: vec![50.0, 38.0],
            partition: PartitionRule::Iid,
            seed: 7,
        }),
        backend: BackendChoice::Auto,
        gpus_per_device: 0,
        compression: None,
        injection: None,
        checkpoint: ValidatedCheckpoint { every_steps: 40, keep: 3, path: Some("ck".into()) },
        evaluation: Some(EvaluationConfig {
            dataset: DatasetConfig { name: DatasetName::Cifar10, path: None },
            every_steps: 20,
            samples: 2000,
            top_k: vec![1, 5],
        }),
        completion: Completion::MaxSamples(60_000),
        limits: Limits {
            max_restarts: 3,
            start_deadline_seconds: 600.0,
            active_deadline_seconds: None,
            stall_seconds: 300.0,
            collective_seconds: 60.0,
            stop_grace_seconds: 30.0,
            orphan_seconds: 60.0,
        },
    };
    assert_eq!(check(JOB), Ok(expected));
}

#[test]
fn a_job_without_producer_or_broker_validates_because_only_the_body_knows_the_broker() {
    let job = changed(&[
        ("  kafka: {bootstrapServers: '127.0.0.1:9092', topics: {partitions: 2}}\n", ""),
        ("  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}\n", ""),
        ("  evaluation: {everySteps: 20}\n", ""),
    ]);
    let job = job.unwrap();
    assert_eq!(job.bootstrap_servers, None);
    assert_eq!(job.stream.transform.mean, vec![0.5; 3]);
}

#[test]
fn compression_is_the_papers_unless_the_job_says_otherwise() {
    let with = |compression: &str| {
        let added = format!("  compression: {compression}\n  evaluation:");
        changed(&[("  evaluation:", &added)]).unwrap().compression
    };
    let energy_of = scadles_api::job::EnergyOf::Compensated;
    let papers = CompressionConfig { ratio: 0.1, is_free: false, delta: Some(0.3), energy_of };
    assert_eq!(with("{mode: Adaptive}"), Some(papers));
    assert_eq!(
        with("{mode: Static, ratio: 0.01}"),
        Some(CompressionConfig { ratio: 0.01, delta: None, ..papers })
    );
    assert_eq!(with("{mode: Auto}"), Some(CompressionConfig { ratio: 0.01, is_free: true, ..papers }));
    assert_eq!(with("{mode: None}"), None);
}

#[test]
fn the_learning_rate_follows_the_batch_without_bound_unless_the_job_says_otherwise() {
    let with =
        |training: &str| changed(&[("seed: 7", training)]).map(|job| job.training.learning_rate_scaling);
    assert_eq!(with("seed: 7"), Ok(LearningRateScaling::Linear));
    let capped = |factor, warm_up_epochs| Ok(LearningRateScaling::Capped { factor, warm_up_epochs });
    assert_eq!(with("learningRateScaling: Capped"), capped(2.0, 1.0));
    let bounds = "learningRateCap: {factor: 2.5, warmUpEpochs: 0}";
    assert_eq!(with(&format!("learningRateScaling: Capped, {bounds}")), capped(2.5, 0.0));
    assert_eq!(with("learningRateScaling: AdaScale"), Ok(LearningRateScaling::AdaScale));
    let alone = changed(&[
        ("seed: 7", "learningRateScaling: AdaScale"),
        ("[{name: a}, {name: b, topic: mine}]", "[{name: a}]"),
        ("list: [50, 38]", "constant: 50"),
    ]);
    let refused = alone.unwrap_err();
    let only = refused.iter().next().unwrap();
    assert_eq!((refused.count(), only.path.as_str()), (1, "spec.training.learningRateScaling"));
    assert!(only.remedy.contains("at least two devices"), "{only}");
}

#[test]
fn nobody_shares_samples_unless_the_job_says_so() {
    let with = |injection: &str, devices: &str| {
        let added = format!("  injection: {injection}\n  evaluation:");
        changed(&[("  evaluation:", &added), ("{name: a}", devices)])
    };
    let refused = with("{mode: Move}", "{name: a}").unwrap_err();
    let only = refused.iter().next().unwrap();
    assert_eq!((refused.count(), only.path.as_str()), (1, "spec.injection.optIn"));
    assert!(only.remedy.contains("shareData: true") && only.remedy.contains("optIn: All"), "{only}");
    assert!(with("{mode: Move}", "{name: a, shareData: false}").is_err());

    let one = with("{mode: Move}", "{name: a, shareData: true}").unwrap().injection.unwrap();
    let expected = InjectionConfig {
        mode: scadles_api::job::InjectionMode::Move,
        batch: scadles_api::job::ReplicateBatch::Grow,
        donor_fraction: 0.5,
        shared_fraction: 0.5,
        donors: scadles_api::job::DonorChoice::Random,
        may_share: vec![true, false],
        budget_bytes_per_step: None,
    };
    assert_eq!(one, expected);
    let all = with("{mode: Replicate, optIn: All, replicate: {batch: Shrink}}", "{name: a}").unwrap();
    let all = all.injection.unwrap();
    assert_eq!((all.may_share, all.batch), (vec![true; 2], scadles_api::job::ReplicateBatch::Shrink));
}

/// One change of the good job, and the field that is then wrong.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("v1alpha1", "v2", "apiVersion"),
    ("kind: ScadlesJob", "kind: Job", "kind"),
    ("name: s1", "name: S_1", "metadata.name"),
    ("name: s1", "name: a-name-that-is-too-long-for-a-job", "metadata.name"),
    ("namespace: demo", "namespace: -x", "metadata.namespace"),
    ("{named: [{name: a}, {name: b, topic: mine}]}", "{}", "spec.devices"),
    ("{name: a}", "{name: A}", "spec.devices.named[0].name"),
    ("{name: a}", "{name: a-very-long-device-name}", "spec.devices.named[0].name"),
    ("{name: a}", "{name: b}", "spec.devices.named[1].name"),
    ("topic: mine", "topic: my topic", "spec.devices.named[1].topic"),
    ("topic: mine", "topic: '..'", "spec.devices.named[1].topic"),
    ("topic: mine", "topic: demo.s1.a", "spec.devices.named[1].topic"),
    ("partitions: 2", "nameTemplate: 'x/{device}'", "spec.kafka.topics.nameTemplate"),
    ("partitions: 2", "partitions: 0", "spec.kafka.topics.partitions"),
    ("partitions: 2", "replicationFactor: 0", "spec.kafka.topics.replicationFactor"),
    ("'127.0.0.1:9092'", "localhost", "spec.kafka.bootstrapServers"),
    ("'127.0.0.1:9092'", "'a:1,b:99999'", "spec.kafka.bootstrapServers"),
    ("name: Cnn", "name: Vgg11, stem: Cifar", "spec.model.stem"),
    ("name: Cnn", "name: Cnn, torchScript: {path: own.pt}", "spec.model.torchScript"),
    ("name: Cnn", "name: TorchScript", "spec.model.torchScript"),
    ("name: Cnn", "name: TorchScript, torchScript: {path: ' '}", "spec.model.torchScript.path"),
    (
        "name: Cnn",
        "name: TorchScript, torchScript: {path: own.pt}, normalization: Group",
        "spec.model.normalization",
    ),
    ("name: Cnn", "name: Mlp, normalization: Batch", "spec.model.normalization"),
    ("name: Cnn", "name: Cnn, statistics: Agreed", "spec.model.statistics"),
    ("seed: 7", "microBatch: 0", "spec.training.microBatch"),
    ("seed: 7", "baseBatchSize: 0", "spec.training.baseBatchSize"),
    ("seed: 7", "epochSamples: 0", "spec.training.epochSamples"),
    ("seed: 7", "learningRateCap: {factor: 2}", "spec.training.learningRateCap"),
    (
        "seed: 7",
        "learningRateScaling: Capped, learningRateCap: {factor: 0}",
        "spec.training.learningRateCap.factor",
    ),
    (
        "seed: 7",
        "learningRateScaling: Capped, learningRateCap: {warmUpEpochs: -1}",
        "spec.training.learningRateCap.warmUpEpochs",
    ),
    ("seed: 7", "classWeights: [1, 2]", "spec.training.classWeights"),
    ("seed: 7", "classWeights: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]", "spec.training.classWeights"),
    ("seed: 7", "classWeights: [1, -1, 1, 1, 1, 1, 1, 1, 1, 1]", "spec.training.classWeights[1]"),
    ("seed: 7", "optimizer: {learningRate: 0}", "spec.training.optimizer.learningRate"),
    ("seed: 7", "optimizer: {momentum: 1}", "spec.training.optimizer.momentum"),
    ("seed: 7", "optimizer: {weightDecay: -1}", "spec.training.optimizer.weightDecay"),
    ("seed: 7", "optimizer: {gamma: 0}", "spec.training.optimizer.gamma"),
    ("seed: 7", "optimizer: {milestoneEpochs: [2, 1]}", "spec.training.optimizer.milestoneEpochs"),
    ("rule: LineRate", "rule: LineRate, min: 0", "spec.stream.batch.min"),
    ("rule: LineRate", "rule: LineRate, max: 20000, min: 1", "spec.stream.batch.max"),
    ("rule: LineRate", "rule: LineRate, min: 64, max: 32", "spec.stream.batch"),
    ("rule: LineRate", "rule: LineRate, windowSeconds: 1", "spec.stream.batch.windowSeconds"),
    ("rule: LineRate", "rule: LineRate, fixed: {size: 64}", "spec.stream.batch.fixed"),
    ("rule: LineRate", "rule: StreamRate, windowSeconds: 0", "spec.stream.batch.windowSeconds"),
    ("rule: LineRate", "rule: Fixed, fixed: {size: 0}", "spec.stream.batch.fixed.size"),
    ("rule: LineRate", "rule: Fixed, fixed: {size: 2000}", "spec.stream.batch.fixed.size"),
    ("{batch: {rule: LineRate}}", "{bufferBytes: 1Mi}", "spec.stream.bufferBytes"),
    ("{batch: {rule: LineRate}}", "{maxRejectedShare: 1.5}", "spec.stream.maxRejectedShare"),
    ("{batch: {rule: LineRate}}", "{image: {fit: Crop}}", "spec.stream.image"),
    ("{batch: {rule: LineRate}}", "{format: Image, tensor: {dtype: U8}}", "spec.stream.tensor"),
    ("{batch: {rule: LineRate}}", "{startFrom: Timestamp}", "spec.stream.timestamp"),
    ("{batch: {rule: LineRate}}", "{timestamp: '2026-05-04T08:30:00Z'}", "spec.stream.timestamp"),
    ("{batch: {rule: LineRate}}", "{startFrom: Timestamp, timestamp: yesterday}", "spec.stream.timestamp"),
    (
        "{batch: {rule: LineRate}}",
        "{startFrom: Timestamp, timestamp: '2026-05-04T08:30:00'}",
        "spec.stream.timestamp",
    ),
    (
        "{batch: {rule: LineRate}}",
        "{startFrom: Timestamp, timestamp: '1969-05-04T08:30:00Z'}",
        "spec.stream.timestamp",
    ),
    ("{batch: {rule: LineRate}}", "{end: {rule: Never, idle: {seconds: 1}}}", "spec.stream.end.idle"),
    ("{batch: {rule: LineRate}}", "{transform: {mean: [0.5]}}", "spec.stream.transform.mean"),
    ("{batch: {rule: LineRate}}", "{transform: {std: [1, 0, 1]}}", "spec.stream.transform.std"),
    (
        "{batch: {rule: LineRate}}",
        "{transform: {randomCropPadding: 32}}",
        "spec.stream.transform.randomCropPadding",
    ),
    ("completion:", "compression: {mode: Static, ratio: 0}\n  completion:", "spec.compression.ratio"),
    ("completion:", "compression: {mode: Adaptive, ratio: 1.1}\n  completion:", "spec.compression.ratio"),
    ("completion:", "compression: {mode: Adaptive, delta: 0}\n  completion:", "spec.compression.delta"),
    ("completion:", "compression: {mode: Static, delta: 0.3}\n  completion:", "spec.compression.delta"),
    (
        "completion:",
        "compression: {mode: None, energyOf: Gradient}\n  completion:",
        "spec.compression.energyOf",
    ),
    ("completion:", "compression: {mode: None, ratio: 0.1}\n  completion:", "spec.compression.ratio"),
    (
        "completion:",
        "injection: {mode: Move, optIn: All, donorFraction: 0}\n  completion:",
        "spec.injection.donorFraction",
    ),
    (
        "completion:",
        "injection: {mode: Move, optIn: All, sharedFraction: 1.1}\n  completion:",
        "spec.injection.sharedFraction",
    ),
    (
        "completion:",
        "injection: {mode: Move, optIn: All, sharedFraction: 0.0009}\n  completion:",
        "spec.injection.sharedFraction",
    ),
    (
        "completion:",
        "injection: {mode: Move, optIn: All, budgetBytesPerStep: 3072}\n  completion:",
        "spec.injection.budgetBytesPerStep",
    ),
    (
        "completion:",
        "injection: {mode: Move, optIn: All, replicate: {batch: Grow}}\n  completion:",
        "spec.injection.replicate",
    ),
    ("completion:", "injection: {mode: Replicate}\n  completion:", "spec.injection.optIn"),
    ("everySteps: 20", "dataset: {name: Files}", "spec.evaluation.dataset.files"),
    ("{name: Cifar10}", "{name: Cifar10, files: {path: x}}", "spec.producer.dataset.files"),
    ("list: [50, 38]", "list: [50]", "spec.producer.rates.list"),
    ("list: [50, 38]", "list: [50, 0]", "spec.producer.rates.list[1]"),
    ("list: [50, 38]", "constant: -1", "spec.producer.rates.constant"),
    ("list: [50, 38]", "constant: 2e6", "spec.producer.rates.constant"),
    ("list: [50, 38]", "list: [50, 38], constant: 1", "spec.producer.rates"),
    ("{list: [50, 38]}", "{}", "spec.producer.rates"),
    ("list: [50, 38]", "uniform: {mean: 0, standardDeviation: 1}", "spec.producer.rates.uniform.mean"),
    (
        "list: [50, 38]",
        "normal: {mean: 1, standardDeviation: -1}",
        "spec.producer.rates.normal.standardDeviation",
    ),
    ("{list: [50, 38]}", "{constant: 1}, labelSkew: {}", "spec.producer.labelSkew"),
    (
        "{list: [50, 38]}",
        "{constant: 1}, partition: LabelSkew, labelSkew: {labelsPerDevice: 11}",
        "spec.producer.labelSkew.labelsPerDevice",
    ),
    ("storage: {path: ck}", "storage: {}", "spec.checkpoint.storage"),
    ("storage: {path: ck}", "storage: {path: ''}", "spec.checkpoint.storage.path"),
    ("storage: {path: ck}", "everySteps: 0", "spec.checkpoint.everySteps"),
    ("storage: {path: ck}", "keep: 0", "spec.checkpoint.keep"),
    ("everySteps: 20", "topK: [5]", "spec.evaluation.topK"),
    ("everySteps: 20", "topK: [1, 11]", "spec.evaluation.topK"),
    ("everySteps: 20", "topK: [1, 1]", "spec.evaluation.topK"),
    ("everySteps: 20", "samples: 10001", "spec.evaluation.samples"),
    ("{maxSamples: 60000}", "{}", "spec.completion"),
    ("{maxSamples: 60000}", "{maxSamples: 1, maxSteps: 1}", "spec.completion"),
    ("maxSamples: 60000", "maxSteps: 0", "spec.completion.maxSteps"),
    ("maxSamples: 60000", "maxEpochs: 0", "spec.completion.maxEpochs"),
    ("maxSamples: 60000", "targetAccuracy: 1.1", "spec.completion.targetAccuracy"),
    ("maxSamples: 60000", "streamEnd: true", "spec.completion.streamEnd"),
    ("maxSamples: 60000", "streamEnd: false", "spec.completion.streamEnd"),
    ("maxRestarts: 3", "maxRestarts: 10001", "spec.runPolicy.maxRestarts"),
    ("maxRestarts: 3", "startDeadlineSeconds: 0", "spec.runPolicy.startDeadlineSeconds"),
    ("maxRestarts: 3", "activeDeadlineSeconds: 0", "spec.runPolicy.activeDeadlineSeconds"),
    ("maxRestarts: 3", "stallSeconds: -1", "spec.runPolicy.stallSeconds"),
    ("maxRestarts: 3", "collectiveSeconds: 0", "spec.runPolicy.collectiveSeconds"),
    ("maxRestarts: 3", "stopGraceSeconds: 0", "spec.runPolicy.stopGraceSeconds"),
    ("maxRestarts: 3", "orphanSeconds: 0", "spec.runPolicy.orphanSeconds"),
];

#[test]
fn every_mistake_of_meaning_is_told_at_its_field() {
    for (from, to, path) in MISTAKES {
        assert_eq!(mistake(from, to).0, *path, "{to}");
    }
}

#[test]
fn batch_norm_needs_batches_and_micro_batches_without_a_lone_sample() {
    let batch_norm = ("name: Cnn", "name: Cnn, normalization: Batch");
    let job = changed(&[batch_norm]).unwrap();
    assert_eq!(job.model.statistics, Some(scadles_api::worker::NormStatistics::Agreed));
    for (from, to, path) in [
        ("rule: LineRate", "rule: LineRate, min: 1", "spec.stream.batch.min"),
        ("rule: LineRate", "rule: StreamRate, min: 1", "spec.stream.batch.min"),
        ("rule: LineRate", "rule: Fixed, fixed: {size: 1}", "spec.stream.batch.fixed.size"),
        ("seed: 7", "microBatch: 2", "spec.training.microBatch"),
    ] {
        let found = changed(&[batch_norm, (from, to)]).expect_err(to);
        assert_eq!(found.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), [path], "{found}");
        assert!(changed(&[(from, to)]).is_ok(), "{to} is right with GroupNorm");
    }
}

#[test]
fn zero_devices_are_a_mistake_in_either_form() {
    for devices in ["{count: 0}", "{named: []}"] {
        let found = changed(&[
            ("{named: [{name: a}, {name: b, topic: mine}]}", devices),
            ("list: [50, 38]", "constant: 1"),
        ]);
        let found = found.expect_err(devices);
        assert!(found.iter().next().unwrap().path.starts_with("spec.devices."), "{found}");
    }
}

#[test]
fn a_data_set_that_does_not_fit_the_model_is_told_with_the_shape_to_set() {
    let found = changed(&[("{name: Cifar10}", "{name: FashionMnist}")]).unwrap_err();
    let remedies: Vec<&str> = found.iter().map(|it| it.remedy.as_str()).collect();
    assert_eq!(remedies, ["set spec.model.inputShape: [1, 28, 28]"], "{found}");
    let found = changed(&[("name: Cnn", "name: Cnn, numClasses: 100")]).unwrap_err();
    assert!(found.iter().all(|it| it.remedy == "set spec.model.numClasses: 10"), "{found}");
}

#[test]
fn impossible_numbers_of_labels_and_sides_are_told_at_the_model() {
    for (model, path) in [
        ("name: Cnn, numClasses: 1", "spec.model.numClasses"),
        ("name: Cnn, numClasses: 257", "spec.model.numClasses"),
        ("name: Cnn, inputShape: [0, 32, 32]", "spec.model.inputShape"),
        ("name: ResNet18, inputShape: [3, 7, 32]", "spec.model.inputShape"),
        ("name: Vgg11, inputShape: [3, 31, 32]", "spec.model.inputShape"),
        ("name: Mlp, inputShape: [3, 32, 513]", "spec.model.inputShape"),
    ] {
        let found = changed(&[("name: Cnn", model)]).expect_err(model);
        assert!(found.iter().any(|it| it.path == path), "{model}: {found}");
    }
}

#[test]
fn the_stem_of_a_resnet_follows_the_shorter_side_unless_it_is_given() {
    let stem = |model: &str| {
        let producer = ("producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}", "");
        let transform = ("{batch: {rule: LineRate}}", "{bufferBytes: 1Gi}");
        let evaluation = ("evaluation: {everySteps: 20}", "");
        changed(&[("name: Cnn", model), producer, transform, evaluation]).unwrap().model.stem
    };
    assert_eq!(stem("name: ResNet34, inputShape: [3, 63, 300]"), Some(Stem::Cifar));
    assert_eq!(stem("name: ResNet34, inputShape: [3, 64, 64]"), Some(Stem::Imagenet));
    assert_eq!(stem("name: ResNet50, inputShape: [3, 32, 32], stem: Imagenet"), Some(Stem::Imagenet));
    assert_eq!(stem("name: Vgg16, inputShape: [3, 224, 224]"), None);
}

#[test]
fn the_file_of_an_own_network_is_taken_as_it_is_named() {
    let job = changed(&[("name: Cnn", "name: TorchScript, torchScript: {path: nets/own.pt}")]).unwrap();
    let file = job.model.torch_script.unwrap();
    assert_eq!((file.path.to_str(), file.parameters), (Some("nets/own.pt"), None));
}

#[test]
fn evaluation_takes_the_producers_data_set_unless_that_has_no_held_out_part() {
    let found = changed(&[("{name: Cifar10}", "{name: Files, files: {path: x.bin}}")]).unwrap_err();
    assert_eq!(found.iter().next().unwrap().path, "spec.evaluation.dataset");
    let own = changed(&[
        ("{name: Cifar10}", "{name: Files, files: {path: x.bin}}"),
        ("everySteps: 20", "dataset: {name: Files, files: {path: y.bin}}"),
    ]);
    assert_eq!(own.unwrap().evaluation.unwrap().dataset.path, Some("y.bin".into()));
}

#[test]
fn a_target_accuracy_needs_evaluations_during_the_run() {
    let found = changed(&[("maxSamples: 60000", "targetAccuracy: 0.5"), ("everySteps: 20", "everySteps: 0")]);
    assert_eq!(found.unwrap_err().iter().next().unwrap().path, "spec.completion.targetAccuracy");
    assert!(changed(&[("maxSamples: 60000", "targetAccuracy: 0.5")]).is_ok());
}

#[test]
fn formats_are_resolved_with_their_own_members() {
    let format = |stream: &str| changed(&[("{batch: {rule: LineRate}}", stream)]).unwrap().stream;
    let image = |fit| RecordFormat::Image { fit };
    assert_eq!(format("{format: Image}").format, image(ImageFit::Exact));
    assert_eq!(format("{format: Image, image: {fit: Stretch}}").format, image(ImageFit::Stretch));
    assert_eq!(format("{format: Tensor}").format, RecordFormat::Tensor { dtype: ValueType::U8 });
    let numbers = format("{format: Tensor, tensor: {dtype: F32}}");
    assert_eq!(numbers.format, RecordFormat::Tensor { dtype: ValueType::F32 });
    assert_eq!(numbers.transform, resolved_stream().transform, "the data set's own");
    let alone = without_producer("{format: Tensor, tensor: {dtype: F32}}", "maxSteps: 1").unwrap();
    assert_eq!((alone.stream.transform.mean, alone.stream.transform.std), (vec![0.0; 3], vec![1.0; 3]));
    // Four bytes a value: a buffer that was large enough is not.
    let small = "{format: Tensor, tensor: {dtype: F32}, bufferBytes: 4Mi}";
    let found = changed(&[("{batch: {rule: LineRate}}", small)]).unwrap_err();
    assert_eq!(found.iter().next().unwrap().path, "spec.stream.bufferBytes");
}

#[test]
fn the_number_of_labels_follows_cifar_100_and_is_bounded_by_the_format() {
    let classes = |changes: &[(&str, &str)]| changed(changes).unwrap().model.num_classes;
    assert_eq!(classes(&[("{name: Cifar10}", "{name: Cifar100}")]), 100);
    let stream = ("{batch: {rule: LineRate}}", "{format: Cifar100}");
    assert_eq!(classes(&[("{name: Cifar10}", "{name: Cifar100}"), stream]), 100);
    let alone = |format: &str, classes: u32| {
        let job = changed(&[
            ("  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}\n", ""),
            ("  evaluation: {everySteps: 20}\n", ""),
            ("{batch: {rule: LineRate}}", &format!("{{format: {format}}}")),
            ("name: Cnn", &format!("name: Cnn, numClasses: {classes}")),
        ]);
        job.is_ok()
    };
    for (format, most) in [("CifarBinary", 256), ("Cifar100", 100), ("Image", 1024), ("Tensor", 1024)] {
        assert!(alone(format, most) && !alone(format, most + 1), "{format}");
    }
    let sent = changed(&[stream, ("name: Cnn", "name: Cnn, numClasses: 10")]).unwrap_err();
    let only = sent.iter().next().unwrap();
    assert_eq!((sent.count(), only.path.as_str()), (1, "spec.producer.dataset.name"), "{sent}");
    assert!(only.problem.contains("coarse labels"), "{sent}");
}

#[test]
fn pictures_have_one_channel_or_three() {
    let with = |shape: &str| {
        changed(&[
            ("  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}\n", ""),
            ("  evaluation: {everySteps: 20}\n", ""),
            ("{batch: {rule: LineRate}}", "{format: Image}"),
            ("name: Cnn", &format!("name: Cnn, inputShape: {shape}")),
        ])
    };
    assert!(with("[1, 32, 32]").is_ok());
    let found = with("[2, 32, 32]").unwrap_err();
    assert_eq!(found.iter().next().unwrap().path, "spec.stream.format", "{found}");
}

/// The good job, its streams sent by others.
fn without_producer(stream: &str, completion: &str) -> Result<ValidatedJob, Mistakes> {
    changed(&[
        ("  producer: {dataset: {name: Cifar10}, rates: {list: [50, 38]}}\n", ""),
        ("everySteps: 20", "dataset: {name: Cifar10}"),
        ("{batch: {rule: LineRate}}", stream),
        ("maxSamples: 60000", completion),
    ])
}

#[test]
fn a_stream_begins_at_a_time_that_any_clock_may_tell() {
    let millis = |text: &str| {
        let job = without_producer(&format!("{{startFrom: Timestamp, timestamp: '{text}'}}"), "maxSteps: 1");
        job.unwrap().stream.start_from
    };
    let expected = StartFrom::Timestamp { unix_millis: 1_777_883_400_250 };
    assert_eq!(millis("2026-05-04T08:30:00.250Z"), expected);
    assert_eq!(millis("2026-05-04T10:30:00.25+02:00"), expected);
}

#[test]
fn a_job_ends_with_its_streams_if_both_sides_say_so() {
    let job = without_producer("{end: {rule: Idle}}", "streamEnd: true").unwrap();
    assert_eq!((job.stream.end, job.completion), (StreamEnd::Idle { seconds: 60.0 }, Completion::StreamEnd));
    let job = without_producer("{end: {rule: OffsetsAtStart}}", "streamEnd: true").unwrap();
    assert_eq!(job.stream.end, StreamEnd::OffsetsAtStart);
    assert!(without_producer("{end: {rule: Never}}", "maxSteps: 1").is_ok());
    for (stream, completion, path) in [
        ("{end: {rule: Never}}", "streamEnd: true", "spec.completion.streamEnd"),
        ("{end: {rule: Idle}}", "maxSteps: 1", "spec.completion.streamEnd"),
        ("{end: {rule: Idle, idle: {seconds: 0}}}", "streamEnd: true", "spec.stream.end.idle.seconds"),
        ("{end: {rule: Idle, idle: {seconds: 300}}}", "streamEnd: true", "spec.stream.end.idle.seconds"),
        ("{startFrom: Latest, end: {rule: OffsetsAtStart}}", "streamEnd: true", "spec.stream.end"),
        ("{policy: Truncation, end: {rule: OffsetsAtStart}}", "streamEnd: true", "spec.stream.end"),
    ] {
        let found = without_producer(stream, completion).expect_err(stream);
        let only = found.iter().next().unwrap();
        assert_eq!((found.count(), only.path.as_str()), (1, path), "{stream}: {found}");
    }
    let sent = changed(&[
        ("{batch: {rule: LineRate}}", "{end: {rule: Idle}}"),
        ("maxSamples: 60000", "streamEnd: true"),
    ]);
    let sent = sent.unwrap_err();
    assert_eq!(sent.iter().next().unwrap().path, "spec.stream.end", "{sent}");
}

#[test]
fn one_template_for_many_devices_must_name_the_device() {
    let (path, problem) = {
        let found = changed(&[
            ("{named: [{name: a}, {name: b, topic: mine}]}", "{count: 2}"),
            ("partitions: 2", "nameTemplate: all"),
        ]);
        let found = found.unwrap_err();
        assert_eq!(found.count(), 1, "{found}");
        let only = found.iter().next().unwrap();
        (only.path.clone(), only.problem.clone())
    };
    assert_eq!(path, "spec.kafka.topics.nameTemplate");
    assert!(problem.contains("same topic"), "{problem}");
}

#[test]
fn a_small_fixed_batch_does_not_meet_the_default_lower_bound() {
    let job = changed(&[("rule: LineRate", "rule: Fixed, fixed: {size: 4}")]).unwrap();
    assert_eq!(job.stream.batch, BatchRule::Fixed { size: 4 });
    assert_eq!(job.stream.batch_bounds.min, 4);
}

#[test]
fn counted_devices_are_numbered_and_rates_are_drawn_from_the_seed() {
    let draw = |seed: &str| {
        let job = changed(&[
            ("{named: [{name: a}, {name: b, topic: mine}]}", "{count: 16}"),
            ("list: [50, 38]", "uniform: {mean: 38, standardDeviation: 24}"),
            ("seed: 7", seed),
        ]);
        job.unwrap()
    };
    let job = draw("seed: 7");
    assert_eq!(job.devices[15].name, "device-15");
    assert_eq!(job.devices[15].topic, "demo.s1.device-15");
    let rates = job.producer.unwrap().rates;
    assert_eq!(rates.len(), 16);
    assert!(rates.iter().all(|rate| *rate > 0.0));
    assert_eq!(rates, draw("seed: 7").producer.unwrap().rates);
    assert_ne!(rates, draw("seed: 8").producer.unwrap().rates);
}

#[test]
fn all_mistakes_are_found_in_one_pass() {
    let found = changed(&[
        ("name: s1", "name: S1"),
        ("name: Cnn", "name: ResNet18, inputShape: [3, 4, 32]"),
        ("rule: LineRate", "rule: LineRate, min: 2000, windowSeconds: 1"),
        ("list: [50, 38]", "list: [0]"),
        ("{maxSamples: 60000}", "{}"),
        ("maxRestarts: 3", "stallSeconds: 0"),
    ]);
    let found = found.unwrap_err();
    let paths: Vec<&str> = found.iter().map(|it| it.path.as_str()).collect();
    let expected = [
        "metadata.name",
        "spec.completion",
        "spec.model.inputShape",
        "spec.producer.dataset.name",
        "spec.producer.rates.list",
        "spec.producer.rates.list[0]",
        "spec.runPolicy.stallSeconds",
        "spec.stream.batch",
        "spec.stream.batch.windowSeconds",
    ];
    assert_eq!(paths, expected);
}
