//! `scadles`: see `scadles --help`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    scadles::program("scadles")
}
