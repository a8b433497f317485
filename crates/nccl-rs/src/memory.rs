//! Device memory and streams as this crate sees them: addresses, lengths and kinds of numbers, never contents.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use crate::error::Error;
use crate::sys;

/// NCCL's kinds of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `i8`.
    Int8,
    /// `u8`.
    Uint8,
    /// `i32`.
    Int32,
    /// `u32`.
    Uint32,
    /// `i64`.
    Int64,
    /// `u64`.
    Uint64,
    /// IEEE half precision.
    Float16,
    /// `f32`.
    Float32,
    /// `f64`.
    Float64,
    /// The upper half of an `f32`.
    Bfloat16,
}

impl DataType {
    /// Bytes of one number.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 => 1,
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }

    pub(crate) fn raw(self) -> c_int {
        match self {
            Self::Int8 => sys::INT8,
            Self::Uint8 => sys::UINT8,
            Self::Int32 => sys::INT32,
            Self::Uint32 => sys::UINT32,
            Self::Int64 => sys::INT64,
            Self::Uint64 => sys::UINT64,
            Self::Float16 => sys::FLOAT16,
            Self::Float32 => sys::FLOAT32,
            Self::Float64 => sys::FLOAT64,
            Self::Bfloat16 => sys::BFLOAT16,
        }
    }
}

/// A type of numbers that NCCL knows.
///
/// # Safety
/// The type has the size and the bits of [`Element::TYPE`].
pub unsafe trait Element: Copy {
    /// NCCL's name for it.
    const TYPE: DataType;
}

macro_rules! elements {
    ($($type:ty = $name:ident),*) => {
        $(
            // SAFETY: the primitive type of that size and meaning.
            unsafe impl Element for $type {
                const TYPE: DataType = DataType::$name;
            }
        )*
    };
}

elements!(
    i8 = Int8,
    u8 = Uint8,
    i32 = Int32,
    u32 = Uint32,
    i64 = Int64,
    u64 = Uint64,
    f32 = Float32,
    f64 = Float64
);

/// A `cudaStream_t`. Whoever hands one to an operation promises that it is live and of the communicator's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(*mut sys::CudaStream);

impl Stream {
    /// CUDA's default stream.
    pub const DEFAULT: Self = Self(std::ptr::null_mut());

    /// A stream that CUDA made.
    pub fn from_raw(stream: *mut c_void) -> Self {
        Self(stream.cast())
    }

    pub(crate) fn raw(self) -> *mut sys::CudaStream {
        self.0
    }
}

/// Where numbers lie that an operation reads: an address on the device and a count of elements. Making one promises
/// nothing; handing it to an operation does.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSlice<T> {
    address: *const T,
    len: usize,
}

/// Where an operation writes numbers, as [`DeviceSlice`].
#[derive(Debug, Clone, Copy)]
pub struct DeviceSliceMut<T> {
    address: *mut T,
    len: usize,
}

impl<T: Element> DeviceSlice<T> {
    /// `len` elements at `address`.
    pub fn new(address: *const T, len: usize) -> Self {
        Self { address, len }
    }

    /// The first element's address on the device.
    pub fn address(self) -> *const T {
        self.address
    }

    /// Elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements of `range`, or nothing if they are not all here.
    pub fn part(self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.len;
        inside.then(|| Self { address: self.address.wrapping_add(range.start), len: range.end - range.start })
    }

    pub(crate) fn is_at(self, place: Self) -> bool {
        self.address == place.address && self.len == place.len
    }

    pub(crate) fn check(self, operation: &'static str, name: &str) -> Result<(), Error> {
        span(operation, name, self.address.cast(), self.len, T::TYPE).map(|_| ())
    }
}

impl<T: Element> DeviceSliceMut<T> {
    /// `len` elements at `address`.
    pub fn new(address: *mut T, len: usize) -> Self {
        Self { address, len }
    }

    /// The first element's address on the device.
    pub fn address(self) -> *mut T {
        self.address
    }

    /// Elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements of `range`, or nothing if they are not all here.
    pub fn part(self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.len;
        inside.then(|| Self { address: self.address.wrapping_add(range.start), len: range.end - range.start })
    }

    /// The same place, to be read.
    pub fn as_slice(self) -> DeviceSlice<T> {
        DeviceSlice { address: self.address, len: self.len }
    }
}

/// The bytes from the first to behind the last, after making sure that such a slice can exist.
fn span(
    operation: &'static str,
    name: &str,
    address: *const c_void,
    len: usize,
    data_type: DataType,
) -> Result<Range<usize>, Error> {
    let (start, size) = (address as usize, data_type.size_bytes());
    if len == 0 {
        return Ok(start..start);
    }
    let refuse = |what: String| Err(Error::argument(operation, format!("{name} {what}")));
    if address.is_null() {
        return refuse(format!("is null, with {len} elements"));
    }
    if !start.is_multiple_of(size) {
        return refuse(format!("is at {start:#x}; it must be a multiple of {size}, the size of an element"));
    }
    match len.checked_mul(size).and_then(|bytes| start.checked_add(bytes)) {
        Some(end) => Ok(start..end),
        None => refuse(format!("has {len} elements of {size} bytes, more than there are addresses")),
    }
}

/// Refuses slices that cannot exist, and such as share memory unless they lie `in_place`: as NCCL allows it for the
/// operation.
pub(crate) fn check_pair<T: Element>(
    operation: &'static str,
    send: DeviceSlice<T>,
    recv: DeviceSliceMut<T>,
    in_place: bool,
) -> Result<(), Error> {
    let send = span(operation, "send", send.address.cast(), send.len, T::TYPE)?;
    let recv = span(operation, "recv", recv.address.cast_const().cast(), recv.len, T::TYPE)?;
    if !in_place && send.start < recv.end && recv.start < send.end {
        return Err(Error::argument(
            operation,
            "send and recv overlap in memory; allowed is only the place that NCCL takes for in place",
        ));
    }
    Ok(())
}
