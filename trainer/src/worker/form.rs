//! From an attempt to a rank that can take steps: store, control channel, collectives, checkpoint, stream. Shell.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, mpsc::channel},
    time::{Duration, Instant},
};

use scadles_api::{
    Attempt, ExitCode, Phase, Tuning, names,
    worker::{Backend, JobConfig},
};
use scadles_core::{
    agree::AgreeSettings, batch::BatchClock, buffer_state::BufferStateTracker, evaluate::PrequentialAccuracy,
    inject::InjectionRule, learning_rate::LearningRatePlan,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use torch_ext::TcpStore;

use super::{
    Context, Failure,
    leader::Leader,
    phase_times::PhaseTimes,
    rank::Rank,
    restore::{Restored, ResumePoint, start_state, start_tuning, stream_start, totals},
    round::{Chair, RankReport, Verdict},
    watchdog::Watchdog,
};
use crate::{
    channel::{Hello, HubSettings, Member, serve_hub},
    decode_ahead::{BatchBuffers, SampleMaker},
    engine::{Communicator, EngineError, GlooEngine, InProcess, NcclEngine, UniqueId},
    exchange::{GradientExchange, rule},
    gpu::Gpu,
    learner::Learner,
    source::{Source, SourceSettings},
    storage::{Mirror, mirror::SharedMirror},
};

/// A group that joined in the last moment still has this long to connect.
const LEAST_TO_CONNECT: Duration = Duration::from_secs(5);
/// The engine's own limit of a collective is so many times `collectiveSeconds`: a quick rank's first bucket waits while a slow
/// one computes. How long it may do so the watchdog says, step by step, which knows the window and names the rank that is
/// stuck; the engine, which does not, must not speak before it, nor before the deadline of the job's first step.
const ENGINE_PATIENCE: f64 = 20.0;

/// What rank 0 tells a member once the group is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Greeting {
    /// Where the collectives' engine meets.
    meeting: Meeting,
    /// Settings that the group goes on with.
    tuning: Tuning,
    /// SHA-256 of the file of rank 0's network, if it is not built in.
    model_file: Option<String>,
    /// Where the member goes on, if the attempt continues a checkpoint.
    resume: Option<ResumePoint>,
}

/// Where the ranks' engine meets, by backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Meeting {
    /// At the store of this host and port.
    Gloo(String, u16),
    /// In the world that `mpiexec` has made.
    Mpi,
    /// By the bytes of this id.
    Nccl(Vec<u8>),
}

impl Meeting {
    const fn backend(&self) -> Backend {
        match self {
            Self::Gloo(..) => Backend::Gloo,
            Self::Mpi => Backend::Mpi,
            Self::Nccl(_) => Backend::Nccl,
        }
    }
}

/// What earlier attempts left in the bucket of results, if they go to one.
fn bring_results(job: &JobConfig) -> Result<SharedMirror, Failure> {
    let Some(bucket) = &job.output_bucket else { return Ok(None) };
    let mut mirror = Mirror::open(bucket, &job.uid, &job.output_dir)?;
    let brought = mirror.pull()?;
    tracing::debug!(brought, "results of earlier attempts");
    Ok(Some(Arc::new(Mutex::new(mirror))))
}

