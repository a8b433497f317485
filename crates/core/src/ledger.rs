//! The ledger of one device: every sample that arrived is in exactly one column (algorithms §3, invariant 1). No I/O.

use serde::{Deserialize, Serialize};

/// Below this many decoded records the share of rejected ones says nothing yet.
const FEWEST_RECORDS_TO_JUDGE: u64 = 100;

/// What became of the samples of one device since its recorded start position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Growth of the end offsets since the start position, without the offsets of [`gaps`](Self::gaps).
    pub arrived: u64,
    /// Samples whose step has committed.
    pub trained: u64,
    /// Samples in the local buffer and at the broker.
    pub buffered: u64,
    /// Samples the stream policy passed over.
    pub dropped: u64,
    /// Records that could not be decoded.
    pub rejected: u64,
    /// Samples whose retention ended before they were read.
    pub lost: u64,
    /// Offsets that hold no record (transaction markers). Apart: not part of `arrived`.
    pub gaps: u64,
    /// Samples trained by attempts whose work was undone by a restart; apart: they are counted again above.
    pub rolled_back: u64,
}

/// The ledger does not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream ledger does not add up: {} arrived, but {} trained + {} buffered + {} dropped + {} rejected + {} lost = {accounted}",
    .ledger.arrived, .ledger.trained, .ledger.buffered, .ledger.dropped, .ledger.rejected, .ledger.lost
)]
pub struct Imbalance {
    /// The ledger.
    pub ledger: Ledger,
    /// The sum of its columns.
    pub accounted: u64,
}

impl Ledger {
    /// arrived = trained + buffered + dropped + rejected + lost.
    pub fn check(&self) -> Result<(), Imbalance> {
        let accounted = self.trained + self.buffered + self.dropped + self.rejected + self.lost;
        if accounted == self.arrived { Ok(()) } else { Err(Imbalance { ledger: *self, accounted }) }
    }

    /// Whether more than `max_rejected_share` of the decided records were undecodable, once there are enough to judge.
    pub fn rejects_too_many(&self, max_rejected_share: f64) -> bool {
        let records = (self.trained + self.dropped + self.rejected).max(FEWEST_RECORDS_TO_JUDGE);
        self.rejected as f64 > max_rejected_share * records as f64
    }

    /// Adds the ledger of another device, for totals.
    pub fn add(&mut self, other: &Self) {
        self.arrived += other.arrived;
        self.trained += other.trained;
        self.buffered += other.buffered;
        self.dropped += other.dropped;
        self.rejected += other.rejected;
        self.lost += other.lost;
        self.gaps += other.gaps;
        self.rolled_back += other.rolled_back;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sample_is_an_imbalance_that_names_the_columns() {
        let mut ledger =
            Ledger { arrived: 10, trained: 4, buffered: 3, dropped: 2, lost: 1, ..Ledger::default() };
        assert_eq!(ledger.check(), Ok(()));
        ledger.lost = 0;
        let message = ledger.check().unwrap_err().to_string();
        assert!(message.contains("10 arrived") && message.contains("= 9"), "{message}");
    }

    #[test]
    fn one_bad_record_among_the_first_does_not_fail_a_job_but_two_percent_do() {
        let judge =
            |trained, rejected| Ledger { trained, rejected, ..Ledger::default() }.rejects_too_many(0.01);
        assert!(!judge(5, 1) && judge(5, 2) && judge(980, 20) && !judge(991, 9));
    }
}
