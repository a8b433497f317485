//! The life of a worker process: open the endpoint, say where, wait for an attempt, run it, say how it ended. Shell.

use std::{
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use scadles_api::{
    Attempt, ExitCode, LastWords, Phase, WorkerConfig, attempt::Listening, attempt::StopRequest,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    endpoint::{self, Shared},
    learner::set_up_torch,
    worker::{Context, Failure, run_attempt},
};

/// How long rank 0 stays after its end, for the supervisor to read its final progress.
const LINGER: Duration = Duration::from_secs(2);

/// Runs a worker to its end. Standard input is its lifeline: when it closes, the supervisor is gone and the worker ends.
pub fn worker(config: &Path) -> ExitCode {
    let prepared = read_config(config).and_then(|config| Ok((open(&config)?, config)));
    let (opened, config) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            say(&last_words(&failure, None));
            return failure.code;
        }
    };
    let Opened { runtime, shared, attempts, hub } = opened;
    let end = ending(Arc::clone(&shared));
    watch(&runtime, &shared, &config, &end);
    let context = Context {
        config,
        shared: Arc::clone(&shared),
        runtime: runtime.handle().clone(),
        end: Arc::clone(&end),
    };
    match await_and_run(&context, attempts, hub) {
        Err(failure) => {
            end(failure);
            ExitCode::Internal
        }
        Ok(words) => {
            let code = words.code;
            shared.update(|progress| {
                progress.phase = Phase::Ended;
                progress.last_words = Some(words.clone());
            });
            linger(&shared);
            say(&words);
            code
        }
    }
}

struct Opened {
    runtime: Runtime,
    shared: Arc<Shared>,
    attempts: tokio::sync::mpsc::Receiver<Attempt>,
    hub: TcpListener,
}

fn read_config(path: &Path) -> Result<WorkerConfig, Failure> {
    let wrong =
        |problem: String| Failure::new(ExitCode::Configuration, format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let config: WorkerConfig = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if config.protocol != scadles_api::PROTOCOL_VERSION {
        let problem = format!(
            "written for protocol {}, this worker speaks {}",
            config.protocol,
            scadles_api::PROTOCOL_VERSION
        );
        return Err(wrong(problem).with_remedy("use scadles and scadles-trainer of one version"));
    }
    Ok(config)
}

fn open(config: &WorkerConfig) -> Result<Opened, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(ExitCode::Configuration, format!("failed to {what}: {error}"))
    };
    set_up_torch(config.job.threads)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| failed("start the I/O thread", &error))?;
    let bind = |port: u16| {
        let listener = runtime.block_on(TcpListener::bind((config.host.as_str(), port)));
        listener.map_err(|error| {
            failed(&format!("listen on {}:{port}", config.host), &error)
                .with_remedy("free the port, or use port 0 for any free one")
        })
    };
    let (http, hub) = (bind(config.port)?, bind(0)?);
    let address = |listener: &TcpListener| {
        listener.local_addr().map_err(|error| failed("read the own address", &error))
    };
    let listening = Listening { endpoint: address(&http)?.to_string(), hub: address(&hub)?.to_string() };
    let (shared, attempts) = Shared::new(config);
    let served = Arc::clone(&shared);
    runtime.spawn(async move {
        if let Err(error) = endpoint::serve(http, served).await {
            tracing::error!(%error, "the endpoint has ended");
        }
    });
    tracing::info!(endpoint = listening.endpoint, hub = listening.hub, "listening");
    say(&listening);
    Ok(Opened { runtime, shared, attempts, hub })
}

/// One line of JSON on standard output. A supervisor that does not listen any more is none of the worker's failures.
fn say(line: &impl serde::Serialize) {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn last_words(failure: &Failure, shared: Option<&Shared>) -> LastWords {
    let progress = shared.map(Shared::progress);
    LastWords {
        code: failure.code,
        message: failure.message.clone(),
        remedy: failure.remedy.clone(),
        step: progress.as_ref().map_or(0, |progress| progress.step),
        samples: progress.as_ref().map_or(0, |progress| progress.samples),
        parameter_hash: None,
        checkpoint: progress.and_then(|progress| progress.checkpoint),
    }
}

type End = Arc<dyn Fn(Failure) + Send + Sync>;

/// Ends the process with last words, from any thread: the first cause wins. Leaves without running destructors, since
/// the training thread may hold a collective that never returns.
fn ending(shared: Arc<Shared>) -> End {
    let first = Mutex::new(());
    Arc::new(move |failure: Failure| {
        // Held until the process is gone: a second cause waits here in vain.
        let _first = first.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::error!(code = ?failure.code, remedy = failure.remedy, "{}", failure.message);
        say(&last_words(&failure, Some(&shared)));
        signal_hook::low_level::exit(i32::from(failure.code.code()));
    })
}

/// Starts what may end the worker from outside: closed standard input, SIGTERM, a silent supervisor.
fn watch(runtime: &Runtime, shared: &Arc<Shared>, config: &WorkerConfig, end: &End) {
    let lifeline = Arc::clone(end);
    let watched = std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        // Nothing is ever written to it: reading ends when the supervisor does.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        lifeline(Failure::new(ExitCode::Orphaned, "the supervisor closed this worker's standard input"));
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "no thread to watch standard input; only silence will tell that the supervisor is gone");
    }
    let (asked, stop_now) = (Arc::clone(shared), Arc::clone(end));
    runtime.spawn(async move {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        while terminate.recv().await.is_some() {
            asked.request_stop(StopRequest { checkpoint: true });
            if asked.progress().phase == Phase::Idle {
                stop_now(Failure::new(ExitCode::Stopped, "stopped before an attempt began"));
            }
        }
    });
    let (heard, orphaned) = (Arc::clone(shared), Arc::clone(end));
    let patience = Duration::from_secs_f64(config.job.limits.orphan_seconds);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let progress = heard.progress();
            // Supervisors poll rank 0 while the group runs; the others follow it.
            let is_polled = progress.attempt == 0 || progress.rank == 0;
            if is_polled && heard.silence() > patience {
                let message =
                    format!("no supervisor spoke to this worker for {:.0} s", patience.as_secs_f64());
                orphaned(Failure::new(ExitCode::Orphaned, message));
            }
        }
    });
}

fn await_and_run(
    context: &Context,
    mut attempts: tokio::sync::mpsc::Receiver<Attempt>,
    hub: TcpListener,
) -> Result<LastWords, Failure> {
    let attempt = context.runtime.block_on(attempts.recv());
    let attempt = attempt
        .ok_or_else(|| Failure::new(ExitCode::Internal, "the endpoint ended before an attempt came"))?;
    let names: Vec<&str> = context.config.job.devices.iter().map(|device| device.name.as_str()).collect();
    if attempt.devices != names || attempt.devices.get(attempt.rank) != Some(&context.config.device().name) {
        let message = format!(
            "attempt {} is for devices {:?}, this worker's job has {names:?}",
            attempt.number, attempt.devices
        );
        return Err(Failure::new(ExitCode::Configuration, message));
    }
    tracing::info!(attempt = attempt.number, rank = attempt.rank, checkpoint = ?attempt.checkpoint, "attempt begins");
    run_attempt(context, &attempt, hub)
}

/// Rank 0's progress is the job's: give the supervisor the time of a few polls to read its end.
fn linger(shared: &Shared) {
    let deadline = Instant::now() + LINGER;
    while shared.progress().rank == 0 && !shared.end_was_seen() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}
