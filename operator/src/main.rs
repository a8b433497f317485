//! `scadles-operator`: starts the endpoints, waits for the lease, runs the loop, ends in order.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        events::{Recorder, Reporter},
        reflector, watcher,
    },
};
use scadles_api::{
    attempt::Listening,
    names::{ENDPOINT_PORT, HUB_PORT},
};
use scadles_operator::{
    args::Args,
    context::{Context, Images, Settings, wall_clock},
    controller::{self, Guarded, names},
    health::{self, Health},
    key,
    leader::Leadership,
    metrics::Metrics,
    topics::KafkaTopics,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Between two looks whether the API server answers.
const LOOK: Duration = Duration::from_secs(5);
/// What is remembered of jobs that are gone is forgotten this often.
const SWEEP: Duration = Duration::from_mins(1);
/// Passes under way have this long to end after a request to stop.
const DRAIN: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SCADLES_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}

/// Every task is joined here: one that ends before it should ends the process.
async fn run(args: Args) -> Result<(), String> {
    let client =
        Client::try_default().await.map_err(|error| format!("no access to an API server: {error}"))?;
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    spawn_endpoints(&mut tasks, &args, &health, &client);
    let key = key::load(&args, &client).await?;
    let leadership =
        Arc::new(Leadership::new(client.clone(), &args.lease_namespace, &args.lease_name, &args.identity));
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    if args.leader_election {
        tokio::select! {
            () = leadership.acquire() => tracing::info!(lease = args.lease_name, "leading"),
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            ended = tasks.join_next() => return Err(describe(ended)),
        }
        let kept = Arc::clone(&leadership);
        tasks.spawn(async move { Err(kept.keep().await.to_string()) });
    }
    metrics.set_leader(true);
    let mut loops = JoinSet::new();
    spawn_loops(&mut loops, &mut tasks, &args, Shared { client, key, metrics }, &stopped).await;
    let outcome = tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        ended = tasks.join_next() => Err(describe(ended)),
        ended = loops.join_next() => Err(format!("a loop ended: {ended:?}")),
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    let drained = tokio::time::timeout(DRAIN, async { while loops.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some passes did not end in time");
    }
    if args.leader_election && outcome.is_ok() {
        leadership.release().await;
    }
    outcome
}

fn describe(ended: Option<Result<Result<(), String>, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(Err(reason))) => reason,
        Some(Err(error)) => format!("a task has failed: {error}"),
        Some(Ok(Ok(()))) | None => "a task ended before it should".to_owned(),
    }
}

/// Probes and metrics, and the look whether the API server answers.
fn spawn_endpoints(
    tasks: &mut JoinSet<Result<(), String>>,
    args: &Args,
    health: &Arc<Health>,
    client: &Client,
) {
    let (address, served) = (args.metrics_address, Arc::clone(health));
    tasks.spawn(async move {
        health::serve(address, served).await.map_err(|error| format!("failed to serve on {address}: {error}"))
    });
    let (looking, namespace) = (Arc::clone(health), args.watch_namespaces.first().cloned());
    let client = client.clone();
    tasks.spawn(async move {
        let jobs: Api<Guarded> = match &namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        loop {
            let answer =
                tokio::time::timeout(LOOK * 2, jobs.list_metadata(&ListParams::default().limit(1))).await;
            looking.set_api_answers(matches!(answer, Ok(Ok(_))));
            looking.turn();
            tokio::time::sleep(LOOK).await;
        }
    });
}

/// What the loops of all namespaces have in common.
struct Shared {
    client: Client,
    key: Vec<u8>,
    metrics: Metrics,
}

/// Per namespace (or once for all): the cache of pods, and the loop over the jobs.
async fn spawn_loops(
    loops: &mut JoinSet<()>,
    tasks: &mut JoinSet<Result<(), String>>,
    args: &Args,
    shared: Shared,
    stopped: &watch::Receiver<bool>,
) {
    let Shared { client, key, metrics } = shared;
    let namespaces: Vec<Option<&String>> = if args.watch_namespaces.is_empty() {
        vec![None]
    } else {
        args.watch_namespaces.iter().map(Some).collect()
    };
    for namespace in namespaces {
        let (reader, writer) = reflector::store();
        let context = Arc::new(Context {
            client: client.clone(),
            settings: Settings {
                images: Images {
                    trainer: args.trainer_image.clone(),
                    trainer_cuda: args.trainer_cuda_image.clone(),
                },
                heartbeat_seconds: args.status_heartbeat_seconds,
                namespace: args.lease_namespace.clone(),
                key: key.clone(),
            },
            pods: reader.clone(),
            topics: Arc::new(KafkaTopics::new(client.clone(), &args.release)),
            address: Arc::new(pod_address),
            metrics: metrics.clone(),
            recorder: Recorder::new(client.clone(), Reporter::from(names::MANAGER)),
            clock: wall_clock,
            memories: std::sync::Mutex::default(),
        });
        let (pods, jobs): (Api<Pod>, Api<Guarded>) = match namespace {
            Some(namespace) => {
                (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace))
            }
            None => (Api::all(client.clone()), Api::all(client.clone())),
        };
        let cached = pods.clone();
        tasks.spawn(async move {
            let config = watcher::Config::default().labels(names::MANAGED_SELECTOR);
            let watched = reflector::reflector(writer, watcher(cached, config)).default_backoff();
            watched.for_each(|_| std::future::ready(())).await;
            Err("the watch of the pods ended".to_owned())
        });
        // A pass that saw no pods because none were read yet would start them all anew.
        if reader.wait_until_ready().await.is_err() {
            tasks.spawn(async { Err("the pods could not be read".to_owned()) });
            return;
        }
        let mut stopped = stopped.clone();
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let (cache, passes) = controller::run(jobs, pods, Arc::clone(&context), stop);
        loops.spawn(passes.for_each(|()| std::future::ready(())));
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                context.sweep(&cache);
            }
        });
    }
}

/// In a cluster a worker listens on its pod's address.
fn pod_address(pod: &Pod) -> Option<Listening> {
    let address = pod.status.as_ref()?.pod_ip.as_deref()?;
    let with_port = |port: u16| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    Some(Listening { endpoint: with_port(ENDPOINT_PORT), hub: with_port(HUB_PORT) })
}
