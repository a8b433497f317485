//! The command line of `reproduce`. Pure.

use std::path::PathBuf;

use clap::Args;

/// What `scadles reproduce --help` ends with.
pub const REPRODUCE_EXAMPLES: &str = "\
Examples:
  scadles reproduce                    every table and figure that needs no training
  scadles reproduce table2             one of them
  scadles reproduce --list             their names
  scadles reproduce --markdown --plots docs/reproduction > docs/reproduction.md

A number is predicted (from stream rates, batch size and published times alone) or fitted (with further numbers of the
paper, which are named). Only predicted ones count as reproduced: within 2 %, or half a unit of the last printed digit.";

/// Arguments of `reproduce`.
#[derive(Clone, Debug, Args)]
pub struct ReproduceArgs {
    /// A table or figure [default: all]
    #[arg(value_name = "TABLE|FIGURE")]
    pub what: Option<String>,
    /// List the tables and figures
    #[arg(long)]
    pub list: bool,
    /// Print Markdown: the text of docs/reproduction.md
    #[arg(long)]
    pub markdown: bool,
    /// Write the plots to this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}
