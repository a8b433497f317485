//! Groups of worker processes as a cluster starts them: rank 0 alone has checkpoints and results, and the last words of
//! every end are in the termination log.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot be set up has failed.

mod stream;
mod workers;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use scadles_api::{
    CheckpointRef, ExitCode, Ledger, names,
    worker::{BucketConfig, Completion, JobConfig},
};
use scadles_core::compress::gate::CompressionDecision;
use scadles_kafka::{Broker, EmbeddedBroker, TopicSpec};
use scadles_testing::ObjectStoreServer;
use scadles_trainer::{
    journal::{StepRecord, read_surviving, writer::journal_dir},
    replay::{ReplayOptions, replay},
};
use stream::{DEADLINE, Numbered, fill};
use workers::{Group, Worker, attempt, is_training, resolve, traces};

/// Records of each device's topic: seven batches of eight and a rest.
const RECORDS: u64 = 60;
const RECORD_BYTES: usize = 65;
const PICTURES: u64 = 40;

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: group}
spec:
  model: {name: Mlp, numClasses: 10, inputShape: [1, 8, 8]}
  devices: {count: 3}
  stream:
    batch: {rule: Fixed, fixed: {size: 8}}
    transform: {mean: [0.5], std: [0.25], randomCropPadding: 1, horizontalFlip: true}
  evaluation: {dataset: {name: Files, files: {path: held-out.bin}}, topK: [1, 5]}
  checkpoint: {everySteps: 3}
  completion: {maxSteps: 6}
  runPolicy: {startDeadlineSeconds: 60, collectiveSeconds: 20, stopGraceSeconds: 20, orphanSeconds: 20}
";

/// The job on a broker with its records; folder and broker live as long as the test.
fn set_up(folder: &Path) -> (EmbeddedBroker, JobConfig) {
    set_up_job(folder, JOB)
}

fn set_up_job(folder: &Path, job: &str) -> (EmbeddedBroker, JobConfig) {
    let broker = EmbeddedBroker::start().unwrap();
    let mut source = Numbered::new(RECORD_BYTES, None);
    let pictures: Vec<u8> = (0..PICTURES).flat_map(|number| source.bytes(number).to_vec()).collect();
    std::fs::write(folder.join("held-out.bin"), pictures).unwrap();
    let job = job.replace("held-out.bin", &folder.join("held-out.bin").display().to_string());
    let job = resolve(&job, broker.servers(), folder);
    for (number, device) in job.devices.iter().enumerate() {
        let spec = TopicSpec { name: device.topic.clone(), partitions: 1, replication: None };
        broker.ensure_topics(&[spec], DEADLINE).unwrap();
        fill(broker.connection(), &device.topic, 1, RECORDS, source.clone().of_device(number));
    }
    (broker, job)
}

fn with_steps(job: &JobConfig, steps: u64) -> JobConfig {
    JobConfig { completion: Completion::MaxSteps(steps), ..job.clone() }
}

/// A group that has trained all full batches and waits for more records.
fn waiting_group(folder: &Path, job: &JobConfig) -> Group {
    let group = Group::start(folder, &with_steps(job, 1000), 1, None);
    group.await_step(RECORDS / 8);
    group
}

#[test]
fn followers_without_a_checkpoint_folder_resume_with_the_bits_of_an_unbroken_run() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up(folder.path());
    assert_resumes_with_the_bits_of_an_unbroken_run(folder.path(), job);
}

#[test]
fn a_rate_that_follows_the_noise_of_the_gradients_resumes_with_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let training = "  training: {learningRateScaling: AdaScale, baseBatchSize: 2}\n  devices:";
    let (_broker, job) = set_up_job(folder.path(), &JOB.replace("  devices:", training));
    let broken =
        JobConfig { uid: "broken".to_owned(), output_dir: folder.path().join("broken"), ..job.clone() };
    assert_resumes_with_the_bits_of_an_unbroken_run(folder.path(), job.clone());
    let rates = |job: &JobConfig| -> Vec<u64> {
        journalled(job).iter().map(|record| record.learning_rate.to_bits()).collect()
    };
    assert_eq!(rates(&broken), rates(&job));
    assert!(rates(&job).windows(2).all(|pair| pair[0] != pair[1]), "{:?}", rates(&job));
    assert!(replay(&broken.output_dir, &ReplayOptions::default()).unwrap().equal);
}

