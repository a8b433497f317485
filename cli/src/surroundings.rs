//! Facts of this machine: folders, programs, memory, limits, randomness. All of it I/O, none of it decides.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scadles_control::{Body, BrokerKind, Buckets, SecretFiles, ValidatedJob, validate::KafkaSecrets};
use scadles_kafka::broker::EMBEDDED_BYTES_PER_PARTITION;

use crate::{
    body::streams::Venue,
    failure::{Failure, Result},
};

/// Names the worker's program.
pub const TRAINER_VARIABLE: &str = "SCADLES_TRAINER";

/// Names the folder of the data sets.
pub const DATA_VARIABLE: &str = "SCADLES_DATA";

/// Open files of the runner itself: libraries, logs, its own clients.
const OWN_FILES: u64 = 64;

/// Open files per device: a worker's pipes, its connections to the embedded broker, a log.
const FILES_PER_DEVICE: u64 = 16;

/// The worker's program: named by the environment, or beside this one.
pub fn trainer() -> Result<PathBuf> {
    let remedy = format!(
        "build it: cargo build -p scadles-trainer (or `make build`), or name it in {TRAINER_VARIABLE}"
    );
    if let Some(named) = std::env::var_os(TRAINER_VARIABLE) {
        let path = PathBuf::from(named);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Failure::configuration(
                format!("{TRAINER_VARIABLE}={}: there is no such file", path.display()),
                remedy,
            ))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("scadles-trainer")))
        .unwrap_or_else(|| PathBuf::from("scadles-trainer"));
    if beside.is_file() {
        return Ok(beside);
    }
    Err(Failure::configuration(format!("the worker's program {} is not there", beside.display()), remedy))
}

/// Folder of the data sets: as asked for, as named by the environment, or `.cache/data` of a checkout here or around
/// this program.
pub fn data_dir(asked: Option<&Path>) -> PathBuf {
    if let Some(asked) = asked {
        return absolute(asked);
    }
    if let Some(named) = std::env::var_os(DATA_VARIABLE) {
        return absolute(Path::new(&named));
    }
    let here = PathBuf::from(".cache/data");
    if !here.is_dir()
        && let Ok(exe) = std::env::current_exe()
        && let Some(found) = exe.ancestors().map(|folder| folder.join(".cache/data")).find(|dir| dir.is_dir())
    {
        return found;
    }
    absolute(&here)
}

/// Where the files of the job's Secrets are: named by the part that they play, as in a pod, if all of these folders are
/// there, else by the Secret.
pub fn secret_files(folder: Option<&Path>, secrets: &KafkaSecrets) -> SecretFiles {
    let Some(folder) = folder else { return SecretFiles::Missing };
    let ca = secrets.tls.iter().flatten().next().map(|_| "ca");
    let roles: Vec<&str> = ca.into_iter().chain(secrets.sasl.as_ref().map(|_| "sasl")).collect();
    if !roles.is_empty() && roles.iter().all(|role| folder.join(role).is_dir()) {
        SecretFiles::ByRole(absolute(folder))
    } else {
        SecretFiles::ByName(absolute(folder))
    }
}

/// The path from the root of the file system, links left as they are.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The broker as a plan wants to know it; `None`: an embedded one that is yet to be started.
pub fn broker_kind(venue: Option<&Venue>) -> BrokerKind {
    let embedded = |bootstrap_servers| BrokerKind::Embedded {
        bootstrap_servers,
        bytes_per_partition: EMBEDDED_BYTES_PER_PARTITION,
        memory_bytes_of_machine: memory_bytes(),
    };
    match venue {
        None => embedded(String::new()),
        Some(Venue::Embedded(broker)) => embedded(broker.servers().to_owned()),
        Some(Venue::Servers(servers)) => BrokerKind::Servers(servers.clone()),
    }
}

/// A body that nothing is started in: what `plan` and `simulate` look at.
pub fn planning_body(
    job: &ValidatedJob,
    broker: BrokerKind,
    data: Option<&Path>,
    secrets: Option<&Path>,
) -> Body {
    Body {
        broker,
        uid: "planned".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: PathBuf::from(format!("runs/{}-<time>", job.name)),
        data_dir: data_dir(data),
        checkpoint_root: None,
        buckets: Buckets::default(),
        token: String::new(),
        threads: 1,
        cores: cores(),
        secrets: secret_files(secrets, &job.kafka_secrets),
        cluster: false,
    }
}

/// Cores of this machine.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// Memory of this machine; as good as endless where the system does not say.
pub fn memory_bytes() -> u64 {
    let kibibytes = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes * 1024)
}

/// Lets this process and its workers open as many files as a job of `devices` needs.
pub fn raise_file_limit(devices: usize) -> Result<()> {
    let needed = OWN_FILES + FILES_PER_DEVICE * devices as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = limit.maximum.map_or(needed, |maximum| maximum.min(needed.max(4096)));
    let enough = raised >= needed
        && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok();
    if enough {
        return Ok(());
    }
    Err(Failure::configuration(
        format!(
            "only {} files may be open at a time, a job of {devices} devices needs {needed}",
            limit.current.unwrap_or(u64::MAX)
        ),
        format!("raise the limit before the start: ulimit -n {}", needed.next_power_of_two()),
    ))
}

/// Random text of `bytes` bytes in hexadecimal.
pub fn random_text(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::internal(format!("the system gives no random numbers: {error}")))?;
    let mut text = String::with_capacity(2 * bytes);
    for byte in random {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
