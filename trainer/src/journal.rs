//! Step journal.
