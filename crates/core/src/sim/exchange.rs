//! What an exchange of gradients moves and takes, from volumes and a line model. No I/O.

use serde::{Deserialize, Serialize};

use super::or_infinite;

/// Bytes of a value (f32).
pub const BYTES_PER_VALUE: u64 = 4;
/// Bytes per kept value of the sparse reduce-scatter, whatever n: values and indices go out once and come back once.
const REDUCE_SCATTER_BYTES: f64 = 24.0;

/// A number of steps so close below a whole one is that one.
const ROUNDING: f64 = 1e-6;

/// How gradients travel when they are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SparseKind {
    /// Everybody gets everybody's values, each with an index of so many bytes.
    AllGather {
        /// Bytes of an index.
        index_bytes: u32,
    },
    /// The owner of a range adds and keeps the largest (after Ok-Topk, PPoPP'22).
    ReduceScatter,
}

/// Bytes that one rank sends in a dense step: ring, or ranges and all-gather, 2(n−1)/n of the parameters.
pub const fn dense_bytes(parameters: u64, world_size: usize) -> u64 {
    let ranks = if world_size == 0 { 1 } else { world_size as u64 };
    2 * (ranks - 1) * parameters * BYTES_PER_VALUE / ranks
}

/// Bytes that one rank moves in a sparse step that keeps the share `compression_ratio` of all values.
pub fn sparse_bytes(kind: SparseKind, compression_ratio: f64, parameters: u64, world_size: usize) -> u64 {
    let kept = compression_ratio * parameters as f64;
    let others = world_size.saturating_sub(1) as f64;
    let bytes = match kind {
        SparseKind::AllGather { index_bytes } => {
            kept * others * (BYTES_PER_VALUE as f64 + f64::from(index_bytes))
        }
        SparseKind::ReduceScatter => kept * REDUCE_SCATTER_BYTES * others / (others + 1.0),
    };
    bytes.round() as u64
}

/// The compression ratio at which a sparse all-gather moves what a dense step does; above it compression costs bytes.
/// `None` for fewer than two devices, which exchange nothing.
pub fn break_even_ratio(index_bytes: u32, world_size: usize) -> Option<f64> {
    let per_value = BYTES_PER_VALUE as f64;
    (world_size > 1).then(|| 2.0 * per_value / (world_size as f64 * (per_value + f64::from(index_bytes))))
}

/// A line: what is moved takes its bytes over the bandwidth, and a latency for each other rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NetworkModel {
    /// Bytes per second and rank.
    #[serde(with = "or_infinite")]
    pub bytes_per_second: f64,
    /// Seconds per exchange and rank beyond the first, however little is moved.
    pub latency_seconds: f64,
}

impl NetworkModel {
    /// A network that takes no time.
    pub const INSTANT: Self = Self { bytes_per_second: f64::INFINITY, latency_seconds: 0.0 };

    /// Seconds in which every rank moves `bytes`.
    pub fn exchange_seconds(&self, bytes: u64, world_size: usize) -> f64 {
        bytes as f64 / self.bytes_per_second + self.latency_seconds * world_size.saturating_sub(1) as f64
    }
}

/// Compression as a volume: the gate itself needs gradients, so the share of sparse steps is an argument.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SparseModel {
    /// How sparse steps travel.
    pub kind: SparseKind,
    /// CR in (0, 1].
    pub compression_ratio: f64,
    /// CNC: the share of steps that are sparse, in [0, 1].
    pub sparse_share: f64,
    /// Seconds to select the values of a sparse step.
    pub select_seconds: f64,
}

/// What the exchange of a job moves and takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExchangeModel {
    /// Values of the gradient.
    pub parameters: u64,
    /// The line.
    pub network: NetworkModel,
    /// Agreement and update: seconds per step beside what the line takes.
    pub constant_seconds: f64,
    /// Compression, if any.
    pub sparse: Option<SparseModel>,
}

