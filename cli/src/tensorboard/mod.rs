//! TensorBoard's event files: the steps and evaluations of a run as scalars.
//!
//! `record` frames, `event` has the messages, `scalars` says which values a step has (all pure); [`EventFile`] writes. A
//! finished run and one that lives take the same way: a follower of `steps.csv` hands on each step once.

mod event;
mod record;
mod scalars;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use scadles_api::{progress::Evaluation, report::RunReport};

use self::event::{Event, What};
use crate::{
    failure::{Failure, Result},
    report::{
        follow::Follower,
        run::{STEPS, name},
        steps::{self, Lives, Step},
    },
};

/// TensorBoard takes a file for one of its own by `tfevents` in the name. The name is always the same: a run that is written
/// again replaces what was written of it.
const FILE: &str = "events.out.tfevents.scadles";

/// The file of one run.
pub struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
    devices: Vec<String>,
    lives: Lives,
    clock: WallClock,
    /// Evaluations that are written.
    evaluated: usize,
    last_step: u64,
}

impl EventFile {
    /// Begins `<folder>/<run>/events…` for a run whose table of steps is, or will be, in `steps`.
    pub fn begin(folder: &Path, run: &str, steps: &Path, devices: &[String]) -> Result<Self> {
        let path = folder.join(run).join(FILE);
        let failed = |error: std::io::Error| unwritable(&path, &error);
        // First, so that a table that cannot be read costs no file of before.
        let clock = WallClock::of_table(steps, devices).map_err(|error| unreadable(steps, &error))?;
        fs::create_dir_all(folder.join(run)).map_err(failed)?;
        let out = BufWriter::new(File::create(&path).map_err(failed)?);
        let mut file = Self {
            path: path.clone(),
            out,
            devices: devices.to_vec(),
            lives: Lives::default(),
            clock,
            evaluated: 0,
            last_step: 0,
        };
        file.write(0, What::FileVersion("brain.Event:2".to_owned()))?;
        file.out.flush().map_err(failed)?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next step of the table, and the evaluations up to it.
    pub fn add(&mut self, step: &Step<'_>, evaluations: &[Evaluation]) -> Result<()> {
        let number = step.number();
        if self.lives.begins_anew(step.attempt(), number) {
            // What follows replaces what was written from this step on.
            self.evaluated = evaluations.partition_point(|evaluation| evaluation.step < number);
            self.write(number, What::restart())?;
        } else {
            self.evaluate(number.saturating_sub(1), evaluations)?;
        }
        self.clock.elapsed_seconds += step.step_seconds().max(0.0);
        self.last_step = number;
        self.write(number, What::scalars(scalars::of_step(step, &self.devices)))
    }

    /// Brings to the file what has been added. `written_at`: when the last of these steps came to the table, in seconds
    /// since 1970.
    pub fn flush(&mut self, written_at: Option<f64>, evaluations: &[Evaluation]) -> Result<()> {
        self.evaluate(self.last_step, evaluations)?;
        if let Some(written_at) = written_at {
            self.clock.catch_up(written_at);
        }
        self.out.flush().map_err(|error| unwritable(&self.path, &error))
    }

    /// Writes evaluations up to a step that are not written yet.
    fn evaluate(&mut self, step: u64, evaluations: &[Evaluation]) -> Result<()> {
        while let Some(evaluation) = evaluations.get(self.evaluated).filter(|next| next.step <= step) {
            self.evaluated += 1;
            self.write(evaluation.step, What::scalars(scalars::of_evaluation(evaluation)))?;
        }
        Ok(())
    }

    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time: self.clock.now(), step: step.cast_signed(), what: Some(what) };
        let framed = record::framed(&prost::Message::encode_to_vec(&event));
        self.out.write_all(&framed).map_err(|error| unwritable(&self.path, &error))
    }
}

/// Writes the finished run in a folder below `into`; tells the file.
pub fn export(run: &Path, report: &RunReport, into: &Path) -> Result<PathBuf> {
    let steps = run.join(STEPS);
    if !steps.is_file() {
        return Err(Failure::configuration(
            format!("{}: there is no such file", steps.display()),
            "name the folder of a run that has taken a step",
        ));
    }
    let devices: Vec<String> = report.devices.iter().map(|device| device.name.clone()).collect();
    let mut file = EventFile::begin(into, &name(run), &steps, &devices)?;
    let mut follower = Follower::new(&steps, &devices);
    loop {
        let mut written = Ok(());
        let read = follower.read(|step| {
            if written.is_ok() {
                written = file.add(step, &report.accuracy);
            }
        });
        written?;
        let more = read.map_err(|error| unreadable(&steps, &error))?;
        file.flush(follower.written_at().filter(|_| !more), &report.accuracy)?;
        if !more {
            return Ok(file.path);
        }
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::storage(
        format!("--tensorboard: {} cannot be written: {error}", path.display()),
        "choose another folder, or free some space",
    )
}

fn unreadable(table: &Path, error: &steps::Error) -> Failure {
    Failure::configuration(
        format!("--tensorboard: {}: {error}", table.display()),
        "put back the table that the run has written, or leave --tensorboard out",
    )
}

/// Wall time of steps of which only the durations are known: they end where the table was last written to, and pauses
/// between them (evaluations, restarts) come to light when the next ones are written.
#[derive(Clone, Copy, Debug)]
struct WallClock {
    began: f64,
    elapsed_seconds: f64,
}

impl WallClock {
    /// For a table that is there, or begins now.
    fn of_table(table: &Path, devices: &[String]) -> std::result::Result<Self, steps::Error> {
        let mut follower = Follower::new(table, devices);
        let mut seconds = 0.0;
        while follower.read(|step| seconds += step.step_seconds().max(0.0))? {}
        let now = || {
            let since_1970 = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
            since_1970.unwrap_or_default().as_secs_f64()
        };
        Ok(Self { began: follower.written_at().unwrap_or_else(now) - seconds, elapsed_seconds: 0.0 })
    }

    fn now(&self) -> f64 {
        self.began + self.elapsed_seconds
    }

    /// Never back: times of events that are written do not change any more.
    fn catch_up(&mut self, now: f64) {
        self.began = self.began.max(now - self.elapsed_seconds);
    }
}

#[cfg(test)]
mod tests;
