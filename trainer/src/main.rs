//! scadles-trainer
fn main() {}
