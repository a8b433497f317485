//! Parameters and their gradients, each in one contiguous buffer: what an exchange and a fused optimizer want, without
//! a copy. No I/O.
//!
//! Guarantees: every tensor starts on 64 bytes; padding is zero and stays zero under sums and scaling; backward adds
//! into the gradient buffer in place, since autograd adds in place to a `.grad` that is defined (unless
//! `create_graph` is asked for). Assumptions: one thread uses model and buffers at a time (no backward runs while a
//! slice is held, except that of a loan), and nobody replaces a parameter's `.grad`; tch's `Optimizer::zero_grad` does, so use
//! [`FlatParameters::zero_gradients`].

mod lent;

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi};
pub use lent::{LentGradients, Loan};

/// Where every tensor of a flat buffer starts: a cache line, and the widest vector register.
pub const ALIGNMENT_BYTES: usize = 64;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What a flat buffer may hold: `f32` or `f64`.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The tensor kind of this type.
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

/// One tensor's place in the flat buffers, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The parameter's name.
    pub name: String,
    /// First element; a multiple of 64 bytes.
    pub offset_elements: usize,
    /// The tensor's own elements, without the padding behind them.
    pub len_elements: usize,
}

/// The parameters of one model, and their gradients, as two buffers of one layout.
#[derive(Debug)]
pub struct FlatParameters {
    values: Tensor,
    gradients: Tensor,
    kind: Kind,
    layout: Vec<Slot>,
    parameters: Vec<Tensor>,
    /// Backward's calls, once the gradients have been lent.
    watch: Option<lent::Watch>,
}

impl FlatParameters {
    /// [`FlatParameters::adopt_on`] the CPU.
    pub fn adopt(parameters: &[(String, Tensor)]) -> Result<Self, Error> {
        Self::adopt_on(parameters, Device::Cpu)
    }

    /// Copies the values of `parameters` (f32 or f64, all of one kind, CPU, leaves) into a flat buffer on `device`, in the given
    /// order, makes each parameter a view of its part, and sets its `.grad` to a zeroed view of the gradient buffer.
    /// Shapes stay; layouts become contiguous. Tensors that share the parameter object (a `VarStore`'s, a module's)
    /// see the change. A failure leaves the parameters before the failing one adopted; the arguments are checked
    /// before the first is touched.
    pub fn adopt_on(parameters: &[(String, Tensor)], device: Device) -> Result<Self, Error> {
        const OPERATION: &str = "adopt";
        let kind = checked_kind(OPERATION, parameters)?;
        let (layout, len) = lay_out(parameters, kind);
        let torch = |error: tch::TchError| Error::Torch { operation: OPERATION, message: error.to_string() };
        let _no_grad = tch::no_grad_guard();
        let size = [len as i64];
        let values = Tensor::f_zeros(size, (kind, device)).map_err(torch)?;
        let gradients = Tensor::f_zeros(size, (kind, device)).map_err(torch)?;
        for buffer in [&values, &gradients] {
            if !(buffer.data_ptr() as usize).is_multiple_of(ALIGNMENT_BYTES) {
                return Err(Error::Torch {
                    operation: OPERATION,
                    message: format!(
                        "libtorch's allocator gave a buffer that does not start on {ALIGNMENT_BYTES} bytes"
                    ),
                });
            }
        }
        for ((_, parameter), slot) in parameters.iter().zip(&layout) {
            let part = |buffer: &Tensor| {
                buffer
                    .f_narrow(0, slot.offset_elements as i64, slot.len_elements as i64)
                    .and_then(|view| view.f_view(parameter.size().as_slice()))
                    .map_err(torch)
            };
            let mut value = part(&values)?;
            let gradient = part(&gradients)?;
            value.f_copy_(parameter).map_err(torch)?;
            // SAFETY: three live dense tensors of one shape and kind, the last two of one device, as `set_data` and `.grad`
            // require; libtorch takes references of its own.
            ffi::check(unsafe {
                ffi::te_adopt(ffi::tensor(parameter), ffi::tensor(&value), ffi::tensor(&gradient))
            })
            .map_err(|message| Error::Torch {
                operation: OPERATION,
                message: format!("{}: {message}", slot.name),
            })?;
        }
        let parameters = parameters.iter().map(|(_, parameter)| parameter.shallow_clone()).collect();
        Ok(Self { values, gradients, kind, layout, parameters, watch: None })
    }

