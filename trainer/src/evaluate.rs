//! Held-out evaluation.
