//! The workers of one attempt as ranks of MPI: one `mpiexec` starts all of them, in the order of devices.
//!
//! `mpiexec` gives its standard input to rank 0 alone, mixes what the ranks say, and ends all as soon as one has ended badly,
//! before they could say how. So what it starts is a keeper for each worker ([`super::keeper`]). Keepers meet the runner at a
//! socket in the file system. The connection is a worker's standard output and what ties it to the runner, as pipes are for
//! other workers: when it closes, the worker ends.

use std::{
    env,
    io::{BufRead, BufReader, ErrorKind},
    net::Shutdown,
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use scadles_api::{ExitCode, LastWords};
use tempfile::TempDir;

use super::worker::{Exit, Said, WorkerCommand, kill_group, listen, lock, open_log};

/// Names the program that starts ranks.
const MPIEXEC_VARIABLE: &str = "MPIEXEC";

/// Lets Open MPI start more ranks than there are cores, use all cores for each, and run as root, as in a container. MPICH does
/// so by itself, and does not read these.
const OPEN_MPI: [(&str, &str); 4] = [
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];

/// When `mpiexec` has ended, what its keepers have told may still be on the way; no longer than this is waited for it.
const LAST_LINE_PATIENCE: Duration = Duration::from_secs(1);

/// Without workers `mpiexec` ends by itself, and cleans up; no longer than this is waited for it.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// One `mpiexec` and the lines to its keepers. All goes when the last part of it does.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Attempt that it was made for.
    pub(super) attempt: u32,
    parts: Arc<Mutex<Parts>>,
}

/// One rank of a group.
#[derive(Debug)]
pub(super) struct Rank {
    number: usize,
    group: Group,
}

#[derive(Debug)]
struct Parts {
    lines: Vec<Line>,
    mpiexec: Result<Mpiexec, LastWords>,
    log: PathBuf,
    /// The threads that listen to keepers; each ends with its keeper and the worker.
    listeners: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Mpiexec {
    child: Child,
    ended: Option<(ExitStatus, Instant)>,
    /// Where keepers come to, and the folder that it lies in, until all have come.
    door: Option<(UnixListener, TempDir)>,
}

/// What a rank has said, and the connection to its keeper, once there is one.
#[derive(Clone, Debug, Default)]
struct Line {
    said: Arc<Mutex<Said>>,
    connection: Arc<Mutex<Option<UnixStream>>>,
}

impl Group {
    /// Starts a worker for each command, as the rank of its position. A start that fails is one of workers that ended at once,
    /// with the reason as their last words.
    pub(super) fn start(commands: &[WorkerCommand], attempt: u32, log: &Path) -> Self {
        let mpiexec = spawn(commands, log).map_err(|error| cannot_start(&error));
        let lines = commands.iter().map(|_| Line::default()).collect();
        let parts = Parts { lines, mpiexec, log: log.to_owned(), listeners: Vec::new() };
        Self { attempt, parts: Arc::new(Mutex::new(parts)) }
    }

