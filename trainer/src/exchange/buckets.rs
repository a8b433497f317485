//! The buckets of one step of a job with compression: the collectives around [`scadles_core::compress`]. No I/O of its own.
//!
//! A bucket's lengths travel before its messages, since selections differ in size; a length beyond what a bucket can take is
//! refused before memory is taken for it.

use std::ops::Range;
use std::time::Instant;

use scadles_core::compress::{
    compressor::Step,
    exchange::{LENGTH_BYTES, SparseExchange, deliver_from_all, deliver_from_owners},
    gate::{CompressionDecision, EnergyStatistics, SparseChoice},
    half::{deliver_halves, half_length},
    wire::{WireError, max_bytes},
};

use super::{
    DenseExchange,
    compressed::{OPERATION, VALUE_FORMAT},
    link::Link,
};
use crate::engine::{Communicator, EngineError};

/// A step that has begun; each bucket is combined once, in order.
pub(super) struct BucketExchange<'a> {
    pub(super) comm: &'a mut dyn Communicator,
    pub(super) dense: &'a DenseExchange,
    pub(super) link: &'a mut Link,
    pub(super) step: Step<'a>,
    pub(super) decision: CompressionDecision,
}

impl BucketExchange<'_> {
    /// Elements of each bucket.
    pub(super) fn ranges(&self) -> Vec<Range<usize>> {
        self.dense.ranges()
    }

    /// All buckets are combined.
    pub(super) fn finish(self) -> EnergyStatistics {
        self.step.finish()
    }

    /// Replaces the `gradients` of bucket `number` by what all ranks deliver.
    pub(super) fn combine(&mut self, number: usize, gradients: &mut [f32]) -> Result<(), EngineError> {
        match self.decision {
            CompressionDecision::Dense => {
                self.step.compensate(number, gradients);
                self.dense.combine_bucket(self.comm, gradients)
            }
            CompressionDecision::Half => self.half(number, gradients),
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }) => {
                self.all_gather(level, number, gradients)
            }
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, level }) => {
                self.reduce_scatter(level, number, gradients)
            }
        }
    }

    fn half(&mut self, number: usize, gradients: &mut [f32]) -> Result<(), EngineError> {
        let own = self.step.halves_for_owners(number, gradients);
        let (rank, ranks) = (self.comm.rank(), self.comm.world_size());
        let lengths: Vec<usize> =
            (0..ranks).map(|owner| half_length(self.step.bucket(number), owner)).collect();
        let mine = vec![lengths[rank]; ranks];
        let received = self.hand_to_owners(&own, &mine)?;
        let result = self
            .step
            .own_halves(number, rank, &split(&received, &mine))
            .map_err(|error| unreadable(&error))?;
        let received = self.gather(&result, &lengths)?;
        deliver_halves(self.step.bucket(number), &split(&received, &lengths), gradients)
            .map_err(|error| unreadable(&error))
    }

    fn all_gather(&mut self, level: u8, number: usize, gradients: &mut [f32]) -> Result<(), EngineError> {
        let own = self.step.select_for_all(level, number, gradients);
        let lengths = self.gather_lengths(own.len(), gradients.len())?;
        let parts = self.gather(&own, &lengths)?;
        deliver_from_all(&split(&parts, &lengths), gradients).map_err(|error| unreadable(&error))
    }

    fn reduce_scatter(&mut self, level: u8, number: usize, gradients: &mut [f32]) -> Result<(), EngineError> {
        let (rank, ranks) = (self.comm.rank(), self.comm.world_size());
        let own = self.step.select_for_owners(level, number, gradients);
        let counts: Vec<usize> = own.iter().map(Vec::len).collect();
        let each = vec![LENGTH_BYTES; ranks];
        let mut lengths = vec![0; LENGTH_BYTES * ranks];
        let began = Instant::now();
        self.comm.all_to_all_v(&as_bytes(&counts), &each, &mut lengths, &each)?;
        self.link.met(began);
        let lengths = checked(&lengths, gradients.len())?;
        let received = self.hand_to_owners(&own, &lengths)?;
        let result = self
            .step
            .own(level, number, rank, &split(&received, &lengths))
            .map_err(|error| unreadable(&error))?;
        let lengths = self.gather_lengths(result.len(), gradients.len())?;
        let parts = self.gather(&result, &lengths)?;
        deliver_from_owners(self.step.bucket(number), &split(&parts, &lengths), gradients)
            .map_err(|error| unreadable(&error))
    }

    /// What the ranks have for this owner, `lengths` bytes of each, one after another.
    fn hand_to_owners(&mut self, own: &[Vec<u8>], lengths: &[usize]) -> Result<Vec<u8>, EngineError> {
        let counts: Vec<usize> = own.iter().map(Vec::len).collect();
        let mut received = vec![0; lengths.iter().sum()];
        let rank = self.comm.rank();
        let began = Instant::now();
        self.comm.all_to_all_v(&own.concat(), &counts, &mut received, lengths)?;
        let sent = counts.iter().sum::<usize>() - counts[rank];
        self.link.moved(began, sent, received.len() - lengths[rank]);
        Ok(received)
    }

    /// How many bytes each rank has for all, of a bucket of `elements`.
    fn gather_lengths(&mut self, own: usize, elements: usize) -> Result<Vec<usize>, EngineError> {
        let mut lengths = vec![0; LENGTH_BYTES * self.comm.world_size()];
        let began = Instant::now();
        self.comm.all_gather_equal(&as_bytes(&[own]), &mut lengths)?;
        self.link.met(began);
        checked(&lengths, elements)
    }

    /// Every rank's bytes, `lengths` of each, one after another.
    fn gather(&mut self, own: &[u8], lengths: &[usize]) -> Result<Vec<u8>, EngineError> {
        let mut received = vec![0; lengths.iter().sum()];
        let began = Instant::now();
        self.comm.all_gather_v(own, &mut received, lengths)?;
        self.link.moved(began, own.len() * (lengths.len() - 1), received.len() - own.len());
        Ok(received)
    }
}

/// Lengths as the others told them, none above what a message about `elements` elements takes.
fn checked(bytes: &[u8], elements: usize) -> Result<Vec<usize>, EngineError> {
    let most = max_bytes(elements, elements, VALUE_FORMAT) as u64;
    let lengths = bytes.as_chunks::<LENGTH_BYTES>().0.iter().map(|chunk| u64::from_le_bytes(*chunk));
    lengths
        .enumerate()
        .map(|(rank, length)| {
            if length <= most {
                return Ok(length as usize);
            }
            let message = format!("rank {rank} announces {length} bytes; at most {most} are possible");
            Err(EngineError::Mismatch { operation: OPERATION, message })
        })
        .collect()
}

fn as_bytes(lengths: &[usize]) -> Vec<u8> {
    lengths.iter().flat_map(|&length| (length as u64).to_le_bytes()).collect()
}

fn split<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    lengths
        .iter()
        .map(|&length| {
            let (part, others) = rest.split_at(length);
            rest = others;
            part
        })
        .collect()
}

fn unreadable(error: &WireError) -> EngineError {
    EngineError::Mismatch { operation: OPERATION, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_no_message_of_the_bucket_has_is_refused() {
        let most = max_bytes(1000, 1000, VALUE_FORMAT);
        assert_eq!(checked(&as_bytes(&[0, most]), 1000).unwrap(), [0, most]);
        let error = checked(&as_bytes(&[12, most + 1]), 1000).unwrap_err();
        assert!(error.to_string().contains("rank 1 announces"), "{error}");
    }
}
