//! What the measuring programs share: statistics, clocks, and the form in which a number is printed.
#![allow(dead_code, unreachable_pub, reason = "each program uses a part")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a failure ends the program")]

pub mod ranks;

pub mod choice;

use rustix::time::{ClockId, clock_gettime};

/// Processor seconds so far.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// All threads of this process.
    pub process: f64,
    /// The calling thread.
    pub thread: f64,
}

impl Cpu {
    pub fn now() -> Self {
        let seconds = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        };
        Self { process: seconds(ClockId::ProcessCPUTime), thread: seconds(ClockId::ThreadCPUTime) }
    }
}

/// The value below which `share` of `values` lie; sorts them.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Median, smallest and largest.
pub fn spread(values: &mut [f64]) -> String {
    let [middle, low, high] = [0.5, 0.0, 1.0].map(|share| quantile(values, share));
    format!("{middle:.3} ({low:.3} to {high:.3})")
}

/// An interval that holds the median of what `values` are drawn from, with 95 % confidence, whatever their distribution:
/// two of them, by their ranks (the normal approximation of the sign test). Sorts them.
pub fn interval(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let (count, last) = (values.len() as f64, values.len().saturating_sub(1));
    let half_width = 1.96 * count.sqrt();
    let low = f64::midpoint(count, -half_width).floor().max(1.0) as usize - 1;
    let high = f64::midpoint(count, half_width).ceil() as usize;
    (values[low], values[high.min(last)])
}

/// Prints a number beside its bound; whether it holds.
pub fn check(what: &str, value: f64, text: &str, bound: f64) -> bool {
    let holds = value <= bound;
    println!("{} {what}: {text}, bound {bound}", if holds { "ok    " } else { "MISSED" });
    holds
}
