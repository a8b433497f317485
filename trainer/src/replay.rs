//! Replaying a journal.