/// The job with a network of its own, which is looked for below the data.
fn own_model_job(folder: &Path) -> String {
    std::fs::copy(own_model("residual.pt"), folder.join("net.pt")).unwrap();
    JOB.replace("name: Mlp,", "name: TorchScript, torchScript: {path: net.pt},")
}

fn own_model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_script").join(name)
}

#[test]
fn a_network_of_the_jobs_own_resumes_with_the_bits_of_an_unbroken_run() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up_job(folder.path(), &own_model_job(folder.path()));
    assert_resumes_with_the_bits_of_an_unbroken_run(folder.path(), job);
}

#[test]
fn a_worker_whose_file_of_the_network_is_another_ends_the_attempt_as_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up_job(folder.path(), &own_model_job(folder.path()));
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(own_model("other.pt"), elsewhere.path().join("net.pt")).unwrap();
    let other = JobConfig { data_dir: elsewhere.path().to_owned(), ..job.clone() };
    let devices: Vec<String> = job.devices.iter().map(|device| device.name.clone()).collect();
    let start = |(job, device): (&JobConfig, &String)| Worker::start(folder.path(), job, device);
    let mut workers: Vec<Worker> = [&job, &job, &other].into_iter().zip(&devices).map(start).collect();
    for (rank, worker) in workers.iter().enumerate() {
        worker.post(&attempt(1, &devices, rank, &workers[0].listening.hub, None));
    }
    let last = workers.pop().unwrap().end();
    assert_eq!((last.exit, last.words.code), (Some(2), ExitCode::Configuration));
    assert!(last.words.message.contains("this worker's file has the SHA-256"), "{}", last.words.message);
    assert_eq!(last.words.remedy, "give all workers the same file");
}

fn assert_resumes_with_the_bits_of_an_unbroken_run(folder: &Path, job: JobConfig) {
    let unbroken = Group::start(folder, &with_steps(&job, 6), 1, None).complete();

    let job = JobConfig { uid: "broken".to_owned(), output_dir: folder.join("broken"), ..job };
    let first = Group::start(folder, &with_steps(&job, 3), 1, None).complete();
    let checkpoint = first[0].checkpoint.clone().unwrap();
    assert_eq!(checkpoint.step, 3);
    let second = Group::start(folder, &with_steps(&job, 6), 2, Some(&checkpoint)).complete();

    assert_eq!((second[0].step, second[0].samples), (6, 6 * 3 * 8));
    assert_eq!(second[0].parameter_hash, unbroken[0].parameter_hash);
    assert_eq!(second[0].model_sha256, unbroken[0].model_sha256);
    assert_ne!(first[0].parameter_hash, unbroken[0].parameter_hash);
    assert_eq!(second[0].ledger, unbroken[0].ledger, "the accounts go on over the restart");
}

#[test]
fn a_group_trains_its_streams_to_the_last_sample_and_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let text = JOB
        .replace("    batch:", "    end: {rule: OffsetsAtStart}\n    batch:")
        .replace("{maxSteps: 6}", "{streamEnd: true}");
    let (broker, job) = set_up_job(folder.path(), &text);
    let source = || Numbered::new(RECORD_BYTES, None);
    // 81 records: ten batches of eight and one record, while the others have ended long before.
    fill(broker.connection(), &job.devices[0].topic, 1, 21, source());
    let first = Group::start(folder.path(), &with_steps(&job, 3), 1, None).complete();
    let checkpoint = first[0].checkpoint.clone().unwrap();
    // Behind the end of the first start.
    fill(broker.connection(), &job.devices[1].topic, 1, 40, source());
    let second = Group::start(folder.path(), &job, 2, Some(&checkpoint)).complete();
    assert_eq!((second[0].step, second[0].samples), (11, 81 + 60 + 60));
    let expected =
        [81, 60, 60].map(|records| Ledger { arrived: records, trained: records, ..Ledger::default() });
    assert_eq!(second[0].ledger, Some(expected.into_iter().fold(Ledger::default(), |all, one| all + one)));
}

