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
    compressor::{Compressor, Step, TornError},
    cost::ExchangeCost,
    gate::{CompressionDecision, CompressionRule, EnergyStatistics, SparseChoice, ratios},
    half::{deliver_halves, half_cost},
    kernel::Kept,
    layout::{ELEMENT_BYTES, SparseBucket, SparseLayout},
    wire::{HEADER_BYTES, ValueFormat, WireError, decode, max_bytes},
};
use crate::exchange_plan::{Bucket, add_in_rank_order};

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
    let own: usize = layout.buckets.iter().map(|bucket| message(bucket) + LENGTH_BYTES).sum();
    ExchangeCost {
        decision: CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }),
        worst_bytes: (own * layout.world_size.saturating_sub(1)) as u64,
        rounds: 2 * layout.buckets.len() as u32,
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
        to_all += max_bytes(layout.owner_most(largest), largest, format) + 2 * LENGTH_BYTES;
        owned += largest;
    }
    ExchangeCost {
        decision: CompressionDecision::Sparse(SparseChoice {
            exchange: SparseExchange::ReduceScatter,
            level,
        }),
        worst_bytes: (to_owners + to_all * others) as u64,
        rounds: 4 * layout.buckets.len() as u32,
        elements: (layout.total_elements + owned) as u64,
    }
}

/// The sum of all ranks' selections from one bucket into `sum`, added in rank order; `parts` in rank order as
/// [`Step::select_for_all`] makes them.
pub fn deliver_from_all(parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    sum.fill(0.0);
    add_messages(parts, &mut Kept::default(), sum)
}

/// The owners' results of one bucket into `sum`; `parts` in the order of owners as [`Step::own`] makes them.
pub fn deliver_from_owners(bucket: &Bucket, parts: &[&[u8]], sum: &mut [f32]) -> Result<(), WireError> {
    sum.fill(0.0);
    let mut kept = Kept::default();
    for (owner, part) in parts.iter().enumerate() {
        add_messages(&[part], &mut kept, &mut sum[bucket.owned_within(owner)])?;
    }
    Ok(())
}

/// Adds to `sum` what the messages say, one after another; `kept` holds the last one's then.
pub(super) fn add_messages(parts: &[&[u8]], kept: &mut Kept, sum: &mut [f32]) -> Result<(), WireError> {
    for part in parts {
        decode(part, sum.len(), kept)?;
        for (&index, &value) in kept.indices.iter().zip(&kept.values) {
            sum[index as usize] += value;
        }
    }
    Ok(())
}

/// What one step of logical devices was like.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogicalStep {
    /// Per rank, what the gate learns.
    pub energies: Vec<EnergyStatistics>,
    /// Per rank, the bytes that it would have sent, lengths included; empty for a dense step.
    pub bytes_sent: Vec<u64>,
}

/// Why a step of logical devices failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// An earlier step has failed.
    #[error(transparent)]
    Torn(#[from] TornError),
    /// A message that is none.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// One step of logical devices in one thread: the bits, and the bytes, of as many ranks. `gradients` (u, per rank) are
/// used up; `sum` becomes d.
pub fn combine_logical(
    compressors: &mut [Compressor],
    gradients: &mut [Vec<f32>],
    decision: CompressionDecision,
    learning_rate: f64,
    sum: &mut [f32],
) -> Result<LogicalStep, StepError> {
    let buckets: Vec<Bucket> = match compressors.first() {
        Some(first) => first.layout().buckets.iter().map(|bucket| bucket.bucket.clone()).collect(),
        None => return Ok(LogicalStep::default()),
    };
    let ranks = compressors.iter_mut().map(|it| it.begin(learning_rate));
    let mut ranks = ranks.collect::<Result<Vec<_>, _>>()?;
    let mut bytes_sent = vec![0; if decision == CompressionDecision::Dense { 0 } else { ranks.len() }];
    for (number, bucket) in buckets.into_iter().enumerate() {
        let mut parts: Vec<&mut [f32]> =
            gradients.iter_mut().map(|gradient| &mut gradient[bucket.range.clone()]).collect();
        let sum = &mut sum[bucket.range.clone()];
        let bytes = combine_bucket(&mut ranks, (number, &bucket), &mut parts, decision, sum)?;
        bytes_sent.iter_mut().zip(bytes).for_each(|(all, bytes)| *all += bytes as u64);
    }
    Ok(LogicalStep { energies: ranks.into_iter().map(Step::finish).collect(), bytes_sent })
}

/// One bucket of it: the bytes that each rank would have sent; none in a dense step.
fn combine_bucket(
    ranks: &mut [Step<'_>],
    (number, bucket): (usize, &Bucket),
    gradients: &mut [&mut [f32]],
    decision: CompressionDecision,
    sum: &mut [f32],
) -> Result<Vec<usize>, WireError> {
    let others = ranks.len().saturating_sub(1);
    let each = ranks.iter_mut().zip(gradients.iter_mut());
    match decision {
        CompressionDecision::Dense => {
            each.for_each(|(it, gradient)| it.compensate(number, gradient));
            let terms: Vec<&[f32]> = gradients.iter().map(|gradient| &**gradient).collect();
            add_in_rank_order(sum, &terms);
            Ok(Vec::new())
        }
        CompressionDecision::Half => {
            let by_owner: Vec<_> =
                each.map(|(it, gradient)| it.halves_for_owners(number, gradient)).collect();
            let results = owned(ranks, &by_owner, |it, rank, parts| it.own_halves(number, rank, parts))?;
            deliver_halves(bucket, &slices(&results), sum)?;
            Ok(sent(&by_owner, &results))
        }
        CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }) => {
            let parts: Vec<_> =
                each.map(|(it, gradient)| it.select_for_all(level, number, gradient)).collect();
            deliver_from_all(&slices(&parts), sum)?;
            Ok(parts.iter().map(|part| (part.len() + LENGTH_BYTES) * others).collect())
        }
        CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, level }) => {
            let by_owner: Vec<_> =
                each.map(|(it, gradient)| it.select_for_owners(level, number, gradient)).collect();
            let results = owned(ranks, &by_owner, |it, rank, parts| it.own(level, number, rank, parts))?;
            deliver_from_owners(bucket, &slices(&results), sum)?;
            Ok(sent(&by_owner, &results).into_iter().map(|bytes| bytes + 2 * LENGTH_BYTES * others).collect())
        }
    }
}

/// What each owner makes of the parts that the ranks have for it.
fn owned<'a>(
    owners: &mut [Step<'a>],
    by_owner: &[Vec<Vec<u8>>],
    own: impl Fn(&mut Step<'a>, usize, &[&[u8]]) -> Result<Vec<u8>, WireError>,
) -> Result<Vec<Vec<u8>>, WireError> {
    let parts = |owner: usize| by_owner.iter().map(|parts| parts[owner].as_slice()).collect::<Vec<_>>();
    owners.iter_mut().enumerate().map(|(owner, it)| own(it, owner, &parts(owner))).collect()
}

/// Bytes of each rank's parts for the other owners, and of its result for all others.
fn sent(by_owner: &[Vec<Vec<u8>>], results: &[Vec<u8>]) -> Vec<usize> {
    let others = results.len().saturating_sub(1);
    let to_others = |(rank, parts): (usize, &Vec<Vec<u8>>)| {
        let to_all: usize = parts.iter().map(Vec::len).sum();
        to_all - parts[rank].len() + results[rank].len() * others
    };
    by_owner.iter().enumerate().map(to_others).collect()
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
