//! The user's own network: a file that `torch.jit.script(module).save(FILE)` has written. Reads that file.
//!
//! Guarantees: the trained parameters are the module's own tensors, and their start values the file's; what comes through
//! [`TorchScript::load`] takes batches of any size, draws no random numbers, keeps no state but its parameters, and gives
//! one score per class, so that ranks, restarts and replays agree like those of a built-in network. The module stays in
//! training mode. Its graph is interpreted as it is written: libtorch's optimising executor rewrites a graph after its first
//! runs, so that the last bits of a gradient would depend on how long the process has been training.

use std::path::{Path, PathBuf};

use scadles_api::worker::ModelConfig;
use tch::{CModule, Device, Kind, TchError, Tensor, jit};
use torch_ext::{ScriptFinding, inspect_script};

use super::{Network, NormBy, ParameterSet};
use crate::results::sha256;

/// Batches that a module is tried with: one sample, as the last of a micro-batch may be, and different sizes.
const TRIED_BATCHES: [i64; 3] = [2, 1, 3];

/// A file that cannot be trained.
#[derive(Debug, thiserror::Error)]
#[error("spec.model.torchScript.path: {}: {problem}", path.display())]
pub struct ModelFileError {
    path: PathBuf,
    problem: Problem,
}

impl ModelFileError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.problem.remedy()
    }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("is not named")]
    Unnamed,
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is no TorchScript file, or cut short: {0}")]
    Unloadable(String),
    #[error("has no parameter that can be trained")]
    Frozen,
    #[error("its parameter {name} is of kind {found:?}; training needs {expected:?}")]
    Number { name: String, found: Kind, expected: Kind },
    #[error("its parameters {first} and {second} are one and the same, which a file cannot keep")]
    Tied { first: String, second: String },
    #[error("was traced: its branches, and what depends on training, are those of one example")]
    Traced,
    #[error("its forward pass draws random numbers ({0}), which a restart or a replay could not repeat")]
    Random(String),
    #[error("its forward pass takes statistics over a batch ({0}), which the devices do not agree on")]
    BatchStatistics(String),
    #[error("its forward pass changes {0}, which the devices do not agree on and no checkpoint keeps")]
    Changes(String),
    #[error("does not take pictures of shape {shape:?} (spec.model.inputShape): {reason}")]
    Input { shape: [i64; 4], reason: String },
    #[error(
        "gives scores of shape {found:?} for {batch} pictures; spec.model.numClasses asks for {expected:?}"
    )]
    Scores { found: Vec<i64>, batch: i64, expected: [i64; 2] },
    #[error("takes a batch of {taken}, and not one of {refused}: {reason}")]
    BatchSize { taken: i64, refused: i64, reason: String },
    #[error("its scores do not depend on its parameters")]
    Detached,
}

impl Problem {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Unnamed | Self::Unreadable(_) => {
                "name a file that can be read: scadles run looks for it beside the job file, a cluster below /data"
            }
            Self::Unloadable(_) => "write it with torch.jit.script(module).save(FILE)",
            Self::Traced => "write it with torch.jit.script(module).save(FILE) instead of torch.jit.trace",
            Self::Frozen => {
                "save the module itself: neither torch.jit.freeze nor requires_grad_(False) for all of its parameters"
            }
            Self::Number { .. } => "call module.float() before the module is scripted",
            Self::Tied { .. } => "use one parameter at both places in forward()",
            Self::Random(_) => "leave dropout and other noise out of the module",
            Self::BatchStatistics(_) => "use torch.nn.GroupNorm in the place of BatchNorm",
            Self::Changes(_) => "keep no state but parameters: no counters, no running means",
            Self::Input { .. } => {
                "set spec.model.inputShape to what the module takes, and let forward() return one tensor [batch, classes]"
            }
            Self::Scores { .. } => {
                "set spec.model.numClasses to the module's classes; forward() must return one tensor [batch, classes]"
            }
            Self::BatchSize { .. } => {
                "let forward() take any number of pictures: batches of a stream have any size"
            }
            Self::Detached => "compute the scores without detach() and torch.no_grad()",
        }
    }
}

/// A scripted module.
#[derive(Debug)]
pub(super) struct TorchScript {
    module: CModule,
    file_sha256: String,
}

impl TorchScript {
    /// Reads the file, checks what can be checked before training, and registers the parameters that ask for a gradient.
    pub(super) fn load(config: &ModelConfig, set: &mut ParameterSet) -> Result<Self, ModelFileError> {
        let path = config.torch_script.as_ref().map_or(Path::new(""), |file| &file.path);
        let failed = |problem| ModelFileError { path: path.to_owned(), problem };
        if config.torch_script.is_none() {
            return Err(failed(Problem::Unnamed));
        }
        let file = std::fs::read(path).map_err(|error| failed(Problem::Unreadable(error)))?;
        let loaded = Self { module: module(&file).map_err(failed)?, file_sha256: sha256(&file) };
        loaded.register(set).map_err(failed)?;
        check_graph(&file, config).map_err(failed)?;
        loaded.check_scores(config, set.kind()).map_err(failed)?;
        Ok(loaded)
    }