#[test]
fn a_compressed_run_resumes_with_the_bits_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    // With two ranks an all-gather is the quickest whatever is measured, so that both runs take the same path.
    let text = JOB
        .replace("{count: 3}", "{count: 2}")
        .replace("  completion:", "  compression: {mode: Adaptive, ratio: 0.05, delta: 1.0}\n  completion:");
    let (_broker, job) = set_up_job(folder.path(), &text);
    let unbroken = Group::start(folder.path(), &with_steps(&job, 6), 1, None).complete();

    let job = JobConfig { uid: "broken".to_owned(), output_dir: folder.path().join("broken"), ..job };
    let first = Group::start(folder.path(), &with_steps(&job, 3), 1, None).complete();
    let checkpoint = first[0].checkpoint.clone().unwrap();
    let kept = job.checkpoint.root.join("broken").join(&checkpoint.name);
    for rank in 0..2 {
        assert!(kept.join(format!("residual-000{rank}.safetensors")).is_file());
    }
    let second = Group::start(folder.path(), &with_steps(&job, 6), 2, Some(&checkpoint)).complete();
    assert_eq!(second[0].parameter_hash, unbroken[0].parameter_hash);
    let journal = std::fs::read_to_string(job.output_dir.join("journal/0002-00000003.jsonl")).unwrap();
    assert_eq!(journal.matches(r#""compression":{"Sparse":{"exchange":"AllGather""#).count(), 3, "{journal}");
}

/// The job with data injection, and what its devices share: three of eight samples of two donors in a step.
fn sharing(mode: &str) -> String {
    let injection = format!(
        "  injection: {{mode: {mode}, donorFraction: 0.5, sharedFraction: 0.4, optIn: All}}\n  completion:"
    );
    JOB.replace("  completion:", &injection)
}

const SHARED_IN_A_STEP: u64 = 2 * 3;

/// What the last attempt's history says.
fn journalled(job: &JobConfig) -> Vec<StepRecord> {
    read_surviving(&journal_dir(&job.output_dir)).unwrap()
}

#[test]
fn samples_that_moved_are_in_the_receivers_journal_and_a_replay_has_the_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, job) = set_up_job(folder.path(), &sharing("Move"));
    let words = Group::start(folder.path(), &job, 1, None).complete();
    let steps = journalled(&job);
    assert_eq!(steps.len(), 6);
    let mut trained: Vec<(String, u64)> = Vec::new();
    for step in &steps {
        let received: Vec<_> = step.devices.iter().map(|device| &device.received).collect();
        assert_eq!(received.iter().filter(|parts| !parts.is_empty()).count(), 1, "two donors, one receiver");
        for (rank, device) in step.devices.iter().enumerate() {
            assert_eq!(device.samples(), 8, "each device takes its batch of its own stream");
            let own = device.ranges.iter().map(|range| (job.devices[rank].topic.clone(), *range));
            let others = device.received.iter().flat_map(|part| {
                assert_eq!(part.topic, job.devices[part.rank].topic);
                assert_ne!(part.rank, rank);
                part.ranges.iter().map(|range| (part.topic.clone(), *range))
            });
            let offsets = own.chain(others).flat_map(|(topic, range)| {
                (range.1..range.1 + range.2).map(move |offset| (topic.clone(), offset))
            });
            trained.extend(offsets);
        }
    }
    trained.sort();
    let all = |topic: String| (0..6 * 8).map(move |offset| (topic.clone(), offset));
    let expected: Vec<_> = job.devices.iter().flat_map(|device| all(device.topic.clone())).collect();
    assert_eq!(trained, expected, "every sample once, whoever trained it");
    let ledger = words[0].ledger.unwrap();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.trained, ledger.shared_out), (3 * 6 * 8, 6 * SHARED_IN_A_STEP));
    assert_eq!(ledger.received, ledger.shared_out);
    // The records come from the topics that the journal names.
    let again = replay(&job.output_dir, &ReplayOptions::default()).unwrap();
    assert!(again.equal && again.steps == 6, "{again:?}");
    drop(broker);
}

