//! A worker's HTTP endpoint: `/v1/attempt`, `/v1/progress`, `/v1/stop`, `/v1/checkpoint`, `/v1/tuning`, `/metrics`,
//! `/livez`.
//!
//! Role: the only way in for a supervisor. The worker pushes nothing; a supervisor polls and repeats its requests until
//! progress confirms them. Every `/v1` request and the metrics need the job's token. I/O: sockets, on the runtime given.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use scadles_api::{
    Attempt, CheckpointRef, PROTOCOL_VERSION, Phase, Progress, Tuning, WorkerConfig, attempt::StopRequest,
};
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::mpsc};

mod metrics;

/// What the endpoint and the worker's threads share.
pub struct Shared {
    token: String,
    progress: Mutex<Progress>,
    attempts: Mutex<Option<mpsc::Sender<Attempt>>>,
    last_contact: Mutex<Instant>,
    stop: Mutex<Option<StopRequest>>,
    checkpoint_wanted: AtomicBool,
    /// What the job began with: what it has not cannot be tuned.
    began: Tuning,
    /// The newest tuning that a supervisor has told.
    tuning: Mutex<Option<Tuning>>,
    /// Name of the last checkpoint that a supervisor has named or read of.
    told_checkpoint: Mutex<Option<String>>,
    end_was_seen: AtomicBool,
}

impl Shared {
    /// State of a worker that has just started, and the receiver of its one attempt.
    pub fn new(config: &WorkerConfig) -> (Arc<Self>, mpsc::Receiver<Attempt>) {
        Self::of(&config.device().name, config.token.clone(), Tuning::of(&config.job))
    }

    fn of(device: &str, token: String, began: Tuning) -> (Arc<Self>, mpsc::Receiver<Attempt>) {
        let (sender, receiver) = mpsc::channel(1);
        let shared = Self {
            token,
            progress: Mutex::new(idle(device)),
            attempts: Mutex::new(Some(sender)),
            last_contact: Mutex::new(Instant::now()),
            stop: Mutex::new(None),
            checkpoint_wanted: AtomicBool::new(false),
            began,
            tuning: Mutex::new(None),
            told_checkpoint: Mutex::new(None),
            end_was_seen: AtomicBool::new(false),
        };
        (Arc::new(shared), receiver)
    }

    /// State of a worker of this device for tests.
    #[cfg(test)]
    pub(crate) fn idle(device: &str) -> (Arc<Self>, mpsc::Receiver<Attempt>) {
        Self::of(device, "secret".to_owned(), Tuning::default())
    }

    /// The same of a job that begins with these settings.
    #[cfg(test)]
    pub(crate) fn idle_with(began: Tuning) -> (Arc<Self>, mpsc::Receiver<Attempt>) {
        Self::of("device-0", "secret".to_owned(), began)
    }

    /// Changes what `/v1/progress` answers.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
    }

    /// What `/v1/progress` answers.
    pub fn progress(&self) -> Progress {
        lock(&self.progress).clone()
    }

    /// The same for a thread that may hold the lock itself, since it panics.
    pub fn try_progress(&self) -> Option<Progress> {
        self.progress.try_lock().ok().map(|progress| progress.clone())
    }

    /// Asks this worker's group to stop, with a checkpoint if any of the requests wants one.
    pub fn request_stop(&self, request: StopRequest) {
        lock(&self.stop).get_or_insert(request).checkpoint |= request.checkpoint;
    }

    /// A supervisor may start the next attempt from this checkpoint, until it has read of a newer one.
    pub fn supervisor_knows(&self, checkpoint: &CheckpointRef) {
        *lock(&self.told_checkpoint) = Some(checkpoint.name.clone());
    }

    /// The checkpoints that a supervisor may start the next attempt from: what progress tells now, and what it told when
    /// it was last read, or before, what the present attempt continues.
    pub fn known_checkpoints(&self) -> Vec<String> {
        // In this order: whoever reads in between reads the newer one.
        let told = lock(&self.told_checkpoint).clone();
        let announced = lock(&self.progress).checkpoint.as_ref().map(|reference| reference.name.clone());
        told.into_iter().chain(announced).collect()
    }

    /// The request to stop, if one came.
    pub fn stop_request(&self) -> Option<StopRequest> {
        *lock(&self.stop)
    }

    /// Whether a supervisor has asked for a checkpoint that is not agreed yet.
    pub fn checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.load(Ordering::Acquire)
    }

    /// A checkpoint is agreed: the request, if there was one, is met.
    pub fn checkpoint_agreed(&self) {
        self.checkpoint_wanted.store(false, Ordering::Release);
    }

    /// Takes a tuning in, to be agreed on by the ranks; an older one than is known changes nothing.
    fn tell(&self, tuning: Tuning) -> Result<(), String> {
        tuning.check(&self.began)?;
        let mut known = lock(&self.tuning);
        if known.is_none_or(|known| known.generation < tuning.generation) {
            *known = Some(tuning);
        }
        Ok(())
    }

    /// The newest tuning that a supervisor has told, if any.
    pub fn tuning(&self) -> Option<Tuning> {
        *lock(&self.tuning)
    }

    /// Time since a supervisor last spoke to this worker.
    pub fn silence(&self) -> Duration {
        lock(&self.last_contact).elapsed()
    }

    /// Whether a supervisor has read the final progress.
    pub fn end_was_seen(&self) -> bool {
        self.end_was_seen.load(Ordering::Acquire)
    }
}

