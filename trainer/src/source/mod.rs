//! A device's stream: from the broker into a bounded buffer, and from there, step by step, into batches.
//!
//! Two threads live as long as the [`Source`]: *ingest* owns the consumer, makes a sample of every record and copies it
//! into the arena; the *poller* asks for end offsets and low watermarks every 250 ms, also while fetching pauses.
//! All bookkeeping is `scadles-core`'s [`DeviceStream`], behind one lock; this module is its shell.
//!
//! # Guarantees
//! The arena never holds more than `buffer_bytes` (but one record per partition at least); a full one stops fetching,
//! the rest waits at the broker. Each partition is read in order, nothing twice, nothing passed over uncounted: the
//! ledger adds up at every moment. A batch leaves the buffer only by `commit`, after its step. Outages of the broker
//! shorter than `broker_patience` are ridden out.

mod arena;
mod checkpoint;
mod error;
mod ingest;
mod poller;
mod reader;
mod settings;
mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use scadles_api::worker::StreamEnd;
use scadles_api::{Ledger, PartitionPosition};
use scadles_core::batch::{StreamView, Supply};
use scadles_core::device_stream::{BatchRange, DeviceStream};
use scadles_core::outlook::Outlook;
use scadles_core::partition_queue::PartitionQueue;
use scadles_kafka::{ConsumerOptions, OffsetWatcher, StreamConsumer};

pub use checkpoint::StreamCheckpoint;
pub use error::SourceError;
pub use reader::{Chunk, Reader};
pub use settings::{SourceSettings, Start};
pub use state::SourceStatus;

use poller::Poller;
use state::Shared;

/// A batch that was looked at and is still in the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peeked {
    /// Its records, partition by partition, in training order.
    pub ranges: Vec<BatchRange>,
    slots: Vec<u32>,
}

impl Peeked {
    /// b_i.
    pub fn samples(&self) -> u64 {
        self.slots.len() as u64
    }
}

/// One sample of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Partition of its record.
    pub partition: u32,
    /// Offset of its record.
    pub offset: u64,
    /// The sample's bytes ([`scadles_api::worker::SampleShape`]).
    pub payload: &'a [u8],
}

