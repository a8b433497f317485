//! How long an exchange takes, from what the ranks have measured. No I/O.

use serde::{Deserialize, Serialize};

use super::gate::CompressionDecision;

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
    /// The slowest of the ranks in each respect: a collective waits for it.
    pub fn slowest(measured: impl IntoIterator<Item = Self>) -> Self {
        measured.into_iter().fold(Self::default(), |slowest, other| {
            let slower = |of: fn(&Self) -> f64| of(&slowest).max(of(&other));
            Self {
                latency_seconds: slower(|it| it.latency_seconds),
                seconds_per_byte: slower(|it| it.seconds_per_byte),
                dense_seconds_per_byte: slower(|it| it.dense_seconds_per_byte),
                half_seconds_per_element: slower(|it| it.half_seconds_per_element),
                sparse_seconds_per_element: slower(|it| it.sparse_seconds_per_element),
            }
        })
    }

    /// Seconds that an exchange takes with these.
    pub fn seconds(&self, cost: &ExchangeCost) -> f64 {
        let bytes = cost.worst_bytes as f64;
        let in_messages = f64::from(cost.rounds) * self.latency_seconds + bytes * self.seconds_per_byte;
        match cost.decision {
            CompressionDecision::Dense => bytes * self.dense_seconds_per_byte,
            CompressionDecision::Half => in_messages + cost.elements as f64 * self.half_seconds_per_element,
            CompressionDecision::Sparse(_) => {
                in_messages + cost.elements as f64 * self.sparse_seconds_per_element
            }
        }
    }
}

/// The quickest; before anything is measured, and between equals, the one of fewer bytes.
pub fn cheapest<'a>(
    costs: impl Iterator<Item = &'a ExchangeCost>,
    measured: &LinkCost,
) -> Option<CompressionDecision> {
    let order = |a: &&ExchangeCost, b: &&ExchangeCost| {
        measured.seconds(a).total_cmp(&measured.seconds(b)).then(a.worst_bytes.cmp(&b.worst_bytes))
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
        let quickest = |link| cheapest(allowed.iter(), &link);
        assert_eq!(quickest(LinkCost::default()), Some(reduce_scatter.decision));
        assert_eq!(quickest(link(1e-4, 1e-8)), Some(reduce_scatter.decision));
        assert_eq!(quickest(link(0.1, 1e-9)), Some(all_gather.decision));
        assert_eq!(cheapest([].iter(), &link(0.1, 1e-9)), None);
        let slowest = LinkCost::slowest([link(0.1, 1e-9), link(0.2, 1e-10)]);
        assert_eq!(slowest, link(0.2, 1e-9));
    }
}
