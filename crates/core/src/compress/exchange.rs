//! What ranks send each other in a sparse step, what they make of it, and how many bytes it takes at most. No I/O.
//!
//! - *All-gather*: every rank sends its selection to all; everybody adds them in rank order.
//! - *Reduce-scatter* (after Ok-Topk, PPoPP'22): every rank sends each owner what lies in the owner's range; the owner
//!   adds in rank order, selects a second time, keeps the rest in its own residual, and sends the result to all. Without
//!   the second selection the union of n supports would fill up.
//!
//! The same functions serve ranks that exchange bytes and logical devices of one thread, so that the bits are the same.

use scadles_api::tuning::CompressionTuning;
use serde::{Deserialize, Serialize};

use super::{
    compressor::Compressor,
    cost::ExchangeCost,
    gate::{CompressionDecision, CompressionRule, EnergyStatistics, SparseChoice, ratios},
    half::{deliver_halves, half_bytes, half_cost},
    kernel::Kept,
    layout::{ELEMENT_BYTES, SparseBucket, SparseLayout},
    wire::{HEADER_BYTES, ValueFormat, WireError, decode, max_bytes, split_first},
};
use crate::exchange_plan::add_in_rank_order;

/// Bytes by which one rank tells another how long its message is.
pub const LENGTH_BYTES: usize = 8;

/// How selections become one sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SparseExchange {
    /// Everything to everybody.
    AllGather,
    /// By owners, who select a second time.
    ReduceScatter,
}

/// Bytes that a rank sends in a dense step: 2(n−1)/n of each bucket.
pub fn dense_bytes(layout: &SparseLayout) -> u64 {
    let ranks = layout.world_size.max(1);
    let bytes = |bucket: &SparseBucket| 2 * bucket.bucket.range.len() * ELEMENT_BYTES * (ranks - 1) / ranks;
    layout.buckets.iter().map(|bucket| bytes(bucket) as u64).sum()
}

/// What a dense step asks of a rank.
pub fn dense_cost(layout: &SparseLayout) -> ExchangeCost {
    ExchangeCost {
        decision: CompressionDecision::Dense,
        worst_bytes: dense_bytes(layout),
        rounds: layout.buckets.len() as u32,
        elements: layout.total_elements as u64,
    }
}

/// The exchanges whose bytes at worst are not above the dense step's, at the ratio of each layout and in half precision,
/// what loses least first; none where nothing is sent at all.
pub fn allowed_exchanges(layouts: &[SparseLayout], format: ValueFormat) -> Vec<ExchangeCost> {
    let Some(first) = layouts.first() else { return Vec::new() };
    let most = dense_bytes(first);
    let sparse = layouts.iter().zip(0..).flat_map(|(layout, level)| {
        [all_gather_cost(layout, level, format), reduce_scatter_cost(layout, level, format)]
    });
    let costs = std::iter::once(half_cost(first)).chain(sparse);
    costs.filter(|cost| most > 0 && cost.worst_bytes <= most).collect()
}

/// What the ranks decide by: at the gate's bound `delta`, and among all exchanges if `is_free` (`Auto`), else between the
/// sparse ones. Of `layouts` there is at least one; they differ in their ratios only.
pub fn compression_rule(
    layouts: &[SparseLayout],
    format: ValueFormat,
    delta: Option<f64>,
    is_free: bool,
) -> CompressionRule {
    let mut allowed = allowed_exchanges(layouts, format);
    allowed.retain(|cost| is_free || matches!(cost.decision, CompressionDecision::Sparse(_)));
    CompressionRule {
        delta,
        allowed,
        dense: layouts.first().filter(|_| is_free).map(dense_cost),
        ratios: layouts.iter().map(|layout| layout.ratio).collect(),
        layout: layouts[0].clone(),
        format,
    }
}

impl CompressionRule {
    /// The rule of the same job with other settings.
    #[must_use]
    pub fn tuned(&self, tuning: &CompressionTuning) -> Self {
        let CompressionTuning { ratio, is_free, delta } = *tuning;
        let layouts: Vec<SparseLayout> =
            ratios(ratio, is_free).into_iter().map(|ratio| self.layout.at(ratio)).collect();
        compression_rule(&layouts, self.format, delta, is_free)
    }
}

