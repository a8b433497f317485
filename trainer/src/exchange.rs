//! Combining gradients: the sum over ranks, added in rank order, in place on the flat gradient buffer. No I/O of its own.
//!
//! Floating-point addition depends on its order, so all CPU engines add rank 0, 1, … n−1 (algorithms.md §3, "replay"):
//! each range of a bucket travels to its owner, the owner adds, all gather the sums. In-process, Gloo and replay give
//! the same bits for any bucket cut. For up to two ranks the transport's own sum has these bits too, and is used.

use std::time::Instant;

use scadles_core::exchange_plan::{Bucket, add_in_rank_order, plan_buckets};
use torch_ext::FlatParameters;

use crate::engine::{Communicator, EngineError};
use crate::numeric::{Real, bytes_of, bytes_of_mut};

/// Up to this many ranks a sum does not depend on the order of addition.
const ORDER_FREE_RANKS: usize = 2;

/// What one exchange has cost this rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExchangeStatistics {
    /// Bytes that this rank sent to others.
    pub bytes_sent: u64,
    /// Time from the first bucket to the last.
    pub seconds: f64,
}

/// Which sum of more than two ranks is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SumOrder {
    /// Rank 0, 1, …: the same bits on every engine and in replay.
    #[default]
    Rank,
    /// The transport's own: equal on all ranks, but different from engine to engine. For measurements.
    Native,
}

/// The dense exchange of a flat gradient buffer, bucket by bucket, with its memory.
#[derive(Debug)]
pub struct DenseExchange<T> {
    buckets: Vec<Bucket>,
    total_elements: usize,
    world_size: usize,
    order: SumOrder,
    /// What the others sent for the range that this rank owns, in rank order.
    contributions: Vec<T>,
    /// The sums of this rank's range, padded.
    owned: Vec<T>,
    /// The sums of all ranges of a bucket, padded.
    gathered: Vec<T>,
}

impl<T: Real> DenseExchange<T> {
    /// For the gradients of `flat` between `world_size` ranks.
    pub fn new(flat: &FlatParameters, world_size: usize) -> Self {
        let offsets: Vec<usize> = flat.layout().iter().map(|slot| slot.offset_elements).collect();
        Self::with_layout(&offsets, flat.len(), world_size, SumOrder::Rank)
    }

    /// For a flat buffer of `total_elements` whose tensors start at `slot_offsets` (ascending).
    pub fn with_layout(slot_offsets: &[usize], total_elements: usize, world_size: usize, order: SumOrder) -> Self {
        let buckets = plan_buckets(slot_offsets, total_elements, size_of::<T>(), world_size);
        Self { buckets, total_elements, world_size, order, contributions: vec![], owned: vec![], gathered: vec![] }
    }

    /// Replaces `gradients` by their sum over the ranks of `comm`. All buckets are exchanged, in order, whether this
    /// rank contributed to them or not. With one rank nothing happens. After an error `gradients` hold no sum.
    pub fn combine(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [T],
    ) -> Result<ExchangeStatistics, EngineError> {
        self.check(comm.world_size(), gradients.len())?;
        if self.world_size == 1 {
            return Ok(ExchangeStatistics::default());
        }
        let (start, sent_before) = (Instant::now(), comm.bytes_sent());
        for i in 0..self.buckets.len() {
            let part = &mut gradients[self.buckets[i].range.clone()];
            if self.world_size <= ORDER_FREE_RANKS || self.order == SumOrder::Native {
                comm.all_reduce_sum(T::values_mut(part))?;
            } else {
                self.sum_in_rank_order(i, comm, part)?;
            }
        }
        Ok(ExchangeStatistics {
            bytes_sent: comm.bytes_sent() - sent_before,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn sum_in_rank_order(
        &mut self,
        bucket: usize,
        comm: &mut dyn Communicator,
        part: &mut [T],
    ) -> Result<(), EngineError> {
        let (bucket, ranks, own) = (&self.buckets[bucket], self.world_size, comm.rank());
        let owned_len = |rank| bucket.owned_range(rank).len();
        let own_len = owned_len(own);
        let send_counts: Vec<usize> = (0..ranks).map(|rank| owned_len(rank) * size_of::<T>()).collect();
        let recv_counts = vec![own_len * size_of::<T>(); ranks];

        let contributions = resized(&mut self.contributions, own_len * ranks);
        comm.all_to_all_v(bytes_of(part), &send_counts, bytes_of_mut(contributions), &recv_counts)?;

        let owned = resized(&mut self.owned, bucket.owned_elements);
        let contributions: &[T] = contributions;
        let by_rank: Vec<&[T]> = (0..ranks).map(|rank| &contributions[rank * own_len..][..own_len]).collect();
        add_in_rank_order(&mut owned[..own_len], &by_rank);

        // Only the end of the last owned range is padding, so that the gathered sums begin with the bucket itself.
        let gathered = resized(&mut self.gathered, bucket.padded_elements(ranks));
        comm.all_gather_equal(bytes_of(owned), bytes_of_mut(gathered))?;
        part.copy_from_slice(&gathered[..part.len()]);
        Ok(())
    }

    fn check(&self, world_size: usize, elements: usize) -> Result<(), EngineError> {
        let refuse = |message| Err(EngineError::Argument { operation: "combine", message });
        if world_size != self.world_size {
            return refuse(format!("the group has {world_size} ranks; the exchange is laid out for {}", self.world_size));
        }
        if elements != self.total_elements {
            return refuse(format!("there are {elements} gradients; the exchange is laid out for {}", self.total_elements));
        }
        Ok(())
    }
}

/// The first `len` elements of a reused buffer.
fn resized<T: Real>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// The sum of logical devices' gradients in rank order into `sum`: the bits that [`DenseExchange::combine`] gives the
/// ranks. Contributions are as long as `sum`; replay and tests use this.
pub fn combine_logical<T: Real>(sum: &mut [T], contributions: &[Vec<T>]) -> Result<(), EngineError> {
    if let Some((rank, other)) = contributions.iter().enumerate().find(|(_, other)| other.len() != sum.len()) {
        let message = format!("device {rank} contributes {} gradients; the sum has {}", other.len(), sum.len());
        return Err(EngineError::Argument { operation: "combine_logical", message });
    }
    let contributions: Vec<&[T]> = contributions.iter().map(Vec::as_slice).collect();
    add_in_rank_order(sum, &contributions);
    Ok(())
}

#[cfg(test)]
mod tests;
