//! How much longer an exchange makes a step, from what the ranks have measured. No I/O.
//!
//! Buckets travel one after another while backward computes those behind them. What is on the wire then costs nothing; what is
//! left at the end of backward does, and so does work on the elements wherever it falls: where all processors compute, it takes
//! one of them away.

use serde::{Deserialize, Serialize};

use super::{gate::CompressionDecision, layout::SparseLayout};

/// What one exchange asks of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeCost {
    /// Which.
    pub decision: CompressionDecision,
    /// Bytes that a rank sends at most.
    pub worst_bytes: u64,
    /// Collectives, one after another.
    pub rounds: u32,
    /// Elements that a rank works on: its own, and those that it owns in a second selection.
    pub elements: u64,
}

/// What a rank has measured. Nothing yet is zero: what is not known seems cheap, is tried, and is known then.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LinkCost {
    /// Of a collective with next to no bytes.
    pub latency_seconds: f64,
    /// Inverse bandwidth of messages that a rank sends.
    pub seconds_per_byte: f64,
    /// The same of a dense sum, additions and all.
    pub dense_seconds_per_byte: f64,
    /// Of a step in half precision, transfers left out.
    pub half_seconds_per_element: f64,
    /// Of a sparse step, transfers left out.
    pub sparse_seconds_per_element: f64,
}

impl LinkCost {
    /// What holds for the group. All ranks leave a collective at about the same time, and who came to it last has waited for
    /// nobody: of the wire the quickest measurement says what it is like. Of work the slowest does: the others wait for it.
    pub fn of_group(measured: impl IntoIterator<Item = Self>) -> Self {
        let quicker = |a: f64, b: f64| if a > 0.0 && b > 0.0 { a.min(b) } else { a.max(b) };
        measured.into_iter().fold(Self::default(), |group, other| Self {
            latency_seconds: quicker(group.latency_seconds, other.latency_seconds),
            seconds_per_byte: quicker(group.seconds_per_byte, other.seconds_per_byte),
            dense_seconds_per_byte: quicker(group.dense_seconds_per_byte, other.dense_seconds_per_byte),
            half_seconds_per_element: group.half_seconds_per_element.max(other.half_seconds_per_element),
            sparse_seconds_per_element: group
                .sparse_seconds_per_element
                .max(other.sparse_seconds_per_element),
        })
    }

    /// Seconds that a step of the buckets of `layout` is longer with an exchange than without. Backward completes bucket i
    /// `leads[i]` seconds before its end; those of which nothing is known, at its end.
    ///
    /// The wire is done with all buckets max_i(Σ_{j≥i} w_j − `leads[i]`) after that, where w_j is what bucket j takes.
    pub fn added_seconds(&self, cost: &ExchangeCost, layout: &SparseLayout, leads: &[f64]) -> f64 {
        let bytes = cost.worst_bytes as f64;
        let (waits, moves, work) = match cost.decision {
            CompressionDecision::Dense => (0.0, bytes * self.dense_seconds_per_byte, 0.0),
            CompressionDecision::Half => (
                f64::from(cost.rounds) * self.latency_seconds,
                bytes * self.seconds_per_byte,
                cost.elements as f64 * self.half_seconds_per_element,
            ),
            CompressionDecision::Sparse(_) => (
                f64::from(cost.rounds) * self.latency_seconds,
                bytes * self.seconds_per_byte,
                cost.elements as f64 * self.sparse_seconds_per_element,
            ),
        };
        let buckets = layout.buckets.len().max(1) as f64;
        let (mut left, mut late) = (0.0, 0.0_f64);
        for (number, bucket) in layout.buckets.iter().enumerate().rev() {
            let share = bucket.bucket.range.len() as f64 / layout.total_elements.max(1) as f64;
            left += waits / buckets + moves * share;
            late = late.max(left - leads.get(number).copied().unwrap_or(0.0));
        }
        late + work
    }
}

