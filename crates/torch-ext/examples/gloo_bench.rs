//! Times Gloo's own all-reduce against the rank-ordered sum, with one process per rank on this machine.
//! Usage: `cargo run --release -p torch-ext --example gloo_bench -- [RANKS [ELEMENTS [ROUNDS]]]`
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measuring program: it prints, and a failure ends it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::Role;
use tch::Kind;
use torch_ext::{Error, Gloo};

fn median_milliseconds(group: &Gloo, rounds: usize, mut operation: impl FnMut() -> Result<(), Error>) -> f64 {
    let mut times: Vec<f64> = (0..rounds + 2)
        .map(|_| {
            group.barrier().unwrap();
            let started = Instant::now();
            operation().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .skip(2)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| args.get(index).map_or(default, |text| text.parse().unwrap());
    let (world_size, len, rounds) = (number(0, 4), number(1, 35_000), number(2, 50));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match common::processes(&args, world_size, Duration::from_secs(60)) {
        Role::Parent(ranks, _store) => {
            for mut rank in ranks {
                assert!(rank.wait().success());
            }
        }
        Role::Rank(group) => {
            let mut tensor = common::random::<f32>(group.rank() as u64, len);
            let mut scratch = common::scratch(len, world_size, Kind::Float);
            // Interleaved rounds, so that a noisy moment meets both.
            let (mut native, mut ordered, mut composed) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..5 {
                native.push(median_milliseconds(&group, rounds, || group.all_reduce_sum(&mut tensor)));
                let _ = tensor.fill_(1.0);
                ordered.push(median_milliseconds(&group, rounds, || {
                    group.all_reduce_in_rank_order(&mut tensor, &mut scratch)
                }));
                let _ = tensor.fill_(1.0);
                composed.push(median_milliseconds(&group, rounds, || {
                    common::composed_rank_ordered_sum(&group, &mut tensor)
                }));
                let _ = tensor.fill_(1.0);
            }
            let [native, ordered, composed] = [native, ordered, composed].map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            if group.rank() == 0 {
                println!(
                    "{world_size} ranks, {len} floats, medians: native {native:.2} ms; in rank order {ordered:.2} ms \
                     (x{:.2}); composed of all_to_all_v and all_gather_v {composed:.2} ms (x{:.2})",
                    ordered / native,
                    composed / native
                );
            }
        }
    }
}