    /// One of its ranks.
    pub(super) fn rank(&self, number: usize) -> Rank {
        Rank { number, group: self.clone() }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rank {
    pub(super) fn said(&self) -> Arc<Mutex<Said>> {
        Arc::clone(&self.group.parts().lines[self.number].said)
    }

    /// How the worker ended, if it has.
    pub(super) fn look(&self) -> Option<Exit> {
        let mut parts = self.group.parts();
        parts.look();
        parts.exit(self.number)
    }

    /// Ends the worker at once; before there is a way to it, all of the group.
    pub(super) fn kill(&self) {
        let parts = self.group.parts();
        let line = &parts.lines[self.number];
        match &parts.mpiexec {
            Ok(Mpiexec { child, ended: None, .. }) if !line.is_there() => kill_group(child),
            _ => line.let_go(),
        }
    }
}

impl Line {
    fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_there(&self) -> bool {
        self.connection().is_some()
    }

    /// Has the keeper end the worker. It can still tell how that ended.
    fn let_go(&self) {
        if let Some(connection) = &*self.connection() {
            let _ = connection.shutdown(Shutdown::Write);
        }
    }
}

impl Parts {
    /// Takes keepers that have come, and sees whether `mpiexec` has ended.
    fn look(&mut self) {
        let Ok(mpiexec) = &mut self.mpiexec else { return };
        while let Some(Ok((connection, _))) = mpiexec.door.as_ref().map(|(door, _)| door.accept()) {
            let lines = self.lines.clone();
            let listener = std::thread::Builder::new().name("keeper".to_owned());
            match listener.spawn(move || follow(connection, &lines)) {
                Ok(listener) => self.listeners.push(listener),
                Err(error) => tracing::error!(%error, "no thread to listen to a worker: it will look absent"),
            }
        }
        if self.listeners.len() == self.lines.len() {
            mpiexec.door = None;
        }
        if mpiexec.ended.is_none()
            && let Ok(Some(status)) = mpiexec.child.try_wait()
        {
            mpiexec.ended = Some((status, Instant::now()));
            // Whoever ended it may have left keepers behind.
            self.lines.iter().for_each(Line::let_go);
        }
    }

    fn exit(&self, number: usize) -> Option<Exit> {
        let line = &self.lines[number];
        let mut said = lock(&line.said);
        if said.exit.is_some() {
            return said.exit;
        }
        let ended = match &self.mpiexec {
            Err(words) => {
                said.last_words = Some(words.clone());
                return Some(Exit { code: None, signal: None });
            }
            Ok(mpiexec) => mpiexec.ended.filter(|(_, since)| since.elapsed() > LAST_LINE_PATIENCE),
        };
        let (status, _) = ended?;
        if line.is_there() {
            // Its keeper was ended, and so the worker: nobody is left who could tell.
            return Some(Exit { code: None, signal: Some(Signal::KILL.as_raw()) });
        }
        let message =
            format!("mpiexec ended with {status} and started no worker; its log: {}", self.log.display());
        let words = LastWords::new(ExitCode::Configuration, message);
        said.last_words = Some(LastWords {
            remedy: format!("see its log, or name another in {MPIEXEC_VARIABLE}"),
            ..words
        });
        Some(Exit { code: None, signal: None })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Ok(mpiexec) = &mut self.mpiexec else { return };
        // Keepers that come too late find nobody, all others end their workers.
        mpiexec.door = None;
        self.lines.iter().for_each(Line::let_go);
        let deadline = Instant::now() + END_PATIENCE;
        while Instant::now() < deadline {
            let over = !matches!(mpiexec.child.try_wait(), Ok(None));
            if over && self.listeners.iter().all(JoinHandle::is_finished) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Ok(None) = mpiexec.child.try_wait() {
            kill_group(&mpiexec.child);
            let _ = mpiexec.child.wait();
        }
    }
}

/// Listens to one keeper: first it says which rank it is.
fn follow(connection: UnixStream, lines: &[Line]) {
    let Ok(own) = connection.try_clone() else { return };
    let mut reader = BufReader::new(connection);
    let mut number = String::new();
    let line =
        reader.read_line(&mut number).ok().and_then(|_| lines.get(number.trim().parse::<usize>().ok()?));
    let Some(line) = line else { return };
    *line.connection() = Some(own);
    listen(reader, &line.said);
}

fn spawn(commands: &[WorkerCommand], log: &Path) -> std::io::Result<Mpiexec> {
    let folder = tempfile::Builder::new().prefix("scadles-").tempdir()?;
    let socket = folder.path().join("keepers");
    let door = UnixListener::bind(&socket)?;
    door.set_nonblocking(true)?;
    let keeper = env::current_exe()?;
    let log = open_log(log)?;
    let mut command = Command::new(program());
    for (rank, worker) in commands.iter().enumerate() {
        if rank > 0 {
            command.arg(":");
        }
        command.args(["-n", "1"]).arg(&keeper).arg("mpi-rank").arg(&socket).arg(rank.to_string());
        command.args([&worker.program, &worker.config, &worker.log]).args(&worker.traces);
    }
    let errors = log.try_clone()?;
    command.envs(OPEN_MPI).stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    Ok(Mpiexec { child: command.spawn()?, ended: None, door: Some((door, folder)) })
}

fn program() -> PathBuf {
    env::var_os(MPIEXEC_VARIABLE).map_or_else(|| "mpiexec".into(), PathBuf::from)
}

fn cannot_start(error: &std::io::Error) -> LastWords {
    let message = format!("mpiexec ({}) cannot be started: {error}", program().display());
    let remedy = if error.kind() == ErrorKind::NotFound {
        format!(
            "install Open MPI or MPICH, the one that scadles-trainer was built with, or name its mpiexec in {MPIEXEC_VARIABLE}"
        )
    } else {
        "see whether its log, a file in the folder of temporary files, and one more process can be made"
            .to_owned()
    };
    LastWords { remedy, ..LastWords::new(ExitCode::Configuration, message) }
}
