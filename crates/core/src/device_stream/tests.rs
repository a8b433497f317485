use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ledger::check;

fn stream(start_offsets: &[u64]) -> DeviceStream {
    DeviceStream::resume(&DeviceCheckpoint::starting_at(start_offsets), 1 << 20, 0).unwrap()
}

fn sample(slot: u32) -> Fetched {
    Fetched::Sample(SampleSlot { slot, bytes: 100 })
}

/// Offsets `first..first + count` of partition 0 as samples; the slot is the offset.
fn fill(stream: &mut DeviceStream, partition: u32, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        assert_eq!(stream.push(partition, offset, sample(offset as u32)), Ok(Acceptance::Accepted));
    }
}

fn range(partition: u32, first_offset: u64, count: u64) -> BatchRange {
    BatchRange { partition, first_offset, count }
}

#[test]
fn a_peeked_batch_stays_until_it_is_committed() {
    let mut stream = stream(&[100]);
    fill(&mut stream, 0, 100..110);
    let batch = stream.peek(4);
    assert_eq!(batch, Batch { ranges: vec![range(0, 100, 4)], slots: vec![100, 101, 102, 103] });
    assert_eq!((stream.peek(4), stream.available()), (batch.clone(), 10));
    assert_eq!(stream.commit(&batch.ranges), Ok(vec![100, 101, 102, 103]));
    assert_eq!(stream.peek(1).slots, [104]);
    assert_eq!(stream.ledger().trained, 4);
}

#[test]
fn rejected_records_and_gaps_split_a_range_and_are_never_trained() {
    let mut stream = stream(&[0]);
    fill(&mut stream, 0, 0..2);
    stream.push(0, 2, Fetched::Rejected).unwrap();
    fill(&mut stream, 0, 3..4);
    fill(&mut stream, 0, 6..8);
    stream.observe_offsets(&[PartitionOffsets { low: 0, end: 20 }]).unwrap();
    let batch = stream.peek(99);
    assert_eq!(batch.ranges, [range(0, 0, 2), range(0, 3, 1), range(0, 6, 2)]);
    let ledger = stream.ledger();
    assert_eq!((ledger.arrived, ledger.rejected, ledger.buffered, stream.gaps()), (18, 1, 17, 2));
    stream.commit(&batch.ranges).unwrap();
    assert_eq!(stream.checkpoint().partitions[0].next_offset, 8);
}

#[test]
fn a_checkpoint_counts_a_rejected_record_only_when_all_before_it_is_decided() {
    let mut stream = stream(&[0]);
    fill(&mut stream, 0, 0..2);
    stream.push(0, 2, Fetched::Rejected).unwrap();
    assert_eq!((stream.ledger().rejected, stream.checkpoint().partitions[0].decided.rejected), (1, 0));
    stream.commit(&[range(0, 0, 2)]).unwrap();
    let checkpoint = stream.checkpoint();
    assert_eq!((checkpoint.partitions[0].decided.rejected, checkpoint.partitions[0].next_offset), (1, 3));
}

#[test]
fn retention_that_overtakes_the_reader_is_lost_and_asks_for_a_seek() {
    let mut stream = stream(&[0]);
    fill(&mut stream, 0, 0..5);
    let seeks = stream.observe_offsets(&[PartitionOffsets { low: 8, end: 20 }]).unwrap();
    assert_eq!(seeks, [Seek { partition: 0, offset: 8 }]);
    assert_eq!((stream.ledger().lost, stream.available()), (3, 5));
    assert_eq!(stream.observe_offsets(&[PartitionOffsets { low: 8, end: 20 }]), Ok(vec![]));
    // Records that were on their way are not counted twice.
    assert_eq!(stream.push(0, 6, sample(6)), Ok(Acceptance::Stale));
}

