//! `scadles mpi-rank`: what `mpiexec` starts instead of a worker. It starts the worker, ties it to the runner, says how it
//! ended, and stays until the runner lets go: as long as it is there, `mpiexec` ends nobody.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::Child,
};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};
use scadles_api::ExitCode;

use super::worker::{Exit, Obituary, WorkerCommand, cannot_start, kill_group, open_log};
use crate::failure::{Failure, Result};

/// Arguments of `mpi-rank`.
#[derive(Debug, Clone, clap::Args)]
pub struct MpiRankArgs {
    /// Socket of the runner
    socket: PathBuf,
    /// Position of the worker's device
    rank: usize,
    /// The worker's program
    program: PathBuf,
    /// Its configuration file
    config: PathBuf,
    /// Where its standard error goes
    log: PathBuf,
    /// Folder for its trace, if one is wanted
    traces: Option<PathBuf>,
}

/// Keeps one worker. The runner learns all that matters over the socket; the exit code is for `mpiexec` alone.
pub fn keep(args: MpiRankArgs) -> Result<ExitCode> {
    let failed = |error: io::Error| Failure::internal(format!("the keeper of rank {}: {error}", args.rank));
    let mut runner = UnixStream::connect(&args.socket).map_err(failed)?;
    writeln!(runner, "{}", args.rank).map_err(failed)?;
    let MpiRankArgs { program, config, log, traces, .. } = args;
    let command = WorkerCommand { program, config, log, traces };
    match start(&command, &runner) {
        Ok(child) => watch(&child, runner).map_err(failed)?,
        Err(error) => {
            say(&mut runner, &cannot_start(&command, &error));
            say(&mut runner, &Obituary { exit: Exit { code: None, signal: None } });
            runner.read_to_end(&mut Vec::new()).map_err(failed)?;
        }
    }
    Ok(ExitCode::Completed)
}

/// The worker speaks to the runner itself. Its standard input ends with this keeper.
fn start(command: &WorkerCommand, runner: &UnixStream) -> io::Result<Child> {
    let log = open_log(&command.log)?;
    command.process().stdout(OwnedFd::from(runner.try_clone()?)).stderr(log).spawn()
}

/// Ends the worker when the runner lets go, and tells the runner when it has ended; returns when both have come to pass.
fn watch(child: &Child, mut runner: UnixStream) -> io::Result<()> {
    let mut lifeline = runner.try_clone()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The runner sends nothing: this ends with the connection.
            let _ = lifeline.read_to_end(&mut Vec::new());
            kill_group(child);
        });
        let exit = wait(child)?;
        say(&mut runner, &Obituary { exit });
        Ok(())
    })
}

/// Waits for the end of the worker but leaves it to be reaped with this process: until then its id is its own, and a late kill
/// meets nobody else.
fn wait(child: &Child) -> io::Result<Exit> {
    loop {
        match waitid(WaitId::Pid(Pid::from_child(child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => {
                return Ok(Exit { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A runner that is gone does not listen.
fn say(runner: &mut UnixStream, line: &impl serde::Serialize) {
    let text = serde_json::to_string(line).unwrap_or_default();
    let _ = writeln!(runner, "{text}");
}
