//! From an attempt to a rank that can take steps: store, control channel, collectives, checkpoint, stream. Shell.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, mpsc::channel},
    time::{Duration, Instant},
};

use scadles_api::{Attempt, CheckpointRef, ExitCode, Phase, names, worker::JobConfig};
use scadles_core::{
    agree::{AgreeSettings, GlobalState},
    batch::BatchClock,
    buffer_state::BufferStateTracker,
    evaluate::PrequentialAccuracy,
    learning_rate::LearningRatePlan,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use torch_ext::TcpStore;

use super::{
    Context, Failure,
    leader::Leader,
    phase_times::PhaseTimes,
    rank::Rank,
    round::{Chair, RankReport, Verdict},
    watchdog::Watchdog,
};
use crate::{
    batch::BatchAssembler,
    channel::{Hello, HubSettings, Member, serve_hub},
    checkpoint::{CheckpointStore, Manifest, Snapshot},
    engine::{Communicator, GlooEngine, InProcess},
    exchange::DenseExchange,
    journal::{read_segments, writer::journal_dir},
    learner::Learner,
    optimizer::SgdState,
    source::{Source, SourceSettings, Start},
};

/// What rank 0 tells all members once the group is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Greeting {
    /// Place of the store at which the collectives' engine meets.
    store_host: String,
    store_port: u16,
    /// Per rank: samples that earlier attempts trained beyond the checkpoint; this attempt rolls them back.
    rolled_back: Vec<u64>,
}

/// Builds the rank that `attempt` describes. `hub` is the listener that this worker announced.
pub(super) fn form(context: &Context, attempt: &Attempt, hub: TcpListener) -> Result<Rank, Failure> {
    let job = &context.config.job;
    let within = Duration::from_secs_f64(job.limits.start_deadline_seconds);
    let began = Instant::now();
    let Restored { loaded, state, learner, momentum } = restore(job, attempt.checkpoint.as_ref())?;
    let (store, rounds) = open_hub(context, attempt, hub, state, within)?;
    let member = join(context, attempt, within)?;
    let greeting: Greeting = serde_json::from_str(member.greeting()).map_err(|error| {
        Failure::new(ExitCode::Internal, format!("rank 0 sent an unreadable greeting: {error}"))
    })?;
    let communicator = connect(context, attempt, store, &greeting, within.saturating_sub(began.elapsed()))?;
    let rolled_back = greeting.rolled_back.get(attempt.rank).copied().unwrap_or(0);
    let start = stream_start(context, attempt, loaded.as_ref(), rolled_back);
    let source = Source::open(SourceSettings::of_worker(&context.config, start))?;
    let leader = match rounds {
        None => None,
        Some(rounds) => {
            Some(Leader::open(context, attempt, loaded.as_ref().map(|loaded| &loaded.manifest), rounds)?)
        }
    };
    let end = Arc::clone(&context.end);
    let expired =
        move || end(Failure::new(ExitCode::PeerLost, "the step outlived its deadline: a rank is stuck"));
    let watchdog = Watchdog::start(expired).map_err(|error| {
        Failure::new(ExitCode::Internal, format!("failed to start the watchdog: {error}"))
    })?;
    let manifest = loaded.as_ref().map(|loaded| &loaded.manifest);
    let totals = manifest.and_then(|manifest| manifest.devices.get(attempt.rank)).map(|device| device.totals);
    context.shared.update(|progress| progress.phase = Phase::Training);
    Ok(Rank {
        position: attempt.rank,
        world_size: attempt.devices.len(),
        clock: BatchClock::new(job.stream.batch, job.stream.batch_bounds),
        assembler: BatchAssembler::new(
            &job.model,
            &job.stream.transform,
            job.stream.batch_bounds.max.max(fixed_size(job)) as usize,
        )?,
        hash: Some(learner.parameter_hash()?),
        exchange: DenseExchange::new(learner.flat(), attempt.devices.len()),
        learner,
        momentum,
        communicator,
        source,
        member,
        watchdog,
        leader,
        state,
        times: PhaseTimes::from_environment(&context.config.device().name, attempt.rank),
        round: 0,
        began: Instant::now(),
        last_commit: Instant::now(),
        totals: totals.unwrap_or_default(),
        prequential: PrequentialAccuracy::default(),
        buffer_state: BufferStateTracker::default(),
        lost_seen: 0,
        last_step: None,
        last_share: (0, 0.0),
        evaluation: None,
        evaluator: None,
        fault: None,
        config: context.config.clone(),
        shared: Arc::clone(&context.shared),
    })
}

