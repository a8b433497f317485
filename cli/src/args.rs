//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use scadles_api::job::{BackendChoice, CompressionMode};
use scadles_control::tuning::Changes;

use crate::{
    body::keeper::MpiRankArgs,
    cluster::args::{FETCH_EXAMPLES, FetchArgs, STATUS_EXAMPLES, StatusArgs, WHY_EXAMPLES, WhyArgs},
    live::address::Address,
    report::compare::MOST_RUNS,
    reproduce::args::{REPRODUCE_EXAMPLES, ReproduceArgs},
    simulate::args::{PresetArgs, SIMULATE_EXAMPLES, SimulateArgs, positive},
};

/// Trains one model on the live data streams of many devices.
#[derive(Debug, Parser)]
#[command(name = "scadles", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  scadles run manifests/examples/quickstart-local.yaml      train four devices on live CIFAR-10 streams
  scadles plan manifests/examples/quickstart-local.yaml     what would run, and what it costs
  scadles simulate manifests/examples/quickstart-local.yaml what its timing would be, in a moment
  scadles run job.yaml --ui                                 the same with a page in the browser
  scadles run job.yaml --kafka localhost:9092               on a Kafka of your own
  scadles run job.yaml --resume                             go on from the last checkpoint of this job's latest run
  scadles tune runs/quickstart-20260101T120000Z --ratio 0.05
                                                            change the compression of a run that lives
  scadles evaluate runs/quickstart-20260101T120000Z         accuracy of a run's model on all test pictures
  scadles report runs/quickstart-20260101T120000Z --html    its page, anew
  scadles compare runs/one runs/other                       runs side by side
  scadles replay runs/quickstart-20260101T120000Z           train it again from its journal, bit for bit
  scadles status -A                                         jobs in a Kubernetes cluster (also: kubectl scadles)
  scadles why fashion -n demo                               what is wrong with one of them, in one sentence
  scadles fetch fashion -n demo                             bring its model here

