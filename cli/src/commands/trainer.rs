//! `scadles evaluate` and `scadles replay`: carried out by the trainer, which has the tensors.

use std::{os::unix::process::CommandExt, process::Command};

use scadles_api::ExitCode;

use crate::{
    args::TrainerArgs,
    failure::{Failure, Result},
    surroundings,
};

/// Becomes `scadles-trainer COMMAND TARGET …`; returns only if that fails.
pub fn become_trainer(command: &str, args: &TrainerArgs) -> Result<ExitCode> {
    if !args.target.exists() {
        return Err(Failure::configuration(
            format!("{}: there is no such file or folder", args.target.display()),
            "name a run folder, such as runs/<job>-<time>, or its model.safetensors",
        ));
    }
    let program = surroundings::trainer()?;
    let error = Command::new(&program).arg(command).arg(&args.target).args(&args.rest).exec();
    Err(Failure::configuration(
        format!("{} cannot be started: {error}", program.display()),
        "build it: cargo build -p scadles-trainer",
    ))
}