fn fixed_size(job: &JobConfig) -> u32 {
    match job.stream.batch {
        scadles_api::worker::BatchRule::Fixed { size } => size,
        _ => 0,
    }
}

/// What an attempt continues from.
struct Restored {
    loaded: Option<Snapshot>,
    state: GlobalState,
    learner: Learner<f32>,
    momentum: SgdState<f32>,
}

/// The model as the seed or the checkpoint has it.
fn restore(job: &JobConfig, checkpoint: Option<&CheckpointRef>) -> Result<Restored, Failure> {
    let loaded = match checkpoint {
        None => None,
        Some(reference) => Some(CheckpointStore::open(&job.checkpoint.root)?.load(reference)?),
    };
    let mut learner = Learner::<f32>::new(&job.model, job.training.seed)?;
    let mut momentum = SgdState::new(learner.parameters()?.len());
    if let Some(snapshot) = &loaded {
        learner.set_parameters(&snapshot.model)?;
        learner.decode(&snapshot.momentum, &mut momentum.momentum)?;
        check_hash(&snapshot.manifest, learner.parameter_hash()?)?;
    }
    Ok(Restored { state: start_state(loaded.as_ref()), loaded, learner, momentum })
}

fn start_state(loaded: Option<&Snapshot>) -> GlobalState {
    loaded.map_or_else(GlobalState::default, |Snapshot { manifest, .. }| GlobalState {
        step: manifest.step,
        samples: manifest.samples,
        window_seconds: manifest.window_seconds,
        ..GlobalState::default()
    })
}

fn check_hash(manifest: &Manifest, hash: u64) -> Result<(), Failure> {
    let hash = super::hash_text(hash);
    if hash == manifest.parameter_hash {
        return Ok(());
    }
    let message = format!(
        "checkpoint {} holds parameters of hash {hash}, its manifest says {}",
        manifest.name(),
        manifest.parameter_hash
    );
    Err(Failure::new(ExitCode::Configuration, message)
        .with_remedy("the checkpoint is damaged: resume from another one"))
}

fn stream_start(context: &Context, attempt: &Attempt, loaded: Option<&Snapshot>, rolled_back: u64) -> Start {
    let device = loaded.and_then(|loaded| loaded.manifest.devices.get(attempt.rank));
    match device {
        None => Start::Beginning(context.config.job.stream.start_from),
        Some(device) => {
            let checkpoint = device.stream.clone();
            if attempt.checkpoint.as_ref().is_some_and(|reference| reference.restart_streams) {
                Start::RestartStreams { checkpoint, rolled_back }
            } else {
                Start::From { checkpoint, rolled_back }
            }
        }
    }
}

/// Starts store and hub on rank 0; nothing on the others.
type Hub = (Option<TcpStore>, Option<std::sync::mpsc::Receiver<Vec<RankReport>>>);

fn open_hub(
    context: &Context,
    attempt: &Attempt,
    listener: TcpListener,
    state: GlobalState,
    within: Duration,
) -> Result<Hub, Failure> {
    if attempt.rank != 0 {
        return Ok((None, None));
    }
    let (config, job) = (&context.config, &context.config.job);
    let store = TcpStore::serve(&config.host, 0, attempt.devices.len(), within)?;
    let greeting = Greeting {
        store_host: config.host.clone(),
        store_port: store.port(),
        rolled_back: rolled_back(job, attempt)?,
    };
    let settings = HubSettings {
        world_size: attempt.devices.len(),
        attempt: attempt.number,
        token: config.token.clone(),
        join_within: within,
        greeting: serde_json::to_string(&greeting).map_err(|error| {
            Failure::new(ExitCode::Internal, format!("failed to write the greeting: {error}"))
        })?,
    };
    let (sender, rounds) = channel();
    let mut chair = Chair::new(agree_settings(job), state, sender, Arc::clone(&context.shared));
    serve_hub(&context.runtime, listener, settings, move |reports| chair.rule(reports));
    Ok((Some(store), Some(rounds)))
}

