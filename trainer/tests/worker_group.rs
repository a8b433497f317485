//! Groups of worker processes as a cluster starts them: rank 0 alone has checkpoints and results, and the last words of
//! every end are in the termination log.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot be set up has failed.

mod stream;
mod workers;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use scadles_api::{
    ExitCode, Ledger,
    worker::{Completion, JobConfig},
};
use scadles_kafka::{Broker, EmbeddedBroker, TopicSpec};
use stream::{DEADLINE, Numbered, fill};
use workers::{Group, Worker, attempt, is_training, resolve};

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
    for device in &job.devices {
        let spec = TopicSpec { name: device.topic.clone(), partitions: 1, replication: None };
        broker.ensure_topics(&[spec], DEADLINE).unwrap();
        fill(broker.connection(), &device.topic, 1, RECORDS, source.clone());
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
    let unbroken = Group::start(folder.path(), &with_steps(&job, 6), 1, None).complete();

    let job = JobConfig { uid: "broken".to_owned(), output_dir: folder.path().join("broken"), ..job };
    let first = Group::start(folder.path(), &with_steps(&job, 3), 1, None).complete();
    let checkpoint = first[0].checkpoint.clone().unwrap();
    assert_eq!(checkpoint.step, 3);
    let second = Group::start(folder.path(), &with_steps(&job, 6), 2, Some(&checkpoint)).complete();

    assert_eq!((second[0].step, second[0].samples), (6, 6 * 3 * 8));
    assert_eq!(second[0].parameter_hash, unbroken[0].parameter_hash);
    assert_eq!(second[0].model_sha256, unbroken[0].model_sha256);
    assert_ne!(first[0].parameter_hash, unbroken[0].parameter_hash);
    assert_eq!(second[0].ledger, unbroken[0].ledger, "the accounts go on over the restart");
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
    assert_eq!(journal.matches(r#""compression":{"Sparse":"AllGather"}"#).count(), 3, "{journal}");
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
