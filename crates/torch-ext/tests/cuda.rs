//! libtorch's part for CUDA, where it is not.

use torch_ext::{Error, load_cuda};

#[test]
fn a_libtorch_without_its_part_for_cuda_is_an_error_that_names_the_file() {
    match load_cuda() {
        Err(Error::Torch { message, .. }) => assert!(message.contains("libtorch_cuda.so"), "{message}"),
        outcome => assert_eq!(outcome, Ok(()), "left out: libtorch_cuda.so is beside libtorch_cpu.so here"),
    }
}
