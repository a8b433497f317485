//! The life of a worker process: open the endpoint, say where, wait for an attempt, run it, say how it ended. Shell.

mod arguments;
mod farewell;

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use scadles_api::{
    Attempt, ExitCode, LastWords, Phase, Progress, WorkerConfig,
    attempt::{Listening, StopRequest},
    worker::Backend,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    endpoint::{self, Shared},
    gpu::Gpu,
    learner::set_up_torch,
    worker::{Context, Ended, Failure, run_attempt},
};

pub use arguments::WorkerArguments;
use farewell::{Farewell, say, with_account};

/// How long rank 0 stays after its end, for the supervisor to read its final progress.
const LINGER: Duration = Duration::from_secs(2);

/// The end of a worker whose command line is wrong: what is wrong with it goes into the termination log too.
pub fn refuse(command_line: impl IntoIterator<Item = String>, problem: &str) -> ExitCode {
    let code = ExitCode::Configuration;
    if let Some(path) = arguments::termination_log(command_line) {
        let words = LastWords {
            remedy: "use images of one version of scadles for the operator and the workers".to_owned(),
            ..LastWords::new(code, problem.trim_end())
        };
        Farewell::new(Some(path)).say(&words);
    }
    code
}

/// Runs a worker to its end. Standard input is its lifeline unless it is detached: when it closes, the supervisor is
/// gone and the worker ends.
pub fn worker(arguments: &WorkerArguments) -> ExitCode {
    let farewell = Arc::new(Farewell::new(arguments.termination_log.clone()));
    let prepared = arguments.read().and_then(|config| Ok((open(&config)?, config)));
    let (opened, config) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            tracing::error!(code = ?failure.code, remedy = failure.remedy, "{}", failure.message);
            farewell.say(&last_words(&failure, None));
            return failure.code;
        }
    };
    let Opened { runtime, gpu, shared, attempts, hub, terminate } = opened;
    let end = ending(Arc::clone(&shared), Arc::clone(&farewell));
    end_on_panic(Arc::clone(&shared), Arc::clone(&farewell));
    if !arguments.detached {
        watch_standard_input(&end);
    }
    watch_signals(&runtime, terminate, &shared, &config, &end);
    watch_supervisor(&runtime, &shared, &config, &end);
    let context = Context {
        config,
        gpu,
        shared: Arc::clone(&shared),
        runtime: runtime.handle().clone(),
        end: Arc::clone(&end),
    };
    match await_and_run(&context, attempts, hub) {
        Err(failure) => {
            end(failure);
            ExitCode::Internal
        }
        Ok(ended) => {
            // Whatever happens from now on, it ended well.
            let _mine = farewell.take();
            let words = with_account(ended.words.clone(), &shared.progress());
            farewell.say(&words);
            let code = words.code;
            shared.update(|progress| {
                progress.phase = Phase::Ended;
                progress.last_words = Some(words);
            });
            linger(&shared);
            // Nothing is torn down: a thread may wait in `end`, another for a broker that is away.
            signal_hook::low_level::exit(i32::from(code.code()))
        }
    }
}

struct Opened {
    runtime: Runtime,
    gpu: Option<Gpu>,
    shared: Arc<Shared>,
    attempts: tokio::sync::mpsc::Receiver<Attempt>,
    hub: TcpListener,
    terminate: Signal,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ExitCode::Configuration, format!("failed to {what}: {error}"))
}

fn open(config: &WorkerConfig) -> Result<Opened, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| failed("start the I/O thread", &error))?;
    // Early: the first process of a container that does not catch it would not even be ended by it.
    let terminate = {
        let _entered = runtime.enter();
        signal(SignalKind::terminate()).map_err(|error| failed("catch SIGTERM", &error))?
    };
    // Before anything else asks libtorch about CUDA.
    let gpu = (config.backend == Backend::Nccl).then(|| Gpu::open(config.device_index)).transpose()?;
    set_up_torch(config.job.threads)?;
    let http = bind(&runtime, &endpoint_host(&config.host), config.port)?;
    let hub = bind(&runtime, &config.host, config.hub_port)?;
    let listening =
        Listening { endpoint: announced(&http, &config.host)?, hub: announced(&hub, &config.host)? };
    let (shared, attempts) = Shared::new(config);
    let served = Arc::clone(&shared);
    runtime.spawn(async move {
        if let Err(error) = endpoint::serve(http, served).await {
            tracing::error!(%error, "the endpoint has ended");
        }
    });
    tracing::info!(endpoint = listening.endpoint, hub = listening.hub, "listening");
    say(&listening);
    Ok(Opened { runtime, gpu, shared, attempts, hub, terminate })
}

fn bind(runtime: &Runtime, host: &str, port: u16) -> Result<TcpListener, Failure> {
    let remedy = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => "free the port, or use port 0 for any free one",
        _ => "give an address of this machine (--host)",
    };
    runtime
        .block_on(TcpListener::bind((host, port)))
        .map_err(|error| failed(&format!("listen on {host}:{port}"), &error).with_remedy(remedy(&error)))
}

