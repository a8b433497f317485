//! The local body: observe processes, broker and progress → `scadles_control::decide` → carry the decision out.
//!
//! All of it is shell. Nothing here starts, restarts, ends or completes a job by its own judgement; what this module
//! cannot do for the job (save its state, reach the topics) it reports as a wish to stop, with the reason.

pub mod crew;
mod history;
pub mod keeper;
mod mpi;
pub mod streams;
pub mod worker;

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use scadles_api::{
    DeviceProgress, ExitCode, Phase, Progress, ScadlesJob, Tuning,
    worker::{Backend, DeviceConfig, JobConfig},
};
use scadles_control::{
    decide::{
        Action, BrokerState, Decision, JobPhase, Observation, Outcome, Supervision, UserRequest, decide,
    },
    tuning::in_words,
};
use scadles_kafka::producer::RECORD_OVERHEAD_BYTES;
use scadles_worker_client::WorkerClient;

use self::{
    crew::Crew,
    history::HistoryFile,
    streams::{BrokerAccess, Producer, needs_checkpoint, offsets_now},
};
use crate::{
    failure::Failure,
    memory::Memory,
    report,
    run_folder::RunFolder,
    signals::Signals,
    tuning::TuningFile,
    view::{Display, Snapshot},
};

/// Pause between two looks at the world.
const TICK: Duration = Duration::from_millis(200);

/// Counters of the supervision are saved this often; all else at once.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(5);

/// A checkpoint that was asked for has this long to become durable before it is asked for again.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(3);

/// A rate measured over less than this says little: accounts are a quarter of a second old at most.
const SHORTEST_MEASUREMENT_SECONDS: f64 = 5.0;

/// Seconds since 1970 that never run backwards while the runner lives, and can be compared with an earlier runner's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_unix_seconds: f64,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_unix_seconds: since_1970.as_secs_f64() }
    }

    /// When the clock was started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Seconds since the start.
    pub fn elapsed(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Seconds since 1970.
    pub fn now(&self) -> f64 {
        self.began_unix_seconds + self.elapsed()
    }
}

/// What a local body is made of.
pub struct Parts {
    /// The run folder, held by this process.
    pub folder: RunFolder,
    /// The worker's program.
    pub trainer: PathBuf,
    /// Whether workers are to leave traces.
    pub trace: bool,
    /// The job as given.
    pub job: ScadlesJob,
    /// What carries the workers' collectives.
    pub backend: Backend,
    /// The resolved job, the same as in every worker's configuration.
    pub config: JobConfig,
    /// Token of the workers' endpoints.
    pub token: String,
    /// What is known of the run so far.
    pub memory: Memory,
    /// The broker.
    pub access: BrokerAccess,
    /// The simulated streams, if any.
    pub producer: Producer,
    /// Clock of the run.
    pub clock: Clock,
    /// Where the person looks.
    pub display: Display,
    /// What the person asks for.
    pub signals: Signals,
}

/// What is left when a run has ended.
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What is known of it.
    pub memory: Memory,
    /// Rank 0's last progress, accounts settled.
    pub progress: Option<Progress>,
    /// Samples per second that arrived per device; empty if the run was too short to tell.
    pub rates: Vec<f64>,
    /// Parameter hash per rank; empty where a rank did not say.
    pub parameter_hashes: Vec<String>,
    /// The run folder.
    pub folder: RunFolder,
}

/// How quickly samples arrived, from two looks at the accounts far apart.
#[derive(Default)]
struct Arrivals {
    first: Option<(Instant, Vec<u64>)>,
    last: Option<(Instant, Vec<u64>)>,
}

impl Arrivals {
    fn note(&mut self, progress: &Progress) {
        let counts: Vec<u64> = progress.devices.iter().map(|device| device.ledger.arrived).collect();
        let changed = self.last.as_ref().is_none_or(|(_, last)| *last != counts);
        // Until every device has reported once, some rows still hold nothing.
        if changed && counts.iter().all(|count| *count > 0) {
            self.first.get_or_insert_with(|| (Instant::now(), counts.clone()));
            self.last = Some((Instant::now(), counts));
        }
    }

    /// Samples per second and device; empty if the looks were too close.
    fn rates(&self) -> Vec<f64> {
        let (Some((began, from)), Some((ended, to))) = (&self.first, &self.last) else { return vec![] };
        let seconds = ended.duration_since(*began).as_secs_f64();
        if seconds < SHORTEST_MEASUREMENT_SECONDS {
            return vec![];
        }
        to.iter().zip(from).map(|(to, from)| to.saturating_sub(*from) as f64 / seconds).collect()
    }
}

