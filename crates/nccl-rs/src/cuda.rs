//! As much of CUDA's runtime as a communicator needs: a device, its memory, a stream. Loader and device I/O.
//!
//! For programs that have no binding of CUDA, or do not want to link one: `libcudart.so` is looked for when [`Cuda::load`] is
//! called, as NCCL is. [`CudaStream`] and the views of a [`CudaBuffer`] are what [`Communicator::blocking`] takes.
//!
//! Caveats: a copy waits for the device, however long what was enqueued before takes.
//!
//! [`Communicator::blocking`]: crate::Communicator::blocking

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::Library as Handle;

use crate::blocking::{DeviceBuffer, DeviceBufferMut, StreamQuery};
use crate::library::{RTLD_NOLOAD, open};
use crate::memory::{DeviceSlice, DeviceSliceMut, Element, Stream};

/// The environment variable that names the library's file, for where it is in none of the usual places.
pub const CUDART_VARIABLE: &str = "NCCL_RS_CUDART";

/// The sonames of CUDA 13 and 12, whose functions that are used here are the same.
const SONAMES: [&str; 2] = ["libcudart.so.13", "libcudart.so.12"];

/// The usual places, after the loader's own.
const PLACES: [&str; 2] = ["/usr/local/cuda/lib64/libcudart.so", "/usr/lib/x86_64-linux-gnu/libcudart.so"];

const SUCCESS: c_int = 0;
/// `cudaErrorNotReady`: what was enqueued is still under way.
const NOT_READY: c_int = 600;
/// `cudaErrorNoDevice`, and `cudaErrorInsufficientDriver`: there is no driver, or one that is too old.
const NO_DEVICE: [c_int; 2] = [100, 35];
/// `cudaMemcpyKind`.
const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
/// `cudaStreamDefault`: the stream and CUDA's own default stream wait for each other.
const STREAM_DEFAULT: c_uint = 0;

/// Why CUDA did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// No runtime of CUDA could be loaded.
    #[error(
        "found no CUDA runtime (tried {}): install CUDA 12 or 13, or set {variable} to its file libcudart.so",
        tried.join("; "), variable = CUDART_VARIABLE
    )]
    NotFound {
        /// Each place with what the loader said about it.
        tried: Vec<String>,
    },
    /// A library is there, but is no runtime of CUDA.
    #[error("{library} has no function {symbol}: it is no CUDA runtime")]
    Symbol {
        /// The library, as it was found.
        library: String,
        /// The function that it lacks.
        symbol: &'static str,
    },
    /// This machine shows no GPU to this process.
    #[error("this process sees no GPU: {message}")]
    NoDevice {
        /// What CUDA said.
        message: String,
    },
    /// An argument that was refused before CUDA was called: a mistake of the caller.
    #[error("{operation}: {message}")]
    Argument {
        /// The function that refused.
        operation: &'static str,
        /// The argument, its value and what is allowed.
        message: String,
    },
    /// CUDA refused or failed.
    #[error("failed to {operation}: CUDA error {code}: {message}")]
    Call {
        /// What was asked for.
        operation: &'static str,
        /// CUDA's number.
        code: i32,
        /// CUDA's text for it.
        message: String,
    },
}

macro_rules! functions {
    ($($name:ident = $symbol:literal($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// The runtime's functions, as one loaded library has them.
        #[derive(Debug, Clone, Copy)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
        }

        impl Functions {
            /// Fills the table; the error is the name of the first symbol that is not there.
            ///
            /// # Safety
            /// `library` must be CUDA's runtime: its symbols have the types of `cuda_runtime_api.h`.
            unsafe fn load(library: &Handle) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the caller's promise; the function's address is copied out of the symbol.
                    $($name: *unsafe { library.get($symbol) }.map_err(|_| $symbol)?,)*
                })
            }
        }
    };
}

