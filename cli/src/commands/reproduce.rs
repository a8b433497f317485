//! `scadles reproduce`: our numbers beside the paper's.

use scadles_api::ExitCode;

use super::simulate::write_plots;
use crate::{
    failure::{Failure, Result},
    reproduce::{self, args::ReproduceArgs, text},
    screen::say,
    simulate::presets::nearest,
};

/// Computes all tables and figures, or one, and prints them.
pub fn run(args: &ReproduceArgs) -> Result<ExitCode> {
    if args.list {
        say(text::list().trim_end());
        return Ok(ExitCode::Completed);
    }
    let sections = match &args.what {
        None => reproduce::all(),
        Some(key) => vec![reproduce::one(key).ok_or_else(|| {
            let keys = reproduce::SECTIONS.iter().map(|(key, _)| *key);
            Failure::configuration(
                format!("table or figure = {key}: there is none of this name"),
                format!(
                    "did you mean {}? `scadles reproduce --list` lists all",
                    nearest(key, keys).join(", ")
                ),
            )
        })?],
    };
    if let Some(folder) = &args.plots {
        let plots: Vec<_> = sections.iter().filter_map(reproduce::Section::plot).collect();
        write_plots(folder, &plots)?;
    }
    say(if args.markdown { text::markdown(&sections) } else { text::plain(&sections) }.trim_end());
    Ok(ExitCode::Completed)
}
