//! Jobs in a Kubernetes cluster: `scadles status`, `why` and `fetch`, also as `kubectl scadles …`.
//!
//! What is said is made by pure functions over objects ([`table`], [`page`], [`why`], [`fetch::pod`]); the rest asks the
//! API server. Nothing here changes a job.

pub mod args;
pub mod client;
pub mod fetch;
pub mod page;
pub mod refusal;
pub mod status;
pub mod table;
pub mod time;
pub mod why;
pub mod words;

#[cfg(test)]
mod testing;

use crate::failure::{Failure, Result};

/// How to get an operator and the definition of ScadlesJob, for people who have neither.
pub const HOW_TO_INSTALL: &str =
    "helm install scadles charts/scadles --namespace scadles-system --create-namespace";

/// Waits for `work` on a runtime of its own: commands are plain functions.
fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::internal(format!("no runtime for network access: {error}")))?
        .block_on(work)
}
