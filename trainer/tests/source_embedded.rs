//! A device's stream on the embedded broker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

mod stream;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use scadles_api::ExitCode;
use scadles_api::worker::{ImageFit, PartitionRule, RecordFormat, SampleShape, StreamEnd, Transform};
use scadles_core::batch::Supply;
use scadles_kafka::dataset::{Dataset, DatasetSource};
use scadles_kafka::{Broker, EmbeddedBroker, OutgoingRecord, RecordSource};
use scadles_trainer::batch::BatchAssembler;
use scadles_trainer::decode_ahead::{BatchBuffers, DecodeCounts, SampleMaker};
use scadles_trainer::source::{Source, SourceError, Start};
use stream::{DEADLINE, Numbered, await_available, await_that, fill, settings, step, topic};

fn broker() -> &'static dyn Broker {
    static BROKER: OnceLock<EmbeddedBroker> = OnceLock::new();
    BROKER.get_or_init(|| EmbeddedBroker::start().unwrap())
}

#[test]
fn every_record_of_one_partition_is_trained_once_and_the_ledger_is_exact() {
    stream::every_record_is_trained_once_and_the_ledger_is_exact(broker(), 1);
}

#[test]
fn every_record_of_three_partitions_is_trained_once_and_the_ledger_is_exact() {
    stream::every_record_is_trained_once_and_the_ledger_is_exact(broker(), 3);
}

#[test]
fn truncation_keeps_the_newest_second_of_one_partition_and_counts_the_rest() {
    stream::truncation_keeps_the_newest_second_and_counts_the_rest(broker(), 1);
}

#[test]
fn truncation_keeps_the_newest_second_of_three_partitions_and_counts_the_rest() {
    stream::truncation_keeps_the_newest_second_and_counts_the_rest(broker(), 3);
}

#[test]
fn records_that_the_broker_forgot_while_the_buffer_was_full_are_counted_as_lost() {
    let topic = topic(broker(), 1);
    let mut settings = settings(broker().connection(), &topic, 1);
    settings.samples = stream::samples(32);
    let record_bytes = settings.samples.sample_bytes();
    settings.buffer_bytes = 100 * record_bytes as u64;
    let mut expected = Numbered::new(record_bytes, None);
    // The embedded broker keeps 5 MiB a partition: 1,700 records of 3,073 bytes.
    fill(broker().connection(), &topic, 1, 500, expected.clone());
    let source = Source::open(settings).unwrap();
    await_available(&source, 100);
    fill(broker().connection(), &topic, 1, 6000, expected.clone());
    await_that("the loss is seen", || source.ledger().lost > 0);
    // On a busy machine the end of the stream as it is known may be behind.
    source.fetch_newest_ends(DEADLINE).unwrap();
    let mut trained = 0;
    while source.view().buffered > 0 {
        await_available(&source, 1);
        trained += step(&source, 64, 1, &mut expected).len() as u64;
    }
    let ledger = source.ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.arrived, ledger.buffered), (6500, 0));
    assert_eq!(ledger.trained, trained);
    assert!(ledger.lost > 3000 && ledger.lost + trained == 6500, "{ledger:?}");
}

#[test]
fn a_checkpoint_whose_records_are_gone_counts_them_as_lost_and_goes_on() {
    let topic = topic(broker(), 1);
    let mut settings = settings(broker().connection(), &topic, 1);
    settings.samples = stream::samples(32);
    let record_bytes = settings.samples.sample_bytes();
    let mut expected = Numbered::new(record_bytes, None);
    fill(broker().connection(), &topic, 1, 100, expected.clone());
    let source = Source::open(settings.clone()).unwrap();
    await_available(&source, 60);
    step(&source, 60, 1, &mut expected);
    let checkpoint = source.checkpoint();
    drop(source);
    fill(broker().connection(), &topic, 1, 4000, expected.clone());
    settings.start = Start::From { checkpoint, rolled_back: 11 };
    let source = Source::open(settings).unwrap();
    await_available(&source, 50);
    step(&source, 50, 1, &mut expected);
    let ledger = source.ledger();
    assert_eq!((ledger.arrived, ledger.trained, ledger.rolled_back), (4100, 110, 11));
    assert!(ledger.lost > 2000, "{ledger:?}");
}

#[test]
fn too_many_undecodable_records_end_the_stream_with_field_value_and_remedy() {
    let topic = topic(broker(), 1);
    let mut settings = settings(broker().connection(), &topic, 1);
    settings.max_rejected_share = 0.01;
    let records = Numbered::new(settings.samples.sample_bytes(), Some(40));
    fill(broker().connection(), &topic, 1, 400, records);
    let source = Source::open(settings).unwrap();
    await_that("the source has failed", || source.failure().is_some());
    let error = source.failure().unwrap();
    assert_eq!(error.exit_code(), ExitCode::TooManyRejected);
    assert!(error.to_string().contains("spec.stream.maxRejectedShare: 0.01"), "{error}");
    assert!(error.to_string().contains("label is 200"), "{error}");
    assert!(error.remedy().contains("spec.stream.format"));
}

