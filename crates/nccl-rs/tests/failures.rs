//! Calls that fail, linger and hang; deadlines, aborts, groups that end whatever happens.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::{INVALID_USAGE, LONG, REMOTE_ERROR, SHORT, alone, mock, ranks};
use nccl_rs::{Communicator, Config, DeviceSliceMut, Error, ErrorCode, ReduceOp, Stream};

/// An all-reduce of one number that nobody looks at.
fn sum(comm: &Communicator) -> Result<(), Error> {
    // Left to the process, because an operation that hangs may be carried out late.
    let place = DeviceSliceMut::new(std::ptr::from_mut(Box::leak(Box::new(1.0_f32))), 1);
    // SAFETY: memory that is never given back.
    unsafe { comm.all_reduce(place.as_slice(), place, ReduceOp::Sum, Stream::DEFAULT) }
}

/// The calls that end something.
fn ends() -> Vec<String> {
    let ends = ["ncclCommAbort", "ncclCommDestroy", "ncclGroupEnd"];
    mock().calls().into_iter().filter(|call| ends.contains(&call.as_str())).collect()
}

fn is_nccl(outcome: &Result<(), Error>, operation: &str, code: ErrorCode, message: &str) {
    match outcome {
        Err(Error::Nccl { operation: o, code: c, message: m }) => {
            assert_eq!((*o, *c, m.as_str()), (operation, code, message));
        }
        other => panic!("expected NCCL's {code}, got {other:?}"),
    }
}

