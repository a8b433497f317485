//! The command line of `simulate`, every value checked as it is read. Pure.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scadles_api::job::ModelName;

use super::{
    draft::End,
    laptop::{self, Size},
    options::Shape,
};

/// What `scadles simulate --help` ends with.
pub const SIMULATE_EXAMPLES: &str = "\
Examples:
  scadles simulate job.yaml                               step time, waits, buffers, bytes of a job, in a moment
  scadles simulate job.yaml --compare fixed.yaml          the same beside another job (or a preset)
  scadles simulate job.yaml --stream burst:8:2:30         each stream eight times as quick for 2 of every 30 s
  scadles simulate job.yaml --compression-ratio 0.01 --exchange reduce-scatter --bandwidth-gbit 1
  scadles simulate --preset adapcomp-vgg19                an entry point of the reference repository, full size
  scadles simulate --preset paper/s1-resnet152 --compare paper/s1-resnet152-ddl --plots plots
  scadles simulate --list-presets
  scadles simulate --preset adapcomp-vgg19 --train        the same at a laptop's size, trained; what is replaced is told
  scadles simulate --preset adapcomp-vgg19 --print-job > job.yaml
  scadles simulate job.yaml --train                       the model that a run would train, without its waiting; with a report

Streams, compute and network follow the formulas of the options, batches, buffers and windows are decided by the code that
decides them in a run. Without --train nothing is trained and no data is read. The same command prints the same numbers.

Shapes of --stream, each times the rate of every device:
  constant                     as the job says
  step:FACTOR:AT               FACTOR times the rate from second AT on
  sine:SWING:PERIOD            ± the share SWING, once in PERIOD seconds
  burst:FACTOR:LENGTH:PERIOD   FACTOR times the rate for the last LENGTH of every PERIOD seconds
  drop-out:FROM:UNTIL:DEVICES  the first DEVICES devices are silent from second FROM to UNTIL";

/// How gradients are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExchangeName {
    /// All values, 2(n-1)/n of them sent by every rank
    Dense,
    /// Kept values with indices of 4 bytes, to everybody
    AllGather,
    /// The same with indices of 8 bytes, as in the reference repository
    AllGather64,
    /// Kept values to the owners of their ranges and back
    ReduceScatter,
}

/// How samples are shared between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InjectionName {
    /// The donor gives a sample away
    Move,
    /// All others train a copy (the paper's)
    Replicate,
}

/// A preset as the job, at a size that may be replaced: arguments of `run`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Preset")]
pub struct PresetArgs {
    /// One of the settings of the paper or its repository instead of a job file, at a laptop's size unless it is replaced;
    /// `scadles simulate --list-presets` lists them
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Network to train [default: Cnn]
    #[arg(long, value_name = "NAME", requires = "preset", value_parser = laptop::read_model)]
    pub model: Option<ModelName>,
    /// Devices [default: 4, or the preset's if they are fewer]
    #[arg(long, value_name = "N", requires = "preset", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub devices: Option<u32>,
    /// Samples per second: one number for all devices, or one per device, with commas [default: the preset's]
    #[arg(long, value_name = "RATES", requires = "preset", value_delimiter = ',', value_parser = positive, allow_hyphen_values = true)]
    pub rates: Vec<f64>,
    /// Complete after so many steps
    #[arg(long, value_name = "N", requires = "preset", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Complete after so many epochs [default: 1]
    #[arg(long, value_name = "N", requires = "preset", conflicts_with = "steps", value_parser = positive)]
    pub epochs: Option<f64>,
    /// Print the job that the preset makes, to keep and to edit, and end
    #[arg(long, requires = "preset")]
    pub print_job: bool,
}

impl PresetArgs {
    /// The size that is asked for.
    pub fn size(&self) -> Size {
        Size {
            model: self.model,
            devices: self.devices.map(|devices| devices as usize),
            rates: self.rates.clone(),
            end: end(self.steps, self.epochs),
        }
    }
}

/// The end of a preset's job, if the command line says it.
fn end(steps: Option<u64>, epochs: Option<f64>) -> Option<End> {
    steps.map(End::Steps).or(epochs.map(End::Epochs))
}

/// Arguments of `simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The job file (YAML)
    #[arg(required_unless_present_any = ["preset", "list_presets"], conflicts_with = "preset")]
    pub job: Option<PathBuf>,
    /// One of the settings of the paper or its repository instead of a job file; see --list-presets
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Further job files or presets, simulated with the same options and shown side by side
    #[arg(long, value_name = "FILE|PRESET", num_args = 1..)]
    pub compare: Vec<String>,
    /// List the presets
    #[arg(long)]
    pub list_presets: bool,
    /// What is changed of the job.
    #[command(flatten)]
    pub changes: Changes,
    /// Whether it is trained, too.
    #[command(flatten)]
    pub training: Training,
    /// Write everything that was computed to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write the steps (2,000 of them at most, evenly spaced) to this file, as CSV
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,
    /// Write plots over time to this folder, as SVG
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub plots: Option<PathBuf>,
}