/// Pictures of a data set as PNG files, some of them damaged, some without a label.
#[derive(Clone)]
struct Pictures(DatasetSource);

impl Pictures {
    const SHAPE: SampleShape = SampleShape {
        format: RecordFormat::Image { fit: ImageFit::Exact },
        num_classes: 10,
        input_shape: [1, 8, 8],
    };

    fn new() -> Self {
        let records = (0..90_u64).flat_map(|i| {
            std::iter::once((i % 10) as u8).chain((0..64).map(move |pixel| (i * 31 + pixel * 7) as u8))
        });
        let dataset = Dataset::from_records(records.collect(), &Self::SHAPE).unwrap();
        Self(DatasetSource::new(Arc::new(dataset), PartitionRule::Iid, 5, 1).unwrap())
    }

    fn is_good(number: u64) -> bool {
        number % 5 != 4 && number % 7 != 6
    }
}

impl RecordSource for Pictures {
    fn record(&mut self, device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        let made = self.0.record(device, number)?;
        let payload = if number % 5 == 4 { &made.payload[..20] } else { made.payload };
        Ok(OutgoingRecord { payload, label: made.label.filter(|_| number % 7 != 6) })
    }
}

#[test]
fn pictures_are_trained_or_rejected_each_once() {
    let topic = topic(broker(), 2);
    let mut settings = settings(broker().connection(), &topic, 2);
    settings.samples = Pictures::SHAPE;
    // Less room than there are pictures.
    settings.buffer_bytes = 40 * 65;
    fill(broker().connection(), &topic, 2, 300, Pictures::new());
    let good = (0..300).filter(|number| Pictures::is_good(*number)).count() as u64;
    let source = Source::open(settings.clone()).unwrap();
    let (pictures, mut trained) = (Pictures::new(), Vec::new());
    while (trained.len() as u64) < good {
        await_available(&source, 1);
        let peeked = source.peek(16);
        source.with_samples(&peeked, |samples| {
            for sample in samples {
                let number = sample.offset * 2 + u64::from(sample.partition);
                assert_eq!(sample.payload, &*pictures.0.sample(0, number), "picture {number}");
                trained.push(number);
            }
        });
        source.commit(&peeked).unwrap();
        assert!(source.ledger().is_balanced());
    }
    trained.sort_unstable();
    assert_eq!(trained, (0..300).filter(|number| Pictures::is_good(*number)).collect::<Vec<_>>());
    source.fetch_newest_ends(DEADLINE).unwrap();
    await_that("the last rejected record is seen", || source.ledger().rejected == 300 - good);
    assert_eq!((source.ledger().trained, source.ledger().buffered), (good, 0));

    settings.max_rejected_share = 0.1;
    settings.buffer_bytes = 1 << 20;
    let source = Source::open(settings).unwrap();
    await_that("the source has failed", || source.failure().is_some());
    let error = source.failure().unwrap();
    assert_eq!(error.exit_code(), ExitCode::TooManyRejected);
    let words = ["no readable PNG or JPEG picture", "no header `label`"];
    assert!(words.iter().any(|words| error.to_string().contains(words)), "{error}");
}

#[test]
fn an_idle_stream_is_over_until_something_comes() {
    let topic = topic(broker(), 2);
    let mut settings = settings(broker().connection(), &topic, 2);
    settings.end = StreamEnd::Idle { seconds: 0.5 };
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    fill(broker().connection(), &topic, 2, 10, expected.clone());
    let source = Source::open(settings).unwrap();
    await_that("silence is seen", || source.view().supply == Supply::AllHere);
    assert_eq!((source.view().available, source.has_ended()), (10, false), "something is left to train");
    step(&source, 10, 2, &mut expected);
    assert!(source.has_ended());
    assert_eq!(source.status().silent_seconds.to_bits(), 0.0_f64.to_bits(), "an ended stream is not silent");
    fill(broker().connection(), &topic, 2, 5, expected.clone());
    await_available(&source, 5);
    assert!(!source.has_ended());
    await_that("silence is seen again", || source.view().supply == Supply::AllHere);
    assert_eq!((source.view().available, source.ledger().arrived), (5, 15));
}

#[test]
fn a_stream_with_its_end_at_the_start_takes_nothing_that_comes_later() {
    let topic = topic(broker(), 2);
    let mut settings = settings(broker().connection(), &topic, 2);
    settings.end = StreamEnd::OffsetsAtStart;
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    fill(broker().connection(), &topic, 2, 21, expected.clone());
    let source = Source::open(settings.clone()).unwrap();
    await_that("all is there", || source.view().supply == Supply::AllHere);
    fill(broker().connection(), &topic, 2, 30, expected.clone());
    step(&source, 11, 2, &mut expected);
    settings.start = Start::From { checkpoint: source.checkpoint(), rolled_back: 0 };
    drop(source);
    let source = Source::open(settings).unwrap();
    await_that("all is there again", || source.view().supply == Supply::AllHere);
    source.fetch_newest_ends(DEADLINE).unwrap();
    assert_eq!((source.view().available, source.ledger().arrived), (10, 21));
    step(&source, 64, 2, &mut expected);
    assert!(source.has_ended());
    assert_eq!((source.ledger().trained, source.ledger().buffered), (21, 0));
    assert!(source.view().stream_rate < 1e-9, "what comes behind the end is no rate");
}

