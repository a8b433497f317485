//! What the page in a browser shows of a running job: one document, `GET /api/v1/run`. Pure.
//!
//! Its size does not grow with the run, and not with the devices: those that need attention most are in it, as in the live
//! table.

use std::collections::VecDeque;

use scadles_api::{
    BufferState, DeviceProgress, Ledger, Progress,
    progress::{CompressionProgress, Evaluation, TopK},
    report::AttemptReport,
    worker::Completion,
};
use serde::Serialize;

use super::{
    Snapshot,
    history::{Curves, DeviceCurves, History},
    text::{chosen_rows, device},
};
use crate::report::steps::POINTS;

/// Version of the document; grows when a field changes its meaning.
pub const PAGE_VERSION: u32 = 1;

/// More events than this are not kept; the newest are.
const MOST_EVENTS: usize = 200;

/// More attempts than this are not told; the newest are.
const MOST_ATTEMPTS: usize = 50;

/// A text is cut here.
const MOST_LETTERS: usize = 500;

/// What stays the same while a run lives.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Version of the program.
    pub program: String,
    /// Where the results will be, in words or as a path.
    pub folder: String,
    /// The network.
    pub model: String,
    /// Where the streams are, in words.
    pub broker: String,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EventKind {
    /// To be known.
    Note,
    /// A checkpoint is durable.
    Checkpoint,
    /// Something went wrong.
    Failure,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Seconds since the command began.
    pub seconds: f64,
    /// Its kind.
    pub kind: EventKind,
    /// What, in words.
    pub text: String,
}

/// What happened, the oldest first, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    events: VecDeque<Event>,
    checkpoint: Option<String>,
}

impl Chronicle {
    /// Takes note of an event.
    pub fn note(&mut self, seconds: f64, kind: EventKind, text: &str) {
        if self.events.len() >= MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { seconds, kind, text: first_letters(text) });
    }

    /// Takes note of what a look tells that was not known before.
    pub fn look(&mut self, snapshot: &Snapshot) {
        let Some(checkpoint) = snapshot.progress.as_ref().and_then(|progress| progress.checkpoint.as_ref())
        else {
            return;
        };
        if self.checkpoint.as_ref() != Some(&checkpoint.name) {
            let text = format!("checkpoint {}, after step {}", checkpoint.name, checkpoint.step);
            self.note(snapshot.seconds, EventKind::Checkpoint, &text);
            self.checkpoint = Some(checkpoint.name.clone());
        }
    }
}

fn first_letters(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_LETTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Name of the exit code.
    pub outcome: String,
    /// Whether that is how it should end.
    pub well: bool,
    /// What happened.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
    /// The report's page; `None` if it could not be written.
    pub report: Option<String>,
}

/// All that a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// What stays the same.
    pub about: &'a About,
    /// How things stand; `None` before the first look.
    pub snapshot: Option<&'a Snapshot>,
    /// The steps so far.
    pub history: &'a History,
    /// Evaluations along the surviving history.
    pub evaluations: &'a [Evaluation],
    /// What happened.
    pub chronicle: &'a Chronicle,
    /// How it ended, once it has.
    pub end: Option<&'a End>,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<'a> {
    /// [`PAGE_VERSION`].
    pub version: u32,
    /// What stays the same.
    pub about: &'a About,
    /// Job name; empty before the first look.
    pub job: &'a str,
    /// Where the run stands.
    pub state: State,
    /// The latest step; `None` before the first.
    pub progress: Option<Latest>,
    /// Evaluations, evenly thinned.
    pub evaluations: Vec<Accuracy>,
    /// Curves of all devices together.
    pub curves: Curves,
    /// Number of devices, whether or not they are in `devices`.
    pub device_count: usize,
    /// Training time of the points of the devices' curves.
    pub device_seconds: Vec<f64>,
    /// All devices, or those that need attention most, the worst first.
    pub devices: Vec<DeviceRow>,
    /// Account of all devices together.
    pub ledger: Ledger,
    /// Attempts that have ended, the newest of them.
    pub attempts: Vec<AttemptReport>,
    /// What happened, the oldest first.
    pub events: Vec<Event>,
    /// How it ended, once it has.
    pub end: Option<&'a End>,
}

