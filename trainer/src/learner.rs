//! The model: flat parameters, forward, backward. No I/O except [`Learner::save`], [`Learner::load`], and [`Learner::new`] for
//! a network of the user's own, which is a file.
//!
//! Guarantees: the same configuration and seed give the same bits; [`Learner::contribute`] leaves in the flat gradient
//! buffer exactly the gradient of loss_scale × Σ (class weight ×) cross-entropy, zero for an empty batch. Assumptions: one thread uses a
//! learner at a time and has called [`set_up_torch`].

mod network;
mod on_device;
mod parameters;
mod statistics;
mod tensors;

use std::{ops::Range, time::Instant};

use scadles_api::{ExitCode, worker::ModelConfig};
use scadles_core::batch::Split;
use tch::{Kind, Reduction, TchError, Tensor};
use torch_ext::{FlatParameters, LentGradients, Loan};
use twox_hash::XxHash64;

use crate::batch::Batch;
use crate::numeric::{Real, bytes_of};

pub use network::{ModelFileError, Network, NormBy};
pub use parameters::{Draw, ParameterSet};
pub use tensors::TensorsError;

/// What can go wrong in model code.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// libtorch refused an operation, such as a picture too small for the network.
    #[error("failed to compute with the model")]
    Torch(#[from] TchError),
    /// The flat buffers could not be made or read.
    #[error("failed to use the flat parameters")]
    Flat(#[from] torch_ext::Error),
    /// A file of tensors could not be written, read, or does not fit the model.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The file of a network of the user's own cannot be trained.
    #[error(transparent)]
    ModelFile(#[from] ModelFileError),
}

impl LearnerError {
    /// The exit code of a process that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::ModelFile(_) | Self::Tensors(TensorsError::OtherModelFile { .. }) => {
                ExitCode::Configuration
            }
            _ => ExitCode::Internal,
        }
    }

    /// What to do about it; empty if nothing.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::ModelFile(error) => error.remedy(),
            Self::Tensors(TensorsError::OtherModelFile { .. }) => {
                "put the file back that the run began with, or start a new run with this one"
            }
            _ => "",
        }
    }
}

/// Prepares the calling thread for reproducible compute: `threads` per torch operation, subnormal numbers become zero. What
/// one step frees is kept for the next.
/// To be called first in every thread that trains or evaluates; threads started later inherit it.
pub fn set_up_torch(threads: u32) -> Result<(), torch_ext::Error> {
    torch_ext::set_threads(i32::try_from(threads).unwrap_or(i32::MAX))?;
    if !torch_ext::keep_freed_memory() {
        tracing::debug!("this C library gives freed memory back; steps may be slower");
    }
    if !torch_ext::set_flush_denormal(true) {
        tracing::warn!(
            "this CPU cannot flush subnormal numbers to zero; steps may be slower and differ from other CPUs"
        );
    }
    Ok(())
}

/// What one rank's forward pass over its batch has shown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepStatistics {
    /// Sum of the samples' cross-entropy, unscaled, in nats.
    pub loss_sum: f64,
    /// Samples whose highest score was their label's, before the model learned from them (test-then-train).
    pub correct: u64,
    /// Samples in the batch.
    pub samples: u64,
}

impl std::ops::AddAssign for StepStatistics {
    fn add_assign(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.samples += other.samples;
    }
}

/// When one forward and backward pass took place.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Forward began.
    pub forward: Instant,
    /// Backward began.
    pub backward: Instant,
    /// Backward ended.
    pub ended: Instant,
}

/// A network with its parameters and gradients in flat buffers of `T`.
pub struct Learner<T: Real> {
    network: Box<dyn Network>,
    flat: FlatParameters,
    shapes: Vec<Vec<usize>>,
    /// Running statistics of the network's norms, which share these tensors; empty in most networks.
    norms: Vec<statistics::NormBuffers>,
    /// Samples that its running statistics have seen since all ranks' were made one.
    samples_since_agreement: u64,
    /// What a sample of each class counts in the loss; `None`: all the same.
    class_weights: Option<Tensor>,
    /// The passes of the step so far.
    passes: Vec<Pass>,
    /// Whether no contribution to the step follows the next one.
    last_is_next: bool,
    /// What the network computes with where that is not in `flat`.
    on_device: Option<on_device::OnDevice>,
    element: std::marker::PhantomData<T>,
}

impl<T: Real> Learner<T> {
    /// Builds the network that `config` names, with start values from `seed`.
    pub fn new(config: &ModelConfig, seed: u64) -> Result<Self, LearnerError> {
        let mut set = ParameterSet::new(T::KIND, seed);
        let network = network::build(config, &mut set)?;
        Self::with_network(network, &set)
    }

