//! Combining compressed gradients, during backward or after it: [`scadles_core::compress`] step by step. No I/O of its own.

use std::time::Instant;

use scadles_api::{progress::CompressionProgress, tuning::CompressionTuning, worker::CompressionConfig};
use scadles_core::compress::{
    compressor::{Compressor, TornError},
    exchange::{SparseExchange, compression_rule, dense_bytes},
    gate::{
        CompressionDecision, CompressionReport, CompressionRule, CompressionState, EnergyStatistics,
        SparseChoice, ratios,
    },
    layout::SparseLayout,
    wire::ValueFormat,
};
use torch_ext::FlatParameters;

use super::{
    DenseExchange, ExchangeStatistics,
    buckets::BucketExchange,
    link::{Link, Spent},
    overlap::{Exchanged, while_computing},
};
use crate::{
    engine::{Communicator, EngineError},
    learner::{Learner, LearnerError},
};

/// How values travel: two bytes over the range of f32. What that rounds off stays in the residual.
pub(super) const VALUE_FORMAT: ValueFormat = ValueFormat::Bf16;

/// One per ratio.
fn layouts(flat: &FlatParameters, world_size: usize, config: &CompressionConfig) -> Vec<SparseLayout> {
    let offsets: Vec<usize> = flat.layout().iter().map(|slot| slot.offset_elements).collect();
    let at = |ratio| SparseLayout::new(&offsets, flat.len(), world_size, ratio);
    ratios(config.ratio, config.is_free).into_iter().map(at).collect()
}

/// One rank's compression of the gradients of `flat` between `world_size` ranks.
pub(crate) fn compressor(flat: &FlatParameters, world_size: usize, config: &CompressionConfig) -> Compressor {
    Compressor::new(layouts(flat, world_size, config), config.energy_of, VALUE_FORMAT)
}

/// What the ranks of a job decide by, step by step, how the gradients of `flat` travel.
pub fn rule(flat: &FlatParameters, world_size: usize, config: &CompressionConfig) -> CompressionRule {
    compression_rule(&layouts(flat, world_size, config), VALUE_FORMAT, config.delta, config.is_free)
}

/// What progress shows of `known`.
pub(crate) fn progress(config: &CompressionConfig, known: &CompressionState) -> CompressionProgress {
    // Before the first sparse step, the ratio that is tried first.
    let first = ratios(config.ratio, config.is_free).first().copied();
    CompressionProgress {
        ratio: known.mean_ratio().or(first).unwrap_or(1.0),
        sparse_steps: known.all_sparse_steps(),
        half_steps: known.half_steps,
        vetoed_steps: known.vetoed_steps,
        energy_loss: known.energy_losses[0].value(),
    }
}

/// The exchange of a job with compression: what was agreed on, dense or sparse, with error feedback.
#[derive(Debug)]
pub struct CompressedExchange {
    compressor: Compressor,
    dense: DenseExchange,
    dense_bytes: u64,
    link: Link,
    energy: Option<EnergyStatistics>,
}

impl CompressedExchange {
    /// For the gradients of `flat` between `world_size` ranks.
    pub fn new(flat: &FlatParameters, world_size: usize, config: &CompressionConfig) -> Self {
        let compressor = compressor(flat, world_size, config);
        let dense_bytes = dense_bytes(compressor.layout());
        let dense = DenseExchange::new(flat, world_size);
        Self { compressor, dense, dense_bytes, link: Link::default(), energy: None }
    }

    /// [`DenseExchange::after_compute`].
    #[must_use]
    pub fn after_compute(self) -> Self {
        Self { dense: self.dense.after_compute(), ..self }
    }

    /// This rank's compression.
    pub fn compressor(&self) -> &Compressor {
        &self.compressor
    }

    /// The same, to be restored.
    pub fn compressor_mut(&mut self) -> &mut Compressor {
        &mut self.compressor
    }

    /// This rank's residual; none after a step that has failed.
    pub fn residual(&self) -> Result<&[f32], EngineError> {
        self.compressor.residual().map_err(torn)
    }

    /// From now on selects as this says. What was kept back stays, and what was measured.
    pub fn tune(&mut self, tuning: &CompressionTuning) {
        self.compressor.tune(&ratios(tuning.ratio, tuning.is_free));
    }

