use std::{sync::mpsc::channel, thread, time::Duration};

use super::*;

/// A sum that no round reaches by chance.
const LAST: u64 = 1_000_000;

fn hello(rank: usize) -> Hello {
    Hello { protocol: scadles_api::PROTOCOL_VERSION, attempt: 1, rank, token: "secret".to_owned() }
}

fn settings(world_size: usize) -> HubSettings {
    HubSettings {
        world_size,
        attempt: 1,
        token: "secret".to_owned(),
        join_within: Duration::from_secs(20),
        greetings: (0..world_size).map(greeting).collect(),
    }
}

fn greeting(rank: usize) -> String {
    format!("for rank {rank}")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn hub(runtime: &tokio::runtime::Runtime, world_size: usize) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    serve_hub(runtime.handle(), listener, settings(world_size), |reports: &[Option<u64>]| {
        reports.iter().copied().sum::<Option<u64>>().map(|verdict| Ruling { verdict, last: verdict == LAST })
    });
    address
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn all_ranks_get_the_same_verdict_once_all_have_reported() {
    let runtime = runtime();
    let address = hub(&runtime, 3);
    let sums: Vec<Vec<u64>> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..3u64)
            .map(|rank| {
                let handle = runtime.handle();
                scope.spawn(move || {
                    let member =
                        Member::join(handle, address, hello(rank as usize), Duration::from_secs(20), |_| ())
                            .unwrap();
                    assert_eq!(member.greeting(), greeting(rank as usize));
                    (0..50)
                        .map(|round| {
                            member.report(rank * 100 + round);
                            member.verdict(soon()).unwrap()
                        })
                        .collect()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let expected: Vec<u64> = (0..50).map(|round| 300 + 3 * round).collect();
    assert!(sums.iter().all(|sum| *sum == expected));
}

#[test]
fn a_rank_that_goes_away_is_named_to_the_others() {
    let runtime = runtime();
    let address = hub(&runtime, 2);
    let (lost, seen) = channel();
    let stays = {
        let handle = runtime.handle().clone();
        thread::spawn(move || {
            Member::<u64, u64>::join(&handle, address, hello(0), Duration::from_secs(20), move |error| {
                lost.send(error).unwrap();
            })
        })
    };
    let leaves =
        Member::<u64, u64>::join(runtime.handle(), address, hello(1), Duration::from_secs(20), |_| ())
            .unwrap();
    let stays = stays.join().unwrap().unwrap();
    drop(leaves);
    let error = seen.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(matches!(error, ChannelError::Lost { rank: 1, .. }), "{error}");
    drop(stays);
}

#[test]
fn strangers_are_refused_and_the_group_forms_without_them() {
    let runtime = runtime();
    let address = hub(&runtime, 1);
    let refused = |hello: Hello| match Member::<u64, u64>::join(
        runtime.handle(),
        address,
        hello,
        Duration::from_secs(20),
        |_| (),
    ) {
        Err(ChannelError::Refused(problem)) => problem,
        _ => String::from("admitted"),
    };
    assert_eq!(refused(Hello { token: "guess".to_owned(), ..hello(0) }), "wrong token");
    assert_eq!(refused(Hello { attempt: 2, ..hello(0) }), "this is attempt 1, not 2");
    assert_eq!(refused(hello(7)), "rank 7 is outside a group of 1");
    assert!(
        Member::<u64, u64>::join(runtime.handle(), address, hello(0), Duration::from_secs(20), |_| ())
            .is_ok()
    );
}

#[test]
fn strangers_that_say_nothing_hold_up_no_group() {
    let runtime = runtime();
    let address = hub(&runtime, 2);
    // Before any of the group: each is listened to for longer than all of this takes.
    let strangers: Vec<_> = (0..STRANGERS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for rank in 0..2 {
            let handle = runtime.handle();
            scope.spawn(move || {
                Member::<u64, u64>::join(handle, address, hello(rank), Duration::from_secs(20), |_| ())
                    .unwrap()
            });
        }
    });
    assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
    drop(strangers);
}

#[test]
fn a_group_that_does_not_form_is_an_error_within_the_deadline() {
    let runtime = runtime();
    let address = hub(&runtime, 2);
    let began = Instant::now();
    let joined =
        Member::<u64, u64>::join(runtime.handle(), address, hello(0), Duration::from_millis(300), |_| ());
    assert!(matches!(joined, Err(ChannelError::NotFormed { .. })));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn after_the_last_verdict_a_closed_connection_is_no_loss() {
    let runtime = runtime();
    let address = hub(&runtime, 2);
    let (lost, seen) = channel();
    thread::scope(|scope| {
        for rank in 0..2u64 {
            let (handle, lost) = (runtime.handle(), lost.clone());
            scope.spawn(move || {
                let member = Member::join(
                    handle,
                    address,
                    hello(rank as usize),
                    Duration::from_secs(20),
                    move |error| {
                        lost.send(error).unwrap();
                    },
                )
                .unwrap();
                member.report(LAST / 2);
                assert_eq!(member.verdict(soon()), Some(LAST));
            });
        }
    });
    drop(lost);
    // Both ends of the callback's channel are gone once both members have ended.
    assert_eq!(
        seen.recv_timeout(Duration::from_secs(10)),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
}

#[test]
fn a_peer_that_lives_and_reads_nothing_holds_its_sender_up_for_a_while_only() {
    let runtime = runtime();
    let problem = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _reads_nothing = listener.accept().await.unwrap();
        let mut wire = frame(stream);
        loop {
            // Until the sockets of both sides are full.
            let message = encode(&vec![0_u8; MAX_FRAME_BYTES / 2]);
            if let Err(problem) = send(&mut wire, message, Duration::from_millis(200)).await {
                return problem;
            }
        }
    });
    assert!(problem.starts_with("it has read nothing"), "{problem}");
}
