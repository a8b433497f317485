//! One rank of a comparison: a process that takes orders on its standard input and gives one answer each on its standard
//! output, all in JSON, as `scripts/bench/ranks.py` speaks to it.

use std::time::Duration;

use scadles_trainer::engine::GlooEngine;
use scadles_trainer::learner::set_up_torch;
use serde::Deserialize;
use serde_json::Value;
use torch_ext::TcpStore;

const HOST: &str = "127.0.0.1";
const PATIENCE: Duration = Duration::from_mins(2);

/// A rank's place in its group on this machine.
#[derive(Deserialize)]
pub struct Place {
    pub rank: usize,
    pub world_size: usize,
    /// Where rank 0 lets the ranks meet.
    pub port: u16,
}

impl Place {
    /// Meets the others, with one compute thread.
    pub fn meet(&self) -> GlooEngine {
        set_up_torch(1).unwrap();
        let store = match self.rank {
            0 => TcpStore::serve(HOST, self.port, self.world_size, PATIENCE).unwrap(),
            _ => TcpStore::connect(HOST, self.port, self.world_size, PATIENCE).unwrap(),
        };
        GlooEngine::connect(&store, self.rank, self.world_size, HOST, PATIENCE).unwrap()
    }
}

/// Says that this rank is ready, then answers until there are no more orders.
pub fn serve(ready: &Value, mut answer: impl FnMut(&Value) -> Value) {
    println!("{ready}");
    for line in std::io::stdin().lines() {
        println!("{}", answer(&serde_json::from_str(&line.unwrap()).unwrap()));
    }
}
