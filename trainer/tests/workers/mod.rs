//! Worker processes as a cluster starts them, and a supervisor that only knows their addresses.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses a part of this module; a test ends where something is not as claimed"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use scadles_api::{
    Attempt, CheckpointRef, ExitCode, LastWords, PROTOCOL_VERSION, Phase, Progress, Tuning,
    attempt::Listening, worker::JobConfig,
};
use scadles_control::{Body, BrokerKind, SecretFiles};

pub const TOKEN: &str = "secret";
const PATIENCE: Duration = Duration::from_mins(1);

/// The resolved job of this text for the broker at `servers`; everything that it writes goes below `folder`.
pub fn resolve(job: &str, servers: &str, folder: &Path) -> JobConfig {
    let job = scadles_control::validate(&scadles_control::parse_job(job).unwrap()).unwrap();
    let body = Body {
        broker: BrokerKind::Servers(servers.to_owned()),
        uid: "uid".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: folder.join("output"),
        data_dir: folder.to_owned(),
        checkpoint_root: Some(folder.join("checkpoints")),
        buckets: scadles_control::Buckets::default(),
        token: TOKEN.to_owned(),
        threads: 1,
        cores: 1,
        secrets: SecretFiles::Missing,
        cluster: false,
    };
    scadles_control::plan(&job, &body).unwrap().workers.remove(0).job
}

/// A command that starts a worker as a pod does.
pub fn command(folder: &Path, job: &JobConfig, device: &str) -> Command {
    let job_file = folder.join(format!("{device}.json"));
    fs::write(&job_file, serde_json::to_string(job).unwrap()).unwrap();
    let token_file = folder.join("token");
    fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_scadles-trainer"));
    command
        .arg("worker")
        .arg("--job")
        .arg(job_file)
        .args(["--device", device, "--host", "127.0.0.1", "--port", "0", "--hub-port", "0"])
        .arg("--token-file")
        .arg(token_file)
        .arg("--termination-log")
        .arg(termination_log(folder, device))
        .arg("--detached")
        .env("SCADLES_TRACE", traces(folder))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Where workers leave their traces.
pub fn traces(folder: &Path) -> PathBuf {
    folder.join("traces")
}

pub fn termination_log(folder: &Path, device: &str) -> PathBuf {
    folder.join(format!("{device}.termination"))
}

/// Last words as a supervisor finds them after the process has gone.
pub fn last_words(path: &Path) -> LastWords {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.len() <= 4096, "{} bytes", text.len());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One worker process; ended with the test.
pub struct Worker {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub listening: Listening,
    termination_log: PathBuf,
}

/// How a worker ended.
#[derive(Debug)]
pub struct End {
    pub exit: Option<i32>,
    pub words: LastWords,
}

impl Worker {
    /// Starts it and reads where it listens.
    pub fn start(folder: &Path, job: &JobConfig, device: &str) -> Self {
        let mut child = command(folder, job, device).stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let listening = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, stdout, listening, termination_log: termination_log(folder, device) }
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub fn post(&self, attempt: &Attempt) {
        let body = serde_json::to_string(attempt).unwrap();
        assert_eq!(request(&self.listening.endpoint, "POST", "/v1/attempt", &body).0, 200);
    }

    /// Tells it a tuning; the answer's status and words.
    pub fn tune(&self, tuning: &Tuning) -> (u16, String) {
        let body = serde_json::to_string(tuning).unwrap();
        request(&self.listening.endpoint, "POST", "/v1/tuning", &body)
    }

    /// What it tells, unless it has gone.
    pub fn progress(&self) -> Option<Progress> {
        let (status, text) = try_request(&self.listening.endpoint, "GET", "/v1/progress", "").ok()?;
        (status == 200).then(|| serde_json::from_str(&text).unwrap())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end; the words on standard output are those in the termination log.
    pub fn end(mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "still running after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).unwrap();
        let words = last_words(&self.termination_log);
        let last: LastWords = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(last, words);
        End { exit: self.child.wait().unwrap().code(), words }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The workers of a job, in the order of ranks.
pub struct Group {
    pub workers: Vec<Worker>,
    devices: Vec<String>,
}

impl Group {
    /// Starts one worker per device and gives them their attempt; followers see a job whose folders are not there.
    pub fn start(folder: &Path, job: &JobConfig, number: u32, checkpoint: Option<&CheckpointRef>) -> Self {
        Self::start_tuned(folder, job, number, checkpoint, Tuning::default())
    }

    /// The same with settings that the attempt carries.
    pub fn start_tuned(
        folder: &Path,
        job: &JobConfig,
        number: u32,
        checkpoint: Option<&CheckpointRef>,
        tuning: Tuning,
    ) -> Self {
        let mut follower = job.clone();
        // Below a file nothing can be made, not even by root.
        follower.output_dir = PathBuf::from("/dev/null/output");
        follower.checkpoint.root = PathBuf::from("/dev/null/checkpoints");
        let devices: Vec<String> = job.devices.iter().map(|device| device.name.clone()).collect();
        let start = |(rank, device): (usize, &String)| {
            Worker::start(folder, if rank == 0 { job } else { &follower }, device)
        };
        let group = Self { workers: devices.iter().enumerate().map(start).collect(), devices };
        let hub = &group.workers[0].listening.hub;
        for (rank, worker) in group.workers.iter().enumerate() {
            let attempt = attempt(number, &group.devices, rank, hub, checkpoint.cloned());
            worker.post(&Attempt { tuning, ..attempt });
        }
        group
    }

    /// Polls rank 0, as a supervisor does, until it has taken `step` steps.
    pub fn await_step(&self, step: u64) {
        self.await_progress(|progress| progress.step >= step);
    }

    pub fn await_progress(&self, holds: impl Fn(&Progress) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !self.workers[0].progress().is_some_and(|progress| holds(&progress)) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How each ended; rank 0 is polled until then.
    pub fn end(mut self) -> Vec<End> {
        let deadline = Instant::now() + PATIENCE;
        while !self.workers.iter_mut().all(Worker::has_ended) {
            assert!(Instant::now() < deadline, "still running after {PATIENCE:?}");
            let _ = self.workers[0].progress();
            std::thread::sleep(Duration::from_millis(10));
        }
        self.workers.into_iter().map(Worker::end).collect()
    }

    /// The end of a group that completes: the last words of rank 0.
    pub fn complete(self) -> Vec<LastWords> {
        let ends = self.end();
        for end in &ends {
            assert_eq!((end.exit, end.words.code), (Some(0), ExitCode::Completed), "{ends:#?}");
            assert_eq!(end.words.parameter_hash, ends[0].words.parameter_hash);
        }
        ends.into_iter().map(|end| end.words).collect()
    }
}

pub fn attempt(
    number: u32,
    devices: &[String],
    rank: usize,
    hub: &str,
    checkpoint: Option<CheckpointRef>,
) -> Attempt {
    Attempt {
        protocol: PROTOCOL_VERSION,
        number,
        devices: devices.to_vec(),
        rank,
        hub: hub.to_owned(),
        checkpoint,
        tuning: Tuning::default(),
    }
}

/// Runs a command that is to end by itself.
pub fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

pub fn is_training(progress: &Progress) -> bool {
    progress.phase == Phase::Training
}

fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    try_request(address, method, path, body).unwrap()
}

fn try_request(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: worker\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or_default(), body.to_owned()))
}
