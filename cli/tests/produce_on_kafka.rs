//! `scadles produce` on a real Kafka, as a pod runs it: output into a pipe, a broker that comes and goes, SIGTERM.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command},
};

use scadles_kafka::testing::RealKafka;
use support::{
    Scratch, await_some, finish,
    learnable::{Settings, job},
    scadles, signal, text, trainer,
};

const DEVICES: [&str; 3] = ["device-0", "device-1", "device-2"];

fn produce(job: &Path, kafka: &RealKafka) -> Command {
    let mut command = scadles(&trainer());
    command.arg("produce").arg(job).arg("--kafka").arg(kafka.servers());
    command
}

/// A producer under test; ended with the test.
struct Producing {
    child: Option<Child>,
    lines: BufReader<ChildStdout>,
}

impl Producing {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child: Some(child), lines }
    }

    /// The next line that has this part.
    fn await_line(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "no line has `{part}`");
        }
        line.trim().to_owned()
    }

    /// SIGTERM, a clean end, and the last line.
    fn end(mut self) -> String {
        let child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        let output = finish(child);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest.lines().last().unwrap().to_owned()
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The samples that a line tells of a device.
fn told(line: &str, device: &str) -> u64 {
    let counts = line.rsplit_once(": ").unwrap().1;
    let count = counts.split(", ").find_map(|part| part.strip_prefix(device)).unwrap();
    count.replace(' ', "").parse().unwrap()
}

fn stored(kafka: &RealKafka, name: &str) -> Vec<u64> {
    let ends = |device: &&str| kafka.end_offsets(&format!("default.{name}.{device}")).unwrap_or_default();
    DEVICES.iter().map(|device| ends(device).iter().sum()).collect()
}

/// Waits until every device's topic has more records than before.
fn await_growth(kafka: &RealKafka, name: &str, before: &[u64]) -> Vec<u64> {
    await_some("records of every device", || {
        let now = stored(kafka, name);
        now.iter().zip(before).all(|(now, before)| now > before).then_some(now)
    })
}

#[test]
fn streams_wait_for_the_broker_go_on_over_its_restart_and_from_where_another_producer_ended() {
    let scratch = Scratch::new("produce");
    let settings = Settings { name: "produce", ..Settings::default() };
    let file = job(scratch.path(), &settings);
    let mut kafka = RealKafka::start().unwrap();
    kafka.kill().unwrap();

    let mut producing = Producing::start(produce(&file, &kafka));
    producing.await_line("waiting, for");
    kafka.restart().unwrap();
    let before = await_growth(&kafka, settings.name, &[0; 3]);
    producing.await_line("records delivered");
    kafka.kill().unwrap();
    producing.await_line("no broker for");
    kafka.restart().unwrap();
    await_growth(&kafka, settings.name, &before);
    let line = producing.end();
    let first = stored(&kafka, settings.name);
    let counts: Vec<u64> = DEVICES.iter().map(|device| told(&line, device)).collect();
    assert_eq!(counts, first, "{line}");

    // Every record's offset is compared with its number: a producer that began elsewhere would fail.
    let output = finish(produce(&file, &kafka).args(["--seconds", "1"]).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().last().unwrap();
    let second: Vec<u64> =
        DEVICES.iter().zip(&first).map(|(device, first)| first + told(line, device)).collect();
    assert_eq!(second, stored(&kafka, settings.name), "{line}");
}

/// The job on topics that somebody else makes.
fn external(scratch: &Scratch, settings: &Settings, kafka: &RealKafka) -> PathBuf {
    let file = job(scratch.path(), settings);
    let servers = kafka.servers();
    let text = std::fs::read_to_string(&file).unwrap()
        + &format!("  kafka: {{bootstrapServers: '{servers}', topics: {{management: External}}}}\n");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn streams_wait_for_topics_that_somebody_else_makes() {
    let scratch = Scratch::new("produce-topics");
    let settings = Settings { name: "awaited", ..Settings::default() };
    let kafka = RealKafka::start().unwrap();
    let file = external(&scratch, &settings, &kafka);
    let mut producing = Producing::start(produce(&file, &kafka));
    assert!(producing.await_line("default.awaited.device-0").contains("waiting, for"));
    for device in DEVICES {
        let topic = format!("default.awaited.{device}");
        kafka.kafka_tool("kafka-topics", &["--create", "--topic", &topic, "--partitions", "1"]).unwrap();
    }
    await_growth(&kafka, settings.name, &[0; 3]);
    producing.end();
}
