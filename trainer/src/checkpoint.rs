//! Durable training state.
