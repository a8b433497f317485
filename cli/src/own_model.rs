//! The network of a job that brings its own: found beside the job file, looked at by the trainer, which alone can read it.
//! I/O.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use scadles_api::worker::ModelVerdict;

use crate::{
    failure::{Failure, Result},
    job::LoadedJob,
    surroundings,
};

/// Fills in where the file of the job's network lies and how many parameters it has; leaves built-in networks alone. What
/// cannot be trained is a mistake of the job.
pub fn look_at(loaded: &mut LoadedJob) -> Result<()> {
    let job_file = loaded.origin.clone();
    let model = &mut loaded.validated.model;
    let Some(file) = &mut model.torch_script else { return Ok(()) };
    file.path = beside(&job_file, &file.path);
    let refused = |message: String, remedy: &str| {
        Err(Failure::configuration(format!("{}: {message}", job_file.display()), remedy))
    };
    let Ok(described) = serde_json::to_string(model) else {
        return refused(
            "spec.model.torchScript.path: the path is no UTF-8 text".to_owned(),
            "rename the file",
        );
    };
    let trainer = surroundings::trainer()?;
    let unstarted = |error: std::io::Error| {
        Failure::internal(format!("{} cannot be started: {error}", trainer.display()))
    };
    let mut command = Command::new(&trainer);
    let output =
        command.arg("check-model").arg(described).stdin(Stdio::null()).output().map_err(unstarted)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(ModelVerdict::Usable { parameters }) => {
            if let Some(file) = &mut model.torch_script {
                file.parameters = Some(parameters);
            }
            Ok(())
        }
        Ok(ModelVerdict::Refused { message, remedy }) => refused(message, &remedy),
        Err(_) => refused(
            format!(
                "spec.model.torchScript.path: the trainer could not look at the file ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            "write it with torch.jit.script(module).save(FILE); use scadles and scadles-trainer of one version",
        ),
    }
}

/// `path` as seen from the folder of the job file.
fn beside(job_file: &Path, path: &Path) -> PathBuf {
    surroundings::absolute(&job_file.parent().unwrap_or(Path::new("")).join(path))
}
