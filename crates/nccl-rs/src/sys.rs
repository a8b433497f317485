//! NCCL's C interface as `nccl.h` declares it: the functions that this crate uses, their types and values. Nothing here
//! is checked. Declarations follow NCCL 2.18; later versions of NCCL 2 keep them.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ncclComm`, known to NCCL only.
#[repr(C)]
#[derive(Debug)]
pub struct Comm {
    _private: [u8; 0],
}

/// `CUstream_st`, known to CUDA only.
#[repr(C)]
#[derive(Debug)]
pub struct CudaStream {
    _private: [u8; 0],
}

/// `NCCL_UNIQUE_ID_BYTES`.
pub const UNIQUE_ID_BYTES: usize = 128;

/// `ncclUniqueId`; travels by value.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct UniqueId {
    /// Bytes without meaning to us.
    pub internal: [c_char; UNIQUE_ID_BYTES],
}

/// `ncclConfig_t` of NCCL 2.18. A later NCCL sees by [`Config::version`] what is not there and takes its own defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bytes of this structure.
    pub size: usize,
    /// [`CONFIG_MAGIC`].
    pub magic: c_uint,
    /// The version that declares this layout: [`CONFIG_VERSION`].
    pub version: c_uint,
    /// 0: calls return [`IN_PROGRESS`] instead of waiting.
    pub blocking: c_int,
    /// Thread blocks of a cluster.
    pub cga_cluster_size: c_int,
    /// Fewest thread blocks of a kernel.
    pub min_ctas: c_int,
    /// Most thread blocks of a kernel.
    pub max_ctas: c_int,
    /// The network module, or null.
    pub net_name: *const c_char,
    /// 1: communicators split from this one share its resources.
    pub split_share: c_int,
}

/// What marks an initialised [`Config`].
pub const CONFIG_MAGIC: c_uint = 0xcafe_beef;
/// The version of NCCL whose layout [`Config`] has: 2.18.0.
pub const CONFIG_VERSION: c_uint = 21_800;
/// `NCCL_CONFIG_UNDEF_INT`: NCCL's own default.
pub const CONFIG_UNDEFINED: c_int = c_int::MIN;
/// `NCCL_SPLIT_NOCOLOR`: this rank joins no new communicator.
pub const SPLIT_NO_COLOR: c_int = -1;

/// `ncclResult_t`: done.
pub const SUCCESS: c_int = 0;
/// A call of CUDA failed.
pub const UNHANDLED_CUDA_ERROR: c_int = 1;
/// A call of the operating system failed.
pub const SYSTEM_ERROR: c_int = 2;
/// A bug in NCCL, or memory that was overwritten.
pub const INTERNAL_ERROR: c_int = 3;
/// An argument has no allowed value.
pub const INVALID_ARGUMENT: c_int = 4;
/// The calls do not fit together.
pub const INVALID_USAGE: c_int = 5;
/// A peer has failed or is gone.
pub const REMOTE_ERROR: c_int = 6;
/// Goes on in the background.
pub const IN_PROGRESS: c_int = 7;

/// `ncclRedOp_t`.
pub const SUM: c_int = 0;
/// Product.
pub const PROD: c_int = 1;
/// Greatest.
pub const MAX: c_int = 2;
/// Least.
pub const MIN: c_int = 3;
/// Mean over the ranks.
pub const AVG: c_int = 4;

/// `ncclDataType_t`.
pub const INT8: c_int = 0;
/// Unsigned bytes.
pub const UINT8: c_int = 1;
/// 32 bits, signed.
pub const INT32: c_int = 2;
/// 32 bits, unsigned.
pub const UINT32: c_int = 3;
/// 64 bits, signed.
pub const INT64: c_int = 4;
/// 64 bits, unsigned.
pub const UINT64: c_int = 5;
/// IEEE half precision.
pub const FLOAT16: c_int = 6;
/// IEEE single precision.
pub const FLOAT32: c_int = 7;
/// IEEE double precision.
pub const FLOAT64: c_int = 8;
/// The upper half of a single.
pub const BFLOAT16: c_int = 9;

/// `ncclScalarHostImmediate`: a factor in host memory, read before the call returns.
pub const SCALAR_HOST_IMMEDIATE: c_int = 1;

/// Declares the table of functions, and how it is filled from a library's symbols.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// NCCL's functions, as one loaded library has them.
        #[derive(Debug, Clone, Copy)]
        pub struct Functions {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
        }

        impl Functions {
            /// Fills the table; the error is the name of the first symbol that is not there.
            ///
            /// # Safety
            /// `library` must be NCCL: its symbols have the types of `nccl.h`.
            pub unsafe fn load(library: &libloading::os::unix::Library) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the caller's promise; the function's address is copied out of the symbol.
                    $($name: *unsafe { library.get($symbol) }.map_err(|_| $symbol)?,)*
                })
            }
        }
    };
}

