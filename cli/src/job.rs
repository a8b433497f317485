//! A job file, read and checked.

use std::path::{Path, PathBuf};

use scadles_api::{
    ScadlesJob,
    job::{BackendChoice, KafkaSpec},
};
use scadles_control::{Mistakes, ValidatedJob, parse_job, validate};

use crate::failure::{Failure, Result};

/// A job file that has no mistakes.
#[derive(Clone, Debug)]
pub struct LoadedJob {
    /// The file, or the name of the preset that the job is made of.
    pub origin: PathBuf,
    /// The file's text.
    pub text: String,
    /// The job as given, the broker replaced where the command line asks for another.
    pub job: ScadlesJob,
    /// What a preset says of itself, and what was replaced of it.
    pub notes: Vec<String>,
    /// Every default filled in.
    pub validated: ValidatedJob,
}

/// Reads and checks a job file; `kafka` is `embedded` or bootstrap servers, and replaces the file's own.
pub fn load(path: &Path, kafka: Option<&str>) -> Result<LoadedJob> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::configuration(
            format!("job file {}: {error}", path.display()),
            "name a job file, such as manifests/examples/quickstart-local.yaml",
        )
    })?;
    load_text(path, text, kafka)
}

/// The same of a job's text, whose origin is named where it is wrong.
pub fn load_text(origin: &Path, text: String, kafka: Option<&str>) -> Result<LoadedJob> {
    let wrong = |mistakes: Mistakes| wrong(origin, &mistakes);
    let mut job = parse_job(&text).map_err(wrong)?;
    if let Some(kafka) = kafka {
        replace_broker(&mut job, kafka);
    }
    let validated = validate(&job).map_err(wrong)?;
    Ok(LoadedJob { origin: origin.to_owned(), text, job, notes: Vec::new(), validated })
}

impl LoadedJob {
    /// Puts the backend of the command line in the place of the file's.
    pub fn choose_backend(&mut self, choice: BackendChoice) -> Result<()> {
        self.job.spec.backend = Some(choice);
        self.validated = validate(&self.job).map_err(|mistakes| wrong(&self.origin, &mistakes))?;
        Ok(())
    }
}

fn wrong(origin: &Path, mistakes: &Mistakes) -> Failure {
    Failure::configuration(format!("{}: {mistakes}", origin.display()).trim_end(), "")
}

/// Puts the broker of the command line in the place of the file's. Settings of topics, encryption and identity stay
/// with a real broker.
fn replace_broker(job: &mut ScadlesJob, kafka: &str) {
    let given = job.spec.kafka.take();
    job.spec.kafka = match (kafka, given) {
        ("embedded", _) => None,
        (servers, Some(given)) => Some(KafkaSpec { bootstrap_servers: servers.to_owned(), ..given }),
        (servers, None) => {
            Some(KafkaSpec { bootstrap_servers: servers.to_owned(), topics: None, tls: None, sasl: None })
        }
    };
}
