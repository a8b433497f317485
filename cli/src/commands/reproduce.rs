//! `scadles reproduce`: our numbers beside the paper's.

use scadles_api::ExitCode;

use super::simulate::write_plots;
use crate::{
    failure::{Failure, Result},
    reproduce::{self, args::ReproduceArgs, text},
    screen::say,
    simulate::presets::nearest,
};

mod fair;

/// The comparison that is trained.
const FAIR: &str = "fair";

/// Computes all tables and figures, or one, and prints them.
pub fn run(args: &ReproduceArgs) -> Result<ExitCode> {
    if args.what.as_deref() == Some(FAIR) {
        return fair::run(&args.fair, args.markdown, args.plots.as_deref());
    }
    if args.fair.is_given() {
        return Err(Failure::configuration(
            format!(
                "table or figure = {}: --quick, --out, --seeds, --data and --at-once belong to `fair`",
                args.what.as_deref().unwrap_or_default()
            ),
            "leave them out, or write `scadles reproduce fair`",
        ));
    }
    if args.list {
        say(text::list().trim_end());
        say(format!("  {FAIR}: ours, ScaDLES and further baselines, trained on the virtual clock"));
        return Ok(ExitCode::Completed);
    }
    let sections = match &args.what {
        None => reproduce::all(),
        Some(key) => vec![reproduce::one(key).ok_or_else(|| {
            let keys = reproduce::SECTIONS.iter().map(|(key, _)| *key).chain([FAIR]);
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