#[test]
fn truncation_keeps_the_newest_and_seeks_past_what_was_not_fetched() {
    let mut stream = stream(&[0]);
    fill(&mut stream, 0, 0..30);
    stream.observe_offsets(&[PartitionOffsets { low: 0, end: 100 }]).unwrap();
    let truncation = stream.truncate(10.0);
    assert_eq!((truncation.dropped, truncation.freed.len()), (90, 30));
    assert_eq!(truncation.seeks, [Seek { partition: 0, offset: 90 }]);
    fill(&mut stream, 0, 90..100);
    let truncation = stream.truncate(3.5);
    assert_eq!((truncation.dropped, truncation.seeks), (6, vec![]));
    assert_eq!(stream.peek(9).ranges, [range(0, 96, 4)]);
    assert_eq!(stream.ledger().dropped, 96);
}

#[test]
fn batches_come_from_all_partitions_in_turn() {
    let mut stream = stream(&[0, 0, 0]);
    fill(&mut stream, 0, 0..10);
    fill(&mut stream, 2, 0..10);
    let first = stream.peek(5);
    assert_eq!(first.ranges, [range(0, 0, 3), range(2, 0, 2)]);
    stream.commit(&first.ranges).unwrap();
    assert_eq!(stream.peek(5).ranges, [range(0, 3, 2), range(2, 2, 3)]);
}

#[test]
fn a_partition_takes_no_more_than_its_quota_but_always_one_record() {
    let mut stream = DeviceStream::resume(&DeviceCheckpoint::starting_at(&[0, 0]), 500, 0).unwrap();
    assert!(stream.has_room(0, 9_000));
    fill(&mut stream, 0, 0..2);
    assert!(!stream.has_room(0, 100) && stream.has_room(0, 50) && stream.has_room(1, 100));
    assert!(!stream.has_room(2, 1));
}

#[test]
fn mistakes_are_errors_and_change_nothing() {
    let mut stream = stream(&[5]);
    fill(&mut stream, 0, 5..9);
    stream.observe_offsets(&[PartitionOffsets { low: 0, end: 9 }]).unwrap();
    for wrong in [range(0, 6, 1), range(0, 5, 5), range(1, 5, 1)] {
        stream.commit(&[wrong]).unwrap_err();
    }
    assert_eq!(
        stream.observe_offsets(&[PartitionOffsets { low: 0, end: 8 }]),
        Err(Error::EndMovedBack { partition: 0, known: 9, seen: 8 })
    );
    assert_eq!(stream.available(), 4);
    let mut checkpoint = stream.checkpoint();
    checkpoint.partitions[0].next_offset += 1;
    assert!(matches!(DeviceStream::resume(&checkpoint, 1, 0), Err(Error::CheckpointImbalance { .. })));
}

#[test]
fn an_end_seen_before_a_later_fetch_is_not_a_new_topic() {
    let mut stream = stream(&[0]);
    stream.observe_offsets(&[PartitionOffsets { low: 0, end: 3 }]).unwrap();
    fill(&mut stream, 0, 0..7);
    assert_eq!(stream.observe_offsets(&[PartitionOffsets { low: 0, end: 5 }]), Ok(vec![]));
    assert_eq!(stream.ledger().arrived, 7);
}

#[test]
fn a_reader_that_finds_records_gone_says_nothing_about_ends() {
    let mut stream = stream(&[0, 0]);
    let reach = |end| PartitionOffsets { low: 0, end };
    stream.observe_offsets(&[reach(10), reach(10)]).unwrap();
    fill(&mut stream, 1, 0..12);
    assert_eq!(stream.skip_lost(0, 4), Ok(Some(Seek { partition: 0, offset: 4 })));
    assert_eq!(stream.skip_lost(0, 4), Ok(None), "counted already");
    assert!(stream.skip_lost(2, 4).is_err());
    // Answered by the broker before the last two records of partition 1 were written.
    stream.observe_offsets(&[reach(10), reach(11)]).unwrap();
    assert_eq!((stream.ledger().lost, stream.ledger().arrived), (4, 22));
}

