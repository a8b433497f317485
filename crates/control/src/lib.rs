//! The job brain: what is wrong with a job, what it means, what it will cost, and what to do next. Pure.
//!
//! | function | from → to |
//! |---|---|
//! | [`parse_job`] | text → `ScadlesJob`, or all mistakes of form |
//! | [`validate()`] | `ScadlesJob` → [`ValidatedJob`], or all mistakes of meaning |
//! | [`validate_in_cluster()`] | the same, with what a cluster needs besides |
//! | [`plan()`] | [`ValidatedJob`] and facts of the [`Body`] → [`Plan`]: topics, worker configurations, producer |
//! | [`estimate()`] | [`Plan`] → what each batch rule would do; [`render()`] makes a table of it |
//! | [`tuning::tuned`] | `ScadlesJob` and changes asked for while it runs → [`ValidatedJob`], or all mistakes |
//! | [`decide()`] | observation, state, time → actions, next state, reason |
//!
//! Nothing here touches a file, socket, process or clock: the two bodies (local runner, operator) do, and both use this
//! crate unchanged.

#![forbid(unsafe_code)]

pub mod backend;
pub mod cluster;
pub mod cost;
pub mod dataset;
pub mod decide;
pub mod estimate;
mod file;
pub mod mistake;
pub mod plan;
pub mod rates;
pub mod status;
mod text;
pub mod tuning;
pub mod validate;

pub use cluster::{ClusterJob, validate_in_cluster};
pub use cost::parameter_count;
pub use decide::decide;
pub use estimate::{Estimate, Machine, conventional, estimate, render};
pub use file::parse_job;
pub use mistake::{Mistake, Mistakes};
pub use plan::{Body, BrokerKind, Buckets, Plan, ProducerPlan, SecretFiles, TopicPlan, plan};
pub use text::bytes as byte_text;
pub use validate::{ValidatedJob, validate};