/// Where the run stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Name of the supervision's phase.
    pub phase: &'static str,
    /// What the supervisor is about.
    pub words: String,
    /// Current attempt; 0 before the first.
    pub attempt: u32,
    /// Seconds since the command began.
    pub seconds: f64,
    /// What the run is to reach, in words.
    pub goal: String,
    /// Share of it that is done, where it has a measure.
    pub share_done: Option<f64>,
    /// Seconds until then, at the present speed.
    pub seconds_left: Option<f64>,
}

/// The latest step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latest {
    /// Its number.
    pub step: u64,
    /// Samples trained by all devices so far.
    pub samples: u64,
    /// The same in epochs.
    pub epoch: f64,
    /// Mean loss of a sample.
    pub loss: Option<f64>,
    /// η of the step.
    pub learning_rate: f64,
    /// Agreed window; 0 for rules without one.
    pub window_seconds: f64,
    /// From commit to commit.
    pub step_seconds: f64,
    /// Samples of all devices, averaged over the last seconds.
    pub samples_per_second: f64,
    /// Training time so far.
    pub train_seconds: f64,
    /// Samples of the step.
    pub global_batch: u64,
    /// Age of the oldest sample that waits.
    pub oldest_seconds: f64,
    /// Bytes of gradients that all devices have sent.
    pub bytes_sent: u64,
    /// What dense steps would have sent; 0 without compression.
    pub dense_bytes: u64,
    /// Compression so far, in jobs that have it.
    pub compression: Option<CompressionProgress>,
    /// Step of the last durable checkpoint.
    pub checkpoint_step: Option<u64>,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accuracy {
    /// After this step.
    pub step: u64,
    /// Training time.
    pub seconds: f64,
    /// Pictures looked at.
    pub pictures: u64,
    /// Mean loss.
    pub loss: f64,
    /// Shares of right guesses.
    pub top_k: Vec<TopK>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    /// Its name.
    pub name: String,
    /// Rate asked of its simulated stream, samples per second.
    pub asked: Option<f64>,
    /// What its simulated stream waits for, if it does.
    pub waits: Option<String>,
    /// Samples that its worker has room for.
    pub places: Option<u64>,
    /// How it stands; `None` before the first step.
    pub now: Option<DeviceNow>,
    /// Its curves.
    pub curves: DeviceCurves,
}

/// How a device stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNow {
    /// Samples per second that arrive.
    pub rate: f64,
    /// Samples of its last batch.
    pub batch: u32,
    /// Its weight in the last step.
    pub weight: f64,
    /// Samples in the worker, out of `places`.
    pub buffered_local: u64,
    /// Age of the oldest of them.
    pub oldest_seconds: f64,
    /// Seconds since the stream last grew.
    pub silent_seconds: f64,
    /// State of the buffer.
    pub state: BufferState,
    /// Right first guesses among the newest samples, before they were trained.
    pub prequential_accuracy: Option<f64>,
    /// Its account.
    pub ledger: Ledger,
}

/// The document of what is to be seen.
pub fn page<'a>(sight: &Sight<'a>) -> Page<'a> {
    let snapshot = sight.snapshot;
    let progress = snapshot.and_then(|snapshot| snapshot.progress.as_ref());
    let attempts = snapshot.map_or(&[][..], |snapshot| snapshot.attempts.as_slice());
    Page {
        version: PAGE_VERSION,
        about: sight.about,
        job: snapshot.map_or("", |snapshot| snapshot.job.as_str()),
        state: state(snapshot),
        progress: progress.map(latest),
        evaluations: thinned(sight.evaluations).map(accuracy).collect(),
        curves: sight.history.curves(),
        device_count: snapshot.map_or(0, |snapshot| snapshot.devices.len()),
        device_seconds: sight.history.device_seconds(),
        devices: snapshot.map_or_else(Vec::new, |snapshot| rows(snapshot, sight.history)),
        ledger: progress.map_or_else(Ledger::default, |progress| {
            progress.devices.iter().map(|device| device.ledger).sum()
        }),
        attempts: attempts.iter().skip(attempts.len().saturating_sub(MOST_ATTEMPTS)).map(shortened).collect(),
        events: sight.chronicle.events.iter().cloned().collect(),
        end: sight.end,
    }
}

