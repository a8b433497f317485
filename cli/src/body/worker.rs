//! One worker process: started, listened to, killed.
//!
//! Each worker leads a process group of its own, so that a Ctrl-C at the terminal reaches the runner alone and a kill
//! reaches whatever the worker started. It holds the read end of a pipe whose write end dies with the runner: however
//! the runner ends, the worker sees the end of its standard input and ends too. A worker that is a rank of MPI is held by a
//! keeper instead, in the same way (see `mpi.rs`).

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use scadles_api::{ExitCode, LastWords, attempt::Listening};
use scadles_control::decide::ProcessState;
use serde::{Deserialize, Serialize};

use super::mpi::Rank;

/// Longest line of a worker that is read; a longer one is none of ours.
const MAX_LINE_BYTES: usize = 1 << 20;

/// After a worker's end its last line may still be in the pipe; no longer than this is waited for it.
const LAST_LINE_PATIENCE: Duration = Duration::from_secs(1);

/// How to start the worker of one device.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// `scadles-trainer`.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// Folder for its trace, if one is wanted.
    pub traces: Option<PathBuf>,
}

impl WorkerCommand {
    /// The process to start, the leader of a group, with a standard input that ends when its parent does.
    pub(super) fn process(&self) -> Command {
        let mut process = Command::new(&self.program);
        process.arg("worker").arg("--config").arg(&self.config).stdin(Stdio::piped()).process_group(0);
        process.envs(self.traces.as_ref().map(|folder| ("SCADLES_TRACE", folder)));
        process
    }
}

/// A worker made for one attempt.
#[derive(Debug)]
pub struct Worker {
    /// Attempt it was made for.
    pub attempt: u32,
    /// Its log file.
    pub log: PathBuf,
    started_at: f64,
    life: Life,
}

#[derive(Debug)]
// One per device: a box for the rarer kind would cost more words than it saves bytes.
#[expect(clippy::large_enum_variant)]
enum Life {
    Running { process: Process, said: Arc<Mutex<Said>>, ended: Option<(Exit, Instant)> },
    Over { exit: Exit, last_words: Option<LastWords> },
}

#[derive(Debug)]
enum Process {
    /// A child of this process, and the thread that listens to it.
    Own { child: Child, reader: JoinHandle<()> },
    /// A child of a keeper that `mpiexec` has started.
    Rank(Rank),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

/// What a keeper says last of all, behind its worker's lines.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Obituary {
    pub(super) exit: Exit,
}

/// What a worker has said on its standard output.
#[derive(Debug, Default)]
pub(super) struct Said {
    listening: Option<Listening>,
    pub(super) last_words: Option<LastWords>,
    /// How it ended, if a keeper has told.
    pub(super) exit: Option<Exit>,
}

impl Worker {
    /// Starts the worker. A start that fails is a worker that ended at once, with the reason as its last words: what
    /// follows from it is decided in one place, as for any other end.
    pub fn start(command: &WorkerCommand, attempt: u32, now: f64) -> Self {
        let life = spawn(command).unwrap_or_else(|error| Life::Over {
            exit: Exit { code: None, signal: None },
            last_words: Some(cannot_start(command, &error)),
        });
        Self { attempt, log: command.log.clone(), started_at: now, life }
    }

    /// The worker that is a rank of MPI.
    pub(super) fn of_rank(rank: Rank, log: PathBuf, attempt: u32, now: f64) -> Self {
        let said = rank.said();
        let life = Life::Running { process: Process::Rank(rank), said, ended: None };
        Self { attempt, log, started_at: now, life }
    }

    /// Looks whether the process has ended, then tells where it stands.
    pub fn observe(&mut self) -> ProcessState {
        self.reap();
        match &self.life {
            Life::Running { said, .. } => match &lock(said).listening {
                Some(listening) => ProcessState::Listening(listening.clone()),
                None => ProcessState::Starting { since: self.started_at },
            },
            Life::Over { exit, last_words } => {
                ProcessState::Exited { code: exit.code, signal: exit.signal, last_words: last_words.clone() }
            }
        }
    }

    /// Where the worker listens, while it runs.
    pub fn listening(&self) -> Option<Listening> {
        match &self.life {
            Life::Running { said, .. } => lock(said).listening.clone(),
            Life::Over { .. } => None,
        }
    }

