//! Checks on the ledger of one device: every sample that arrived is in exactly one column (ARCHITECTURE.md, "Life of a
//! sample"). No I/O.

pub use scadles_api::Ledger;

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
}
