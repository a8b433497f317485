//! The worker's HTTP interface, seen from a supervisor: one piece, used by the local runner and by the operator. I/O.
//!
//! Calls block for at most a second each; an asynchronous caller runs them on a thread of its own.

#![forbid(unsafe_code)]

use std::time::Duration;

use scadles_api::{Attempt, Progress, Tuning, attempt::StopRequest};
use serde::Serialize;

/// A worker answers in milliseconds; one that does not is silent, and `decide` is told its age.
const DEADLINE: Duration = Duration::from_secs(1);

/// Why a worker did not answer as it should. The supervisor asks again at its next look.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer, or none that could be read.
    #[error("{0}")]
    Http(#[from] ureq::Error),
    /// An answer that refuses.
    #[error("the worker answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its body, shortened.
        text: String,
    },
}

/// Talks to all workers of one job: they share a token.
#[derive(Clone, Debug)]
pub struct WorkerClient {
    agent: ureq::Agent,
    authorization: String,
}

impl WorkerClient {
    /// A client whose requests carry `token`.
    pub fn new(token: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(DEADLINE))
            .http_status_as_error(false)
            // Workers are on this machine or in this cluster; a proxy of the environment must not get between.
            .proxy(None)
            .build()
            .new_agent();
        Self { agent, authorization: format!("Bearer {token}") }
    }

    /// `GET /v1/progress`.
    pub fn progress(&self, endpoint: &str) -> Result<Progress, ClientError> {
        let url = format!("http://{endpoint}/v1/progress");
        let mut response = self.agent.get(&url).header("Authorization", &self.authorization).call()?;
        let status = response.status().as_u16();
        let body = response.body_mut();
        if status != 200 {
            return Err(refused(status, &body.read_to_string()?));
        }
        // 1,024 devices with a handful of partitions each fit many times.
        Ok(body.with_config().limit(64 << 20).read_json()?)
    }

    /// `POST /v1/attempt`.
    pub fn post_attempt(&self, endpoint: &str, attempt: &Attempt) -> Result<(), ClientError> {
        self.post(endpoint, "attempt", attempt)
    }

    /// `POST /v1/stop`.
    pub fn post_stop(&self, endpoint: &str, request: StopRequest) -> Result<(), ClientError> {
        self.post(endpoint, "stop", &request)
    }

    /// `POST /v1/tuning`.
    pub fn post_tuning(&self, endpoint: &str, tuning: &Tuning) -> Result<(), ClientError> {
        self.post(endpoint, "tuning", tuning)
    }

    /// `POST /v1/checkpoint`.
    pub fn post_checkpoint(&self, endpoint: &str) -> Result<(), ClientError> {
        self.post(endpoint, "checkpoint", &())
    }

    fn post(&self, endpoint: &str, what: &str, body: &impl Serialize) -> Result<(), ClientError> {
        let url = format!("http://{endpoint}/v1/{what}");
        let mut response =
            self.agent.post(&url).header("Authorization", &self.authorization).send_json(body)?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status().as_u16();
        Err(refused(status, &response.body_mut().read_to_string()?))
    }
}

fn refused(status: u16, text: &str) -> ClientError {
    ClientError::Refused { status, text: text.chars().take(300).collect() }
}
