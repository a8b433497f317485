//! One suite for all engines that carry collectives: see `suite`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod suite;

on_engine!(in_process, InProcess, a_group_that_lost_a_rank_is_made_anew_in_the_same_processes);
on_engine!(gloo, Gloo, a_group_that_lost_a_rank_is_made_anew_in_the_same_processes);
on_engine!(nccl_mock, NcclMock, a_group_that_lost_a_rank_is_made_anew_in_the_same_processes);
