//! Our side of `scripts/bench/allreduce.py`: one rank that sums over Gloo, in the transport's own order or in that of ranks.
//!
//! Usage: `allreduce_bench PLACE`, a JSON object with `rank`, `world_size` and `port`. An order has `elements`, `calls` and
//! `order` (`Native` or `Rank`); the answer has the seconds of all calls, and the sum of 1, 2, … n in the last element.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::time::Instant;

use scadles_trainer::engine::{Communicator, GlooEngine, SumOrder};
use scadles_trainer::numeric::Real;
use serde_json::{Value, json};
use support::ranks::{Place, serve};

fn main() {
    let place: Place = serde_json::from_str(&std::env::args().nth(1).unwrap()).unwrap();
    let mut engine = place.meet();
    let mut values = Vec::new();
    serve(&json!({}), |order| measure(&mut engine, &mut values, order));
}

fn measure(engine: &mut GlooEngine, values: &mut Vec<f32>, order: &Value) -> Value {
    let [elements, calls] = ["elements", "calls"].map(|name| order[name].as_u64().unwrap() as usize);
    let sum_order = match order["order"].as_str().unwrap() {
        "Native" => SumOrder::Native,
        "Rank" => SumOrder::Rank,
        other => panic!("order is {other}; allowed: Native, Rank"),
    };
    if values.len() != elements {
        *values = vec![0.0; elements];
    }
    values.fill((engine.rank() + 1) as f32);
    engine.all_reduce_sum(f32::values_mut(values), sum_order).unwrap();
    let sum = values.last().copied().unwrap();
    values.fill(0.0);
    // All begin together.
    engine.all_gather_equal(&[0], &mut vec![0; engine.world_size()]).unwrap();
    let began = Instant::now();
    for _ in 0..calls {
        engine.all_reduce_sum(f32::values_mut(values), sum_order).unwrap();
    }
    json!({ "seconds": began.elapsed().as_secs_f64(), "sum": sum })
}
