//! One suite for all engines that carry collectives: see `suite`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod suite;

on_engine!(in_process, InProcess);
on_engine!(gloo, Gloo);
on_engine!(nccl_mock, NcclMock);
