//! Our side of `scripts/bench/exchange.py`: a compressed exchange alone, on the gradients of a built-in network.
//!
//! Usage: `exchange_bench lengths MODEL` prints the elements of each tensor; `exchange_bench rank PLACE` is one rank, PLACE a JSON
//! object with `rank`, `world_size`, `port`, `model` and `ratio`; `exchange_bench count MODEL RATIO [RANKS…]` prints what a rank
//! sends at most for 2 to 32 ranks, and for the RANKS what the codec makes of gradients of noise, all in JSON.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::time::Instant;

use scadles_api::job::ModelName;
use scadles_api::worker::{CompressionConfig, ModelConfig};
use scadles_core::compress::compressor::{Compressor, Step};
use scadles_core::compress::exchange::{LENGTH_BYTES, SparseExchange, compression_rule, dense_bytes};
use scadles_core::compress::gate::{CompressionDecision, EnergyOf, SparseChoice};
use scadles_core::compress::layout::SparseLayout;
use scadles_core::compress::wire::ValueFormat;
use scadles_core::random::RandomStream;
use scadles_trainer::engine::{Communicator, GlooEngine};
use scadles_trainer::exchange::CompressedExchange;
use scadles_trainer::learner::{Learner, set_up_torch};
use serde::Deserialize;
use serde_json::{Value, json};
use support::ranks::{Place, serve};

const SEED: u64 = 7;
const LEARNING_RATE: f64 = 0.1;
const MOST_RANKS: usize = 32;
/// Elements between the noise of two ranks that are counted.
const SHIFT: usize = 4099;
/// What values travel as in a job.
const FORMAT: ValueFormat = ValueFormat::Bf16;

#[derive(Deserialize)]
struct Settings {
    #[serde(flatten)]
    place: Place,
    model: ModelName,
    ratio: f64,
}

fn learner(model: ModelName) -> Learner<f32> {
    Learner::new(&ModelConfig::built_in(model, [3, 32, 32], 10), SEED).unwrap()
}

fn named(model: &str) -> ModelName {
    serde_json::from_value(json!(model)).unwrap()
}

/// Gradients of noise, independent between ranks: their largest elements are anywhere.
fn noise(rank: usize, len: usize) -> Vec<f32> {
    let stream = RandomStream::new(SEED, rank as u64);
    (0..len as u64).map(|index| 1e-3 * stream.normal(index) as f32).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    set_up_torch(1).unwrap();
    match args[0].as_str() {
        "lengths" => {
            let learner = learner(named(&args[1]));
            let lengths: Vec<usize> = learner.flat().layout().iter().map(|slot| slot.len_elements).collect();
            println!("{}", json!(lengths));
        }
        "rank" => run_rank(&serde_json::from_str(&args[1]).unwrap()),
        "count" => {
            let counted: Vec<usize> = args[3..].iter().map(|ranks| ranks.parse().unwrap()).collect();
            count(&learner(named(&args[1])), args[2].parse().unwrap(), &counted);
        }
        other => panic!("{other}; allowed: lengths, rank, count"),
    }
}

/// Orders have `exchange` (`AllGather` or `ReduceScatter`) and `calls`; answers seconds and bytes of all calls, and the squared
/// norm of the last sum.
fn run_rank(settings: &Settings) {
    let mut engine = settings.place.meet();
    let mut learner = learner(settings.model);
    let config = CompressionConfig {
        ratio: settings.ratio,
        is_free: false,
        delta: None,
        energy_of: EnergyOf::Compensated,
    };
    let mut exchange = CompressedExchange::new(learner.flat(), settings.place.world_size, &config);
    let gradient = noise(settings.place.rank, learner.flat().len());
    serve(&json!({ "dense_bytes": exchange.dense_bytes() }), |order| {
        let kind: SparseExchange = serde_json::from_value(order["exchange"].clone()).unwrap();
        let decision = CompressionDecision::Sparse(SparseChoice { exchange: kind, level: 0 });
        measure((&mut engine, &mut exchange), &mut learner, &gradient, (decision, order))
    });
}

