//! The stream of one device over all its partitions: what to fetch, what to train next, what to drop, the ledger, and
//! where a restart begins (ARCHITECTURE.md, "Life of a sample"). Pure bookkeeping. No I/O.
//!
//! # Guarantees
//! Each partition is trained in the order of its offsets. A batch is peeked, trained and only then committed: what a
//! failed step held stays in the queue. The ledger adds up after every call. A checkpoint accounts for every offset
//! below its positions exactly once; everything above is read again.

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::outlook::Outlook;
pub use crate::partition_queue::{BatchRange, Decided, SampleSlot};
use crate::partition_queue::{PartitionQueue, Skip};

/// Where one partition stands in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCheckpoint {
    /// Recorded start of the device's stream.
    pub start_offset: u64,
    /// Next offset to train.
    pub next_offset: u64,
    /// What became of the offsets between the two.
    pub decided: Decided,
    /// Where the stream ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_offset: Option<u64>,
}

/// Where one device stands in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceCheckpoint {
    /// By partition number.
    pub partitions: Vec<PartitionCheckpoint>,
    /// Samples whose training earlier restarts undid.
    pub rolled_back: u64,
}

impl DeviceCheckpoint {
    /// The start of a stream: nothing decided, reading begins at `start_offsets`.
    pub fn starting_at(start_offsets: &[u64]) -> Self {
        let partition = |&start_offset: &u64| PartitionCheckpoint {
            start_offset,
            next_offset: start_offset,
            decided: Decided::default(),
            end_offset: None,
        };
        Self { partitions: start_offsets.iter().map(partition).collect(), rolled_back: 0 }
    }

    /// The same stream, which ends at these offsets in partitions that did not know their end yet.
    #[must_use]
    pub fn ending_at(mut self, end_offsets: &[u64]) -> Self {
        for (partition, &end) in self.partitions.iter_mut().zip(end_offsets) {
            partition.end_offset.get_or_insert(end.max(partition.next_offset));
        }
        self
    }

    /// Every offset below the next one is in exactly one column.
    pub fn check(&self) -> Result<(), Error> {
        for (partition, p) in self.partitions.iter().enumerate() {
            if p.start_offset.checked_add(p.decided.offsets()) != Some(p.next_offset) {
                return Err(Error::CheckpointImbalance { partition, checkpoint: *p });
            }
        }
        Ok(())
    }

    /// Samples trained up to this checkpoint.
    pub fn trained(&self) -> u64 {
        self.partitions.iter().map(|p| p.decided.trained).sum()
    }
}

/// The watermarks of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// First offset that can still be read.
    pub low: u64,
    /// Next offset to be written.
    pub end: u64,
}

/// A record that was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Decoded; its payload lies in this slot.
    Sample(SampleSlot),
    /// Undecodable.
    Rejected,
}

/// Whether a fetched record was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is in the queue (or counted as rejected).
    Accepted,
    /// Its offset was fetched or decided before (a message from before a seek), or lies behind the stream's end: free the slot.
    Stale,
}

/// The reader of a partition must continue at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seek {
    /// Partition.
    pub partition: u32,
    /// Next offset to fetch.
    pub offset: u64,
}

/// A batch: what would be trained next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Partition by partition, in training order.
    pub ranges: Vec<BatchRange>,
    /// The slots of the samples, in the same order.
    pub slots: Vec<u32>,
}

/// Samples that `Truncation` keeps of a partition with this share of what arrives: ⌈S_i·share_p⌉, a second's worth.
pub fn kept_by_truncation(stream_rate: f64, share: f64) -> u64 {
    (stream_rate.max(0.0) * share).ceil() as u64
}

/// What a truncation did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Truncation {
    /// Samples dropped, fetched or not.
    pub dropped: u64,
    /// Slots that are free again.
    pub freed: Vec<u32>,
    /// Where the reader must continue.
    pub seeks: Vec<Seek>,
}

