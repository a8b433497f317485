//! Workers on the loopback: they answer as trainers do, and train by the clock of the test.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scadles_api::{
    Attempt, CheckpointRef, DeviceProgress, ExitCode, LastWords, PROTOCOL_VERSION, Phase, Progress, Tuned,
    Tuning,
    attempt::{Listening, StopRequest},
    names,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::line::{Fate, Line};

/// Steps between two checkpoints.
const CHECKPOINT_STEPS: u64 = 2;
/// Samples of a step.
const STEP_SAMPLES: u64 = 96;

/// One process.
struct Worker {
    device: String,
    uid: String,
    token: String,
    listening: Listening,
    attempt: Option<Attempt>,
    phase: Phase,
    step: u64,
    stop: Option<StopRequest>,
    /// What the group has switched to, and what this worker was told since.
    tunings: Vec<Tuned>,
    told: Tuning,
    endpoint: JoinHandle<()>,
}

/// All processes that run, by pod.
#[derive(Clone)]
pub(crate) struct Workers {
    state: Arc<Mutex<State>>,
    line: Arc<Line>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<String, Worker>,
    mistakes: Vec<String>,
}

/// How a process ended.
pub(crate) struct End {
    pub(crate) pod: String,
    pub(crate) code: i32,
    /// What it said; nothing if it was killed.
    pub(crate) words: Option<LastWords>,
}

/// What happens in a life without being asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Attempt and step at which the second device's worker is killed, if it is.
    pub(crate) kill_at: Option<(u32, u64)>,
    /// Step at which the job is complete.
    pub(crate) complete_at: u64,
}

impl Workers {
    pub(crate) fn new(line: Arc<Line>) -> Self {
        Self { state: Arc::default(), line }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container starts: its endpoint opens, it has no attempt yet.
    pub(crate) async fn start(&self, pod: &str, device: &str, uid: &str, token: &str) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let listening = Listening { hub: format!("{endpoint}0"), endpoint };
        let worker = Worker {
            device: device.to_owned(),
            uid: uid.to_owned(),
            token: token.to_owned(),
            listening,
            attempt: None,
            phase: Phase::Idle,
            step: 0,
            stop: None,
            tunings: Vec::new(),
            told: Tuning::default(),
            endpoint: tokio::spawn(serve(self.clone(), pod.to_owned(), listener)),
        };
        self.state().running.insert(pod.to_owned(), worker);
    }

    /// The process is gone, at once.
    pub(crate) fn end(&self, pod: &str) {
        if let Some(worker) = self.state().running.remove(pod) {
            worker.endpoint.abort();
        }
    }

    /// Where the worker of a pod listens.
    pub(crate) fn address(&self, pod: &str) -> Option<Listening> {
        self.state().running.get(pod).map(|worker| worker.listening.clone())
    }

    /// The last step that any of them has taken.
    pub(crate) fn step(&self) -> u64 {
        self.state().running.values().map(|worker| worker.step).max().unwrap_or(0)
    }

    /// What workers were told that they must not be told.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        self.state().mistakes.clone()
    }

    /// Time goes on: a whole group takes a step while samples come, a broken one breaks up. Those that ended are told.
    pub(crate) fn train(&self, script: Script, samples_come: bool) -> Vec<End> {
        let mut state = self.state();
        let attempts = state.running.values().filter_map(|worker| worker.attempt.as_ref());
        let Some(attempt) = attempts.max_by_key(|attempt| attempt.number).cloned() else { return Vec::new() };
        let is_member =
            |worker: &Worker| worker.attempt.as_ref().is_some_and(|it| it.number == attempt.number);
        let mut members: Vec<(&String, &mut Worker)> =
            state.running.iter_mut().filter(|(_, worker)| is_member(worker)).collect();
        members.sort_by_key(|(_, worker)| worker.attempt.as_ref().map(|it| it.rank));
        let is_whole = members.len() == attempt.devices.len();
        let killed = |pod: &str| End { pod: pod.to_owned(), code: 137, words: None };
        if !is_whole {
            let first =
                members.first().filter(|(_, worker)| is_rank_0(worker) && worker.phase != Phase::Forming);
            // Rank 0 says what it saw and goes; the others hang until they are ended.
            let lost = |(pod, worker): &(&String, &mut Worker)| {
                worker.said(pod, ExitCode::PeerLost, "a peer was lost")
            };
            return first.map(lost).into_iter().collect();
        }
        if members.iter().all(|(_, worker)| worker.phase == Phase::Finishing) {
            return members
                .iter()
                .map(|(pod, worker)| worker.said(pod, ExitCode::Completed, "done"))
                .collect();
        }
        let stops = members.iter().any(|(_, worker)| worker.stop.is_some());
        if stops {
            return members
                .iter()
                .map(|(pod, worker)| worker.said(pod, ExitCode::Stopped, "asked to stop"))
                .collect();
        }
        for (_, worker) in &mut members {
            worker.phase = Phase::Training;
            worker.step += u64::from(samples_come);
            worker.switch();
            if worker.step >= script.complete_at {
                worker.phase = Phase::Finishing;
            }
        }
        let falls = Some((attempt.number, members[0].1.step)) == script.kill_at;
        if falls { vec![killed(members[1].0)] } else { Vec::new() }
    }
}

fn is_rank_0(worker: &Worker) -> bool {
    worker.attempt.as_ref().is_some_and(|attempt| attempt.rank == 0)
}

