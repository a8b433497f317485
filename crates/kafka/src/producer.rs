//! Sends the streams of all devices from one thread, each on its own absolute schedule.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::connection::{KafkaConnection, log_line, refusal};
use crate::error::{Error, Result, code_of, is_transient_code};
use crate::format::LABEL_HEADER;
use crate::offsets::OffsetWatcher;
use crate::pacing::{Cursor, Place, Schedule};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(5);

/// Bytes that a record costs at the broker beyond its payload, at most: its own header, and a batch header where it
/// travels alone.
pub const RECORD_OVERHEAD_BYTES: u64 = 96;

/// Bytes that a label's header costs at the broker, at most.
const LABEL_OVERHEAD_BYTES: u64 = 32;

/// A record on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingRecord<'a> {
    /// Its bytes.
    pub payload: &'a [u8],
    /// The label of its header; `None`: it has no header.
    pub label: Option<u32>,
}

impl OutgoingRecord<'_> {
    /// Bytes that it costs at the broker, at most.
    fn stored_bytes(&self) -> u64 {
        let label = if self.label.is_some() { LABEL_OVERHEAD_BYTES } else { 0 };
        self.payload.len() as u64 + RECORD_OVERHEAD_BYTES + label
    }
}

impl<'a> From<&'a [u8]> for OutgoingRecord<'a> {
    fn from(payload: &'a [u8]) -> Self {
        Self { payload, label: None }
    }
}

/// Makes records. A record is a pure function of device and number, so that it can be made again for a replay.
pub trait RecordSource: Send {
    /// Sample `number` of device `device` (its position in the list of streams); the error says why there is none.
    fn record(&mut self, device: usize, number: u64) -> std::result::Result<OutgoingRecord<'_>, String>;
}

/// One device's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStream {
    /// Its topic, which must exist.
    pub topic: String,
    /// Partitions P that the numbering counts with.
    pub partitions: u32,
    /// Rate asked for.
    pub samples_per_second: f64,
    /// Ends after this many records; `None`: never.
    pub max_records: Option<u64>,
}

/// How the producer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerOptions {
    /// Bytes per partition beyond the durable offsets; see [`crate::Limits::budget_bytes_per_partition`].
    pub budget_bytes_per_partition: Option<u64>,
    /// Bytes that may wait for the broker in this process, all streams together.
    pub queued_kbytes: u32,
    /// Deadline for finding out where the streams end, at the start.
    pub deadline: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self { budget_bytes_per_partition: None, queued_kbytes: 32 * 1024, deadline: Duration::from_secs(15) }
    }
}

/// Why a stream waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCause {
    /// The embedded broker would forget records that a restart needs: waiting for the next checkpoint.
    Budget,
    /// The broker takes no more for now.
    Broker,
}

/// What a stream did so far.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamStatistics {
    /// Rate asked for, samples per second.
    pub asked_samples_per_second: f64,
    /// Rate over about the last second.
    pub sent_samples_per_second: f64,
    /// Records handed to the client library.
    pub sent: u64,
    /// Records that all replicas have.
    pub delivered: u64,
    /// Since when and why the stream waits; `None` while it runs.
    pub waiting_since: Option<(Instant, WaitCause)>,
    /// By how much the schedule was moved because the stream had to wait.
    pub slipped: Duration,
    /// All records of a stream with an end are delivered.
    pub finished: bool,
}

/// Sends device streams at their rates until stopped.
///
/// Guarantees: records of a partition are stored in order without gaps, also over an outage of the broker, and the
/// record at (partition p of P, offset o) is `source.record(device, o · P + p)` — checked against the offset that the
/// broker reports for each; memory is bounded; a full queue or budget makes a stream wait, never lose.
/// Assumption: nobody else writes to the topics.
pub struct PacedProducer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    streams: Mutex<Vec<Stream>>,
    delivered: Vec<AtomicU64>,
    /// Callbacks so far: tells whether a poll found something.
    served: AtomicU64,
    topics: Vec<String>,
    failure: Mutex<Option<Error>>,
    outage_since: Mutex<Option<Instant>>,
    stop: AtomicBool,
    flush_within: Mutex<Duration>,
    began: Instant,
}

struct Stream {
    device: usize,
    spec: DeviceStream,
    schedule: Schedule,
    cursor: Cursor,
    sent: u64,
    waiting: Option<(Instant, WaitCause)>,
    /// (seconds, sent) about every 100 ms of the last second.
    marks: VecDeque<(f64, u64)>,
}