Exit codes: 0 complete, 2 wrong configuration, 4 broker lost, 5 storage failed, 6 stream stalled, 12 deadline passed,
13 too many restarts, 130 interrupted; all of them: docs/report.md.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a job on this machine: streams, one worker per device, live table, report
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Change compression and injection of a live run: all ranks switch at one step, nothing restarts
    #[command(after_help = TUNE_EXAMPLES)]
    Tune(TuneArgs),
    /// Show what a job would run: topics, devices, expected batches, waits, bytes, memory
    Plan(PlanArgs),
    /// Run a job on a virtual clock: step times, waits, buffers, bytes in a moment, without training
    #[command(after_help = SIMULATE_EXAMPLES)]
    Simulate(Box<SimulateArgs>),
    /// Compute the paper's tables and figures and compare
    #[command(after_help = REPRODUCE_EXAMPLES)]
    Reproduce(ReproduceArgs),
    /// Send a job's simulated streams to a Kafka, without training
    #[command(after_help = PRODUCE_EXAMPLES)]
    Produce(ProduceArgs),
    /// List the data sets that are here, and how to get the missing ones
    Data(DataArgs),
    /// Measure the accuracy of a run's model on all held-out pictures
    Evaluate(TrainerArgs),
    /// Train a run again from its journal and compare the parameters, bit for bit
    Replay(TrainerArgs),
    /// Print the summary of a run, write its page, or its steps for TensorBoard
    Report(ReportArgs),
    /// Put runs side by side: settings that differ, results, curves
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(CompareArgs),
    /// In a cluster: show jobs, or one job with its devices
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// In a cluster: say in one sentence what is wrong with a job, and what to do
    #[command(after_help = WHY_EXAMPLES)]
    Why(WhyArgs),
    /// In a cluster: bring a job's model and journal here
    #[command(after_help = FETCH_EXAMPLES)]
    Fetch(FetchArgs),
    /// Keep one worker of `run --backend mpi`; started by mpiexec, not by hand
    #[command(hide = true)]
    MpiRank(MpiRankArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  scadles run job.yaml                       embedded broker, run folder runs/<job>-<time>/
  scadles run job.yaml --out /tmp/first      run folder of your choice
  scadles run job.yaml --ui                  and a page in the browser: http://127.0.0.1:8090/
  scadles run job.yaml --tensorboard tb      and scalars for TensorBoard: tensorboard --logdir tb
  scadles run job.yaml --kafka kafka:9092    streams on a real Kafka
  scadles run job.yaml --backend mpi         workers as ranks of Open MPI or MPICH
  scadles run job.yaml --backend nccl        workers on a GPU each
  scadles run job.yaml --resume              go on with the latest run of this job under runs/
  scadles run job.yaml --resume /tmp/first   go on with that run
  scadles run --preset adapcomp-resnet152    settings of the reference repository, at a laptop's size
  scadles run --preset adapcomp-resnet152 --model ResNet18 --devices 8 --steps 500

Ctrl-C stops after a checkpoint and writes the report; a second Ctrl-C ends at once (the report is written all the same).";

const TUNE_EXAMPLES: &str = "\
Examples:
  scadles tune runs/first                          what holds now, and since which step
  scadles tune runs/first --ratio 0.05             send half of what a ratio of 0.1 sends
  scadles tune runs/first --mode Adaptive --delta 0.2
                                                   and only in steps that lose at most a fifth of the energy
  scadles tune runs/first --donor-fraction 0.25 --shared-fraction 0.1
                                                   fewer devices share less of their batches

The job must have begun with what is tuned: compression (any mode but None), or injection with devices that may share.
Values are checked like those of a job file (docs/job.md). They hold until they are tuned again, over restarts of the
group and `scadles run --resume`, unless the job file given there says something else than before; report.json lists
what held from which step on. In a cluster change the fields of the job itself: kubectl edit scadlesjob.";

const COMPARE_EXAMPLES: &str = "\
Examples:
  scadles compare runs/linerate runs/fixed                      a table
  scadles compare runs/linerate runs/fixed --html compare.html  and a page with the curves on one axis";

const PRODUCE_EXAMPLES: &str = "\
Examples:
  scadles produce job.yaml --kafka localhost:9092                until Ctrl-C
  scadles produce job.yaml --kafka localhost:9092 --seconds 60   for a minute

Each stream goes on at the end of its topic. A broker or topics that are not there yet are waited for, for
spec.runPolicy.startDeadlineSeconds at most; a broker that goes away later is waited for as well.";

/// Where streams and data are.
#[derive(Debug, Clone, Args)]
pub struct Surroundings {
    /// `embedded`, or the bootstrap servers of a Kafka; overrides spec.kafka.bootstrapServers
    #[arg(long, value_name = "embedded|HOST:PORT")]
    pub kafka: Option<String>,
    /// Folder of the data sets [default: $SCADLES_DATA, else .cache/data of the checkout]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder with the Secrets that spec.kafka names: DIR/NAME/ca.crt, DIR/NAME/username, DIR/NAME/password (or DIR/ca/
    /// and DIR/sasl/, as pods have them)
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The job file (YAML)
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    pub job: Option<PathBuf>,
    /// A preset in its place.
    #[command(flatten)]
    pub preset: PresetArgs,
    /// Run folder [default: runs/JOB-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where streams and data are.
    #[command(flatten)]
    pub surroundings: Surroundings,
    /// Go on from the last checkpoint of RUN_DIR, or of the job's latest run
    #[arg(long, value_name = "RUN_DIR", num_args = 0..=1, conflicts_with = "out")]
    pub resume: Option<Option<PathBuf>>,
    /// Plain lines instead of the live table, also on a terminal
    #[arg(long)]
    pub plain: bool,
    /// Show the run as a page in the browser while it lives [default: 127.0.0.1:8090, a free port if that is taken];
    /// another address of this machine only if it is written out: the page has no password
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1)]
    pub ui: Option<Option<Address>>,
    /// Write steps and evaluations for TensorBoard into DIR/RUN while the run lives
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Write what all workers' threads did in their newest 200 steps to trace.json in the run folder, for
    /// ui.perfetto.dev
    #[arg(long)]
    pub trace: bool,
    /// Compute threads per worker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// What carries the workers' sums; overrides spec.backend. mpi needs a scadles-trainer that was built with MPI, and its
    /// mpiexec in PATH or named by MPIEXEC; the model's bits are those of gloo. With nccl each worker computes on a GPU of its
    /// own
    #[arg(long, value_name = "auto|gloo|mpi|nccl")]
    pub backend: Option<BackendName>,
}

/// A backend on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// As the job's `Auto`.
    Auto,
    /// Gloo.
    Gloo,
    /// MPI, which no job asks for: it is a way to start workers.
    Mpi,
    /// NCCL.
    Nccl,
}

impl BackendName {
    /// What a job file would say.
    pub const fn choice(self) -> Option<BackendChoice> {
        match self {
            Self::Auto => Some(BackendChoice::Auto),
            Self::Gloo => Some(BackendChoice::Gloo),
            Self::Nccl => Some(BackendChoice::Nccl),
            Self::Mpi => None,
        }
    }
}

