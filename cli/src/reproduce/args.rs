//! The command line of `reproduce`. Pure.

use std::path::PathBuf;

use clap::Args;

/// What `scadles reproduce --help` ends with.
pub const REPRODUCE_EXAMPLES: &str = "\
Examples:
  scadles reproduce                    every table and figure that needs no training
  scadles reproduce table2             one of them
  scadles reproduce --list             their names
  scadles reproduce fair               ours, ScaDLES and baselines that the paper does not show, trained: about an hour on two cores
  scadles reproduce fair --quick       the same in small, to see that it works
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
    /// Print Markdown: the text of docs/reproduction.md, of `fair` its last section
    #[arg(long)]
    pub markdown: bool,
    /// Write the plots to this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// What `fair` trains.
    #[command(flatten)]
    pub fair: FairArgs,
}

/// Arguments of `reproduce fair`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The fair comparison (`scadles reproduce fair`)")]
pub struct FairArgs {
    /// A small network, few devices, seconds of virtual time: to see that it works, not to learn from
    #[arg(long, requires = "what")]
    pub quick: bool,
    /// Folder of the runs; those that are there already are not trained again [default: runs/fair, or runs/fair-quick]
    #[arg(long, value_name = "DIR", requires = "what")]
    pub out: Option<PathBuf>,
    /// Seeds of every method [default: 3; with --quick 3 for the baselines, 1 for the rest]
    #[arg(long, value_name = "N", requires = "what", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: Option<u64>,
    /// Folder of the data sets [default: SCADLES_DATA, or .cache/data]
    #[arg(long, value_name = "DIR", requires = "what")]
    pub data: Option<PathBuf>,
    /// Runs at a time, a thread each [default: as many as there are cores]
    #[arg(long, value_name = "N", requires = "what", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub at_once: Option<u32>,
}

impl FairArgs {
    /// Whether any of them is given.
    pub fn is_given(&self) -> bool {
        let Self { quick, out, seeds, data, at_once } = self;
        *quick || out.is_some() || seeds.is_some() || data.is_some() || at_once.is_some()
    }
}
