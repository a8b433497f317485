//! Faults of whole runs on the embedded broker: workers that hang, wait or are spoken to by strangers, a full disk, a
//! terminal that is gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scadles_api::ExitCode;
use scadles_control::decide::history::History;
use support::{
    Scratch, assert_balanced, await_some,
    learnable::{Settings, job},
    memory, report,
    running::{Running, tailored},
    scadles, text, trainer,
};

/// Runs train one after another: they would only take the processor from each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(job: &Path, folder: &Path) -> Running {
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).arg("--plain").arg("--out").arg(folder);
    Running::start(command, folder)
}

#[test]
fn slow_streams_are_waited_for_and_a_worker_killed_meanwhile_is_noticed_at_once() {
    let _turn = turn();
    let scratch = Scratch::new("faults-slow");
    let folder = scratch.path().join("run");
    let settings =
        Settings { name: "slow", rule: "{rule: Fixed, fixed: {size: 16}}", steps: 3, ..Settings::default() };
    // A batch takes longer than a collective may: waiting for samples is no part of a collective.
    let changes =
        [("list: [210, 97, 31]", "list: [50, 1, 50]"), ("collectiveSeconds: 20", "collectiveSeconds: 10")];
    let run = run(&tailored(&scratch, &settings, &changes), &folder);
    run.await_first_step();
    run.signal_worker("device-2", "KILL");
    let (end, took) = run.await_end_of_attempt_1();
    assert!(took < Duration::from_secs(5), "seen after {took:?}");
    assert_eq!((end.to_step, end.first_cause.as_deref()), (1, Some("device-2")), "{end:?}");
    assert!(end.ended.contains("killed by signal 9"), "{end:?}");
    run.interrupt();
}

/// The course of `crates/control/tests/history.jsonl`, which other tests decide again: with pods instead of processes, too.
#[test]
fn the_history_of_a_run_that_loses_a_worker_takes_the_recorded_course() {
    let _turn = turn();
    let scratch = Scratch::new("faults-history");
    let (folder, file) = (scratch.path().join("run"), scratch.path().join("history.jsonl"));
    let settings = Settings { name: "history", steps: 30, ..Settings::default() };
    let mut command = scadles(&trainer());
    command.arg("run").arg(job(scratch.path(), &settings)).arg("--plain").arg("--out").arg(&folder);
    command.env("SCADLES_HISTORY", &file);
    let run = Running::start(command, &folder);
    run.await_checkpoint();
    run.signal_worker("device-1", "KILL");
    run.ends_with(0);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/control/tests/history.jsonl");
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&recorded, text.replace(&*scratch.path().to_string_lossy(), "/scratch")).unwrap();
    }
    let course = |path: &Path| History::read(&fs::read_to_string(path).unwrap()).unwrap().course();
    assert_eq!(course(&file), course(&recorded), "SCADLES_WRITE_GOLDEN=1 records it anew");
}

fn a_stopped_worker_is_replaced(device: &str) {
    let _turn = turn();
    let scratch = Scratch::new(&format!("faults-stopped-{device}"));
    let folder = scratch.path().join("run");
    let settings = Settings { name: "stopped", steps: 30, ..Settings::default() };
    let run = run(&job(scratch.path(), &settings), &folder);
    run.await_checkpoint();
    // It lives, holds its sockets open and says nothing.
    run.signal_worker(device, "STOP");
    let (end, took) = run.await_end_of_attempt_1();
    assert!(took < Duration::from_secs(12), "seen after {took:?}");
    assert_eq!(end.first_cause.as_deref(), Some(device), "{end:?}");
    run.ends_with(0);
    let report = report(&folder);
    assert_eq!((report.steps, report.attempts.len()), (30, 2), "{:?}", report.attempts);
    assert_balanced(&report);
}

#[test]
fn a_worker_that_hangs_is_named_and_replaced() {
    a_stopped_worker_is_replaced("device-2");
}

#[test]
fn rank_0_that_hangs_is_named_and_replaced() {
    a_stopped_worker_is_replaced("device-0");
}

/// Ports on which a process listens.
fn ports(id: u32) -> Vec<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A") && sockets.iter().any(|inode| inode == fields[9]))
        .map(|fields| u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap())
        .collect()
}