fn measure(
    (engine, exchange): (&mut GlooEngine, &mut CompressedExchange),
    learner: &mut Learner<f32>,
    gradient: &[f32],
    (decision, order): (CompressionDecision, &Value),
) -> Value {
    let (mut seconds, mut bytes) = (0.0, 0);
    for _ in 0..order["calls"].as_u64().unwrap() {
        learner.gradients_mut().unwrap().copy_from_slice(gradient);
        // All begin together.
        engine.all_gather_equal(&[0], &mut vec![0; engine.world_size()]).unwrap();
        let began = Instant::now();
        let sent = exchange.combine(engine, learner.gradients_mut().unwrap(), decision, LEARNING_RATE);
        seconds += began.elapsed().as_secs_f64();
        bytes += sent.unwrap().bytes_sent;
    }
    let squares = learner.gradients().unwrap().iter().map(|value| f64::from(*value).powi(2));
    json!({ "seconds": seconds, "bytes": bytes, "energy": squares.sum::<f64>() })
}

/// Bytes of a rank in a dense step, at most in the sparse exchange that sends least, and as counted.
fn count(learner: &Learner<f32>, ratio: f64, counted: &[usize]) {
    let offsets: Vec<usize> = learner.flat().layout().iter().map(|slot| slot.offset_elements).collect();
    for ranks in 2..=MOST_RANKS {
        let layout = SparseLayout::new(&offsets, learner.flat().len(), ranks, ratio);
        let rule = compression_rule(std::slice::from_ref(&layout), FORMAT, None, false);
        let best = rule.allowed.iter().min_by_key(|cost| cost.worst_bytes);
        let bytes = best.filter(|_| counted.contains(&ranks)).map(|cost| match cost.decision {
            CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, .. }) => {
                to_all(&layout)
            }
            _ => by_owners(&layout),
        });
        let worst = best.map(|cost| cost.worst_bytes);
        println!(
            "{}",
            json!({ "ranks": ranks, "dense": dense_bytes(&layout), "worst": worst, "counted": bytes })
        );
    }
}

fn compressor(layout: &SparseLayout) -> Compressor {
    Compressor::new(vec![layout.clone()], EnergyOf::Compensated, FORMAT)
}

fn to_all(layout: &SparseLayout) -> usize {
    let (gradient, mut rank_0) = (noise(0, layout.total_elements), compressor(layout));
    let mut step = rank_0.begin(LEARNING_RATE).unwrap();
    let mut bytes = |number: usize| {
        let range = step.bucket(number).range.clone();
        step.select_for_all(0, number, &gradient[range]).len() + LENGTH_BYTES
    };
    (0..layout.buckets.len()).map(&mut bytes).sum::<usize>() * (layout.world_size - 1)
}

/// What a rank has for each owner, bucket by bucket.
fn for_owners(step: &mut Step<'_>, gradient: &[f32], buckets: usize) -> Vec<Vec<Vec<u8>>> {
    let of_bucket = |number: usize| {
        let range = step.bucket(number).range.clone();
        step.select_for_owners(0, number, &gradient[range])
    };
    (0..buckets).map(of_bucket).collect()
}

/// What rank 0 sends to owners, and of what it owns to all. One rank after another: of them one fits into memory.
fn by_owners(layout: &SparseLayout) -> usize {
    let (buckets, others) = (layout.buckets.len(), layout.world_size - 1);
    let mut gradient = noise(0, layout.total_elements);
    let mut rank_0 = compressor(layout);
    let mut step = rank_0.begin(LEARNING_RATE).unwrap();
    let of_rank_0 = for_owners(&mut step, &gradient, buckets);
    let to_owners: usize = of_rank_0.iter().flat_map(|parts| &parts[1..]).map(Vec::len).sum();
    let mut for_rank_0: Vec<Vec<Vec<u8>>> =
        of_rank_0.into_iter().map(|mut parts| vec![parts.swap_remove(0)]).collect();
    for _ in 1..layout.world_size {
        // The same noise at other places.
        gradient.rotate_right(SHIFT % layout.total_elements);
        let mut other = compressor(layout);
        let parts = for_owners(&mut other.begin(LEARNING_RATE).unwrap(), &gradient, buckets);
        for (all, mut parts) in for_rank_0.iter_mut().zip(parts) {
            all.push(parts.swap_remove(0));
        }
    }
    let owned = |(number, parts): (usize, &Vec<Vec<u8>>)| {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        step.own(0, number, 0, &parts).unwrap().len() + 2 * LENGTH_BYTES
    };
    to_owners + for_rank_0.iter().enumerate().map(owned).sum::<usize>() * others
}