#[test]
fn what_lies_behind_the_end_of_a_stream_is_none_of_it() {
    let begun = DeviceCheckpoint::starting_at(&[10, 0]).ending_at(&[14, 0]);
    let mut stream = DeviceStream::resume(&begun, 1 << 20, 0).unwrap();
    let reach = |end| PartitionOffsets { low: 0, end };
    stream.observe_offsets(&[reach(100), reach(7)]).unwrap();
    assert_eq!((stream.ledger().arrived, stream.buffered()), (4, 4));
    fill(&mut stream, 0, 10..12);
    // The record at 13 was a marker; a record behind the end tells.
    stream.push(0, 12, sample(12)).unwrap();
    assert_eq!(stream.push(0, 14, sample(14)), Ok(Acceptance::Stale));
    assert_eq!(stream.push(1, 0, sample(0)), Ok(Acceptance::Stale));
    assert_eq!((stream.available(), stream.buffered(), stream.gaps()), (3, 3, 1));
    stream.observe_offsets(&[reach(200), reach(9)]).unwrap();
    stream.observe_offsets(&[PartitionOffsets { low: 150, end: 200 }, reach(9)]).unwrap();
    let ledger = stream.ledger();
    assert!(check(&ledger).is_ok());
    assert_eq!((ledger.arrived, ledger.lost, ledger.buffered), (3, 0, 3));
}

#[test]
fn the_end_of_a_stream_is_that_of_the_first_look_also_after_a_restart() {
    let mut stream =
        DeviceStream::resume(&DeviceCheckpoint::starting_at(&[0]).ending_at(&[5]), 1 << 20, 0).unwrap();
    fill(&mut stream, 0, 0..3);
    stream.commit(&[range(0, 0, 2)]).unwrap();
    let text = serde_json::to_string(&stream.checkpoint()).unwrap();
    let saved: DeviceCheckpoint = serde_json::from_str(&text).unwrap();
    let again = DeviceStream::resume(&saved.ending_at(&[90]), 1 << 20, 0).unwrap();
    assert_eq!(again.queues()[0].limit(), Some(5));
    let endless = serde_json::to_string(&DeviceCheckpoint::starting_at(&[0])).unwrap();
    assert!(!endless.contains("end_offset"), "as checkpoints of before have it: {endless}");
}

#[test]
fn a_topic_shorter_than_the_checkpoint_is_another_topic() {
    let mut stream = stream(&[50]);
    let seen = stream.observe_offsets(&[PartitionOffsets { low: 0, end: 10 }]);
    assert_eq!(seen, Err(Error::EndMovedBack { partition: 0, known: 50, seen: 10 }));
}

/// What became of each partition and offset.
type Fates = BTreeMap<(usize, u64), &'static str>;

/// What the broker holds and what truly became of each offset, kept apart from the bookkeeping under test.
#[derive(Default)]
struct World {
    /// By partition and offset: 0 sample, 1 undecodable, 2 no record.
    log: Vec<Vec<u8>>,
    low: Vec<u64>,
    /// Next offset the reader would get.
    reader: Vec<u64>,
    fate: Fates,
    saved: Option<(DeviceCheckpoint, Fates)>,
    rolled_back: u64,
}

#[derive(Debug, Clone)]
enum Event {
    Produce(usize, Vec<u8>),
    Observe,
    Fetch(usize, usize),
    Train(u64),
    Truncate(f64),
    Retain(usize, u64),
    Save,
    Restart,
}

const PARTITIONS: usize = 3;
const START: u64 = 4;

fn event() -> impl Strategy<Value = Event> {
    let p = 0..PARTITIONS;
    prop_oneof![
        4 => (p.clone(), prop::collection::vec(prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)], 0..20))
            .prop_map(|(p, kinds)| Event::Produce(p, kinds)),
        3 => Just(Event::Observe),
        5 => (p.clone(), 0_usize..25).prop_map(|(p, n)| Event::Fetch(p, n)),
        4 => (0_u64..30).prop_map(Event::Train),
        1 => (0.0_f64..40.0).prop_map(Event::Truncate),
        1 => (p, 0_u64..30).prop_map(|(p, n)| Event::Retain(p, n)),
        1 => Just(Event::Save),
        1 => Just(Event::Restart),
    ]
}

