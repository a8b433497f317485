//! A worker without a model: keeps the contract between the local body and `scadles-trainer worker` and trains nothing.
//!
//! The body's process tests run it in the trainer's place: it starts in milliseconds and its ends are exact.
//! It takes every network of a user's own for usable.
//! `FAKE_WORKER_END=DEVICE:ATTEMPT:CODE` makes one worker of one attempt end with a code at its third step.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::exit,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use scadles_api::{
    Attempt, CheckpointRef, DeviceProgress, ExitCode, LastWords, Ledger, PROTOCOL_VERSION, PartitionPosition,
    Phase, Progress, WorkerConfig,
    attempt::{Listening, StopRequest},
    names,
    worker::{Completion, ModelVerdict},
};

/// Duration of a step.
const STEP: Duration = Duration::from_millis(50);

/// Samples per device and step.
const BATCH: u32 = 10;

/// An offset that no stream of a test reaches: the account is not settled against the broker's ends.
const FAR: i64 = i64::MAX / 2;

type Shared = Arc<Mutex<Progress>>;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("check-model") {
        print(&ModelVerdict::Usable { parameters: 1000 });
        exit(0);
    }
    let path = std::env::args().skip_while(|argument| argument != "--config").nth(1).expect("--config FILE");
    let text = std::fs::read_to_string(path).expect("a readable configuration");
    let config: WorkerConfig = serde_json::from_str(&text).expect("a worker's configuration");
    let endpoint = TcpListener::bind((config.host.as_str(), 0)).expect("a free port");
    let hub = TcpListener::bind((config.host.as_str(), 0)).expect("a free port");
    let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
    print(&Listening { endpoint: address(&endpoint), hub: address(&hub) });
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        exit(i32::from(ExitCode::Orphaned.code()));
    });
    let progress = Arc::new(Mutex::new(idle(&config)));
    let (attempts, begin) = channel();
    let (stops, stop) = channel();
    let served = Arc::clone(&progress);
    let token = config.token.clone();
    std::thread::spawn(move || {
        for stream in endpoint.incoming().flatten() {
            let _ = answer(stream, &token, &served, (&attempts, &stops));
        }
    });
    let attempt = begin.recv().expect("an attempt");
    let code = train(&config, &attempt, &hub, &progress, &stop);
    let words = {
        let mut progress = progress.lock().expect("no thread panics");
        progress.phase = Phase::Ended;
        last_words(code, &progress)
    };
    if attempt.rank == 0 {
        // Time for the supervisor to read the end.
        std::thread::sleep(Duration::from_millis(500));
    }
    print(&words);
    exit(i32::from(code.code()));
}