impl PacedProducer {
    /// Finds where each stream ends and starts sending there, at once.
    pub fn start(
        connection: &KafkaConnection,
        streams: Vec<DeviceStream>,
        source: Box<dyn RecordSource>,
        options: ProducerOptions,
    ) -> Result<Self> {
        let cursors = find_ends(connection, &streams, options.deadline)?;
        let began = Instant::now();
        let topics = streams.iter().map(|stream| stream.topic.clone()).collect();
        let streams: Vec<_> = streams
            .into_iter()
            .zip(cursors)
            .enumerate()
            .map(|(device, (spec, cursor))| Stream {
                device,
                schedule: Schedule::new(spec.samples_per_second, 0.0),
                spec,
                cursor,
                sent: 0,
                waiting: None,
                marks: VecDeque::new(),
            })
            .collect();
        let shared = Arc::new(Shared {
            delivered: streams.iter().map(|_| AtomicU64::new(0)).collect(),
            streams: Mutex::new(streams),
            served: AtomicU64::new(0),
            topics,
            failure: Mutex::default(),
            outage_since: Mutex::default(),
            stop: AtomicBool::new(false),
            flush_within: Mutex::new(Duration::from_secs(5)),
            began,
        });
        // Where the broker forgets whole batches, they must be small against the room beside the budget.
        let batch_bytes = if options.budget_bytes_per_partition.is_some() { 64 << 10 } else { 256 << 10 };
        let config = connection.producer_config(batch_bytes, options.queued_kbytes);
        let servers = connection.bootstrap_servers.clone();
        let producer: BaseProducer<Deliveries> =
            connection.create_with(&config, Deliveries { shared: Arc::clone(&shared), servers })?;
        let thread = std::thread::Builder::new()
            .name("producer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || Sender { shared, producer, source, options }.run()
            })
            .map_err(|error| Error::Client {
                what: "start the producer's thread".to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What each stream did so far, in the order given at the start.
    pub fn statistics(&self) -> Vec<StreamStatistics> {
        self.shared.statistics()
    }

    /// Goes on at another rate.
    pub fn set_rate(&self, device: usize, samples_per_second: f64) {
        let now = self.shared.began.elapsed().as_secs_f64();
        if let Some(stream) = lock(&self.shared.streams).get_mut(device) {
            stream.schedule.set_rate(samples_per_second, now);
        }
    }

    /// A durable checkpoint covers all records of `device` below `offsets` (one per partition): room in the budget.
    pub fn set_durable_offsets(&self, device: usize, offsets: &[u64]) {
        if let Some(stream) = lock(&self.shared.streams).get_mut(device) {
            stream.cursor.set_durable(offsets);
        }
    }

    /// Why sending ended by itself; `None` while all is well.
    pub fn failure(&self) -> Option<Error> {
        let told = lock(&self.shared.failure).clone();
        let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        told.or_else(|| ended.then(ended_by_panic))
    }

    /// Since when a broker has been away with no record confirmed since; records wait meanwhile.
    pub fn outage_since(&self) -> Option<Instant> {
        *lock(&self.shared.outage_since)
    }

    /// Stops sending, waits at most `deadline` for what is under way, and says what was sent.
    pub fn stop(mut self, deadline: Duration) -> Result<Vec<StreamStatistics>> {
        *lock(&self.shared.flush_within) = deadline;
        self.end()?;
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let statistics = self.statistics();
        let missing: u64 = statistics.iter().map(|s| s.sent - s.delivered).sum();
        if missing > 0 {
            return Err(Error::Timeout {
                what: "deliver the last records".to_owned(),
                waited: deadline,
                reason: format!("{missing} are not confirmed"),
            });
        }
        Ok(statistics)
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(ended_by_panic()),
            _ => Ok(()),
        }
    }
}

impl Drop for PacedProducer {
    fn drop(&mut self) {
        *lock(&self.shared.flush_within) = Duration::ZERO;
        if let Err(error) = self.end() {
            tracing::error!(%error, "producer ended badly");
        }
    }
}

fn ended_by_panic() -> Error {
    let reason = "the producer's thread ended by a panic".to_owned();
    Error::Client { what: "send records".to_owned(), reason }
}

/// A poisoned lock only means that another thread ended by a panic, which is reported where it is joined.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each stream continues at its partitions' ends; all that is still stored counts as needed until a checkpoint says
/// otherwise.
fn find_ends(
    connection: &KafkaConnection,
    streams: &[DeviceStream],
    deadline: Duration,
) -> Result<Vec<Cursor>> {
    let mut cursors = Vec::with_capacity(streams.len());
    let mut watcher: Option<OffsetWatcher> = None;
    for stream in streams {
        let mut here = match watcher.take() {
            None => OffsetWatcher::new(connection, &stream.topic, deadline)?,
            Some(watcher) => watcher.retarget(&stream.topic, deadline)?,
        };
        let (have, want) = (here.partitions() as usize, stream.partitions as usize);
        if have < want || want == 0 {
            return Err(Error::TooFewPartitions { topic: stream.topic.clone(), have, want: want.max(1) });
        }
        let mut reach = here.poll(deadline)?;
        reach.truncate(want);
        cursors
            .push(Cursor::new(reach.iter().map(|r| r.end).collect(), reach.iter().map(|r| r.low).collect()));
        watcher = Some(here);
    }
    Ok(cursors)
}

impl Shared {
    fn statistics(&self) -> Vec<StreamStatistics> {
        let streams = lock(&self.streams);
        streams
            .iter()
            .zip(&self.delivered)
            .map(|(stream, delivered)| {
                let delivered = delivered.load(Ordering::Acquire);
                StreamStatistics {
                    asked_samples_per_second: stream.schedule.samples_per_second(),
                    sent_samples_per_second: stream.rate(),
                    sent: stream.sent,
                    delivered: delivered.min(stream.sent),
                    waiting_since: stream.waiting,
                    slipped: Duration::from_secs_f64(stream.schedule.slipped_seconds()),
                    finished: stream.spec.max_records.is_some_and(|max| delivered >= max),
                }
            })
            .collect()
    }