    /// Ends the worker and everything that it started, at once.
    pub fn kill(&mut self) {
        if let Life::Running { process, ended: None, .. } = &self.life {
            process.kill();
        }
    }

    fn reap(&mut self) {
        let Life::Running { process, said, ended } = &mut self.life else { return };
        if ended.is_none()
            && let Some(exit) = process.try_wait()
        {
            *ended = Some((exit, Instant::now()));
        }
        let Some((exit, since)) = *ended else { return };
        if process.has_said_all() || since.elapsed() > LAST_LINE_PATIENCE {
            let last_words = lock(said).last_words.take();
            self.life = Life::Over { exit, last_words };
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if let Life::Running { process: Process::Own { child, .. }, .. } = &mut self.life {
            // Killed: this returns as soon as the system has cleaned up.
            let _ = child.wait();
        }
    }
}

impl Process {
    fn try_wait(&mut self) -> Option<Exit> {
        match self {
            Self::Own { child, .. } => child.try_wait().ok().flatten().map(Exit::from),
            Self::Rank(rank) => rank.look(),
        }
    }

    /// Whether nothing more can come of one that has ended.
    fn has_said_all(&self) -> bool {
        match self {
            Self::Own { reader, .. } => reader.is_finished(),
            // Its keeper tells the end behind everything else.
            Self::Rank(_) => true,
        }
    }

    /// Ends one that has not ended yet.
    fn kill(&self) {
        match self {
            // The process is not reaped yet, so its id is still its own. It may have ended by now: nothing to kill.
            Self::Own { child, .. } => kill_group(child),
            Self::Rank(rank) => rank.kill(),
        }
    }
}

/// Ends a process that leads a group and is not reaped yet, with all that it has started.
pub(super) fn kill_group(child: &Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn spawn(command: &WorkerCommand) -> std::io::Result<Life> {
    let log = open_log(&command.log)?;
    let mut child = command.process().stdout(Stdio::piped()).stderr(log).spawn()?;
    let said = Arc::new(Mutex::new(Said::default()));
    let heard = Arc::clone(&said);
    let stdout = child.stdout.take();
    let reader = std::thread::Builder::new().name("worker-stdout".to_owned()).spawn(move || {
        if let Some(stdout) = stdout {
            listen(stdout, &heard);
        }
    });
    match reader {
        Ok(reader) => Ok(Life::Running { process: Process::Own { child, reader }, said, ended: None }),
        Err(error) => {
            // Without its reader nobody would ever learn where it listens.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

pub(super) fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Reads lines until the worker closes its standard output. Lines of an unknown kind are passed over.
pub(super) fn listen(stdout: impl Read, said: &Mutex<Said>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = Read::take(&mut reader, MAX_LINE_BYTES as u64);
        match limited.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => hear(&line, said),
        }
    }
}

fn hear(line: &[u8], said: &Mutex<Said>) {
    if let Ok(listening) = serde_json::from_slice::<Listening>(line) {
        lock(said).listening = Some(listening);
    } else if let Ok(last_words) = serde_json::from_slice::<LastWords>(line) {
        lock(said).last_words = Some(last_words);
    } else if let Ok(Obituary { exit }) = serde_json::from_slice(line) {
        lock(said).exit = Some(exit);
    } else {
        tracing::debug!(line = %String::from_utf8_lossy(line).trim_end(), "unknown line of a worker");
    }
}

pub(super) fn lock(said: &Mutex<Said>) -> std::sync::MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Last words on behalf of a worker that could not be started.
pub(super) fn cannot_start(command: &WorkerCommand, error: &std::io::Error) -> LastWords {
    let too_many_files = error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
    let remedy = if too_many_files {
        "raise the limit of open files: ulimit -n 4096".to_owned()
    } else if error.kind() == std::io::ErrorKind::NotFound {
        "build the worker: cargo build -p scadles-trainer, or name it in SCADLES_TRAINER".to_owned()
    } else {
        format!(
            "see whether {} can be started and {} written",
            command.program.display(),
            command.log.display()
        )
    };
    let message = format!("the worker {} cannot be started: {error}", command.program.display());
    LastWords { remedy, ..LastWords::new(ExitCode::Configuration, message) }
}