fn all_gather_cost(layout: &SparseLayout, level: u8, format: ValueFormat) -> ExchangeCost {
    let message = |bucket: &SparseBucket| max_bytes(bucket.most, bucket.bucket.range.len(), format);
    let own: usize = layout.buckets.iter().map(message).sum();
    ExchangeCost {
        decision: CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }),
        worst_bytes: ((own + LENGTH_BYTES) * layout.world_size.saturating_sub(1)) as u64,
        rounds: 2,
        elements: layout.total_elements as u64,
    }
}

fn reduce_scatter_cost(layout: &SparseLayout, level: u8, format: ValueFormat) -> ExchangeCost {
    let others = layout.world_size.saturating_sub(1);
    let (mut to_owners, mut to_all, mut owned) = (0, 0, 0);
    for bucket in &layout.buckets {
        let ranges = (0..layout.world_size).map(|rank| bucket.bucket.owned_range(rank).len());
        // All that is selected may lie with other owners.
        let bitmaps: usize = ranges.clone().map(|len| len.div_ceil(8)).sum();
        let gaps: usize = bucket.most + ranges.clone().map(|len| len / 255).sum::<usize>();
        let scales = ELEMENT_BYTES * layout.world_size;
        to_owners +=
            HEADER_BYTES * layout.world_size + bitmaps.min(gaps) + format.bytes(bucket.most) + scales;
        let largest = ranges.max().unwrap_or(0);
        to_all += max_bytes(layout.owner_most(largest), largest, format);
        owned += largest;
    }
    ExchangeCost {
        decision: CompressionDecision::Sparse(SparseChoice {
            exchange: SparseExchange::ReduceScatter,
            level,
        }),
        worst_bytes: (to_owners + (to_all + 2 * LENGTH_BYTES) * others) as u64,
        rounds: 4,
        elements: (layout.total_elements + owned) as u64,
    }
}

/// The sum of all ranks' selections into `sum`, added in rank order; `parts` in rank order as
/// [`Compressor::compress_for_all`] makes them.
pub fn deliver_from_all(layout: &SparseLayout, parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    sum.fill(0.0);
    let mut kept = Kept::default();
    for part in parts {
        let mut rest = *part;
        for bucket in &layout.buckets {
            let range = bucket.bucket.range.clone();
            rest = next_message(rest, range.len(), &mut kept)?;
            add(&kept, &mut sum[range]);
        }
        nothing_left(rest)?;
    }
    Ok(())
}

/// The owners' results into `sum`; `parts` in the order of owners as [`Compressor::own`] makes them.
pub fn deliver_from_owners(layout: &SparseLayout, parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    sum.fill(0.0);
    let mut kept = Kept::default();
    for (owner, part) in parts.iter().enumerate() {
        let mut rest = *part;
        for bucket in &layout.buckets {
            let range = bucket.bucket.owned_range(owner);
            rest = next_message(rest, range.len(), &mut kept)?;
            add(&kept, &mut sum[range]);
        }
        nothing_left(rest)?;
    }
    Ok(())
}

/// Decodes the first message of `bytes`; what follows it.
pub(super) fn next_message<'a>(bytes: &'a [u8], len: usize, kept: &mut Kept) -> Result<&'a [u8], WireError> {
    let (message, rest) = split_first(bytes)?;
    decode(message, len, kept)?;
    Ok(rest)
}

pub(super) fn nothing_left(rest: &[u8]) -> Result<(), WireError> {
    if rest.is_empty() { Ok(()) } else { Err(WireError::Length { bytes: rest.len(), needed: 0 }) }
}

pub(super) fn add(kept: &Kept, sum: &mut [f32]) {
    for (&index, &value) in kept.indices.iter().zip(&kept.values) {
        sum[index as usize] += value;
    }
}

/// What one step of logical devices was like.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogicalStep {
    /// Per rank, what the gate learns.
    pub energies: Vec<EnergyStatistics>,
    /// Per rank, the bytes that it would have sent, lengths included; empty for a dense step.
    pub bytes_sent: Vec<u64>,
}

