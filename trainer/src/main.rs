//! `scadles-trainer`: the worker process, and the commands that need the model, such as evaluate and replay.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode as ProcessCode};

use clap::{Parser, Subcommand};
use scadles_trainer::{
    commands,
    process::{self, WorkerArguments},
};

#[derive(Parser)]
#[command(version, about = "Worker of scadles: started by `scadles run` or the operator, not by hand")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one device: wait for an attempt, train, end. Its last words are a line of JSON on standard output.
    Worker(WorkerArguments),
    /// Evaluate a trained model on its whole held-out set.
    Evaluate {
        /// Folder of a run, or a model.safetensors in one.
        path: PathBuf,
        /// Folder of the data sets, if not the run's own.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Copy what a job has left in its bucket into a folder.
    Pull {
        /// The resolved job, as workers read it.
        #[arg(long)]
        job: PathBuf,
        /// The folder.
        #[arg(long)]
        to: PathBuf,
    },
    /// Say whether a network of the user's own can be trained, as JSON.
    CheckModel {
        /// The network's part of a resolved job, as JSON.
        model: String,
    },
    /// Train a job on the virtual clock: job.json and virtual-clock.json of a folder of `scadles simulate --train`. Ends
    /// when its standard input does.
    Simulate {
        /// The folder.
        run: PathBuf,
    },
    /// Take all steps of a run again, from its journal, and compare the parameters bit for bit.
    Replay {
        /// Folder of a run.
        run: PathBuf,
        /// Folder of the data sets, if not the run's own.
        #[arg(long)]
        data: Option<PathBuf>,
        /// `host:port` of the broker that holds the records, if not the run's own.
        #[arg(long)]
        kafka: Option<String>,
    },
}

fn main() -> ProcessCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SCADLES_LOG").unwrap_or_else(|_| "info".into()),
        )
        // A log that cannot be written (full disk) must not end the worker.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(problem) => {
            if problem.use_stderr() {
                process::refuse(std::env::args(), &problem.to_string());
            }
            problem.exit();
        }
    };
    let code = match arguments.command {
        Command::Worker(arguments) => process::worker(&arguments),
        Command::Evaluate { path, data, json } => commands::evaluate(&path, data, json),
        Command::CheckModel { model } => commands::check_model(&model),
        Command::Pull { job, to } => commands::pull(&job, &to),
        Command::Simulate { run } => commands::simulate(&run),
        Command::Replay { run, data, kafka } => commands::replay(&run, data, kafka),
    };
    ProcessCode::from(code.code())
}