/// Builds the rank that `attempt` describes. `hub` is the listener that this worker announced.
pub(super) fn form(context: &Context, attempt: &Attempt, hub: TcpListener) -> Result<Rank, Failure> {
    let job = &context.config.job;
    let within = Duration::from_secs_f64(job.limits.start_deadline_seconds);
    let began = Instant::now();
    let mirror = if attempt.rank == 0 { bring_results(job)? } else { None };
    let mut restored = Restored::load(job, attempt, context.gpu.as_ref().map(Gpu::device))?;
    let (store, rounds) = open_hub(context, attempt, hub, &restored, within)?;
    let member = join(context, attempt, within)?;
    let greeting = read_greeting(member.greeting())?;
    same_model_file(greeting.model_file.as_deref(), restored.learner.model_file())?;
    let mut communicator =
        connect(context, attempt, store, &greeting.meeting, left_to_connect(within, began.elapsed()))?;
    let resume = greeting.resume.as_ref();
    let job = &greeting.tuning.applied_to(job);
    let mut exchange = gradient_exchange(job, &restored.learner, attempt.devices.len());
    if let Some(resume) = resume {
        restored.share(&mut *communicator, resume)?;
        if let GradientExchange::Compressed(exchange) = &mut exchange {
            restored.share_residuals(&mut *communicator, resume, exchange)?;
        }
    }
    let start = stream_start(context, attempt, resume);
    let source = Source::open(SourceSettings::of_worker(&context.config, start)?)?;
    let Restored { manifest, learner, momentum, .. } = restored;
    let leader = match rounds {
        None => None,
        Some(rounds) => Some(Leader::open(context, attempt, manifest.as_ref(), rounds, mirror)?),
    };
    let watchdog = start_watchdog(context)?;
    context.shared.update(|progress| progress.phase = Phase::Training);
    Ok(Rank {
        position: attempt.rank,
        world_size: attempt.devices.len(),
        clock: BatchClock::new(job.stream.batch, job.stream.batch_bounds),
        batches: BatchBuffers::new(
            &job.samples(),
            &job.stream.transform,
            SampleMaker::of_worker(&context.config),
            largest_batch(job),
            source.reader(),
        )?,
        hash: Some(learner.parameter_hash()?),
        exchange,
        injection: injection_rule(job),
        learner,
        momentum,
        communicator,
        source,
        member,
        watchdog,
        leader,
        state: start_state(resume, greeting.tuning),
        times: PhaseTimes::from_environment(&context.config.device().name, attempt.rank),
        round: 0,
        began: Instant::now(),
        last_commit: Instant::now(),
        totals: totals(resume),
        prequential: PrequentialAccuracy::default(),
        buffer_state: BufferStateTracker::default(),
        lost_seen: 0,
        last_step: None,
        gradient: None,
        last_share: (0, 0.0),
        evaluation: None,
        held_out: None,
        fault: None,
        config: context.config.clone(),
        shared: Arc::clone(&context.shared),
    })
}

fn start_watchdog(context: &Context) -> Result<Watchdog, Failure> {
    let end = Arc::clone(&context.end);
    Watchdog::start(move |stuck| end(stuck.failure()))
        .map_err(|error| Failure::new(ExitCode::Internal, format!("failed to start the watchdog: {error}")))
}

fn read_greeting(text: &str) -> Result<Greeting, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::new(ExitCode::Internal, format!("rank 0 sent an unreadable greeting: {error}"))
    })
}

fn gradient_exchange(job: &JobConfig, learner: &Learner<f32>, world_size: usize) -> GradientExchange {
    let exchange = GradientExchange::new(learner.flat(), world_size, job.compression);
    if job.training.learning_rate_scaling.reads_gradients() { exchange.after_compute() } else { exchange }
}

/// Equal parameters would not tell that ranks compute something else with them.
fn same_model_file(of_rank_0: Option<&str>, own: Option<&str>) -> Result<(), Failure> {
    if own == of_rank_0 {
        return Ok(());
    }
    let [own, of_rank_0] = [own, of_rank_0].map(|sha256| sha256.unwrap_or("none"));
    let message = format!(
        "spec.model.torchScript.path: this worker's file has the SHA-256 {own}, that of rank 0 {of_rank_0}"
    );
    Err(Failure::new(ExitCode::Configuration, message).with_remedy("give all workers the same file"))
}

/// Most samples that a rank computes on at once: its own, and then those of others.
fn largest_batch(job: &JobConfig) -> usize {
    let fixed = match job.stream.batch {
        scadles_api::worker::BatchRule::Fixed { size } => size,
        _ => 0,
    };
    let own = u64::from(job.stream.batch_bounds.max.max(fixed));
    injection_rule(job).map_or(own, |rule| own.max(rule.most_received(own))) as usize
}

