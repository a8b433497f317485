//! The suite for all engines on MPI, whose ranks are processes that `mpiexec` starts. A test program whose name ends in
//! `_with_mpi` needs Open MPI or MPICH, and the feature `mpi`; see `scripts/test.sh`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod suite;

on_engine!(mpi, Mpi);
