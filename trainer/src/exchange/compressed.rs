//! Combining compressed gradients: the collectives around [`scadles_core::compress`]. No I/O of its own.
//!
//! Lengths travel before messages, since selections differ in size; a length beyond what a rank may send at most is
//! refused before memory is taken for it.

use std::time::Instant;

use scadles_api::{progress::CompressionProgress, tuning::CompressionTuning, worker::CompressionConfig};
use scadles_core::{
    compress::{
        compressor::Compressor,
        cost::LinkCost,
        exchange::{
            LENGTH_BYTES, SparseExchange, compression_rule, deliver_from_all, deliver_from_owners,
            dense_bytes,
        },
        gate::{
            CompressionDecision, CompressionReport, CompressionRule, CompressionState, EnergyStatistics,
            SparseChoice, ratios,
        },
        half::{deliver_halves, half_length},
        layout::SparseLayout,
        wire::{ValueFormat, WireError},
    },
    ewma::Ewma,
};
use torch_ext::FlatParameters;

use super::{DenseExchange, ExchangeStatistics};
use crate::engine::{Communicator, EngineError};

/// How values travel: two bytes over the range of f32. What that rounds off stays in the residual.
const VALUE_FORMAT: ValueFormat = ValueFormat::Bf16;
/// Share of the newest measurement of the link in the mean.
const LINK_GAIN: f64 = 0.2;

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

/// Means of what was measured.
#[derive(Debug, Default)]
struct Link {
    latency_seconds: Ewma,
    seconds_per_byte: Ewma,
    dense_seconds_per_byte: Ewma,
    half_seconds_per_element: Ewma,
    sparse_seconds_per_element: Ewma,
    exchange_seconds: Ewma,
    /// Of the present step, what was transferring.
    moving_seconds: f64,
}

impl Link {
    fn cost(&self) -> LinkCost {
        let mean = |mean: &Ewma| mean.value().unwrap_or(0.0);
        LinkCost {
            latency_seconds: mean(&self.latency_seconds),
            seconds_per_byte: mean(&self.seconds_per_byte),
            dense_seconds_per_byte: mean(&self.dense_seconds_per_byte),
            half_seconds_per_element: mean(&self.half_seconds_per_element),
            sparse_seconds_per_element: mean(&self.sparse_seconds_per_element),
        }
    }

    fn met(&mut self, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        self.moving_seconds += seconds;
        self.latency_seconds.update(seconds, LINK_GAIN);
    }

    fn moved(&mut self, began: Instant, bytes: usize) {
        let seconds = began.elapsed().as_secs_f64();
        self.moving_seconds += seconds;
        if bytes > 0 {
            self.seconds_per_byte.update(seconds / bytes as f64, LINK_GAIN);
        }
    }

    /// A step of `seconds` is over that sent `bytes`; a rank works on `elements`.
    fn finished(&mut self, decision: CompressionDecision, seconds: f64, bytes: u64, elements: usize) {
        let working = (seconds - self.moving_seconds).max(0.0) / elements.max(1) as f64;
        self.moving_seconds = 0.0;
        self.exchange_seconds.update(seconds, LINK_GAIN);
        match decision {
            CompressionDecision::Dense if bytes > 0 => {
                self.dense_seconds_per_byte.update(seconds / bytes as f64, LINK_GAIN);
            }
            CompressionDecision::Dense => {}
            CompressionDecision::Half => self.half_seconds_per_element.update(working, LINK_GAIN),
            CompressionDecision::Sparse(_) => self.sparse_seconds_per_element.update(working, LINK_GAIN),
        }
    }
}

impl CompressedExchange {
    /// For the gradients of `flat` between `world_size` ranks.
    pub fn new(flat: &FlatParameters, world_size: usize, config: &CompressionConfig) -> Self {
        let compressor = compressor(flat, world_size, config);
        let dense_bytes = dense_bytes(compressor.layout());
        let dense = DenseExchange::new(flat, world_size);
        Self { compressor, dense, dense_bytes, link: Link::default(), energy: None }
    }

    /// This rank's residual.
    pub fn compressor(&self) -> &Compressor {
        &self.compressor
    }

