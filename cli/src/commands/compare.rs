//! `scadles compare`: runs side by side.

use std::path::Path;

use scadles_api::ExitCode;

use super::simulate::write_plots;
use crate::{
    args::CompareArgs,
    failure::Result,
    report::{
        compare::text,
        figures, html,
        run::{REPORT, Run},
    },
    run_folder::write_whole,
    screen::{say, warn},
};

/// Prints the comparison, and writes its page and pictures if they are asked for.
pub fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let mut runs = args.runs.iter().map(|path| Run::load(folder(path))).collect::<Result<Vec<Run>>>()?;
    // Folders of the same name in different places are told apart by their paths.
    for index in 0..runs.len() {
        let name = runs[index].name.clone();
        let same: Vec<usize> = (index..runs.len()).filter(|other| runs[*other].name == name).collect();
        if same.len() > 1 {
            for place in same {
                runs[place].name = args.runs[place].display().to_string();
            }
        }
    }
    for run in &runs {
        run.notices.iter().for_each(|notice| warn(format!("scadles: {}: {notice}", run.name)));
    }
    say(text(&runs));
    if let Some(path) = &args.html {
        write_whole(path, html::comparison(&runs).as_bytes(), 0o644)?;
        say(format!("\n{}", path.display()));
    }
    if let Some(into) = &args.plots {
        write_plots(into, &figures::side_by_side(&runs))?;
        say(format!("\n{}", into.display()));
    }
    Ok(ExitCode::Completed)
}

/// The run folder that a path names, also by its report.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if path.file_name().is_some_and(|name| name == REPORT) => parent,
        _ => path,
    }
}
