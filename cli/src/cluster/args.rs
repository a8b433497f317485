//! The command lines of `status`, `why` and `fetch`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Shown after `scadles status --help`.
pub const STATUS_EXAMPLES: &str = "\
Examples:
  scadles status                      the jobs of the kubeconfig's namespace, one line each
  scadles status -A --watch           all namespaces, on the screen until Ctrl-C
  scadles status fashion -n demo      one job: its devices, failures, checkpoint, result
  scadles status fashion -o json      the whole object, for programs

Columns: ready = workers that are ready, of all; lag = samples that wait, in the workers and at the broker;
starved = devices whose stream the group waits for; top-1 = latest evaluation.
A job in trouble is explained by `scadles why JOB`.";

/// Shown after `scadles why --help`.
pub const WHY_EXAMPLES: &str = "\
Examples:
  scadles why fashion                 the first cause, and what to do about it, in one sentence
  scadles why fashion -n demo || …    exit code 1 says that something is wrong

Looks at the job's status, its pods and the warnings about them. The sentences: docs/troubleshooting.md.
Exit codes: 0 all is well, 1 something is wrong, 2 the cluster could not be asked.";

/// Shown after `scadles fetch --help`.
pub const FETCH_EXAMPLES: &str = "\
Examples:
  scadles fetch fashion                          into runs/fashion
  scadles fetch fashion -n demo --out first      into a folder of your choice
  scadles evaluate runs/fashion --data DIR       then: its accuracy on all held-out pictures

A pod of a few seconds mounts the job's claim read-only and sends the files; it is deleted again, also after Ctrl-C.
This needs the right to create pods and pods/exec in the job's namespace (role `edit`).";

/// Which cluster and which namespace.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// Namespace of the job [default: the kubeconfig's]
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the pod's own account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As the API server has them.
    Json,
}

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// A job; without it all jobs of the namespace are listed
    pub job: Option<String>,
    /// Which cluster and which namespace.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The jobs of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["job", "namespace"])]
    pub all_namespaces: bool,
    /// Look again every two seconds, until Ctrl-C or the job's end; in a pipe only what has changed is written
    #[arg(short, long)]
    pub watch: bool,
    /// The object, or a list of objects, instead of text
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "watch")]
    pub output: Option<Format>,
}

/// Arguments of `why`.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The job
    pub job: String,
    /// Which cluster and which namespace.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `fetch`.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// The job
    pub job: String,
    /// Folder to write, new or empty [default: runs/JOB]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Which cluster and which namespace.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}