/// A running local job.
pub struct LocalBody {
    folder: RunFolder,
    /// The resolved job, with what it was tuned to.
    config: JobConfig,
    tuning: TuningFile,
    memory: Memory,
    access: BrokerAccess,
    producer: Producer,
    clock: Clock,
    display: Display,
    signals: Signals,
    crew: Crew,
    /// Latest progress of whichever attempt that has accounts.
    latest: Option<Progress>,
    /// The supervisor's latest words.
    activity: String,
    /// What this body could not do: the job is asked to stop, and ends with this.
    failure: Option<Failure>,
    saved_at: Option<Instant>,
    /// What is to be known of the topics has been told.
    topics_told: bool,
    /// When rank 0 was last asked for a checkpoint that makes room at the broker.
    checkpoint_asked_at: Option<Instant>,
    arrivals: Arrivals,
}

impl LocalBody {
    /// A body whose job is yet to be started.
    pub fn new(parts: Parts) -> Self {
        let devices: Vec<String> = parts.config.devices.iter().map(|device| device.name.clone()).collect();
        let client = WorkerClient::new(&parts.token);
        let crew = Crew::new(client, parts.trainer, parts.backend, parts.trace, &devices);
        Self {
            tuning: TuningFile::of(parts.folder.path(), parts.job, Tuning::of(&parts.config)),
            folder: parts.folder,
            config: parts.config,
            memory: parts.memory,
            access: parts.access,
            producer: parts.producer,
            clock: parts.clock,
            display: parts.display,
            signals: parts.signals,
            crew,
            latest: None,
            activity: "starting".to_owned(),
            failure: None,
            saved_at: None,
            topics_told: false,
            checkpoint_asked_at: None,
            arrivals: Arrivals::default(),
        }
    }

    /// Runs the job to its end, whichever it is. No worker is left when this returns.
    pub fn run(mut self) -> Ended {
        let mut history = HistoryFile::begin(&self.config, &self.memory.supervision);
        let outcome = loop {
            let now = self.clock.now();
            self.heed_tuning();
            let seen = self.observe(now);
            let decision = decide(&self.config, &self.memory.supervision, &seen, now);
            history.note(now, &seen, &decision);
            if let Some(outcome) = self.follow(decision, now) {
                break outcome;
            }
            self.tend_streams();
            self.display.show(&self.snapshot());
            if self.signals.wait(TICK) {
                self.acknowledge_signal();
            }
        };
        self.display.show(&self.snapshot());
        self.end(outcome)
    }

    fn observe(&mut self, now: f64) -> Observation {
        let broker = match self.access.look() {
            Ok(state) => state,
            Err(error) => {
                let problem = error.to_string();
                self.fail_at_kafka(&error);
                BrokerState::Waiting { since: now, problem }
            }
        };
        let workers = self.crew.observe();
        for news in self.crew.news() {
            self.display.failure(&news);
        }
        let (progress, progress_age_seconds) = match self.crew.progress() {
            Some((progress, age)) => (Some(progress.clone()), Some(age)),
            None => (None, None),
        };
        if let Some(progress) = &progress {
            self.take_note(progress);
        }
        let wish_to_stop = self.failure.as_ref().map(|_| UserRequest::Stop);
        Observation {
            broker,
            workers,
            progress,
            progress_age_seconds,
            user_request: self.signals.request().or(wish_to_stop),
            settings_hash: String::new(),
        }
    }

    /// Takes over what the person asks to change; the decision tells it to the group.
    fn heed_tuning(&mut self) {
        match self.tuning.look() {
            None => {}
            Some(Ok(wanted)) => {
                let words = in_words(&Tuning::of(&self.config), &wanted);
                self.config = wanted.applied_to(&self.config);
                if !words.is_empty() {
                    self.display
                        .event(&format!("tuned: {words}, with the next step that all ranks agree on"));
                }
            }
            Some(Err(problem)) => self.display.event(&problem),
        }
    }

    fn take_note(&mut self, progress: &Progress) {
        if progress.attempt == 0 {
            return;
        }
        let news = self.memory.note(progress, self.clock.elapsed());
        if let (true, Some(evaluation)) = (news.evaluation, &progress.evaluation) {
            self.display.event(&evaluation_event(evaluation));
            self.display.evaluated(&self.memory.accuracy);
        }
        if let (true, [.., before, now]) = (news.tunings, self.memory.tunings.as_slice()) {
            let words = in_words(&before.tuning, &now.tuning);
            if !words.is_empty() {
                self.display.event(&format!("step {}: {words}, on all ranks", now.step));
            }
        }
        if news.first_step || news.evaluation || news.tunings {
            self.saved_at = None;
        }
        self.arrivals.note(progress);
        // A worker that has only begun to form its group has no accounts yet: those of before say more.
        if !progress.devices.is_empty() || self.latest.is_none() {
            self.latest = Some(progress.clone());
        }
    }

