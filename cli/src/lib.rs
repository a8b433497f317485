//! The `scadles` program: the local body of a job (`scadles run`), a look at jobs in a cluster (`scadles status`), and
//! everything that their user sees.
//!
//! Role: shell around `scadles-control`, which decides. Links no tensors: workers are processes of `scadles-trainer`.

#![forbid(unsafe_code)]

pub mod args;
pub mod body;
pub mod cluster;
pub mod commands;
pub mod failure;
pub mod job;
pub mod live;
pub mod memory;
pub mod own_model;
pub mod plot;
pub mod report;
pub mod reproduce;
pub mod resume;
pub mod run_folder;
pub mod screen;
pub mod signals;
pub mod simulate;
pub mod surroundings;
pub mod tensorboard;
pub mod trace;
pub mod tuning;
pub mod view;

use clap::{CommandFactory, FromArgMatches};
use scadles_api::ExitCode;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command},
    failure::Result,
};

/// The program under the name that it was called by, which its help shows: `scadles`, or `kubectl scadles`.
pub fn program(name: &'static str) -> std::process::ExitCode {
    let matches = Cli::command().name(name).bin_name(name).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // Diagnosis for those who ask for it; what the user must know is on the screen anyway.
    let filter = EnvFilter::try_from_env("SCADLES_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where nobody reads, or the disk is full, a line that cannot be written must not end the program.
        .log_internal_errors(false)
        .init();
    match carry_out(&cli) {
        Ok(code) => code.code().into(),
        Err(failure) => {
            screen::complain(&failure);
            failure.code.code().into()
        }
    }
}

/// Carries a command out.
pub fn carry_out(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Plan(args) => commands::plan::show(args),
        Command::Simulate(args) => commands::simulate::run(args),
        Command::Reproduce(args) => commands::reproduce::run(args),
        Command::Produce(args) => commands::produce::produce(args),
        Command::Data(args) => commands::data::data(args),
        Command::Evaluate(args) => commands::trainer::become_trainer("evaluate", args),
        Command::Replay(args) => commands::trainer::become_trainer("replay", args),
        Command::Tune(args) => commands::tune::tune(args),
        Command::Report(args) => commands::report::show(args),
        Command::Compare(args) => commands::compare::compare(args),
        Command::Status(args) => cluster::status::status(args),
        Command::Why(args) => cluster::why::explain(args),
        Command::Fetch(args) => cluster::fetch::fetch(args),
        Command::MpiRank(args) => body::keeper::keep(args.clone()),
    }
}
