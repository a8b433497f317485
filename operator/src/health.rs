//! `/livez`, `/readyz`, `/metrics`. I/O: one listener.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// A loop that has not turned for this long hangs.
const LONGEST_TURN: Duration = Duration::from_mins(1);

/// What the probes ask for.
pub struct Health {
    began: Instant,
    /// Milliseconds from the start to the latest turn of the runtime.
    turned: AtomicU64,
    api_answers: AtomicBool,
    metrics: Metrics,
}

impl Health {
    /// Nothing is ready yet.
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            turned: AtomicU64::new(0),
            api_answers: AtomicBool::new(false),
            metrics,
        })
    }

    /// The loop has turned.
    pub fn turn(&self) {
        self.turned.store(self.began.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// The API server knows ScadlesJobs, and answers.
    pub fn set_api_answers(&self, answers: bool) {
        self.api_answers.store(answers, Ordering::Release);
    }

    fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.turned.load(Ordering::Acquire)))
    }
}

/// Serves until the process ends.
pub async fn serve(address: SocketAddr, health: Arc<Health>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(TcpListener::bind(address).await?, router).await
}

async fn livez(State(health): State<Arc<Health>>) -> Response {
    let idle = health.idle();
    if idle > LONGEST_TURN {
        let text = format!("the loop has not turned for {} s\n", idle.as_secs());
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    "ok\n".into_response()
}

/// Standing by is ready: a replica that does not hold the lease is as it should be.
async fn readyz(State(health): State<Arc<Health>>) -> Response {
    if health.api_answers.load(Ordering::Acquire) {
        return "ok\n".into_response();
    }
    let text = "missing: the API server does not list scadlesjobs.scadles.io (is the definition installed, and may the \
                operator list them?)\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], health.metrics.render()).into_response()
}
