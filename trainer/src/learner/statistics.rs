//! Running means and variances of a network's norms: state beside the parameters. No I/O.
//!
//! They follow the batches of one rank, so that ranks differ in them between two agreements, and no gradient reaches them. They
//! are no part of the flat buffers, nor of the parameters' hash.

use scadles_core::norm_statistics::{NormStatistics, RunningStatistics, agreed_statistics};
use tch::{Device, Kind, TchError, Tensor};
use twox_hash::XxHash64;

use super::{Learner, LearnerError};
use crate::numeric::{Real, bytes_of};

/// The running statistics of one norm, `[channels]` each; the norm changes them in place.
#[derive(Debug)]
pub(super) struct NormBuffers {
    /// The norm's name.
    name: String,
    mean: Tensor,
    variance: Tensor,
}

impl NormBuffers {
    /// Mean 0 and variance 1, as in PyTorch.
    pub(super) fn new(name: &str, channels: i64, kind: Kind) -> Result<Self, TchError> {
        let options = (kind, Device::Cpu);
        let (mean, variance) = (Tensor::f_zeros([channels], options)?, Tensor::f_ones([channels], options)?);
        Ok(Self { name: name.to_owned(), mean, variance })
    }

    /// The same two tensors under another handle.
    pub(super) fn shared(&self) -> Self {
        let (mean, variance) = (self.mean.shallow_clone(), self.variance.shallow_clone());
        Self { name: self.name.clone(), mean, variance }
    }

    /// Moves both tensors, under all their handles.
    pub(super) fn move_to(&mut self, device: Device) -> Result<(), TchError> {
        for tensor in [&mut self.mean, &mut self.variance] {
            let there = tensor.f_to_device(device)?;
            tensor.f_set_data(&there)?;
        }
        Ok(())
    }

    pub(super) fn mean(&self) -> &Tensor {
        &self.mean
    }

    pub(super) fn variance(&self) -> &Tensor {
        &self.variance
    }
}

impl<T: Real> Learner<T> {
    /// Whether the network keeps running statistics.
    pub fn has_statistics(&self) -> bool {
        !self.norms.is_empty()
    }

    /// A copy of the running statistics; no values for networks without.
    pub fn statistics(&self) -> Result<RunningStatistics<T>, LearnerError> {
        let mut values = Vec::new();
        for (_, tensor) in self.named_statistics() {
            let numbers = Vec::<f64>::try_from(&tensor.f_to_kind(Kind::Double)?)?;
            values.extend(numbers.into_iter().map(T::from_f64));
        }
        Ok(RunningStatistics { samples: self.samples_since_agreement, values })
    }

    /// Replaces the running statistics. `statistics` is laid out as [`Learner::statistics`] gives it.
    pub fn set_statistics(&mut self, statistics: &RunningStatistics<T>) -> Result<(), LearnerError> {
        let expected: usize = self.named_statistics().map(|(_, tensor)| tensor.numel()).sum();
        let found = statistics.values.len();
        if found != expected {
            return Err(super::TensorsError::Length { found, expected }.into());
        }
        let _no_grad = tch::no_grad_guard();
        let mut rest = statistics.values.as_slice();
        for (_, tensor) in self.named_statistics() {
            let (own, others) = rest.split_at(tensor.numel());
            let own: Vec<f64> = own.iter().map(|value| value.to_f64()).collect();
            tensor.shallow_clone().f_copy_(&Tensor::f_from_slice(&own)?)?;
            rest = others;
        }
        self.samples_since_agreement = statistics.samples;
        Ok(())
    }

    /// Makes the statistics of all `ranks`, in rank order, one, and takes it over; nothing changes if none has seen a sample since the
    /// last agreement.
    pub fn agree_statistics(
        &mut self,
        rule: NormStatistics,
        ranks: &[RunningStatistics<T>],
    ) -> Result<(), LearnerError>
    where
        T: Into<f64>,
    {
        let Some(agreed) = agreed_statistics(rule, ranks) else { return Ok(()) };
        let values = agreed.into_iter().map(T::from_f64).collect();
        self.set_statistics(&RunningStatistics { samples: 0, values })
    }

    /// XXH64 (seed 0) of the running statistics, all means and then all variances, in layer order, little-endian; `None` for
    /// networks without.
    pub fn statistics_hash(&self) -> Result<Option<u64>, LearnerError> {
        if !self.has_statistics() {
            return Ok(None);
        }
        Ok(Some(XxHash64::oneshot(0, bytes_of(&self.statistics()?.values))))
    }

    /// PyTorch's names and the tensors: all means, then all variances, in layer order.
    pub(super) fn named_statistics(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let means = self.norms.iter().map(|norm| (format!("{}.running_mean", norm.name), &norm.mean));
        let variances = self.norms.iter().map(|norm| (format!("{}.running_var", norm.name), &norm.variance));
        means.chain(variances)
    }
}