fn state(snapshot: Option<&Snapshot>) -> State {
    let Some(snapshot) = snapshot else {
        return State {
            phase: "Waiting",
            words: "starting".to_owned(),
            attempt: 0,
            seconds: 0.0,
            goal: String::new(),
            share_done: None,
            seconds_left: None,
        };
    };
    State {
        phase: snapshot.phase,
        words: first_letters(&snapshot.activity),
        attempt: snapshot.attempt,
        seconds: snapshot.seconds,
        goal: match snapshot.completion {
            Completion::MaxEpochs(epochs) => format!("{epochs} epochs"),
            Completion::MaxSteps(steps) => format!("{} steps", crate::screen::grouped(steps)),
            Completion::MaxSamples(samples) => format!("{} samples", crate::screen::grouped(samples)),
            Completion::TargetAccuracy(share) => format!("a Top-1 accuracy of {} %", share * 100.0),
            Completion::StreamEnd => "the end of all streams".to_owned(),
        },
        share_done: snapshot.share_done(),
        seconds_left: snapshot.seconds_left(),
    }
}

fn latest(progress: &Progress) -> Latest {
    let devices = &progress.devices;
    let sum = |of: fn(&DeviceProgress) -> u64| devices.iter().map(of).sum();
    Latest {
        step: progress.step,
        samples: progress.samples,
        epoch: progress.epoch,
        loss: progress.loss.filter(|loss| loss.is_finite()),
        learning_rate: progress.learning_rate,
        window_seconds: progress.window_seconds,
        step_seconds: progress.step_seconds,
        samples_per_second: progress.samples_per_second,
        train_seconds: progress.train_seconds,
        global_batch: sum(|device| u64::from(device.local_batch)),
        oldest_seconds: devices.iter().map(|device| device.oldest_seconds).fold(0.0, f64::max),
        bytes_sent: sum(|device| device.bytes_sent),
        dense_bytes: sum(|device| device.dense_bytes),
        compression: progress.compression,
        checkpoint_step: progress.checkpoint.as_ref().map(|checkpoint| checkpoint.step),
    }
}

/// At most [`POINTS`] evaluations, at equal distances; the last one is always there.
fn thinned(evaluations: &[Evaluation]) -> impl Iterator<Item = &Evaluation> {
    let distance = evaluations.len().div_ceil(POINTS).max(1);
    let offset = evaluations.len().saturating_sub(1) % distance;
    evaluations.iter().skip(offset).step_by(distance)
}

fn accuracy(evaluation: &Evaluation) -> Accuracy {
    Accuracy {
        step: evaluation.step,
        seconds: evaluation.seconds,
        pictures: evaluation.pictures,
        loss: evaluation.loss,
        top_k: evaluation.top_k.clone(),
    }
}

fn rows(snapshot: &Snapshot, history: &History) -> Vec<DeviceRow> {
    let row = |rank: usize| {
        let stream = snapshot.streams.get(rank);
        let waiting = stream.and_then(|stream| stream.waiting.as_ref());
        DeviceRow {
            name: snapshot.devices[rank].clone(),
            asked: stream.map(|stream| stream.asked),
            waits: waiting.map(|(cause, seconds)| format!("{} {cause}", crate::screen::span(*seconds))),
            places: snapshot.places.get(rank).copied(),
            now: device(snapshot, rank).map(now),
            curves: history.device(rank),
        }
    };
    chosen_rows(snapshot).into_iter().map(row).collect()
}

fn now(device: &DeviceProgress) -> DeviceNow {
    DeviceNow {
        rate: device.stream_rate,
        batch: device.local_batch,
        weight: device.aggregation_weight,
        buffered_local: device.buffered_local,
        oldest_seconds: device.oldest_seconds,
        silent_seconds: device.silent_seconds,
        state: device.state,
        prequential_accuracy: device.prequential_accuracy,
        ledger: device.ledger,
    }
}

fn shortened(attempt: &AttemptReport) -> AttemptReport {
    AttemptReport { ended: first_letters(&attempt.ended), ..attempt.clone() }
}

#[cfg(test)]
mod tests;
