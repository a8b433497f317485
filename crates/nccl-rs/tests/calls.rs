//! Every call as NCCL gets it, argument by argument, and what comes back through it.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic, clippy::float_cmp)]

mod common;

use common::{LONG, alone, mock, ranks};
use nccl_rs::{Communicator, Config, DeviceSlice, DeviceSliceMut, Element, Error, ReduceOp, Stream};

fn read<T: Element>(values: &[T]) -> DeviceSlice<T> {
    DeviceSlice::new(values.as_ptr(), values.len())
}

fn write<T: Element>(values: &mut [T]) -> DeviceSliceMut<T> {
    DeviceSliceMut::new(values.as_mut_ptr(), values.len())
}

/// The calls but those of `init`.
fn calls_after_init() -> Vec<String> {
    mock().calls().into_iter().filter(|call| !call.starts_with("ncclCommInitRankConfig")).collect()
}

#[test]
fn init_passes_ranks_id_and_configuration() {
    let nccl = &mock().nccl;
    let id = nccl.unique_id().unwrap();
    let text = String::from_utf8_lossy(&id.to_bytes()[..32]).trim_end_matches('\0').to_owned();
    let mut config = Config::new(LONG);
    let comm = Communicator::init(nccl, &id, 0, 1, &config).unwrap();
    assert_eq!((comm.rank(), comm.world_size(), comm.timeout()), (0, 1, LONG));
    drop(comm);
    let undefined = i32::MIN;
    let expected = format!(
        "ncclCommInitRankConfig ranks=1 id={text} last=a5 rank=0 size=48 magic=cafebeef version=21800 blocking=0 \
         cga={undefined} min={undefined} max={undefined} net=0 share=0"
    );
    assert_eq!(mock().calls(), [expected, "ncclCommAbort".to_owned()]);

    config.cga_cluster_size = Some(2);
    config.min_ctas = Some(3);
    config.max_ctas = Some(4);
    config.split_share = true;
    drop(Communicator::init(nccl, &nccl.unique_id().unwrap(), 0, 1, &config).unwrap());
    let call = mock().calls().swap_remove(0);
    assert!(call.ends_with("blocking=0 cga=2 min=3 max=4 net=0 share=1"), "{call}");
}

#[test]
fn operations_pass_addresses_counts_types_and_streams() {
    let comm = alone(LONG);
    let (stream, own) = (Stream::DEFAULT, mock().stream());
    let (send, mut recv) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 3]);
    let (mut bytes, mut doubles) = ([7_u8; 5], [1.5_f64; 2]);
    let (s, r) = (read(&send), write(&mut recv));
    let (b, d) = (write(&mut bytes), write(&mut doubles));
    calls_after_init();
    // SAFETY: host memory that outlives the operations, which the mock carries out at once for one rank.
    unsafe {
        comm.all_reduce(s, r, ReduceOp::Max, Stream::from_raw(own.address() as *mut _)).unwrap();
        comm.all_gather(s, r, stream).unwrap();
        comm.reduce_scatter(d.as_slice(), d, ReduceOp::Average, stream).unwrap();
        comm.broadcast(b, 0, stream).unwrap();
        mock().nccl.group(|| {
            comm.send(s.part(0..2).unwrap(), 0, stream)?;
            comm.recv(r.part(1..3).unwrap(), 0, stream)
        })
    }
    .unwrap();
    let (s, r) = (s.address() as usize, r.address() as usize);
    let (b, d, own) = (b.address() as usize, d.address() as usize, own.address());
    let expected = [
        format!("ncclAllReduce send={s:x} recv={r:x} count=3 type=7 op=2 stream={own:x}"),
        format!("ncclAllGather send={s:x} recv={r:x} count=3 type=7 stream=0"),
        format!("ncclReduceScatter send={d:x} recv={d:x} count=2 type=8 op=4 stream=0"),
        format!("ncclBroadcast send={b:x} recv={b:x} count=5 type=1 root=0 stream=0"),
        "ncclGroupStart".to_owned(),
        format!("ncclSend send={s:x} count=2 type=7 peer=0 stream=0"),
        format!("ncclRecv recv={:x} count=2 type=7 peer=0 stream=0", r + 4),
        "ncclGroupEnd".to_owned(),
    ];
    assert_eq!(calls_after_init(), expected);
    assert_eq!(recv, [1.0, 1.0, 2.0]);
}