/// One step of logical devices in one thread: the bits, and the bytes, of as many ranks. `gradients` (u, per rank) are
/// used up; `sum` becomes d.
pub fn combine_logical(
    compressors: &mut [Compressor],
    gradients: &mut [Vec<f32>],
    decision: CompressionDecision,
    learning_rate: f64,
    sum: &mut [f32],
) -> Result<LogicalStep, WireError> {
    let layout = match compressors.first() {
        Some(first) => first.layout().clone(),
        None => return Ok(LogicalStep::default()),
    };
    let ranks = compressors.iter_mut().zip(gradients.iter_mut());
    let others = layout.world_size.saturating_sub(1);
    match decision {
        CompressionDecision::Dense => {
            let energies = ranks.map(|(it, gradient)| it.compensate(gradient, learning_rate)).collect();
            let terms: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
            add_in_rank_order(sum, &terms);
            Ok(LogicalStep { energies, bytes_sent: Vec::new() })
        }
        CompressionDecision::Half => {
            let (by_owner, energies): (Vec<Vec<Vec<u8>>>, Vec<_>) =
                ranks.map(|(it, gradient)| it.halves_for_owners(gradient, learning_rate)).unzip();
            let results = owned(compressors, &by_owner, Compressor::own_halves)?;
            deliver_halves(&layout, &slices(&results), sum)?;
            let bytes = (0..layout.world_size).map(|rank| half_bytes(&layout, rank));
            Ok(LogicalStep { energies, bytes_sent: bytes.collect() })
        }
        CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }) => {
            let (parts, energies): (Vec<Vec<u8>>, _) =
                ranks.map(|(it, gradient)| it.compress_for_all(level, gradient, learning_rate)).unzip();
            deliver_from_all(&layout, &slices(&parts), sum)?;
            let bytes = |part: &Vec<u8>| ((part.len() + LENGTH_BYTES) * others) as u64;
            Ok(LogicalStep { energies, bytes_sent: parts.iter().map(bytes).collect() })
        }
        CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, level }) => {
            let (by_owner, energies): (Vec<Vec<Vec<u8>>>, Vec<_>) =
                ranks.map(|(it, gradient)| it.compress_for_owners(level, gradient, learning_rate)).unzip();
            let results = owned(compressors, &by_owner, |it, owner, parts| it.own(level, owner, parts))?;
            deliver_from_owners(&layout, &slices(&results), sum)?;
            let bytes = |(rank, (parts, result)): (usize, (&Vec<Vec<u8>>, &Vec<u8>))| {
                let to_owners: usize = parts
                    .iter()
                    .enumerate()
                    .filter(|(owner, _)| *owner != rank)
                    .map(|(_, it)| it.len())
                    .sum();
                (to_owners + (result.len() + 2 * LENGTH_BYTES) * others) as u64
            };
            let bytes_sent = by_owner.iter().zip(&results).enumerate().map(bytes).collect();
            Ok(LogicalStep { energies, bytes_sent })
        }
    }
}

/// What each owner makes of the parts that the ranks have for it.
fn owned(
    owners: &mut [Compressor],
    by_owner: &[Vec<Vec<u8>>],
    own: impl Fn(&mut Compressor, usize, &[&[u8]]) -> Result<Vec<u8>, WireError>,
) -> Result<Vec<Vec<u8>>, WireError> {
    let parts = |owner: usize| by_owner.iter().map(|parts| parts[owner].as_slice()).collect::<Vec<_>>();
    owners.iter_mut().enumerate().map(|(owner, it)| own(it, owner, &parts(owner))).collect()
}

fn slices(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().map(Vec::as_slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the exchange that sends least at worst, as a share of the dense step's, for ResNet-18's size.
    fn best_share(world_size: usize, ratio: f64) -> Option<f64> {
        let layouts = [SparseLayout::new(&[0], 11_173_968, world_size, ratio)];
        let costs = allowed_exchanges(&layouts, ValueFormat::Bf16);
        let bytes = costs.into_iter().map(|cost| cost.worst_bytes).min()?;
        Some(bytes as f64 / dense_bytes(&layouts[0]) as f64)
    }

    #[test]
    fn a_tenth_of_the_elements_is_a_fraction_of_the_bytes_whatever_the_number_of_ranks() {
        for ranks in [2, 4, 8, 16, 32] {
            let share = best_share(ranks, 0.1).unwrap();
            assert!(share < 0.12, "{ranks}: {share}");
        }
    }

    #[test]
    fn what_could_take_more_bytes_than_dense_is_not_allowed() {
        assert_eq!(best_share(1, 0.1), None, "nothing is sent to nobody");
        for ranks in 2..=32 {
            for ratio in [1.0, 0.8, 0.5, 0.1, 0.001] {
                assert!(best_share(ranks, ratio).is_none_or(|share| share <= 1.0), "{ranks} {ratio}");
            }
        }
        let tiny = [SparseLayout::new(&[0], 16, 8, 0.9)];
        assert_eq!(
            allowed_exchanges(&tiny, ValueFormat::Bf16),
            [],
            "headers, or an owner of all, outweigh what is saved"
        );
    }
}
