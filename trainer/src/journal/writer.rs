//! Writes the journal's segments. Shell.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use scadles_api::names;
use scadles_api::worker::JobConfig;
use serde::Serialize;

use super::JournalError;
use super::reader::EXTENSION;
use super::record::{SegmentHeader, StepRecord};

/// The open segment of rank 0.
///
/// Guarantees: a record handed over is with the operating system when `append` returns (it survives `kill -9`), and on
/// the disk when `checkpoint` returns. A segment is never overwritten.
pub struct JournalWriter {
    dir: PathBuf,
    header: SegmentHeader,
    place: String,
    file: File,
    line: Vec<u8>,
}

impl JournalWriter {
    /// Opens the first segment of an attempt in `<run_dir>/journal`. `header.checkpoint` names the checkpoint that the
    /// attempt loaded, or checkpoint 0.
    pub fn open(run_dir: &Path, header: SegmentHeader) -> Result<Self, JournalError> {
        let dir = journal_dir(run_dir);
        std::fs::create_dir_all(&dir).map_err(|error| write_error(&dir, &error))?;
        let (place, file) = create_segment(&dir, &header)?;
        Ok(Self { dir, header, place, file, line: Vec::new() })
    }

    /// Name of the open segment.
    pub fn segment(&self) -> String {
        names::checkpoint(self.header.attempt, self.header.from_step)
    }

    /// Writes one committed step.
    pub fn append(&mut self, record: &StepRecord) -> Result<(), JournalError> {
        write_line(&mut self.file, &self.place, &mut self.line, record)
    }

    /// Syncs the open segment and begins the next one, which continues the checkpoint taken after `step`. Call it before
    /// the checkpoint's manifest is written, so that a complete checkpoint always has its history.
    pub fn checkpoint(&mut self, step: u64) -> Result<(), JournalError> {
        self.sync()?;
        if step == self.header.from_step {
            return Ok(());
        }
        self.header.from_step = step;
        self.header.checkpoint = names::checkpoint(self.header.attempt, step);
        (self.place, self.file) = create_segment(&self.dir, &self.header)?;
        Ok(())
    }

    /// Brings the open segment onto the disk.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file
            .sync_all()
            .map_err(|error| JournalError::Write { place: self.place.clone(), reason: error.to_string() })
    }
}

/// The journal's folder within a run folder.
pub fn journal_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("journal")
}

/// Hash of the settings that a step's bits follow from and that its record does not hold, hexadecimal: FNV-1a of their
/// JSON. Whatever else may change (rates, batches, deadlines, places, compression, injection), a replay follows from the
/// records.
/// No protection against intent.
pub fn config_hash(job: &JobConfig) -> String {
    let training = &job.training;
    let producer = job.producer.as_ref().map(|it| (it.dataset.name, &it.partition, it.seed));
    let devices: Vec<_> = job.devices.iter().map(|device| (&device.name, device.partitions)).collect();
    // With a producer a record's content follows from its place among the partitions.
    let places = producer.as_ref().map(|_| devices);
    let optimizer = (training.momentum, training.weight_decay, training.seed);
    // The file of a network may lie elsewhere by now; that it is the same is checked where tensors are read.
    let settings = (job.model.without_file(), &job.stream.transform, optimizer, producer, places);
    // Plain data serialises; a failure would only make the hash that of nothing.
    let text = serde_json::to_vec(&settings).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Model name of this machine's CPU, or its architecture.
pub fn cpu_kind() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
        .unwrap_or(std::env::consts::ARCH)
        .to_owned()
}

fn create_segment(dir: &Path, header: &SegmentHeader) -> Result<(String, File), JournalError> {
    let name = names::checkpoint(header.attempt, header.from_step);
    let path = dir.join(format!("{name}.{EXTENSION}"));
    let place = path.display().to_string();
    let mut file = File::create_new(&path).map_err(|error| write_error(&path, &error))?;
    write_line(&mut file, &place, &mut Vec::new(), header)?;
    // Syncing a file does not sync its name: a checkpoint must find its history after a crash of the machine too.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| write_error(dir, &error))?;
    Ok((place, file))
}

/// One `write` per line: a line is torn only if the disk is full or the machine fails.
fn write_line(
    file: &mut File,
    place: &str,
    line: &mut Vec<u8>,
    value: &impl Serialize,
) -> Result<(), JournalError> {
    let failed = |reason: String| JournalError::Write { place: place.to_owned(), reason };
    line.clear();
    serde_json::to_writer(&mut *line, value).map_err(|error| failed(error.to_string()))?;
    line.push(b'\n');
    file.write_all(line).map_err(|error| failed(error.to_string()))
}

fn write_error(path: &Path, error: &std::io::Error) -> JournalError {
    JournalError::Write { place: path.display().to_string(), reason: error.to_string() }
}