#[test]
fn running_statistics_outlive_a_killed_worker_and_a_stop_and_a_replay_has_their_bits() {
    let folder = tempfile::tempdir().unwrap();
    // Evaluations fall between checkpoints, batches of eight are two parts of four.
    let text = JOB
        .replace("name: Mlp,", "name: Cnn, normalization: Batch,")
        .replace("topK:", "everySteps: 2, topK:")
        .replace("  completion:", "  training: {microBatch: 5}\n  completion:");
    let (_broker, job) = set_up_job(folder.path(), &text);
    let unbroken = Group::start(folder.path(), &with_steps(&job, 7), 1, None).complete();

    let job = JobConfig { uid: "broken".to_owned(), output_dir: folder.path().join("broken"), ..job };
    let first = Group::start(folder.path(), &with_steps(&job, 5), 1, None).complete();
    let stopped = first[0].checkpoint.clone().unwrap();
    assert_eq!(stopped.step, 5, "no step has announced it");
    let mut group = Group::start(folder.path(), &with_steps(&job, 1000), 2, Some(&stopped));
    group.await_step(RECORDS / 8);
    let name = names::checkpoint(2, 6);
    let checkpoint = CheckpointRef { job_uid: "broken".to_owned(), name, step: 6, restart_streams: false };
    let kept = job.checkpoint.root.join("broken").join(&checkpoint.name);
    group.await_progress(|_| kept.join("manifest.json").is_file());
    group.workers.pop().unwrap().signal("KILL");
    assert!(group.end().iter().all(|end| end.words.code == ExitCode::PeerLost));
    let words = Group::start(folder.path(), &with_steps(&job, 7), 3, Some(&checkpoint)).complete();
    assert_eq!(words[0].parameter_hash, unbroken[0].parameter_hash);

    let again = replay(&job.output_dir, &ReplayOptions::default()).unwrap();
    assert!(again.equal && again.steps == 7, "{again:?}");
    assert!(again.statistics_hash.is_some() && again.compared_on_the_way >= 2, "{again:?}");
    let file = std::fs::read(job.output_dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let means = tensors.tensor("blocks.2.norm.running_mean").unwrap();
    assert_eq!(means.shape(), [64]);
    assert!(means.data().iter().any(|byte| *byte != 0), "trained");
}

#[test]
fn a_killed_worker_of_a_group_that_shares_costs_nothing_but_the_steps_since_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up_job(folder.path(), &sharing("Replicate"));
    let unbroken = Group::start(folder.path(), &with_steps(&job, 7), 1, None).complete();
    let steps = journalled(&job);
    let copies = |step: &StepRecord| {
        let received = step.devices.iter().flat_map(|device| &device.received);
        received.flat_map(|part| &part.ranges).map(|range| range.2).sum::<u64>()
    };
    assert!(steps.iter().all(|step| copies(step) == 2 * SHARED_IN_A_STEP), "each to both others");
    assert!(steps.iter().all(|step| step.devices.iter().all(|device| device.given.is_empty())));

    let job = JobConfig { uid: "broken".to_owned(), output_dir: folder.path().join("broken"), ..job };
    let mut group = waiting_group(folder.path(), &job);
    // It is told of in the next round, for which there are no samples.
    let name = names::checkpoint(1, 6);
    let checkpoint = CheckpointRef { job_uid: "broken".to_owned(), name, step: 6, restart_streams: false };
    let manifest = job.checkpoint.root.join("broken").join(&checkpoint.name).join("manifest.json");
    group.await_progress(|_| manifest.is_file());
    group.workers.pop().unwrap().signal("KILL");
    assert!(group.end().iter().all(|end| end.words.code == ExitCode::PeerLost));
    let words = Group::start(folder.path(), &with_steps(&job, 7), 2, Some(&checkpoint)).complete();
    assert_eq!(words[0].parameter_hash, unbroken[0].parameter_hash);
    let (ledger, expected) = (words[0].ledger.unwrap(), unbroken[0].ledger.unwrap());
    assert_eq!(
        ledger,
        Ledger { rolled_back: 3 * 8, ..expected },
        "step 7, counted where its samples arrived"
    );
    assert_eq!((expected.shared_out, expected.received), (7 * SHARED_IN_A_STEP, 7 * 2 * SHARED_IN_A_STEP));
    assert!(ledger.is_balanced());
}

/// The job with a network of several buckets.
fn large() -> String {
    JOB.replace("name: Mlp,", "name: ResNet18,")
}

/// An event of a trace: its name, its step, begin and end in microseconds.
type Event = (String, u64, f64, f64);

fn events(file: &Path) -> Vec<Event> {
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let complete = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    let read = |event: &serde_json::Value| {
        let began = event["ts"].as_f64().unwrap();
        let name = event["name"].as_str().unwrap().to_owned();
        (name, event["args"]["step"].as_u64().unwrap(), began, began + event["dur"].as_f64().unwrap())
    };
    complete.map(read).collect()
}