    /// Keeps the first failure: what follows is mostly its echo.
    fn fail(&self, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            tracing::error!(%error, "sending ended");
            *failure = Some(error);
        }
        self.stop.store(true, Ordering::Release);
    }
}

impl Stream {
    /// Samples per second over the marks kept.
    fn rate(&self) -> f64 {
        match (self.marks.front(), self.marks.back()) {
            (Some(&(t0, sent0)), Some(&(t1, sent1))) if t1 > t0 => (sent1 - sent0) as f64 / (t1 - t0),
            _ => 0.0,
        }
    }

    fn mark(&mut self, now: f64) {
        if self.marks.back().is_none_or(|&(last, _)| now - last >= 0.1) {
            self.marks.push_back((now, self.sent));
            while self.marks.front().is_some_and(|&(first, _)| now - first > 1.05) {
                self.marks.pop_front();
            }
        }
    }

    /// Samples due and unsent.
    fn due(&self, now: f64) -> u64 {
        let due = self.schedule.due(now).min(self.spec.max_records.unwrap_or(u64::MAX));
        due.saturating_sub(self.sent)
    }
}

/// What the producer's thread owns.
struct Sender {
    shared: Arc<Shared>,
    producer: BaseProducer<Deliveries>,
    source: Box<dyn RecordSource>,
    options: ProducerOptions,
}

impl Sender {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let tick = Instant::now();
            if let Err(error) = self.send_what_is_due() {
                self.shared.fail(error);
            }
            self.serve_reports();
            // Not the client library's own wait: it spins through the last part of a millisecond.
            std::thread::sleep(TICK.saturating_sub(tick.elapsed()));
        }
        let within = *lock(&self.shared.flush_within);
        if lock(&self.shared.failure).is_none() && !within.is_zero() {
            // What stays undelivered shows in the statistics.
            let _ = self.producer.flush(within);
        }
    }

    /// Serves delivery reports, errors and log lines until none is left; never while the streams are locked.
    fn serve_reports(&self) {
        loop {
            let served = self.shared.served.load(Ordering::Relaxed);
            self.producer.poll(Duration::ZERO);
            if self.shared.served.load(Ordering::Relaxed) == served {
                break;
            }
        }
    }

    fn send_what_is_due(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut streams = lock(&shared.streams);
        for stream in streams.iter_mut() {
            let now = shared.began.elapsed().as_secs_f64();
            let waits = self.send_stream(stream, now)?;
            stream.waiting = match (waits, stream.waiting) {
                (None, _) => None,
                (Some(cause), Some((since, _))) => Some((since, cause)),
                (Some(cause), None) => Some((Instant::now(), cause)),
            };
            stream.schedule.slip(now, stream.sent);
            stream.mark(now);
        }
        Ok(())
    }

    /// Sends all of a stream that is due; what it waits for where it could not.
    fn send_stream(&mut self, stream: &mut Stream, now: f64) -> Result<Option<WaitCause>> {
        for _ in 0..stream.due(now) {
            let place = stream.cursor.next_place();
            let made = self.source.record(stream.device, place.number);
            let made = made.map_err(|reason| Error::Client { what: "make records".to_owned(), reason })?;
            let budget = self.options.budget_bytes_per_partition;
            if !stream.cursor.may_send(place.partition, made.stored_bytes(), budget) {
                return Ok(Some(WaitCause::Budget));
            }
            let mut record: BaseRecord<'_, (), [u8], usize> =
                BaseRecord::with_opaque_to(&stream.spec.topic, pack(stream.device, place))
                    .partition(place.partition.cast_signed())
                    .payload(made.payload);
            if let Some(label) = made.label {
                record = record.headers(label_header(label));
            }
            match self.producer.send(record) {
                Ok(()) => {}
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    return Ok(Some(WaitCause::Broker));
                }
                Err((error, _)) => {
                    let what = format!("send records to topic {:?}", stream.spec.topic);
                    return Err(Error::from_client(&what, &stream.spec.topic, &error));
                }
            }
            stream.cursor.advance(place);
            stream.sent += 1;
        }
        Ok(None)
    }
}

