//! `kubectl scadles …`: kubectl finds this program by its name, wherever PATH has it.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    scadles::program("kubectl scadles")
}
