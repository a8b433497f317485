//! The Kubernetes body of scadles: a ScadlesJob becomes topics, pods and a trained model.
//!
//! Every pass over an object is the same line of steps, one file each:
//! observe (I/O) → validate, plan, decide (`scadles-control`, pure) → report (one status write, before anything is done)
//! → apply (I/O, of objects that [`controller::build`] made, pure). The decisions are those of `scadles run`.

#![forbid(unsafe_code)]

pub mod args;
pub mod context;
pub mod controller;
pub mod error;
pub mod health;
pub mod key;
pub mod leader;
pub mod metrics;
pub mod topics;