/// Arguments of `tune`.
#[derive(Debug, Clone, Args)]
pub struct TuneArgs {
    /// The folder of a run that lives
    pub run: PathBuf,
    /// spec.compression.mode: Static, Adaptive or Auto
    #[arg(long, value_name = "MODE", value_parser = compression_mode)]
    pub mode: Option<CompressionMode>,
    /// spec.compression.ratio (CR): share of the elements that a compressed step sends
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub ratio: Option<f64>,
    /// spec.compression.delta (δ): the largest energy loss of a compressed step
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub delta: Option<f64>,
    /// spec.injection.donorFraction (α): share of the devices that are donors in a step
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub donor_fraction: Option<f64>,
    /// spec.injection.sharedFraction (β): share of its batch that a donor shares
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub shared_fraction: Option<f64>,
    /// Wait so many seconds at most for the step at which all ranks switch
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = positive)]
    pub wait: f64,
}

impl TuneArgs {
    /// What is asked for.
    pub fn changes(&self) -> Changes {
        let &Self { mode, ratio, delta, donor_fraction, shared_fraction, .. } = self;
        Changes { mode, ratio, delta, donor_fraction, shared_fraction }
    }
}

/// A mode by its name in the job file.
fn compression_mode(text: &str) -> Result<CompressionMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "allowed are Static, Adaptive and Auto".to_owned())
}

/// Arguments of `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// The job file (YAML)
    pub job: PathBuf,
    /// Where streams and data are.
    #[command(flatten)]
    pub surroundings: Surroundings,
    /// Compute threads per worker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
}

/// Arguments of `produce`.
#[derive(Debug, Clone, Args)]
pub struct ProduceArgs {
    /// The job file (YAML)
    pub job: PathBuf,
    /// Where streams and data are.
    #[command(flatten)]
    pub surroundings: Surroundings,
    /// Stop after this long [default: at Ctrl-C]
    #[arg(long, value_name = "N")]
    pub seconds: Option<f64>,
}

/// Arguments of `data`.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Folder of the data sets [default: $SCADLES_DATA, else .cache/data of the checkout]
    pub dir: Option<PathBuf>,
}

/// Arguments of the commands that the trainer carries out.
#[derive(Debug, Clone, Args)]
pub struct TrainerArgs {
    /// A run folder, or a model file
    pub target: PathBuf,
    /// Further arguments for the trainer
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Arguments of `report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// A run folder
    pub run: PathBuf,
    /// Write report.html into the run folder, instead of printing the summary
    #[arg(long)]
    pub html: bool,
    /// Write the curves as SVG files into DIR, instead of printing the summary
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Write steps and evaluations for TensorBoard into DIR/RUN, instead of printing the summary
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
}

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Run folders, two to eight
    #[arg(required = true, value_name = "RUN", num_args = 2..=MOST_RUNS)]
    pub runs: Vec<PathBuf>,
    /// Write a page with their curves as well
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write their curves as SVG files into DIR as well
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_tuned_are_the_fields_of_the_job() {
        let changes = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Tune(args)) => Ok(args.changes()),
            Ok(other) => unreachable!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(changes("scadles tune runs/a"), Ok(Changes::default()));
        let all = "scadles tune runs/a --mode Auto --ratio 0.05 --delta -1 --donor-fraction 0.5 --shared-fraction 0.25";
        let expected = Changes {
            mode: Some(CompressionMode::Auto),
            ratio: Some(0.05),
            delta: Some(-1.0),
            donor_fraction: Some(0.5),
            shared_fraction: Some(0.25),
        };
        assert_eq!(changes(all), Ok(expected), "values are judged together with the job");
        assert!(
            changes("scadles tune runs/a --mode auto").unwrap_err().contains("Static, Adaptive and Auto")
        );
        assert!(changes("scadles tune runs/a --wait 0").is_err());
    }

    #[test]
    fn resume_may_name_a_run_or_leave_it_open() {
        let resume = |line: &str| match Cli::parse_from(line.split(' ')).command {
            Command::Run(args) => args.resume,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(resume("scadles run job.yaml"), None);
        assert_eq!(resume("scadles run job.yaml --resume"), Some(None));
        assert_eq!(resume("scadles run job.yaml --resume runs/a"), Some(Some("runs/a".into())));
    }

    #[test]
    fn the_page_may_have_an_address_or_leave_it_open() {
        let ui = |line: &str| {
            Cli::try_parse_from(line.split(' ')).map(|cli| match cli.command {
                Command::Run(args) => args.ui,
                other => unreachable!("{other:?}"),
            })
        };
        assert_eq!(ui("scadles run job.yaml").unwrap(), None);
        assert_eq!(ui("scadles run job.yaml --ui").unwrap(), Some(None));
        assert_eq!(ui("scadles run job.yaml --ui 9000").unwrap(), Some("9000".parse().ok()));
        let words = ui("scadles run --ui job.yaml").unwrap_err().to_string();
        assert!(words.contains("job.yaml") && words.contains("goes behind the job file"), "{words}");
    }
}
