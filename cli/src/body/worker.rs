//! One worker process: started, listened to, killed.
//!
//! Each worker leads a process group of its own, so that a Ctrl-C at the terminal reaches the runner alone and a kill
//! reaches whatever the worker started. It holds the read end of a pipe whose write end dies with the runner: however
//! the runner ends, the worker sees the end of its standard input and ends too.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use scadles_api::{ExitCode, LastWords, attempt::Listening};
use scadles_control::decide::ProcessState;

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
    Running { child: Child, said: Arc<Mutex<Said>>, reader: JoinHandle<()>, ended: Option<(Exit, Instant)> },
    Over { exit: Exit, last_words: Option<LastWords> },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exit {
    code: Option<i32>,
    signal: Option<i32>,
}

/// What a worker has said on its standard output.
#[derive(Debug, Default)]
struct Said {
    listening: Option<Listening>,
    last_words: Option<LastWords>,
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
        if let Life::Running { child, ended: None, .. } = &self.life
            && let Some(group) = Pid::from_raw(child.id().cast_signed())
        {
            // The process is not reaped yet, so its id is still its own. It may have ended by now: nothing to kill.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn reap(&mut self) {
        let Life::Running { child, said, reader, ended } = &mut self.life else { return };
        if ended.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            *ended = Some((Exit { code: status.code(), signal: status.signal() }, Instant::now()));
        }
        let Some((exit, since)) = *ended else { return };
        if reader.is_finished() || since.elapsed() > LAST_LINE_PATIENCE {
            let last_words = lock(said).last_words.take();
            self.life = Life::Over { exit, last_words };
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if let Life::Running { child, .. } = &mut self.life {
            // Killed: this returns as soon as the system has cleaned up.
            let _ = child.wait();
        }
    }
}

fn spawn(command: &WorkerCommand) -> std::io::Result<Life> {
    let log = open_log(&command.log)?;
    let mut child = Command::new(&command.program)
        .arg("worker")
        .arg("--config")
        .arg(&command.config)
        .envs(command.traces.as_ref().map(|folder| ("SCADLES_TRACE", folder)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let said = Arc::new(Mutex::new(Said::default()));
    let heard = Arc::clone(&said);
    let stdout = child.stdout.take();
    let reader = std::thread::Builder::new().name("worker-stdout".to_owned()).spawn(move || {
        if let Some(stdout) = stdout {
            listen(stdout, &heard);
        }
    });
    match reader {
        Ok(reader) => Ok(Life::Running { child, said, reader, ended: None }),
        Err(error) => {
            // Without its reader nobody would ever learn where it listens.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Reads lines until the worker closes its standard output. Lines that are neither of the two known are passed over.
fn listen(stdout: ChildStdout, said: &Mutex<Said>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE_BYTES as u64);
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
    } else {
        tracing::debug!(line = %String::from_utf8_lossy(line).trim_end(), "unknown line of a worker");
    }
}

fn lock(said: &Mutex<Said>) -> std::sync::MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Last words on behalf of a worker that could not be started.
fn cannot_start(command: &WorkerCommand, error: &std::io::Error) -> LastWords {
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
