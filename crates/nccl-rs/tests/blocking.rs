//! The safe operations: results in host memory, which the mock has for a device, and ends that give the memory back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp)]

mod common;

use std::time::Instant;

use common::{Host, LONG, SHORT, alone, mock, ranks};
use nccl_rs::{Config, Error, ErrorCode, ReduceOp};

#[test]
fn sums_gathers_scatters_and_broadcasts_have_the_values_of_a_loop() {
    for world_size in [1, 2, 3, 5] {
        for len in [0, 1, 7, 1000] {
            ranks(world_size, &Config::new(LONG), |comm| {
                let (own, stream) = (comm.rank(), mock().stream());
                let blocking = comm.blocking(&stream);
                let values = |rank: usize| (0..len).map(move |i| (rank * 10 + i) as f64);
                let summed = |i: usize| (0..world_size).map(|rank| (rank * 10 + i) as f64).sum::<f64>();

                let mut sum = Host(values(own).collect());
                blocking.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
                assert_eq!(sum.0, (0..len).map(summed).collect::<Vec<_>>());

                let mut gathered = Host(vec![0.0; len * world_size]);
                blocking.all_gather(&Host(values(own).collect()), &mut gathered).unwrap();
                assert_eq!(gathered.0, (0..world_size).flat_map(values).collect::<Vec<_>>());

                let mut part = Host(vec![0.0; len]);
                blocking.reduce_scatter(&gathered, &mut part, ReduceOp::Max).unwrap();
                assert_eq!(part.0, values(own).collect::<Vec<_>>());

                let mut copied = Host(values(own).collect());
                blocking.broadcast(&mut copied, world_size - 1).unwrap();
                assert_eq!(copied.0, values(world_size - 1).collect::<Vec<_>>());
                comm.finalize().unwrap();
            });
        }
    }
}

#[test]
fn exchange_delivers_odd_and_empty_parts_in_rank_order() {
    // What rank i sends to rank j: some nothing, rank 2 receives nothing at all.
    let len = |from: usize, to: usize| if to == 2 { 0 } else { (from * 7 + to * 3) % 11 };
    let part = |from: usize, to: usize| (0..len(from, to)).map(move |i| (from * 100 + to * 10 + i) as u8);
    ranks(4, &Config::new(LONG), |comm| {
        let (own, stream) = (comm.rank(), mock().stream());
        let send = Host((0..4).flat_map(|to| part(own, to)).collect());
        let send_counts: Vec<_> = (0..4).map(|to| len(own, to)).collect();
        let recv_counts: Vec<_> = (0..4).map(|from| len(from, own)).collect();
        let mut recv = Host(vec![0; recv_counts.iter().sum()]);
        comm.blocking(&stream).exchange(&send, &send_counts, &mut recv, &recv_counts).unwrap();
        assert_eq!(recv.0, (0..4).flat_map(|from| part(from, own)).collect::<Vec<_>>());
        comm.finalize().unwrap();
    });
}

#[test]
fn gathers_of_unequal_and_empty_parts_are_in_rank_order() {
    let counts = [2, 0, 3];
    let part = |rank: usize| (0..counts[rank]).map(move |i| (rank * 10 + i) as u8);
    ranks(3, &Config::new(LONG), |comm| {
        let stream = mock().stream();
        let (send, mut recv) = (Host(part(comm.rank()).collect()), Host(vec![0; 5]));
        let blocking = comm.blocking(&stream);
        blocking.all_gather_v(&send, &mut recv, &counts).unwrap();
        assert_eq!(recv.0, (0..3).flat_map(part).collect::<Vec<_>>());
        let refused = |counts: &[usize]| {
            let outcome = blocking.all_gather_v(&send, &mut Host(vec![0; counts.iter().sum()]), counts);
            matches!(outcome, Err(Error::Argument { operation: "all_gather_v", .. }))
        };
        assert!(refused(&[2, 0]) && refused(&[1, 1, 2]));
        comm.finalize().unwrap();
    });
}

#[test]
fn a_message_goes_from_one_rank_to_another() {
    let received = ranks(2, &Config::new(LONG), |comm| {
        let stream = mock().stream();
        let mut numbers = Host(vec![comm.rank() as i64; 3]);
        match comm.rank() {
            0 => comm.blocking(&stream).recv(&mut numbers, 1).unwrap(),
            _ => comm.blocking(&stream).send(&numbers, 0).unwrap(),
        }
        comm.finalize().unwrap();
        numbers.0
    });
    assert_eq!(received[0], [1; 3]);
}