fn print(line: &impl serde::Serialize) {
    let text = serde_json::to_string(line).expect("JSON");
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn last_words(code: ExitCode, progress: &Progress) -> LastWords {
    LastWords {
        step: progress.step,
        samples: progress.samples,
        parameter_hash: Some(format!("{:016x}", progress.step)),
        checkpoint: progress.checkpoint.clone(),
        ..LastWords::new(code, format!("the fake worker of {} ended", progress.device))
    }
}

/// One request per connection.
fn answer(
    mut stream: TcpStream,
    token: &str,
    progress: &Shared,
    wishes: (&Sender<Attempt>, &Sender<StopRequest>),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let allowed = headers.get("authorization").is_some_and(|given| *given == format!("Bearer {token}"));
    let (status, text) = match (allowed, head.split(' ').nth(1)) {
        (false, _) => ("401 Unauthorized", String::new()),
        (true, Some("/v1/progress")) => {
            ("200 OK", serde_json::to_string(&*progress.lock().expect("no thread panics")).expect("JSON"))
        }
        (true, Some("/v1/attempt")) => {
            let attempt: Attempt = serde_json::from_slice(&body).expect("an attempt");
            let mut progress = progress.lock().expect("no thread panics");
            if progress.attempt == 0 {
                progress.attempt = attempt.number;
                progress.rank = attempt.rank;
                progress.phase = Phase::Forming;
                let _ = wishes.0.send(attempt);
            }
            ("200 OK", String::new())
        }
        (true, Some("/v1/stop")) => {
            let _ = wishes.1.send(serde_json::from_slice(&body).expect("a request to stop"));
            ("202 Accepted", String::new())
        }
        _ => ("404 Not Found", String::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

/// Rank 0 takes the steps and tells the others how it ends; they only listen.
fn train(
    config: &WorkerConfig,
    attempt: &Attempt,
    hub: &TcpListener,
    progress: &Shared,
    stop: &Receiver<StopRequest>,
) -> ExitCode {
    progress.lock().expect("no thread panics").phase = Phase::Training;
    if attempt.rank == 0 {
        let others: Vec<TcpStream> =
            (1..attempt.devices.len()).map(|_| hub.accept().expect("a peer").0).collect();
        return lead(config, attempt, progress, stop, others);
    }
    let mut leader = TcpStream::connect(&attempt.hub).expect("rank 0");
    let mut byte = [0];
    loop {
        match leader.read_exact(&mut byte) {
            Err(_) => return ExitCode::PeerLost,
            Ok(()) if byte[0] == b's' => {
                let mut progress = progress.lock().expect("no thread panics");
                progress.step += 1;
                if let Some(code) = planned_end(config, attempt, progress.step) {
                    return code;
                }
            }
            Ok(()) => return ExitCode::from_code(i32::from(byte[0])).unwrap_or(ExitCode::Internal),
        }
    }
}

fn lead(
    config: &WorkerConfig,
    attempt: &Attempt,
    progress: &Shared,
    stop: &Receiver<StopRequest>,
    mut others: Vec<TcpStream>,
) -> ExitCode {
    if let Some(checkpoint) = &attempt.checkpoint {
        let mut progress = progress.lock().expect("no thread panics");
        progress.step = checkpoint.step;
        progress.checkpoint = Some(checkpoint.clone());
    } else {
        save(config, attempt, &mut progress.lock().expect("no thread panics"));
    }
    let mut steps = 0;
    loop {
        std::thread::sleep(STEP);
        let mut progress = progress.lock().expect("no thread panics");
        if stop.try_recv().is_ok() {
            save(config, attempt, &mut progress);
            return tell(&mut others, ExitCode::Stopped);
        }
        if others.iter_mut().any(|other| other.write_all(b"s").is_err()) {
            return ExitCode::PeerLost;
        }
        progress.step += 1;
        steps += 1;
        account(config, &mut progress);
        if let Some(code) = planned_end(config, attempt, steps) {
            return code;
        }
        if progress.step.is_multiple_of(config.job.checkpoint.every_steps) {
            save(config, attempt, &mut progress);
        }
        if is_complete(config, &progress) {
            return tell(&mut others, ExitCode::Completed);
        }
    }
}

fn tell(others: &mut [TcpStream], code: ExitCode) -> ExitCode {
    for other in others {
        let _ = other.write_all(&[code.code()]);
    }
    code
}

fn is_complete(config: &WorkerConfig, progress: &Progress) -> bool {
    match config.job.completion {
        Completion::MaxSteps(steps) => progress.step >= steps,
        Completion::MaxSamples(samples) => progress.samples >= samples,
        Completion::MaxEpochs(_) | Completion::TargetAccuracy(_) | Completion::StreamEnd => false,
    }
}

fn account(config: &WorkerConfig, progress: &mut Progress) {
    let devices = config.job.devices.len();
    progress.samples = progress.step * u64::from(BATCH) * devices as u64;
    progress.loss = Some(1.0);
    progress.samples_per_second = 200.0 * devices as f64;
    progress.train_seconds = progress.step as f64 * STEP.as_secs_f64();
    for device in &mut progress.devices {
        device.local_batch = BATCH;
        device.aggregation_weight = 1.0 / devices as f64;
        device.ledger.trained = progress.step * u64::from(BATCH);
        device.ledger.arrived = device.ledger.trained;
        device.positions = vec![PartitionPosition { partition: 0, start: FAR, next: FAR, end: FAR }];
    }
}

fn save(config: &WorkerConfig, attempt: &Attempt, progress: &mut Progress) {
    let name = names::checkpoint(attempt.number, progress.step);
    let folder = config.job.checkpoint.root.join(&config.job.uid).join(&name);
    std::fs::create_dir_all(&folder).expect("a folder for the checkpoint");
    std::fs::write(folder.join("manifest.json"), "{}").expect("a manifest");
    progress.checkpoint = Some(CheckpointRef {
        job_uid: config.job.uid.clone(),
        name,
        step: progress.step,
        restart_streams: false,
    });
}

/// `FAKE_WORKER_END=DEVICE:ATTEMPT:CODE`.
fn planned_end(config: &WorkerConfig, attempt: &Attempt, step: u64) -> Option<ExitCode> {
    let plan = std::env::var("FAKE_WORKER_END").ok()?;
    let mut parts = plan.split(':');
    let mine =
        parts.next()? == config.device().name && parts.next()? == attempt.number.to_string() && step >= 3;
    mine.then(|| parts.next()?.parse().ok().and_then(ExitCode::from_code)).flatten()
}

fn idle(config: &WorkerConfig) -> Progress {
    let device = |device: &scadles_api::worker::DeviceConfig| DeviceProgress {
        name: device.name.clone(),
        ledger: Ledger::default(),
        ..DeviceProgress::default()
    };
    Progress {
        protocol: PROTOCOL_VERSION,
        device: config.device().name.clone(),
        attempt: 0,
        rank: 0,
        phase: Phase::Idle,
        step: 0,
        samples: 0,
        epoch: 0.0,
        loss: None,
        learning_rate: 0.0,
        window_seconds: 0.0,
        step_seconds: STEP.as_secs_f64(),
        samples_per_second: 0.0,
        train_seconds: 0.0,
        compression: None,
        injection: None,
        evaluation: None,
        checkpoint: None,
        tunings: vec![],
        durable_positions: vec![],
        devices: config.job.devices.iter().map(device).collect(),
        last_words: None,
    }
}
