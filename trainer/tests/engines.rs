//! One suite for all engines that carry collectives: see `suite`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod suite;

on_engine!(in_process, InProcess, a_group_that_lost_a_rank_is_made_anew_in_the_same_processes);
on_engine!(gloo, Gloo, a_group_that_lost_a_rank_is_made_anew_in_the_same_processes);
on_engine!(
    nccl_mock,
    NcclMock,
    a_group_that_lost_a_rank_is_made_anew_in_the_same_processes,
    a_group_whose_networks_compute_on_the_device_has_the_bits_of_logical_devices,
    a_sum_on_the_device_is_that_over_the_ranks_and_nothing_goes_through_the_host,
    tensors_that_cannot_be_summed_where_they_are_are_refused_and_unlike_ones_end_the_group
);
