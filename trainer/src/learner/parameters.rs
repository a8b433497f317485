//! Named parameters and their seeded start values. No I/O.
//!
//! The rules are torchvision's (He et al. 2015: normal with fan-out for convolutions; PyTorch's default for linear
//! layers), the random numbers are not: each value is a pure function of (seed, parameter's position, element), so that
//! the same seed gives the same bits on every machine, whatever libtorch's own generator has been used for.

use scadles_core::random::RandomStream;
use tch::{Kind, TchError, Tensor};

/// Random stream of start values; other uses of the job's seed have other numbers.
const STREAM: u64 = u64::from_be_bytes(*b"initial ");

/// The parameters of a network under construction, in layer order.
#[derive(Debug)]
pub struct ParameterSet {
    kind: Kind,
    seed: u64,
    named: Vec<(String, Tensor)>,
}

impl ParameterSet {
    /// No parameters yet; all will be of `kind` (f32 or f64).
    pub fn new(kind: Kind, seed: u64) -> Self {
        Self { kind, seed, named: Vec::new() }
    }

    /// Registers a trained parameter. `initial` gives each start value from a random stream that only this parameter
    /// uses; values are drawn in f64 and rounded once.
    pub fn add<F>(&mut self, name: &str, shape: &[i64], initial: F) -> Result<Tensor, TchError>
    where
        F: Fn(Draw) -> f64,
    {
        let stream = RandomStream::new(self.seed, STREAM).substream(self.named.len() as u64);
        let len = shape.iter().product::<i64>() as u64;
        let values: Vec<f64> = (0..len).map(|index| initial(Draw { stream, index })).collect();
        let tensor = Tensor::f_from_slice(&values)?.f_to_kind(self.kind)?.f_reshape(shape)?;
        let tensor = tensor.f_set_requires_grad(true)?;
        self.named.push((name.to_owned(), tensor.shallow_clone()));
        Ok(tensor)
    }

    /// Names and tensors, in the order they were added.
    pub fn named(&self) -> &[(String, Tensor)] {
        &self.named
    }
}

/// The random numbers of one element.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    stream: RandomStream,
    index: u64,
}

impl Draw {
    /// Even in [0, 1).
    pub fn unit(self) -> f64 {
        self.stream.unit(self.index)
    }

    /// Of about the standard normal distribution: twelve even numbers minus six (Irwin and Hall). Additions only, so
    /// that no mathematics library has a say in the bits; it never leaves ±6.
    pub fn normal(self) -> f64 {
        let first = self.index * 12;
        (first..first + 12).map(|index| self.stream.unit(index)).sum::<f64>() - 6.0
    }
}

/// Normal with standard deviation √(2 / fan-out): keeps the gradients' size through ReLU layers.
pub(super) fn kaiming_normal(fan_out: i64) -> impl Fn(Draw) -> f64 {
    let deviation = (2.0 / fan_out as f64).sqrt();
    move |draw| deviation * draw.normal()
}

/// Even in ±1/√(fan-in): PyTorch's default for weights and biases of linear layers.
pub(super) fn uniform_fan_in(fan_in: i64) -> impl Fn(Draw) -> f64 {
    let bound = 1.0 / (fan_in as f64).sqrt();
    move |draw| bound * (2.0 * draw.unit() - 1.0)
}
