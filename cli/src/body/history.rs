//! The history of a run's supervision, written where it is asked for: JSON lines that can be decided again. Shell.

use std::{
    env,
    fs::File,
    io::{self, Write},
};

use scadles_api::worker::JobConfig;
use scadles_control::decide::{
    Decision, Observation, Supervision,
    history::{Look, Origin},
};
use serde::Serialize;

/// Names the file.
const VARIABLE: &str = "SCADLES_HISTORY";

/// The file and the last look in it; nothing unless the variable names one.
pub(super) struct HistoryFile(Option<(File, Option<Look>)>);

impl HistoryFile {
    /// Begins the file. One that cannot be written is told, and left.
    pub(super) fn begin(job: &JobConfig, supervision: &Supervision) -> Self {
        let Some(path) = env::var_os(VARIABLE) else { return Self(None) };
        let origin = Origin { job: job.clone(), supervision: supervision.clone() };
        let begun = File::create(&path).and_then(|mut file| write_line(&mut file, &origin).map(|()| file));
        match begun {
            Ok(file) => Self(Some((file, None))),
            Err(error) => {
                tracing::warn!(%error, "{VARIABLE} cannot be written");
                Self(None)
            }
        }
    }

    /// A look and its decision, if that tells more than the one before.
    pub(super) fn note(&mut self, now: f64, seen: &Observation, decision: &Decision) {
        let Some((file, last)) = &mut self.0 else { return };
        let look = Look::new(now, seen.clone(), decision);
        if !look.is_news_after(last.as_ref()) {
            return;
        }
        if let Err(error) = write_line(file, &look) {
            tracing::warn!(%error, "{VARIABLE} cannot be written");
            self.0 = None;
            return;
        }
        *last = Some(look);
    }
}

fn write_line(file: &mut File, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}
