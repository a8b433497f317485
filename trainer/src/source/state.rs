//! The stream's state, its lock, and what each side does to it. No I/O; time comes in as an argument or from the one
//! clock of [`Shared`].

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scadles_api::job::StreamPolicy;
use scadles_api::worker::StreamEnd;
use scadles_api::{Ledger, PartitionPosition};
use scadles_core::batch::{StreamView, Supply};
use scadles_core::device_stream::{Acceptance, DeviceStream, Fetched, PartitionOffsets, SampleSlot, Seek};
use scadles_core::partition_queue::PartitionQueue;
use scadles_core::rate::RateEstimator;

use super::arena::Arena;
use super::{SourceError, SourceSettings, StreamCheckpoint};

/// A partition whose quota was full is fetched again when this share of it is free: each time costs a new fetch.
const RESUME_FREE_SHARE: f64 = 0.25;
/// Undecodable records are judged from this many records on.
const FEWEST_RECORDS_TO_JUDGE: u64 = 100;

/// A source at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceStatus {
    /// What the batch rule sees.
    pub view: StreamView,
    /// S_i; `None` before it is known.
    pub stream_rate: Option<f64>,
    /// Account of the samples.
    pub ledger: Ledger,
    /// Place of each partition.
    pub positions: Vec<PartitionPosition>,
    /// Samples in the arena.
    pub buffered_local: u64,
    /// How full the arena is, in [0, 1].
    pub buffer_used: f64,
    /// Age of the oldest sample in the arena by the record's own time, in seconds; 0 without one.
    pub oldest_seconds: f64,
    /// Seconds since a poll last saw the stream grow, or since the start; 0 once it is over.
    pub silent_seconds: f64,
}

/// What ingest does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the buffer, or was counted.
    Kept,
    /// Its partition has no room: it must be fetched again later.
    Refused,
}

/// Everything that both threads and the trainer share.
pub(super) struct State {
    pub(super) stream: DeviceStream,
    pub(super) arena: Arena,
    pub(super) rate: RateEstimator,
    /// Where the consumer must continue.
    pub(super) seeks: Vec<Seek>,
    pub(super) failure: Option<SourceError>,
    pub(super) poll_at_once: bool,
    pub(super) polls_begun: u64,
    pub(super) polls_done: u64,
    pub(super) stop: bool,
    policy: StreamPolicy,
    sample_bytes: u64,
    slots_per_partition: u64,
    /// Milliseconds since the Unix epoch, per slot.
    arrived_millis: Vec<i64>,
    /// Partitions that were refused room: their records must be fetched again.
    parked: Vec<bool>,
    /// When the stream is over.
    end: StreamEnd,
    /// Partitions at whose end the reader has been since their last record.
    at_end: Vec<bool>,
    fetched: u64,
    rejected: u64,
    max_rejected_share: f64,
    earlier: Ledger,
}

impl State {
    pub(super) fn view(&self) -> StreamView {
        StreamView {
            available: self.stream.available(),
            arrived_total: self.rate.arrived_total(),
            stream_rate: self.rate.stream_rate().unwrap_or(0.0),
            buffered: self.stream.buffered(),
            supply: self.supply(),
        }
    }

    /// What is at the end of a partition without being a sample (transaction markers) does not keep a stream alive: the reader
    /// has been there.
    fn supply(&self) -> Supply {
        let is_over = match self.end {
            StreamEnd::Never => false,
            StreamEnd::OffsetsAtStart => true,
            StreamEnd::Idle { seconds } => self.rate.quiet_seconds().is_some_and(|quiet| quiet >= seconds),
        };
        let mut queues = self.stream.queues().iter().zip(&self.at_end);
        if !is_over {
            Supply::Flowing
        } else if queues.all(|(queue, at_end)| *at_end || queue.fetched_end() >= queue.end()) {
            Supply::AllHere
        } else {
            Supply::Ended
        }
    }

    /// The reader of `partition` has met its end. What it passed over while the partition had no room comes again.
    pub(super) fn reached_end(&mut self, partition: u32) {
        let index = partition as usize;
        if let (Some(at_end), Some(false)) = (self.at_end.get_mut(index), self.parked.get(index)) {
            *at_end = true;
        }
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.stream.ledger() + self.earlier
    }

    pub(super) fn positions(&self) -> Vec<PartitionPosition> {
        let position = |(partition, queue): (usize, &PartitionQueue)| PartitionPosition {
            partition: (partition as u32).cast_signed(),
            start: queue.start().cast_signed(),
            next: queue.position().cast_signed(),
            end: queue.end().cast_signed(),
        };
        self.stream.queues().iter().enumerate().map(position).collect()
    }

