//! A device's stream.
