//! Gloo over real sockets: threads where only the result counts, processes where a rank must die.
#![allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp, clippy::cast_possible_wrap)]

mod common;

use std::time::{Duration, Instant};

use common::{HOST, Role};
use tch::{Device, Kind, Tensor};
use torch_ext::{Element, Error, Gloo, TcpStore};

const TIMEOUT: Duration = Duration::from_secs(30);

fn zeros(len: i64, kind: Kind) -> Tensor {
    Tensor::zeros([len], (kind, Device::Cpu))
}

/// The bits of every number, so that -0 and 0 differ and NaN equals itself.
fn bits(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn sequential_sum<T: Element>(world_size: usize, len: usize) -> Tensor {
    let mut sum = common::random::<T>(0, len);
    for rank in 1..world_size {
        let _ = sum.g_add_(&common::random::<T>(rank as u64, len));
    }
    sum
}

fn rank_ordered_sum_is_sequential<T: Element>(world_size: usize) {
    for len in [0, 1, 3, 64, 10_007, 400_003] {
        let sums = common::threads(world_size, TIMEOUT, |group| {
            let mut tensor = common::random::<T>(group.rank() as u64, len);
            let mut composed = tensor.copy();
            group.all_reduce_in_rank_order(&mut tensor).unwrap();
            common::composed_rank_ordered_sum(group, &mut composed).unwrap();
            assert_eq!(bits(&composed), bits(&tensor));
            bits(&tensor)
        });
        let expected = bits(&sequential_sum::<T>(world_size, len));
        assert!(sums.iter().all(|sum| *sum == expected), "{world_size} ranks, {len} elements");
    }
}

#[test]
fn a_rank_ordered_sum_over_gloo_has_the_bits_of_the_sequential_sum() {
    for world_size in 1..=5 {
        rank_ordered_sum_is_sequential::<f32>(world_size);
        rank_ordered_sum_is_sequential::<f64>(world_size);
    }
}

#[test]
fn a_rank_ordered_sum_has_the_same_bits_in_processes() {
    const LEN: usize = 1_000_000;
    let role = common::processes(
        &["--exact", "a_rank_ordered_sum_has_the_same_bits_in_processes", "--nocapture"],
        4,
        TIMEOUT,
    );
    match role {
        Role::Parent(ranks, _store) => {
            for mut rank in ranks {
                assert!(rank.wait().success());
            }
        }
        Role::Rank(group) => {
            let mut tensor = common::random::<f32>(group.rank() as u64, LEN);
            group.all_reduce_in_rank_order(&mut tensor).unwrap();
            assert_eq!(bits(&tensor), bits(&sequential_sum::<f32>(4, LEN)));
        }
    }
}

#[test]
fn native_all_reduce_sums_any_length_with_equal_bits_on_all_ranks() {
    for world_size in [1, 2, 3, 4] {
        for len in [0, 1, 2, 7, 1000, 100_003] {
            let sums = common::threads(world_size, TIMEOUT, |group| {
                let mut tensor = common::random::<f64>(group.rank() as u64, len);
                group.all_reduce_sum(&mut tensor).unwrap();
                tensor
            });
            let expected = sequential_sum::<f64>(world_size, len);
            for sum in &sums {
                assert_eq!(bits(sum), bits(&sums[0]));
                assert!(len == 0 || (sum - &expected).abs().max().double_value(&[]) < 1e-9);
            }
        }
    }
}

#[test]
fn all_to_all_v_moves_unequal_and_empty_parts_of_any_kind() {
    // Rank i sends (i * j) % 3 elements of value 10 i + j to rank j: some parts, and all parts of rank 0, are empty.
    const WORLD_SIZE: usize = 4;
    let count = |from: usize, to: usize| ((from * to) % 3) as i64;
    for kind in [Kind::Uint8, Kind::Int64, Kind::Float, Kind::Double] {
        common::threads(WORLD_SIZE, TIMEOUT, |group| {
            let own = group.rank();
            let parts = |pairs: Vec<(usize, usize)>| {
                let parts: Vec<_> = pairs
                    .into_iter()
                    .map(|(from, to)| {
                        Tensor::full([count(from, to)], (10 * from + to) as i64, (kind, Device::Cpu))
                    })
                    .collect();
                Tensor::cat(&parts, 0)
            };
            let send = parts((0..WORLD_SIZE).map(|to| (own, to)).collect());
            let expected = parts((0..WORLD_SIZE).map(|from| (from, own)).collect());
            let send_counts: Vec<_> = (0..WORLD_SIZE).map(|to| count(own, to)).collect();
            let recv_counts: Vec<_> = (0..WORLD_SIZE).map(|from| count(from, own)).collect();
            let mut recv = zeros(expected.numel() as i64, kind);
            group.all_to_all_v(&send, &send_counts, &mut recv, &recv_counts).unwrap();
            assert_eq!(bits(&recv), bits(&expected));
            let none = [0; WORLD_SIZE];
            group.all_to_all_v(&zeros(0, kind), &none, &mut zeros(0, kind), &none).unwrap();
        });
    }
}

#[test]
fn a_rank_that_is_sent_less_or_more_than_it_expects_says_so() {
    for expected in [1, 4] {
        let messages = common::threads(2, TIMEOUT, |group| {
            let own = group.rank();
            // Rank 0 sends three elements to rank 1, which expects another number.
            let send = zeros(if own == 0 { 3 } else { 2 }, Kind::Float);
            let send_counts = if own == 0 { [0, 3] } else { [2, 0] };
            let recv_counts = if own == 0 { [0, 2] } else { [expected, 0] };
            let mut recv = zeros(recv_counts.iter().sum(), Kind::Float);
            match group.all_to_all_v(&send, &send_counts, &mut recv, &recv_counts) {
                Err(Error::Collective { message, .. }) => message,
                other => format!("{other:?}"),
            }
        });
        let part = format!("rank 0 sends 3 elements, but {expected} are expected of it");
        assert!(messages[1].contains(&part), "{}", messages[1]);
    }
}

#[test]
fn lengths_that_differ_are_told_on_every_rank() {
    type Operation = fn(&Gloo, &mut Tensor) -> Result<(), Error>;
    let operations: [Operation; 3] = [
        |group, tensor| group.all_reduce_sum(tensor),
        |group, tensor| group.all_reduce_in_rank_order(tensor),
        |group, tensor| group.broadcast(tensor, 0),
    ];
    for operation in operations {
        for (usual, of_rank_1) in [(3, 4), (4, 3), (3, 0), (0, 3)] {
            let messages = common::threads(3, TIMEOUT, |group| {
                let mut tensor = zeros(if group.rank() == 1 { of_rank_1 } else { usual }, Kind::Float);
                format!("{:?}", operation(group, &mut tensor))
            });
            for message in messages {
                assert!(message.contains("elements"), "{message}");
                assert!(message.contains(&format!(" {usual} on rank ")), "{message}");
                assert!(message.contains(&format!(" {of_rank_1} on rank 1")), "{message}");
            }
        }
    }
}

#[test]
fn all_gather_and_broadcast_deliver_in_rank_order() {
    for kind in [Kind::Uint8, Kind::Float] {
        for len in [0, 1, 1000] {
            common::threads(3, TIMEOUT, |group| {
                let own = Tensor::full([len], group.rank() as i64 + 1, (kind, Device::Cpu));
                let mut gathered = zeros(3 * len, kind);
                group.all_gather_equal(&own, &mut gathered).unwrap();
                let expected: Vec<_> = (1..=3).map(|n| Tensor::full([len], n, (kind, Device::Cpu))).collect();
                assert_eq!(bits(&gathered), bits(&Tensor::cat(&expected, 0)));
                let mut tensor = own.copy();
                group.broadcast(&mut tensor, 2).unwrap();
                assert_eq!(bits(&tensor), bits(&expected[2]));
                group.barrier().unwrap();
            });
        }
    }
}

#[test]
fn a_part_of_a_larger_buffer_is_summed_in_place() {
    common::threads(2, TIMEOUT, |group| {
        let buffer = Tensor::ones([100], (Kind::Float, Device::Cpu));
        group.all_reduce_sum(&mut buffer.narrow(0, 10, 20)).unwrap();
        assert!((buffer.sum(Kind::Double).double_value(&[]) - 120.0).abs() < f64::EPSILON);
    });
}

#[test]
fn two_groups_over_one_store_do_not_disturb_each_other() {
    let server = TcpStore::serve(HOST, 0, 2, TIMEOUT).unwrap();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let port = server.port();
            scope.spawn(move || {
                let store = TcpStore::connect(HOST, port, 2, TIMEOUT).unwrap();
                let groups = [0, 1].map(|_| Gloo::connect(&store, rank, 2, HOST, TIMEOUT).unwrap());
                drop(store);
                for (number, group) in groups.iter().enumerate().rev() {
                    let mut tensor = Tensor::from_slice(&[number as f32]);
                    group.all_reduce_sum(&mut tensor).unwrap();
                    assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [2.0 * number as f32]);
                }
            });
        }
    });
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_sent() {
    common::threads(1, TIMEOUT, |group| {
        let refused = |result: Result<(), Error>, part: &str| match result {
            Err(Error::Argument { message, .. }) => assert!(message.contains(part), "{message}"),
            other => panic!("expected a refusal with {part:?}, got {other:?}"),
        };
        let mut matrix = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        refused(group.all_reduce_sum(&mut matrix), "one-dimensional");
        refused(group.all_reduce_sum(&mut matrix.select(1, 0)), "not contiguous");
        refused(group.all_reduce_sum(&mut Tensor::new()), "undefined");
        refused(group.all_reduce_sum(&mut zeros(2, Kind::Uint8)), "allowed: Float, Double");
        refused(group.broadcast(&mut zeros(2, Kind::Float), 1), "root is 1");
        let (send, mut recv) = (zeros(2, Kind::Float), zeros(2, Kind::Float));
        refused(group.all_to_all_v(&send, &[2, 0], &mut recv, &[2]), "send_counts has 2 numbers");
        refused(group.all_to_all_v(&send, &[2], &mut recv, &[3]), "recv_counts is [3]");
        refused(group.all_to_all_v(&send, &[-2], &mut recv, &[2]), "must not be negative");
        refused(group.all_to_all_v(&send, &[2], &mut zeros(2, Kind::Double), &[2]), "of one kind");
        refused(group.all_to_all_v(&send, &[2], &mut zeros(1, Kind::Float), &[1]), "sends itself 2");
        refused(group.all_to_all_v(&send, &[2], &mut send.shallow_clone(), &[2]), "overlap");
        refused(group.all_gather_equal(&send, &mut zeros(3, Kind::Float)), "recv has 3 elements");
        group.all_to_all_v(&send, &[2], &mut recv, &[2]).unwrap();
    });
    let store = TcpStore::serve(HOST, 0, 2, TIMEOUT).unwrap();
    for (rank, world_size) in [(2, 2), (0, 3)] {
        assert!(matches!(
            Gloo::connect(&store, rank, world_size, HOST, TIMEOUT),
            Err(Error::Argument { .. })
        ));
    }
    assert!(matches!(TcpStore::serve(HOST, 0, 2, Duration::ZERO), Err(Error::Argument { .. })));
    assert!(matches!(TcpStore::serve(HOST, 0, 0, TIMEOUT), Err(Error::Argument { .. })));
    assert!(TcpStore::serve("a\0b", 0, 1, TIMEOUT).is_err());
    match TcpStore::connect(HOST, store.port(), 3, TIMEOUT) {
        Err(Error::Rendezvous { message, .. }) => assert!(message.contains("is for 2 ranks"), "{message}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn meeting_fails_within_the_timeout_when_nobody_is_there() {
    let timeout = Duration::from_secs(1);
    let started = Instant::now();
    let store = TcpStore::serve(HOST, 0, 2, timeout).unwrap();
    match Gloo::connect(&store, 0, 2, HOST, timeout) {
        Err(Error::Rendezvous { message, .. }) => assert!(message.contains("rank 0 of 2"), "{message}"),
        other => panic!("expected a rendezvous error, got {other:?}"),
    }
    let port = store.port();
    assert!(
        matches!(TcpStore::serve(HOST, port, 2, timeout), Err(Error::Rendezvous { .. })),
        "port is taken"
    );
    drop(store);
    assert!(matches!(TcpStore::connect(HOST, port, 2, timeout), Err(Error::Rendezvous { .. })));
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
}

/// Three processes; the last one leaves the step. `leave` says how; the two others must see an error in time.
fn peers_see_an_error(
    name: &str,
    timeout: Duration,
    within: Duration,
    leave: fn(),
    step: fn(&Gloo) -> Error,
) {
    match common::processes(&["--exact", name, "--nocapture"], 3, timeout) {
        Role::Parent(mut ranks, _store) => {
            assert!(ranks[0].wait().success());
            assert!(ranks[1].wait().success());
            ranks[2].release();
            assert_eq!(ranks[2].wait().code(), Some(9));
        }
        Role::Rank(group) => {
            group.all_reduce_sum(&mut zeros(1000, Kind::Float)).unwrap();
            if group.rank() == 2 {
                leave();
                std::process::exit(9);
            }
            let started = Instant::now();
            let error = step(&group);
            let elapsed = started.elapsed();
            assert!(matches!(error, Error::Collective { .. }), "{error:?}");
            assert!(elapsed < within, "took {elapsed:?}");
            let again = group.barrier().unwrap_err().to_string();
            assert!(again.contains("failed before"), "{again}");
            let dropping = Instant::now();
            drop(group);
            assert!(dropping.elapsed() < within, "dropping the group took {:?}", dropping.elapsed());
        }
    }
}

const LEN: usize = 3_000_000;
/// "Long before" and "soon after" on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_mins(1);

fn all_to_all(group: &Gloo) -> Error {
    let counts = [LEN as i64 / 3; 3];
    let mut recv = zeros(LEN as i64, Kind::Float);
    group.all_to_all_v(&zeros(LEN as i64, Kind::Float), &counts, &mut recv, &counts).unwrap_err()
}

fn rank_ordered(group: &Gloo) -> Error {
    group.all_reduce_in_rank_order(&mut zeros(LEN as i64, Kind::Float)).unwrap_err()
}

#[test]
fn a_dead_peer_is_an_error_long_before_the_timeout() {
    peers_see_an_error("a_dead_peer_is_an_error_long_before_the_timeout", LONG, SOON, || {}, all_to_all);
}

#[test]
fn a_peer_that_does_not_come_is_an_error_after_the_timeout() {
    let name = "a_peer_that_does_not_come_is_an_error_after_the_timeout";
    peers_see_an_error(name, SHORT, SOON, common::until_released, all_to_all);
}

#[test]
fn a_dead_peer_ends_a_rank_ordered_sum_long_before_the_timeout() {
    let name = "a_dead_peer_ends_a_rank_ordered_sum_long_before_the_timeout";
    peers_see_an_error(name, LONG, SOON, || {}, rank_ordered);
}

#[test]
fn a_peer_that_does_not_come_ends_a_rank_ordered_sum_after_the_timeout() {
    let name = "a_peer_that_does_not_come_ends_a_rank_ordered_sum_after_the_timeout";
    peers_see_an_error(name, SHORT, SOON, common::until_released, rank_ordered);
}

#[test]
fn memory_does_not_grow_over_a_thousand_collectives() {
    let name = "memory_does_not_grow_over_a_thousand_collectives";
    match common::processes(&["--exact", name, "--nocapture"], 2, TIMEOUT) {
        Role::Parent(ranks, _store) => {
            for mut rank in ranks {
                assert!(rank.wait().success());
            }
        }
        Role::Rank(group) => {
            let mut tensor = zeros(20_000, Kind::Float);
            let mut round = || {
                group.all_reduce_sum(&mut tensor).unwrap();
                group.all_reduce_in_rank_order(&mut tensor).unwrap();
                group.barrier().unwrap();
            };
            (0..100).for_each(|_| round());
            let before = common::resident_bytes();
            (0..1000).for_each(|_| round());
            let grown = common::resident_bytes().saturating_sub(before);
            // 4,000 collectives of 80 kB each: one leaked buffer in a hundred would be 3 MB.
            assert!(grown < 3_000_000, "grown by {grown} bytes");
        }
    }
}