fn agree_settings(job: &JobConfig) -> AgreeSettings {
    AgreeSettings {
        world_size: job.devices.len(),
        rule: job.stream.batch,
        aggregation: job.training.aggregation,
        learning_rate: LearningRatePlan::of(&job.training, job.devices.len()),
        completion: job.completion,
        checkpoint_every_steps: job.checkpoint.every_steps,
        evaluate_every_steps: job.evaluation.as_ref().map_or(0, |evaluation| evaluation.every_steps),
    }
}

/// Per rank, the samples of journal records that are later than the checkpoint: attempts follow each other in time, so
/// (attempt, step) orders all records.
fn rolled_back(job: &JobConfig, attempt: &Attempt) -> Result<Vec<u64>, Failure> {
    let mut samples = vec![0; job.devices.len()];
    let kept = match &attempt.checkpoint {
        None => (0, 0),
        Some(reference) => crate::checkpoint::store::parse_name(&reference.name).ok_or_else(|| {
            let message = format!("`{}` is no name of a checkpoint", reference.name);
            Failure::new(ExitCode::Configuration, message)
        })?,
    };
    let folder = journal_dir(&job.output_dir);
    if !folder.exists() {
        return Ok(samples);
    }
    for record in read_segments(&folder)?.iter().flat_map(|segment| &segment.records) {
        if (record.attempt, record.step) > kept {
            for (sum, device) in samples.iter_mut().zip(&record.devices) {
                *sum += device.samples();
            }
        }
    }
    Ok(samples)
}

fn join(
    context: &Context,
    attempt: &Attempt,
    within: Duration,
) -> Result<Member<RankReport, Verdict>, Failure> {
    let hello = Hello {
        protocol: scadles_api::PROTOCOL_VERSION,
        attempt: attempt.number,
        rank: attempt.rank,
        token: context.config.token.clone(),
    };
    let end = Arc::clone(&context.end);
    let names = attempt.devices.clone();
    let on_lost = move |error: crate::channel::ChannelError| {
        let lost = match &error {
            crate::channel::ChannelError::Lost { rank, .. } => names.get(*rank).cloned(),
            _ => None,
        };
        let message = lost.map_or_else(|| error.to_string(), |device| format!("{error} (device {device})"));
        end(Failure::new(ExitCode::PeerLost, message));
    };
    Ok(Member::join(&context.runtime, resolve(&attempt.hub)?, hello, within, on_lost)?)
}

fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let found = address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        Failure::new(ExitCode::Configuration, format!("`{address}` is no host:port of a control hub"))
    })
}

/// The collectives' engine: Gloo between processes; a group of one needs none.
fn connect(
    context: &Context,
    attempt: &Attempt,
    store: Option<TcpStore>,
    greeting: &Greeting,
    within: Duration,
) -> Result<Box<dyn Communicator>, Failure> {
    let world_size = attempt.devices.len();
    let timeout = Duration::from_secs_f64(context.config.job.limits.collective_seconds);
    if world_size == 1 {
        let alone = InProcess::group(1, timeout).pop();
        return alone
            .map(|engine| Box::new(engine) as Box<dyn Communicator>)
            .ok_or_else(|| Failure::new(ExitCode::Internal, "a group of one has no member"));
    }
    let store = match store {
        Some(store) => store,
        None => TcpStore::connect(&greeting.store_host, greeting.store_port, world_size, within)?,
    };
    Ok(Box::new(GlooEngine::connect(&store, attempt.rank, world_size, &context.config.host, timeout)?))
}

/// Name of the checkpoint from which an attempt's first journal segment continues.
pub(super) fn base_checkpoint(attempt: &Attempt) -> String {
    attempt
        .checkpoint
        .as_ref()
        .map_or_else(|| names::checkpoint(attempt.number, 0), |reference| reference.name.clone())
}