impl World {
    fn new() -> Self {
        let log = vec![vec![0; START as usize]; PARTITIONS];
        Self { log, low: vec![0; PARTITIONS], reader: vec![START; PARTITIONS], ..Self::default() }
    }

    fn count(&self, fate: &str) -> u64 {
        self.fate.values().filter(|&&f| f == fate).count() as u64
    }

    fn seek(&mut self, seeks: &[Seek]) {
        for seek in seeks {
            self.reader[seek.partition as usize] = seek.offset;
        }
    }

    fn fetch(&mut self, stream: &mut DeviceStream, p: usize, n: usize) {
        for _ in 0..n {
            let offset = self.reader[p].max(self.low[p]);
            // A reader below the low watermark learns of it from the offsets first.
            if offset != self.reader[p] || offset as usize >= self.log[p].len() {
                return;
            }
            self.reader[p] += 1;
            match self.log[p][offset as usize] {
                0 => {
                    stream.push(p as u32, offset, sample(offset as u32)).unwrap();
                }
                1 => {
                    stream.push(p as u32, offset, Fetched::Rejected).unwrap();
                    self.fate.insert((p, offset), "rejected");
                }
                _ => {
                    stream.reached(p as u32, offset + 1).unwrap();
                    self.fate.insert((p, offset), "gap");
                }
            }
        }
    }

    fn observe(&mut self, stream: &mut DeviceStream) {
        let offsets: Vec<PartitionOffsets> = (0..PARTITIONS)
            .map(|p| PartitionOffsets { low: self.low[p], end: self.log[p].len() as u64 })
            .collect();
        for p in 0..PARTITIONS {
            for offset in self.reader[p]..self.low[p] {
                self.fate.insert((p, offset), "lost");
            }
        }
        let seeks = stream.observe_offsets(&offsets).unwrap();
        self.seek(&seeks);
    }

    fn apply(&mut self, stream: &mut DeviceStream, event: Event) {
        match event {
            Event::Produce(p, kinds) => self.log[p].extend(kinds),
            Event::Observe => self.observe(stream),
            Event::Fetch(p, n) => self.fetch(stream, p, n),
            Event::Train(b) => {
                let batch = stream.peek(b);
                assert_eq!(batch.slots.len() as u64, b.min(stream.available()));
                let freed = stream.commit(&batch.ranges).unwrap();
                assert_eq!(freed, batch.slots);
                for range in batch.ranges {
                    for offset in range.first_offset..range.first_offset + range.count {
                        let p = range.partition as usize;
                        assert_eq!(self.log[p][offset as usize], 0, "only samples are trained");
                        assert_eq!(self.fate.insert((p, offset), "trained"), None, "decided once");
                    }
                }
            }
            Event::Truncate(rate) => {
                let before: Vec<u64> = stream.queues().iter().map(PartitionQueue::position).collect();
                let truncation = stream.truncate(rate);
                let (mut dropped, reader) = (0, self.reader.clone());
                for (p, queue) in stream.queues().iter().enumerate() {
                    for offset in before[p]..queue.position() {
                        if offset >= reader[p] || !self.fate.contains_key(&(p, offset)) {
                            assert_eq!(self.fate.insert((p, offset), "dropped"), None);
                            dropped += 1;
                        }
                    }
                }
                self.seek(&truncation.seeks);
                assert_eq!(truncation.dropped, dropped);
            }
            Event::Retain(p, n) => {
                self.low[p] = (self.low[p] + n).min(self.log[p].len() as u64);
            }
            Event::Save => {
                let checkpoint = stream.checkpoint();
                let below = |&(p, offset): &(usize, u64)| offset < checkpoint.partitions[p].next_offset;
                let fate = self.fate.iter().filter(|(at, _)| below(at)).map(|(&at, &f)| (at, f)).collect();
                self.saved = Some((checkpoint, fate));
            }
            Event::Restart => {
                let Some((checkpoint, fate)) = self.saved.clone() else { return };
                let undone = self.count("trained") - checkpoint.trained();
                self.rolled_back = checkpoint.rolled_back + undone;
                self.fate = fate;
                *stream = DeviceStream::resume(&checkpoint, 1 << 20, undone).unwrap();
                self.reader = checkpoint.partitions.iter().map(|p| p.next_offset).collect();
            }
        }
    }