    fn register(&self, set: &mut ParameterSet) -> Result<(), Problem> {
        let mut parameters = self.module.named_parameters().map_err(|error| unloadable(&error))?;
        // A parameter without a gradient stays what the file says, like a constant.
        parameters.retain(|(_, tensor)| tensor.requires_grad());
        for (index, (name, tensor)) in parameters.iter().enumerate() {
            if tensor.kind() != set.kind() {
                let (name, found, expected) = (name.clone(), tensor.kind(), set.kind());
                return Err(Problem::Number { name, found, expected });
            }
            let same = |(_, other): &&(String, Tensor)| other.data_ptr() == tensor.data_ptr();
            if let Some((first, _)) = parameters[..index].iter().find(same).filter(|_| tensor.numel() > 0) {
                return Err(Problem::Tied { first: first.clone(), second: name.clone() });
            }
            set.insert(name, tensor);
        }
        if parameters.is_empty() { Err(Problem::Frozen) } else { Ok(()) }
    }

    /// Lets the module score black pictures, in batches of different sizes.
    fn check_scores(&self, config: &ModelConfig, kind: Kind) -> Result<(), Problem> {
        let [channels, height, width] = config.input_shape.map(i64::from);
        let classes = i64::from(config.num_classes);
        let mut taken = None;
        for batch in TRIED_BATCHES {
            let (shape, expected) = ([batch, channels, height, width], [batch, classes]);
            let pictures = Tensor::zeros(shape, (kind, Device::Cpu));
            let scores = self.forward(&pictures, NormBy::Batch).map_err(|error| reason(&error));
            let problem = match (scores, taken) {
                (Err(reason), None) => Problem::Input { shape, reason },
                (Err(reason), Some(taken)) => Problem::BatchSize { taken, refused: batch, reason },
                (Ok(scores), None) if scores.size() != expected => {
                    Problem::Scores { found: scores.size(), batch, expected }
                }
                (Ok(scores), Some(taken)) if scores.size() != expected => {
                    let reason = format!("it gives scores of shape {:?}", scores.size());
                    Problem::BatchSize { taken, refused: batch, reason }
                }
                (Ok(scores), _) if !scores.requires_grad() => Problem::Detached,
                (Ok(_), _) => {
                    taken = Some(batch);
                    continue;
                }
            };
            return Err(problem);
        }
        Ok(())
    }
}

impl Network for TorchScript {
    fn forward(&self, pictures: &Tensor, _norm_by: NormBy) -> Result<Tensor, TchError> {
        // A setting of the calling thread, whichever that is.
        jit::f_set_graph_executor_optimize(false)?;
        self.module.forward_ts(&[pictures])
    }

    fn file_sha256(&self) -> Option<&str> {
        Some(&self.file_sha256)
    }
}

fn module(mut file: &[u8]) -> Result<CModule, Problem> {
    let mut module =
        CModule::load_data_on_device(&mut file, Device::Cpu).map_err(|error| unloadable(&error))?;
    module.f_set_train().map_err(|error| unloadable(&error))?;
    Ok(module)
}

/// What can be seen without training, and what a pass over black pictures changes.
fn check_graph(file: &[u8], config: &ModelConfig) -> Result<(), Problem> {
    let [channels, height, width] = config.input_shape.map(i64::from);
    let findings = inspect_script(file, &[2, channels, height, width])
        .map_err(|error| Problem::Unloadable(first_words(&error.to_string())))?;
    // Statistics first: they are also seen as changes.
    let first = findings.iter().find(|finding| matches!(finding, ScriptFinding::BatchStatistics(_)));
    Err(match first.or(findings.first()) {
        None => return Ok(()),
        Some(ScriptFinding::Traced) => Problem::Traced,
        Some(ScriptFinding::BatchStatistics(operation)) => Problem::BatchStatistics(operation.clone()),
        Some(ScriptFinding::Random(operation)) => Problem::Random(operation.clone()),
        Some(ScriptFinding::Assigns(name)) => Problem::Changes(format!("its attribute {name}")),
        Some(ScriptFinding::Changes(name)) => Problem::Changes(format!("its tensor {name}")),
    })
}

fn unloadable(error: &TchError) -> Problem {
    Problem::Unloadable(reason(error))
}

/// What libtorch says, without the stacks of both languages that it adds.
fn reason(error: &TchError) -> String {
    first_words(&error.to_string())
}

/// The sentence of a message of libtorch: of the last line of an error in TorchScript, else of the first line; nothing from
/// C++'s stack, nor the general advice that follows some messages.
fn first_words(message: &str) -> String {
    let said = message.split("Exception raised from").next().unwrap_or(message).trim();
    let of_script = said.lines().rev().find_map(|line| line.split_once("Error: "));
    let line = of_script.map_or_else(|| said.lines().next().unwrap_or_default(), |(_, rest)| rest);
    let line = line.trim().trim_start_matches("Internal torch error: ");
    line.split(". ").next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_libtorch_are_cut_to_their_sentence() {
        let script = "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most \
                      recent call last):\n  File \"net.py\", line 7, in forward\n        return self.fc(x)\n               \
                      ~~~~~~~ <--- HERE\nRuntimeError: mat1 and mat2 shapes cannot be multiplied (2x64 and 128x4)\n";
        assert_eq!(first_words(script), "mat1 and mat2 shapes cannot be multiplied (2x64 and 128x4)");
        let native = "Internal torch error: PytorchStreamReader failed reading zip archive: not a ZIP archive. This is an \
                      internal miniz error.\nException raised from valid at \
                      ../inline_container.cc:204 (most recent call first):\nframe #0: c10::Error";
        assert_eq!(first_words(native), "PytorchStreamReader failed reading zip archive: not a ZIP archive");
    }
}
