//! Time of selection with error feedback: our one pass against what libtorch offers for it, in turns within one run.
//! Both weigh a gradient, add the residual, take the k largest by magnitude and keep the rest.
//!
//! Usage: `cargo run --release -p scadles-trainer --example select_bench -- [MILLIONS_OF_FLOATS,… [PAIRS]]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::time::Instant;

use scadles_core::{
    compress::{
        kernel::{InstructionSet, Kept},
        layout::SparseLayout,
        select::select,
    },
    random::RandomStream,
};
use scadles_trainer::learner::set_up_torch;
use support::{check, quantile, spread};
use tch::{Kind, Tensor};

const RATIOS: [f64; 3] = [0.1, 0.01, 0.001];
/// Median of torch's time over ours.
const LEAST_SPEED_UP: f64 = 20.0;
/// Largest deviation of the mean number of kept elements from k.
const MOST_OFF: f64 = 0.1;
/// Gradients of different steps are runs of one array, this far apart.
const SHIFT: usize = 4096;
/// Tensors of a model are not all of one size; buckets are cut at their starts.
const LAYER_ELEMENTS: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Distribution {
    Normal,
    Laplace,
}

impl Distribution {
    fn draw(self, len: usize) -> Vec<f32> {
        let stream = RandomStream::new(7, 1);
        let value = |i: usize| {
            let (a, b) = (stream.unit(2 * i as u64), stream.unit(2 * i as u64 + 1));
            let magnitude = -(1.0 - a).ln();
            let value = match self {
                Self::Normal => (2.0 * magnitude).sqrt() * (std::f64::consts::TAU * b).cos(),
                Self::Laplace if b < 0.5 => magnitude,
                Self::Laplace => -magnitude,
            };
            (1e-3 * value) as f32
        };
        (0..len).map(value).collect()
    }
}

/// Ours, as a rank without network: all buckets, error feedback included. The weight is in the loss already.
struct Ours {
    layout: SparseLayout,
    residual: Vec<f32>,
    kept: Kept,
}

impl Ours {
    fn new(len: usize, ratio: f64) -> Self {
        let offsets: Vec<usize> = (0..len).step_by(LAYER_ELEMENTS).collect();
        let layout = SparseLayout::new(&offsets, len, 2, ratio);
        Self { layout, residual: vec![0.0; len], kept: Kept::default() }
    }

    /// Elements kept.
    fn step(&mut self, gradient: &[f32]) -> usize {
        let mut found = 0;
        for bucket in &self.layout.buckets {
            let range = bucket.bucket.range.clone();
            let e = (&gradient[range.clone()], &mut self.residual[range]);
            select(InstructionSet::widest(), bucket, e, 1.0, &mut self.kept);
            found += self.kept.len();
        }
        found
    }
}

/// The usual way: weight, add, topk of the magnitudes, gather, scatter zeros.
fn torchs(gradient: &Tensor, residual: &mut Tensor, weight: f64, k: i64) -> Tensor {
    let e = gradient * weight + &*residual;
    let (_, places) = e.abs().topk(k, 0, true, false);
    let values = e.gather(0, &places, false);
    *residual = e.scatter(0, &places, &Tensor::zeros([k], (Kind::Float, e.device())));
    values
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes = args.first().map_or("1,11.2,25.6,60.2", String::as_str);
    let sizes: Vec<usize> = sizes.split(',').map(|it| (it.parse::<f64>().unwrap() * 1e6) as usize).collect();
    let pairs: usize = args.get(1).map_or(20, |text| text.parse().unwrap());
    set_up_torch(1).unwrap();
    println!("       {:?}", InstructionSet::available());
    let mut holds = true;
    for &len in &sizes {
        for distribution in [Distribution::Normal, Distribution::Laplace] {
            let values = distribution.draw(len + pairs * SHIFT);
            for ratio in RATIOS {
                holds &= measure(&values, len, (distribution, ratio), pairs);
            }
        }
    }
    std::process::exit(i32::from(!holds));
}

fn measure(values: &[f32], len: usize, (distribution, ratio): (Distribution, f64), pairs: usize) -> bool {
    let _no_grad = tch::no_grad_guard();
    let k = ((ratio * len as f64).ceil() as i64).max(1);
    let (mut ours, mut residual) =
        (Ours::new(len, ratio), Tensor::zeros([len as i64], (Kind::Float, tch::Device::Cpu)));
    let (mut our_times, mut their_times, mut kept) = (Vec::new(), Vec::new(), 0);
    let (mut sum, mut additions) = (vec![0.0; len], Vec::new());
    for pair in 0..pairs {
        let gradient = &values[pair * SHIFT..pair * SHIFT + len];
        let tensor = Tensor::from_slice(gradient);
        let mut turn = |is_ours: bool| {
            let began = Instant::now();
            if is_ours {
                kept += ours.step(gradient);
                our_times.push(began.elapsed().as_secs_f64() * 1e3);
            } else {
                let values = torchs(&tensor, &mut residual, 0.25, k);
                assert_eq!(values.size(), [k]);
                their_times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        };
        turn(pair % 2 == 0);
        turn(pair % 2 != 0);
        let began = Instant::now();
        sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        additions.push(began.elapsed().as_secs_f64() * 1e3);
    }
    assert!(sum.iter().all(|sum| sum.is_finite()));
    let mut ratios: Vec<f64> =
        their_times.iter().zip(&our_times).map(|(theirs, ours)| theirs / ours).collect();
    let what = format!("{:.1} M floats, {distribution:?}, CR {ratio}", len as f64 / 1e6);
    let off = (kept as f64 / pairs as f64 / k as f64 - 1.0).abs();
    println!(
        "       {what}: ours {} ms, torch {} ms; a plain addition {} ms",
        spread(&mut our_times),
        spread(&mut their_times),
        spread(&mut additions)
    );
    let share = 1.0 / quantile(&mut ratios, 0.5);
    let faster = check(
        &format!("{what}: our share of torch's time"),
        share,
        &format!("{share:.4}"),
        1.0 / LEAST_SPEED_UP,
    );
    let counted = check(&format!("{what}: kept beside k, off by"), off, &format!("{off:.4}"), MOST_OFF);
    faster && counted
}