/// Bookkeeping that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A partition number out of range.
    #[error("failed to find partition {partition}: the stream has {partitions}")]
    UnknownPartition {
        /// The number.
        partition: usize,
        /// P.
        partitions: usize,
    },
    /// The topic was made anew.
    #[error(
        "failed to follow partition {partition}: its end moved back from {known} to {seen}, so the topic was made anew; \
         start the job from the beginning of the new topic"
    )]
    EndMovedBack {
        /// Partition.
        partition: usize,
        /// End known before.
        known: u64,
        /// End seen now.
        seen: u64,
    },
    /// A batch that is not at the front of its queues.
    #[error(
        "failed to commit {range:?}: the next sample of that partition is at {position} with {samples} available"
    )]
    CommitOutOfOrder {
        /// The range.
        range: BatchRange,
        /// First undecided offset.
        position: u64,
        /// Samples in the queue.
        samples: u64,
    },
    /// A checkpoint whose columns do not add up to its position.
    #[error("failed to resume: partition {partition} of the checkpoint does not add up: {checkpoint:?}")]
    CheckpointImbalance {
        /// Partition.
        partition: usize,
        /// What it says.
        checkpoint: PartitionCheckpoint,
    },
}

/// The stream of one device.
#[derive(Debug, Clone)]
pub struct DeviceStream {
    queues: Vec<PartitionQueue>,
    quota_bytes: u64,
    rolled_back: u64,
    first_turn: usize,
}

impl DeviceStream {
    /// A stream that continues at `checkpoint`, with `buffer_bytes` shared equally by the partitions. `rolled_back`
    /// samples had been trained after the checkpoint and are trained again.
    pub fn resume(checkpoint: &DeviceCheckpoint, buffer_bytes: u64, rolled_back: u64) -> Result<Self, Error> {
        checkpoint.check()?;
        let queue = |p: &PartitionCheckpoint| {
            PartitionQueue::new(p.start_offset, p.next_offset, p.decided).with_limit(p.end_offset)
        };
        Ok(Self {
            queues: checkpoint.partitions.iter().map(queue).collect(),
            quota_bytes: buffer_bytes / checkpoint.partitions.len().max(1) as u64,
            rolled_back: checkpoint.rolled_back + rolled_back,
            first_turn: 0,
        })
    }

    /// The queue of each partition.
    pub fn queues(&self) -> &[PartitionQueue] {
        &self.queues
    }

    /// Takes the watermarks of all partitions in, in partition order. What retention deleted before it was fetched is
    /// lost; the reader must then continue at the returned offsets.
    pub fn observe_offsets(&mut self, offsets: &[PartitionOffsets]) -> Result<Vec<Seek>, Error> {
        let partitions = self.queues.len();
        let mut seeks = Vec::new();
        for (partition, seen) in offsets.iter().enumerate() {
            let queue =
                self.queues.get_mut(partition).ok_or(Error::UnknownPartition { partition, partitions })?;
            queue.observe_end(seen.end).map_err(|known| Error::EndMovedBack {
                partition,
                known,
                seen: seen.end,
            })?;
            if queue.raise_low(seen.low) {
                seeks.push(Seek { partition: partition as u32, offset: seen.low });
            }
        }
        Ok(seeks)
    }

    /// The reader of one partition found that everything below `low` is gone. Returns where it must continue, if it is not
    /// there. Says nothing about the broker's end, neither of this partition nor of others: only the broker does.
    pub fn skip_lost(&mut self, partition: u32, low: u64) -> Result<Option<Seek>, Error> {
        let partitions = self.queues.len();
        let index = partition as usize;
        let unknown = Error::UnknownPartition { partition: index, partitions };
        let queue = self.queues.get_mut(index).ok_or(unknown)?;
        Ok(queue.raise_low(low).then_some(Seek { partition, offset: low }))
    }

    /// Whether another record of `record_bytes` fits into the partition's quota. An empty queue takes one of any size.
    pub fn has_room(&self, partition: u32, record_bytes: u64) -> bool {
        let queue = self.queues.get(partition as usize);
        queue.is_some_and(|q| q.samples() == 0 || q.bytes() + record_bytes <= self.quota_bytes)
    }