#[test]
fn a_topic_with_too_few_partitions_is_an_error_at_the_start() {
    let connection = broker().connection();
    let topic = topic(broker(), 2);
    let error = Source::open(settings(connection, &topic, 3)).err().unwrap();
    assert!(matches!(error, SourceError::PartitionCount { found: 2, configured: 3, .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Configuration);
}

#[test]
fn of_a_topic_with_more_partitions_the_jobs_number_is_read_and_a_job_that_grows_reads_the_others_too() {
    let topic = topic(broker(), 3);
    let mut settings = settings(broker().connection(), &topic, 1);
    let mut expected = Numbered::new(settings.samples.sample_bytes(), None);
    fill(broker().connection(), &topic, 3, 90, expected.clone());
    let source = Source::open(settings.clone()).unwrap();
    await_available(&source, 30);
    step(&source, 10, 3, &mut expected);
    source.fetch_newest_ends(DEADLINE).unwrap();
    assert_eq!((source.ledger().arrived, source.ledger().trained), (30, 10));
    let checkpoint = source.checkpoint();
    drop(source);

    settings.partitions = 3;
    settings.start = Start::From { checkpoint, rolled_back: 0 };
    let source = Source::open(settings.clone()).unwrap();
    await_available(&source, 80);
    let ledger = source.ledger();
    assert!(ledger.is_balanced());
    assert_eq!((ledger.arrived, ledger.trained, ledger.buffered), (90, 10, 80));
    let checkpoint = source.checkpoint();
    drop(source);

    settings.partitions = 2;
    settings.start = Start::From { checkpoint, rolled_back: 0 };
    let error = Source::open(settings).err().unwrap();
    assert!(matches!(error, SourceError::CheckpointPartitions { known: 3, read: 2, .. }), "{error}");
}

#[test]
fn a_broker_that_is_gone_for_longer_than_the_patience_ends_the_stream() {
    let own = EmbeddedBroker::start().unwrap();
    let topic = topic(&own, 1);
    let mut settings = settings(own.connection(), &topic, 1);
    settings.broker_patience = Duration::from_secs(1);
    let source = Source::open(settings).unwrap();
    assert_eq!(source.fetch_newest_ends(DEADLINE), Ok(()));
    drop(own);
    await_that("the source has failed", || source.failure().is_some());
    assert_eq!(source.failure().unwrap().exit_code(), ExitCode::BrokerLost);
    assert!(source.fetch_newest_ends(DEADLINE).is_err());
}

#[test]
fn the_next_batch_is_decoded_while_the_trainer_is_busy_and_nothing_leaves_the_buffer() {
    let topic = topic(broker(), 3);
    let settings = settings(broker().connection(), &topic, 3);
    let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
    let transform = Transform { mean, std, random_crop_padding: 2, horizontal_flip: true };
    let maker = SampleMaker { seed: 5, device: 0, padding: 2, horizontal_flip: true };
    let mut plain = BatchAssembler::<f32>::new(&settings.samples, &transform, 60).unwrap();
    let shape = settings.samples;
    fill(broker().connection(), &topic, 3, 150, Numbered::new(shape.sample_bytes(), None));
    let source = Source::open(settings).unwrap();
    await_available(&source, 150);
    let mut batches = BatchBuffers::new(&shape, &transform, maker, 60, source.reader()).unwrap();

    let first = source.peek(60);
    assert_eq!(batches.assemble(&source, &first, 0).unwrap(), DecodeCounts { ahead: 0, late: 60 });
    batches.decode_behind(&source, &first, 1).unwrap();
    await_that("the next batch is decoded", || batches.prepared() == 60);
    assert_eq!(source.view().available, 150);
    source.commit(&first).unwrap();
    let second = source.peek(60);
    assert_eq!(batches.assemble(&source, &second, 1).unwrap(), DecodeCounts { ahead: 60, late: 0 });
    source.with_samples(&second, |samples| {
        plain.assemble(samples.map(|sample| maker.sample(sample, 1).1)).unwrap();
    });
    assert_eq!(batches.batch().pictures, plain.batch().pictures);
    assert_eq!(batches.batch().labels, plain.batch().labels);

    // Only thirty are left; they are trained in another epoch than was foretold.
    batches.decode_behind(&source, &second, 1).unwrap();
    await_that("the rest is decoded", || batches.prepared() == 90);
    source.commit(&second).unwrap();
    let third = source.peek(30);
    assert_eq!(batches.assemble(&source, &third, 2).unwrap(), DecodeCounts { ahead: 0, late: 30 });
    // With the buffer in the thread's hands all ends as well.
    batches.decode_behind(&source, &third, 2).unwrap();
    drop(source);
    drop(batches);
}