/// The same with compression in every step.
fn large_compressed() -> String {
    large().replace("  completion:", "  compression: {mode: Static, ratio: 0.05}\n  completion:")
}

/// Runs the job and reads its traces: how often bucket 0 left before backward had ended, and how often it had arrived by then.
fn buckets_within_backward(folder: &Path, text: &str) -> (EmbeddedBroker, JobConfig, [usize; 2]) {
    let (broker, job) = set_up_job(folder, text);
    Group::start(folder, &job, 1, None).complete();
    let mut within = [0; 2];
    for device in &job.devices {
        let events = events(&traces(folder).join(format!("{}.trace.json", device.name)));
        let of = |name: &str, step: u64| {
            let found = events.iter().filter(|event| event.0 == name && event.1 == step);
            found.map(|&(_, _, began, ended)| (began, ended)).collect::<Vec<_>>()
        };
        for step in 1..=6 {
            let ([backward], [bucket]) = (&of("backward", step)[..], &of("bucket 0", step)[..]) else {
                panic!("step {step} of {}: {events:?}", device.name);
            };
            assert!(backward.0 < bucket.0, "{backward:?} {bucket:?}");
            within[0] += usize::from(bucket.0 < backward.1);
            within[1] += usize::from(bucket.1 < backward.1);
            for (name, count) in [("wait", 1), ("forward", 1), ("apply", 1), ("bucket 1", 1)] {
                assert_eq!(of(name, step).len(), count, "{name} of step {step}");
            }
        }
    }
    (broker, job, within)
}

#[test]
fn traces_show_buckets_on_the_wire_while_backward_still_computes() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, [left, arrived]) = buckets_within_backward(folder.path(), &large());
    // On a busy machine a thread may be kept waiting in one step or the other.
    assert!(left >= 9 && arrived > 0, "{left} of 18 have left before backward had ended, {arrived} arrived");
}

#[test]
fn compressed_buckets_leave_while_backward_still_computes_and_have_the_bits_of_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job, [left, arrived]) = buckets_within_backward(folder.path(), &large_compressed());
    // Three ranks select on two cores or so, and wait for each other.
    assert!(left > 0, "{left} of 18 have left before backward had ended, {arrived} arrived");
    let is_sparse = |step: &StepRecord| matches!(step.compression, Some(CompressionDecision::Sparse(_)));
    assert!(journalled(&job).iter().all(is_sparse));
    let again = replay(&job.output_dir, &ReplayOptions::default()).unwrap();
    assert!(again.equal && again.steps == 6, "{again:?}");
}

#[test]
fn buckets_that_leave_after_shared_samples_have_the_bits_of_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    let text = sharing("Move").replace("name: Mlp,", "name: ResNet18,");
    let (_broker, job) = set_up_job(folder.path(), &text);
    Group::start(folder.path(), &job, 1, None).complete();
    let received = |step: &StepRecord| step.devices.iter().any(|device| !device.received.is_empty());
    assert!(journalled(&job).iter().all(received));
    let again = replay(&job.output_dir, &ReplayOptions::default()).unwrap();
    assert!(again.equal && again.steps == 6, "{again:?}");
}

/// More records for each device than a test trains.
fn fill_up(broker: &EmbeddedBroker, job: &JobConfig) {
    for (number, device) in job.devices.iter().enumerate() {
        let source = Numbered::new(RECORD_BYTES, None).of_device(number);
        fill(broker.connection(), &device.topic, 1, 2000, source);
    }
}

#[test]
fn a_rank_that_dies_while_the_others_compute_and_exchange_ends_the_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, job) = set_up_job(folder.path(), &large());
    fill_up(&broker, &job);
    let mut group = Group::start(folder.path(), &with_steps(&job, 1_000_000), 1, None);
    group.await_step(2);
    group.workers.pop().unwrap().signal("KILL");
    let died = Instant::now();
    for end in group.end() {
        assert_eq!((end.exit, end.words.code), (Some(3), ExitCode::PeerLost), "{end:?}");
    }
    assert!(died.elapsed() < Duration::from_secs(10), "after {:?}", died.elapsed());
}