/// How the devices of `job` share samples, if they do.
fn injection_rule(job: &JobConfig) -> Option<InjectionRule> {
    let record_bytes = job.samples().sample_bytes() as u64;
    job.injection.as_ref().map(|config| InjectionRule::new(config, record_bytes, job.training.seed))
}

/// Store and hub of rank 0; nothing on the others.
type Hub = (Option<TcpStore>, Option<std::sync::mpsc::Receiver<Vec<RankReport>>>);

fn open_hub(
    context: &Context,
    attempt: &Attempt,
    listener: TcpListener,
    restored: &Restored,
    within: Duration,
) -> Result<Hub, Failure> {
    if attempt.rank != 0 {
        return Ok((None, None));
    }
    let (config, job) = (&context.config, &context.config.job);
    let (store, meeting) = open_meeting(context, attempt.devices.len(), within)?;
    let points = restored.resume_points(job, attempt)?;
    let tuning = start_tuning(job, attempt, restored.manifest.as_ref());
    let state = start_state(points.first().and_then(Option::as_ref), tuning);
    let greeting = |resume| {
        let greeting = Greeting {
            meeting: meeting.clone(),
            tuning,
            model_file: restored.learner.model_file().map(str::to_owned),
            resume,
        };
        serde_json::to_string(&greeting).map_err(|error| {
            Failure::new(ExitCode::Internal, format!("failed to write the greeting: {error}"))
        })
    };
    let settings = HubSettings {
        world_size: attempt.devices.len(),
        attempt: attempt.number,
        token: config.token.clone(),
        join_within: within,
        greetings: points.into_iter().map(greeting).collect::<Result<_, _>>()?,
    };
    let (sender, rounds) = channel();
    let agreed = agree_settings(job, &restored.learner).tuned(&tuning);
    let mut chair = Chair::new(agreed, &state, sender, Arc::clone(&context.shared));
    serve_hub(&context.runtime, listener, settings, move |reports| chair.rule(reports));
    Ok((store, Some(rounds)))
}

/// Rank 0: where its group meets, and the store that is served for it.
fn open_meeting(
    context: &Context,
    world_size: usize,
    within: Duration,
) -> Result<(Option<TcpStore>, Meeting), Failure> {
    let config = &context.config;
    match (config.backend, &context.gpu) {
        (Backend::Gloo, _) => {
            let store = TcpStore::serve(&config.host, 0, world_size, within)?;
            let meeting = Meeting::Gloo(config.host.clone(), store.port());
            Ok((Some(store), meeting))
        }
        (Backend::Mpi, _) => Ok((None, Meeting::Mpi)),
        (Backend::Nccl, Some(gpu)) => Ok((None, Meeting::Nccl(gpu.unique_id()?.to_bytes().to_vec()))),
        (Backend::Nccl, None) => Err(without_gpu()),
    }
}

fn without_gpu() -> Failure {
    Failure::new(ExitCode::Internal, "the backend is Nccl, but no GPU was opened")
}