#[test]
fn types_and_operators_have_nccls_numbers() {
    fn passes<T: Element>(comm: &Communicator, value: T, number: u32) {
        let mut values = [value];
        let place = write(&mut values);
        // SAFETY: as above.
        unsafe { comm.all_reduce(place.as_slice(), place, ReduceOp::Sum, Stream::DEFAULT) }.unwrap();
        let call = calls_after_init().swap_remove(0);
        assert!(call.contains(&format!(" type={number} op=0 ")), "{call}");
    }
    let comm = alone(LONG);
    passes(&comm, 1_i8, 0);
    passes(&comm, 1_u8, 1);
    passes(&comm, 1_i32, 2);
    passes(&comm, 1_u32, 3);
    passes(&comm, 1_i64, 4);
    passes(&comm, 1_u64, 5);
    passes(&comm, 1.0_f32, 7);
    passes(&comm, 1.0_f64, 8);
    let operators = [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Max, ReduceOp::Min, ReduceOp::Average];
    for (number, op) in operators.into_iter().enumerate() {
        let mut values = [1_i32];
        let place = write(&mut values);
        // SAFETY: as above.
        unsafe { comm.all_reduce(place.as_slice(), place, op, Stream::DEFAULT) }.unwrap();
        let call = calls_after_init().swap_remove(0);
        assert!(call.contains(&format!(" op={number} ")), "{call}");
    }
}

#[test]
fn a_pre_multiplied_sum_weighs_each_rank_and_is_given_back() {
    let sums = ranks(3, &Config::new(LONG), |comm| {
        let weight = [0.5_f32, 2.0, 0.0][comm.rank()];
        let (mut values, stream) = ([1.0_f32, 10.0], mock().stream());
        calls_after_init();
        let sum = comm.pre_multiplied_sum(weight).unwrap();
        let place = write(&mut values);
        // SAFETY: waited for below.
        unsafe {
            comm.all_reduce(place.as_slice(), place, &sum, Stream::from_raw(stream.address() as *mut _))
                .unwrap();
        }
        while stream.pending() > 0 {
            std::thread::yield_now();
        }
        drop(sum);
        let calls = calls_after_init();
        assert_eq!(calls[0], format!("ncclRedOpCreatePreMulSum factor={weight} type=7 residence=1"));
        assert!(calls[1].contains(" op=5 "), "{calls:?}");
        assert_eq!(calls[2], "ncclRedOpDestroy op=5");
        comm.finalize().unwrap();
        assert_eq!(calls_after_init(), ["ncclCommFinalize", "ncclCommDestroy"]);
        values
    });
    assert_eq!(sums, [[2.5, 25.0]; 3]);
}

#[test]
fn a_pre_multiplied_sum_of_another_communicator_is_refused() {
    let (one, other) = (alone(LONG), alone(LONG));
    let sum = other.pre_multiplied_sum(2.0_f32).unwrap();
    let mut values = [1.0_f32];
    let place = write(&mut values);
    // SAFETY: refused.
    let outcome = unsafe { one.all_reduce(place.as_slice(), place, &sum, Stream::DEFAULT) };
    assert!(outcome.unwrap_err().to_string().contains("of another communicator"));
}