#[test]
fn a_failed_call_is_an_error_with_ncclls_last_message_and_the_communicator_is_of_no_more_use() {
    let comm = alone(LONG);
    mock().fail("ncclAllReduce", INVALID_USAGE);
    let outcome = sum(&comm);
    is_nccl(&outcome, "all_reduce", ErrorCode::InvalidUsage, "the test made ncclAllReduce fail");
    mock().calls();
    match sum(&comm) {
        Err(Error::FailedBefore { first, .. }) => assert_eq!(first, outcome.unwrap_err().to_string()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(comm.split(None, 0), Err(Error::FailedBefore { .. })));
    assert!(mock().calls().is_empty(), "nothing more reaches NCCL");
    drop(comm);
    assert_eq!(ends(), ["ncclCommAbort"]);
}

#[test]
fn every_call_that_fails_is_an_error_of_its_operation() {
    let mock = mock();
    mock.fail("ncclGetUniqueId", 2);
    let outcome = mock.nccl.unique_id().map(|_| ());
    is_nccl(&outcome, "unique_id", ErrorCode::System, "the test made ncclGetUniqueId fail");
    let id = mock.nccl.unique_id().unwrap();
    mock.fail("ncclCommInitRankConfig", 1);
    let outcome = Communicator::init(&mock.nccl, &id, 0, 1, &Config::new(LONG)).map(|_| ());
    is_nccl(&outcome, "init", ErrorCode::UnhandledCuda, "the test made ncclCommInitRankConfig fail");
    mock.fail("ncclCommSplit", 3);
    let outcome = alone(LONG).split(None, 0).map(|_| ());
    is_nccl(&outcome, "split", ErrorCode::Internal, "the test made ncclCommSplit fail");
    mock.fail("ncclRedOpCreatePreMulSum", 4);
    let outcome = alone(LONG).pre_multiplied_sum(1.0_f32).map(|_| ());
    is_nccl(
        &outcome,
        "pre_multiplied_sum",
        ErrorCode::InvalidArgument,
        "the test made ncclRedOpCreatePreMulSum fail",
    );
    mock.fail("ncclGroupStart", 99);
    let outcome = mock.nccl.group(|| Ok(()));
    is_nccl(&outcome, "group", ErrorCode::Other(99), "the test made ncclGroupStart fail");
    let comm = alone(LONG);
    mock.fail("ncclCommGetAsyncError", REMOTE_ERROR);
    let outcome = comm.async_error();
    is_nccl(&outcome, "async_error", ErrorCode::Remote, "the test made ncclCommGetAsyncError fail");
}

#[test]
fn what_goes_on_in_the_background_is_waited_for() {
    let nccl = &mock().nccl;
    mock().linger(5);
    let comm = Communicator::init(nccl, &nccl.unique_id().unwrap(), 0, 1, &Config::new(LONG)).unwrap();
    mock().linger(3);
    sum(&comm).unwrap();
    mock().linger(3);
    let child = comm.split(Some(0), 0).unwrap().unwrap();
    mock().linger(3);
    nccl.group(|| sum(&child).and_then(|()| sum(&comm))).unwrap();
    child.async_error().unwrap();
    mock().linger(3);
    comm.finalize().unwrap();
    child.finalize().unwrap();
    assert_eq!(ends(), ["ncclGroupEnd", "ncclCommDestroy", "ncclCommDestroy"]);
}

#[test]
fn what_is_never_through_is_an_error_at_the_deadline() {
    let comm = alone(SHORT);
    mock().hang();
    let start = Instant::now();
    let outcome = sum(&comm);
    assert!(start.elapsed() >= SHORT);
    assert_eq!(outcome, Err(Error::TimedOut { operation: "all_reduce", timeout: SHORT }));
    assert!(matches!(comm.finalize(), Err(Error::FailedBefore { .. })));
    assert_eq!(ends(), ["ncclCommAbort"], "what cannot be finalised is aborted");

    let comm = alone(SHORT);
    mock().hang();
    let outcome = mock().nccl.group(|| sum(&comm));
    assert_eq!(outcome, Err(Error::TimedOut { operation: "group", timeout: SHORT }));
    let comm = alone(SHORT);
    mock().hang();
    assert!(matches!(comm.finalize(), Err(Error::TimedOut { operation: "finalize", .. })));
}

#[test]
fn a_rank_that_does_not_come_ends_init_at_the_deadline() {
    let nccl = &mock().nccl;
    let outcome = Communicator::init(nccl, &nccl.unique_id().unwrap(), 0, 2, &Config::new(SHORT));
    assert!(matches!(outcome, Err(Error::TimedOut { operation: "init", .. })), "{outcome:?}");
    assert_eq!(ends(), ["ncclCommAbort"]);
}

#[test]
fn a_handle_ends_what_another_thread_waits_for() {
    let comm = alone(LONG);
    let handle = comm.handle();
    mock().hang();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (started, wait) = std::sync::mpsc::channel();
        scope.spawn(move || {
            wait.recv().unwrap();
            // Whether the other thread polls already or not makes no difference.
            handle.abort().unwrap();
            handle.abort().unwrap();
            assert_eq!(ends(), ["ncclCommAbort"], "once");
            assert_eq!(handle.async_error(), Err(Error::Aborted { operation: "async_error" }));
        });
        started.send(()).unwrap();
        assert_eq!(sum(&comm), Err(Error::Aborted { operation: "all_reduce" }));
    });
    assert!(start.elapsed() < LONG);
    assert_eq!(comm.split(None, 0).map(|_| ()), Err(Error::Aborted { operation: "split" }));
    drop(comm);
    assert!(ends().is_empty(), "what was aborted is not ended again");
}

#[test]
fn a_handle_of_a_communicator_that_is_gone_does_nothing() {
    let comm = alone(LONG);
    let handle = comm.handle();
    comm.finalize().unwrap();
    assert_eq!(ends(), ["ncclCommDestroy"]);
    handle.abort().unwrap();
    assert!(ends().is_empty());
}

#[test]
fn an_abort_that_fails_says_so() {
    let comm = alone(LONG);
    mock().fail("ncclCommAbort", 1);
    let outcome = comm.handle().abort();
    is_nccl(&outcome, "abort", ErrorCode::UnhandledCuda, "the test made ncclCommAbort fail");
}

#[test]
fn the_failure_of_a_peer_is_seen_by_the_others() {
    let outcomes = ranks(3, &Config::new(LONG), |comm| {
        if comm.rank() == 1 {
            drop(comm);
            return Ok(());
        }
        sum(&comm)?;
        loop {
            comm.async_error()?;
            std::thread::yield_now();
        }
    });
    for rank in [0, 2] {
        is_nccl(&outcomes[rank], "async_error", ErrorCode::Remote, "rank 1 is gone");
    }
}

