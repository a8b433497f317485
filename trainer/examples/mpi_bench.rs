//! Times sums over the MPI engine. Usage: `mpiexec -n 2 mpi_bench BYTES...`; see `scripts/bench/mpi.py`.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measuring program: it prints, and a failure ends it.

use std::time::{Duration, Instant};

use scadles_trainer::engine::{Communicator, MpiEngine, SumOrder};
use scadles_trainer::numeric::Real;

const RANKS: usize = 2;
const DEADLINE: Duration = Duration::from_mins(1);

fn main() {
    let rank = ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].into_iter().find_map(|name| std::env::var(name).ok());
    let rank = rank.expect("started by mpiexec").parse().unwrap();
    let mut engine = MpiEngine::connect(rank, RANKS, DEADLINE, DEADLINE).unwrap();
    for bytes in std::env::args().skip(1) {
        let bytes: usize = bytes.parse().unwrap();
        // As many rounds as the program in C.
        let rounds = 8 + 200_000_000 / (bytes + 100_000);
        let mut values = vec![0.0_f32; bytes / size_of::<f32>()];
        let mut seconds: Vec<f64> = (0..rounds + rounds / 4)
            .map(|_| {
                let began = Instant::now();
                engine.all_reduce_sum(f32::values_mut(&mut values), SumOrder::Rank).unwrap();
                began.elapsed().as_secs_f64()
            })
            .skip(rounds / 4)
            .collect();
        seconds.sort_by(f64::total_cmp);
        if rank == 0 {
            println!("{bytes} {:.9}", seconds[rounds / 2]);
        }
    }
    engine.finalize().unwrap();
}
