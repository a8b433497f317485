//! Which sparse exchange is the quickest, from what the ranks have measured. No I/O.

use serde::{Deserialize, Serialize};

use super::exchange::SparseExchange;

/// What one exchange asks of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeCost {
    /// Which.
    pub exchange: SparseExchange,
    /// Bytes that a rank sends at most.
    pub worst_bytes: u64,
    /// Collectives, one after another.
    pub rounds: u32,
    /// Elements that a rank adds and selects from as an owner.
    pub second_selection_elements: u64,
}

/// What a rank has measured; nothing yet is zero.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LinkCost {
    /// Of a collective with next to no bytes.
    pub latency_seconds: f64,
    /// Inverse bandwidth of what a rank sends.
    pub seconds_per_byte: f64,
    /// Of the pass over gradient and residual.
    pub select_seconds_per_element: f64,
}

impl LinkCost {
    /// The slowest of the ranks in each respect: a collective waits for it.
    pub fn slowest(measured: impl IntoIterator<Item = Self>) -> Self {
        measured.into_iter().fold(Self::default(), |slowest, other| Self {
            latency_seconds: slowest.latency_seconds.max(other.latency_seconds),
            seconds_per_byte: slowest.seconds_per_byte.max(other.seconds_per_byte),
            select_seconds_per_element: slowest
                .select_seconds_per_element
                .max(other.select_seconds_per_element),
        })
    }

    /// Seconds that an exchange takes with these.
    pub fn seconds(&self, cost: &ExchangeCost) -> f64 {
        f64::from(cost.rounds) * self.latency_seconds
            + cost.worst_bytes as f64 * self.seconds_per_byte
            + cost.second_selection_elements as f64 * self.select_seconds_per_element
    }
}

/// The quickest of `allowed`; before anything is measured, and between equals, the one of fewer bytes.
pub fn cheapest(allowed: &[ExchangeCost], measured: &LinkCost) -> Option<SparseExchange> {
    let order = |a: &&ExchangeCost, b: &&ExchangeCost| {
        measured.seconds(a).total_cmp(&measured.seconds(b)).then(a.worst_bytes.cmp(&b.worst_bytes))
    };
    allowed.iter().min_by(order).map(|cost| cost.exchange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_network_prefers_fewer_bytes_and_a_distant_one_fewer_rounds() {
        let all_gather = ExchangeCost {
            exchange: SparseExchange::AllGather,
            worst_bytes: 3_000_000,
            rounds: 2,
            second_selection_elements: 0,
        };
        let reduce_scatter = ExchangeCost {
            exchange: SparseExchange::ReduceScatter,
            worst_bytes: 1_000_000,
            rounds: 4,
            second_selection_elements: 1_000_000,
        };
        let allowed = [all_gather, reduce_scatter];
        let link = |latency_seconds, seconds_per_byte| LinkCost {
            latency_seconds,
            seconds_per_byte,
            select_seconds_per_element: 1e-9,
        };
        assert_eq!(cheapest(&allowed, &LinkCost::default()), Some(SparseExchange::ReduceScatter));
        assert_eq!(cheapest(&allowed, &link(1e-4, 1e-8)), Some(SparseExchange::ReduceScatter));
        assert_eq!(cheapest(&allowed, &link(0.1, 1e-9)), Some(SparseExchange::AllGather));
        assert_eq!(cheapest(&[], &link(0.1, 1e-9)), None);
        let slowest = LinkCost::slowest([link(0.1, 1e-9), link(0.2, 1e-10)]);
        assert_eq!(slowest, link(0.2, 1e-9));
    }
}
