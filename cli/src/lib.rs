//! The `scadles` program: the local body of a job (`scadles run`) and everything that its user sees.
//!
//! Role: shell around `scadles-control`, which decides. Links no tensors: workers are processes of `scadles-trainer`.

#![forbid(unsafe_code)]

pub mod args;
pub mod body;
pub mod commands;
pub mod failure;
pub mod job;
pub mod memory;
pub mod report;
pub mod run_folder;
pub mod screen;
pub mod signals;
pub mod surroundings;
pub mod view;

use scadles_api::ExitCode;

use crate::{
    args::{Cli, Command},
    failure::Result,
};

/// Carries a command out.
pub fn carry_out(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Plan(args) => commands::plan::show(args),
        Command::Produce(args) => commands::produce::produce(args),
        Command::Data(args) => commands::data::data(args),
        Command::Evaluate(args) => commands::trainer::become_trainer("evaluate", args),
        Command::Replay(args) => commands::trainer::become_trainer("replay", args),
        Command::Report(args) => commands::report::show(args),
    }
}
