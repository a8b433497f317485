//! Combining gradients: the sum over ranks, added in rank order, in place on the flat gradient buffer. No I/O of its own.
//!
//! Floating-point addition depends on its order, so all CPU engines add rank 0, 1, … n−1: in-process, Gloo, logical
//! devices in one thread and replay then give the same bits for any bucket cut. For up to two ranks the transport's own
//! sum has these bits too, and is used. Gradients on GPUs are summed there, in NCCL's own order.

mod buckets;
mod compressed;
mod link;
mod overlap;
pub mod residuals;
pub mod statistics;

use std::time::Instant;

use scadles_api::worker::CompressionConfig;
use scadles_core::compress::gate::{CompressionDecision, CompressionReport};
use scadles_core::exchange_plan::{Bucket, add_in_rank_order, plan_buckets};
use torch_ext::FlatParameters;

pub use compressed::{CompressedExchange, rule};
pub(crate) use compressed::{compressor, progress};
pub use overlap::{Exchanged, WireTime};

use crate::engine::{Communicator, EngineError, SumOrder};
use crate::learner::{Learner, LearnerError};
use crate::numeric::Real;

/// Up to this many ranks a sum does not depend on the order of addition.
const ORDER_FREE_RANKS: usize = 2;

/// What one exchange has cost this rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExchangeStatistics {
    /// Bytes that this rank sent to others.
    pub bytes_sent: u64,
    /// Time in collectives, waiting for slower ranks in them; with what a compressed exchange works beside them.
    pub seconds: f64,
}

/// The exchange of a job's gradients.
#[derive(Debug)]
pub enum GradientExchange {
    /// Without compression.
    Dense(DenseExchange),
    /// With it: what is agreed on, step by step.
    Compressed(Box<CompressedExchange>),
}

impl GradientExchange {
    /// For the gradients of `flat` between `world_size` ranks.
    pub fn new(flat: &FlatParameters, world_size: usize, compression: Option<CompressionConfig>) -> Self {
        match compression {
            None => Self::Dense(DenseExchange::new(flat, world_size)),
            Some(config) => Self::Compressed(Box::new(CompressedExchange::new(flat, world_size, &config))),
        }
    }

    /// [`DenseExchange::after_compute`].
    #[must_use]
    pub fn after_compute(self) -> Self {
        match self {
            Self::Dense(exchange) => Self::Dense(exchange.after_compute()),
            Self::Compressed(exchange) => Self::Compressed(Box::new(exchange.after_compute())),
        }
    }

    /// Replaces `gradients` (u) by what the ranks of `comm` deliver at the rate `learning_rate` (η_t).
    pub fn combine(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        decision: CompressionDecision,
        learning_rate: f64,
    ) -> Result<ExchangeStatistics, EngineError> {
        match self {
            Self::Dense(exchange) => exchange.combine(comm, gradients),
            Self::Compressed(exchange) => exchange.combine(comm, gradients, decision, learning_rate),
        }
    }

    /// Runs `compute`, as [`DenseExchange::combine_while`] has it, and combines the gradients of `learner` as
    /// [`GradientExchange::combine`] does: while backward still computes, where that gains anything. Gradients of a network
    /// on a GPU stay there for a sum without compression; on a GPU all exchanges begin after compute.
    pub fn compute_and_combine<C, E>(
        &mut self,
        comm: &mut dyn Communicator,
        learner: &mut Learner<f32>,
        (decision, learning_rate): (CompressionDecision, f64),
        compute: impl FnOnce(&mut Learner<f32>) -> Result<C, E>,
    ) -> Result<(C, Exchanged), E>
    where
        E: From<EngineError> + From<LearnerError>,
    {
        let on_device = learner.is_on_device();
        match self {
            Self::Dense(exchange) if !on_device && exchange.gains_by_overlap() => {
                exchange.combine_while(comm, learner, compute)
            }
            Self::Compressed(exchange) if !on_device && exchange.gains_by_overlap() => {
                exchange.combine_while(comm, learner, (decision, learning_rate), compute)
            }
            _ => {
                let computed = compute(learner)?;
                let statistics = match self {
                    Self::Dense(exchange) if on_device => exchange.combine_on_device(comm, learner)?,
                    _ => self.combine(comm, learner.gradients_mut()?, decision, learning_rate)?,
                };
                Ok((computed, Exchanged { statistics, wire: Vec::new() }))
            }
        }
    }

    /// The compression, if the job has one.
    pub fn compressed(&self) -> Option<&CompressedExchange> {
        match self {
            Self::Dense(_) => None,
            Self::Compressed(exchange) => Some(exchange),
        }
    }

    /// What this rank tells the others after a step, in jobs with compression.
    pub fn report(&self) -> Option<CompressionReport> {
        self.compressed().map(CompressedExchange::report)
    }
}

/// The dense exchange of a flat gradient buffer, bucket by bucket.
#[derive(Debug)]
pub struct DenseExchange {
    buckets: Vec<Bucket>,
    total_elements: usize,
    world_size: usize,
    order: SumOrder,
    /// Whether buckets may leave while backward computes.
    overlaps: bool,
}

