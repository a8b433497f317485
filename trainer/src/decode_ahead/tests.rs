use scadles_api::worker::RecordFormat;
use scadles_core::device_stream::{BatchRange, DeviceCheckpoint, DeviceStream, Fetched, SampleSlot};
use scadles_core::random::RandomStream;

use super::*;

const MAX_BATCH: usize = 48;
const MAKER: SampleMaker = SampleMaker { seed: 5, device: 1, padding: 2, horizontal_flip: true };

fn assembler() -> BatchAssembler<f32> {
    let shape = SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [1, 4, 4] };
    let (mean, std) = (vec![0.5], vec![0.25]);
    let transform = Transform { mean, std, random_crop_padding: 2, horizontal_flip: true };
    BatchAssembler::new(&shape, &transform, MAX_BATCH).unwrap()
}

/// A record whose bytes say which it is.
fn payload(partition: u32, offset: u64) -> Vec<u8> {
    let pixels = (0..16).map(|i| (offset * 31 + u64::from(partition) * 101 + i * 7) as u8);
    std::iter::once((offset % 10) as u8).chain(pixels).collect()
}

/// Draws in a row.
struct Draws {
    stream: RandomStream,
    drawn: u64,
}

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        self.stream.below(self.drawn, bound)
    }
}

/// A stream and the two ways to its batches, without broker and threads.
struct World {
    stream: DeviceStream,
    ahead: BatchAssembler<f32>,
    plain: BatchAssembler<f32>,
}

impl World {
    fn new(partitions: usize) -> Self {
        let start = DeviceCheckpoint::starting_at(&vec![0; partitions]);
        let stream = DeviceStream::resume(&start, 1 << 20, 0).unwrap();
        Self { stream, ahead: assembler(), plain: assembler() }
    }

    fn arrive(&mut self, partition: u32, samples: u64) {
        let next = self.stream.queues()[partition as usize].fetched_end();
        for offset in next..next + samples {
            let sample = SampleSlot { slot: 0, bytes: 17 };
            self.stream.push(partition, offset, Fetched::Sample(sample)).unwrap();
        }
    }

    /// Samples of any partition, now and then one that is rejected.
    fn arrive_anywhere(&mut self, draws: &mut Draws) {
        for partition in 0..self.stream.queues().len() as u32 {
            self.arrive(partition, draws.below(12));
            if draws.below(3) == 0 {
                let next = self.stream.queues()[partition as usize].fetched_end();
                self.stream.push(partition, next, Fetched::Rejected).unwrap();
            }
        }
    }

    fn decode_ahead(&mut self, outlook: &mut Outlook, most: usize, epoch: u64) {
        let expected = outlook.take(self.stream.queues(), most);
        let payloads: Vec<Vec<u8>> = expected.iter().map(|e| payload(e.partition, e.offset)).collect();
        let samples = expected.iter().zip(&payloads).map(|(e, payload)| {
            let sample = Sample { partition: e.partition, offset: e.offset, payload };
            let (identity, sample) = MAKER.sample(sample, epoch);
            (e.row, identity, sample)
        });
        self.ahead.prepare(samples).unwrap();
    }

    /// Completes `batch` and compares it with plain assembly; how many samples were kept.
    fn complete(&mut self, batch: &[BatchRange], epoch: u64) -> u64 {
        let places = batch.iter().flat_map(|range| {
            (range.first_offset..range.first_offset + range.count).map(|offset| (range.partition, offset))
        });
        let records: Vec<(u32, u64, Vec<u8>)> =
            places.map(|(partition, offset)| (partition, offset, payload(partition, offset))).collect();
        let samples = || {
            records.iter().map(|(partition, offset, payload)| {
                MAKER.sample(Sample { partition: *partition, offset: *offset, payload }, epoch)
            })
        };
        let kept = self.ahead.complete(samples()).unwrap();
        let plain = self.plain.assemble(samples().map(|(_, sample)| sample)).unwrap();
        assert_eq!(self.ahead.batch().pictures, plain.pictures);
        assert_eq!(self.ahead.batch().labels, plain.labels);
        kept
    }
}

/// One life of a stream with everything that can happen to it; samples kept and samples trained.
fn live(draws: &mut Draws) -> (u64, u64) {
    let mut world = World::new(1 + draws.below(4) as usize);
    let (mut kept, mut trained) = (0, 0);
    let mut size = 1 + draws.below(MAX_BATCH as u64);
    let mut batch = world.stream.peek(size);
    for step in 0..8 {
        let mut outlook = world.stream.outlook(&batch.ranges);
        // Most of the time the epoch is foretold rightly.
        let (epoch, foretold) = (step / 3, step / 3 + u64::from(draws.below(6) == 0));
        let mut pass = |world: &mut World, draws: &mut Draws| {
            for _ in 0..draws.below(4) {
                world.arrive_anywhere(draws);
                world.decode_ahead(&mut outlook, 1 + draws.below(16) as usize, foretold);
            }
        };
        pass(&mut world, draws);
        world.stream.commit(&batch.ranges).unwrap();
        if draws.below(3) == 0 {
            world.stream.truncate(draws.below(40) as f64);
        }
        pass(&mut world, draws);
        if draws.below(3) == 0 {
            size = 1 + draws.below(MAX_BATCH as u64);
        }
        batch = world.stream.peek(size);
        kept += world.complete(&batch.ranges, epoch);
        trained += batch.slots.len() as u64;
    }
    (kept, trained)
}

#[test]
fn what_is_decoded_ahead_and_the_rest_are_the_bytes_of_plain_assembly_whatever_happens() {
    let (mut kept, mut trained) = (0, 0);
    for seed in 0..300 {
        let mut draws = Draws { stream: RandomStream::new(seed, 1), drawn: 0 };
        let life = live(&mut draws);
        (kept, trained) = (kept + life.0, trained + life.1);
    }
    assert!(kept > trained / 10 && kept < trained, "{kept} of {trained}: both ways must have been taken");
}

#[test]
fn equal_batches_of_several_partitions_are_decoded_ahead_as_a_whole() {
    let mut world = World::new(3);
    (0..3).for_each(|partition| world.arrive(partition, 200));
    let mut batch = world.stream.peek(40);
    for step in 0..9 {
        let mut outlook = world.stream.outlook(&batch.ranges);
        (0..5).for_each(|_| world.decode_ahead(&mut outlook, 9, step));
        world.stream.commit(&batch.ranges).unwrap();
        batch = world.stream.peek(40);
        assert_eq!(world.complete(&batch.ranges, step), 40);
    }
}

#[test]
fn another_epoch_keeps_nothing() {
    let mut world = World::new(1);
    world.arrive(0, 60);
    let batch = world.stream.peek(20);
    let mut outlook = world.stream.outlook(&batch.ranges);
    world.decode_ahead(&mut outlook, 20, 0);
    world.stream.commit(&batch.ranges).unwrap();
    let batch = world.stream.peek(20);
    assert_eq!(world.complete(&batch.ranges, 1), 0);
    assert_eq!(world.complete(&batch.ranges, 1), 20, "now it holds that epoch's");
}
