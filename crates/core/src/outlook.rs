//! Which sample will lie in which row of the batch after the one in training, as far as it can be told before that batch
//! is fixed. Pure bookkeeping. No I/O.
//!
//! # Assumptions
//! The coming batch is as large as the one in training and comes equally from all partitions. Where it turns out
//! otherwise, a row holds another sample than expected: whoever decodes by this must look before it trusts a row.

use crate::partition_queue::PartitionQueue;

/// A sample that waits, and its row in the coming batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Row of the batch, from 0.
    pub row: usize,
    /// Partition of its record.
    pub partition: u32,
    /// Offset of its record.
    pub offset: u64,
    /// Where its payload lies, until the stream changes.
    pub slot: u32,
}

/// The rows of one partition.
#[derive(Debug, Clone)]
struct Region {
    first_row: u64,
    rows: u64,
    /// Rows handed out.
    taken: u64,
    /// Offset of the sample of the first row, once it is handed out.
    first_offset: Option<u64>,
    /// Samples from here on are not handed out yet.
    next_offset: u64,
}

impl Region {
    /// Once the policy has dropped the first sample, all others move up: begin anew with those that are left.
    fn follow(&mut self, queue: &PartitionQueue) {
        if self.first_offset.is_some_and(|first| first < queue.position()) {
            self.taken = 0;
            self.first_offset = None;
            self.next_offset = queue.position();
        }
    }
}

/// The coming batch. Each of its rows is handed out once, and once more for each time that samples in front of it are
/// dropped.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// By partition number.
    regions: Vec<Region>,
}

impl Outlook {
    /// For each partition its number of rows and the offset behind the batch in training.
    pub(crate) fn new(partitions: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut first_row = 0;
        let region = |(rows, next_offset)| {
            let region = Region { first_row, rows, taken: 0, first_offset: None, next_offset };
            first_row += rows;
            region
        };
        Self { regions: partitions.into_iter().map(region).collect() }
    }

    /// The next samples, at most `most`, that have arrived and were not handed out. `queues` are those of the stream, in
    /// partition order.
    pub fn take(&mut self, queues: &[PartitionQueue], most: usize) -> Vec<Expected> {
        let mut found = Vec::new();
        for (partition, (region, queue)) in self.regions.iter_mut().zip(queues).enumerate() {
            region.follow(queue);
            let wanted = (region.rows - region.taken).min((most - found.len()) as u64);
            let handed_out_before = region.next_offset;
            let waiting = queue.waiting().skip_while(|(offset, _)| *offset < handed_out_before);
            for (offset, slot) in waiting.take(wanted as usize) {
                let row = (region.first_row + region.taken) as usize;
                found.push(Expected { row, partition: partition as u32, offset, slot });
                region.first_offset.get_or_insert(offset);
                region.next_offset = offset + 1;
                region.taken += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
