//! `supervision.json`: what a runner knows and its successor must know. Plain data and its file.

use std::{fs, path::Path};

use scadles_api::{Progress, Tuned, progress::Evaluation};
use scadles_control::decide::Supervision;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Result},
    run_folder::RunFolder,
};

/// Name of the file in the run folder.
pub const FILE: &str = "supervision.json";

/// Format of the file; grows when a field changes its meaning.
const VERSION: u32 = 1;

/// What a runner knows of its run, saved at every change before it acts upon it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Format of the file.
    pub version: u32,
    /// Unique id of the run, part of its checkpoints' path.
    pub job_uid: String,
    /// Broker: `embedded` or the bootstrap servers.
    pub broker: String,
    /// State of the job brain.
    pub supervision: Supervision,
    /// Seconds from the command's start to the first step, once there was one.
    pub start_seconds: Option<f64>,
    /// Seconds of training since the run began, along the surviving history.
    pub train_seconds: f64,
    /// Evaluations along the surviving history.
    pub accuracy: Vec<Evaluation>,
    /// Settings along the surviving history, as rank 0 lists them.
    #[serde(default)]
    pub tunings: Vec<Tuned>,
}

/// What a progress told that was not known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The first step of the run.
    pub first_step: bool,
    /// Its evaluation.
    pub evaluation: bool,
    /// Its settings.
    pub tunings: bool,
}

impl Memory {
    /// A run that begins.
    pub fn new(job_uid: String, broker: String, supervision: Supervision) -> Self {
        Self {
            version: VERSION,
            job_uid,
            broker,
            supervision,
            start_seconds: None,
            train_seconds: 0.0,
            accuracy: Vec::new(),
            tunings: Vec::new(),
        }
    }

    /// Takes note of rank 0's progress; `seconds` have passed since the command began.
    pub fn note(&mut self, progress: &Progress, seconds: f64) -> News {
        // A worker that has yet to load its checkpoint does not know of the attempts before.
        if progress.train_seconds > 0.0 {
            self.train_seconds = progress.train_seconds;
        }
        let mut news = News::default();
        if self.start_seconds.is_none() && progress.step > 0 {
            // Seen a little late: the step itself took its time, and so did the look.
            self.start_seconds = Some((seconds - progress.train_seconds).max(0.0));
            news.first_step = true;
        }
        // A worker that has yet to form its group lists none.
        if !progress.tunings.is_empty() && self.tunings != progress.tunings {
            self.tunings.clone_from(&progress.tunings);
            news.tunings = true;
        }
        if let Some(evaluation) = &progress.evaluation
            && self.accuracy.last() != Some(evaluation)
        {
            // A restart rolls back evaluations after its checkpoint.
            self.accuracy.retain(|earlier| {
                earlier.step < evaluation.step
                    || (earlier.step == evaluation.step && earlier.pictures != evaluation.pictures)
            });
            self.accuracy.push(evaluation.clone());
            news.evaluation = true;
        }
        news
    }

    /// Saves the file.
    pub fn save(&self, folder: &RunFolder) -> Result<()> {
        folder.write_json(FILE, self)
    }

    /// Reads the file of an earlier runner.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let broken = |problem: String| {
            Failure::configuration(
                format!("{}: {problem}", path.display()),
                "name the folder of a run that scadles made, or start without --resume",
            )
        };
        let text = fs::read_to_string(&path).map_err(|error| broken(error.to_string()))?;
        let memory: Self = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if memory.version != VERSION {
            return Err(broken(format!("written by another version of scadles (format {})", memory.version)));
        }
        Ok(memory)
    }
}

#[cfg(test)]
mod tests {
    use scadles_api::{Phase, Tuning};

    use super::*;

    fn progress(attempt: u32, step: u64, train_seconds: f64) -> Progress {
        Progress {
            protocol: scadles_api::PROTOCOL_VERSION,
            device: "device-0".to_owned(),
            attempt,
            rank: 0,
            phase: Phase::Training,
            step,
            samples: step * 100,
            epoch: 0.0,
            loss: None,
            learning_rate: 0.1,
            window_seconds: 0.25,
            step_seconds: 0.25,
            samples_per_second: 400.0,
            train_seconds,
            compression: None,
            injection: None,
            evaluation: None,
            checkpoint: None,
            tunings: vec![],
            durable_positions: vec![],
            devices: vec![],
            last_words: None,
        }
    }

    fn evaluated(attempt: u32, step: u64) -> Progress {
        let evaluation = Evaluation {
            step,
            samples_trained: step * 100,
            seconds: step as f64,
            pictures: 2000,
            loss: 1.0,
            top_k: vec![],
            per_class: vec![],
        };
        Progress { evaluation: Some(evaluation), ..progress(attempt, step, 1.0) }
    }

    fn memory() -> Memory {
        Memory::new("uid".to_owned(), "embedded".to_owned(), Supervision::new(0.0, None))
    }

    #[test]
    fn training_time_is_that_of_the_surviving_history_and_counted_once() {
        let mut memory = memory();
        memory.note(&progress(1, 10, 4.0), 6.0);
        memory.note(&progress(1, 20, 8.0), 10.0);
        memory.note(&progress(2, 0, 0.0), 12.0);
        assert_eq!(memory.train_seconds.to_bits(), 8.0f64.to_bits(), "it has not loaded its checkpoint yet");
        // From the checkpoint after step 10 on.
        memory.note(&progress(2, 15, 5.5), 14.0);
        assert_eq!(memory.train_seconds.to_bits(), 5.5f64.to_bits());
        assert_eq!(memory.start_seconds, Some(2.0), "the first step is counted once");
    }

    #[test]
    fn settings_are_those_of_the_surviving_history() {
        let tuned = |step, generation| Tuned { step, tuning: Tuning { generation, ..Tuning::default() } };
        let listing = |tunings: &[Tuned]| Progress { tunings: tunings.to_vec(), ..progress(1, 1, 1.0) };
        let mut memory = memory();
        assert!(memory.note(&listing(&[tuned(1, 1)]), 1.0).tunings);
        assert!(memory.note(&listing(&[tuned(1, 1), tuned(41, 2)]), 1.0).tunings);
        assert!(!memory.note(&listing(&[]), 1.0).tunings, "nobody has formed a group yet");
        // The step was rolled back, and another one agreed on.
        assert!(memory.note(&listing(&[tuned(1, 1), tuned(31, 2)]), 1.0).tunings);
        assert_eq!(memory.tunings, [tuned(1, 1), tuned(31, 2)]);
    }

    #[test]
    fn evaluations_that_a_restart_rolled_back_are_dropped() {
        let mut memory = memory();
        for progress in [evaluated(1, 40), evaluated(1, 80), evaluated(1, 120), evaluated(2, 80)] {
            assert!(memory.note(&progress, 1.0).evaluation);
            assert!(!memory.note(&progress, 1.0).evaluation, "the same evaluation is noted once");
        }
        let steps: Vec<u64> = memory.accuracy.iter().map(|evaluation| evaluation.step).collect();
        assert_eq!(steps, [40, 80]);
    }
}