    /// What this rank tells the others after a step.
    pub fn report(&self) -> CompressionReport {
        CompressionReport {
            energy: self.energy,
            link: self.link.cost(),
            exchange_seconds: self.link.added_seconds(),
            leads: self.link.leads(),
        }
    }

    /// Bytes that a dense step sends.
    pub fn dense_bytes(&self) -> u64 {
        self.dense_bytes
    }

    /// Replaces `gradients` (u) by what all ranks of `comm` deliver (d) at the rate `learning_rate` (η_t), as decided.
    /// After an error they hold no sum, and nobody gets to see the residual.
    pub fn combine(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        decision: CompressionDecision,
        learning_rate: f64,
    ) -> Result<ExchangeStatistics, EngineError> {
        self.dense.check(comm.world_size(), gradients.len())?;
        let (began, sent_before, rank) = (Instant::now(), comm.bytes_sent(), comm.rank());
        let mut buckets = self.begin(comm, decision, learning_rate)?;
        for (number, range) in buckets.ranges().into_iter().enumerate() {
            buckets.combine(number, &mut gradients[range])?;
        }
        let energy = buckets.finish();
        let (bytes_sent, seconds) = (comm.bytes_sent() - sent_before, began.elapsed().as_secs_f64());
        let elements = self.elements(rank, decision);
        let added_seconds = seconds;
        self.finish(energy, &Spent { decision, seconds, added_seconds, leads: None, bytes_sent, elements });
        Ok(ExchangeStatistics { bytes_sent, seconds })
    }

    /// Runs `compute`, as [`DenseExchange::combine_while`] has it; meanwhile another thread does with each bucket what
    /// [`CompressedExchange::combine`] does, to the same bits.
    pub fn combine_while<C, E>(
        &mut self,
        comm: &mut dyn Communicator,
        learner: &mut Learner<f32>,
        (decision, learning_rate): (CompressionDecision, f64),
        compute: impl FnOnce(&mut Learner<f32>) -> Result<C, E>,
    ) -> Result<(C, Exchanged), E>
    where
        E: From<EngineError> + From<LearnerError>,
    {
        self.dense.check(comm.world_size(), learner.flat().len())?;
        let (sent_before, rank) = (comm.bytes_sent(), comm.rank());
        let mut buckets = self.begin(comm, decision, learning_rate)?;
        let ranges = buckets.ranges();
        let combine = |number, bucket: &mut [f32]| buckets.combine(number, bucket);
        let (computed, overlap) = while_computing(learner, &ranges, compute, combine)?;
        let energy = buckets.finish();
        let (bytes_sent, seconds) = (comm.bytes_sent() - sent_before, overlap.seconds());
        let (added_seconds, leads) = (overlap.added_seconds(), overlap.leads());
        let elements = self.elements(rank, decision);
        self.finish(energy, &Spent { decision, seconds, added_seconds, leads, bytes_sent, elements });
        let statistics = ExchangeStatistics { bytes_sent, seconds };
        Ok((computed, Exchanged { statistics, wire: overlap.wire }))
    }

    pub(super) fn gains_by_overlap(&self) -> bool {
        self.dense.gains_by_overlap()
    }

    fn begin<'a>(
        &'a mut self,
        comm: &'a mut dyn Communicator,
        decision: CompressionDecision,
        learning_rate: f64,
    ) -> Result<BucketExchange<'a>, EngineError> {
        self.link.begin();
        let step = self.compressor.begin(learning_rate).map_err(torn)?;
        Ok(BucketExchange { comm, dense: &self.dense, link: &mut self.link, step, decision })
    }

    fn finish(&mut self, energy: EnergyStatistics, spent: &Spent) {
        self.energy = Some(energy);
        self.link.finished(spent);
    }

    /// Elements that the rank works on: its own, and those that it selects from a second time.
    fn elements(&self, rank: usize, decision: CompressionDecision) -> usize {
        let layout = self.compressor.layout();
        let owned = match decision {
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, .. }) => {
                layout.buckets.iter().map(|bucket| bucket.bucket.owned_range(rank).len()).sum()
            }
            _ => 0,
        };
        layout.total_elements + owned
    }
}

fn torn(error: TornError) -> EngineError {
    EngineError::Argument { operation: OPERATION, message: error.to_string() }
}

/// What errors name.
pub(super) const OPERATION: &str = "combine compressed gradients";
