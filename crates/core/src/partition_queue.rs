//! The queue of one partition: which offsets were fetched, what each of them is, and the position below which every
//! offset is decided. Pure bookkeeping; the payloads lie elsewhere, in slots. No I/O.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Consecutive samples of one partition, in training order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchRange {
    /// Partition.
    pub partition: u32,
    /// Offset of the first sample.
    pub first_offset: u64,
    /// Samples; their offsets are consecutive.
    pub count: u64,
}

/// Where a fetched sample's payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleSlot {
    /// Number of the slot in the arena.
    pub slot: u32,
    /// Bytes of the payload.
    pub bytes: u32,
}

/// What became of offsets that are not samples to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skip {
    Rejected,
    Gap,
    Lost,
}

/// Offsets decided, by what became of them. Every offset below the position is in exactly one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Decided {
    /// Trained.
    pub trained: u64,
    /// Passed over by the stream policy.
    pub dropped: u64,
    /// Undecodable.
    pub rejected: u64,
    /// Gone before they were read.
    pub lost: u64,
    /// Offsets without a record.
    pub gaps: u64,
}

impl Decided {
    /// All columns together, in offsets.
    pub fn offsets(&self) -> u64 {
        let columns = [self.trained, self.dropped, self.rejected, self.lost, self.gaps];
        // Saturating: the columns of a damaged checkpoint must be refused, not wrapped around.
        columns.into_iter().fold(0, u64::saturating_add)
    }

    fn count(&mut self, skip: Skip, offsets: u64) {
        match skip {
            Skip::Rejected => self.rejected += offsets,
            Skip::Gap => self.gaps += offsets,
            Skip::Lost => self.lost += offsets,
        }
    }
}

impl std::ops::Add for Decided {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            trained: self.trained + other.trained,
            dropped: self.dropped + other.dropped,
            rejected: self.rejected + other.rejected,
            lost: self.lost + other.lost,
            gaps: self.gaps + other.gaps,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Sample(SampleSlot),
    Skip(Skip, u64),
}

impl Entry {
    fn offsets(self) -> u64 {
        match self {
            Self::Sample(_) => 1,
            Self::Skip(_, offsets) => offsets,
        }
    }
}

/// FIFO of one partition.
///
/// `start ≤ position ≤ fetched_end ≤ end ≤ limit`. Below `position` all is decided; between `position` and `fetched_end` lie the
/// entries; the rest up to `end` is still at the broker.
#[derive(Debug, Clone)]
pub struct PartitionQueue {
    start: u64,
    position: u64,
    end: u64,
    /// Where the stream ends, if it does: records from here on are none of it.
    limit: Option<u64>,
    /// The end as the broker last said it; what was fetched since may reach beyond.
    observed_end: u64,
    entries: VecDeque<Entry>,
    decided: Decided,
    /// Skips that are still behind an undecided sample.
    pending: Decided,
    samples: u64,
    bytes: u64,
}

impl PartitionQueue {
    pub(crate) fn new(start: u64, position: u64, decided: Decided) -> Self {
        Self {
            start,
            position,
            end: position,
            limit: None,
            observed_end: position,
            entries: VecDeque::new(),
            decided,
            pending: Decided::default(),
            samples: 0,
            bytes: 0,
        }
    }

    /// The same queue of a stream that ends before the record at `limit`.
    pub(crate) fn with_limit(self, limit: Option<u64>) -> Self {
        Self { limit: limit.map(|limit| limit.max(self.position)), ..self }
    }

    /// Where the stream ends, if it does.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// `offset`, or where the stream ends if that comes first.
    pub fn within(&self, offset: u64) -> u64 {
        self.limit.map_or(offset, |limit| offset.min(limit))
    }

    /// First offset of the recorded start position.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// First undecided offset: where a restart begins to read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Next offset to fetch.
    pub fn fetched_end(&self) -> u64 {
        self.position + self.samples + self.pending.offsets()
    }

    /// End offset as last seen.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Samples that can be trained.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Bytes of the payloads held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Samples held and offsets not fetched yet.
    pub fn buffered(&self) -> u64 {
        self.samples + (self.end - self.fetched_end())
    }

    /// Decided offsets by column, those still in the queue behind a sample included.
    pub fn seen(&self) -> Decided {
        self.decided + self.pending
    }

    /// Decided offsets below the position: what a checkpoint stores.
    pub fn decided(&self) -> Decided {
        self.decided
    }

    /// The broker says the end is `end`. Returns the end it said before, if that was further on.
    pub(crate) fn observe_end(&mut self, end: u64) -> Result<(), u64> {
        if end < self.observed_end {
            return Err(self.observed_end);
        }
        self.observed_end = end;
        self.raise_end(end);
        Ok(())
    }

