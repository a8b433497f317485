//! What tests of several crates share. A dev-dependency only; no program contains it.
//!
//! [`ControlPlane`] is a real Kubernetes API without nodes: etcd and kube-apiserver, found by `KUBEBUILDER_ASSETS`. Test
//! programs that need it end in `_on_apiserver`; `make test` leaves them out where there is none, and says so.
//! [`object_store`] is a real server of Amazon's protocol for buckets.

mod assets;
mod control_plane;
mod guarded;
pub mod object_store;

pub use assets::Assets;
pub use control_plane::ControlPlane;
pub use object_store::ObjectStoreServer;

/// What can go wrong with a server under test. The text is for the person who reads the failed test.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error(format!("failed to {what}: {error}"))
}