/// Where the endpoint listens. In a pod on all of its addresses: `kubectl port-forward` comes to loopback.
fn endpoint_host(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => host.to_owned(),
        Ok(IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.to_string(),
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.to_string(),
        Err(_) => host.to_owned(),
    }
}

/// `host:port` as others reach the listener.
fn announced(listener: &TcpListener, host: &str) -> Result<String, Failure> {
    let bound = listener.local_addr().map_err(|error| failed("read the own address", &error))?;
    let address = host.parse().map_or(bound, |ip: IpAddr| SocketAddr::new(ip, bound.port()));
    Ok(address.to_string())
}

fn last_words(failure: &Failure, progress: Option<&Progress>) -> LastWords {
    let words =
        LastWords { remedy: failure.remedy.clone(), ..LastWords::new(failure.code, &*failure.message) };
    let Some(progress) = progress else { return words };
    let words = LastWords {
        step: progress.step,
        samples: progress.samples,
        checkpoint: progress.checkpoint.clone(),
        ..words
    };
    with_account(words, progress)
}

type End = Arc<dyn Fn(Failure) + Send + Sync>;

/// Ends the process with last words, from any thread: the first cause wins. Leaves without running destructors, since
/// the training thread may hold a collective that never returns.
fn ending(shared: Arc<Shared>, farewell: Arc<Farewell>) -> End {
    Arc::new(move |failure: Failure| {
        // Held until the process is gone: a second cause waits here in vain.
        let _mine = farewell.take();
        tracing::error!(code = ?failure.code, remedy = failure.remedy, "{}", failure.message);
        farewell.say(&last_words(&failure, Some(&shared.progress())));
        signal_hook::low_level::exit(i32::from(failure.code.code()));
    })
}

/// A panic of any thread ends the process: nothing that shares state with it could be trusted any more.
fn end_on_panic(shared: Arc<Shared>, farewell: Arc<Farewell>) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // Locks may be held by this very thread: what cannot be had at once is done without.
        let Some(_mine) = farewell.try_take() else { return };
        let message = format!("an error nobody foresaw: {panic}").replace('\n', " ");
        let failure = Failure::new(ExitCode::Internal, message);
        farewell.say(&last_words(&failure, shared.try_progress().as_ref()));
        signal_hook::low_level::exit(i32::from(failure.code.code()));
    }));
}

fn watch_standard_input(end: &End) {
    let lifeline = Arc::clone(end);
    let watched = std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        // Nothing is ever written to it: reading ends when the supervisor does.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        lifeline(Failure::new(ExitCode::Orphaned, "the supervisor closed this worker's standard input"));
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "no thread to watch standard input; only silence will tell that the supervisor is gone");
    }
}

/// SIGTERM asks the group to stop after an agreed checkpoint. What is not agreed in time, or asked for twice, is not
/// waited for.
fn watch_signals(
    runtime: &Runtime,
    mut terminate: Signal,
    shared: &Arc<Shared>,
    config: &WorkerConfig,
    end: &End,
) {
    let (asked, stop_now) = (Arc::clone(shared), Arc::clone(end));
    let grace = Duration::from_secs_f64(config.job.limits.stop_grace_seconds);
    runtime.spawn(async move {
        if terminate.recv().await.is_none() {
            return;
        }
        tracing::info!("SIGTERM: asking the group to stop after a checkpoint");
        asked.request_stop(StopRequest { checkpoint: true });
        if asked.progress().phase == Phase::Idle {
            stop_now(Failure::new(ExitCode::Stopped, "stopped before an attempt began"));
        }
        let message = match tokio::time::timeout(grace, terminate.recv()).await {
            Ok(_) => "stopped at once by a second SIGTERM".to_owned(),
            Err(_) => format!("the group did not stop within {:.0} s of SIGTERM", grace.as_secs_f64()),
        };
        if asked.progress().phase == Phase::Ended {
            return;
        }
        let remedy = "raise spec.runPolicy.stopGraceSeconds if checkpoints take longer";
        stop_now(Failure::new(ExitCode::Stopped, message).with_remedy(remedy));
    });
}

/// A worker whose supervisor is silent for too long ends.
fn watch_supervisor(runtime: &Runtime, shared: &Arc<Shared>, config: &WorkerConfig, end: &End) {
    let (heard, orphaned) = (Arc::clone(shared), Arc::clone(end));
    let patience = Duration::from_secs_f64(config.job.limits.orphan_seconds);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if is_polled(&heard.progress()) && heard.silence() > patience {
                let message =
                    format!("no supervisor spoke to this worker for {:.0} s", patience.as_secs_f64());
                orphaned(Failure::new(ExitCode::Orphaned, message));
            }
        }
    });
}

/// Supervisors poll every worker until it has its attempt, then rank 0 alone: the others follow it.
fn is_polled(progress: &Progress) -> bool {
    (progress.attempt == 0 || progress.rank == 0) && progress.phase != Phase::Ended
}

fn await_and_run(
    context: &Context,
    mut attempts: tokio::sync::mpsc::Receiver<Attempt>,
    hub: TcpListener,
) -> Result<Ended, Failure> {
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