#[test]
fn counts_that_do_not_fit_are_refused_before_anything_is_sent() {
    let (comm, stream) = (alone(LONG), mock().stream());
    let (send, mut recv) = (Host(vec![1_u8, 2]), Host(vec![0_u8, 0]));
    mock().calls();
    let cases: [(&[usize], &[usize], &str); 5] = [
        (&[1], &[2], "send_counts is [1]; it must have 1 numbers that add up to 2"),
        (&[1, 1], &[2], "send_counts is [1, 1]"),
        (&[2], &[], "recv_counts is []"),
        (&[2], &[usize::MAX], "recv_counts is [18446744073709551615]"),
        (&[2], &[1], "recv_counts is [1]"),
    ];
    for (send_counts, recv_counts, part) in cases {
        match comm.blocking(&stream).exchange(&send, send_counts, &mut recv, recv_counts) {
            Err(Error::Argument { message, .. }) => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    let mut longer = Host(vec![0_u8; 3]);
    match comm.blocking(&stream).exchange(&send, &[2], &mut longer, &[3]) {
        Err(Error::Argument { message, .. }) => {
            assert_eq!(message, "rank 0 sends itself 2 elements and expects 3");
        }
        other => panic!("{other:?}"),
    }
    assert!(mock().calls().is_empty());
    comm.blocking(&stream).exchange(&send, &[2], &mut recv, &[2]).unwrap();
    assert_eq!(recv.0, [1, 2]);
}

#[test]
fn a_rank_that_does_not_come_is_an_error_at_the_deadline_and_the_memory_is_free() {
    let all_done = std::sync::Barrier::new(2);
    ranks(2, &Config::new(SHORT), |comm| {
        if comm.rank() == 0 {
            let (stream, start) = (mock().stream(), Instant::now());
            let outcome = comm.blocking(&stream).all_reduce(&mut Host(vec![1.0_f32]), ReduceOp::Sum);
            assert_eq!(outcome, Err(Error::TimedOut { operation: "all_reduce", timeout: SHORT }));
            assert!(start.elapsed() >= SHORT);
            assert_eq!(stream.pending(), 0, "the operation still holds the memory");
            assert_eq!(comm.async_error(), Err(Error::Aborted { operation: "async_error" }));
        }
        all_done.wait();
    });
}

#[test]
fn a_rank_that_dies_is_an_error_long_before_the_deadline() {
    let start = Instant::now();
    let outcomes = ranks(3, &Config::new(LONG), |comm| {
        let stream = mock().stream();
        let mut values = Host(vec![1.0_f32; 9]);
        comm.blocking(&stream).all_reduce(&mut values, ReduceOp::Sum).unwrap();
        assert_eq!(values.0, [3.0; 9]);
        if comm.rank() == 1 {
            return None;
        }
        let outcome = comm.blocking(&stream).all_reduce(&mut values, ReduceOp::Sum);
        assert_eq!(stream.pending(), 0);
        Some(outcome)
    });
    for outcome in outcomes.into_iter().flatten() {
        assert!(matches!(outcome, Err(Error::Nccl { code: ErrorCode::Remote, .. })), "{outcome:?}");
    }
    assert!(start.elapsed() < LONG);
}

#[test]
fn a_handle_ends_a_wait_for_the_device() {
    let (comm, stream) = (alone(LONG), mock().stream());
    let handle = comm.handle();
    std::thread::scope(|scope| {
        let stream = &stream;
        scope.spawn(move || {
            while stream.pending() == 0 {
                std::thread::yield_now();
            }
            handle.abort().unwrap();
        });
        // Nobody sends.
        let outcome = comm.blocking(stream).recv(&mut Host(vec![0_u8; 4]), 0);
        assert_eq!(outcome, Err(Error::Aborted { operation: "recv" }));
    });
    assert_eq!(stream.pending(), 0);
}

#[test]
fn a_stream_that_fails_is_an_error_with_its_message() {
    let (comm, stream) = (alone(LONG), mock().stream());
    stream.break_down();
    let outcome = comm.blocking(&stream).broadcast(&mut Host(vec![1_u8]), 0);
    let message = "the test broke it".to_owned();
    assert_eq!(outcome, Err(Error::Stream { operation: "broadcast", message }));
}

#[test]
fn operations_that_wait_are_refused_inside_of_a_group() {
    let (comm, stream) = (alone(LONG), mock().stream());
    let outcome = mock().nccl.group(|| comm.blocking(&stream).broadcast(&mut Host(vec![1_u8]), 0));
    assert!(matches!(outcome, Err(Error::Argument { operation: "broadcast", .. })), "{outcome:?}");
    comm.blocking(&stream).broadcast(&mut Host(vec![1_u8]), 0).unwrap();
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn thousands_of_operations_and_communicators_do_not_make_memory_grow() {
    let stream = mock().stream();
    let round = |operations: usize| {
        let comm = alone(LONG);
        let mut values = Host(vec![1.0_f32; 10_000]);
        for _ in 0..operations {
            comm.blocking(&stream).all_reduce(&mut values, ReduceOp::Max).unwrap();
            mock().calls();
        }
        comm.finalize().unwrap();
    };
    (0..10).for_each(|_| round(20));
    let before = resident_bytes();
    (0..100).for_each(|_| round(20));
    let grown = resident_bytes().saturating_sub(before);
    // 2,000 operations of 40 kB each: one leaked buffer in a hundred would be 0.8 MB; the other tests of this program
    // have threads and buffers of their own.
    assert!(grown < 8_000_000, "grown by {grown} bytes");
}
