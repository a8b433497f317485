//! The state without broker and threads.

use scadles_api::job::StreamPolicy;
use scadles_api::worker::{RecordFormat, SampleShape, StartFrom, StreamEnd};
use scadles_core::device_stream::{DeviceCheckpoint, DeviceStream, PartitionOffsets, Seek};
use scadles_kafka::KafkaConnection;

use super::state::{Shared, Taken};
use super::*;

/// A record of one label byte and four pixels.
const RECORD: [u8; 5] = [1, 2, 3, 4, 5];

fn settings(partitions: u32, records: u64) -> SourceSettings {
    SourceSettings {
        device: "device-0".to_owned(),
        topic: "t".to_owned(),
        partitions,
        connection: KafkaConnection::new("127.0.0.1:1"),
        start: Start::Beginning(StartFrom::Earliest),
        samples: SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [1, 2, 2] },
        end: StreamEnd::Never,
        policy: StreamPolicy::Truncation,
        buffer_bytes: records * RECORD.len() as u64,
        max_rejected_share: 0.01,
        open_deadline: Duration::from_secs(1),
        broker_patience: Duration::from_secs(1),
    }
}

fn shared(settings: &SourceSettings, offsets: &[PartitionOffsets]) -> Shared {
    let checkpoint = settings.start.resolve(offsets, &[]);
    let stream = DeviceStream::resume(&checkpoint.device, settings.buffer_bytes, 0).unwrap();
    let shared = Shared::new(stream, checkpoint.earlier, settings);
    shared.lock().observe(offsets, 0.0).unwrap();
    shared
}

fn reach(low: u64, end: u64) -> PartitionOffsets {
    PartitionOffsets { low, end }
}

#[test]
fn a_full_partition_refuses_until_a_quarter_is_free_and_then_asks_for_what_it_refused() {
    let shared = shared(&settings(2, 16), &[reach(0, 100), reach(0, 100)]);
    let mut state = shared.lock();
    for offset in 0..8 {
        assert_eq!(state.take_sample((0, offset), None, &RECORD).unwrap(), Taken::Kept);
    }
    assert_eq!(state.take_sample((0, 8), None, &RECORD).unwrap(), Taken::Refused);
    assert_eq!(state.take_sample((1, 0), None, &RECORD).unwrap(), Taken::Kept, "the other has room");
    assert_eq!(state.take_rejected((0, 9), "bad").unwrap(), Taken::Refused, "behind a refused record");
    assert!(state.has_room());
    assert_eq!(state.take_seeks(), []);
    let batch = state.stream.peek(3);
    let freed = state.stream.commit(&batch.ranges).unwrap();
    state.arena.free(&freed);
    assert_eq!(state.take_seeks(), [Seek { partition: 0, offset: 8 }]);
    assert_eq!(state.take_sample((0, 8), None, &RECORD).unwrap(), Taken::Kept);
    let ledger = state.ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.arrived, ledger.trained, ledger.buffered), (200, 3, 197));
}

#[test]
fn the_arena_never_holds_more_than_its_bound() {
    let settings = settings(1, 10);
    let shared = shared(&settings, &[reach(0, 1000)]);
    let mut state = shared.lock();
    let kept =
        (0..1000).filter(|o| state.take_sample((0, *o), None, &RECORD).unwrap() == Taken::Kept).count();
    assert_eq!(kept, 10);
    assert_eq!(state.stream.bytes(), settings.buffer_bytes);
    assert!(!state.has_room());
}

#[test]
fn a_marker_at_its_end_does_not_keep_a_stream_alive_and_a_refused_record_does() {
    let settings = SourceSettings { end: StreamEnd::OffsetsAtStart, ..settings(1, 2) };
    // Three records, a marker, and what came later.
    let begun = DeviceCheckpoint::starting_at(&[0]).ending_at(&[4]);
    let stream = DeviceStream::resume(&begun, settings.buffer_bytes, 0).unwrap();
    let shared = Shared::new(stream, Ledger::default(), &settings);
    let mut state = shared.lock();
    state.observe(&[reach(0, 9)], 0.0).unwrap();
    for (offset, taken) in [(0, Taken::Kept), (1, Taken::Kept), (2, Taken::Refused)] {
        assert_eq!(state.take_sample((0, offset), None, &RECORD).unwrap(), taken);
    }
    state.reached_end(0);
    assert_eq!(state.view().supply, Supply::Ended, "the refused record comes again");
    let batch = state.stream.peek(2);
    let freed = state.stream.commit(&batch.ranges).unwrap();
    state.arena.free(&freed);
    assert_eq!(state.take_seeks(), [Seek { partition: 0, offset: 2 }]);
    assert_eq!(state.take_sample((0, 2), None, &RECORD).unwrap(), Taken::Kept);
    assert_eq!(state.view().supply, Supply::Ended);
    state.reached_end(0);
    assert_eq!((state.view().supply, state.view().available), (Supply::AllHere, 1));
    assert_eq!(state.status(100.0).silent_seconds.to_bits(), 0.0_f64.to_bits());
}

