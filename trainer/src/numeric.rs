//! Numbers of the compute path: what f32 and f64 have in common, and the one place where tensors and slices meet.
//! No I/O.
//!
//! libtorch and Rust look at the same memory here, so that nothing is copied between a batch, the flat buffers and a
//! collective. Everything `unsafe` of the trainer is in this file, and that of MPI in `engine/mpi/raw.rs`.
#![allow(unsafe_code)] // Tensor pointers; each block says why it holds.

use std::ops::{Add, AddAssign, Mul, Sub};

use nccl_rs::{DeviceBuffer, DeviceBufferMut, DeviceSlice, DeviceSliceMut};
use tch::{Device, Kind, TchError, Tensor};
use torch_ext::Element;

/// A number that parameters, gradients and pictures are made of: f32 in training, f64 where a test asks for exactness.
pub trait Real:
    Element
    + Scalar
    + PartialEq
    + std::fmt::Debug
    + Default
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
{
    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;

    /// The value, exactly.
    fn to_f64(self) -> f64;

    /// Borrows values as a sum's operand.
    fn values_mut(values: &mut [Self]) -> ValuesMut<'_>;
}

/// A run of numbers whose type is known when the program runs.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// 32 bits each.
    F32(&'a mut [f32]),
    /// 64 bits each.
    F64(&'a mut [f64]),
}

impl ValuesMut<'_> {
    /// Memory of the values.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::F64(values) => size_of_val(*values),
        }
    }
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as Self
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn values_mut(values: &mut [Self]) -> ValuesMut<'_> {
        ValuesMut::F32(values)
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn values_mut(values: &mut [Self]) -> ValuesMut<'_> {
        ValuesMut::F64(values)
    }
}

/// The bytes of `values`, in this machine's order.
pub fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed over f32 and f64, which have no padding; u8 needs no alignment; the borrow goes on.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to be written to: any bytes make a number.
pub fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; every bit pattern is a valid f32 and f64.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A number type that Rust and libtorch share memory of.
pub trait Scalar: Copy {
    /// The tensor kind of this type.
    const SCALAR_KIND: Kind;
}

impl Scalar for u8 {
    const SCALAR_KIND: Kind = Kind::Uint8;
}

impl Scalar for i64 {
    const SCALAR_KIND: Kind = Kind::Int64;
}

impl Scalar for f32 {
    const SCALAR_KIND: Kind = Kind::Float;
}

impl Scalar for f64 {
    const SCALAR_KIND: Kind = Kind::Double;
}

/// Runs `body` on a one-dimensional tensor over the memory of `values`, which it must only read and not keep.
pub(crate) fn lend<T: Scalar, R>(values: &[T], body: impl FnOnce(&Tensor) -> R) -> Result<R, TchError> {
    // SAFETY: the memory is alive while `body` runs and the tensor is dropped with it. `body` is code of this crate
    // that passes the tensor as the input of a collective, which neither writes to it nor keeps it.
    let tensor = unsafe { blob(values.as_ptr(), values.len()) }?;
    Ok(body(&tensor))
}

/// Runs `body` on a one-dimensional tensor over the memory of `values`, which it must not keep.
pub(crate) fn lend_mut<T: Scalar, R>(
    values: &mut [T],
    body: impl FnOnce(&mut Tensor) -> R,
) -> Result<R, TchError> {
    // SAFETY: as in `lend`; the memory is borrowed mutably, so that writing is allowed too.
    let mut tensor = unsafe { blob(values.as_ptr(), values.len()) }?;
    Ok(body(&mut tensor))
}

/// A tensor over memory of ours.
///
/// # Safety
/// `start` points to `len` elements that outlive the tensor and all its views.
unsafe fn blob<T: Scalar>(start: *const T, len: usize) -> Result<Tensor, TchError> {
    // SAFETY: the caller's promise.
    unsafe { Tensor::f_from_blob(start.cast(), &[len as i64], &[], T::SCALAR_KIND, Device::Cpu) }
}

/// The numbers of a tensor, wherever they lie, as the operand of a collective on that device.
#[derive(Debug)]
pub(crate) struct TensorValues<'t, T> {
    tensor: &'t mut Tensor,
    element: std::marker::PhantomData<T>,
}

impl<'t, T: Element> TensorValues<'t, T> {
    /// Errors: what is wrong with `tensor`, which must be contiguous and of `T`.
    pub(crate) fn of(tensor: &'t mut Tensor) -> Result<Self, String> {
        if tensor.kind() == T::KIND && tensor.is_contiguous() {
            return Ok(Self { tensor, element: std::marker::PhantomData });
        }
        let contiguous = if tensor.is_contiguous() { "contiguous" } else { "not contiguous" };
        Err(format!(
            "the tensor is {contiguous} and of {:?}; it must be contiguous and of {:?}",
            tensor.kind(),
            T::KIND
        ))
    }
}

// SAFETY: a tensor's memory: at one place, of `T` and initialised, while it is borrowed.
unsafe impl<T: Element + nccl_rs::Element> DeviceBuffer for TensorValues<'_, T> {
    type Element = T;

    fn slice(&self) -> DeviceSlice<T> {
        DeviceSlice::new(self.tensor.data_ptr().cast_const().cast(), self.tensor.numel())
    }
}

// SAFETY: the same place; the tensor is borrowed mutably for as long as this value lives, and its owner computes on it
// only before and after.
unsafe impl<T: Element + nccl_rs::Element> DeviceBufferMut for TensorValues<'_, T> {
    fn slice_mut(&mut self) -> DeviceSliceMut<T> {
        DeviceSliceMut::new(self.tensor.data_ptr().cast(), self.tensor.numel())
    }
}

/// A preallocated contiguous tensor whose memory Rust fills: 64-byte aligned, as libtorch allocates.
#[derive(Debug)]
pub(crate) struct FilledTensor<T: Scalar> {
    tensor: Tensor,
    element: std::marker::PhantomData<T>,
}

impl<T: Scalar> FilledTensor<T> {
    /// Zeros of this shape.
    pub(crate) fn new(shape: &[i64]) -> Result<Self, TchError> {
        let tensor = Tensor::f_zeros(shape, (T::SCALAR_KIND, Device::Cpu))?;
        Ok(Self { tensor, element: std::marker::PhantomData })
    }

    /// The memory, row after row.
    pub(crate) fn as_slice(&self) -> &[T] {
        let len = self.tensor.numel();
        if len == 0 {
            return &[];
        }
        // SAFETY: as in `as_mut_slice`; nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast(), len) }
    }

    /// The memory, row after row, to be filled.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let len = self.tensor.numel();
        if len == 0 {
            return &mut [];
        }
        // SAFETY: allocated by `new` for this kind, contiguous and never resized; `&mut self` keeps readers of
        // `first` away, since what it returns is only handed on behind a borrow of the owner.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), len) }
    }

    /// A view of the first `rows` rows.
    pub(crate) fn first(&self, rows: usize) -> Result<Tensor, TchError> {
        self.tensor.f_narrow(0, 0, rows as i64)
    }
}