    pub(super) fn checkpoint(&self) -> StreamCheckpoint {
        StreamCheckpoint { device: self.stream.checkpoint(), earlier: self.earlier }
    }

    pub(super) fn status(&self, now_seconds: f64) -> SourceStatus {
        let oldest = self.stream.peek(self.stream.queues().len() as u64);
        let oldest = oldest.slots.iter().map(|slot| self.arrived_millis[*slot as usize]).min();
        let room = self.slots_per_partition * self.stream.queues().len() as u64 * self.sample_bytes;
        SourceStatus {
            view: self.view(),
            stream_rate: self.rate.stream_rate(),
            ledger: self.ledger(),
            positions: self.positions(),
            buffered_local: self.stream.available(),
            buffer_used: self.stream.bytes() as f64 / room as f64,
            oldest_seconds: oldest.map_or(0.0, |millis| (unix_millis() - millis).max(0) as f64 / 1e3),
            silent_seconds: match self.supply() {
                Supply::Flowing => now_seconds - self.rate.last_arrival_seconds().unwrap_or(0.0),
                Supply::Ended | Supply::AllHere => 0.0,
            },
        }
    }

    /// Takes the broker's watermarks in.
    pub(super) fn observe(
        &mut self,
        offsets: &[PartitionOffsets],
        now_seconds: f64,
    ) -> Result<(), SourceError> {
        let seeks = self.stream.observe_offsets(offsets)?;
        self.seeks.extend(seeks);
        let reach = self.stream.queues().iter().zip(offsets);
        self.rate.poll(now_seconds, reach.map(|(queue, reach)| queue.within(reach.end)).sum());
        Ok(())
    }

    /// The consumer found that everything below `low` is gone from `partition`, and is there now.
    pub(super) fn skip_lost(&mut self, partition: u32, low: u64) -> Result<(), SourceError> {
        self.seeks.extend(self.stream.skip_lost(partition, low)?);
        Ok(())
    }

    /// Whether any partition that is not read to its end could take another record.
    pub(super) fn has_room(&self) -> bool {
        (0..self.parked.len()).any(|partition| {
            let queue = &self.stream.queues()[partition];
            let is_read = queue.limit().is_some_and(|limit| queue.fetched_end() >= limit);
            let fits = if self.parked[partition] { self.may_resume(partition) } else { self.fits(partition) };
            fits && !is_read
        })
    }

    /// Whether the next record of a partition has no room: it must be fetched again later.
    pub(super) fn refuses(&mut self, partition: u32) -> bool {
        let index = partition as usize;
        let fits = self.fits(index);
        let Some(parked) = self.parked.get_mut(index) else { return false };
        *parked |= !fits;
        *parked
    }

    fn fits(&self, partition: usize) -> bool {
        self.stream.has_room(partition as u32, self.sample_bytes)
    }

    fn may_resume(&self, partition: usize) -> bool {
        let held = self.stream.queues()[partition].samples();
        held as f64 <= self.slots_per_partition as f64 * (1.0 - RESUME_FREE_SHARE)
    }

    /// Where the consumer must continue before the next record: orders of others, and parked partitions that have
    /// room again.
    pub(super) fn take_seeks(&mut self) -> Vec<Seek> {
        let mut seeks = std::mem::take(&mut self.seeks);
        seeks.retain(|seek| !self.parked[seek.partition as usize]);
        for partition in 0..self.parked.len() {
            if self.parked[partition] && self.may_resume(partition) {
                self.parked[partition] = false;
                let offset = self.stream.queues()[partition].fetched_end();
                seeks.push(Seek { partition: partition as u32, offset });
            }
        }
        seeks
    }

    /// Takes a decoded record in.
    pub(super) fn take_sample(
        &mut self,
        place: (u32, u64),
        millis: Option<i64>,
        payload: &[u8],
    ) -> Result<Taken, SourceError> {
        let (partition, offset) = place;
        let index = partition as usize;
        if self.refuses(partition) {
            return Ok(Taken::Refused);
        }
        let Some(slot) = self.arena.store(payload) else {
            self.parked[index] = true;
            return Ok(Taken::Refused);
        };
        let sample = SampleSlot { slot, bytes: payload.len() as u32 };
        match self.stream.push(partition, offset, Fetched::Sample(sample))? {
            Acceptance::Accepted => {
                self.arrived_millis[slot as usize] = millis.unwrap_or_else(unix_millis);
                self.fetched += 1;
                self.at_end[index] = false;
            }
            Acceptance::Stale => self.arena.free(&[slot]),
        }
        Ok(Taken::Kept)
    }

