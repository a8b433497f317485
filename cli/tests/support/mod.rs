//! Starting `scadles` as a user does, and looking at what it leaves.

#![allow(dead_code, unreachable_pub, reason = "every test binary includes it and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub mod account;
pub mod book;
pub mod chromium;
pub mod finished;
pub mod learnable;
pub mod replay;
pub mod running;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use scadles_api::report::RunReport;

/// Longer than anything here takes on a busy machine; a hang fails instead of blocking.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Runs of a test program train one after another: they would only take the processor from each other.
pub fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder of this test alone, removed when the test passes.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("scadles-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The folder that cargo builds programs into.
pub fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_scadles")).parent().unwrap().to_owned()
}

/// The worker without a model, see `examples/fake_worker.rs`. Built here: `cargo test --test NAME` leaves examples out.
pub fn fake_worker() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let release = target_dir().ends_with("release").then_some("--release");
            let mut build = Command::new(env!("CARGO"));
            // What cargo tells a test about its package would have ring, and all that needs it, built anew.
            let of_package =
                |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
            for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
                build.env_remove(name);
            }
            // Of the whole workspace: one package alone has other features, and would build its dependencies anew.
            build.args(["build", "--quiet", "--workspace", "--example", "fake_worker"]).args(release);
            let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
            assert!(status.success(), "the example fake_worker cannot be built");
            target_dir().join("examples/fake_worker")
        })
        .clone()
}

/// The real worker; it must be built before.
pub fn trainer() -> PathBuf {
    let path = target_dir().join("scadles-trainer");
    assert!(path.is_file(), "{} is missing: cargo build -p scadles-trainer", path.display());
    path
}

/// The data sets of the checkout, CIFAR-10 among them.
pub fn data_sets() -> PathBuf {
    std::env::var_os("SCADLES_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/data"), PathBuf::from)
}

/// `scadles` with a worker's program, output captured.
pub fn scadles(worker: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scadles"));
    command.env("SCADLES_TRAINER", worker).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of a process; kills it and fails when it does not come.
pub fn finish(child: Child) -> Output {
    finish_within(PATIENCE, child)
}

/// The same for what takes longer.
pub fn finish_within(patience: Duration, mut child: Child) -> Output {
    let deadline = Instant::now() + patience;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("still running after {patience:?}:\n{}", text(&output));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// Standard output and standard error.
pub fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `look` sees something.
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `report.json` of a run.
pub fn report(run: &Path) -> RunReport {
    let text = std::fs::read_to_string(run.join("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a runner remembers; `None` while it has not written it.
pub fn memory(run: &Path) -> Option<scadles::memory::Memory> {
    scadles::memory::Memory::load(run).ok()
}

/// Ids of the workers of a run: processes whose command line names its configuration files. Keepers of workers do, too.
pub fn workers(run: &Path) -> Vec<(String, u32)> {
    let folder = run.canonicalize().unwrap_or_else(|_| run.to_owned()).join("workers");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(line) = std::fs::read_to_string(entry.path().join("cmdline")) else { continue };
        if line.split('\0').nth(1) != Some("worker") {
            continue;
        }
        let config = line.split('\0').find(|argument| Path::new(argument).starts_with(&folder));
        if let Some(config) = config {
            let device = Path::new(config).file_stem().unwrap().to_string_lossy().into_owned();
            found.push((device, id));
        }
    }
    found.sort();
    found
}

/// Sends a signal by name (`KILL`, `INT`, `TERM`).
pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &id.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {id}");
}

/// Arrived = trained + buffered + dropped + rejected + lost, for every device.
pub fn assert_balanced(report: &RunReport) {
    for device in &report.devices {
        let sum = device.trained + device.buffered + device.dropped + device.rejected + device.lost;
        assert_eq!(device.arrived, sum, "{device:?}");
    }
}