    /// A learner of any network, whose parameters are in `set`.
    pub fn with_network(network: Box<dyn Network>, set: &ParameterSet) -> Result<Self, LearnerError> {
        let flat = FlatParameters::adopt(set.named())?;
        // The start values have moved into the flat buffer.
        torch_ext::release_freed_memory();
        let sizes = |tensor: &Tensor| tensor.size().into_iter().map(|side| side as usize).collect();
        let shapes = set.named().iter().map(|(_, tensor)| sizes(tensor)).collect();
        Ok(Self {
            network,
            flat,
            shapes,
            norms: set.norms().iter().map(statistics::NormBuffers::shared).collect(),
            samples_since_agreement: 0,
            class_weights: None,
            passes: Vec::new(),
            last_is_next: false,
            on_device: None,
            element: std::marker::PhantomData,
        })
    }

    /// Lets a sample of class c count `class_weights[c]` times in the loss that is trained, Σ weight_c·CE (not divided by
    /// Σ weight_c as torch's mean is: the loss scale does that over all ranks); no weights: all count the same. What is
    /// reported of losses stays unweighted.
    pub fn with_class_weights(mut self, class_weights: &[f32]) -> Result<Self, LearnerError> {
        if !class_weights.is_empty() {
            self.class_weights = Some(Tensor::f_from_slice(class_weights)?.f_to_kind(T::KIND)?);
        }
        Ok(self)
    }

    /// Replaces the gradients by those of `loss_scale` × Σ class weight × cross-entropy over `batch`, at most `micro_batch`
    /// samples at a time; a network with running statistics splits evenly, and updates them with every part. With
    /// `loss_scale` = w_i / loss mass this is u_i = w_i·g_i, rank i's term of the paper's weighted sum (Eqn 4): the weight
    /// enters here and nowhere else. An empty batch leaves zeros.
    pub fn contribute(
        &mut self,
        batch: &Batch,
        loss_scale: f64,
        micro_batch: usize,
    ) -> Result<StepStatistics, LearnerError> {
        match &mut self.on_device {
            None => self.flat.zero_gradients(),
            Some(on_device) => on_device.begin(&self.flat)?,
        }
        self.passes.clear();
        self.contribute_more(batch, loss_scale, micro_batch)
    }

    /// Adds the gradients of `loss_scale` × Σ cross-entropy over another batch of the same step.
    pub fn contribute_more(
        &mut self,
        batch: &Batch,
        loss_scale: f64,
        micro_batch: usize,
    ) -> Result<StepStatistics, LearnerError> {
        let mut statistics = StepStatistics { samples: batch.len() as u64, ..StepStatistics::default() };
        let is_last = std::mem::take(&mut self.last_is_next);
        let split = if self.has_statistics() { Split::Even } else { Split::Full };
        let mut left = batch.len();
        for part in batch.parts(micro_batch, split) {
            let part = self.placed(part?)?;
            left -= part.len();
            let norm_by = NormBy::in_training(part.len());
            let forward = Instant::now();
            let scores = self.network.forward(&part.pictures, norm_by)?;
            if norm_by == NormBy::Batch {
                self.samples_since_agreement += part.len() as u64;
            }
            let loss = summed_cross_entropy(&scores, &part.labels, self.class_weights.as_ref())?;
            let scaled_loss = loss.f_mul_scalar(loss_scale)?;
            if is_last && left == 0 {
                self.flat.expect_last_backward();
            }
            let backward = Instant::now();
            scaled_loss.f_backward()?;
            self.passes.push(Pass { forward, backward, ended: Instant::now() });
            statistics.loss_sum += match self.class_weights {
                None => loss.f_double_value(&[])?,
                Some(_) => summed_cross_entropy(&scores.detach(), &part.labels, None)?.f_double_value(&[])?,
            };
            statistics.correct += correct(&scores, &part.labels)?;
        }
        Ok(statistics)
    }

    /// Lends the gradients to another thread, which gets each of `parts` (elements of the flat buffer) as soon as the step's
    /// last backward pass has completed it: [`FlatParameters::lend_gradients`].
    pub fn lend_gradients(&mut self, parts: &[Range<usize>]) -> Result<(LentGradients, Loan), LearnerError> {
        if self.is_on_device() {
            let message = "the network's gradients are not on the host while it computes".to_owned();
            return Err(torch_ext::Error::Argument { operation: "lend_gradients", message }.into());
        }
        Ok(self.flat.lend_gradients(parts)?)
    }

    /// The next contribution is the step's last: lent gradients are handed on from its last micro-batch's backward.
    pub fn last_is_next(&mut self) {
        self.last_is_next = true;
    }

