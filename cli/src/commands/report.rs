//! `scadles report`: the summary of a run.

use scadles_api::{ExitCode, report::RunReport};

use crate::{
    args::ReportArgs,
    failure::{Failure, Result},
    report::summary,
    screen::say,
};

/// Prints the summary of a run.
pub fn show(args: &ReportArgs) -> Result<ExitCode> {
    let path = if args.run.is_dir() { args.run.join("report.json") } else { args.run.clone() };
    let wrong = |problem: String| {
        Failure::configuration(
            format!("{}: {problem}", path.display()),
            "name the folder of a run that has ended; `scadles run JOB --resume RUN_DIR` goes on with one that has not",
        )
    };
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let report: RunReport = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    say(summary(&report).trim_end());
    Ok(ExitCode::Completed)
}