functions! {
    /// Writes the library's version, such as 22809 for 2.28.9.
    get_version = "ncclGetVersion"(version: *mut c_int) -> c_int;
    /// Makes an id for [`Functions::comm_init_rank_config`].
    get_unique_id = "ncclGetUniqueId"(id: *mut UniqueId) -> c_int;
    /// Joins the ranks that call it with one id.
    comm_init_rank_config = "ncclCommInitRankConfig"(
        comm: *mut *mut Comm, ranks: c_int, id: UniqueId, rank: c_int, config: *mut Config
    ) -> c_int;
    /// Makes one communicator per color.
    comm_split = "ncclCommSplit"(
        comm: *mut Comm, color: c_int, key: c_int, new: *mut *mut Comm, config: *mut Config
    ) -> c_int;
    /// Flushes what was issued.
    comm_finalize = "ncclCommFinalize"(comm: *mut Comm) -> c_int;
    /// Frees a communicator, after it was finalised without waiting.
    comm_destroy = "ncclCommDestroy"(comm: *mut Comm) -> c_int;
    /// Ends what is running and frees a communicator.
    comm_abort = "ncclCommAbort"(comm: *mut Comm) -> c_int;
    /// Writes the state of what goes on in the background.
    comm_get_async_error = "ncclCommGetAsyncError"(comm: *mut Comm, error: *mut c_int) -> c_int;
    /// Writes the number of ranks.
    comm_count = "ncclCommCount"(comm: *const Comm, count: *mut c_int) -> c_int;
    /// Writes this rank.
    comm_user_rank = "ncclCommUserRank"(comm: *const Comm, rank: *mut c_int) -> c_int;
    /// The meaning of a result, a constant text.
    get_error_string = "ncclGetErrorString"(result: c_int) -> *const c_char;
    /// The last error's text, of the whole process.
    get_last_error = "ncclGetLastError"(comm: *const Comm) -> *const c_char;
    /// Reduces to all ranks.
    all_reduce = "ncclAllReduce"(
        send: *const c_void, recv: *mut c_void, count: usize, data_type: c_int, op: c_int, comm: *mut Comm,
        stream: *mut CudaStream
    ) -> c_int;
    /// Collects equal parts of all ranks.
    all_gather = "ncclAllGather"(
        send: *const c_void, recv: *mut c_void, send_count: usize, data_type: c_int, comm: *mut Comm,
        stream: *mut CudaStream
    ) -> c_int;
    /// Reduces, and leaves each rank its part.
    reduce_scatter = "ncclReduceScatter"(
        send: *const c_void, recv: *mut c_void, recv_count: usize, data_type: c_int, op: c_int, comm: *mut Comm,
        stream: *mut CudaStream
    ) -> c_int;
    /// Copies from the root to all.
    broadcast = "ncclBroadcast"(
        send: *const c_void, recv: *mut c_void, count: usize, data_type: c_int, root: c_int, comm: *mut Comm,
        stream: *mut CudaStream
    ) -> c_int;
    /// Sends to one rank.
    send = "ncclSend"(
        send: *const c_void, count: usize, data_type: c_int, peer: c_int, comm: *mut Comm, stream: *mut CudaStream
    ) -> c_int;
    /// Receives from one rank.
    recv = "ncclRecv"(
        recv: *mut c_void, count: usize, data_type: c_int, peer: c_int, comm: *mut Comm, stream: *mut CudaStream
    ) -> c_int;
    /// Opens a group on the calling thread.
    group_start = "ncclGroupStart"() -> c_int;
    /// Ends it and starts what is in it.
    group_end = "ncclGroupEnd"() -> c_int;
    /// Makes a sum whose terms are multiplied first.
    red_op_create_pre_mul_sum = "ncclRedOpCreatePreMulSum"(
        op: *mut c_int, scalar: *mut c_void, data_type: c_int, residence: c_int, comm: *mut Comm
    ) -> c_int;
    /// Ends it.
    red_op_destroy = "ncclRedOpDestroy"(op: c_int, comm: *mut Comm) -> c_int;
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layouts_are_those_of_the_c_header_on_64_bits() {
        assert_eq!((size_of::<UniqueId>(), align_of::<UniqueId>()), (128, 1));
        assert_eq!((size_of::<Config>(), align_of::<Config>()), (48, 8));
        assert_eq!((offset_of!(Config, blocking), offset_of!(Config, net_name)), (16, 32));
        assert_eq!(offset_of!(Config, split_share), 40);
    }
}