    fn compare(&self, stream: &DeviceStream) {
        let ledger = stream.ledger();
        check(&ledger).unwrap();
        stream.checkpoint().check().unwrap();
        assert_eq!(ledger.trained, self.count("trained"));
        assert_eq!(ledger.dropped, self.count("dropped"));
        assert_eq!(ledger.rejected, self.count("rejected"));
        assert_eq!(ledger.lost, self.count("lost"));
        assert_eq!(stream.gaps(), self.count("gap"));
        assert_eq!(ledger.rolled_back, self.rolled_back);
        let known: u64 = stream.queues().iter().map(|queue| queue.end() - START).sum();
        assert_eq!(ledger.buffered, known - self.fate.len() as u64);
        assert_eq!(stream.available(), stream.peek(u64::MAX).slots.len() as u64);
        assert_eq!(stream.bytes(), stream.available() * 100);
    }
}

proptest! {
    #[test]
    fn every_offset_has_exactly_one_fate_whatever_happens(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        let mut stream = stream(&[START; PARTITIONS]);
        for event in events {
            world.apply(&mut stream, event);
            world.compare(&stream);
        }
        // Read to the end and train it: nothing is left and nothing was forgotten.
        world.observe(&mut stream);
        (0..PARTITIONS).for_each(|p| world.fetch(&mut stream, p, usize::MAX));
        world.apply(&mut stream, Event::Train(u64::MAX));
        world.compare(&stream);
        let ledger = stream.ledger();
        prop_assert_eq!(ledger.buffered, 0);
        let offsets: u64 = world.log.iter().map(|log| log.len() as u64 - START).sum();
        prop_assert_eq!(ledger.arrived, offsets - stream.gaps());
    }

    #[test]
    fn shares_are_equal_as_far_as_the_queues_go(
        samples in prop::collection::vec(0_u64..50, 1..9),
        wanted in 0_u64..300,
        first_turn in 0_usize..9,
    ) {
        let first_turn = first_turn % samples.len();
        let shares = share_equally(&samples, wanted, first_turn);
        prop_assert_eq!(shares.iter().sum::<u64>(), wanted.min(samples.iter().sum()));
        let level = shares.iter().max().copied().unwrap_or(0);
        for (share, samples) in shares.iter().zip(&samples) {
            prop_assert!(share <= samples);
            prop_assert!(*share + 1 >= level || share == samples, "{:?}", shares);
        }
    }

    #[test]
    fn within_a_partition_training_follows_the_offsets(
        batches in prop::collection::vec(1_u64..20, 1..20),
    ) {
        let mut stream = stream(&[0, 0]);
        fill(&mut stream, 0, 0..150);
        fill(&mut stream, 1, 0..40);
        let mut next = [0_u64; 2];
        let mut slots = BTreeSet::new();
        for b in batches {
            let batch = stream.peek(b);
            for range in &batch.ranges {
                prop_assert_eq!(range.first_offset, next[range.partition as usize]);
                next[range.partition as usize] += range.count;
            }
            slots.extend(stream.commit(&batch.ranges).unwrap());
        }
        prop_assert_eq!(stream.ledger().trained, next[0] + next[1]);
    }
}