    /// Takes a fetched record in. Offsets that were jumped over hold no record and are gaps.
    pub fn push(&mut self, partition: u32, offset: u64, record: Fetched) -> Result<Acceptance, Error> {
        let partitions = self.queues.len();
        let partition = partition as usize;
        let queue =
            self.queues.get_mut(partition).ok_or(Error::UnknownPartition { partition, partitions })?;
        if offset < queue.fetched_end() {
            return Ok(Acceptance::Stale);
        }
        queue.push_gap_up_to(offset);
        if queue.limit().is_some_and(|limit| offset >= limit) {
            return Ok(Acceptance::Stale);
        }
        match record {
            Fetched::Sample(sample) => queue.push_sample(sample),
            Fetched::Rejected => queue.push_skip(Skip::Rejected, 1),
        }
        Ok(Acceptance::Accepted)
    }

    /// The reader is at `next_offset` without a record in between (end of partition): those offsets are gaps.
    pub fn reached(&mut self, partition: u32, next_offset: u64) -> Result<(), Error> {
        let partitions = self.queues.len();
        let partition = partition as usize;
        let queue =
            self.queues.get_mut(partition).ok_or(Error::UnknownPartition { partition, partitions })?;
        queue.push_gap_up_to(next_offset);
        Ok(())
    }

    /// Samples that can be trained now.
    pub fn available(&self) -> u64 {
        self.queues.iter().map(PartitionQueue::samples).sum()
    }

    /// Q_i: samples here and at the broker.
    pub fn buffered(&self) -> u64 {
        self.queues.iter().map(PartitionQueue::buffered).sum()
    }

    /// Bytes of the payloads held.
    pub fn bytes(&self) -> u64 {
        self.queues.iter().map(PartitionQueue::bytes).sum()
    }

    /// The next `local_batch` samples (fewer if there are fewer), oldest first, equally from all partitions as far as
    /// they have them; nothing is removed.
    pub fn peek(&self, local_batch: u64) -> Batch {
        let mut batch = Batch::default();
        let samples: Vec<u64> = self.queues.iter().map(PartitionQueue::samples).collect();
        let shares = share_equally(&samples, local_batch, self.first_turn);
        for (partition, (queue, &share)) in self.queues.iter().zip(&shares).enumerate() {
            if share > 0 {
                queue.peek(partition as u32, share, &mut batch.ranges, &mut batch.slots);
            }
        }
        batch
    }

    /// What the batch after `batch` is expected to hold. `batch` is at the front of the queues and not committed yet.
    pub fn outlook(&self, batch: &[BatchRange]) -> Outlook {
        let samples = batch.iter().map(|range| range.count).sum();
        // As if every partition had enough; the turn is that after the commit.
        let shares = share_equally(&vec![samples; self.queues.len()], samples, self.first_turn + 1);
        let behind = |(partition, queue): (usize, &PartitionQueue)| {
            let own = batch.iter().filter(|range| range.partition as usize == partition);
            own.map(|range| range.first_offset + range.count).max().unwrap_or(queue.position())
        };
        Outlook::new(shares.into_iter().zip(self.queues.iter().enumerate().map(behind)))
    }

    /// The step that trained `ranges` has committed. Returns the slots that are free again. Nothing changes on an error.
    pub fn commit(&mut self, ranges: &[BatchRange]) -> Result<Vec<u32>, Error> {
        let counts = self.counts_at_the_front(ranges)?;
        let mut freed = Vec::with_capacity(counts.iter().sum::<u64>() as usize);
        for (queue, &count) in self.queues.iter_mut().zip(&counts) {
            queue.commit(count, &mut freed);
        }
        self.first_turn = (self.first_turn + 1) % self.queues.len().max(1);
        Ok(freed)
    }