    pub(crate) fn raise_end(&mut self, end: u64) {
        self.end = self.end.max(self.within(end));
    }

    /// The low watermark is `low`: what was not fetched below it is lost. Returns whether the reader must seek.
    pub(crate) fn raise_low(&mut self, low: u64) -> bool {
        let (low, fetched_end) = (self.within(low), self.fetched_end());
        if low <= fetched_end {
            return false;
        }
        self.raise_end(low);
        self.push_skip(Skip::Lost, low - fetched_end);
        true
    }

    /// Offsets between `fetched_end` and `offset` hold no record.
    pub(crate) fn push_gap_up_to(&mut self, offset: u64) {
        let offset = self.within(offset);
        let gap = offset.saturating_sub(self.fetched_end());
        if gap > 0 {
            self.push_skip(Skip::Gap, gap);
        }
        self.raise_end(offset);
    }

    pub(crate) fn push_sample(&mut self, sample: SampleSlot) {
        self.entries.push_back(Entry::Sample(sample));
        self.samples += 1;
        self.bytes += u64::from(sample.bytes);
        self.raise_end(self.fetched_end());
    }

    pub(crate) fn push_skip(&mut self, skip: Skip, offsets: u64) {
        match self.entries.back_mut() {
            Some(Entry::Skip(last, count)) if *last == skip => *count += offsets,
            _ => self.entries.push_back(Entry::Skip(skip, offsets)),
        }
        self.pending.count(skip, offsets);
        self.raise_end(self.fetched_end());
        self.absorb_skips();
    }

    /// Skips at the front are decided for good: the position moves past them.
    fn absorb_skips(&mut self) {
        while let Some(&Entry::Skip(skip, offsets)) = self.entries.front() {
            self.entries.pop_front();
            self.decide_skip(skip, offsets);
        }
    }

    fn decide_skip(&mut self, skip: Skip, offsets: u64) {
        self.position += offsets;
        self.decided.count(skip, offsets);
        match skip {
            Skip::Rejected => self.pending.rejected -= offsets,
            Skip::Gap => self.pending.gaps -= offsets,
            Skip::Lost => self.pending.lost -= offsets,
        }
    }

    /// Offset and slot of each sample, in training order.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let mut next = self.position;
        self.entries.iter().filter_map(move |entry| {
            let offset = next;
            next += entry.offsets();
            match entry {
                Entry::Sample(sample) => Some((offset, sample.slot)),
                Entry::Skip(..) => None,
            }
        })
    }

    /// Appends the oldest `count` samples to `slots` and `ranges`, removing nothing.
    pub(crate) fn peek(
        &self,
        partition: u32,
        count: u64,
        ranges: &mut Vec<BatchRange>,
        slots: &mut Vec<u32>,
    ) {
        let mut offset = self.position;
        let mut left = count;
        let mut open: Option<BatchRange> = None;
        for entry in &self.entries {
            if left == 0 {
                break;
            }
            match entry {
                Entry::Sample(sample) => {
                    let range = open.get_or_insert(BatchRange { partition, first_offset: offset, count: 0 });
                    range.count += 1;
                    slots.push(sample.slot);
                    left -= 1;
                }
                Entry::Skip(..) => ranges.extend(open.take()),
            }
            offset += entry.offsets();
        }
        ranges.extend(open);
    }

    /// Removes the oldest `count` samples as trained.
    pub(crate) fn commit(&mut self, count: u64, freed: &mut Vec<u32>) {
        for _ in 0..count {
            // The front is always a sample: skips in front are absorbed as soon as they get there.
            let Some(Entry::Sample(sample)) = self.entries.pop_front() else { break };
            self.release(sample, freed);
            self.decided.trained += 1;
            self.absorb_skips();
        }
    }

    fn release(&mut self, sample: SampleSlot, freed: &mut Vec<u32>) {
        self.position += 1;
        self.samples -= 1;
        self.bytes -= u64::from(sample.bytes);
        freed.push(sample.slot);
    }

    /// Passes over everything below `target`. Returns the samples dropped and whether the reader must seek.
    pub(crate) fn drop_below(&mut self, target: u64, freed: &mut Vec<u32>) -> (u64, bool) {
        let before = self.decided.dropped;
        while self.position < target {
            let Some(entry) = self.entries.pop_front() else { break };
            match entry {
                Entry::Sample(sample) => {
                    self.release(sample, freed);
                    self.decided.dropped += 1;
                }
                Entry::Skip(skip, offsets) => self.decide_skip(skip, offsets),
            }
        }
        self.absorb_skips();
        // Only an emptied queue can still be below the target: the rest was never fetched.
        let unfetched = target.saturating_sub(self.position);
        self.position += unfetched;
        self.decided.dropped += unfetched;
        self.raise_end(self.position);
        (self.decided.dropped - before, unfetched > 0)
    }
}
