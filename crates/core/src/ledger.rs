//! Checks on the ledger of one device: every sample that arrived is in exactly one column (algorithms §3, invariant 1).
//! No I/O.

pub use scadles_api::Ledger;

/// Below this many decided records the share of rejected ones says nothing yet.
const FEWEST_RECORDS_TO_JUDGE: u64 = 100;

/// The ledger does not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream ledger does not add up: {} arrived, but {} trained + {} buffered + {} dropped + {} rejected + {} lost = {}",
    .0.arrived, .0.trained, .0.buffered, .0.dropped, .0.rejected, .0.lost, accounted(.0)
)]
pub struct Imbalance(pub Ledger);

fn accounted(ledger: &Ledger) -> u64 {
    ledger.trained + ledger.buffered + ledger.dropped + ledger.rejected + ledger.lost
}

/// arrived = trained + buffered + dropped + rejected + lost.
pub fn check(ledger: &Ledger) -> Result<(), Imbalance> {
    if ledger.is_balanced() { Ok(()) } else { Err(Imbalance(*ledger)) }
}

/// Whether more than `max_rejected_share` of the decided records were undecodable, once there are enough to judge.
pub fn rejects_too_many(ledger: &Ledger, max_rejected_share: f64) -> bool {
    let records = (ledger.trained + ledger.dropped + ledger.rejected).max(FEWEST_RECORDS_TO_JUDGE);
    ledger.rejected as f64 > max_rejected_share * records as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sample_is_an_imbalance_that_names_the_columns() {
        let mut ledger =
            Ledger { arrived: 10, trained: 4, buffered: 3, dropped: 2, lost: 1, ..Ledger::default() };
        assert_eq!(check(&ledger), Ok(()));
        ledger.lost = 0;
        let message = check(&ledger).unwrap_err().to_string();
        assert!(message.contains("10 arrived") && message.contains("= 9"), "{message}");
    }

    #[test]
    fn one_bad_record_among_the_first_does_not_fail_a_job_but_two_percent_do() {
        let judge =
            |trained, rejected| rejects_too_many(&Ledger { trained, rejected, ..Ledger::default() }, 0.01);
        assert!(!judge(5, 1) && judge(5, 2) && judge(980, 20) && !judge(991, 9));
    }
}