    /// The same, to be restored.
    pub fn compressor_mut(&mut self) -> &mut Compressor {
        &mut self.compressor
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
            exchange_seconds: self.link.exchange_seconds.value().unwrap_or(0.0),
        }
    }

    /// Bytes that a dense step sends.
    pub fn dense_bytes(&self) -> u64 {
        self.dense_bytes
    }

    /// Replaces `gradients` (u) by what the ranks of `comm` deliver at the rate `learning_rate` (η_t), on the path that
    /// was decided on. After an error `gradients` hold no sum and the residual is not to be used.
    pub fn combine(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        decision: CompressionDecision,
        learning_rate: f64,
    ) -> Result<ExchangeStatistics, EngineError> {
        self.dense.check(comm.world_size(), gradients.len())?;
        let (start, sent_before) = (Instant::now(), comm.bytes_sent());
        let energy = match decision {
            CompressionDecision::Dense => {
                let energy = self.compressor.compensate(gradients, learning_rate);
                self.dense.combine(comm, gradients)?;
                energy
            }
            CompressionDecision::Half => self.half(comm, gradients, learning_rate)?,
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level }) => {
                self.all_gather(comm, gradients, level, learning_rate)?
            }
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, level }) => {
                self.reduce_scatter(comm, gradients, level, learning_rate)?
            }
        };
        self.energy = Some(energy);
        let (bytes_sent, seconds) = (comm.bytes_sent() - sent_before, start.elapsed().as_secs_f64());
        let elements = gradients.len() + self.owned_elements(comm.rank(), decision);
        self.link.finished(decision, seconds, bytes_sent, elements);
        Ok(ExchangeStatistics { bytes_sent, seconds })
    }

    /// Elements that the rank selects from a second time.
    fn owned_elements(&self, rank: usize, decision: CompressionDecision) -> usize {
        let CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::ReduceScatter, .. }) =
            decision
        else {
            return 0;
        };
        self.compressor.layout().buckets.iter().map(|bucket| bucket.bucket.owned_range(rank).len()).sum()
    }

    fn half(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        learning_rate: f64,
    ) -> Result<EnergyStatistics, EngineError> {
        let (own, energy) = self.compressor.halves_for_owners(gradients, learning_rate);
        let ranks = comm.world_size();
        let lengths: Vec<usize> =
            (0..ranks).map(|owner| half_length(self.compressor.layout(), owner)).collect();
        let mine = vec![lengths[comm.rank()]; ranks];
        let received = self.hand_to_owners(comm, &own, &mine)?;
        let result = self.compressor.own_halves(comm.rank(), &split(&received, &mine));
        let result = result.map_err(|error| unreadable(&error))?;
        let mut received = vec![0; lengths.iter().sum()];
        let began = Instant::now();
        comm.all_gather_v(&result, &mut received, &lengths)?;
        self.link.moved(began, result.len() * (ranks - 1));
        deliver_halves(self.compressor.layout(), &split(&received, &lengths), gradients)
            .map_err(|error| unreadable(&error))?;
        Ok(energy)
    }

    fn all_gather(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        level: u8,
        learning_rate: f64,
    ) -> Result<EnergyStatistics, EngineError> {
        let (own, energy) = self.compressor.compress_for_all(level, gradients, learning_rate);
        let (parts, lengths) = self.gather(comm, &own)?;
        let parts = split(&parts, &lengths);
        deliver_from_all(self.compressor.layout(), &parts, gradients).map_err(|error| unreadable(&error))?;
        Ok(energy)
    }

    fn reduce_scatter(
        &mut self,
        comm: &mut dyn Communicator,
        gradients: &mut [f32],
        level: u8,
        learning_rate: f64,
    ) -> Result<EnergyStatistics, EngineError> {
        let (own, energy) = self.compressor.compress_for_owners(level, gradients, learning_rate);
        let counts: Vec<usize> = own.iter().map(Vec::len).collect();
        let each = vec![LENGTH_BYTES; comm.world_size()];
        let mut lengths = vec![0; LENGTH_BYTES * comm.world_size()];
        let began = Instant::now();
        comm.all_to_all_v(&as_bytes(&counts), &each, &mut lengths, &each)?;
        self.link.met(began);
        let lengths = self.checked(&lengths)?;
        let received = self.hand_to_owners(comm, &own, &lengths)?;
        let parts = split(&received, &lengths);
        let result = self.compressor.own(level, comm.rank(), &parts).map_err(|error| unreadable(&error))?;
        let (parts, lengths) = self.gather(comm, &result)?;
        deliver_from_owners(self.compressor.layout(), &split(&parts, &lengths), gradients)
            .map_err(|error| unreadable(&error))?;
        Ok(energy)
    }

    /// What the ranks have for this owner, `lengths` bytes of each, one after another.
    fn hand_to_owners(
        &mut self,
        comm: &mut dyn Communicator,
        own: &[Vec<u8>],
        lengths: &[usize],
    ) -> Result<Vec<u8>, EngineError> {
        let counts: Vec<usize> = own.iter().map(Vec::len).collect();
        let mut received = vec![0; lengths.iter().sum()];
        let began = Instant::now();
        comm.all_to_all_v(&own.concat(), &counts, &mut received, lengths)?;
        self.link.moved(began, counts.iter().sum());
        Ok(received)
    }

    /// Every rank's bytes one after another, and how many of each.
    fn gather(
        &mut self,
        comm: &mut dyn Communicator,
        own: &[u8],
    ) -> Result<(Vec<u8>, Vec<usize>), EngineError> {
        let mut lengths = vec![0; LENGTH_BYTES * comm.world_size()];
        let began = Instant::now();
        comm.all_gather_equal(&as_bytes(&[own.len()]), &mut lengths)?;
        self.link.met(began);
        let lengths = self.checked(&lengths)?;
        let mut received = vec![0; lengths.iter().sum()];
        let began = Instant::now();
        comm.all_gather_v(own, &mut received, &lengths)?;
        self.link.moved(began, own.len() * (comm.world_size() - 1));
        Ok((received, lengths))
    }

    /// Lengths as the others told them, none above what a sparse step may take.
    fn checked(&self, bytes: &[u8]) -> Result<Vec<usize>, EngineError> {
        let most = self.dense_bytes.max(1 << 20);
        let lengths = bytes.as_chunks::<LENGTH_BYTES>().0.iter().map(|chunk| u64::from_le_bytes(*chunk));
        lengths
            .enumerate()
            .map(|(rank, length)| {
                if length <= most {
                    return Ok(length as usize);
                }
                let message = format!("rank {rank} announces {length} bytes; at most {most} are possible");
                Err(EngineError::Mismatch { operation: OPERATION, message })
            })
            .collect()
    }
}

const OPERATION: &str = "combine compressed gradients";

fn as_bytes(lengths: &[usize]) -> Vec<u8> {
    lengths.iter().flat_map(|&length| (length as u64).to_le_bytes()).collect()
}

fn split<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    lengths
        .iter()
        .map(|&length| {
            let (part, others) = rest.split_at(length);
            rest = others;
            part
        })
        .collect()
}

fn unreadable(error: &WireError) -> EngineError {
    EngineError::Mismatch { operation: OPERATION, message: error.to_string() }
}