#[test]
fn split_makes_groups_by_color_in_the_order_of_keys() {
    let found = ranks(4, &Config::new(LONG), |comm| {
        // Ranks 0, 2 and 3 in reversed order; rank 1 stays out.
        let color = (comm.rank() != 1).then_some(7);
        let child = comm.split(color, -(comm.rank() as i32)).unwrap();
        let place = child.as_ref().map(|child| (child.rank(), child.world_size()));
        let calls = calls_after_init();
        let expected =
            format!("ncclCommSplit color={} key=-{} blocking=0", color.map_or(-1, |_| 7), comm.rank());
        assert_eq!(calls[0].replace("key=0", "key=-0"), expected);
        // Nobody ends a communicator that another still splits.
        comm.finalize().unwrap();
        place
    });
    assert_eq!(found, [Some((2, 3)), None, Some((1, 3)), Some((0, 3))]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_called() {
    let nccl = &mock().nccl;
    let id = nccl.unique_id().unwrap();
    let comm = alone(LONG);
    mock().calls();
    let refused = |outcome: Result<(), Error>, part: &str| match outcome {
        Err(Error::Argument { message, .. }) => assert!(message.contains(part), "{message}"),
        other => panic!("expected a refusal with {part:?}, got {other:?}"),
    };
    let config = Config::new(LONG);
    let init = |rank, ranks, config: &Config| Communicator::init(nccl, &id, rank, ranks, config).map(|_| ());
    refused(init(0, 0, &config), "world_size is 0");
    refused(init(0, 1 << 31, &config), "world_size is 2147483648");
    refused(init(2, 2, &config), "rank is 2; it must be below 2");
    refused(init(0, 1, &Config::new(std::time::Duration::ZERO)), "timeout is 0");
    refused(init(0, 1, &Config { min_ctas: Some(0), ..config.clone() }), "min_ctas is 0");
    refused(init(0, 1, &Config { max_ctas: Some(1 << 31), ..config.clone() }), "max_ctas is 2147483648");
    let crossed = Config { min_ctas: Some(5), max_ctas: Some(4), ..config.clone() };
    refused(init(0, 1, &crossed), "min_ctas is 5, more than max_ctas, 4");
    refused(comm.split(Some(1 << 31), 0).map(|_| ()), "color is 2147483648");

    let mut values = [0.0_f32; 8];
    let all = write(&mut values);
    let (read, stream) = (all.as_slice(), Stream::DEFAULT);
    let part = |range| all.part(range).unwrap();
    let nowhere = DeviceSlice::<f32>::new(std::ptr::null(), 2);
    let crooked = DeviceSlice::new(read.address().wrapping_byte_add(2), 1);
    let endless = DeviceSlice::new(read.address(), usize::MAX / 2);
    // SAFETY: refused.
    unsafe {
        refused(comm.all_reduce(read, part(0..7), ReduceOp::Sum, stream), "send has 8 elements and recv 7");
        refused(comm.all_reduce(part(0..4).as_slice(), part(2..6), ReduceOp::Sum, stream), "overlap");
        refused(comm.all_reduce(nowhere, part(0..2), ReduceOp::Sum, stream), "send is null, with 2 elements");
        refused(
            comm.all_gather(part(0..2).as_slice(), part(4..8), stream),
            "recv has 4 elements; it must have 2 (send) x 1",
        );
        refused(
            comm.reduce_scatter(read, part(0..2), ReduceOp::Sum, stream),
            "send has 8 elements; it must have 2 (recv) x 1",
        );
        refused(comm.broadcast(all, 1, stream), "root is 1; it must be below 1");
        refused(comm.send(crooked, 0, stream), "must be a multiple of 4");
        refused(comm.send(endless, 0, stream), "more than there are addresses");
        refused(comm.send(read, 3, stream), "peer is 3");
        refused(comm.recv(all, usize::MAX, stream), "peer is 18446744073709551615");
    }
    assert!(all.part(5..9).is_none() && read.part(9..9).is_none());
    assert_eq!(mock().calls(), Vec::<String>::new(), "nothing reached NCCL");
    // SAFETY: one rank; in place.
    unsafe { comm.all_reduce(read, all, ReduceOp::Sum, stream) }.unwrap();
    assert_eq!(mock().calls().len(), 1, "the communicator is as good as before");
}

#[test]
fn in_place_is_allowed_where_nccl_has_it() {
    ranks(2, &Config::new(LONG), |comm| {
        let (own, stream) = (comm.rank(), mock().stream());
        let raw = Stream::from_raw(stream.address() as *mut _);
        let mut values = [own as i32 + 1, own as i32 + 1];
        let all = write(&mut values);
        let (mine, other) = (all.part(own..own + 1).unwrap(), all.part(1 - own..2 - own).unwrap());
        // SAFETY: waited for below, except for those that are refused.
        unsafe {
            assert!(matches!(comm.all_gather(other.as_slice(), all, raw), Err(Error::Argument { .. })));
            assert!(matches!(
                comm.reduce_scatter(all.as_slice(), other, ReduceOp::Sum, raw),
                Err(Error::Argument { .. })
            ));
            comm.reduce_scatter(all.as_slice(), mine, ReduceOp::Sum, raw).unwrap();
            comm.all_gather(mine.as_slice(), all, raw).unwrap();
        }
        while stream.pending() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(values, [3, 3]);
        comm.finalize().unwrap();
    });
}

#[test]
fn nothing_to_do_calls_nothing() {
    let comm = alone(LONG);
    mock().calls();
    let nothing = DeviceSliceMut::<f64>::new(std::ptr::null_mut(), 0);
    // SAFETY: touches no memory.
    unsafe {
        comm.all_reduce(nothing.as_slice(), nothing, ReduceOp::Sum, Stream::DEFAULT).unwrap();
        comm.all_gather(nothing.as_slice(), nothing, Stream::DEFAULT).unwrap();
        comm.reduce_scatter(nothing.as_slice(), nothing, ReduceOp::Sum, Stream::DEFAULT).unwrap();
        comm.broadcast(nothing, 0, Stream::DEFAULT).unwrap();
        comm.send(nothing.as_slice(), 0, Stream::DEFAULT).unwrap();
        comm.recv(nothing, 0, Stream::DEFAULT).unwrap();
    }
    assert!(mock().calls().is_empty());
}

#[test]
fn a_communicator_can_be_sent_to_another_thread() {
    let comm = alone(LONG);
    let world_size = std::thread::spawn(move || {
        let world_size = comm.world_size();
        comm.finalize().unwrap();
        world_size
    });
    assert_eq!(world_size.join().unwrap(), 1);
}