/// The stream of one device.
pub struct Source {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Source {
    /// Finds the topic, resolves where reading begins, starts the threads. Waits at most `settings.open_deadline` for
    /// each of the broker's answers.
    pub fn open(settings: SourceSettings) -> Result<Self, SourceError> {
        let mut watcher = OffsetWatcher::new(&settings.connection, &settings.topic, settings.open_deadline)?;
        check_partitions(&settings, watcher.partitions())?;
        let mut offsets = state::reach(&watcher.poll(settings.open_deadline)?);
        offsets.truncate(settings.partitions as usize);
        let since = settings.start.since_millis();
        let since = since.map(|millis| watcher.find_time(millis, settings.open_deadline)).transpose()?;
        let mut checkpoint = settings.start.resolve(&offsets, &since.unwrap_or_default());
        if settings.end == StreamEnd::OffsetsAtStart {
            let ends: Vec<u64> = offsets.iter().map(|reach| reach.end).collect();
            checkpoint.device = checkpoint.device.ending_at(&ends);
        }
        let known = checkpoint.device.partitions.len() as u32;
        if known > settings.partitions {
            let (topic, read) = (settings.topic.clone(), settings.partitions);
            return Err(SourceError::CheckpointPartitions { topic, known, read });
        }
        let mut stream = DeviceStream::resume(&checkpoint.device, settings.buffer_bytes, 0)?;
        // What retention took before the start is lost; reading begins behind it.
        stream.observe_offsets(&offsets)?;
        let begin: Vec<u64> = stream.queues().iter().map(PartitionQueue::fetched_end).collect();
        let options = ConsumerOptions { report_end: !settings.end.is_never(), ..ConsumerOptions::default() };
        let consumer = StreamConsumer::assign_from(&settings.connection, &settings.topic, &begin, options)?;
        let shared = Arc::new(Shared::new(stream, checkpoint.earlier, &settings));
        let mut source = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let shared_by_poller = Arc::clone(&shared);
        let polled = Poller::new(watcher, &settings);
        source.spawn("offsets", move || polled.run(&shared_by_poller))?;
        source.spawn("ingest", move || ingest::run(&shared, consumer, &settings))?;
        Ok(source)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), SourceError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| SourceError::Thread { reason: error.to_string() })?);
        Ok(())
    }

    /// What the batch rule needs to know now.
    pub fn view(&self) -> StreamView {
        self.shared.lock().view()
    }

    /// Waits until `until` holds, the source has failed, or `deadline` has passed; the latest view. `until` is asked at
    /// every record and every poll of the offsets.
    pub fn wait(&self, deadline: Instant, mut until: impl FnMut(&StreamView) -> bool) -> StreamView {
        let mut state = self.shared.lock();
        loop {
            let view = state.view();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.failure.is_some() || until(&view) {
                return view;
            }
            state = self.shared.wait_changed(state, left);
        }
    }

    /// Looks at the next `local_batch` samples, or as many as there are; nothing is removed.
    pub fn peek(&self, local_batch: u64) -> Peeked {
        let batch = self.shared.lock().stream.peek(local_batch);
        Peeked { ranges: batch.ranges, slots: batch.slots }
    }

    /// Lends the samples of a peeked batch in training order. Ingest waits meanwhile: be quick, and call no other
    /// method of this source from within.
    pub fn with_samples<R>(
        &self,
        peeked: &Peeked,
        read: impl FnOnce(&mut dyn Iterator<Item = Sample<'_>>) -> R,
    ) -> R {
        let state = self.shared.lock();
        let places = peeked.ranges.iter().flat_map(|range| {
            (range.first_offset..range.first_offset + range.count).map(|offset| (range.partition, offset))
        });
        let mut samples = places.zip(&peeked.slots).map(|((partition, offset), slot)| Sample {
            partition,
            offset,
            payload: state.arena.payload(*slot),
        });
        read(&mut samples)
    }

    /// The records of the last `samples` samples of a peeked batch, one after another.
    pub fn last_records(&self, peeked: &Peeked, samples: u64) -> Vec<u8> {
        let before = peeked.samples().saturating_sub(samples) as usize;
        self.with_samples(peeked, |all| {
            let mut records = Vec::new();
            all.skip(before).for_each(|sample| records.extend_from_slice(sample.payload));
            records
        })
    }

    /// What the batch after `peeked`, which is not committed yet, is expected to hold.
    pub fn outlook(&self, peeked: &Peeked) -> Outlook {
        self.shared.lock().stream.outlook(&peeked.ranges)
    }

    /// A way to the waiting samples for another thread. It may outlive the source: then nothing new arrives.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// The step that trained `peeked` has committed: its samples leave the buffer, positions move on.
    pub fn commit(&self, peeked: &Peeked) -> Result<(), SourceError> {
        let mut state = self.shared.lock();
        let freed = state.stream.commit(&peeked.ranges)?;
        state.arena.free(&freed);
        self.shared.made_room();
        Ok(())
    }

    /// Whether the stream is over, and all that could be trained of it is.
    pub fn has_ended(&self) -> bool {
        let view = self.view();
        view.supply == Supply::AllHere && view.available == 0
    }

    /// Applies the stream policy, after a batch (paper §IV, "Limited memory and storage"). Returns the samples dropped.
    pub fn apply_policy(&self) -> u64 {
        let mut state = self.shared.lock();
        let dropped = state.apply_policy();
        self.shared.made_room();
        dropped
    }

    /// Account of the samples at this moment: ends as of the last poll, or further where more was fetched.
    pub fn ledger(&self) -> Ledger {
        self.shared.lock().ledger()
    }

    /// Place of each partition at this moment.
    pub fn positions(&self) -> Vec<PartitionPosition> {
        self.shared.lock().positions()
    }

    /// Ledger, positions and the rest for reports, all of one moment.
    pub fn status(&self) -> SourceStatus {
        self.shared.lock().status(self.shared.now_seconds())
    }

    /// Where a restart would begin, now: to be taken between a commit and the next.
    pub fn checkpoint(&self) -> StreamCheckpoint {
        self.shared.lock().checkpoint()
    }

    /// Why the stream cannot go on, if so. Once set it stays.
    pub fn failure(&self) -> Option<SourceError> {
        self.shared.lock().failure.clone()
    }

    /// Waits until the offsets were asked for anew, at most for `deadline`.
    pub fn fetch_newest_ends(&self, deadline: Duration) -> Result<(), SourceError> {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        let awaited = state.polls_begun + 1;
        state.poll_at_once = true;
        self.shared.wake_poller();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.polls_done >= awaited {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SourceError::NoAnswer { waited: deadline });
            }
            state = self.shared.wait_changed(state, left);
        }
    }
}

/// A topic may have more partitions than the job reads, never fewer.
fn check_partitions(settings: &SourceSettings, found: u32) -> Result<(), SourceError> {
    let SourceSettings { device, topic, partitions, .. } = settings;
    if found < *partitions {
        return Err(SourceError::PartitionCount { topic: topic.clone(), found, configured: *partitions });
    }
    if found > *partitions {
        tracing::warn!(
            device,
            topic,
            found,
            read = partitions,
            "the topic has more partitions than the job reads"
        );
    }
    Ok(())
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A panic of a thread has been printed; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}
