//! What an attempt continues from. Rank 0 alone reads the checkpoint; the others get their part of its manifest with
//! the greeting, model and momentum over the collectives. So a volume that one process mounts is enough. Shell.

use scadles_api::{Attempt, ExitCode, Tuning, worker::JobConfig};
use scadles_core::{
    agree::GlobalState,
    compress::{compressor::CompressorState, gate::CompressionState},
    learning_rate::LearningRateState,
};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::{Context, Failure, hash_text};
use crate::{
    checkpoint::{CheckpointStore, DeviceTotals, Manifest},
    engine::{Communicator, EngineError},
    exchange::{CompressedExchange, residuals},
    journal::{read_segments_from, writer::journal_dir},
    learner::Learner,
    numeric::bytes_of_mut,
    optimizer::SgdState,
    source::{Start, StreamCheckpoint},
};

/// So much is broadcast at once: each piece has the whole time limit of a collective.
const PIECE_BYTES: usize = 16 << 20;

/// Where one rank goes on: its part of the checkpoint that rank 0 has read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ResumePoint {
    step: u64,
    samples: u64,
    window_seconds: f64,
    /// Hashes of what the broadcast must bring.
    parameter_hash: String,
    momentum_hash: String,
    statistics_hash: Option<String>,
    stream: StreamCheckpoint,
    totals: DeviceTotals,
    compression: CompressionState,
    learning_rate: LearningRateState,
    /// What the residual that follows means nothing without; nothing if none follows.
    compressor: Option<CompressorState>,
    /// Samples of the device that earlier attempts trained beyond the checkpoint; this attempt rolls them back.
    rolled_back: u64,
}

/// The model, as the seed or the checkpoint has it.
pub(super) struct Restored {
    /// Rank 0's, where there is a checkpoint.
    pub(super) manifest: Option<Manifest>,
    pub(super) learner: Learner<f32>,
    pub(super) momentum: SgdState<f32>,
    /// Rank 0's: what compression kept back on each rank; empty if nothing.
    residuals: Vec<Vec<f32>>,
}

impl Restored {
    /// Builds the model, which computes on `device` if that is not the CPU; rank 0 of an attempt with a checkpoint fills it from
    /// there.
    pub(super) fn load(job: &JobConfig, attempt: &Attempt, device: Option<Device>) -> Result<Self, Failure> {
        let learner = Learner::<f32>::new(&job.model.below(&job.data_dir), job.training.seed)?;
        let mut learner = learner.with_class_weights(&job.training.class_weights)?;
        if let Some(device) = device {
            learner = learner.on_device(device)?;
        }
        let mut momentum = SgdState::new(learner.parameters()?.len());
        let (mut manifest, mut residuals) = (None, Vec::new());
        if let Some(reference) = attempt.checkpoint.as_ref().filter(|_| attempt.rank == 0) {
            let snapshot = CheckpointStore::of(&job.checkpoint)?.load(reference)?;
            learner.set_model(&snapshot.model)?;
            learner.decode(&snapshot.momentum, &mut momentum.momentum)?;
            check(&snapshot.manifest, attempt, &learner)?;
            if job.compression.is_some() {
                residuals = decode_residuals(&learner, &snapshot.residuals)?;
            } else if !snapshot.residuals.is_empty() {
                tracing::warn!("the job has no compression any more: what it kept back is given up");
            }
            manifest = Some(snapshot.manifest);
        }
        Ok(Self { manifest, learner, momentum, residuals })
    }

