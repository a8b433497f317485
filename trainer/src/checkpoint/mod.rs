//! Durable training state: what a checkpoint holds, where it lies, who writes it.
//!
//! A checkpoint is a folder `<root>/<job uid>/<attempt>-<step>/` with `model.safetensors`, `momentum.safetensors` and,
//! written last and only if absent, `manifest.json`. A folder without a manifest is half-written and ignored.
//!
//! Checkpoint 0 (step 0) is never pruned: it holds the resolved start of every stream, and every replay can begin there.
//!
//! [`manifest`] and [`tensors`] are plain data and pure; [`store`] and [`writer`] do the I/O.

pub mod error;
pub mod manifest;
pub mod store;
pub mod tensors;
pub mod writer;

#[cfg(test)]
mod tests;

pub use error::CheckpointError;
pub use manifest::{DeviceState, DeviceTotals, FileEntry, Manifest};
pub use store::{CheckpointStore, LoadedCheckpoint, Snapshot};
pub use tensors::{FlatTensors, TensorSlot, TensorsError};
pub use writer::CheckpointWriter;