/// Sends bytes to a port; what came back in time.
fn say(port: u16, bytes: &[u8]) -> String {
    // A port that is closed to strangers by now is as good.
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    if socket.write_all(bytes).is_err() {
        return String::new();
    }
    // A listener that says nothing, or one that hangs up, has said all that it wants to say.
    while let Ok(count @ 1..) = socket.read(&mut part) {
        answer.extend_from_slice(&part[..count]);
        if answer.windows(4).any(|window| window == b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer.
fn status(port: u16, request: &[u8]) -> Option<String> {
    let answer = say(port, request);
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()).map(str::to_owned)
}

fn request(line: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn strangers_can_neither_read_nor_stop_nor_take_over_a_run() {
    let _turn = turn();
    let scratch = Scratch::new("faults-strangers");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "strangers", steps: 100_000, ..Settings::default() };
    let run = run(&job(scratch.path(), &settings), &folder);
    run.await_checkpoint();
    let config = fs::read_to_string(folder.join("workers/device-0.json")).unwrap();
    let token = serde_json::from_str::<scadles_api::WorkerConfig>(&config).unwrap().token;
    let ports = ports(run.worker("device-0"));
    let livez = request("GET /livez", "", "");
    let endpoint = ports.iter().copied().find(|port| status(*port, &livez).as_deref() == Some("200"));
    let endpoint = endpoint.expect("the endpoint of rank 0");
    for (line, body) in [
        ("GET /v1/progress", ""),
        ("GET /metrics", ""),
        ("POST /v1/stop", r#"{"checkpoint":false}"#),
        ("POST /v1/attempt", "{}"),
    ] {
        let wrong = request(line, "0123456789abcdef0123456789abcdef", body);
        assert_eq!(status(endpoint, &wrong).as_deref(), Some("401"), "{line}");
        let none = format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(endpoint, none.as_bytes()).as_deref(), Some("401"), "{line}");
    }
    // Another supervisor, even one that knows the token: the running attempt stays.
    let attempt = scadles_api::Attempt {
        protocol: scadles_api::PROTOCOL_VERSION,
        number: 2,
        devices: (0..3).map(|rank| format!("device-{rank}")).collect(),
        rank: 0,
        hub: "127.0.0.1:1".to_owned(),
        checkpoint: None,
        tuning: scadles_api::Tuning::default(),
    };
    let second = request("POST /v1/attempt", &token, &serde_json::to_string(&attempt).unwrap());
    assert_eq!(status(endpoint, &second).as_deref(), Some("409"));
    // Noise at every port that rank 0 listens on: endpoint, control channel, store, collectives.
    for port in &ports {
        say(*port, &[0xff; 64]);
        say(*port, b"\0\0\0\x02hi");
    }
    let step = memory(&folder).unwrap().supervision.last_step;
    await_some("steps after the noise", || (memory(&folder)?.supervision.last_step > step + 5).then_some(()));
    run.interrupt();
    let report = report(&folder);
    assert_eq!(report.attempts.len(), 1, "{:?}", report.attempts);
    assert_balanced(&report);
}

/// A file system of this test alone, with little room.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with the reason on standard error, where file systems cannot be mounted.
    fn mount(place: PathBuf, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(&place).unwrap();
        let size = format!("size={megabytes}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place).output();
        let problem = match output {
            Ok(output) if output.status.success() => return Some(Self(place)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        // Past the harness, which keeps what a passing test prints to itself.
        let reason = format!("skipped: a full disk needs a tmpfs of its own, and mount says: {problem}\n");
        std::io::stderr().write_all(reason.as_bytes()).unwrap();
        None
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        while ballast.write_all(&[0]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may leave somebody in there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_below_the_run_folder_ends_the_job_with_its_path_and_a_remedy() {
    let _turn = turn();
    let scratch = Scratch::new("faults-disk");
    let Some(disk) = SmallDisk::mount(scratch.path().join("disk"), 8) else { return };
    let folder = disk.0.join("run");
    let settings = Settings { name: "disk", steps: 100_000, ..Settings::default() };
    let run = run(&job(scratch.path(), &settings), &folder);
    run.await_checkpoint();
    disk.fill();
    let full = Instant::now();
    let said = text(&run.ends_with(5));
    assert!(full.elapsed() < Duration::from_secs(30), "{:?}", full.elapsed());
    assert!(said.contains(&folder.display().to_string()), "{said}");
    assert!(said.contains("No space left on device") && said.contains("free some space"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    // With room again it goes on.
    fs::remove_file(disk.0.join("ballast")).unwrap();
    let checkpoint = memory(&folder).unwrap().supervision.checkpoint.unwrap();
    let steps = format!("maxSteps: {}", checkpoint.step + 20);
    let file = tailored(&scratch, &settings, &[("maxSteps: 100000", &steps)]);
    let mut resume = scadles(&trainer());
    resume.arg("run").arg(file).arg("--plain").arg("--resume").arg(&folder);
    Running::start(resume, &folder).ends_with(0);
    let report = report(&folder);
    assert_eq!(report.outcome, ExitCode::Completed);
    assert!(report.attempts.last().unwrap().from_step >= checkpoint.step, "{:?}", report.attempts);
    assert_balanced(&report);
}

#[test]
fn a_full_disk_below_the_checkpoints_alone_is_told_as_such() {
    let _turn = turn();
    let scratch = Scratch::new("faults-checkpoints");
    let Some(disk) = SmallDisk::mount(scratch.path().join("disk"), 8) else { return };
    let folder = scratch.path().join("run");
    let settings = Settings { name: "disk", steps: 100_000, ..Settings::default() };
    let storage = format!("{{everySteps: 10, storage: {{path: {}}}}}", disk.0.display());
    let changes = [("{everySteps: 10}", storage.as_str()), ("maxRestarts: 4", "maxRestarts: 1")];
    let run = run(&tailored(&scratch, &settings, &changes), &folder);
    run.await_checkpoint();
    disk.fill();
    // Somebody may make room: it is tried again as often as the job allows.
    let said = text(&run.ends_with(13));
    assert!(said.contains(&disk.0.display().to_string()), "{said}");
    assert!(said.contains("No space left on device") && said.contains("make room on that disk"), "{said}");
    let report = report(&folder);
    assert_eq!((report.outcome, report.attempts.len()), (ExitCode::TooManyRestarts, 2));
    assert_balanced(&report);
}

#[test]
fn a_run_whose_output_nobody_reads_goes_on_to_its_end() {
    let _turn = turn();
    let scratch = Scratch::new("faults-pipe");
    let folder = scratch.path().join("run");
    let settings = Settings { name: "pipe", steps: 20, ..Settings::default() };
    let mut command = scadles(&trainer());
    command.arg("run").arg(job(scratch.path(), &settings)).arg("--plain").arg("--out").arg(&folder);
    let mut run = Running::start(command, &folder);
    run.close_output();
    run.ends_with(0);
    assert_eq!(report(&folder).steps, 20);
}
