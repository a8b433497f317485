//! Processor time per sample from Apache Kafka to a normalised f32 tensor: the worker's path (client library, ingest
//! thread, arena, offset poller, two batch buffers) against confluent-kafka and numpy on the same records, in turn. There
//! is no compute that decoding could overlap: the thread beside the training thread has only the waits for samples.
//!
//! Usage: `cargo run --release -p scadles-trainer --example ingest_bench -- PYTHON SCRIPT [PAIRS [SAMPLES]]`, with
//! `KAFKA_HOME` set, where SCRIPT is `scripts/bench/ingest.py` and PYTHON has confluent-kafka and numpy.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scadles_api::job::StreamPolicy;
use scadles_api::worker::{RecordFormat, SampleShape, StartFrom, StreamEnd, Transform};
use scadles_core::random::RandomStream;
use scadles_kafka::testing::RealKafka;
use scadles_kafka::{
    Broker, DeviceStream, KafkaConnection, OutgoingRecord, PacedProducer, ProducerOptions, RealBroker,
    RecordSource, TopicSpec,
};
use scadles_trainer::decode_ahead::{BatchBuffers, SampleMaker};
use scadles_trainer::source::{Source, SourceSettings, Start};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::{Cpu, check, quantile, spread};

/// Name, what is compared, bound of the ratio.
type Part = (&'static str, fn(&Measured) -> f64, f64);

const DEADLINE: Duration = Duration::from_mins(1);
const PARTITIONS: u32 = 2;
/// A quarter of a second at the paced rate.
const BATCH: u64 = 150;
const PACED_RATE: f64 = 600.0;
const PACED_SAMPLES: u64 = 3600;
/// As many as are due within a second, at once.
const AT_ONCE: f64 = 1e9;
/// The label byte and 3 × 32 × 32.
const RECORD_BYTES: usize = 3073;
/// What the worker's own path sets (`KafkaConnection::consumer_config`), so that both clients fetch alike.
const PROPERTIES: [(&str, &str); 12] = [
    ("group.id", "bench"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("socket.nagle.disable", "true"),
    ("fetch.wait.max.ms", "20"),
    ("fetch.min.bytes", "1"),
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.message.max.bytes", "1048576"),
    ("fetch.max.bytes", "4194304"),
    ("queued.min.messages", "2000"),
    ("queued.max.messages.kbytes", "2048"),
];

const NAMES: [&str; 3] = ["ours", "confluent-kafka (consume) + numpy", "confluent-kafka (poll) + numpy"];

/// What one reader is asked for.
#[derive(Serialize, Deserialize)]
struct Asked {
    servers: String,
    topic: String,
    partitions: u32,
    /// Samples after the first batch.
    samples: u64,
    batch: u64,
    mean: Vec<f32>,
    std: Vec<f32>,
    properties: serde_json::Value,
}

/// What one reader measured, in seconds.
#[derive(Serialize, Deserialize)]
struct Measured {
    samples: u64,
    process: f64,
    thread: f64,
    wall: f64,
    /// Sum of each picture's first value: both saw the same samples.
    checksum: f64,
    /// Samples decoded before their batch was fixed, the first batch included.
    #[serde(default)]
    ahead: u64,
}

impl Measured {
    fn process_micros(&self) -> f64 {
        self.process / self.samples as f64 * 1e6
    }

    fn thread_micros(&self) -> f64 {
        self.thread / self.samples as f64 * 1e6
    }

    fn ahead_percent(&self) -> f64 {
        self.ahead as f64 / self.samples as f64 * 100.0
    }
}

/// Pictures of noise, so that no record is like another.
struct Noise {
    record: Vec<u8>,
}

impl RecordSource for Noise {
    fn record(&mut self, _device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        let stream = RandomStream::new(number, 3);
        self.record[0] = (number % 10) as u8;
        for (index, bytes) in self.record[1..].chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&stream.word(index as u64).to_le_bytes());
        }
        Ok(self.record.as_slice().into())
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args[0] == "ours" {
        let measured = read_as_the_worker(&serde_json::from_str(&args[1]).unwrap());
        println!("{}", serde_json::to_string(&measured).unwrap());
        return;
    }
    let number = |index: usize, default: u64| args.get(index).map_or(default, |text| text.parse().unwrap());
    let held = compare(&args[0], &args[1], number(2, 7) as usize, number(3, 30_000));
    std::process::exit(i32::from(!held));
}

/// The worker's path without a network behind it.
fn read_as_the_worker(asked: &Asked) -> Measured {
    let samples =
        SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [3, 32, 32] };
    let transform = Transform {
        mean: asked.mean.clone(),
        std: asked.std.clone(),
        random_crop_padding: 0,
        horizontal_flip: false,
    };
    let source = Source::open(SourceSettings {
        device: "bench".to_owned(),
        topic: asked.topic.clone(),
        partitions: asked.partitions,
        connection: KafkaConnection::new(&asked.servers),
        start: Start::Beginning(StartFrom::Earliest),
        samples,
        end: StreamEnd::Never,
        policy: StreamPolicy::Persistence,
        buffer_bytes: 64 << 20,
        max_rejected_share: 0.01,
        open_deadline: DEADLINE,
        broker_patience: DEADLINE,
    })
    .unwrap();
    let maker = SampleMaker { seed: 1, device: 0, padding: 0, horizontal_flip: false };
    let mut batches =
        BatchBuffers::new(&samples, &transform, maker, asked.batch as usize, source.reader()).unwrap();
    let mut ahead = 0;
    let next = || {
        let view = source.wait(Instant::now() + DEADLINE, |view| view.available >= asked.batch);
        assert!(view.available >= asked.batch, "no samples: {:?}", source.failure());
        source.peek(asked.batch)
    };
    let mut take = || {
        let peeked = next();
        ahead += batches.assemble(&source, &peeked, 0).unwrap().ahead;
        batches.decode_behind(&source, &peeked, 0).unwrap();
        source.commit(&peeked).unwrap();
        source.apply_policy();
        let firsts = batches.batch().pictures.select(1, 0).select(1, 0).select(1, 0);
        (peeked.samples(), firsts.sum(tch::Kind::Double).double_value(&[]))
    };
    // The first batch starts the clock and is not counted: connecting is not part of the path.
    let (_, mut checksum) = take();
    let (cpu, at) = (Cpu::now(), Instant::now());
    let mut samples = 0;
    while samples < asked.samples {
        let (taken, sum) = take();
        (samples, checksum) = (samples + taken, checksum + sum);
    }
    let now = Cpu::now();
    let (process, thread) = (now.process - cpu.process, now.thread - cpu.thread);
    Measured { samples, process, thread, wall: at.elapsed().as_secs_f64(), checksum, ahead }
}