#[test]
fn a_group_ends_when_an_operation_in_it_fails_or_is_refused() {
    let comm = alone(LONG);
    mock().calls();
    mock().fail("ncclAllReduce", INVALID_USAGE);
    let outcome = mock().nccl.group(|| sum(&comm));
    is_nccl(&outcome, "all_reduce", ErrorCode::InvalidUsage, "the test made ncclAllReduce fail");
    assert_eq!(ends(), ["ncclGroupEnd"]);

    let comm = alone(LONG);
    let nothing = DeviceSliceMut::<f32>::new(std::ptr::null_mut(), 1);
    // SAFETY: refused.
    let outcome = mock().nccl.group(|| unsafe { comm.recv(nothing, 0, Stream::DEFAULT) });
    assert!(matches!(outcome, Err(Error::Argument { .. })), "{outcome:?}");
    assert_eq!(ends(), ["ncclGroupEnd"]);
    mock().nccl.group(|| sum(&comm)).unwrap();
}

#[test]
fn a_group_whose_end_fails_ends_its_communicators() {
    let (one, other) = (alone(LONG), alone(LONG));
    mock().fail("ncclGroupEnd", 3);
    let outcome = mock().nccl.group(|| sum(&one));
    is_nccl(&outcome, "group", ErrorCode::Internal, "the test made ncclGroupEnd fail");
    assert!(matches!(sum(&one), Err(Error::FailedBefore { .. })));
    sum(&other).unwrap();
}

#[test]
fn a_group_ends_when_a_panic_leaves_it_and_its_communicators_say_why() {
    let (comm, other) = (alone(LONG), alone(LONG));
    mock().calls();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        mock().nccl.group::<()>(|| {
            sum(&comm)?;
            std::panic::resume_unwind(Box::new("a bug of the caller"))
        })
    }));
    assert!(outcome.is_err());
    assert_eq!(ends(), ["ncclGroupEnd"]);
    match sum(&comm) {
        Err(Error::FailedBefore { first, .. }) => assert_eq!(first, "a group was left by a panic"),
        other => panic!("{other:?}"),
    }
    // The thread is in no group any more.
    mock().nccl.group(|| sum(&other)).unwrap();
}

#[test]
fn what_nccl_does_not_allow_in_a_group_is_refused() {
    let comm = alone(LONG);
    let nccl = &mock().nccl;
    let id = nccl.unique_id().unwrap();
    let refused = |outcome: Result<(), Error>| match outcome {
        Err(Error::Argument { message, .. }) => assert_eq!(message, "is not allowed inside of a group"),
        other => panic!("{other:?}"),
    };
    let victim = alone(LONG);
    nccl.group(|| {
        refused(nccl.group(|| Ok(())));
        refused(comm.split(None, 0).map(|_| ()));
        refused(Communicator::init(nccl, &id, 0, 1, &Config::new(LONG)).map(|_| ()));
        refused(victim.finalize());
        sum(&comm)
    })
    .unwrap();
}

#[test]
fn one_thread_serves_several_ranks_in_a_group() {
    // Made by two threads, used by one.
    let comms = ranks(2, &Config::new(LONG), |comm| comm);
    let mut values = [1.0_f32, 2.0];
    let [first, second] = &mut values;
    let places = [DeviceSliceMut::new(first, 1), DeviceSliceMut::new(second, 1)];
    mock()
        .nccl
        .group(|| {
            for (comm, place) in comms.iter().zip(places) {
                // SAFETY: the mock carries both out at the group's end.
                unsafe { comm.all_reduce(place.as_slice(), place, ReduceOp::Sum, Stream::DEFAULT)? };
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(values.map(f32::to_bits), [3.0_f32.to_bits(); 2]);
}

#[test]
fn dropping_never_waits_for_other_ranks() {
    let start = Instant::now();
    ranks(2, &Config::new(LONG), |comm| {
        if comm.rank() == 0 {
            mock().hang();
            let handle = comm.handle();
            std::thread::scope(|scope| {
                scope.spawn(move || handle.abort());
                let _ = sum(&comm);
            });
        }
        drop(comm);
    });
    assert!(start.elapsed() < Duration::from_secs(30));
}