functions! {
    error_string = "cudaGetErrorString"(error: c_int) -> *const c_char;
    device_count = "cudaGetDeviceCount"(count: *mut c_int) -> c_int;
    set_device = "cudaSetDevice"(device: c_int) -> c_int;
    malloc = "cudaMalloc"(address: *mut *mut c_void, bytes: usize) -> c_int;
    free = "cudaFree"(address: *mut c_void) -> c_int;
    memset = "cudaMemset"(address: *mut c_void, value: c_int, bytes: usize) -> c_int;
    memcpy_async = "cudaMemcpyAsync"(
        to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int, stream: *mut c_void
    ) -> c_int;
    stream_create = "cudaStreamCreateWithFlags"(stream: *mut *mut c_void, flags: c_uint) -> c_int;
    stream_destroy = "cudaStreamDestroy"(stream: *mut c_void) -> c_int;
    stream_query = "cudaStreamQuery"(stream: *mut c_void) -> c_int;
    stream_synchronize = "cudaStreamSynchronize"(stream: *mut c_void) -> c_int;
}

/// A loaded runtime of CUDA. Cheap to clone; stays loaded for the life of the process.
#[derive(Clone)]
pub struct Cuda(Arc<Loaded>);

struct Loaded {
    functions: Functions,
    origin: String,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CUDA runtime ({})", self.0.origin)
    }
}

impl Cuda {
    /// Takes the runtime that this process has loaded already, by libtorch for instance. Otherwise looks where the loader
    /// looks and in the folders of CUDA's packages; at last takes the file that [`CUDART_VARIABLE`] names.
    pub fn load() -> Result<Self, CudaError> {
        for name in SONAMES {
            if let Ok(handle) = open(OsStr::new(name), RTLD_NOLOAD) {
                return Self::from_handle(handle, format!("{name}, loaded before"));
            }
        }
        let mut tried = vec!["a copy that is loaded already: none".to_owned()];
        let variable = std::env::var_os(CUDART_VARIABLE).filter(|file| !file.is_empty());
        for place in SONAMES.iter().chain(&PLACES).map(OsStr::new).chain(variable.as_deref()) {
            match open(place, 0) {
                Ok(handle) => return Self::from_handle(handle, place.display().to_string()),
                Err(reason) => tried.push(reason),
            }
        }
        if variable.is_none() {
            tried.push(format!("{CUDART_VARIABLE}: not set"));
        }
        Err(CudaError::NotFound { tried })
    }

    /// Opens this very file.
    pub fn open(file: impl AsRef<Path>) -> Result<Self, CudaError> {
        let file = file.as_ref();
        let handle =
            open(file.as_os_str(), 0).map_err(|reason| CudaError::NotFound { tried: vec![reason] })?;
        Self::from_handle(handle, file.display().to_string())
    }

    fn from_handle(handle: Handle, origin: String) -> Result<Self, CudaError> {
        // SAFETY: by its name or the user's word a runtime of CUDA; these functions have had these types since CUDA 5.
        let functions = unsafe { Functions::load(&handle) }
            .map_err(|symbol| CudaError::Symbol { library: origin.clone(), symbol })?;
        // CUDA starts threads, and its code must not go away under them.
        let _never_unloaded = handle.into_raw();
        Ok(Self(Arc::new(Loaded { functions, origin })))
    }

    /// Where it was found, for people.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// GPUs that this process may use, at least one. Errors: [`CudaError::NoDevice`].
    pub fn device_count(&self) -> Result<usize, CudaError> {
        const OPERATION: &str = "count the GPUs";
        let mut count = 0;
        // SAFETY: writes one number.
        let code = unsafe { (self.0.functions.device_count)(&raw mut count) };
        if NO_DEVICE.contains(&code) {
            return Err(CudaError::NoDevice { message: self.meaning(code) });
        }
        self.check(OPERATION, code)?;
        match usize::try_from(count) {
            Ok(0) | Err(_) => Err(CudaError::NoDevice { message: "CUDA counts none".to_owned() }),
            Ok(count) => Ok(count),
        }
    }

