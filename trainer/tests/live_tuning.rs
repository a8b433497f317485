//! Groups of worker processes whose compression and injection change while they train, and the replay of what they did.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot be set up has failed.

mod stream;
mod workers;

use std::path::Path;

use scadles_api::{
    CheckpointRef, ExitCode, Tuned, Tuning, names,
    tuning::{CompressionTuning, InjectionTuning},
    worker::{Completion, JobConfig},
};
use scadles_core::compress::gate::CompressionDecision;
use scadles_kafka::{Broker, EmbeddedBroker, TopicSpec};
use scadles_trainer::{
    journal::{StepRecord, read_surviving, writer::journal_dir},
    replay::{ReplayOptions, replay},
};
use stream::{DEADLINE, Numbered, fill};
use workers::{Group, resolve};

const RECORD_BYTES: usize = 65;
const DEVICES: usize = 3;
const BATCH: u64 = 8;

/// Every step is sparse, and of three devices one gives a quarter of its batch away.
const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: tuned}
spec:
  model: {name: Mlp, numClasses: 10, inputShape: [1, 8, 8]}
  devices: {count: 3}
  stream:
    batch: {rule: Fixed, fixed: {size: 8}}
    transform: {mean: [0.5], std: [0.25]}
  compression: {mode: Static, ratio: 0.2}
  injection: {mode: Move, donorFraction: 0.3, sharedFraction: 0.25, optIn: All}
  checkpoint: {everySteps: 4}
  completion: {maxSteps: 12}
  runPolicy: {startDeadlineSeconds: 60, collectiveSeconds: 20, stopGraceSeconds: 20, orphanSeconds: 20}
";

/// The job, and the topics of its devices with records for so many steps.
struct Streams {
    broker: EmbeddedBroker,
    job: JobConfig,
    source: Numbered,
}

impl Streams {
    fn open(folder: &Path) -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        let mut job = resolve(JOB, broker.servers(), folder);
        // No more room than for what the job begins with.
        job.stream.batch_bounds.max = BATCH as u32;
        for device in &job.devices {
            let spec = TopicSpec { name: device.topic.clone(), partitions: 1, replication: None };
            broker.ensure_topics(&[spec], DEADLINE).unwrap();
        }
        Self { broker, job, source: Numbered::new(RECORD_BYTES, None) }
    }

    /// So many more steps can be taken.
    fn send(&self, steps: u64) {
        for (number, device) in self.job.devices.iter().enumerate() {
            let source = self.source.clone().of_device(number);
            fill(self.broker.connection(), &device.topic, 1, steps * BATCH, source);
        }
    }
}

/// Other settings, with two donors of three devices.
fn tuned(generation: u64, ratio: f64, shared_fraction: f64) -> Tuning {
    let compression = Some(CompressionTuning { ratio, is_free: false, delta: None });
    let injection = Some(InjectionTuning { donor_fraction: 0.6, shared_fraction });
    Tuning { generation, compression, injection }
}

fn journalled(job: &JobConfig) -> Vec<StepRecord> {
    read_surviving(&journal_dir(&job.output_dir)).unwrap()
}

/// Samples that changed hands in a step.
fn shared(step: &StepRecord) -> u64 {
    step.devices.iter().flat_map(|device| &device.given).map(|range| range.2).sum()
}

fn generation(step: &StepRecord) -> u64 {
    step.tuning.unwrap().generation
}

fn assert_replays(job: &JobConfig, steps: u64) {
    let again = replay(&job.output_dir, &ReplayOptions::default()).unwrap();
    assert!(again.equal && again.steps == steps, "{again:?}");
}

#[test]
fn all_ranks_of_a_live_group_switch_at_one_step_and_a_replay_has_the_bits() {
    let folder = tempfile::tempdir().unwrap();
    let streams = Streams::open(folder.path());
    let job = &streams.job;
    streams.send(5);
    let group = Group::start(folder.path(), job, 1, None);
    group.await_step(5);
    let before = group.workers[0].progress().unwrap();
    assert_eq!(before.tunings, [Tuned { step: 1, tuning: Tuning::of(job) }]);

    let first = tuned(1, 0.02, 0.5);
    assert_eq!(group.workers[0].tune(&first).0, 202);
    let (status, words) = group.workers[0].tune(&tuned(2, 0.0, 0.5));
    assert_eq!((status, words.as_str()), (422, "ratio = 0: allowed is a number above 0, at most 1"));
    streams.send(4);
    group.await_step(9);
    let listed = group.workers[0].progress().unwrap().tunings;
    assert_eq!(listed[1..], [Tuned { step: 6, tuning: first }], "the first step since it was told");

    // Told to another rank; and the third device trains the batches of the other two, more than it ever had room for.
    let second = tuned(2, 0.4, 1.0);
    assert_eq!(group.workers[2].tune(&second).0, 202);
    streams.send(3);
    let words = group.complete();
    assert_eq!((words[0].step, words[0].samples), (12, 12 * DEVICES as u64 * BATCH));

    let steps = journalled(job);
    let generations: Vec<u64> = steps.iter().map(generation).collect();
    assert_eq!(generations, [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]);
    let moved: Vec<u64> = steps.iter().map(shared).collect();
    assert_eq!(moved, [2, 2, 2, 2, 2, 8, 8, 8, 8, 16, 16, 16]);
    let is_sparse = |step: &StepRecord| matches!(step.compression, Some(CompressionDecision::Sparse(_)));
    assert!(steps.iter().all(is_sparse), "without a gate nothing waits for another look");
    assert_replays(job, 12);
}

#[test]
fn a_group_that_lost_a_worker_goes_on_with_what_it_was_tuned_to_and_replays() {
    let folder = tempfile::tempdir().unwrap();
    let streams = Streams::open(folder.path());
    let job = JobConfig { completion: Completion::MaxSteps(10), ..streams.job.clone() };
    streams.send(5);
    let mut group = Group::start(folder.path(), &job, 1, None);
    group.await_step(5);
    let tuning = tuned(1, 0.02, 0.5);
    assert_eq!(group.workers[0].tune(&tuning).0, 202);
    streams.send(2);
    group.await_step(7);
    group.workers.pop().unwrap().signal("KILL");
    group.end();

    streams.send(3);
    // From the checkpoint before the switch, with what the attempt carries: it holds from the first step on.
    let name = names::checkpoint(1, 4);
    let checkpoint = CheckpointRef { job_uid: job.uid.clone(), name, step: 4, restart_streams: false };
    let second = Group::start_tuned(folder.path(), &job, 2, Some(&checkpoint), tuning);
    second.await_step(5);
    let expected = [Tuned { step: 1, tuning: Tuning::of(&job) }, Tuned { step: 5, tuning }];
    assert_eq!(second.workers[0].progress().unwrap().tunings, expected);
    let words = second.complete();
    assert_eq!((words[0].code, words[0].step), (ExitCode::Completed, 10));
    let generations: Vec<u64> = journalled(&job).iter().map(generation).collect();
    assert_eq!(generations, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    assert_replays(&job, 10);

    // The last checkpoint remembers it by itself.
    let manifest =
        std::fs::read_to_string(job.checkpoint.root.join("uid/0002-00000008/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["tunings"], serde_json::to_value(expected).unwrap());
}