fn label_header(label: u32) -> OwnedHeaders {
    let label = label.to_string();
    OwnedHeaders::new_with_capacity(1).insert(Header { key: LABEL_HEADER, value: Some(&label) })
}

const OFFSET_BITS: u32 = 48;

/// Device and expected offset in one word, which travels with the record and comes back with its delivery.
fn pack(device: usize, place: Place) -> usize {
    (device << OFFSET_BITS) | (place.offset as usize & ((1 << OFFSET_BITS) - 1))
}

fn unpack(word: usize) -> (usize, u64) {
    (word >> OFFSET_BITS, word as u64 & ((1 << OFFSET_BITS) - 1))
}

/// Takes delivery reports: counts, and checks that each record is where its number says.
struct Deliveries {
    shared: Arc<Shared>,
    servers: String,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        self.shared.served.fetch_add(1, Ordering::Relaxed);
        log_line(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.served.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(target: "librdkafka", %error, reason, "producer error");
        let Some(code) = code_of(&error) else { return };
        if let Some(refusal) = refusal(&self.servers, code, reason) {
            self.shared.fail(refusal);
            return;
        }
        match code {
            // "All brokers are down" does not come while a bootstrap address was never tried again.
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::SSL => {
                lock(&self.shared.outage_since).get_or_insert_with(Instant::now);
            }
            RDKafkaErrorCode::Fatal => {
                let what = "send records".to_owned();
                self.shared.fail(Error::Client { what, reason: format!("{code}: {reason}") });
            }
            _ => {}
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        self.shared.served.fetch_add(1, Ordering::Relaxed);
        let (device, expected) = unpack(opaque);
        let topic = || self.shared.topics[device].clone();
        match result {
            Ok(message) => {
                let stored = message.offset().cast_unsigned();
                if stored == expected {
                    self.shared.delivered[device].fetch_add(1, Ordering::AcqRel);
                    lock(&self.shared.outage_since).take();
                } else {
                    let partition = message.partition().cast_unsigned();
                    self.shared.fail(Error::ForeignRecords { topic: topic(), partition, expected, stored });
                }
            }
            Err((error, _)) => match code_of(error) {
                // Thrown away at the end of the program: counted as not delivered.
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {}
                Some(code) if is_transient_code(code) => self.shared.fail(Error::Timeout {
                    what: format!("send records to topic {:?}", topic()),
                    waited: Duration::ZERO,
                    reason: error.to_string(),
                }),
                _ => {
                    let what = format!("send records to topic {:?}", topic());
                    self.shared.fail(Error::from_client(&what, &topic(), error));
                }
            },
        }
    }
}

/// A producer's context that only logs, for clients that send nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogOnly;

impl ClientContext for LogOnly {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        log_line(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

impl ProducerContext for LogOnly {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_offset_come_back_from_the_word_that_travels_with_a_record() {
        for (device, offset) in [(0, 0), (31, 1_000_000), (65_000, (1 << 48) - 1)] {
            assert_eq!(unpack(pack(device, Place { partition: 3, offset, number: 0 })), (device, offset));
        }
    }
}
