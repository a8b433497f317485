//! `scadles report`: the summary of a run, and its page.

use scadles_api::ExitCode;

use super::{compare::folder, simulate::write_plots};
use crate::{
    args::ReportArgs,
    failure::Result,
    report::{
        figures, html,
        run::{Run, read_report},
        summary,
    },
    run_folder::write_whole,
    screen::{say, warn},
    tensorboard,
};

/// Name of the page in the run folder.
pub const PAGE: &str = "report.html";

/// Prints the summary of a run; with `--html`, `--plots` or `--tensorboard` writes files instead.
pub fn show(args: &ReportArgs) -> Result<ExitCode> {
    if !args.html && args.plots.is_none() && args.tensorboard.is_none() {
        say(summary(&read_report(&args.run)?).trim_end());
        return Ok(ExitCode::Completed);
    }
    let folder = folder(&args.run);
    if args.html || args.plots.is_some() {
        let run = Run::load(folder)?;
        run.notices.iter().for_each(|notice| warn(format!("scadles: {notice}")));
        if args.html {
            let path = folder.join(PAGE);
            write_whole(&path, html::page(&run).as_bytes(), 0o644)?;
            say(path.display().to_string());
        }
        if let Some(into) = &args.plots {
            write_plots(into, &figures::pictures(&run))?;
            say(into.display().to_string());
        }
    }
    if let Some(into) = &args.tensorboard {
        say(tensorboard::export(folder, &read_report(folder)?, into)?.display().to_string());
    }
    Ok(ExitCode::Completed)
}
