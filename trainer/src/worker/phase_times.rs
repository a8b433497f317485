//! Where a worker's time goes, step by step, as sums of its training thread and as a trace: measured only when asked for.
//! Shell (clocks, files at the end).

use std::{path::PathBuf, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::trace::{self, Trace};
use crate::{decode_ahead::DecodeCounts, exchange::WireTime, learner::Pass};

/// Names the folder into which each worker writes `<device>.json`; without it nothing is measured.
pub(super) const VARIABLE: &str = "SCADLES_PHASE_TIMES";
const PHASES: usize = 6;

/// What the training thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum StepPhase {
    /// Everything that is not named below: waiting, batches, the agreement, bookkeeping, journal.
    Own,
    /// Shared samples on their way.
    Share,
    /// Forward and backward.
    Compute,
    /// The sum of the gradients over the ranks.
    Exchange,
    /// The update of the parameters.
    Optimizer,
    /// Held-out pictures, after some steps.
    Evaluation,
}

impl StepPhase {
    /// What a trace calls it, where it does not tell more.
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Share => Some("share"),
            Self::Compute => Some("compute"),
            Self::Exchange => Some("exchange"),
            Self::Optimizer => Some("apply"),
            Self::Evaluation => Some("evaluation"),
        }
    }
}

/// Seconds of one step, in the order of [`StepPhase`], and samples by where they were decoded.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spent {
    thread_cpu_seconds: [f64; PHASES],
    wall_seconds: [f64; PHASES],
    /// By the thread beside this one, while the step before computed and exchanged and this one's window ran.
    decoded_ahead: u64,
    /// By this thread, in `Own`.
    decoded_late: u64,
}

/// The file's content: all steps of one rank.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    rank: usize,
    phases: [StepPhase; PHASES],
    steps: &'a [Spent],
}

/// A stop watch for the training thread.
pub(super) struct PhaseTimes {
    file: Option<PathBuf>,
    trace: Option<Trace>,
    rank: usize,
    phase: StepPhase,
    /// Thread CPU seconds and wall seconds when the phase began.
    began: (f64, f64),
    step: Spent,
    steps: Vec<Spent>,
}

impl PhaseTimes {
    /// Measures if [`VARIABLE`] or [`trace::VARIABLE`] asks for it. To be made on the training thread.
    pub(super) fn from_environment(device: &str, rank: usize) -> Self {
        let folder = |variable| std::env::var_os(variable).map(PathBuf::from);
        let file = folder(VARIABLE).map(|folder| folder.join(format!("{device}.json")));
        let began = now();
        let trace = folder(trace::VARIABLE).map(|folder| Trace::new(&folder, device, rank, began.1));
        Self { file, trace, rank, phase: StepPhase::Own, began, step: Spent::default(), steps: Vec::new() }
    }

    /// From now on the thread is in `phase`.
    pub(super) fn enter(&mut self, phase: StepPhase) {
        if self.file.is_none() && self.trace.is_none() {
            return;
        }
        let now = now();
        if let (Some(trace), Some(name)) = (&mut self.trace, self.phase.name()) {
            trace.phase(name, self.began.1, now.1);
        }
        self.step.thread_cpu_seconds[self.phase as usize] += now.0 - self.began.0;
        self.step.wall_seconds[self.phase as usize] += now.1 - self.began.1;
        (self.phase, self.began) = (phase, now);
    }

    /// The step's batch is fixed and decoded.
    pub(super) fn decoded(&mut self, counts: DecodeCounts) {
        self.step.decoded_ahead += counts.ahead;
        self.step.decoded_late += counts.late;
    }

    /// Work in `Own` that a trace names has just ended.
    pub(super) fn own(&mut self, name: &'static str, began: Instant) {
        if let Some(trace) = &mut self.trace {
            trace.span(name, began, Instant::now());
        }
    }

    /// What the step's passes and buckets took, for the trace.
    pub(super) fn passed(&mut self, passes: &[Pass], wire: &[WireTime]) {
        if let Some(trace) = &mut self.trace {
            trace.passed(passes, wire);
        }
    }

    /// Step `step` is over, with all that belongs to it.
    pub(super) fn step_done(&mut self, step: u64) {
        self.enter(StepPhase::Own);
        let spent = std::mem::take(&mut self.step);
        if self.file.is_some() {
            self.steps.push(spent);
        }
        if let Some(trace) = &mut self.trace {
            trace.step_done(step);
        }
    }

    /// Writes the files that were asked for.
    pub(super) fn write(&self) {
        if let Some(trace) = &self.trace {
            trace.write();
        }
        let Some(file) = &self.file else { return };
        let phases = [
            StepPhase::Own,
            StepPhase::Share,
            StepPhase::Compute,
            StepPhase::Exchange,
            StepPhase::Optimizer,
            StepPhase::Evaluation,
        ];
        let written = Written { rank: self.rank, phases, steps: &self.steps };
        let text = serde_json::to_vec(&written).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| std::fs::write(file, text)) {
            tracing::warn!(%error, file = %file.display(), "failed to write the phase times");
        }
    }
}

/// Processor seconds of this thread, and seconds of a clock that only goes forward.
fn now() -> (f64, f64) {
    let seconds = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    (seconds(ClockId::ThreadCPUTime), seconds(ClockId::Monotonic))
}
