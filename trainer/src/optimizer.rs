//! SGD with momentum, fused over the flat buffer. No I/O, no hidden state.
//!
//! Momentum holds the rate: m ← μ·m + η_t·(d + λ·w); w ← w − m, which at a constant η is PyTorch's SGD. One pass, each
//! operation rounded by itself (no fused multiply-add), so that unlike CPUs get the same bits.

use crate::numeric::Real;

/// Settings that stay the same over a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// μ in [0, 1).
    pub momentum: f64,
    /// λ ≥ 0.
    pub weight_decay: f64,
}

/// What the optimizer remembers from step to step: m, laid out like the parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct SgdState<T> {
    /// m, zero at the start.
    pub momentum: Vec<T>,
}

impl<T: Real> SgdState<T> {
    /// The state before the first step of a flat buffer of `len` elements.
    pub fn new(len: usize) -> Self {
        Self { momentum: vec![T::default(); len] }
    }
}

/// Lengths of parameters, delivered gradients and momentum that should be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to apply a step: {parameters} parameters, {gradients} gradients, {momentum} momenta; all must be one length"
)]
pub struct LengthError {
    /// Elements of the parameters.
    pub parameters: usize,
    /// Elements of the gradients.
    pub gradients: usize,
    /// Elements of the momentum.
    pub momentum: usize,
}

impl Sgd {
    /// One step with the delivered aggregate `gradients` (d) at the rate `scaled_learning_rate` (η_t), on parameters,
    /// gradients and momentum of one layout.
    pub fn step<T: Real>(
        &self,
        scaled_learning_rate: f64,
        parameters: &mut [T],
        gradients: &[T],
        state: &mut SgdState<T>,
    ) -> Result<(), LengthError> {
        let lengths = (parameters.len(), gradients.len(), state.momentum.len());
        if lengths.0 != lengths.1 || lengths.0 != lengths.2 {
            return Err(LengthError { parameters: lengths.0, gradients: lengths.1, momentum: lengths.2 });
        }
        let (mu, lambda) = (T::from_f64(self.momentum), T::from_f64(self.weight_decay));
        let eta = T::from_f64(scaled_learning_rate);
        let moments = state.momentum.iter_mut();
        for ((w, &d), m) in parameters.iter_mut().zip(gradients).zip(moments) {
            *m = mu * *m + eta * (d + lambda * *w);
            *w = *w - *m;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
