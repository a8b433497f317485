//! The command line of the operator.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;

/// Reconciles ScadlesJobs into Kafka topics and trainer pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "scadles-operator", version, about, max_term_width = 100)]
pub struct Args {
    /// Image of the trainers of jobs that name none
    #[arg(long, value_name = "IMAGE", default_value = concat!("ghcr.io/scadles/scadles-trainer:", env!("CARGO_PKG_VERSION")))]
    pub trainer_image: String,
    /// Image of the trainers that compute on GPUs, of jobs that name none
    #[arg(long, value_name = "IMAGE", default_value = concat!("ghcr.io/scadles/scadles-trainer:", env!("CARGO_PKG_VERSION"), "-cuda"))]
    pub trainer_cuda_image: String,
    /// Namespaces to look after [default: all]
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Seconds between writes of a steady job's counters; 0 = never
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub status_heartbeat_seconds: u64,
    /// Whether replicas agree on one that acts
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Lease by which they agree
    #[arg(long, value_name = "NAME", default_value = "scadles-operator")]
    pub lease_name: String,
    /// Its namespace
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of this replica
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "scadles-operator")]
    pub identity: String,
    /// File with the key that the jobs' tokens are made from
    #[arg(long, value_name = "FILE", conflicts_with = "key_secret")]
    pub key_file: Option<PathBuf>,
    /// Secret with that key (`key`) in the operator's namespace; made if it is missing
    #[arg(long, value_name = "NAME")]
    pub key_secret: Option<String>,
    /// Helm release, for messages that say what to type
    #[arg(long, value_name = "NAME", env = "SCADLES_RELEASE", default_value = "scadles")]
    pub release: String,
}
