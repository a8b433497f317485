//! `steps.csv`: one line per step, for plots. Shell.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::JournalError;

/// Columns that every device has. New ones go to the end: a file of an earlier version keeps its head when it is resumed.
const COLUMNS: [&str; 9] = [
    "local_batch",
    "stream_rate",
    "buffered",
    "wait_seconds",
    "compute_seconds",
    "exchange_seconds",
    "shared_out",
    "received",
    "share_seconds",
];

/// One step. Rolled-back steps stay in the file; the column `attempt` tells them apart.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvRow {
    /// Attempt that took it.
    pub attempt: u32,
    /// The step's number.
    pub step: u64,
    /// Seconds of training since the job began.
    pub seconds: f64,
    /// Samples trained by all devices since the job began.
    pub samples: u64,
    /// Weighted mean loss.
    pub loss: f64,
    /// η_t.
    pub learning_rate: f64,
    /// Agreed window T in seconds.
    pub window_seconds: f64,
    /// Duration of the step, commit to commit, in seconds.
    pub step_seconds: f64,
    /// Whether only the largest elements of the gradient were sent.
    pub sparse: bool,
    /// Bytes that all devices handed to the collectives.
    pub bytes_sent: u64,
    /// Bytes that a dense step would have handed over; 0 in jobs without compression.
    pub dense_bytes: u64,
    /// Per device in the order of ranks.
    pub devices: Vec<CsvDevice>,
}

/// One device's columns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CsvDevice {
    /// b_i, from its own stream.
    pub local_batch: u32,
    /// S_i, samples per second.
    pub stream_rate: f64,
    /// Q_i, samples that wait in the worker and at the broker.
    pub buffered: u64,
    /// Seconds of waiting within the step.
    pub wait_seconds: f64,
    /// Seconds of forward and backward within the step.
    pub compute_seconds: f64,
    /// Seconds of waiting for the exchange of gradients after compute.
    pub exchange_seconds: f64,
    /// Samples of its own stream that it shared, each counted once.
    pub shared_out: u64,
    /// Samples of other streams that it trained.
    pub received: u64,
    /// Seconds of waiting for shared samples within the step.
    pub share_seconds: f64,
}

/// The open file.
pub struct StepsCsv {
    file: std::fs::File,
    place: String,
    line: String,
}

impl StepsCsv {
    /// Opens `<run_dir>/steps.csv` to append; writes the head if the file is new. `devices` in the order of ranks. A line that
    /// a full disk has torn stays one of its own: the next one is whole.
    pub fn open(run_dir: &Path, devices: &[String]) -> Result<Self, JournalError> {
        let path = run_dir.join("steps.csv");
        let place = path.display().to_string();
        let failed =
            |error: std::io::Error| JournalError::Write { place: place.clone(), reason: error.to_string() };
        std::fs::create_dir_all(run_dir).map_err(failed)?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed)?;
        let mut last = [b'\n'];
        match file.metadata().map_err(failed)?.len() {
            0 => file.write_all(head(devices).as_bytes()).map_err(failed)?,
            bytes => file.read_exact_at(&mut last, bytes - 1).map_err(failed)?,
        }
        if last != [b'\n'] {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Self { file, place, line: String::new() })
    }

    /// Writes one step.
    pub fn append(&mut self, row: &CsvRow) -> Result<(), JournalError> {
        self.line.clear();
        push_row(&mut self.line, row);
        self.file
            .write_all(self.line.as_bytes())
            .map_err(|error| JournalError::Write { place: self.place.clone(), reason: error.to_string() })
    }
}

/// Pure: the first line.
fn head(devices: &[String]) -> String {
    let mut head = "attempt,step,seconds,samples,loss,learning_rate,window_seconds,step_seconds,sparse,\
                    bytes_sent,dense_bytes"
        .to_owned();
    for column in COLUMNS {
        for device in devices {
            // Writing into a String cannot fail.
            let _ = write!(head, ",{column}.{device}");
        }
    }
    head.push('\n');
    head
}

/// Pure: one line.
fn push_row(line: &mut String, row: &CsvRow) {
    // Writing into a String cannot fail.
    let _ = write!(
        line,
        "{},{},{:.3},{},{:.6},{},{:.4},{:.4},{},{},{}",
        row.attempt,
        row.step,
        row.seconds,
        row.samples,
        row.loss,
        row.learning_rate,
        row.window_seconds,
        row.step_seconds,
        u8::from(row.sparse),
        row.bytes_sent,
        row.dense_bytes
    );
    for device in &row.devices {
        let _ = write!(line, ",{}", device.local_batch);
    }
    for device in &row.devices {
        let _ = write!(line, ",{:.2}", device.stream_rate);
    }
    for device in &row.devices {
        let _ = write!(line, ",{}", device.buffered);
    }
    for device in &row.devices {
        let _ = write!(line, ",{:.4}", device.wait_seconds);
    }
    for device in &row.devices {
        let _ = write!(line, ",{:.4}", device.compute_seconds);
    }
    for device in &row.devices {
        let _ = write!(line, ",{:.4}", device.exchange_seconds);
    }
    for device in &row.devices {
        let _ = write!(line, ",{}", device.shared_out);
    }
    for device in &row.devices {
        let _ = write!(line, ",{}", device.received);
    }
    for device in &row.devices {
        let _ = write!(line, ",{:.4}", device.share_seconds);
    }
    line.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of two devices.
    fn row() -> CsvRow {
        let device = CsvDevice {
            local_batch: 3,
            stream_rate: 12.5,
            buffered: 7,
            wait_seconds: 0.25,
            compute_seconds: 0.03,
            exchange_seconds: 0.02,
            shared_out: 1,
            received: 2,
            share_seconds: 0.01,
        };
        CsvRow {
            attempt: 1,
            step: 9,
            seconds: 1.5,
            samples: 40,
            loss: 2.25,
            learning_rate: 0.1,
            window_seconds: 0.25,
            step_seconds: 0.3,
            sparse: true,
            bytes_sent: 12,
            dense_bytes: 80,
            devices: vec![device, device],
        }
    }

    #[test]
    fn every_row_has_the_columns_of_the_head() {
        let devices = ["a".to_owned(), "b".to_owned()];
        let mut line = String::new();
        push_row(&mut line, &row());
        assert_eq!(
            line,
            "1,9,1.500,40,2.250000,0.1,0.2500,0.3000,1,12,80,3,3,12.50,12.50,7,7,0.2500,0.2500,0.0300,0.0300,0.0200,0.0200,1,1,2,2,0.0100,0.0100\n"
        );
        assert_eq!(line.split(',').count(), head(&devices).split(',').count());
    }

    #[test]
    fn behind_a_torn_line_the_next_one_is_whole() {
        let (run, devices) = (tempfile::tempdir().unwrap(), ["a".to_owned(), "b".to_owned()]);
        StepsCsv::open(run.path(), &devices).unwrap().append(&row()).unwrap();
        let path = run.path().join("steps.csv");
        let whole = std::fs::read_to_string(&path).unwrap();
        let torn = format!("{whole}1,10,1.8");
        std::fs::write(&path, &torn).unwrap();
        StepsCsv::open(run.path(), &devices).unwrap().append(&row()).unwrap();
        let line = whole.lines().last().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{torn}\n{line}\n"));
    }
}
