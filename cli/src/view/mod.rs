//! What a person sees while a job runs: a live table on a terminal, plain lines in a pipe, a page in a browser.
//!
//! [`Snapshot`] is plain data; [`table`], [`line()`] and [`page::page`] turn it into what is shown (pure); only [`Display`]
//! writes.

mod display;
pub mod history;
pub mod page;
mod text;

pub use display::{Display, Lines};
pub use text::{line, table};

use scadles_api::{Progress, report::AttemptReport, worker::Completion};

/// One look at a running job.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Job name.
    pub job: String,
    /// Name of the supervision's phase.
    pub phase: &'static str,
    /// What the supervisor is about, in its words.
    pub activity: String,
    /// Current attempt; 0 before the first.
    pub attempt: u32,
    /// Seconds since the command began.
    pub seconds: f64,
    /// When the job is done.
    pub completion: Completion,
    /// Samples of all devices that make an epoch.
    pub epoch_samples: u64,
    /// Latest progress of rank 0, of whichever attempt.
    pub progress: Option<Progress>,
    /// Attempts that have ended.
    pub attempts: Vec<AttemptReport>,
    /// Device names in the order of ranks.
    pub devices: Vec<String>,
    /// Samples that each worker's arena has room for, likewise.
    pub places: Vec<u64>,
    /// Simulated streams, one per device; empty without a producer, or before it sends.
    pub streams: Vec<StreamView>,
}

/// One simulated stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamView {
    /// Rate asked for, samples per second.
    pub asked: f64,
    /// Why and for how many seconds it has been waiting, if it is.
    pub waiting: Option<(String, f64)>,
}

impl Snapshot {
    /// Share of the job that is done, in [0, 1]; `None` where the completion rule has no measure.
    pub fn share_done(&self) -> Option<f64> {
        let progress = self.progress.as_ref()?;
        let (done, goal) = self.done_and_goal(progress)?;
        (goal > 0.0).then(|| (done / goal).min(1.0))
    }

    /// Seconds until the completion rule is met at the present speed.
    pub fn seconds_left(&self) -> Option<f64> {
        let progress = self.progress.as_ref()?;
        let (done, goal) = self.done_and_goal(progress)?;
        let speed = match self.completion {
            Completion::MaxSteps(_) => 1.0 / progress.step_seconds,
            _ => progress.samples_per_second,
        };
        let left = (goal - done).max(0.0) / speed;
        left.is_finite().then_some(left)
    }

    /// Samples or steps so far, and at the end.
    fn done_and_goal(&self, progress: &Progress) -> Option<(f64, f64)> {
        match self.completion {
            Completion::MaxEpochs(epochs) => {
                Some((progress.samples as f64, epochs * self.epoch_samples as f64))
            }
            Completion::MaxSteps(steps) => Some((progress.step as f64, steps as f64)),
            Completion::MaxSamples(samples) => Some((progress.samples as f64, samples as f64)),
            Completion::TargetAccuracy(_) | Completion::StreamEnd => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