    /// Makes this GPU, below [`Cuda::device_count`], the calling thread's current one.
    pub fn set_device(&self, index: usize) -> Result<(), CudaError> {
        const OPERATION: &str = "set_device";
        let index = c_int::try_from(index).map_err(|_| CudaError::Argument {
            operation: OPERATION,
            message: format!("index is {index}; it must be below the number of GPUs"),
        })?;
        // SAFETY: takes a number.
        self.check(OPERATION, unsafe { (self.0.functions.set_device)(index) })
    }

    fn meaning(&self, code: c_int) -> String {
        // SAFETY: a constant text of the library for any number.
        let text = unsafe { (self.0.functions.error_string)(code) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: CUDA's texts end with NUL and live in static memory.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == SUCCESS {
            return Ok(());
        }
        Err(CudaError::Call { operation, code, message: self.meaning(code) })
    }
}

/// Memory of a GPU. Freed when it is dropped.
#[derive(Debug)]
pub struct CudaBuffer {
    cuda: Cuda,
    address: *mut c_void,
    len_bytes: usize,
}

// SAFETY: an address that only this value owns; CUDA's functions may be called from any thread.
unsafe impl Send for CudaBuffer {}

impl CudaBuffer {
    /// `len_bytes` zeros on the calling thread's current GPU, aligned for every type of numbers.
    pub fn zeroed(cuda: &Cuda, len_bytes: usize) -> Result<Self, CudaError> {
        const OPERATION: &str = "allocate memory of the GPU";
        let mut address = std::ptr::null_mut();
        if len_bytes > 0 {
            // SAFETY: writes one address.
            cuda.check(OPERATION, unsafe { (cuda.0.functions.malloc)(&raw mut address, len_bytes) })?;
        }
        let buffer = Self { cuda: cuda.clone(), address, len_bytes };
        if len_bytes > 0 {
            // SAFETY: as long as was just allocated.
            cuda.check(OPERATION, unsafe { (cuda.0.functions.memset)(address, 0, len_bytes) })?;
        }
        Ok(buffer)
    }