impl Worker {
    fn number(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.number)
    }

    /// A step has been taken: what the worker was told by then holds from it on.
    fn switch(&mut self) {
        let generation = self.tunings.last().map_or(0, |tuned| tuned.tuning.generation);
        if self.told.generation > generation && self.step > 0 {
            self.tunings.push(Tuned { step: self.step, tuning: self.told });
        }
    }

    /// The last step that is safe.
    fn checkpoint(&self) -> Option<CheckpointRef> {
        let attempt = self.attempt.as_ref()?;
        let from = attempt.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        // Asked to stop with one, it writes one more.
        let extra = self.stop.is_some_and(|stop| stop.checkpoint);
        let step = if extra { self.step } else { self.step - self.step % CHECKPOINT_STEPS };
        if step <= from {
            return attempt.checkpoint.clone();
        }
        let name = names::checkpoint(attempt.number, step);
        Some(CheckpointRef { job_uid: self.uid.clone(), name, step, restart_streams: false })
    }

    fn said(&self, pod: &str, code: ExitCode, message: &str) -> End {
        let words = LastWords {
            step: self.step,
            samples: self.step * STEP_SAMPLES,
            checkpoint: self.checkpoint(),
            model_sha256: is_rank_0(self).then(|| "5ca1ab1e".to_owned()),
            ..LastWords::new(code, message)
        };
        End { pod: pod.to_owned(), code: code.code().into(), words: Some(words) }
    }

    fn progress(&self) -> Progress {
        let attempt = self.attempt.as_ref();
        let rows = attempt.filter(|_| is_rank_0(self)).map(|attempt| attempt.devices.iter());
        let row = |name: &String| DeviceProgress { name: name.clone(), ..DeviceProgress::default() };
        Progress {
            protocol: PROTOCOL_VERSION,
            device: self.device.clone(),
            attempt: self.number(),
            rank: attempt.map_or(0, |attempt| attempt.rank),
            phase: self.phase,
            step: self.step,
            samples: self.step * STEP_SAMPLES,
            epoch: 0.0,
            loss: None,
            learning_rate: 0.1,
            window_seconds: 1.0,
            step_seconds: 1.0,
            samples_per_second: STEP_SAMPLES as f64,
            train_seconds: self.step as f64,
            compression: None,
            injection: None,
            evaluation: None,
            checkpoint: self.checkpoint(),
            tunings: self.tunings.clone(),
            durable_positions: Vec::new(),
            devices: rows.into_iter().flatten().map(row).collect(),
            last_words: None,
        }
    }

    /// What is wrong with the attempt, if anything.
    fn mistake(&self, attempt: &Attempt) -> Option<String> {
        let Attempt { number, devices, rank, .. } = attempt;
        if devices.get(*rank) != Some(&self.device) {
            return Some(format!("{} was told to be rank {rank} of {devices:?}", self.device));
        }
        let other = self.attempt.as_ref().filter(|known| *known != attempt)?;
        Some(format!("{} has attempt {} and was sent another, {number}", self.device, other.number))
    }

    fn take(&mut self, attempt: Attempt) {
        if self.attempt.is_none() {
            self.step = attempt.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
            self.phase = Phase::Forming;
            self.told = attempt.tuning;
            self.attempt = Some(attempt);
        }
    }
}

async fn serve(workers: Workers, pod: String, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (workers, pod) = (workers.clone(), pod.clone());
        tokio::spawn(async move { converse(&workers, &pod, stream).await });
    }
}

/// One request, one answer.
async fn converse(workers: &Workers, pod: &str, mut stream: TcpStream) -> io::Result<()> {
    let (head, body) = receive(&mut stream).await?;
    let (path, authorization) = (head.path.as_str(), head.authorization.as_str());
    let fate = workers.line.arrive(&format!("worker {}", path.trim_start_matches("/v1/")));
    let answer = fate.arrives().then(|| workers.answer(pod, path, authorization, &body));
    let (Fate::Served, Some((code, text))) = (fate, answer) else { return Ok(()) };
    let text = format!(
        "HTTP/1.1 {code} .\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(text.as_bytes()).await
}

impl Workers {
    fn answer(&self, pod: &str, path: &str, authorization: &str, body: &[u8]) -> (u16, String) {
        let mut state = self.state();
        let State { running, mistakes } = &mut *state;
        let Some(worker) = running.get_mut(pod) else { return (503, String::new()) };
        if authorization != format!("Bearer {}", worker.token) {
            mistakes.push(format!("{path} of {pod} was called without its token"));
            return (401, String::new());
        }
        match path {
            "/v1/progress" => (200, serde_json::to_string(&worker.progress()).unwrap()),
            "/v1/attempt" => {
                let attempt: Attempt = serde_json::from_slice(body).unwrap();
                let Some(mistake) = worker.mistake(&attempt) else {
                    worker.take(attempt);
                    return (200, String::new());
                };
                mistakes.push(mistake.clone());
                (409, mistake)
            }
            "/v1/stop" => {
                worker.stop = Some(serde_json::from_slice(body).unwrap());
                (200, String::new())
            }
            "/v1/tuning" => {
                worker.told = serde_json::from_slice(body).unwrap();
                (202, String::new())
            }
            _ => {
                mistakes.push(format!("{path} of {pod} is not known"));
                (501, String::new())
            }
        }
    }
}

struct Head {
    path: String,
    authorization: String,
    length: usize,
}

async fn receive(stream: &mut TcpStream) -> io::Result<(Head, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = head(&String::from_utf8_lossy(&bytes[..end]));
    while bytes.len() < end + head.length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((head, bytes.split_off(end)))
}

fn head(text: &str) -> Head {
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let fields: BTreeMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    Head {
        path,
        authorization: field("authorization").to_owned(),
        length: field("content-length").parse().unwrap_or(0),
    }
}

/// The termination message of a container.
pub(crate) fn message(words: Option<&LastWords>) -> Value {
    words.map_or(Value::Null, |words| serde_json::to_string(words).unwrap().into())
}