    /// Rank 0: where each rank goes on; nothing without a checkpoint.
    pub(super) fn resume_points(
        &self,
        job: &JobConfig,
        attempt: &Attempt,
    ) -> Result<Vec<Option<ResumePoint>>, Failure> {
        let Some(manifest) = &self.manifest else { return Ok(vec![None; attempt.devices.len()]) };
        let rolled_back = rolled_back(job, manifest)?;
        let momentum_hash = hash_text(self.learner.hash(&self.momentum.momentum)?);
        let point = |(device, rolled_back): (&crate::checkpoint::DeviceState, u64)| ResumePoint {
            step: manifest.step,
            samples: manifest.samples,
            window_seconds: manifest.window_seconds,
            parameter_hash: manifest.parameter_hash.clone(),
            momentum_hash: momentum_hash.clone(),
            statistics_hash: manifest.statistics_hash.clone(),
            stream: device.stream.clone(),
            totals: device.totals,
            compression: manifest.compression,
            learning_rate: manifest.learning_rate,
            compressor: device.compressor.filter(|_| !self.residuals.is_empty()),
            rolled_back,
        };
        Ok(manifest.devices.iter().zip(rolled_back).map(point).map(Some).collect())
    }

    /// Every rank gets back what its compression had kept back.
    pub(super) fn share_residuals(
        &self,
        communicator: &mut dyn Communicator,
        resume: &ResumePoint,
        exchange: &mut CompressedExchange,
    ) -> Result<(), Failure> {
        let Some(state) = resume.compressor else { return Ok(()) };
        let mut own = vec![0.0; exchange.compressor().layout().total_elements];
        residuals::scatter(communicator, &self.residuals, &mut own)?;
        exchange.compressor_mut().restore(&own, state).map_err(|error| {
            Failure::new(ExitCode::Configuration, error.to_string())
                .with_remedy("the checkpoint is of another model or ratio: resume from another one")
        })
    }

    /// Parameters, running statistics and momentum become rank 0's on all ranks.
    pub(super) fn share(
        &mut self,
        communicator: &mut dyn Communicator,
        resume: &ResumePoint,
    ) -> Result<(), Failure> {
        broadcast(communicator, bytes_of_mut(self.learner.parameters_mut()?))?;
        broadcast(communicator, bytes_of_mut(&mut self.momentum.momentum))?;
        let mut statistics = self.learner.statistics()?;
        broadcast(communicator, bytes_of_mut(&mut statistics.values))?;
        self.learner.set_statistics(&statistics)?;
        let momentum_hash = self.learner.hash(&self.momentum.momentum)?;
        let (some, none) = (|text: &String| Some(text.clone()), "no hash");
        for (what, expected, hash) in [
            ("parameters", some(&resume.parameter_hash), Some(self.learner.parameter_hash()?)),
            ("momentum", some(&resume.momentum_hash), Some(momentum_hash)),
            ("running statistics", resume.statistics_hash.clone(), self.learner.statistics_hash()?),
        ] {
            let hash = hash.map(hash_text);
            if hash != expected {
                let text = |hash: Option<String>| hash.unwrap_or_else(|| none.to_owned());
                let (hash, expected) = (text(hash), text(expected));
                let message = format!("rank 0 sent {what} of hash {expected}, this worker got {hash}");
                return Err(Failure::new(ExitCode::Diverged, message));
            }
        }
        Ok(())
    }
}

/// Residuals of a checkpoint, laid out like the gradients.
pub(crate) fn decode_residuals(
    learner: &Learner<f32>,
    files: &[Vec<u8>],
) -> Result<Vec<Vec<f32>>, crate::learner::LearnerError> {
    let elements = learner.parameters()?.len();
    let decode = |bytes: &Vec<u8>| {
        let mut residual = vec![0.0; elements];
        learner.decode(bytes, &mut residual)?;
        Ok(residual)
    };
    files.iter().map(decode).collect()
}

fn broadcast(communicator: &mut dyn Communicator, bytes: &mut [u8]) -> Result<(), EngineError> {
    bytes.chunks_mut(PIECE_BYTES).try_for_each(|piece| communicator.broadcast(piece, 0))
}