    /// Stores the decision, then carries it out; the outcome, once the job is over.
    fn follow(&mut self, decision: Decision, now: f64) -> Option<Outcome> {
        self.enter_phase(&decision);
        let stored = self.remember(decision.next);
        let mut outcome = None;
        for action in decision.actions {
            match action {
                // Without its number on disk an attempt must not begin: a successor would use the number again.
                Action::StartWorker { .. } | Action::PostAttempt { .. } if !stored => {}
                Action::StartWorker { rank, attempt } => self.crew.start(rank, attempt, &self.folder, now),
                Action::PostAttempt { rank, attempt } => self.crew.post(rank, &attempt),
                Action::PostTuning { rank, tuning } => self.crew.tune(rank, &tuning),
                Action::RequestStop { rank, checkpoint } => self.crew.request_stop(rank, checkpoint),
                Action::KillWorker { rank, reason } => {
                    tracing::info!(rank, reason, "kill");
                    self.crew.kill(rank);
                }
                Action::Finish(end) => outcome = Some(end),
            }
        }
        outcome
    }

    /// Tells the person when the job enters another phase; before a new attempt the broker is looked for again.
    fn enter_phase(&mut self, decision: &Decision) {
        let before = &self.memory.supervision;
        let next = &decision.next;
        let same_phase = std::mem::discriminant(&before.phase) == std::mem::discriminant(&next.phase);
        let over = matches!(next.phase, JobPhase::Done(_));
        let told = (same_phase && before.attempt == next.attempt) || self.activity == decision.reason;
        if !over && !told {
            self.display.event(&decision.reason);
        }
        if matches!(next.phase, JobPhase::Restarting { .. })
            && !same_phase
            && let Err(error) = self.access.check_again(self.clock.now())
        {
            self.fail_at_kafka(&error);
        }
        self.activity.clone_from(&decision.reason);
    }

    /// Saves the supervision where it matters; whether what is decided now may be acted upon.
    fn remember(&mut self, next: Supervision) -> bool {
        let before = &self.memory.supervision;
        let same_but_counters =
            Supervision { last_step: before.last_step, last_samples: before.last_samples, ..next.clone() }
                == *before;
        let due = self.saved_at.is_none_or(|saved_at| saved_at.elapsed() >= COUNTERS_INTERVAL);
        self.memory.supervision = next;
        if same_but_counters && !due {
            return true;
        }
        match self.memory.save(&self.folder) {
            Ok(()) => {
                self.saved_at = Some(Instant::now());
                true
            }
            Err(failure) => {
                self.fail(failure);
                false
            }
        }
    }

    /// Starts the simulated streams with the first group that trains, and tells them of checkpoints. They go on until the
    /// job is over: a group that is lost while it finishes would need them again.
    fn tend_streams(&mut self) {
        let Some(topics) = self.access.topics() else { return };
        if !std::mem::replace(&mut self.topics_told, true) {
            topics.notes.iter().for_each(|note| self.display.event(note));
        }
        if let Some((progress, _)) = self.crew.progress() {
            if progress.phase == Phase::Training && !self.producer.is_started() {
                self.producer.start(&topics.broker);
            }
            if !progress.durable_positions.is_empty() {
                self.producer.set_durable(&progress.durable_positions);
            }
            if progress.phase == Phase::Training {
                let devices = progress.devices.clone();
                self.ask_for_room(&devices);
            }
        }
        if let Err(error) = self.producer.look() {
            self.fail_at_kafka(&error);
        }
    }

    /// Asks for a checkpoint before a broker that keeps only so much brings the streams to a stand.
    fn ask_for_room(&mut self, devices: &[DeviceProgress]) {
        let limits = self.access.topics().map(|topics| topics.broker.limits());
        let Some(budget) = limits.and_then(|limits| limits.budget_bytes_per_partition) else { return };
        let record_bytes = self.config.samples().payload_bytes() as u64 + RECORD_OVERHEAD_BYTES;
        let asked = self.checkpoint_asked_at.is_some_and(|at| at.elapsed() < CHECKPOINT_PATIENCE);
        if !asked && needs_checkpoint(devices, self.producer.durable(), budget, record_bytes) {
            self.checkpoint_asked_at = Some(Instant::now());
            self.crew.request_checkpoint();
        }
    }