    /// The tensors' places, in the order they were given, ascending and without overlap.
    pub fn layout(&self) -> &[Slot] {
        &self.layout
    }

    /// Names and tensors of the parameters, in the order they were given.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let named = self.layout.iter().zip(&self.parameters);
        named.map(|(slot, parameter)| (slot.name.clone(), parameter.shallow_clone())).collect()
    }

    /// Elements of each buffer, padding included.
    pub fn len(&self) -> usize {
        self.layout.last().map_or(0, |slot| padded(slot.offset_elements + slot.len_elements, self.kind))
    }

    /// Whether the buffers hold nothing (only possible when every parameter is empty).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `Float` or `Double`.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All values: one dimension, [`FlatParameters::len`] elements.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// All gradients: one dimension, [`FlatParameters::len`] elements.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Sets every gradient to zero, as one run over the buffer.
    ///
    /// # Panics
    /// From the last backward pass of a loan to the loan's end: parts of the buffer are another thread's then. When a GPU that
    /// the buffer is on has failed.
    pub fn zero_gradients(&mut self) {
        assert!(!self.is_handing_on(), "zero_gradients: the gradients are lent to another thread");
        if self.gradients.device() != Device::Cpu {
            let _same = self.gradients.zero_();
            return;
        }
        let (start, bytes) =
            (self.gradients.data_ptr().cast::<u8>(), self.len() * self.kind.elt_size_in_bytes());
        if bytes > 0 {
            // SAFETY: the buffer is ours, alive, contiguous and this long; all-zero bytes are the number zero; by the
            // module's assumption no backward writes to it meanwhile.
            unsafe { std::ptr::write_bytes(start, 0, bytes) };
        }
    }

    /// Whether every parameter and its `.grad` still lie at their places in the buffers, contiguous.
    pub fn gradients_are_aliased(&self) -> bool {
        self.parameters.iter().zip(&self.layout).all(|(parameter, slot)| {
            let offset_bytes = slot.offset_elements * self.kind.elt_size_in_bytes();
            let lies_in = |tensor: &Tensor, buffer: &Tensor| {
                tensor.defined()
                    && tensor.is_contiguous()
                    && tensor.kind() == self.kind
                    && tensor.numel() == slot.len_elements
                    && (slot.len_elements == 0
                        || tensor.data_ptr() as usize == buffer.data_ptr() as usize + offset_bytes)
            };
            lies_in(parameter, &self.values) && lies_in(&parameter.grad(), &self.gradients)
        })
    }

    /// The values as a slice. Errors: [`Error::Argument`] when `T` is not the buffers' kind.
    pub fn values_slice<T: Element>(&self) -> Result<&[T], Error> {
        let (start, len) = self.run::<T>("values_slice", &self.values)?;
        // SAFETY: `run` gives a live, aligned, contiguous run of `T`, which lives as long as `self`.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// The gradients as a slice. Errors as [`FlatParameters::values_slice`], and while they are lent.
    pub fn gradients_slice<T: Element>(&self) -> Result<&[T], Error> {
        self.check_not_lent("gradients_slice")?;
        let (start, len) = self.run::<T>("gradients_slice", &self.gradients)?;
        // SAFETY: as in `values_slice`.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// Values (mutable) and gradients side by side: what an optimizer needs. Errors as
    /// [`FlatParameters::values_slice`], and while the gradients are lent.
    pub fn slices_mut<T: Element>(&mut self) -> Result<(&mut [T], &mut [T]), Error> {
        self.check_not_lent("slices_mut")?;
        let (values, len) = self.run::<T>("slices_mut", &self.values)?;
        let (gradients, _) = self.run::<T>("slices_mut", &self.gradients)?;
        // SAFETY: two separate allocations, borrowed mutably through `&mut self`; by the module's assumption torch
        // does not use the model meanwhile.
        Ok(unsafe {
            (std::slice::from_raw_parts_mut(values, len), std::slice::from_raw_parts_mut(gradients, len))
        })
    }

    /// The values as a mutable slice. Errors as [`FlatParameters::values_slice`].
    pub fn values_slice_mut<T: Element>(&mut self) -> Result<&mut [T], Error> {
        self.slices_mut().map(|(values, _)| values)
    }

    /// The gradients as a mutable slice. Errors as [`FlatParameters::values_slice`].
    pub fn gradients_slice_mut<T: Element>(&mut self) -> Result<&mut [T], Error> {
        self.slices_mut().map(|(_, gradients)| gradients)
    }

    /// Only there memory is Rust's to look at.
    fn check_on_cpu(operation: &'static str, buffer: &Tensor) -> Result<(), Error> {
        match buffer.device() {
            Device::Cpu => Ok(()),
            other => Err(Error::argument(
                operation,
                format!("the buffers are on {other:?}; slices are of the CPU's"),
            )),
        }
    }

    fn run<T: Element>(&self, operation: &'static str, buffer: &Tensor) -> Result<(*mut T, usize), Error> {
        if T::KIND != self.kind {
            return Err(Error::argument(
                operation,
                format!("asked for {:?}, but the buffers hold {:?}", T::KIND, self.kind),
            ));
        }
        Self::check_on_cpu(operation, buffer)?;
        let len = self.len();
        if len == 0 {
            // libtorch gives an empty buffer no address, and a slice must have one.
            return Ok((std::ptr::NonNull::dangling().as_ptr(), 0));
        }
        Ok((buffer.data_ptr().cast(), len))
    }
}

/// The next multiple of the alignment, in elements.
fn padded(elements: usize, kind: Kind) -> usize {
    elements.next_multiple_of(ALIGNMENT_BYTES / kind.elt_size_in_bytes())
}

fn lay_out(parameters: &[(String, Tensor)], kind: Kind) -> (Vec<Slot>, usize) {
    let mut end = 0;
    let layout = parameters
        .iter()
        .map(|(name, parameter)| {
            let slot = Slot { name: name.clone(), offset_elements: end, len_elements: parameter.numel() };
            end = padded(end + slot.len_elements, kind);
            slot
        })
        .collect();
    (layout, end)
}

fn checked_kind(operation: &'static str, parameters: &[(String, Tensor)]) -> Result<Kind, Error> {
    let kind = match parameters {
        [(_, first), ..] if first.defined() => first.kind(),
        _ => Kind::Float,
    };
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (name, parameter) in parameters {
        let refuse = |what: &str| Err(Error::argument(operation, format!("parameter {name} {what}")));
        if !parameter.defined() {
            return refuse("is undefined");
        }
        if parameter.device() != Device::Cpu || parameter.is_sparse() {
            return refuse("is not a dense tensor on the CPU");
        }
        if parameter.kind() != kind || !matches!(kind, Kind::Float | Kind::Double) {
            return refuse(&format!(
                "is {:?}; allowed: all Float or all Double (the first is {kind:?})",
                parameter.kind()
            ));
        }
        if !parameter.is_leaf() {
            return refuse("is the result of a computation; only leaves have a gradient to adopt");
        }
        if !names.insert(name.as_str()) {
            return refuse("appears twice");
        }
        if parameter.numel() > 0 && !places.insert(parameter.data_ptr() as usize) {
            return refuse("shares its memory with another one; pass a tied parameter once");
        }
    }
    Ok(kind)
}
