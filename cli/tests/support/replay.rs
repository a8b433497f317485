//! A run that has ended, shown again as if it lived: step by step.

use std::{collections::VecDeque, io::Write, path::Path};

use scadles::{
    report::follow::Follower,
    view::{
        Snapshot, StreamView,
        history::History,
        page::{About, Chronicle, End, EventKind, Sight, page},
    },
};
use scadles_api::{
    BufferState, CheckpointRef, DeviceProgress, Ledger, PROTOCOL_VERSION, Phase, Progress, worker::Completion,
};

use super::finished::Finished;

/// Seconds of a step.
const STEP: f64 = 0.25;

/// The run, and how far it has come.
pub struct Replay {
    run: Finished,
    table: std::fs::File,
    lines: VecDeque<String>,
    follower: Follower,
    history: History,
    chronicle: Chronicle,
    step: u64,
    attempt: u32,
}

impl Replay {
    /// Before the first step. `folder` is for the table of steps.
    pub fn new(run: Finished, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join("steps.csv");
        let mut lines: VecDeque<String> = run.table().split_inclusive('\n').map(str::to_owned).collect();
        let mut table = std::fs::File::create(&path).unwrap();
        table.write_all(lines.pop_front().unwrap().as_bytes()).unwrap();
        let devices: Vec<String> = (0..run.devices).map(|device| run.name(device)).collect();
        let mut chronicle = Chronicle::default();
        chronicle.note(0.1, EventKind::Note, "run folder /home/someone/runs/replayed-20260101T120000Z");
        Self {
            follower: Follower::new(&path, &devices),
            run,
            table,
            lines,
            history: History::default(),
            chronicle,
            step: 0,
            attempt: 1,
        }
    }

    /// Takes some more steps, up to the last.
    pub fn go_on(&mut self, steps: usize) {
        for line in self.lines.drain(..steps.min(self.lines.len())) {
            self.table.write_all(line.as_bytes()).unwrap();
            let mut cells = line.split(',').map(str::to_owned);
            let attempt = cells.next().unwrap().parse().unwrap();
            self.step = cells.next().unwrap().parse().unwrap();
            if attempt != self.attempt {
                self.attempt = attempt;
                let ended =
                    format!("the worker of {} was ended by signal 9; {}", self.run.name(0), self.run.message);
                self.chronicle.note(self.step as f64 * STEP + 4.0, EventKind::Failure, &ended);
            }
        }
        let history = &mut self.history;
        self.follower.read(|step| history.add(step)).unwrap();
        let snapshot = self.snapshot();
        self.chronicle.look(&snapshot);
    }

    /// The document of the moment.
    pub fn document(&self) -> String {
        let about = About {
            program: "scadles 0.1.0".to_owned(),
            folder: "/home/someone/runs/replayed-20260101T120000Z".to_owned(),
            model: "Cnn".to_owned(),
            broker: "the embedded broker".to_owned(),
        };
        let report = self.run.report();
        let end = End {
            outcome: "Completed".to_owned(),
            well: true,
            message: self.run.message.clone(),
            remedy: String::new(),
            report: Some(format!("{}/report.html", about.folder)),
        };
        let evaluations: Vec<_> =
            report.accuracy.into_iter().take_while(|evaluation| evaluation.step <= self.step).collect();
        let sight = Sight {
            about: &about,
            snapshot: Some(&self.snapshot()),
            history: &self.history,
            evaluations: &evaluations,
            chronicle: &self.chronicle,
            end: self.lines.is_empty().then_some(&end),
        };
        serde_json::to_string(&page(&sight)).unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        let report = self.run.report();
        let progress = Progress {
            protocol: PROTOCOL_VERSION,
            device: self.run.name(0),
            attempt: self.attempt,
            rank: 0,
            phase: Phase::Training,
            step: self.step,
            samples: self.run.samples(self.step),
            epoch: 0.1,
            loss: Some(2.3 - 0.8 * self.step as f64 / self.run.steps as f64),
            learning_rate: 0.03,
            window_seconds: STEP,
            step_seconds: STEP,
            samples_per_second: self.run.samples(self.step) as f64 / (self.step as f64 * STEP).max(STEP),
            train_seconds: self.step as f64 * STEP,
            compression: None,
            injection: None,
            evaluation: None,
            checkpoint: (self.step >= 10).then(|| CheckpointRef {
                job_uid: "replayed-1".to_owned(),
                name: format!("{}-{}", self.attempt, self.step / 10 * 10),
                step: self.step / 10 * 10,
                restart_streams: false,
            }),
            tunings: vec![],
            durable_positions: vec![],
            devices: (0..self.run.devices).map(|device| self.device(device)).collect(),
            last_words: None,
        };
        let attempts = usize::from(self.attempt > 1);
        Snapshot {
            job: report.job.metadata.name.clone(),
            phase: "Running",
            activity: "training".to_owned(),
            attempt: self.attempt,
            seconds: self.step as f64 * STEP + 3.0,
            completion: Completion::MaxSteps(self.run.steps),
            epoch_samples: 50_000,
            progress: (self.step > 0).then_some(progress),
            attempts: report.attempts[..attempts].to_vec(),
            devices: (0..self.run.devices).map(|device| self.run.name(device)).collect(),
            places: vec![2_000; self.run.devices],
            streams: (0..self.run.devices)
                .map(|device| StreamView { asked: Finished::rate(device), waiting: None })
                .collect(),
        }
    }

    fn device(&self, device: usize) -> DeviceProgress {
        let trained = (1..=self.step).map(|step| Finished::batch(device, step)).sum();
        let (buffered, dropped) = (12 + device as u64 * 90 % 2_000, self.step * (device as u64 % 3));
        let batch = Finished::batch(device, self.step.max(1));
        DeviceProgress {
            name: self.run.name(device),
            ledger: Ledger {
                arrived: trained + buffered + dropped,
                trained,
                buffered,
                dropped,
                ..Ledger::default()
            },
            stream_rate: Finished::rate(device) - 0.25,
            local_batch: batch as u32,
            aggregation_weight: batch as f64 / self.run.global_batch(self.step.max(1)) as f64,
            buffered_local: buffered,
            oldest_seconds: 0.4 + device as f64 / 10.0,
            state: [
                BufferState::Healthy,
                BufferState::Healthy,
                BufferState::Backlogged,
                BufferState::Starved,
            ][device % 4],
            bytes_sent: self.step * 1_000_000,
            ..DeviceProgress::default()
        }
    }
}
