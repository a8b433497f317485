//! Named parameters and their seeded start values. No I/O.
//!
//! The rules are torchvision's (He et al. 2015: normal with fan-out for convolutions; PyTorch's default for linear
//! layers), the random numbers are not: each value is a pure function of (seed, parameter's position, element), so that
//! the same seed gives the same bits on every machine, whatever libtorch's own generator has been used for.

use scadles_core::random::RandomStream;
use tch::{Device, Kind, TchError, Tensor};

use super::statistics::NormBuffers;

/// Random stream of start values; other uses of the job's seed have other numbers.
const STREAM: u64 = u64::from_be_bytes(*b"initial ");
/// So many values are drawn before they go into their tensor: a layer of a hundred million is never held twice.
const CHUNK: usize = 1 << 16;

/// The parameters of a network under construction, in layer order.
#[derive(Debug)]
pub struct ParameterSet {
    kind: Kind,
    seed: u64,
    named: Vec<(String, Tensor)>,
    norms: Vec<NormBuffers>,
}

impl ParameterSet {
    /// No parameters yet; all will be of `kind` (f32 or f64).
    pub fn new(kind: Kind, seed: u64) -> Self {
        Self { kind, seed, named: Vec::new(), norms: Vec::new() }
    }

    /// Registers a trained parameter. `initial` gives each start value from a random stream that only this parameter
    /// uses; values are drawn in f64 and rounded once.
    pub fn add<F>(&mut self, name: &str, shape: &[i64], initial: F) -> Result<Tensor, TchError>
    where
        F: Fn(Draw) -> f64,
    {
        let stream = RandomStream::new(self.seed, STREAM).substream(self.named.len() as u64);
        let tensor = Tensor::f_zeros(shape, (self.kind, Device::Cpu))?;
        let (all, len) = (tensor.f_view([-1])?, tensor.numel());
        for first in (0..len).step_by(CHUNK) {
            let indices = first as u64..len.min(first + CHUNK) as u64;
            let values: Vec<f64> = indices.map(|index| initial(Draw { stream, index })).collect();
            all.f_narrow(0, first as i64, values.len() as i64)?.f_copy_(&Tensor::f_from_slice(&values)?)?;
        }
        let tensor = tensor.f_set_requires_grad(true)?;
        self.insert(name, &tensor);
        Ok(tensor)
    }

    /// Registers a trained parameter that has its start values already: a leaf that asks for a gradient, of the set's kind.
    pub fn insert(&mut self, name: &str, tensor: &Tensor) {
        self.named.push((name.to_owned(), tensor.shallow_clone()));
    }

    /// Registers the running statistics of the norm `name`, which are no parameters.
    pub(super) fn add_norm(&mut self, name: &str, channels: i64) -> Result<NormBuffers, TchError> {
        let buffers = NormBuffers::new(name, channels, self.kind)?;
        self.norms.push(buffers.shared());
        Ok(buffers)
    }

    /// Running statistics, in the order they were added.
    pub(super) fn norms(&self) -> &[NormBuffers] {
        &self.norms
    }

    /// The kind of all parameters.
    pub fn kind(&self) -> Kind {
        self.kind
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

    /// Of about the standard normal distribution; never beyond ±6.
    pub fn normal(self) -> f64 {
        self.stream.normal(self.index)
    }
}

/// Normal with standard deviation √(2 / fan-out): keeps the gradients' size through ReLU layers.
pub(super) fn kaiming_normal(fan_out: i64) -> impl Fn(Draw) -> f64 {
    normal((2.0 / fan_out as f64).sqrt())
}

/// Normal with this standard deviation.
pub(super) fn normal(deviation: f64) -> impl Fn(Draw) -> f64 {
    move |draw| deviation * draw.normal()
}

/// Even in ±1/√(fan-in): PyTorch's default for weights and biases of linear layers.
pub(super) fn uniform_fan_in(fan_in: i64) -> impl Fn(Draw) -> f64 {
    let bound = 1.0 / (fan_in as f64).sqrt();
    move |draw| bound * (2.0 * draw.unit() - 1.0)
}
