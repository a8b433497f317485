//! The worker: one device's stream, one rank of the group.
//!
//! Phases over plain state, `report → agree → compute → combine → apply → journal`: per-device state lies outside the
//! model; clock, source and exchange are arguments. See ARCHITECTURE.md, "Life of a step".

pub mod batch;
pub mod channel;
pub mod checkpoint;
pub mod commands;
pub mod decode_ahead;
pub mod endpoint;
pub mod engine;
pub mod evaluate;
pub mod exchange;
pub mod gpu;
pub mod held_out;
pub mod inject;
pub mod journal;
pub mod learner;
pub mod numeric;
pub mod optimizer;
pub mod process;
pub mod replay;
mod results;
pub mod simulate;
pub mod source;
pub mod storage;
pub mod worker;
