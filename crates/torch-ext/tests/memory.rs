//! The allocator over many steps. Without the test harness: glibc keeps memory for the main thread, on which workers train,
//! and tests run on others.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};

/// Beyond what glibc's own rule would ever keep.
const LEN: i64 = 16 << 20;
const BYTES: u64 = 4 * LEN as u64;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Resident memory after a tensor has come and gone.
fn resident_after_a_round() -> u64 {
    drop(Tensor::ones([LEN], (Kind::Float, Device::Cpu)));
    resident_bytes()
}

fn what_was_freed_is_kept_and_used_again_until_it_is_released() {
    assert!(torch_ext::keep_freed_memory());
    let before = resident_bytes();
    let (first, second) = (resident_after_a_round(), resident_after_a_round());
    assert!(first > before + BYTES * 9 / 10, "{first} of {before} and {BYTES} bytes: it was given back");
    assert!(second < first + BYTES / 10, "{second} after {first} bytes: it was not used again");
    torch_ext::release_freed_memory();
    let released = resident_bytes();
    assert!(
        released < second - BYTES * 9 / 10,
        "{released} of {second} bytes: it was not given back when asked to"
    );
}

fn main() {
    what_was_freed_is_kept_and_used_again_until_it_is_released();
}
