//! `replay`: trains a run again from its journal, as logical devices in one thread, and compares the bits.
//!
//! Begins at the oldest kept checkpoint that the surviving history covers: checkpoint 0 as a rule, which is never
//! pruned. Records come from the producer's pure function (jobs with `producer`) or from the topics. Assembler, learner,
//! order of addition and optimizer are those of the ranks, so that on the same kind of CPU every bit is the same.
//! Shell; the steps themselves are in [`logical`].

mod error;
pub mod logical;
pub mod records;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};

use scadles_api::CheckpointRef;
use scadles_api::worker::JobConfig;

use crate::checkpoint::store::parse_name;
use crate::checkpoint::{CheckpointStore, Snapshot};
use crate::journal::writer::{config_hash, cpu_kind, journal_dir};
use crate::journal::{History, Segment, StepRecord, read_segments, surviving};
use crate::learner::set_up_torch;

pub use error::ReplayError;
use logical::LogicalGroup;

/// Overrides of what the run's `job.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayOptions {
    /// Folder of the data sets.
    pub data_dir: Option<PathBuf>,
    /// Broker of the topics.
    pub bootstrap_servers: Option<String>,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayResult {
    /// Steps trained again.
    pub steps: u64,
    /// Checkpoint that the replay began at.
    pub from_checkpoint: String,
    /// What the replay was compared with at its end: `model.safetensors`, or a checkpoint.
    pub compared_with: String,
    /// Hash of the run's parameters, hexadecimal.
    pub expected_hash: String,
    /// Hash of the replay's parameters, hexadecimal.
    pub parameter_hash: String,
    /// Hash of the run's running statistics, hexadecimal, in networks that have them.
    pub expected_statistics: Option<String>,
    /// Hash of the replay's.
    pub statistics_hash: Option<String>,
    /// Places on the way (kept checkpoints, hashes in the journal) where the parameters were compared too.
    pub compared_on_the_way: u64,
    /// First of these places, as a step, where they differ.
    pub first_difference: Option<u64>,
    /// The run's CPU, if this machine has another kind: bits may differ then.
    pub other_cpu: Option<String>,
    /// Everything compared is equal, bit for bit.
    pub equal: bool,
}

/// Hashes, as they are written, of what a state holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hashes {
    parameters: String,
    /// Nothing in networks without running statistics.
    statistics: Option<String>,
}

/// What a run left behind.
struct Run {
    job: JobConfig,
    segments: Vec<Segment>,
    history: History,
    /// Kept checkpoints that lie on the surviving history, oldest first.
    checkpoints: Vec<(CheckpointRef, Hashes)>,
    store: CheckpointStore,
}

/// Replays the run in the folder `run_dir`.
pub fn replay(run_dir: &Path, options: &ReplayOptions) -> Result<ReplayResult, ReplayError> {
    let mut run = open(run_dir)?;
    if let Some(data_dir) = &options.data_dir {
        run.job.data_dir.clone_from(data_dir);
    }
    if let Some(servers) = &options.bootstrap_servers {
        run.job.kafka.bootstrap_servers.clone_from(servers);
    }
    let (first, _) =
        run.checkpoints.first().ok_or_else(|| ReplayError::NoCheckpoint { place: run.store.root() })?;
    check_settings(&run, first.step)?;
    set_up_torch(run.job.threads).map_err(ReplayError::compute)?;
    let snapshot = run.store.load(first)?;
    let end = replay_end(run_dir, &run, &snapshot)?;
    let mut records = records::open(&run.job)?;
    let steps = run.history.steps.iter().filter(|record| (first.step + 1..=end.step).contains(&record.step));
    let devices = device_numbers(&run)?;
    let mut group = LogicalGroup::start(&run.job, devices, &snapshot)?;
    let mut result = ReplayResult {
        steps: 0,
        from_checkpoint: first.name.clone(),
        compared_with: end.compared_with,
        expected_hash: end.expected.parameters,
        parameter_hash: String::new(),
        expected_statistics: end.expected.statistics,
        statistics_hash: None,
        compared_on_the_way: 0,
        first_difference: None,
        other_cpu: other_cpu(&run.segments),
        equal: false,
    };
    for record in steps {
        group.step(record, &mut *records)?;
        result.steps += 1;
        if begins_a_segment(&run, record) {
            group.agree_statistics()?;
        }
        let found = group.hashes()?;
        for equal in comparisons(&run, record, &found) {
            result.compared_on_the_way += 1;
            if !equal && result.first_difference.is_none() {
                result.first_difference = Some(record.step);
            }
        }
    }
    // Whatever the end is compared with was agreed on.
    group.agree_statistics()?;
    let found = group.hashes()?;
    (result.parameter_hash, result.statistics_hash) = (found.parameters, found.statistics);
    result.equal = result.parameter_hash == result.expected_hash
        && result.statistics_hash == result.expected_statistics
        && result.first_difference.is_none();
    Ok(result)
}