/// The one that adds least; before anything is measured, and between equals, the one of fewer bytes.
pub fn cheapest<'a>(
    costs: impl Iterator<Item = &'a ExchangeCost>,
    added_seconds: impl Fn(&ExchangeCost) -> f64,
) -> Option<CompressionDecision> {
    let order = |a: &&ExchangeCost, b: &&ExchangeCost| {
        added_seconds(a).total_cmp(&added_seconds(b)).then(a.worst_bytes.cmp(&b.worst_bytes))
    };
    costs.min_by(order).map(|cost| cost.decision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{exchange::SparseExchange, gate::SparseChoice};

    #[test]
    fn a_slow_network_prefers_fewer_bytes_and_a_distant_one_fewer_rounds() {
        let sparse = |exchange| CompressionDecision::Sparse(SparseChoice { exchange, level: 0 });
        let all_gather = ExchangeCost {
            decision: sparse(SparseExchange::AllGather),
            worst_bytes: 3_000_000,
            rounds: 2,
            elements: 10_000_000,
        };
        let reduce_scatter = ExchangeCost {
            decision: sparse(SparseExchange::ReduceScatter),
            worst_bytes: 1_000_000,
            rounds: 4,
            elements: 11_000_000,
        };
        let allowed = [all_gather, reduce_scatter];
        let link = |latency_seconds, seconds_per_byte| LinkCost {
            latency_seconds,
            seconds_per_byte,
            sparse_seconds_per_element: 1e-9,
            ..LinkCost::default()
        };
        let layout = SparseLayout::new(&[0], 10_000_000, 2, 0.1);
        let quickest = |link: LinkCost| cheapest(allowed.iter(), |it| link.added_seconds(it, &layout, &[]));
        assert_eq!(quickest(LinkCost::default()), Some(reduce_scatter.decision));
        assert_eq!(quickest(link(1e-4, 1e-8)), Some(reduce_scatter.decision));
        assert_eq!(quickest(link(0.1, 1e-9)), Some(all_gather.decision));
        assert_eq!(cheapest([].iter(), |_| 0.0), None);
    }

    #[test]
    fn of_the_wire_the_quickest_rank_knows_and_of_work_the_slowest() {
        let one = LinkCost { latency_seconds: 0.1, seconds_per_byte: 1e-9, ..LinkCost::default() };
        let other = LinkCost { latency_seconds: 0.2, dense_seconds_per_byte: 1e-8, ..one };
        let quick = LinkCost { half_seconds_per_element: 1e-9, sparse_seconds_per_element: 3e-9, ..one };
        let slow = LinkCost { half_seconds_per_element: 2e-9, sparse_seconds_per_element: 2e-9, ..other };
        let group = LinkCost {
            latency_seconds: 0.1,
            seconds_per_byte: 1e-9,
            dense_seconds_per_byte: 1e-8,
            half_seconds_per_element: 2e-9,
            sparse_seconds_per_element: 3e-9,
        };
        assert_eq!(LinkCost::of_group([quick, slow]), group, "one that was not measured is none");
    }

    #[test]
    fn what_is_on_the_wire_while_backward_computes_adds_nothing() {
        // Buckets of a tenth, six tenths and three tenths.
        let layout = SparseLayout::new(&[0, 24_000_000, 72_000_000], 80_000_000, 2, 0.1);
        let shares: Vec<usize> = layout.buckets.iter().map(|bucket| bucket.bucket.range.len()).collect();
        assert_eq!(shares, [8_000_000, 48_000_000, 24_000_000]);
        let dense = ExchangeCost {
            decision: CompressionDecision::Dense,
            worst_bytes: 10_000_000,
            rounds: 3,
            elements: 10_000_000,
        };
        let link = LinkCost { dense_seconds_per_byte: 1e-7, ..LinkCost::default() };
        let near = |leads: &[f64], seconds: f64| {
            let added = link.added_seconds(&dense, &layout, leads);
            assert!((added - seconds).abs() < 1e-12, "{leads:?}: {added} instead of {seconds}");
        };
        near(&[], 1.0);
        near(&[0.5], 0.9);
        near(&[0.5, 0.2], 0.7);
        near(&[0.9, 0.8], 0.3);
        near(&[9.0, 9.0, 0.0], 0.3);
        // Work and rounds: a third of the rounds behind backward, all of the work.
        let sparse =
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level: 0 });
        let sparse = ExchangeCost { decision: sparse, rounds: 6, ..dense };
        let link = LinkCost {
            latency_seconds: 0.05,
            seconds_per_byte: 1e-8,
            sparse_seconds_per_element: 2e-9,
            ..LinkCost::default()
        };
        let added = link.added_seconds(&sparse, &layout, &[9.0, 9.0]);
        assert!((added - (0.1 + 0.03 + 0.02)).abs() < 1e-12, "{added}");
    }
}
