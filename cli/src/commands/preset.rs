//! A preset as the job of `scadles run --preset` and `scadles simulate --preset … --train`.

use std::path::Path;

use scadles_control::{
    ValidatedJob,
    cost::{BYTES_PER_PARAMETER, parameter_count},
};

use crate::{
    failure::{Failure, Result},
    job::{self, LoadedJob},
    simulate::{
        laptop::{self, Size},
        presets::{self, Preset},
    },
    surroundings,
};

/// Files without which a preset on CIFAR-100 is trained on CIFAR-10.
const CIFAR_100: [&str; 2] = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"];

/// Where a preset is trained.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// By a process per device, with this broker.
    Processes {
        /// `embedded`, or bootstrap servers.
        kafka: Option<&'a str>,
    },
    /// By logical devices in one process.
    VirtualClock,
}

/// The preset of a name.
pub fn find(name: &str) -> Result<&'static Preset> {
    presets::find(name).map_err(|nearest| {
        Failure::configuration(
            format!("preset = {name}: there is no preset (and no job file) of this name"),
            format!("did you mean {}? `scadles simulate --list-presets` lists all", nearest.join(", ")),
        )
    })
}

/// The preset as a job of this size that the machine has the memory for; its notes say what was replaced.
pub fn load(name: &str, size: &Size, data_dir: &Path, place: Place<'_>) -> Result<LoadedJob> {
    let has_cifar_100 = CIFAR_100.iter().all(|file| data_dir.join(file).is_file());
    let draft = laptop::draft(find(name)?, size, has_cifar_100)?;
    let kafka = match place {
        Place::Processes { kafka } => kafka,
        Place::VirtualClock => Some("embedded"),
    };
    let loaded = job::load_text(Path::new(name), draft.text(), kafka)?;
    let (devices, needed) = (loaded.validated.devices.len(), needed_bytes(&loaded.validated, place));
    laptop::check_memory(draft.model, devices, needed, surroundings::memory_bytes())?;
    Ok(LoadedJob { notes: draft.about, ..loaded })
}

/// Memory that parameters, gradients and samples take, in bytes; what layers hold for a moment is not in it.
fn needed_bytes(job: &ValidatedJob, place: Place<'_>) -> u64 {
    let network = BYTES_PER_PARAMETER * parameter_count(&job.model);
    let devices = job.devices.len() as u64;
    let compresses = job.compression.is_some();
    match place {
        // Parameters, gradients, momentum; with compression what is kept back, and messages on their way.
        Place::Processes { .. } => {
            let networks = if compresses { 5 } else { 3 };
            devices * (networks * network + job.stream.buffer_bytes)
        }
        // One network; per device its gradients, and what it keeps back.
        Place::VirtualClock => (3 + devices * if compresses { 2 } else { 1 }) * network,
    }
}
