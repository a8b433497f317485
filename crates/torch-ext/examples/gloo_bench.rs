//! Times Gloo's own all-reduce against the rank-ordered sum, with one process per rank on this machine.
//! Usage: `cargo run --release -p torch-ext --example gloo_bench -- [RANKS [ELEMENTS [ROUNDS]]]`
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measuring program: it prints, and a failure ends it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use common::Role;
use torch_ext::{Error, Gloo};

type Operation<'a> = Box<dyn FnMut() -> Result<(), Error> + 'a>;

/// What one call took: wall time (median and smallest) and this process's own CPU time (mean), in milliseconds.
struct Times {
    median: f64,
    smallest: f64,
    cpu: f64,
}

fn measure(group: &Gloo, rounds: usize, operation: &mut Operation<'_>) -> Times {
    operation().unwrap();
    let cpu = common::cpu_milliseconds();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            group.barrier().unwrap();
            let started = Instant::now();
            operation().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let cpu = (common::cpu_milliseconds() - cpu) / rounds as f64;
    times.sort_by(f64::total_cmp);
    Times { median: times[rounds / 2], smallest: times[0], cpu }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| args.get(index).map_or(default, |text| text.parse().unwrap());
    let (world_size, len, rounds) = (number(0, 4), number(1, 35_000), number(2, 50));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match common::processes(&args, world_size, Duration::from_mins(1)) {
        Role::Parent(ranks, _store) => {
            for mut rank in ranks {
                assert!(rank.wait().success());
            }
        }
        Role::Rank(group) => {
            let tensor = common::random::<f32>(group.rank() as u64, len);
            let tensor = RefCell::new(tensor);
            let mut operations: [(&str, Operation<'_>); 3] = [
                ("native", Box::new(|| group.all_reduce_sum(&mut tensor.borrow_mut()))),
                ("in rank order", Box::new(|| group.all_reduce_in_rank_order(&mut tensor.borrow_mut()))),
                (
                    "in rank order, composed",
                    Box::new(|| common::composed_rank_ordered_sum(&group, &mut tensor.borrow_mut())),
                ),
            ];
            // Interleaved, so that a noisy moment meets all.
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..5 {
                for ((_, operation), times) in operations.iter_mut().zip(&mut times) {
                    let _ = tensor.borrow_mut().fill_(1.0);
                    times.push(measure(&group, rounds, operation));
                }
            }
            if group.rank() == 0 {
                for ((name, _), mut times) in operations.iter().zip(times) {
                    times.sort_by(|a, b| a.median.total_cmp(&b.median));
                    let smallest = times.iter().map(|times| times.smallest).fold(f64::INFINITY, f64::min);
                    let Times { median, cpu, .. } = times[times.len() / 2];
                    println!(
                        "{world_size} ranks, {len} floats, {name}: median {median:.2} ms, smallest {smallest:.2} ms, CPU {cpu:.2} ms"
                    );
                }
            }
        }
    }
}
