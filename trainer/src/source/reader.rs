//! Samples that wait, for a thread beside the trainer's: copied out, so that nobody waits while they are decoded. No I/O.

use std::sync::Arc;

use scadles_core::outlook::{Expected, Outlook};

use super::{Sample, state::Shared};

/// Looks into the buffer of a source; removes nothing.
pub struct Reader {
    shared: Arc<Shared>,
}

/// Samples and their rows in the coming batch.
#[derive(Debug, Default)]
pub struct Chunk {
    expected: Vec<Expected>,
    /// One payload after another, all of one size.
    payloads: Vec<u8>,
}

impl Chunk {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.expected.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.expected.is_empty()
    }

    /// The samples, each with its row.
    pub fn samples(&self) -> impl Iterator<Item = (usize, Sample<'_>)> {
        let record_bytes = (self.payloads.len() / self.len().max(1)).max(1);
        let payloads = self.payloads.chunks_exact(record_bytes);
        self.expected.iter().zip(payloads).map(|(expected, payload)| {
            (expected.row, Sample { partition: expected.partition, offset: expected.offset, payload })
        })
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Copies the next samples of `outlook`, at most `most`, into `chunk`. Ingest and trainer wait for the copy alone: a
    /// slot may be used for another sample as soon as this returns.
    pub fn copy_next(&self, outlook: &mut Outlook, most: usize, chunk: &mut Chunk) {
        chunk.payloads.clear();
        let state = self.shared.lock();
        chunk.expected = outlook.take(state.stream.queues(), most);
        for expected in &chunk.expected {
            chunk.payloads.extend_from_slice(state.arena.payload(expected.slot));
        }
    }
}
