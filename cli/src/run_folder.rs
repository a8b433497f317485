//! The folder of one run: where everything lies, and who may use it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Folder of run folders, below the current one.
pub const RUNS: &str = "runs";

/// A run folder that this process holds: no other runner can use it meanwhile.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held for as long as the runner lives; the system lets go of it however the runner ends.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run: `out`, or `runs/<job>-<UTC time>`.
    pub fn create(job: &str, out: Option<&Path>, now: SystemTime) -> Result<Self> {
        let path = match out {
            Some(out) => out.to_owned(),
            None => Path::new(RUNS).join(format!("{job}-{}", time_stamp(now))),
        };
        if holds_a_run(&path) {
            let resumable = format!(", or go on with that run: scadles run JOB --resume {}", path.display());
            let resumable = if is_resumable(&path) { resumable.as_str() } else { "" };
            return Err(Failure::configuration(
                format!("--out {}: the folder already holds a run", path.display()),
                format!("choose another folder{resumable}"),
            ));
        }
        Self::open(&path)
    }

    /// The same with the folders that a group of workers writes to.
    pub fn with_workers(self) -> Result<Self> {
        for sub in ["logs", "workers", "checkpoints", "journal"] {
            let path = self.path.join(sub);
            fs::create_dir_all(&path).map_err(|error| Failure::write(&path, &error))?;
        }
        Ok(self)
    }

    /// Opens the folder of an earlier run to go on with it.
    pub fn resume(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Failure::configuration(
                format!("--resume {}: there is no such run folder", path.display()),
                "name the folder of a run, such as runs/<job>-<time>",
            ));
        }
        if !is_resumable(path) {
            return Err(Failure::configuration(
                format!("--resume {}: the folder holds no run (no supervision.json)", path.display()),
                "name the folder of a run, such as runs/<job>-<time>, or start without --resume",
            ));
        }
        Self::open(path)
    }

    /// The latest run of `job` below `runs/`, by name: names end in the time of their start.
    pub fn latest(job: &str) -> Result<PathBuf> {
        let prefix = format!("{job}-");
        let of_this_job = |name: &str| name.strip_prefix(&prefix).is_some_and(is_time_stamp);
        let mut names: Vec<String> = fs::read_dir(RUNS)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| of_this_job(name) && is_resumable(&Path::new(RUNS).join(name)))
            .collect();
        names.sort();
        names.pop().map(|name| Path::new(RUNS).join(name)).ok_or_else(|| {
            Failure::configuration(
                format!("--resume: no run of job `{job}` is found in {RUNS}/"),
                "name its folder: --resume RUN_DIR, or start without --resume",
            )
        })
    }

    fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::write(path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock_path = path.join("runner.lock");
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock_path)
            .map_err(|error| Failure::write(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::configuration(
                format!("another `scadles run` is using the run folder {}", path.display()),
                "wait for its end, stop it, or choose another folder with --out DIR",
            )),
            Err(TryLockError::Error(error)) => Err(Failure::write(&lock_path, &error)),
        }
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log of one worker's life.
    pub fn log(&self, device: &str, attempt: u32) -> PathBuf {
        self.path.join("logs").join(format!("{device}-{attempt}.log"))
    }

    /// Folder of the workers' traces.
    pub fn traces(&self) -> PathBuf {
        self.path.join("traces")
    }

    /// Configuration file of one worker.
    pub fn worker_config(&self, device: &str) -> PathBuf {
        self.path.join("workers").join(format!("{device}.json"))
    }

    /// Writes `value` as JSON to the file `name`, readable by everyone.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(&self.path.join(name), value, 0o644)
    }

    /// Writes text to the file `name`.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        write_whole(&self.path.join(name), text.as_bytes(), 0o644)
    }
}

/// Whether a runner holds the folder now.
pub fn is_in_use(path: &Path) -> bool {
    // Shared, so that two who look do not see each other; let go of at once.
    let lock = File::open(path.join("runner.lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether a runner has left in the folder what its successor must know.
fn is_resumable(path: &Path) -> bool {
    path.join("supervision.json").exists()
}

/// Whether a run has begun in the folder.
fn holds_a_run(path: &Path) -> bool {
    ["supervision.json", "report.json", "job.json"].iter().any(|name| path.join(name).exists())
}

/// Writes `value` as indented JSON, whole or not at all.
pub fn write_json(path: &Path, value: &impl Serialize, mode: u32) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        Failure::internal(format!("{} cannot be written as JSON: {error}", path.display()))
    })?;
    bytes.push(b'\n');
    write_whole(path, &bytes, mode)
}

/// Writes a file beside its place and moves it there, so that no reader, and no next runner, ever sees half of it.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = |error: std::io::Error| Failure::write(path, &error);
    let beside = path.with_added_extension("partial");
    // A leftover of a killed runner may have other permissions.
    let _ = fs::remove_file(&beside);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // What is half written only takes room from what could still be saved.
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}

/// `20260131T175900Z`: sorts by time and is a good file name everywhere.
fn time_stamp(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "")
}

fn is_time_stamp(text: &str) -> bool {
    let digits = |part: &str| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
        .is_some_and(|(day, time)| digits(day) && digits(time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_is_in_use_while_its_runner_lives() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        assert!(!is_in_use(&path));
        let folder = RunFolder::create("job", Some(&path), SystemTime::UNIX_EPOCH).unwrap();
        assert!(is_in_use(&path) && is_in_use(&path));
        drop(folder);
        assert!(!is_in_use(&path));
    }

    #[test]
    fn run_folders_are_named_by_the_second_of_their_start_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_hours(490_896);
        assert_eq!(time_stamp(time), "20260101T000000Z");
        assert!(is_time_stamp("20260101T000000Z"));
        assert!(!is_time_stamp("two-20260101T000000Z"));
    }
}