/// All readers in turn, `pairs` times; whether the bounds hold.
fn compare(python: &str, script: &str, pairs: usize, samples: u64) -> bool {
    let kafka = RealKafka::start().unwrap();
    let broker = RealBroker::connect(kafka.connection(), DEADLINE).unwrap();
    let backlog = topic(&broker, "backlog");
    let samples = samples / BATCH * BATCH;
    let producer = produce(&broker, &backlog, AT_ONCE, Some(samples + BATCH));
    while !producer.statistics()[0].finished {
        std::thread::sleep(Duration::from_millis(20));
    }
    producer.stop(DEADLINE).unwrap();
    let asked = |topic: &str, samples| Asked {
        servers: kafka.servers(),
        topic: topic.to_owned(),
        partitions: PARTITIONS,
        samples,
        batch: BATCH,
        mean: vec![0.4914, 0.4822, 0.4465],
        std: vec![0.247, 0.2435, 0.2616],
        properties: PROPERTIES.iter().map(|(key, value)| (*key, json!(value))).collect(),
    };
    let own = std::env::current_exe().unwrap().display().to_string();
    let readers: [&[&str]; 3] = [&[&own, "ours"], &[python, script, "consume"], &[python, script, "poll"]];
    let mut rounds: Vec<Vec<Measured>> = Vec::new();
    for _ in 0..pairs {
        let asked = asked(&backlog, samples);
        rounds.push(readers.iter().map(|reader| read(reader, &asked)).collect());
    }
    let held = report(&rounds);
    for (name, reader) in NAMES.iter().zip(readers).take(2) {
        // A stream of its own for each, so that both begin with an empty one.
        let paced = topic(&broker, &format!("paced-{}", reader.len()));
        let producer = produce(&broker, &paced, PACED_RATE, None);
        let measured = read(reader, &asked(&paced, PACED_SAMPLES));
        producer.stop(DEADLINE).unwrap();
        println!(
            "       paced at {PACED_RATE}/s, {name}: {:.1} CPU µs a sample, training thread {:.1}, decoded ahead {:.0} %",
            measured.process_micros(),
            measured.thread_micros(),
            measured.ahead_percent()
        );
    }
    held
}

fn report(rounds: &[Vec<Measured>]) -> bool {
    for (index, name) in NAMES.iter().enumerate() {
        let all = |part: fn(&Measured) -> f64| {
            spread(&mut rounds.iter().map(|round| part(&round[index])).collect::<Vec<_>>())
        };
        println!(
            "       {name}: CPU µs a sample {}, training thread {}, decoded ahead {} %",
            all(Measured::process_micros),
            all(Measured::thread_micros),
            all(Measured::ahead_percent)
        );
    }
    let all = rounds.iter().flatten().map(|measured| measured.checksum);
    let (low, high) =
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sum| (low.min(sum), high.max(sum)));
    assert!(high - low < 1e-2, "the readers saw different samples: sums {low} to {high}");
    let mut held = true;
    let parts: [Part; 2] =
        [("whole process", Measured::process_micros, 1.0), ("training thread", Measured::thread_micros, 0.5)];
    for (name, part, bound) in parts {
        let mut ratios: Vec<f64> = rounds.iter().map(|round| part(&round[0]) / part(&round[1])).collect();
        let text = spread(&mut ratios);
        held &= check(
            &format!("ingest to tensor, {name}, ours / consume + numpy"),
            quantile(&mut ratios, 0.5),
            &text,
            bound,
        );
    }
    held
}

fn topic(broker: &RealBroker, name: &str) -> String {
    let spec = TopicSpec { name: name.to_owned(), partitions: PARTITIONS, replication: None };
    broker.ensure_topics(&[spec], DEADLINE).unwrap();
    name.to_owned()
}

fn produce(broker: &RealBroker, topic: &str, rate: f64, max_records: Option<u64>) -> PacedProducer {
    let stream = DeviceStream {
        topic: topic.to_owned(),
        partitions: PARTITIONS,
        samples_per_second: rate,
        max_records,
    };
    let noise = Box::new(Noise { record: vec![0; RECORD_BYTES] });
    PacedProducer::start(broker.connection(), vec![stream], noise, ProducerOptions::default()).unwrap()
}

fn read(reader: &[&str], asked: &Asked) -> Measured {
    let output = Command::new(reader[0])
        .args(&reader[1..])
        .arg(serde_json::to_string(asked).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{reader:?} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}
