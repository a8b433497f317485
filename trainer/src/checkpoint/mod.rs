//! Durable training state: what a checkpoint holds, where it lies, who writes it.
//!
//! A checkpoint is a folder `<root>/<job uid>/<attempt>-<step>/` with `model.safetensors`, `momentum.safetensors` and,
//! written last and only if absent, `manifest.json`. A folder without a manifest is half-written and ignored.
//!
//! Checkpoint 0 (step 0) is never pruned: it holds the resolved start of every stream, and every replay can begin there.
//!
//! [`manifest`] is plain data; [`store`] and [`writer`] do the I/O.

pub mod error;
pub mod manifest;
pub mod store;
pub mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use error::CheckpointError;
pub use manifest::{DeviceState, DeviceTotals, FileEntry, Manifest};
pub use store::{CheckpointStore, Snapshot};
pub use writer::CheckpointWriter;
