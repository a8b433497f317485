//! The GPU of a worker: found when it starts, or why not. Loader and device I/O.
//!
//! libtorch's part for CUDA, CUDA's runtime and NCCL are looked for when a worker is to use a GPU, so that one program serves
//! machines with and without.

use nccl_rs::cuda::{Cuda, CudaError};
use nccl_rs::{Library, UniqueId};
use tch::Device;

use crate::engine::EngineError;

/// A GPU that this worker may use, and NCCL for it.
#[derive(Debug, Clone)]
pub struct Gpu {
    cuda: Cuda,
    nccl: Library,
    index: usize,
}

/// Why a worker has no GPU to use: its surroundings must change.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No GPU, or no CUDA.
    #[error("backend Nccl: {0}")]
    NoGpu(CudaError),
    /// The part of libtorch that computes on GPUs is not here.
    #[error("backend Nccl: this scadles-trainer cannot compute on a GPU: {0}")]
    NoTorch(torch_ext::Error),
    /// No NCCL, or one that cannot be used.
    #[error("backend Nccl: {0}")]
    NoNccl(nccl_rs::Error),
}

impl GpuError {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoGpu(_) => {
                "in a cluster ask for nvidia.com/gpu in spec.devices.template.resources.limits; on this machine install \
                 NVIDIA's driver; or write spec.backend: Gloo (scadles run --backend gloo), which computes on the CPU"
            }
            Self::NoTorch(_) => {
                "use the image scadles-trainer:TAG-cuda, or put the libraries of a libtorch 2.11.0 for CUDA beside \
                 those of scadles-trainer"
            }
            Self::NoNccl(_) => "use the image scadles-trainer:TAG-cuda, or install NCCL 2.18 or newer",
        }
    }
}

impl Gpu {
    /// Finds the GPU of the worker at `position` among those of its job: workers on one machine take its GPUs in turn, one in
    /// a pod of its own the pod's.
    pub fn open(position: usize) -> Result<Self, GpuError> {
        let cuda = Cuda::load().map_err(GpuError::NoGpu)?;
        let count = cuda.device_count().map_err(GpuError::NoGpu)?;
        // Before NCCL: it brings its own, and two copies in one process do not know of each other.
        torch_ext::load_cuda().map_err(GpuError::NoTorch)?;
        let nccl = Library::load().map_err(GpuError::NoNccl)?;
        tracing::info!(gpu = position % count, of = count, ?nccl, ?cuda, "computing on a GPU");
        Ok(Self::new(cuda, nccl, position % count))
    }

    /// GPU number `index` of this CUDA, and this NCCL.
    pub fn new(cuda: Cuda, nccl: Library, index: usize) -> Self {
        Self { cuda, nccl, index }
    }

    /// What a new group meets by; rank 0 makes it.
    pub fn unique_id(&self) -> Result<UniqueId, EngineError> {
        let failed = |error: nccl_rs::Error| EngineError::PeerLost {
            operation: "make an id",
            message: error.to_string(),
        };
        self.nccl.unique_id().map_err(failed)
    }

    /// Where the network computes.
    pub fn device(&self) -> Device {
        Device::Cuda(self.index)
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn cuda(&self) -> &Cuda {
        &self.cuda
    }

    pub(crate) fn nccl(&self) -> &Library {
        &self.nccl
    }
}
