//! `scadles`: see `scadles --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use scadles::{args::Cli, carry_out, screen::complain};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
            complain(&failure);
            failure.code.code().into()
        }
    }
}
