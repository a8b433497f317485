//! The account of a device's samples: nothing is lost silently.

use serde::{Deserialize, Serialize};

/// Where every sample of one device went, counted from the recorded start position of its stream (ARCHITECTURE.md, "Life of
/// a sample"). Invariant: [`Ledger::is_balanced`]; the last three columns are beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Records that reached the stream: growth of the end offsets, transaction markers left out.
    pub arrived: u64,
    /// Samples whose step has committed, counted at the device where they arrived.
    pub trained: u64,
    /// Samples that wait: in the worker's arena and at the broker.
    pub buffered: u64,
    /// Samples given up by the stream policy.
    pub dropped: u64,
    /// Records that could not be decoded.
    pub rejected: u64,
    /// Records that the broker's retention removed before they were read.
    pub lost: u64,
    /// Samples trained by steps that a restart rolled back; they are buffered again, or trained a second time.
    pub rolled_back: u64,
    /// Samples given or copied to other devices, each counted once, at the device where it arrived.
    #[serde(default)]
    pub shared_out: u64,
    /// Samples of other devices that this one trained.
    #[serde(default)]
    pub received: u64,
}

impl Ledger {
    /// arrived = trained + buffered + dropped + rejected + lost.
    pub const fn is_balanced(&self) -> bool {
        self.arrived == self.trained + self.buffered + self.dropped + self.rejected + self.lost
    }
}

impl std::ops::Add for Ledger {
    type Output = Self;

    /// Column by column: the account of both together.
    fn add(self, other: Self) -> Self {
        Self {
            arrived: self.arrived + other.arrived,
            trained: self.trained + other.trained,
            buffered: self.buffered + other.buffered,
            dropped: self.dropped + other.dropped,
            rejected: self.rejected + other.rejected,
            lost: self.lost + other.lost,
            rolled_back: self.rolled_back + other.rolled_back,
            shared_out: self.shared_out + other.shared_out,
            received: self.received + other.received,
        }
    }
}

impl std::iter::Sum for Ledger {
    fn sum<I: Iterator<Item = Self>>(ledgers: I) -> Self {
        ledgers.fold(Self::default(), |sum, ledger| sum + ledger)
    }
}

/// The place of one partition in a device's stream. Offsets are the broker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionPosition {
    /// Partition number within the device's topic.
    pub partition: i32,
    /// First offset that counts as arrived: resolved once, before the first step.
    pub start: i64,
    /// Next untrained offset.
    pub next: i64,
    /// End offset (high watermark) when the position was taken.
    pub end: i64,
}