/// What a rank has sent in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the rank that sends most.
    pub bytes: u64,
    /// Whether values were left out.
    pub sparse: bool,
}

/// The exchange of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StepExchange {
    /// Bytes that each rank sends.
    pub(super) bytes: u64,
    /// Until all have everything, in seconds.
    pub(super) seconds: f64,
    /// Whether values were left out.
    pub(super) sparse: bool,
}

impl ExchangeModel {
    /// An exchange that takes always the same, and of whose bytes nothing is known.
    pub const fn constant(seconds: f64) -> Self {
        Self { parameters: 0, network: NetworkModel::INSTANT, constant_seconds: seconds, sparse: None }
    }

    /// The exchange of step `step` (from 0): sparse steps are spread evenly.
    pub(super) fn of_step(&self, step: u64, world_size: usize) -> StepExchange {
        let sparse = self.sparse.filter(|sparse| {
            let due = |steps: u64| (steps as f64 * sparse.sparse_share + ROUNDING) as u64;
            due(step + 1) > due(step)
        });
        let bytes = match sparse {
            Some(sparse) => sparse_bytes(sparse.kind, sparse.compression_ratio, self.parameters, world_size),
            None => dense_bytes(self.parameters, world_size),
        };
        self.of_bytes(Sent { bytes, sparse: sparse.is_some() }, world_size)
    }

    /// The exchange of a step in which `sent` is known.
    pub(super) fn of_bytes(&self, Sent { bytes, sparse }: Sent, world_size: usize) -> StepExchange {
        let select_seconds = self.sparse.filter(|_| sparse).map_or(0.0, |model| model.select_seconds);
        let seconds =
            self.constant_seconds + select_seconds + self.network.exchange_seconds(bytes, world_size);
        StepExchange { bytes, seconds, sparse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_loses_bytes_from_7_devices_with_indices_of_8_bytes_and_from_11_with_4() {
        for (index_bytes, loses_from) in [(8, 7), (4, 11)] {
            let costs_more = |n: usize| {
                let kind = SparseKind::AllGather { index_bytes };
                sparse_bytes(kind, 0.1, 1_000_000, n) > dense_bytes(1_000_000, n)
            };
            assert_eq!((2..30).find(|&n| costs_more(n)), Some(loses_from));
            let below = |n: usize| break_even_ratio(index_bytes, n).unwrap() < 0.1 - 1e-12;
            assert_eq!((2..30).find(|&n| below(n)), Some(loses_from));
        }
        assert_eq!(break_even_ratio(4, 1), None);
    }

    #[test]
    fn a_reduce_scatter_moves_about_the_same_whatever_the_world() {
        let bytes = |n| sparse_bytes(SparseKind::ReduceScatter, 0.01, 1_000_000, n);
        assert_eq!([bytes(1), bytes(2), bytes(16)], [0, 120_000, 225_000]);
    }

    #[test]
    fn sparse_steps_are_as_many_as_their_share_and_spread_evenly() {
        let sparse = SparseModel {
            kind: SparseKind::ReduceScatter,
            compression_ratio: 0.1,
            sparse_share: 0.29,
            select_seconds: 0.5,
        };
        let network = NetworkModel { bytes_per_second: 1e6, latency_seconds: 0.01 };
        let model =
            ExchangeModel { parameters: 1_000_000, network, constant_seconds: 0.2, sparse: Some(sparse) };
        let steps: Vec<StepExchange> = (0..100).map(|step| model.of_step(step, 4)).collect();
        assert_eq!(steps.iter().filter(|step| step.sparse).count(), 29);
        assert!(steps.windows(2).all(|pair| !(pair[0].sparse && pair[1].sparse)), "two in a row");
        // 6 MB at 1 MB/s, three latencies, the constant; sparse: 1.8 MB and half a second to select.
        assert!((steps[0].seconds - 6.23).abs() < 1e-9, "{:?}", steps[0]);
        assert!(steps.iter().all(|step| !step.sparse || (step.seconds - 2.53).abs() < 1e-9));
    }
}