    /// Counts an undecodable record; an error if there are too many of them.
    pub(super) fn take_rejected(&mut self, place: (u32, u64), reason: &str) -> Result<Taken, SourceError> {
        let (partition, offset) = place;
        if self.parked.get(partition as usize).is_some_and(|parked| *parked) {
            return Ok(Taken::Refused);
        }
        if self.stream.push(partition, offset, Fetched::Rejected)? == Acceptance::Accepted {
            self.fetched += 1;
            self.rejected += 1;
            self.at_end[partition as usize] = false;
        }
        if rejects_too_many(self.rejected, self.fetched, self.max_rejected_share) {
            return Err(SourceError::TooManyRejected {
                rejected: self.rejected,
                fetched: self.fetched,
                max_rejected_share: self.max_rejected_share.to_string(),
                reason: reason.to_owned(),
            });
        }
        Ok(Taken::Kept)
    }

    /// `Truncation`: keeps the newest second's worth. Without a rate yet nothing is dropped.
    pub(super) fn apply_policy(&mut self) -> u64 {
        let Some(stream_rate) = self.rate.stream_rate() else { return 0 };
        if self.policy != StreamPolicy::Truncation {
            return 0;
        }
        let truncation = self.stream.truncate(stream_rate);
        self.arena.free(&truncation.freed);
        self.seeks.extend(truncation.seeks);
        truncation.dropped
    }
}

/// Pure: more than `share` of at least 100 records.
fn rejects_too_many(rejected: u64, fetched: u64, share: f64) -> bool {
    fetched >= FEWEST_RECORDS_TO_JUDGE && rejected as f64 > share * fetched as f64
}

/// The state behind its lock, and who waits for what.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Records came, offsets were polled, the source failed.
    changed: Condvar,
    /// The arena has room again, or all is over: for ingest.
    room: Condvar,
    /// A poll is wanted, or all is over: for the poller.
    poll: Condvar,
    began: Instant,
}

impl Shared {
    pub(super) fn new(stream: DeviceStream, earlier: Ledger, settings: &SourceSettings) -> Self {
        let slots_per_partition = settings.slots_per_partition();
        let slots = (slots_per_partition * u64::from(settings.partitions)).min(u64::from(u32::MAX)) as u32;
        let state = State {
            stream,
            arena: Arena::new(slots, settings.samples.sample_bytes()),
            rate: RateEstimator::new(),
            seeks: Vec::new(),
            failure: None,
            poll_at_once: true,
            polls_begun: 0,
            polls_done: 0,
            stop: false,
            policy: settings.policy,
            sample_bytes: settings.samples.sample_bytes() as u64,
            slots_per_partition,
            arrived_millis: vec![0; slots as usize],
            parked: vec![false; settings.partitions as usize],
            end: settings.end,
            at_end: vec![false; settings.partitions as usize],
            fetched: 0,
            rejected: 0,
            max_rejected_share: settings.max_rejected_share,
            earlier,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            room: Condvar::new(),
            poll: Condvar::new(),
            began: Instant::now(),
        }
    }

    /// The state. A panic of another thread while it held the lock does not make the account unreadable.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the source was opened.
    pub(super) fn now_seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub(super) fn wait_changed<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        wait(&self.changed, state, most)
    }

    pub(super) fn wait_room<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        wait(&self.room, state, most)
    }

    pub(super) fn wait_poll<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        wait(&self.poll, state, most)
    }

    pub(super) fn notify_changed(&self) {
        self.changed.notify_all();
    }

    pub(super) fn made_room(&self) {
        self.room.notify_all();
    }

    pub(super) fn wake_poller(&self) {
        self.poll.notify_all();
    }

    /// The first failure stays.
    pub(super) fn fail(&self, error: SourceError) {
        let mut state = self.lock();
        tracing::error!(%error, "the stream cannot go on");
        state.failure.get_or_insert(error);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
        self.room.notify_all();
        self.poll.notify_all();
    }
}

fn wait<'a>(condvar: &Condvar, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
    condvar.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
}

/// The offsets as `scadles-core` takes them.
pub(super) fn reach(offsets: &[scadles_kafka::PartitionOffsets]) -> Vec<PartitionOffsets> {
    offsets.iter().map(|reach| PartitionOffsets { low: reach.low, end: reach.end }).collect()
}

/// Milliseconds since the Unix epoch, as records carry them.
fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::rejects_too_many;

    #[test]
    fn the_share_of_rejected_records_is_judged_from_100_records_on() {
        assert!(!rejects_too_many(99, 99, 0.01));
        assert!(!rejects_too_many(1, 100, 0.01));
        assert!(rejects_too_many(2, 100, 0.01));
        assert!(rejects_too_many(1, 100, 0.0));
        assert!(!rejects_too_many(100, 100, 1.0));
    }
}