impl DenseExchange {
    /// For the gradients of `flat` between `world_size` ranks.
    pub fn new(flat: &FlatParameters, world_size: usize) -> Self {
        let offsets: Vec<usize> = flat.layout().iter().map(|slot| slot.offset_elements).collect();
        Self::with_layout(&offsets, flat.len(), flat.kind().elt_size_in_bytes(), world_size)
    }

    /// For a flat buffer of `total_elements` of `element_bytes` whose tensors start at `slot_offsets` (ascending).
    pub fn with_layout(
        slot_offsets: &[usize],
        total_elements: usize,
        element_bytes: usize,
        world_size: usize,
    ) -> Self {
        let buckets = plan_buckets(slot_offsets, total_elements, element_bytes, world_size);
        let order = if world_size <= ORDER_FREE_RANKS { SumOrder::Native } else { SumOrder::Rank };
        Self { buckets, total_elements, world_size, order, overlaps: true }
    }

    /// The same exchange, which begins only when compute is over: where somebody looks at a rank's own gradient.
    #[must_use]
    pub fn after_compute(self) -> Self {
        Self { overlaps: false, ..self }
    }

    /// Replaces `gradients` by their sum over the ranks of `comm`. All buckets are exchanged, in order, whether this
    /// rank contributed to them or not. With one rank nothing happens. After an error `gradients` hold no sum.
    pub fn combine<T: Real>(
        &self,
        comm: &mut dyn Communicator,
        gradients: &mut [T],
    ) -> Result<ExchangeStatistics, EngineError> {
        self.check(comm.world_size(), gradients.len())?;
        if self.world_size == 1 {
            return Ok(ExchangeStatistics::default());
        }
        let (start, sent_before) = (Instant::now(), comm.bytes_sent());
        for bucket in &self.buckets {
            self.combine_bucket(comm, &mut gradients[bucket.range.clone()])?;
        }
        Ok(ExchangeStatistics {
            bytes_sent: comm.bytes_sent() - sent_before,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// [`DenseExchange::combine`] where the gradients of `learner` are, on its GPU, and in the transport's order of addition.
    fn combine_on_device<T: Real>(
        &self,
        comm: &mut dyn Communicator,
        learner: &mut Learner<T>,
    ) -> Result<ExchangeStatistics, EngineError> {
        self.check(comm.world_size(), learner.flat().len())?;
        let Some(gradients) = learner.gradients_on_device().filter(|_| self.world_size > 1) else {
            return Ok(ExchangeStatistics::default());
        };
        let (start, sent_before) = (Instant::now(), comm.bytes_sent());
        for Bucket { range, .. } in &self.buckets {
            let bucket = gradients.f_narrow(0, range.start as i64, range.len() as i64);
            comm.all_reduce_on_device(&mut bucket.map_err(|error| refused(&error.to_string()))?)?;
        }
        Ok(ExchangeStatistics {
            bytes_sent: comm.bytes_sent() - sent_before,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// One bucket's part of it.
    fn combine_bucket<T: Real>(
        &self,
        comm: &mut dyn Communicator,
        gradients: &mut [T],
    ) -> Result<(), EngineError> {
        if self.world_size == 1 { Ok(()) } else { comm.all_reduce_sum(T::values_mut(gradients), self.order) }
    }

    /// A single bucket is complete when backward is.
    fn gains_by_overlap(&self) -> bool {
        self.overlaps && self.world_size > 1 && self.buckets.len() > 1
    }

    fn check(&self, world_size: usize, elements: usize) -> Result<(), EngineError> {
        let refuse = |message| Err(EngineError::Argument { operation: "combine", message });
        if world_size != self.world_size {
            return refuse(format!(
                "the group has {world_size} ranks; the exchange is laid out for {}",
                self.world_size
            ));
        }
        if elements != self.total_elements {
            return refuse(format!(
                "there are {elements} gradients; the exchange is laid out for {}",
                self.total_elements
            ));
        }
        Ok(())
    }
}

fn refused(message: &str) -> EngineError {
    EngineError::Argument { operation: "combine", message: message.to_owned() }
}

/// The sum of logical devices' gradients in rank order into `sum`: the bits that [`DenseExchange::combine`] gives the
/// ranks. Contributions are as long as `sum`; replay and tests use this.
pub fn combine_logical<T: Real>(sum: &mut [T], contributions: &[Vec<T>]) -> Result<(), EngineError> {
    if let Some((rank, other)) = contributions.iter().enumerate().find(|(_, other)| other.len() != sum.len())
    {
        let message =
            format!("device {rank} contributes {} gradients; the sum has {}", other.len(), sum.len());
        return Err(EngineError::Argument { operation: "combine_logical", message });
    }
    let contributions: Vec<&[T]> = contributions.iter().map(Vec::as_slice).collect();
    add_in_rank_order(sum, &contributions);
    Ok(())
}

#[cfg(test)]
mod tests;
