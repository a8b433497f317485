//! Rates and speed on a real Kafka. These take a minute each and want a quiet machine, so they run on demand:
//! `cargo test -p scadles-kafka --test rates_on_kafka -- --ignored --nocapture --test-threads 1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]
#![allow(clippy::print_stdout, reason = "these tests measure")]
#![allow(dead_code, unused_macros, unused_imports, reason = "the suite's claims are used by other binaries")]

mod suite;

use std::time::{Duration, Instant};

use scadles_kafka::testing::RealKafka;
use scadles_kafka::{Broker, ConsumerOptions, Event, ProducerOptions, RealBroker, StreamConsumer};
use suite::DEADLINE;

/// Processor seconds of this process so far (user and system).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), counted in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Sends at `rates` for `length` and returns each stream's rate over that time; all that was sent is stored in the end.
fn measured_rates(broker: &dyn Broker, rates: &[f64], length: Duration) -> Vec<f64> {
    let topics: Vec<_> = rates.iter().map(|_| suite::topic(broker, 2)).collect();
    let streams = topics.iter().zip(rates).map(|(t, &rate)| suite::stream(t, 2, rate, None)).collect();
    // At 59 MB/s this much is two seconds: what a broker needs to warm up.
    let options = ProducerOptions { queued_kbytes: 128 << 10, ..ProducerOptions::default() };
    let producer = suite::start(broker, streams, options);
    // Settled: the first connections and producer ids are over, and the broker's code is compiled.
    std::thread::sleep(Duration::from_secs(5));
    let at_start = producer.statistics();
    let before: Vec<_> = at_start.iter().map(|s| s.sent).collect();
    let (began, processor) = (Instant::now(), processor_seconds());
    std::thread::sleep(length);
    let after: Vec<_> = producer.statistics().iter().map(|s| s.sent).collect();
    let elapsed = began.elapsed().as_secs_f64();
    println!(
        "{} streams: {:.0} % of a core",
        rates.len(),
        (processor_seconds() - processor) / elapsed * 100.0
    );
    let statistics = producer.stop(DEADLINE).unwrap();
    for ((topic, s), at_start) in topics.iter().zip(&statistics).zip(at_start) {
        let stored: u64 = broker.describe(topic, DEADLINE).unwrap().iter().map(|r| r.end).sum();
        assert_eq!((stored, s.delivered), (s.sent, s.sent));
        assert_eq!(s.slipped, at_start.slipped, "the machine or the broker was held up for over a second");
    }
    before.iter().zip(after).map(|(before, after)| (after - before) as f64 / elapsed).collect()
}

fn assert_within_half_a_percent(rates: &[f64], measured: &[f64]) {
    let errors: Vec<_> = rates.iter().zip(measured).map(|(rate, measured)| measured / rate - 1.0).collect();
    let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
    println!("worst error {:.3} %", worst * 100.0);
    for ((rate, measured), error) in rates.iter().zip(measured).zip(&errors) {
        // One record more or less at the edges of the minute is not the rate's error.
        let edge = 1.0 / (rate * 60.0);
        assert!(error.abs() <= 0.005 + edge, "{rate}/s asked, {measured:.2}/s measured");
    }
}

#[test]
#[ignore = "takes a minute"]
fn rates_are_kept_within_half_a_percent_over_a_minute() {
    let kafka = RealKafka::start().unwrap_or_else(|error| panic!("{error}"));
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    let rates = [50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0, 31.0, 97.0, 210.0, 600.0];
    assert_within_half_a_percent(&rates, &measured_rates(&broker, &rates, Duration::from_mins(1)));
}

#[test]
#[ignore = "takes a minute and a quiet machine"]
fn thirty_two_devices_at_600_a_second_keep_their_rates() {
    let kafka = RealKafka::start_with(&["log.retention.bytes=33554432", "log.segment.bytes=8388608"]);
    let kafka = kafka.unwrap_or_else(|error| panic!("{error}"));
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    let rates = [600.0; 32];
    assert_within_half_a_percent(&rates, &measured_rates(&broker, &rates, Duration::from_mins(1)));
}

#[test]
#[ignore = "wants a quiet machine"]
fn reading_costs_little_per_record() {
    let kafka = RealKafka::start().unwrap_or_else(|error| panic!("{error}"));
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    let topic = suite::topic(&broker, 4);
    let records = 100_000;
    suite::send(&broker, &topic, 4, records);
    let mut consumer =
        StreamConsumer::assign_from(broker.connection(), &topic, &[0; 4], ConsumerOptions::default())
            .unwrap();
    let (began, processor) = (Instant::now(), processor_seconds());
    let mut arena = vec![0; suite::RECORD_BYTES];
    for _ in 0..records {
        match consumer.poll(DEADLINE) {
            Some(Event::Record(record)) => arena.copy_from_slice(record.payload()),
            other => panic!("unexpected: {other:?}"),
        }
    }
    println!(
        "read {:.0} records/s, {:.1} processor µs a record (whole process)",
        records as f64 / began.elapsed().as_secs_f64(),
        (processor_seconds() - processor) / records as f64 * 1e6
    );
    assert_eq!(consumer.positions().iter().sum::<u64>(), records);
}
