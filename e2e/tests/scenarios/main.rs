//! `make e2e`: what goes wrong in clusters, each made for real. One after another, on the cluster of `scripts/e2e.sh`.
#![allow(missing_docs)]

mod buckets;
mod causes;
mod life;
mod operators;
mod refused;