/// A checkpoint is of these devices, and its parameters are those that were saved.
fn check(manifest: &Manifest, attempt: &Attempt, learner: &Learner<f32>) -> Result<(), Failure> {
    let name = manifest.name();
    let hash = hash_text(learner.parameter_hash()?);
    let statistics_hash = learner.statistics_hash()?.map(hash_text);
    if (&hash, &statistics_hash) != (&manifest.parameter_hash, &manifest.statistics_hash) {
        let text = |hash: &str, statistics: &Option<String>| match statistics {
            None => hash.to_owned(),
            Some(statistics) => format!("{hash} and running statistics of hash {statistics}"),
        };
        let message = format!(
            "checkpoint {name} holds parameters of hash {}, its manifest says {}",
            text(&hash, &statistics_hash),
            text(&manifest.parameter_hash, &manifest.statistics_hash)
        );
        return Err(Failure::new(ExitCode::Configuration, message)
            .with_remedy("the checkpoint is damaged: resume from another one"));
    }
    if manifest.devices.iter().map(|device| &device.name).ne(&attempt.devices) {
        let names: Vec<&str> = manifest.devices.iter().map(|device| device.name.as_str()).collect();
        let message =
            format!("checkpoint {name} is of the devices {names:?}, the attempt of {:?}", attempt.devices);
        return Err(Failure::new(ExitCode::Configuration, message)
            .with_remedy("devices stay the same over the life of a job: start a new one"));
    }
    Ok(())
}

/// Per rank, the samples of journal records that are later than the checkpoint: attempts follow each other in time, so
/// (attempt, step) orders all records.
fn rolled_back(job: &JobConfig, manifest: &Manifest) -> Result<Vec<u64>, Failure> {
    let mut samples = vec![0; job.devices.len()];
    let folder = journal_dir(&job.output_dir);
    let kept = (manifest.attempt, manifest.step);
    for segment in read_segments_from(&folder, kept)? {
        for record in segment?.records.iter().filter(|record| (record.attempt, record.step) > kept) {
            for (sum, device) in samples.iter_mut().zip(&record.devices) {
                *sum += device.samples();
            }
        }
    }
    Ok(samples)
}

/// The counters and settings with which a group goes on.
pub(super) fn start_state(resume: Option<&ResumePoint>, tuning: Tuning) -> GlobalState {
    let state = resume.map_or_else(GlobalState::default, |resume| GlobalState {
        step: resume.step,
        samples: resume.samples,
        window_seconds: resume.window_seconds,
        compression: resume.compression,
        learning_rate: resume.learning_rate,
        ..GlobalState::default()
    });
    GlobalState { tuning, ..state }
}

/// The settings with which a group goes on: those of the checkpoint's last step. What the attempt says beside is told to
/// the group like any other tuning, and holds from the next step on; before the first one it holds at once.
pub(super) fn start_tuning(job: &JobConfig, attempt: &Attempt, loaded: Option<&Manifest>) -> Tuning {
    let saved = loaded.and_then(|manifest| manifest.tunings.last()).map(|tuned| tuned.tuning);
    saved.unwrap_or(attempt.tuning).after(&Tuning::of(job))
}

/// Sums of the device so far.
pub(super) fn totals(resume: Option<&ResumePoint>) -> DeviceTotals {
    resume.map(|resume| resume.totals).unwrap_or_default()
}

/// Where the rank's stream is read from.
pub(super) fn stream_start(context: &Context, attempt: &Attempt, resume: Option<&ResumePoint>) -> Start {
    match resume {
        None => Start::Beginning(context.config.job.stream.start_from),
        Some(ResumePoint { stream, rolled_back, .. }) => {
            let (checkpoint, rolled_back) = (stream.clone(), *rolled_back);
            if attempt.checkpoint.as_ref().is_some_and(|reference| reference.restart_streams) {
                Start::RestartStreams { checkpoint, rolled_back }
            } else {
                Start::From { checkpoint, rolled_back }
            }
        }
    }
}