/// Reads everything but tensors.
fn open(run_dir: &Path) -> Result<Run, ReplayError> {
    let path = run_dir.join("job.json");
    let not_a_run = |reason: String| ReplayError::NotARun { place: path.display().to_string(), reason };
    let text = std::fs::read(&path).map_err(|error| not_a_run(error.to_string()))?;
    let job: JobConfig = serde_json::from_slice(&text).map_err(|error| not_a_run(error.to_string()))?;
    let segments = read_segments(&journal_dir(run_dir))?;
    let history = surviving(&segments)?;
    // A run folder that was moved takes its checkpoints along, unless they were stored elsewhere.
    let beside = run_dir.join("checkpoints");
    let root = if job.checkpoint.root.is_dir() { job.checkpoint.root.clone() } else { beside };
    let store = CheckpointStore::open(&root)?;
    let mut checkpoints = Vec::new();
    for reference in store.list(&job.uid)? {
        if lies_on(&history, &reference) {
            let manifest = store.manifest(&reference)?;
            let hashes = Hashes { parameters: manifest.parameter_hash, statistics: manifest.statistics_hash };
            checkpoints.push((reference, hashes));
        }
    }
    checkpoints.sort_by_key(|(reference, _)| reference.step);
    Ok(Run { job, segments, history, checkpoints, store })
}

/// Pure: whether all records that are to be followed, those after step `from`, were trained with the settings of the job.
fn check_settings(run: &Run, from: u64) -> Result<(), ReplayError> {
    let expected = config_hash(&run.job);
    let is_followed = |segment: &&Segment| {
        let counts = |record: &StepRecord| record.step > from && run.history.steps.contains(record);
        segment.records.iter().any(counts)
    };
    let differs = |segment: &&Segment| segment.header.config_hash != expected;
    match run.segments.iter().filter(differs).find(is_followed) {
        None => Ok(()),
        Some(segment) => Err(ReplayError::Settings { segment: segment.name.clone() }),
    }
}

/// Pure: whether a checkpoint holds a state that the surviving history went through.
fn lies_on(history: &History, reference: &CheckpointRef) -> bool {
    let Some((attempt, step)) = parse_name(&reference.name) else { return false };
    // The first parameters follow from the seed, whichever attempt wrote them.
    (step == 0 && history.from_step == 0)
        || history.steps.iter().any(|record| (record.attempt, record.step) == (attempt, step))
}

/// Where a replay ends and what it must have found by then.
struct End {
    step: u64,
    compared_with: String,
    expected: Hashes,
}

/// The run's own model if it is younger than the journal, else (the run was killed) the newest kept checkpoint.
fn replay_end(run_dir: &Path, run: &Run, snapshot: &Snapshot) -> Result<End, ReplayError> {
    let model = run_dir.join("model.safetensors");
    let last = run.history.steps.last().map_or(run.history.from_step, |record| record.step);
    if let Some(age) = modified(&model)
        && newest_segment(run_dir, run).is_none_or(|journal| journal <= age)
    {
        let bytes = std::fs::read(&model).map_err(|error| ReplayError::NotARun {
            place: model.display().to_string(),
            reason: error.to_string(),
        })?;
        let mut group = LogicalGroup::start(&run.job, Vec::new(), snapshot)?;
        let expected = group.hashes_of(&bytes)?;
        return Ok(End { step: last, compared_with: "model.safetensors".to_owned(), expected });
    }
    let (newest, hashes) =
        run.checkpoints.last().ok_or_else(|| ReplayError::NoCheckpoint { place: run.store.root() })?;
    Ok(End {
        step: newest.step,
        compared_with: format!("checkpoint {}", newest.name),
        expected: hashes.clone(),
    })
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest_segment(run_dir: &Path, run: &Run) -> Option<std::time::SystemTime> {
    let dir = journal_dir(run_dir);
    run.segments.iter().filter_map(|segment| modified(&dir.join(format!("{}.jsonl", segment.name)))).max()
}

/// Pure: whether a segment continues the state after `record`: a checkpoint was taken then, announced or not.
fn begins_a_segment(run: &Run, record: &StepRecord) -> bool {
    let state = Some((record.attempt, record.step));
    run.segments.iter().any(|segment| parse_name(&segment.header.checkpoint) == state)
}

/// Pure: whether `found` is what is known of the state after `record`, place by place.
fn comparisons<'a>(
    run: &'a Run,
    record: &'a StepRecord,
    found: &'a Hashes,
) -> impl Iterator<Item = bool> + 'a {
    let saved = run.checkpoints.iter().filter(|(reference, _)| reference.step == record.step);
    let saved = saved.map(move |(_, hashes)| hashes == found);
    saved.chain(record.parameter_hash.iter().map(move |hash| *hash == found.parameters))
}

/// Per rank, the device's position in the job: what producers and augmentation count by.
fn device_numbers(run: &Run) -> Result<Vec<usize>, ReplayError> {
    let names = run.segments.first().map_or(&[][..], |segment| &segment.header.devices);
    let number = |name: &String| {
        let found = run.job.devices.iter().position(|device| device.name == *name);
        found.ok_or_else(|| ReplayError::UnknownDevice { name: name.clone() })
    };
    names.iter().map(number).collect()
}

fn other_cpu(segments: &[Segment]) -> Option<String> {
    let here = cpu_kind();
    segments.iter().map(|segment| &segment.header.cpu).find(|cpu| **cpu != here).cloned()
}
