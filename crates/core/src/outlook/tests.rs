use proptest::prelude::*;

use super::*;
use crate::device_stream::{DeviceCheckpoint, DeviceStream, Fetched, SampleSlot};

fn stream(partitions: usize) -> DeviceStream {
    DeviceStream::resume(&DeviceCheckpoint::starting_at(&vec![0; partitions]), 1 << 20, 0).unwrap()
}

/// Offsets as samples; slot = offset · 10 + partition.
fn fill(stream: &mut DeviceStream, partition: u32, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let sample = SampleSlot { slot: offset as u32 * 10 + partition, bytes: 1 };
        stream.push(partition, offset, Fetched::Sample(sample)).unwrap();
    }
}

/// Row and offset of what is handed out.
fn take(outlook: &mut Outlook, stream: &DeviceStream, most: usize) -> Vec<(usize, u64)> {
    outlook.take(stream.queues(), most).iter().map(|expected| (expected.row, expected.offset)).collect()
}

#[test]
fn samples_are_handed_out_as_they_arrive_each_once_and_no_more_than_a_batch() {
    let mut stream = stream(1);
    fill(&mut stream, 0, 0..5);
    let batch = stream.peek(4);
    let mut outlook = stream.outlook(&batch.ranges);
    assert_eq!(take(&mut outlook, &stream, 9), [(0, 4)]);
    assert_eq!(take(&mut outlook, &stream, 9), []);
    stream.push(0, 5, Fetched::Rejected).unwrap();
    fill(&mut stream, 0, 6..8);
    assert_eq!(take(&mut outlook, &stream, 1), [(1, 6)]);
    stream.commit(&batch.ranges).unwrap();
    fill(&mut stream, 0, 8..20);
    assert_eq!(take(&mut outlook, &stream, 9), [(2, 7), (3, 8)]);
    assert_eq!(take(&mut outlook, &stream, 9), []);
}

#[test]
fn what_is_left_of_a_dropped_outlook_moves_up() {
    let mut stream = stream(1);
    fill(&mut stream, 0, 0..12);
    let batch = stream.peek(4);
    let mut outlook = stream.outlook(&batch.ranges);
    assert_eq!(take(&mut outlook, &stream, 3), [(0, 4), (1, 5), (2, 6)]);
    stream.commit(&batch.ranges).unwrap();
    assert_eq!(stream.truncate(7.0).dropped, 1);
    assert_eq!(take(&mut outlook, &stream, 9), [(0, 5), (1, 6), (2, 7), (3, 8)]);
    assert_eq!(stream.truncate(0.0).dropped, 7);
    assert_eq!(take(&mut outlook, &stream, 9), [], "nothing is left");
    fill(&mut stream, 0, 12..13);
    assert_eq!(take(&mut outlook, &stream, 9), [(0, 12)]);
}

#[test]
fn behind_an_empty_batch_nothing_is_expected() {
    let mut stream = stream(2);
    fill(&mut stream, 1, 0..3);
    assert_eq!(take(&mut stream.outlook(&[]), &stream, 9), []);
}

proptest! {
    #[test]
    fn where_all_partitions_have_enough_the_outlook_is_the_very_next_batch(
        partitions in 1_usize..5,
        local_batch in 1_u64..40,
        steps in 1_usize..6,
        chunk in 1_usize..20,
    ) {
        let mut stream = stream(partitions);
        (0..partitions).for_each(|partition| fill(&mut stream, partition as u32, 0..300));
        for _ in 0..steps {
            let batch = stream.peek(local_batch);
            let mut outlook = stream.outlook(&batch.ranges);
            let mut slots = vec![u32::MAX; local_batch as usize];
            loop {
                let found = outlook.take(stream.queues(), chunk);
                if found.is_empty() {
                    break;
                }
                for expected in found {
                    prop_assert_eq!(slots[expected.row], u32::MAX, "row {} twice", expected.row);
                    slots[expected.row] = expected.slot;
                }
            }
            stream.commit(&batch.ranges).unwrap();
            prop_assert_eq!(slots, stream.peek(local_batch).slots);
        }
    }
}