    /// Bytes.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The first `len` numbers, to be read.
    pub fn view<T: Element>(&self, len: usize) -> Result<CudaView<'_, T>, CudaError> {
        self.check::<T>("view", len)?;
        Ok(CudaView { slice: DeviceSlice::new(self.address.cast_const().cast(), len), buffer: PhantomData })
    }

    /// The first `len` numbers, to be written.
    pub fn view_mut<T: Element>(&mut self, len: usize) -> Result<CudaViewMut<'_, T>, CudaError> {
        self.check::<T>("view_mut", len)?;
        Ok(CudaViewMut { slice: DeviceSliceMut::new(self.address.cast(), len), buffer: PhantomData })
    }

    fn check<T: Element>(&self, operation: &'static str, len: usize) -> Result<(), CudaError> {
        let fits = len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= self.len_bytes);
        if fits {
            return Ok(());
        }
        let message = format!(
            "len is {len} numbers of {} bytes; the buffer has {} bytes",
            size_of::<T>(),
            self.len_bytes
        );
        Err(CudaError::Argument { operation, message })
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed`, or null, which is allowed; freed once. CUDA waits for what still uses it.
        unsafe { (self.cuda.0.functions.free)(self.address) };
    }
}

/// Numbers at the start of a [`CudaBuffer`].
#[derive(Debug)]
pub struct CudaView<'b, T> {
    slice: DeviceSlice<T>,
    buffer: PhantomData<&'b CudaBuffer>,
}

/// Numbers at the start of a [`CudaBuffer`] that may be written.
#[derive(Debug)]
pub struct CudaViewMut<'b, T> {
    slice: DeviceSliceMut<T>,
    buffer: PhantomData<&'b mut CudaBuffer>,
}

// SAFETY: a part of a live buffer, initialised by `zeroed`, borrowed for as long as the view lives.
unsafe impl<T: Element> DeviceBuffer for CudaView<'_, T> {
    type Element = T;

    fn slice(&self) -> DeviceSlice<T> {
        self.slice
    }
}

// SAFETY: likewise.
unsafe impl<T: Element> DeviceBuffer for CudaViewMut<'_, T> {
    type Element = T;

    fn slice(&self) -> DeviceSlice<T> {
        self.slice.as_slice()
    }
}

// SAFETY: the same place, borrowed mutably.
unsafe impl<T: Element> DeviceBufferMut for CudaViewMut<'_, T> {
    fn slice_mut(&mut self) -> DeviceSliceMut<T> {
        self.slice
    }
}

/// A stream of a GPU. It and CUDA's default stream wait for each other: what the one was given before is through when the
/// other begins with what it is given later. Destroyed when it is dropped.
#[derive(Debug)]
pub struct CudaStream {
    cuda: Cuda,
    raw: *mut c_void,
}

// SAFETY: a handle that only this value owns; CUDA's functions may be called from any thread.
unsafe impl Send for CudaStream {}

impl CudaStream {
    /// A stream of the calling thread's current GPU.
    pub fn new(cuda: &Cuda) -> Result<Self, CudaError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (cuda.0.functions.stream_create)(&raw mut raw, STREAM_DEFAULT) };
        cuda.check("make a stream", code)?;
        Ok(Self { cuda: cuda.clone(), raw })
    }

    /// Copies `from` to the GPU, behind what the stream was given before, and waits for it. Both are of one length.
    pub fn upload<T: Element>(&self, from: &[T], to: &mut CudaViewMut<'_, T>) -> Result<(), CudaError> {
        const OPERATION: &str = "upload";
        same_length(OPERATION, from.len(), to.slice.len())?;
        let place = to.slice.address().cast();
        // SAFETY: both are this long, and borrowed until the copy is through.
        unsafe { self.copy(OPERATION, place, from.as_ptr().cast(), size_of_val(from), HOST_TO_DEVICE) }
    }

    /// Copies `from` out of the GPU, as [`CudaStream::upload`] does into it.
    pub fn download<T: Element>(
        &self,
        from: &impl DeviceBuffer<Element = T>,
        to: &mut [T],
    ) -> Result<(), CudaError> {
        const OPERATION: &str = "download";
        let from = from.slice();
        same_length(OPERATION, from.len(), to.len())?;
        // SAFETY: both are this long, and borrowed until the copy is through; every element's bits are numbers.
        unsafe {
            self.copy(
                OPERATION,
                to.as_mut_ptr().cast(),
                from.address().cast(),
                size_of_val(to),
                DEVICE_TO_HOST,
            )
        }
    }

    /// # Safety
    /// `to` and `from` are memory of host and device as `kind` says, of so many bytes, until this returns.
    unsafe fn copy(
        &self,
        operation: &'static str,
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        kind: c_int,
    ) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        let functions = &self.cuda.0.functions;
        // SAFETY: the caller's promise; the stream is live.
        let copied = unsafe { (functions.memcpy_async)(to, from, bytes, kind, self.raw) };
        // Whatever that has come to: nothing may be under way when the memory is the caller's again.
        // SAFETY: the stream is live.
        let through = unsafe { (functions.stream_synchronize)(self.raw) };
        self.cuda.check(operation, if copied == SUCCESS { through } else { copied })
    }
}

// SAFETY: a live stream, that CUDA itself is asked about; after an error of CUDA nothing runs on it any more.
unsafe impl StreamQuery for CudaStream {
    fn stream(&self) -> Stream {
        Stream::from_raw(self.raw)
    }

    fn is_idle(&self) -> Result<bool, String> {
        // SAFETY: the stream is live.
        match unsafe { (self.cuda.0.functions.stream_query)(self.raw) } {
            SUCCESS => Ok(true),
            NOT_READY => Ok(false),
            failed => Err(format!("CUDA error {failed}: {}", self.cuda.meaning(failed))),
        }
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; what is still on it goes on.
        unsafe { (self.cuda.0.functions.stream_destroy)(self.raw) };
    }
}

fn same_length(operation: &'static str, from: usize, to: usize) -> Result<(), CudaError> {
    if from == to {
        return Ok(());
    }
    let message = format!("from has {from} elements, to {to}; they must be as many");
    Err(CudaError::Argument { operation, message })
}