    /// Forward and backward passes since [`Learner::contribute`] began, in order.
    pub fn passes(&self) -> &[Pass] {
        &self.passes
    }

    /// Scores `[b, classes]` and the summed cross-entropy of a batch, without gradients.
    pub(crate) fn score(&self, batch: &Batch) -> Result<(Tensor, f64), LearnerError> {
        let _no_grad = tch::no_grad_guard();
        if let Some(on_device) = &self.on_device {
            on_device.bring_parameters(&self.flat)?;
            return self.scores_of(&on_device.place(batch)?);
        }
        self.scores_of(batch)
    }

    fn scores_of(&self, batch: &Batch) -> Result<(Tensor, f64), LearnerError> {
        let scores = self.network.forward(&batch.pictures, NormBy::Running)?;
        let loss_sum = summed_cross_entropy(&scores, &batch.labels, None)?.f_double_value(&[])?;
        Ok((scores, loss_sum))
    }

    /// A batch where the network computes.
    fn placed(&self, batch: Batch) -> Result<Batch, TchError> {
        match &self.on_device {
            None => Ok(batch),
            Some(on_device) => on_device.place(&batch),
        }
    }

    /// SHA-256, in hexadecimal, of the file that the network comes from; `None` for built-in networks.
    pub fn model_file(&self) -> Option<&str> {
        self.network.file_sha256()
    }

    /// Names, shapes and places of the parameters within the flat buffers.
    pub fn flat(&self) -> &FlatParameters {
        &self.flat
    }

    /// Number of trained values, padding of the flat buffers left out.
    pub fn parameter_count(&self) -> u64 {
        self.flat.layout().iter().map(|slot| slot.len_elements as u64).sum()
    }

    /// All parameters: the flat buffer, padding included.
    pub fn parameters(&self) -> Result<&[T], LearnerError> {
        Ok(self.flat.values_slice()?)
    }

    /// All parameters, to be overwritten.
    pub fn parameters_mut(&mut self) -> Result<&mut [T], LearnerError> {
        self.parameters_change();
        Ok(self.flat.values_slice_mut()?)
    }

    /// All gradients: the flat buffer, padding included (zeros).
    pub fn gradients(&self) -> Result<&[T], LearnerError> {
        self.bring_gradients()?;
        Ok(self.flat.gradients_slice()?)
    }

    /// All gradients, to be combined in place.
    pub fn gradients_mut(&mut self) -> Result<&mut [T], LearnerError> {
        self.bring_gradients()?;
        Ok(self.flat.gradients_slice_mut()?)
    }

    /// Parameters and gradients side by side, for the optimizer.
    pub fn parameters_and_gradients_mut(&mut self) -> Result<(&mut [T], &mut [T]), LearnerError> {
        self.bring_gradients()?;
        self.parameters_change();
        Ok(self.flat.slices_mut()?)
    }

    fn bring_gradients(&self) -> Result<(), TchError> {
        self.on_device.as_ref().map_or(Ok(()), |on_device| on_device.give_gradients(&self.flat))
    }

    fn parameters_change(&self) {
        if let Some(on_device) = &self.on_device {
            on_device.parameters_change();
        }
    }

    /// XXH64 (seed 0) of the parameters' bytes, tensor after tensor in layer order, little-endian, no padding: equal
    /// exactly if (in practice) all bits are. Any XXH64 tool can repeat it from the saved tensors.
    pub fn parameter_hash(&self) -> Result<u64, LearnerError> {
        self.hash(self.parameters()?)
    }

    /// The same hash of anything laid out like the parameters, such as momentum.
    pub fn hash(&self, values: &[T]) -> Result<u64, LearnerError> {
        use std::hash::Hasher;
        self.check_length(values.len())?;
        let mut hasher = XxHash64::with_seed(0);
        for slot in self.flat.layout() {
            hasher.write(bytes_of(&values[slot.offset_elements..][..slot.len_elements]));
        }
        Ok(hasher.finish())
    }
}

fn summed_cross_entropy(
    scores: &Tensor,
    labels: &Tensor,
    class_weights: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    /// torch's default: a label that takes no part. Labels are checked to lie in 0..classes, so none has it.
    const IGNORE_INDEX: i64 = -100;
    scores.f_cross_entropy_loss(labels, class_weights, Reduction::Sum, IGNORE_INDEX, 0.0)
}

fn correct(scores: &Tensor, labels: &Tensor) -> Result<u64, TchError> {
    let _no_grad = tch::no_grad_guard();
    let hits = scores.f_argmax(1, false)?.f_eq_tensor(labels)?.f_sum(Kind::Int64)?;
    Ok(hits.f_int64_value(&[])?.max(0) as u64)
}

#[cfg(test)]
mod tests;