/// A poisoned lock only means that a thread panicked between two plain assignments; the process ends for that reason.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn idle(device: &str) -> Progress {
    Progress {
        protocol: PROTOCOL_VERSION,
        device: device.to_owned(),
        attempt: 0,
        rank: 0,
        phase: Phase::Idle,
        step: 0,
        samples: 0,
        epoch: 0.0,
        loss: None,
        learning_rate: 0.0,
        window_seconds: 0.0,
        step_seconds: 0.0,
        samples_per_second: 0.0,
        train_seconds: 0.0,
        compression: None,
        injection: None,
        evaluation: None,
        checkpoint: None,
        tunings: Vec::new(),
        durable_positions: Vec::new(),
        devices: Vec::new(),
        last_words: None,
    }
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    axum::serve(listener, router(shared)).await
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/attempt", post(post_attempt))
        .route("/v1/progress", get(get_progress))
        .route("/v1/stop", post(post_stop))
        .route("/v1/checkpoint", post(post_checkpoint))
        .route("/v1/tuning", post(post_tuning))
        .route("/metrics", get(get_metrics))
        .layer(middleware::from_fn_with_state(shared.clone(), require_token))
        .route("/livez", get(|| async { "ok" }))
        .with_state(shared)
}

/// Compares in constant time: the endpoint must not tell how much of a guess was right.
async fn require_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let wanted = format!("Bearer {}", shared.token);
    if !bool::from(given.ct_eq(wanted.as_bytes())) {
        let message = "this worker asks for its job's token: Authorization: Bearer TOKEN\n";
        return (StatusCode::UNAUTHORIZED, message).into_response();
    }
    *lock(&shared.last_contact) = Instant::now();
    next.run(request).await
}

/// Accepts the first attempt; the same one again is confirmed, another one refused: `restart: RecreateAll` gives every
/// attempt processes of its own.
async fn post_attempt(State(shared): State<Arc<Shared>>, Json(attempt): Json<Attempt>) -> Response {
    let conflict = |message: String| (StatusCode::CONFLICT, message).into_response();
    if attempt.protocol != PROTOCOL_VERSION {
        return conflict(format!("this worker speaks protocol {PROTOCOL_VERSION}, not {}", attempt.protocol));
    }
    if let Err(problem) = shared.tell(attempt.tuning) {
        return (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response();
    }
    let running = lock(&shared.progress).attempt;
    if running != 0 && running != attempt.number {
        return conflict(format!("this worker runs attempt {running}, not {}", attempt.number));
    }
    let sender = lock(&shared.attempts).take();
    if let Some(sender) = sender {
        let (number, rank) = (attempt.number, attempt.rank);
        if sender.try_send(attempt).is_err() {
            return conflict("this worker is ending".to_owned());
        }
        shared.update(|progress| {
            progress.attempt = number;
            progress.rank = rank;
            progress.phase = Phase::Forming;
        });
    }
    StatusCode::OK.into_response()
}

async fn get_progress(State(shared): State<Arc<Shared>>) -> Json<Progress> {
    let progress = shared.progress();
    if let Some(reference) = &progress.checkpoint {
        shared.supervisor_knows(reference);
    }
    if progress.phase == Phase::Ended {
        shared.end_was_seen.store(true, Ordering::Release);
    }
    Json(progress)
}

async fn post_stop(State(shared): State<Arc<Shared>>, Json(request): Json<StopRequest>) -> StatusCode {
    shared.request_stop(request);
    StatusCode::ACCEPTED
}

/// A checkpoint after the next step, besides those that the job asks for: room for the streams of a broker that keeps
/// only so much.
async fn post_checkpoint(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.checkpoint_wanted.store(true, Ordering::Release);
    StatusCode::ACCEPTED
}

/// Settings for all ranks from the next step on that they agree on; `/v1/progress` says which it was.
async fn post_tuning(State(shared): State<Arc<Shared>>, Json(tuning): Json<Tuning>) -> Response {
    match shared.tell(tuning) {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response(),
    }
}

async fn get_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics::render(&shared.progress())).into_response()
}

#[cfg(test)]
mod tests;
