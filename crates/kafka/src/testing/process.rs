//! A server under test: started behind a watchdog shell that ends it when this process ends, however it ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Result, TestingError, failed};

/// How long a server may take to start on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// How long a server may take to end in order.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Starts the server `$1 $2`, writes its pid to `$3`, and ends it when standard input closes, with the folder `$4` where
/// no line came before.
const WATCHDOG: &str = r#"
"$1" "$2" </dev/null &
echo $! >"$3.new" && mv "$3.new" "$3"
if read -r keep; then gone=; else gone=$4; fi
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
[ -z "$gone" ] || rm -rf "$gone"
"#;

/// What is started.
pub(super) struct Launch {
    /// A script of Kafka's, which becomes the server.
    pub(super) program: PathBuf,
    /// Its one argument.
    pub(super) config: PathBuf,
    /// Where it logs.
    pub(super) log: PathBuf,
    /// Goes with the server if this process ends without having ended it.
    pub(super) folder: PathBuf,
    /// What the script is told.
    pub(super) environment: Vec<(&'static str, OsString)>,
}

/// A server process; dropped, it ends at once (SIGKILL), data kept.
pub(super) struct Server {
    /// Shell that ends the server when its standard input closes.
    watchdog: Child,
    log: PathBuf,
    pid_path: PathBuf,
}

impl Server {
    /// Starts it, without waiting for anything.
    pub(super) fn start(launch: &Launch) -> Result<Self> {
        let log = File::create(&launch.log).map_err(|error| failed("make a server's log", error))?;
        let errors = log.try_clone().map_err(|error| failed("make a server's log", error))?;
        let pid_path = launch.log.with_extension("pid");
        let _ = fs::remove_file(&pid_path);
        // The shell's standard input is a pipe of this process: when that closes, so ends the server. A line says that
        // the data is kept; without one this process has crashed or left a static behind, and all is removed.
        // A process group of its own keeps the terminal's Ctrl-C from ending the server out of turn.
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .args([&launch.program, &launch.config, &pid_path, &launch.folder])
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed("start a server", error))?;
        Ok(Self { watchdog, log: launch.log.clone(), pid_path })
    }

    /// Waits until `is_ready`, which is given the log.
    pub(super) fn await_ready(&self, is_ready: impl Fn(&str) -> bool) -> Result<()> {
        let end = Instant::now() + START_DEADLINE;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let pid = self.pid();
            if pid.is_some() && is_ready(&log) {
                return Ok(());
            }
            if pid.is_some_and(|pid| !runs(pid)) || Instant::now() >= end {
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                let text = format!("a server did not start; its log ends:\n{}", tail.join("\n"));
                return Err(TestingError(text));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal that ends it and waits until it has ended, data kept.
    pub(super) fn end(self, signal: &str) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
        let end = Instant::now() + STOP_DEADLINE;
        while runs(pid) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        if runs(pid) {
            return Err(TestingError(format!("a server did not end within {STOP_DEADLINE:?}")));
        }
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(&self.pid_path).ok()?.trim().parse().ok()
    }
}

impl Drop for Server {
    /// Lets the shell end the server and itself, data kept.
    fn drop(&mut self) {
        if let Some(mut input) = self.watchdog.stdin.take() {
            let _ = input.write_all(b"keep\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// True while the process runs (a zombie does not).
fn runs(pid: u32) -> bool {
    let mut stat = String::new();
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read_to_string(&mut stat));
    // The state follows the name, which is in brackets and may itself hold brackets.
    read.is_ok() && !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
