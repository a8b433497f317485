//! The chart, as `helm template` renders it. A test program whose name ends in `_with_helm` needs Helm; see
//! `scripts/test.sh`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod helm;
mod manifests;
mod pods;
mod values;
