//! `scadles report`: the summary of a run, and its page.

use scadles_api::ExitCode;

use super::compare::folder;
use crate::{
    args::ReportArgs,
    failure::Result,
    report::{
        html,
        run::{Run, read_report},
        summary,
    },
    run_folder::write_whole,
    screen::{say, warn},
};

/// Name of the page in the run folder.
pub const PAGE: &str = "report.html";

/// Prints the summary of a run; with `--html` writes its page.
pub fn show(args: &ReportArgs) -> Result<ExitCode> {
    if !args.html {
        say(summary(&read_report(&args.run)?).trim_end());
        return Ok(ExitCode::Completed);
    }
    let folder = folder(&args.run);
    let run = Run::load(folder)?;
    run.notices.iter().for_each(|notice| warn(format!("scadles: {notice}")));
    let path = folder.join(PAGE);
    write_whole(&path, html::page(&run).as_bytes(), 0o644)?;
    say(path.display().to_string());
    Ok(ExitCode::Completed)
}