/// What the ranks of `job` agree by.
pub(crate) fn agree_settings(job: &JobConfig, learner: &Learner<f32>) -> AgreeSettings {
    let world_size = job.devices.len();
    AgreeSettings {
        world_size,
        rule: job.stream.batch,
        aggregation: job.training.aggregation,
        learning_rate: LearningRatePlan::of(&job.training, job.devices.len()),
        compression: job.compression.map(|compression| rule(learner.flat(), world_size, &compression)),
        injection: injection_rule(job),
        tuning: Tuning::of(job),
        completion: job.completion,
        checkpoint_every_steps: job.checkpoint.every_steps,
        evaluate_every_steps: job.evaluation.as_ref().map_or(0, |evaluation| evaluation.every_steps),
    }
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

/// No time at all would be taken for a mistake, though all ranks are there.
fn left_to_connect(within: Duration, spent: Duration) -> Duration {
    within.saturating_sub(spent).max(LEAST_TO_CONNECT)
}

/// The collectives' engine between processes; a group of one needs none.
fn connect(
    context: &Context,
    attempt: &Attempt,
    store: Option<TcpStore>,
    meeting: &Meeting,
    within: Duration,
) -> Result<Box<dyn Communicator>, Failure> {
    let world_size = attempt.devices.len();
    let limits = &context.config.job.limits;
    let seconds = (limits.collective_seconds * ENGINE_PATIENCE).max(limits.start_deadline_seconds);
    let timeout = Duration::from_secs_f64(seconds);
    if world_size == 1 {
        let alone = InProcess::group(1, timeout).pop();
        return alone
            .map(|engine| Box::new(engine) as Box<dyn Communicator>)
            .ok_or_else(|| Failure::new(ExitCode::Internal, "a group of one has no member"));
    }
    let own = context.config.backend;
    if own != meeting.backend() {
        let message = format!("rank 0 exchanges over {:?}, this worker over {own:?}", meeting.backend());
        return Err(Failure::new(ExitCode::Configuration, message)
            .with_remedy("give all workers of an attempt the same backend"));
    }
    match meeting {
        Meeting::Gloo(host, port) => {
            let store = match store {
                Some(store) => store,
                None => TcpStore::connect(host, *port, world_size, within)?,
            };
            let host = &context.config.host;
            Ok(Box::new(GlooEngine::connect(&store, attempt.rank, world_size, host, timeout)?))
        }
        #[cfg(feature = "mpi")]
        Meeting::Mpi => connect_mpi(attempt.rank, world_size, within, timeout),
        // Such a build has refused its configuration by now.
        #[cfg(not(feature = "mpi"))]
        Meeting::Mpi => {
            Err(Failure::new(ExitCode::Configuration, "this scadles-trainer was built without MPI"))
        }
        Meeting::Nccl(id) => connect_nccl(context, attempt, id, timeout),
    }
}

fn connect_nccl(
    context: &Context,
    attempt: &Attempt,
    id: &[u8],
    timeout: Duration,
) -> Result<Box<dyn Communicator>, Failure> {
    let gpu = context.gpu.as_ref().ok_or_else(without_gpu)?;
    let id = id.try_into().map(UniqueId::from_bytes).map_err(|_| {
        Failure::new(ExitCode::Internal, format!("rank 0 sent an id of NCCL of {} bytes", id.len()))
    })?;
    match NcclEngine::connect(gpu, &id, attempt.rank, attempt.devices.len(), timeout) {
        Ok(engine) => Ok(Box::new(engine)),
        // It will not be better in the next attempt.
        Err(error @ EngineError::Argument { .. }) => {
            Err(Failure::new(ExitCode::Configuration, error.to_string())
                .with_remedy("give each worker a GPU of its own, or write spec.backend: Gloo"))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(feature = "mpi")]
fn connect_mpi(
    rank: usize,
    world_size: usize,
    within: Duration,
    timeout: Duration,
) -> Result<Box<dyn Communicator>, Failure> {
    use crate::engine::MpiEngine;
    match MpiEngine::connect(rank, world_size, within, timeout) {
        Ok(engine) => Ok(Box::new(engine)),
        // Another mpiexec than this library's, or too old an MPI: it will not be better in the next attempt.
        Err(error @ EngineError::Argument { .. }) => {
            let remedy =
                "name the mpiexec of the MPI that scadles-trainer was built with: MPIEXEC=PATH scadles run …";
            Err(Failure::new(ExitCode::Configuration, error.to_string()).with_remedy(remedy))
        }
        Err(error) => Err(error.into()),
    }
}

/// Name of the checkpoint from which an attempt's first journal segment continues.
pub(super) fn base_checkpoint(attempt: &Attempt) -> String {
    attempt
        .checkpoint
        .as_ref()
        .map_or_else(|| names::checkpoint(attempt.number, 0), |reference| reference.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_joined_in_the_last_moment_has_time_to_connect() {
        let [within, spent] = [120, 119].map(Duration::from_secs);
        assert_eq!(left_to_connect(within, spent), LEAST_TO_CONNECT);
        assert_eq!(left_to_connect(spent, within), LEAST_TO_CONNECT);
        assert_eq!(left_to_connect(within, LEAST_TO_CONNECT), Duration::from_secs(115));
    }
}