#[test]
fn the_start_is_resolved_once_and_lost_records_are_counted_from_it() {
    let offsets = [reach(5, 20), reach(0, 7)];
    let start = |start: Start| start.resolve(&offsets, &[9, 3]);
    let earliest = start(Start::Beginning(StartFrom::Earliest));
    let latest = start(Start::Beginning(StartFrom::Latest));
    let places = |checkpoint: &StreamCheckpoint| {
        checkpoint.device.partitions.iter().map(|p| p.next_offset).collect::<Vec<_>>()
    };
    assert_eq!((places(&earliest), places(&latest)), (vec![5, 0], vec![20, 7]));
    let since = start(Start::Beginning(StartFrom::Timestamp { unix_millis: 1 }));
    assert_eq!(places(&since), vec![9, 3]);
    let mut settings = settings(2, 100);
    settings.start = Start::From { checkpoint: earliest.clone(), rolled_back: 4 };
    let shared = shared(&settings, &[reach(9, 20), reach(0, 7)]);
    let ledger = shared.lock().ledger();
    assert_eq!((ledger.arrived, ledger.lost, ledger.buffered, ledger.rolled_back), (22, 4, 18, 4));
    assert_eq!(shared.lock().positions()[0].start, 5);
}

#[test]
fn partitions_that_a_checkpoint_does_not_know_are_read_from_their_first_record() {
    let known = Start::Beginning(StartFrom::Latest).resolve(&[reach(0, 7)], &[]);
    let start = Start::From { checkpoint: known.clone(), rolled_back: 0 };
    let grown = [reach(0, 20), reach(3, 9), reach(0, 0)];
    let checkpoint = start.resolve(&grown, &[]);
    let places: Vec<u64> = checkpoint.device.partitions.iter().map(|p| p.next_offset).collect();
    assert_eq!(places, [7, 3, 0]);
    assert_eq!(start.resolve(&[reach(0, 20)], &[]), known, "nothing is new");
    assert_eq!(start.resolve(&[], &[]).device.partitions.len(), 1, "nothing is forgotten");
    let shared = shared(&SourceSettings { start, ..settings(3, 30) }, &grown);
    let ledger = shared.lock().ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.arrived, ledger.buffered), (13 + 6, 13 + 6));
}

#[test]
fn a_topic_may_have_more_partitions_than_the_job_reads_but_not_fewer() {
    let settings = settings(2, 10);
    assert_eq!(check_partitions(&settings, 2), Ok(()));
    assert_eq!(check_partitions(&settings, 5), Ok(()));
    let error = check_partitions(&settings, 1).unwrap_err();
    assert_eq!(error.exit_code(), scadles_api::ExitCode::Configuration);
}

#[test]
fn streams_begun_anew_keep_the_account_of_those_that_are_gone() {
    let shared = shared(&settings(1, 100), &[reach(0, 10)]);
    let mut state = shared.lock();
    for offset in 0..6 {
        state.take_sample((0, offset), None, &RECORD).unwrap();
    }
    state.take_rejected((0, 6), "bad").unwrap();
    let batch = state.stream.peek(6);
    state.stream.commit(&batch.ranges).unwrap();
    let checkpoint = state.checkpoint();
    let start = Start::RestartStreams { checkpoint, rolled_back: 2 };
    let anew = start.resolve(&[reach(0, 3)], &[]);
    assert_eq!(anew.device.partitions[0].next_offset, 0);
    assert_eq!(
        anew.earlier,
        Ledger { arrived: 7, trained: 6, rejected: 1, rolled_back: 2, ..Ledger::default() }
    );
    let text = serde_json::to_string(&anew).unwrap();
    assert_eq!(serde_json::from_str::<StreamCheckpoint>(&text).unwrap(), anew);
}

#[test]
fn truncation_waits_for_a_rate_and_then_keeps_the_newest_second() {
    let shared = shared(&settings(1, 100), &[reach(0, 0)]);
    let mut state = shared.lock();
    for offset in 0..50 {
        state.take_sample((0, offset), None, &RECORD).unwrap();
    }
    assert_eq!(state.apply_policy(), 0, "no rate yet");
    state.observe(&[reach(0, 80)], 1.0).unwrap();
    state.observe(&[reach(0, 100)], 2.0).unwrap();
    let kept = state.rate.stream_rate().unwrap().ceil() as u64;
    assert_eq!(state.apply_policy(), 100 - kept);
    let ledger = state.ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.dropped, ledger.buffered), (100 - kept, kept));
    assert_eq!(
        state.take_seeks(),
        if kept < 50 { vec![Seek { partition: 0, offset: 100 - kept }] } else { vec![] }
    );
}

#[test]
fn a_prefetched_record_that_was_counted_as_lost_is_not_counted_twice() {
    let shared = shared(&settings(1, 100), &[reach(0, 10)]);
    let mut state = shared.lock();
    state.observe(&[reach(6, 10)], 1.0).unwrap();
    assert_eq!(state.take_sample((0, 0), None, &RECORD).unwrap(), Taken::Kept);
    assert_eq!(state.stream.available(), 0);
    state.skip_lost(0, 8).unwrap();
    state.take_sample((0, 8), None, &RECORD).unwrap();
    let ledger = state.ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.arrived, ledger.lost, ledger.buffered), (10, 8, 2));
}

#[test]
fn a_topic_that_was_made_anew_is_an_error_of_its_own() {
    let shared = shared(&settings(1, 100), &[reach(0, 10)]);
    let error = shared.lock().observe(&[reach(0, 3)], 1.0).unwrap_err();
    assert_eq!(error.exit_code(), scadles_api::ExitCode::TopicLost);
    assert!(error.remedy().contains("--resume"));
}
