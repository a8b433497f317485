//! The command line of a worker, and the configuration that it gives. Reads files.

use std::path::{Path, PathBuf};

use clap::ArgGroup;
use scadles_api::{
    ExitCode, PROTOCOL_VERSION, WorkerConfig,
    worker::{Backend, JobConfig},
};
use serde::de::DeserializeOwned;

use crate::{engine::HAS_MPI, worker::Failure};

/// The flag whose file must say something even if the command line is wrong.
const TERMINATION_LOG: &str = "--termination-log";

/// Arguments of `scadles-trainer worker`: a file with everything (`--config`), or the job's file and this worker's part
/// in it as arguments (`--job`).
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(group = ArgGroup::new("source").required(true).args(["config", "job"]))]
pub struct WorkerArguments {
    /// The worker's whole configuration (JSON), as `scadles run` writes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The job with every default filled in (JSON); this worker's part in it is given by the arguments below
    #[arg(long, value_name = "FILE", requires_all = ["device", "host", "token_file"])]
    job: Option<PathBuf>,
    /// Device of the job that this worker trains on
    #[arg(long, value_name = "NAME", requires = "job")]
    device: Option<String>,
    /// This machine's address, as the other workers and the supervisor reach it
    #[arg(long, value_name = "IP", env = "POD_IP")]
    host: Option<String>,
    /// Port of the endpoint; 0: any free one
    #[arg(long, default_value_t = 7200, requires = "job")]
    port: u16,
    /// Port of the control hub, used if this worker becomes rank 0; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 7201, requires = "job")]
    hub_port: u16,
    /// File with the token that every request must carry
    #[arg(long, value_name = "FILE", requires = "job")]
    token_file: Option<PathBuf>,
    /// What carries the collectives, and with it where the worker computes: `gloo`, or `nccl` on a GPU
    #[arg(long, value_name = "gloo|nccl", default_value = "gloo", requires = "job", value_parser = backend)]
    backend: Backend,
    /// File that gets the worker's last words (JSON, at most 4 KiB), however it ends
    #[arg(long, value_name = "FILE")]
    pub(super) termination_log: Option<PathBuf>,
    /// Go on when standard input closes; only a supervisor's silence (spec.runPolicy.orphanSeconds) ends the worker
    #[arg(long)]
    pub(super) detached: bool,
}

impl WorkerArguments {
    /// Reads the files and puts the configuration together.
    pub(super) fn read(&self) -> Result<WorkerConfig, Failure> {
        let config = match (&self.config, &self.job) {
            (Some(path), _) => read_config(path)?,
            (None, Some(path)) => self.read_job(path)?,
            // The command line's parser lets neither pass.
            (None, None) => return Err(configuration("--config: missing".to_owned())),
        };
        if config.backend == Backend::Mpi && !HAS_MPI {
            return Err(configuration(
                "--backend mpi: this scadles-trainer was built without MPI".to_owned(),
            )
            .with_remedy(
                "install Open MPI or MPICH with libclang, then build it: cargo build --workspace --bins \
                     --features scadles-trainer/mpi",
            ));
        }
        if config.device_index < config.job.devices.len() {
            return Ok(config);
        }
        let (index, devices) = (config.device_index, config.job.devices.len());
        Err(configuration(format!("--config: deviceIndex is {index}, the job has {devices} devices")))
    }

    fn read_job(&self, path: &Path) -> Result<WorkerConfig, Failure> {
        let job: JobConfig = read_json("--job", path)?;
        let device = given("--device", self.device.as_deref())?;
        let device_index = job.devices.iter().position(|known| known.name == device).ok_or_else(|| {
            let names: Vec<&str> = job.devices.iter().map(|known| known.name.as_str()).collect();
            configuration(format!("--device {device}: the job's devices are {}", names.join(", ")))
        })?;
        let token_file = self.token_file.as_deref().ok_or_else(|| missing("--token-file"))?;
        let token = read_text("--token-file", token_file)?.trim().to_owned();
        if token.is_empty() {
            return Err(configuration(format!("--token-file {}: it is empty", token_file.display())));
        }
        Ok(WorkerConfig {
            protocol: PROTOCOL_VERSION,
            device_index,
            host: given("--host", self.host.as_deref())?.to_owned(),
            port: self.port,
            hub_port: self.hub_port,
            token,
            backend: self.backend,
            job,
        })
    }
}

fn backend(name: &str) -> Result<Backend, String> {
    match name {
        "gloo" => Ok(Backend::Gloo),
        "nccl" => Ok(Backend::Nccl),
        _ => Err("allowed: gloo, nccl".to_owned()),
    }
}

fn given<'a>(flag: &str, value: Option<&'a str>) -> Result<&'a str, Failure> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| missing(flag))
}

fn missing(flag: &str) -> Failure {
    configuration(format!("{flag}: missing or empty"))
}

fn configuration(message: String) -> Failure {
    Failure::new(ExitCode::Configuration, message)
}

fn read_config(path: &Path) -> Result<WorkerConfig, Failure> {
    // The protocol first: the rest of another version's file may not read.
    let value: serde_json::Value = read_json("--config", path)?;
    let protocol = value.get("protocol").and_then(serde_json::Value::as_u64).unwrap_or_default();
    if protocol != u64::from(PROTOCOL_VERSION) {
        let path = path.display();
        let problem = format!(
            "--config {path}: written for protocol {protocol}, this worker speaks {PROTOCOL_VERSION}"
        );
        return Err(configuration(problem).with_remedy("use scadles and scadles-trainer of one version"));
    }
    serde_json::from_value(value)
        .map_err(|error| configuration(format!("--config {}: {error}", path.display())))
}

fn read_json<T: DeserializeOwned>(flag: &str, path: &Path) -> Result<T, Failure> {
    serde_json::from_str(&read_text(flag, path)?)
        .map_err(|error| configuration(format!("{flag} {}: {error}", path.display())))
}

fn read_text(flag: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| configuration(format!("{flag} {}: {error}", path.display())))
}

/// The file of `--termination-log` on a command line that cannot be parsed.
pub(super) fn termination_log(arguments: impl IntoIterator<Item = String>) -> Option<PathBuf> {
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == TERMINATION_LOG {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(value) = argument.strip_prefix(TERMINATION_LOG).and_then(|rest| rest.strip_prefix('=')) {
            return Some(PathBuf::from(value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<PathBuf> {
        termination_log(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_termination_log_is_found_on_a_command_line_that_does_not_parse() {
        assert_eq!(found("worker --wrong --termination-log /log --job"), Some("/log".into()));
        assert_eq!(found("worker --termination-log=/log"), Some("/log".into()));
        assert_eq!(found("worker --termination-log"), None);
        assert_eq!(found("worker --termination-logs=/log"), None);
    }
}