    fn counts_at_the_front(&self, ranges: &[BatchRange]) -> Result<Vec<u64>, Error> {
        let partitions = self.queues.len();
        let mut counts = vec![0; partitions];
        for range in ranges {
            let partition = range.partition as usize;
            *counts.get_mut(partition).ok_or(Error::UnknownPartition { partition, partitions })? +=
                range.count;
        }
        for (partition, (&count, queue)) in counts.iter().zip(&self.queues).enumerate() {
            let mut expected = Vec::new();
            queue.peek(partition as u32, count, &mut expected, &mut Vec::new());
            let given: Vec<&BatchRange> =
                ranges.iter().filter(|range| range.partition as usize == partition).collect();
            if !given.iter().copied().eq(expected.iter())
                && let Some(&&range) = given.first()
            {
                let (position, samples) = (queue.position(), queue.samples());
                return Err(Error::CommitOutOfOrder { range, position, samples });
            }
        }
        Ok(counts)
    }

    /// `Truncation`: keeps the newest `stream_rate` samples, S_i·share_p of each partition, and passes over the rest,
    /// fetched or not. A partition's share is its part of what arrived.
    pub fn truncate(&mut self, stream_rate: f64) -> Truncation {
        let arrived: Vec<u64> = self.queues.iter().map(|queue| queue.end() - queue.start()).collect();
        let total: u64 = arrived.iter().sum();
        let mut truncation = Truncation::default();
        for (partition, (queue, arrived)) in self.queues.iter_mut().zip(arrived).enumerate() {
            let share = if total == 0 { 0.0 } else { arrived as f64 / total as f64 };
            let kept = kept_by_truncation(stream_rate, share);
            let target = queue.end().saturating_sub(kept);
            let (dropped, seek) = queue.drop_below(target, &mut truncation.freed);
            truncation.dropped += dropped;
            if seek {
                truncation.seeks.push(Seek { partition: partition as u32, offset: queue.fetched_end() });
            }
        }
        truncation
    }

    /// What became of all samples so far.
    pub fn ledger(&self) -> Ledger {
        let seen = self.queues.iter().map(PartitionQueue::seen).fold(Decided::default(), |a, b| a + b);
        let offsets: u64 = self.queues.iter().map(|queue| queue.end() - queue.start()).sum();
        Ledger {
            arrived: offsets - seen.gaps,
            trained: seen.trained,
            buffered: self.buffered(),
            dropped: seen.dropped,
            rejected: seen.rejected,
            lost: seen.lost,
            rolled_back: self.rolled_back,
            ..Ledger::default()
        }
    }

    /// Offsets seen so far that hold no record (transaction markers): no part of the ledger.
    pub fn gaps(&self) -> u64 {
        self.queues.iter().map(|queue| queue.seen().gaps).sum()
    }

    /// Where a restart would begin.
    pub fn checkpoint(&self) -> DeviceCheckpoint {
        let partition = |queue: &PartitionQueue| PartitionCheckpoint {
            start_offset: queue.start(),
            next_offset: queue.position(),
            decided: queue.decided(),
            end_offset: queue.limit(),
        };
        DeviceCheckpoint {
            partitions: self.queues.iter().map(partition).collect(),
            rolled_back: self.rolled_back,
        }
    }
}

/// Shares `wanted` among queues that hold `samples`: equally, nobody more than it has, what is left over one each from
/// `first_turn` on. Sums to min(wanted, Σ samples).
pub fn share_equally(samples: &[u64], wanted: u64, first_turn: usize) -> Vec<u64> {
    let mut shares = vec![0; samples.len()];
    let mut left = wanted.min(samples.iter().sum());
    while left > 0 {
        let open: Vec<usize> = (0..samples.len())
            .map(|i| (first_turn + i) % samples.len())
            .filter(|&i| shares[i] < samples[i])
            .collect();
        let each = left / open.len() as u64;
        if each == 0 {
            open.iter().take(left as usize).for_each(|&i| shares[i] += 1);
            break;
        }
        for i in open {
            let more = each.min(samples[i] - shares[i]);
            shares[i] += more;
            left -= more;
        }
    }
    shares
}

#[cfg(test)]
mod tests;
