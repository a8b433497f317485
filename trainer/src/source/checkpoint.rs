//! What a restart needs to know of a stream. Plain data.

use scadles_api::Ledger;
use scadles_core::device_stream::{Decided, DeviceCheckpoint};
use serde::{Deserialize, Serialize};

/// Where a device's stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamCheckpoint {
    /// Offsets of the present topic, and what became of those below them.
    pub device: DeviceCheckpoint,
    /// What became of the samples of streams that are gone (an embedded broker that died with its runner).
    #[serde(default)]
    pub earlier: Ledger,
}

impl StreamCheckpoint {
    /// The same account with new streams that begin at `start_offsets`: everything decided so far becomes `earlier`.
    /// What the gone streams still held is known to nobody and not counted as arrived.
    pub(super) fn with_new_streams(&self, start_offsets: &[u64]) -> Self {
        let decided = self.device.partitions.iter().map(|partition| partition.decided);
        let decided = decided.fold(Decided::default(), |all, partition| all + partition);
        let gone = Ledger {
            arrived: decided.offsets() - decided.gaps,
            trained: decided.trained,
            buffered: 0,
            dropped: decided.dropped,
            rejected: decided.rejected,
            lost: decided.lost,
            rolled_back: self.device.rolled_back,
            ..Ledger::default()
        };
        let earlier = self.earlier + gone;
        Self { device: DeviceCheckpoint::starting_at(start_offsets), earlier }
    }
}