#[test]
fn a_rank_that_computes_longer_than_a_collective_may_take_is_waited_for() {
    const PAUSE: Duration = Duration::from_secs(2);
    let folder = tempfile::tempdir().unwrap();
    let (broker, mut job) = set_up_job(folder.path(), &large());
    // The step may take five seconds: twenty times the shortest window.
    job.limits.collective_seconds = 1.0;
    fill_up(&broker, &job);
    let longest_exchange = || {
        let text = std::fs::read_to_string(job.output_dir.join("steps.csv")).unwrap();
        let mut lines = text.lines();
        let place = lines.next().unwrap().split(',').position(|name| name == "exchange_seconds.device-0");
        let cells = lines.map(|line| line.split(',').nth(place.unwrap()).unwrap().parse::<f64>().unwrap());
        cells.fold(0.0, f64::max)
    };
    let group = Group::start(folder.path(), &with_steps(&job, 1_000_000), 1, None);
    let mut step = 1;
    // A pause that falls between two steps holds up no collective.
    for _ in 0..10 {
        group.await_step(step);
        group.workers[2].signal("STOP");
        std::thread::sleep(PAUSE);
        group.workers[2].signal("CONT");
        step = group.workers[0].progress().unwrap().step + 3;
        group.await_step(step);
        if longest_exchange() > 1.5 {
            break;
        }
    }
    assert!(longest_exchange() > 1.5, "no step was held up");
    group.workers[0].signal("TERM");
    assert!(group.end().iter().all(|end| end.words.code == ExitCode::Stopped));
}

#[test]
fn a_first_checkpoint_that_takes_longer_than_a_step_may_is_waited_for() {
    // A step may take five seconds: twenty times the shortest window.
    const SLOW: Duration = Duration::from_secs(7);
    let folder = tempfile::tempdir().unwrap();
    let (_broker, mut job) = set_up(folder.path());
    job.limits.collective_seconds = 1.0;
    let (buckets, keys) = (folder.path().join("buckets"), folder.path().join("keys"));
    std::fs::create_dir_all(buckets.join("models")).unwrap();
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join("accessKeyId"), "reader").unwrap();
    std::fs::write(keys.join("secretAccessKey"), "and-writer").unwrap();
    let server = ObjectStoreServer::start_slow(&buckets, ("reader", "and-writer"), SLOW).unwrap();
    job.checkpoint.bucket = Some(BucketConfig {
        name: "models".to_owned(),
        prefix: String::new(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        credentials: Some(keys),
    });
    Group::start(folder.path(), &job, 1, None).complete();
    let first = buckets.join("models/uid").join(names::checkpoint(1, 0)).join("manifest.json");
    assert!(first.is_file(), "{}", first.display());
}

#[test]
fn the_termination_message_of_rank_0_tells_all_that_completion_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up(folder.path());
    let words = Group::start(folder.path(), &job, 1, None).complete();

    let trained = 6 * 8;
    let accuracy = words[0].accuracy.clone().unwrap();
    assert_eq!((accuracy.step, accuracy.pictures), (6, PICTURES));
    assert_eq!(accuracy.top_k.iter().map(|top| top.accuracy_k).collect::<Vec<_>>(), [1, 5]);
    let account = Ledger {
        arrived: 3 * RECORDS,
        trained: 3 * trained,
        buffered: 3 * (RECORDS - trained),
        ..Ledger::default()
    };
    assert_eq!(words[0].ledger, Some(account));
    let model = std::fs::read(job.output_dir.join("model.safetensors")).unwrap();
    assert_eq!(words[0].model_sha256, Some(sha256sum(&job.output_dir.join("model.safetensors"))));
    assert!(!model.is_empty());
    let written = std::fs::read_to_string(job.output_dir.join("job.json")).unwrap();
    assert_eq!(serde_json::from_str::<JobConfig>(&written).unwrap(), job, "for evaluate and replay");
    for follower in &words[1..] {
        assert_eq!((&follower.accuracy, &follower.ledger, &follower.model_sha256), (&None, &None, &None));
    }
}

/// As a user would compute it.
fn sha256sum(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn the_loss_of_a_peer_is_in_the_termination_log_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up(folder.path());
    let mut group = waiting_group(folder.path(), &job);
    group.workers.pop().unwrap().signal("KILL");
    for end in group.end() {
        assert_eq!((end.exit, end.words.code), (Some(3), ExitCode::PeerLost), "{end:?}");
        assert!(end.words.message.contains("device-2"), "{end:?}");
    }
}