/// Training on the virtual clock.
#[derive(Clone, Debug, Default, Args)]
pub struct Training {
    /// Train the job too, to its completion at the latest: its simulated streams, agreement, gradients and evaluations are
    /// real, only the time is virtual
    #[arg(long, conflicts_with_all = ["compare", "json", "csv", "plots", "injection", "compression_ratio", "exchange", "sparse_share"], help_heading = "Training")]
    pub train: bool,
    /// Network that a preset trains [default: Cnn]
    #[arg(long, value_name = "NAME", requires = "preset", value_parser = laptop::read_model, help_heading = "Training")]
    pub model: Option<ModelName>,
    /// Print the job that a preset makes with --train, to keep and to edit, and end
    #[arg(long, requires = "preset", help_heading = "Training")]
    pub print_job: bool,
    /// Folder for report and model [default: runs/JOB-TIME]
    #[arg(long, value_name = "DIR", requires = "train", help_heading = "Training")]
    pub out: Option<PathBuf>,
    /// Folder of the data sets [default: SCADLES_DATA, or .cache/data]
    #[arg(long, value_name = "DIR", requires = "train", help_heading = "Training")]
    pub data: Option<PathBuf>,
    /// Threads of the training; another number gives other last bits
    #[arg(long, value_name = "N", requires = "train", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Training")]
    pub threads: u32,
}

impl SimulateArgs {
    /// The size at which a preset is trained.
    pub fn size(&self) -> Size {
        Size {
            model: self.training.model,
            devices: self.changes.devices.map(|devices| devices as usize),
            rates: self.changes.rates.clone(),
            end: end(self.changes.steps, self.changes.epochs),
        }
    }
}

/// Everything that the command line puts in the place of what the job or preset says.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Stop after so many seconds of virtual time [default: the job's completion; 250 epochs for a preset]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Length")]
    pub seconds: Option<f64>,
    /// Stop after so many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Length")]
    pub steps: Option<u64>,
    /// Stop after so many epochs
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Length")]
    pub epochs: Option<f64>,
    /// Only so many devices, or with --rates as many as it says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Streams")]
    pub devices: Option<u32>,
    /// Samples per second: one number for all devices, or one per device, with commas
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = positive, allow_hyphen_values = true, help_heading = "Streams")]
    pub rates: Vec<f64>,
    /// How rates go over time, see below
    #[arg(long, value_name = "SHAPE", default_value = "constant", value_parser = Shape::read, help_heading = "Streams")]
    pub stream: Shape,
    /// Seed of compute noise and donors
    #[arg(long, value_name = "N", default_value_t = 1234, help_heading = "Streams")]
    pub seed: u64,
    /// Forward and backward of a sample on a device [default: as `scadles plan` assumes; for a preset from the paper]
    #[arg(long, value_name = "S", value_parser = not_negative, help_heading = "Compute")]
    pub seconds_per_sample: Option<f64>,
    /// Compute times vary by ± this share
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, help_heading = "Compute")]
    pub compute_noise: f64,
    /// Gbit/s of every device [default: as `scadles plan` assumes; for a preset from the paper's measurements]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Network")]
    pub bandwidth_gbit: Option<f64>,
    /// Milliseconds per exchange and other device [default: as `scadles plan` assumes; 0 for a preset]
    #[arg(long, value_name = "N", value_parser = not_negative, help_heading = "Network")]
    pub latency_ms: Option<f64>,
    /// Seconds per step beside what the network takes: agreement, update
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = not_negative, help_heading = "Network")]
    pub constant_seconds: f64,
    /// How gradients travel [default: dense, or all-gather with --compression-ratio]
    #[arg(long, value_name = "KIND", help_heading = "Network")]
    pub exchange: Option<ExchangeName>,
    /// Share of the gradient's values that a sparse step keeps
    #[arg(long, value_name = "SHARE", value_parser = positive_share, help_heading = "Network")]
    pub compression_ratio: Option<f64>,
    /// Share of the steps that are sparse; the gate that decides it needs gradients [default: 1; for a preset Table V]
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = "Network")]
    pub sparse_share: Option<f64>,
    /// Devices share samples with each other
    #[arg(long, value_name = "KIND", help_heading = "Injection")]
    pub injection: Option<InjectionName>,
    /// α: share of the devices that are donors in a step
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "injection", help_heading = "Injection")]
    pub donor_fraction: Option<f64>,
    /// β: share of its batch that a donor shares
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "injection", help_heading = "Injection")]
    pub shared_fraction: Option<f64>,
}

fn number(text: &str, allowed: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let value = text.trim().parse::<f64>().ok().filter(|value| value.is_finite() && fits(*value));
    value.ok_or_else(|| format!("allowed is {allowed}; give such a number"))
}

/// A number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |value| value > 0.0)
}

/// A number from 0 on.
pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 on", |value| value >= 0.0)
}

/// A number from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 1", |value| (0.0..=1.0).contains(&value))
}

fn positive_share(text: &str) -> Result<f64, String> {
    number(text, "a number above 0, at most 1", |value| value > 0.0 && value <= 1.0)
}
