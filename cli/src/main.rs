//! scadles
fn main() {}
