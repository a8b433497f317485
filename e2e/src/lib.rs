//! What the end-to-end tests share: a scenario with a namespace of its own, waiting for what an object must come to,
//! programs typed as a user types them, and what is kept of a failed test.
//!
//! The tests (`tests/smoke.rs`, `tests/scenarios/`) run one after another on the kind cluster that `scripts/e2e.sh` makes. They
//! are `#[ignore]`d, so that `cargo test` compiles them and says that they were not run.

pub mod broker;
pub mod diagnostics;
pub mod job;
pub mod operator;
pub mod pods;
pub mod program;
pub mod readme;
pub mod scenario;
pub mod wait;

pub use scenario::Scenario;

/// Name of the kind cluster, as in `kind.yaml`.
pub const CLUSTER: &str = "scadles-e2e";
/// Image of trainers, producer and the probes of the tests: it has a shell.
pub const TRAINER_IMAGE: &str = concat!("ghcr.io/scadles/scadles-trainer:", env!("CARGO_PKG_VERSION"));
/// Image of an object store, built by `scripts/e2e.sh`.
pub const OBJECT_STORE_IMAGE: &str = "scadles-object-store:e2e";
/// Image with Fashion-MNIST.
pub const DATA_IMAGE: &str = concat!("ghcr.io/scadles/scadles-data:", env!("CARGO_PKG_VERSION"));