    /// A topic that is missing before the first attempt is a mistake of the job's; later it was taken away.
    fn fail_at_kafka(&mut self, error: &scadles_kafka::Error) {
        let mut failure = Failure::kafka(error);
        let topic_gone = matches!(error, scadles_kafka::Error::TopicMissing { .. });
        if topic_gone && self.memory.supervision.attempt > 0 {
            failure.code = ExitCode::TopicLost;
        }
        self.fail(failure);
    }

    fn stop_streams(&mut self) {
        if let Err(error) = self.producer.stop() {
            self.display.event(&format!("the streams did not end well: {error}"));
        }
    }

    /// Keeps the first failure: what follows is mostly its echo.
    fn fail(&mut self, failure: Failure) {
        if self.failure.is_none() {
            self.display.failure(&failure.message);
            self.failure = Some(failure);
        }
    }

    fn acknowledge_signal(&mut self) {
        match self.signals.request() {
            Some(UserRequest::Stop) => {
                self.display.event("stopping after a checkpoint; Ctrl-C again ends at once");
            }
            Some(UserRequest::Kill) => self.display.event("ending at once"),
            // Nobody suspends a run of this machine: it is stopped, and resumed by another command.
            Some(UserRequest::Suspend) | None => {}
        }
    }

    fn snapshot(&self) -> Snapshot {
        let supervision = &self.memory.supervision;
        let sample_bytes = self.config.samples().sample_bytes();
        let places =
            |device: &DeviceConfig| self.config.stream.samples_that_fit(sample_bytes, device.partitions);
        let trains = supervision.phase == JobPhase::Running && supervision.first_step_at.is_some();
        Snapshot {
            job: self.config.name.clone(),
            phase: supervision.phase.name(),
            activity: if trains { "training".to_owned() } else { self.activity.clone() },
            attempt: supervision.attempt,
            seconds: self.clock.elapsed(),
            completion: self.config.completion,
            epoch_samples: self.config.training.epoch_samples,
            progress: self.latest.clone().filter(|progress| progress.step > 0),
            attempts: supervision.history.clone(),
            devices: self.config.devices.iter().map(|device| device.name.clone()).collect(),
            places: self.config.devices.iter().map(places).collect(),
            streams: self.producer.view(),
        }
    }

    /// Ends processes and streams, settles the accounts.
    fn end(mut self, outcome: Outcome) -> Ended {
        self.crew.dismiss();
        self.stop_streams();
        self.settle_accounts();
        let hash = |words: Option<&scadles_api::LastWords>| {
            words.and_then(|words| words.parameter_hash.clone()).unwrap_or_default()
        };
        let parameter_hashes = self.crew.last_words().into_iter().map(hash).collect();
        if let Err(failure) = self.memory.save(&self.folder) {
            self.fail(failure);
        }
        self.display.close();
        Ended {
            outcome: self.failure.map_or(outcome, |failure| Outcome {
                code: failure.code,
                message: failure.message,
                remedy: failure.remedy,
            }),
            memory: self.memory,
            progress: self.latest,
            rates: self.arrivals.rates(),
            parameter_hashes,
            folder: self.folder,
        }
    }

    /// Brings each device's account to the moment when its simulated stream ended, as the broker has it. Streams of
    /// others go on; their accounts stay as the worker saw them last.
    fn settle_accounts(&mut self) {
        let (Some(topics), Some(progress)) = (self.access.topics(), &mut self.latest) else { return };
        if self.config.producer.is_none() {
            return;
        }
        let names: Vec<String> = self.config.devices.iter().map(|device| device.topic.clone()).collect();
        match offsets_now(topics, &names) {
            Ok(offsets) => {
                for (device, partitions) in progress.devices.iter_mut().zip(offsets) {
                    let ends: Vec<(i32, i64)> = partitions
                        .iter()
                        .enumerate()
                        .map(|(partition, offsets)| {
                            ((partition as u32).cast_signed(), offsets.end.cast_signed())
                        })
                        .collect();
                    report::settle(&mut device.ledger, &device.positions, &ends);
                }
            }
            Err(error) => tracing::warn!(%error, "the accounts stay as the workers saw them last"),
        }
    }
}

fn evaluation_event(evaluation: &scadles_api::progress::Evaluation) -> String {
    let shares: Vec<String> = evaluation
        .top_k
        .iter()
        .map(|top| format!("Top-{} {:.1} %", top.accuracy_k, top.share * 100.0))
        .collect();
    format!(
        "step {}: {}, loss {:.3} on {} held-out pictures",
        evaluation.step,
        shares.join(", "),
        evaluation.loss,
        evaluation.pictures
    )
}
