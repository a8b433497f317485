//! The ingest thread: from the consumer into the arena. Shell.

use std::time::{Duration, Instant};

use scadles_core::partition_queue::PartitionQueue;
use scadles_kafka::format::RecordDecoder;
use scadles_kafka::{Event, Record, StreamConsumer};

use super::state::{Shared, Taken};
use super::{SourceError, SourceSettings};

/// How long one poll waits for a record, and with it the longest delay of an order to seek or stop.
const POLL: Duration = Duration::from_millis(50);
/// How long the thread sleeps at most while the arena is full.
const FULL: Duration = Duration::from_millis(100);
/// Rejected records are logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What the thread remembers between records.
struct Ingest<'a> {
    shared: &'a Shared,
    consumer: StreamConsumer,
    settings: &'a SourceSettings,
    decoder: RecordDecoder,
    rejected_log: RejectedLog,
    /// The topic was missing at poll number `.0`; reading begins anew once a later poll has found it.
    reattach_after: Option<u64>,
}

/// Reads until the source is dropped or has failed.
pub(super) fn run(shared: &Shared, consumer: StreamConsumer, settings: &SourceSettings) {
    let mut ingest = Ingest {
        shared,
        consumer,
        settings,
        decoder: RecordDecoder::new(settings.samples),
        rejected_log: RejectedLog::default(),
        reattach_after: None,
    };
    loop {
        match ingest.next() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return shared.fail(error),
        }
    }
}

impl Ingest<'_> {
    /// Carries orders out, then takes one event in. `false`: it is over.
    fn next(&mut self) -> Result<bool, SourceError> {
        let mut state = self.shared.lock();
        if state.stop || state.failure.is_some() {
            return Ok(false);
        }
        if !state.has_room() {
            // Not polling costs nothing: no group waits for this consumer, and its queue is bounded.
            drop(self.shared.wait_room(state, FULL));
            return Ok(true);
        }
        let seeks = state.take_seeks();
        let polls_done = state.polls_done;
        drop(state);
        for seek in seeks {
            self.consumer.seek(seek.partition, seek.offset)?;
        }
        if self.reattach_after.is_some_and(|poll| polls_done > poll) {
            self.reattach()?;
        }
        let Some(event) = self.consumer.poll(POLL) else { return Ok(true) };
        match event {
            Event::Record(record) => {
                let partition = record.partition();
                let taken = take(
                    self.shared,
                    &self.settings.device,
                    &mut self.decoder,
                    &mut self.rejected_log,
                    &record,
                )?;
                drop(record);
                if taken == Taken::Refused {
                    // Others may be read on: all that comes of this one meanwhile would be thrown away.
                    self.consumer.pause(partition)?;
                }
            }
            Event::OutOfRange { partition, position, new_low } => {
                tracing::warn!(
                    device = self.settings.device,
                    partition,
                    lost = new_low - position.min(new_low),
                    "the broker deleted records before they were read"
                );
                self.shared.lock().skip_lost(partition, new_low)?;
                self.shared.notify_changed();
            }
            Event::End { partition } => {
                self.shared.lock().reached_end(partition);
                self.shared.notify_changed();
            }
            // The poller decides how long to bear it: it notices every outage, also while nothing is read.
            Event::Outage { reason, .. } => tracing::debug!(reason, "the broker is away"),
            Event::Fatal(scadles_kafka::Error::TopicMissing { .. }) => self.reattach_after = Some(polls_done),
            Event::Fatal(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// The topic is there again (a broker that just started does not know it at once): read on where reading stopped.
    fn reattach(&mut self) -> Result<(), SourceError> {
        self.reattach_after = None;
        let state = self.shared.lock();
        let offsets: Vec<u64> = state.stream.queues().iter().map(PartitionQueue::fetched_end).collect();
        drop(state);
        Ok(self.consumer.seek_all(&offsets)?)
    }
}

/// Makes a sample of one record and takes it in. Decoding needs no lock.
fn take(
    shared: &Shared,
    device: &str,
    decoder: &mut RecordDecoder,
    rejected_log: &mut RejectedLog,
    record: &Record<'_>,
) -> Result<Taken, SourceError> {
    let place = (record.partition(), record.offset());
    // A picture is not decoded for a partition that will have to fetch it again.
    if shared.lock().refuses(record.partition()) {
        return Ok(Taken::Refused);
    }
    let verdict = decoder.decode(record.payload(), record.label());
    let mut state = shared.lock();
    let taken = match verdict {
        Ok(sample) => state.take_sample(place, record.timestamp_millis(), sample)?,
        Err(reason) => {
            let reason = reason.to_string();
            let taken = state.take_rejected(place, &reason);
            rejected_log.note(device, place, &reason);
            taken?
        }
    };
    drop(state);
    if taken == Taken::Kept {
        shared.notify_changed();
    }
    Ok(taken)
}

/// Samples rejected records into the log.
#[derive(Default)]
struct RejectedLog {
    last: Option<Instant>,
    unlogged: u64,
}

impl RejectedLog {
    fn note(&mut self, device: &str, place: (u32, u64), reason: &str) {
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.unlogged += 1;
            return;
        }
        let (partition, offset) = place;
        tracing::warn!(device, partition, offset, reason, unlogged = self.unlogged, "rejected a record");
        *self = Self { last: Some(Instant::now()), unlogged: 0 };
    }
}
