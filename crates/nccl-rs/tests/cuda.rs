//! CUDA's runtime: memory, copies, streams, and operations on them, on the mock.
#![allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp)]

mod common;

use std::path::Path;

use common::{LONG, SHORT, in_a_process, mock, ranks};
use nccl_rs::cuda::{CUDART_VARIABLE, Cuda, CudaBuffer, CudaError, CudaStream};
use nccl_rs::{Config, Error, ReduceOp};

/// `cudaErrorNoDevice`.
const NO_DEVICE: i32 = 100;
const INVALID_DEVICE: i32 = 101;

#[test]
fn what_is_uploaded_comes_down_again_and_the_rest_is_zero() {
    let cuda = &mock().cuda;
    let stream = CudaStream::new(cuda).unwrap();
    let mut buffer = CudaBuffer::zeroed(cuda, 24).unwrap();
    stream.upload(&[1.5_f32, -2.0], &mut buffer.view_mut(2).unwrap()).unwrap();
    let mut all = [9.0_f32; 6];
    stream.download(&buffer.view(6).unwrap(), &mut all).unwrap();
    assert_eq!(all, [1.5, -2.0, 0.0, 0.0, 0.0, 0.0]);
    stream.upload::<u8>(&[], &mut buffer.view_mut(0).unwrap()).unwrap();
}

#[test]
fn views_beyond_the_buffer_and_copies_of_unlike_lengths_are_refused_before_cuda_is_called() {
    let cuda = &mock().cuda;
    let stream = CudaStream::new(cuda).unwrap();
    let mut buffer = CudaBuffer::zeroed(cuda, 24).unwrap();
    let mut empty = CudaBuffer::zeroed(cuda, 0).unwrap();
    mock().calls();
    let refused = |error: CudaError| {
        let CudaError::Argument { message, .. } = error else { panic!("{error:?}") };
        message
    };
    assert!(refused(buffer.view::<f64>(4).unwrap_err()).contains("4 numbers of 8 bytes; the buffer has 24"));
    assert!(refused(buffer.view_mut::<u8>(usize::MAX).unwrap_err()).contains("24 bytes"));
    assert!(refused(empty.view_mut::<u8>(1).unwrap_err()).contains("0 bytes"));
    let upload = stream.upload(&[1_u8; 3], &mut buffer.view_mut(4).unwrap());
    assert!(refused(upload.unwrap_err()).contains("from has 3 elements, to 4"));
    assert!(refused(stream.download(&buffer.view(4).unwrap(), &mut [0_u8; 5]).unwrap_err()).contains("to 5"));
    assert!(refused(cuda.set_device(usize::MAX).unwrap_err()).contains("index"));
    assert_eq!(mock().calls(), Vec::<String>::new());
}

#[test]
fn collectives_run_on_memory_and_stream_of_the_gpu() {
    ranks(3, &Config::new(LONG), |comm| {
        let cuda = &mock().cuda;
        cuda.set_device(comm.rank()).unwrap();
        let stream = CudaStream::new(cuda).unwrap();
        let mut buffer = CudaBuffer::zeroed(cuda, 8).unwrap();
        let mut values = buffer.view_mut::<f32>(2).unwrap();
        stream.upload(&[comm.rank() as f32, 1.0], &mut values).unwrap();
        comm.blocking(&stream).all_reduce(&mut values, ReduceOp::Sum).unwrap();
        let mut sum = [0.0; 2];
        stream.download(&values, &mut sum).unwrap();
        assert_eq!(sum, [3.0, 3.0]);
        comm.finalize().unwrap();
    });
}

#[test]
fn a_collective_that_hangs_on_a_stream_of_the_gpu_ends_at_the_deadline() {
    ranks(1, &Config::new(SHORT), |comm| {
        let cuda = &mock().cuda;
        let stream = CudaStream::new(cuda).unwrap();
        let mut buffer = CudaBuffer::zeroed(cuda, 8).unwrap();
        mock().hang();
        let summed =
            comm.blocking(&stream).all_reduce(&mut buffer.view_mut::<f32>(2).unwrap(), ReduceOp::Sum);
        assert!(matches!(summed, Err(Error::TimedOut { .. })), "{summed:?}");
    });
}

#[test]
fn what_cuda_says_is_in_the_error() {
    let cuda = &mock().cuda;
    assert_eq!(cuda.device_count(), Ok(4));
    mock().fail("cudaGetDeviceCount", NO_DEVICE);
    let none = cuda.device_count().unwrap_err();
    assert_eq!(none.to_string(), "this process sees no GPU: mock: no CUDA-capable device is detected");
    let unknown = cuda.set_device(4).unwrap_err();
    assert!(matches!(unknown, CudaError::Call { code: INVALID_DEVICE, .. }), "{unknown:?}");
    mock().fail("cudaMalloc", 2);
    let full = CudaBuffer::zeroed(cuda, 8).unwrap_err();
    assert_eq!(full.to_string(), "failed to allocate memory of the GPU: CUDA error 2: mock: some error");
    let stream = CudaStream::new(cuda).unwrap();
    let mut buffer = CudaBuffer::zeroed(cuda, 8).unwrap();
    mock().fail("cudaMemcpyAsync", 4);
    let failed = stream.upload(&[0_u8; 8], &mut buffer.view_mut(8).unwrap()).unwrap_err();
    assert!(matches!(failed, CudaError::Call { operation: "upload", code: 4, .. }), "{failed:?}");
}

#[test]
fn a_missing_runtime_is_an_error_that_says_where_it_was_looked_for_and_what_to_do() {
    let name = "a_missing_runtime_is_an_error_that_says_where_it_was_looked_for_and_what_to_do";
    if in_a_process(name, &[(CUDART_VARIABLE, Path::new("/nowhere/libcudart.so"))]).is_some() {
        return;
    }
    match Cuda::load() {
        Err(error @ CudaError::NotFound { .. }) => {
            let text = error.to_string();
            for part in ["libcudart.so.13: cannot open", "/nowhere/libcudart.so", "install CUDA 12 or 13"] {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
        found => eprintln!("left out: this machine has a CUDA runtime in its usual places: {found:?}"),
    }
}

#[test]
fn a_library_that_is_no_runtime_is_told_apart() {
    let error = Cuda::open("libm.so.6").unwrap_err();
    assert!(matches!(error, CudaError::Symbol { symbol: "cudaGetErrorString", .. }), "{error:?}");
}