#[test]
fn the_rank_whose_stream_fails_says_so_and_the_others_only_follow() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, job) = set_up(folder.path());
    let group = waiting_group(folder.path(), &job);
    // Every second record of them is no sample: with the 60 good ones far above the share that is borne.
    let noise = Numbered::new(RECORD_BYTES, Some(2));
    fill(broker.connection(), &job.devices[2].topic, 1, 200, noise);
    let ends = group.end();
    for follower in &ends[..2] {
        assert_eq!((follower.exit, follower.words.code), (Some(3), ExitCode::PeerLost), "{ends:?}");
    }
    assert_eq!((ends[2].exit, ends[2].words.code), (Some(7), ExitCode::TooManyRejected), "{ends:?}");
    assert!(ends[2].words.message.contains("device-2"), "{ends:?}");
}

#[test]
fn a_sigterm_to_one_worker_stops_the_group_after_an_agreed_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, job) = set_up(folder.path());
    let group = waiting_group(folder.path(), &job);
    group.workers[1].signal("TERM");
    let ends = group.end();
    for end in &ends {
        assert_eq!((end.exit, end.words.code), (Some(9), ExitCode::Stopped), "{end:?}");
    }
    let checkpoint = ends[0].words.checkpoint.clone().unwrap();
    assert_eq!(checkpoint.step, RECORDS / 8);
    let manifest = job.checkpoint.root.join("uid").join(&checkpoint.name).join("manifest.json");
    assert!(manifest.is_file(), "{}", manifest.display());
}

#[test]
fn followers_of_a_running_group_need_no_supervisor_but_rank_0_does() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, mut job) = set_up(folder.path());
    job.limits.orphan_seconds = 4.0;
    let group = waiting_group(folder.path(), &job);
    let since = Instant::now();
    group.await_progress(|_| since.elapsed() > Duration::from_secs(8));
    assert!(group.workers[0].progress().is_some_and(|progress| is_training(&progress)));
    // From now on nobody speaks to rank 0 either.
    let ends: Vec<_> = group.workers.into_iter().map(Worker::end).collect();
    assert_eq!((ends[0].exit, ends[0].words.code), (Some(10), ExitCode::Orphaned), "{ends:?}");
    assert!(ends[1..].iter().all(|end| end.words.code == ExitCode::PeerLost), "{ends:?}");
}

/// A worker whose group never forms, asked to stop.
fn stopped_while_forming(folder: &Path, job: &JobConfig) -> Worker {
    let worker = Worker::start(folder, job, "device-0");
    let devices: Vec<String> = job.devices.iter().map(|device| device.name.clone()).collect();
    worker.post(&attempt(1, &devices, 0, &worker.listening.hub, None));
    worker.signal("TERM");
    worker
}

#[test]
fn a_second_sigterm_ends_a_worker_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let job = resolve(JOB, "127.0.0.1:1", folder.path());
    let mut worker = stopped_while_forming(folder.path(), &job);
    // Two signals that arrive together count as one: the next is sent once the first has been taken.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !worker.has_ended() && Instant::now() < deadline {
        worker.signal("TERM");
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = worker.end();
    assert_eq!((end.exit, end.words.code), (Some(9), ExitCode::Stopped));
    assert!(end.words.message.contains("second SIGTERM"), "{end:?}");
}

#[test]
fn a_stop_that_is_not_agreed_within_the_grace_ends_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = resolve(JOB, "127.0.0.1:1", folder.path());
    job.limits.stop_grace_seconds = 0.5;
    let end = stopped_while_forming(folder.path(), &job).end();
    assert_eq!((end.exit, end.words.code), (Some(9), ExitCode::Stopped));
    assert!(end.words.message.contains("did not stop within"), "{end:?}");
}

#[test]
fn a_worker_without_an_attempt_ends_at_sigterm_and_without_a_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = resolve(JOB, "127.0.0.1:1", folder.path());
    let worker = Worker::start(folder.path(), &job, "device-1");
    worker.signal("TERM");
    let end = worker.end();
    assert_eq!((end.exit, end.words.code), (Some(9), ExitCode::Stopped));

    job.limits.orphan_seconds = 4.0;
    let end = Worker::start(folder.path(), &job, "device-1").end();
    assert_eq!((end.exit, end.words.code), (Some(10), ExitCode::Orphaned));
    assert!(end.words.message.contains("no supervisor spoke"), "{end:?}");
}
