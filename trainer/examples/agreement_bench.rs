//! Time of one agreement over loopback: eight processes report at once, rank 0's hub rules, all hear the verdict.
//! Reports are as large as a worker's, and the ruling is `scadles_core::agree`.
//!
//! Usage: `cargo run --release -p scadles-trainer --example agreement_bench -- [RANKS [ROUNDS]]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use scadles_api::worker::BatchRule;
use scadles_api::worker::LearningRateScaling;
use scadles_api::{DeviceProgress, PartitionPosition};
use scadles_core::agree::{AgreeSettings, Completion, GlobalState, StepAgreement, StepReport, agree};
use scadles_core::device_stream::{BatchRange, DeviceCheckpoint};
use scadles_core::learning_rate::LearningRatePlan;
use scadles_core::weights::Aggregation;
use scadles_trainer::channel::{Hello, HubSettings, Member, Ruling, serve_hub};
use scadles_trainer::checkpoint::DeviceTotals;
use scadles_trainer::source::StreamCheckpoint;
use serde::{Deserialize, Serialize};
use support::{Cpu, check, quantile};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);
const PARTITIONS: u32 = 4;
const BOUND_MILLISECONDS: f64 = 0.5;

/// The fields of a worker's report.
#[derive(Clone, Serialize, Deserialize)]
struct Report {
    round: u64,
    step: StepReport,
    device: DeviceProgress,
    stream: StreamCheckpoint,
    totals: DeviceTotals,
    last_step: Option<(f64, u64, f64)>,
    evaluation_loss_sum: f64,
    closing: bool,
}

fn report(rank: usize, round: u64) -> Report {
    let ranges = (0..PARTITIONS)
        .map(|partition| BatchRange { partition, first_offset: round * 16, count: 16 })
        .collect();
    let position = |partition| PartitionPosition {
        partition,
        start: 0,
        next: (round * 16).cast_signed(),
        end: (round * 16 + 20).cast_signed(),
    };
    let stream = StreamCheckpoint {
        device: DeviceCheckpoint::starting_at(&[round * 16; PARTITIONS as usize]),
        ..StreamCheckpoint::default()
    };
    Report {
        round,
        step: StepReport {
            rank,
            step: round,
            ready: true,
            local_batch: 64,
            loss_mass: 64.0,
            busy_seconds: 0.1,
            stream_rate: 152.0,
            buffered: 20,
            ranges,
            labels: Vec::new(),
            stream: Some(stream.device.clone()),
            stream_ended: false,
            stop_requested: None,
            stop_unsaved: false,
            checkpoint_requested: false,
            tuning: None,
            parameter_hash: round.is_multiple_of(50).then_some(7),
            compression: None,
            gradient: None,
            evaluation: None,
        },
        device: DeviceProgress {
            name: format!("device-{rank}"),
            positions: (0..PARTITIONS.cast_signed()).map(position).collect(),
            ..DeviceProgress::default()
        },
        stream,
        totals: DeviceTotals::default(),
        last_step: Some((120.5, 64, 0.01)),
        evaluation_loss_sum: 0.0,
        closing: false,
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // As in a worker: one thread carries the channel, the training thread waits.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let number = |index: usize, default: u64| args.get(index).map_or(default, |text| text.parse().unwrap());
    let (world_size, rounds) = (number(0, 8) as usize, number(1, 4000));
    if let Some(hub) = args.get(2) {
        let _ = take_part(&runtime, hub.parse().unwrap(), number(3, 0) as usize, rounds);
        return;
    }
    let hub = open_hub(&runtime, world_size);
    let mut others: Vec<Child> = (1..world_size)
        .map(|rank| {
            let args = [world_size.to_string(), rounds.to_string(), hub.to_string(), rank.to_string()];
            Command::new(std::env::current_exe().unwrap()).args(args).spawn().unwrap()
        })
        .collect();
    let mut milliseconds = take_part(&runtime, hub, 0, rounds);
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let [median, p5, p95] = [0.5, 0.05, 0.95].map(|share| quantile(&mut milliseconds, share));
    let bytes = rmp_serde::to_vec_named(&report(0, 1000)).unwrap().len();
    let text = format!("median {median:.3} ms (5 % {p5:.3}, 95 % {p95:.3}; reports of {bytes} bytes)");
    let held = check(&format!("agreement round, {world_size} processes"), median, &text, BOUND_MILLISECONDS);
    std::process::exit(i32::from(!held));
}

fn open_hub(runtime: &Runtime, world_size: usize) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let settings = HubSettings {
        world_size,
        attempt: 1,
        token: "bench".to_owned(),
        join_within: PATIENCE,
        greetings: Vec::new(),
    };
    let agreed = AgreeSettings {
        world_size,
        rule: BatchRule::LineRate,
        aggregation: Aggregation::Weighted,
        learning_rate: LearningRatePlan {
            base_learning_rate: 0.03,
            scaling: LearningRateScaling::Linear,
            base_global_batch: 512,
            epoch_samples: 50_000,
            milestone_epochs: Vec::new(),
            gamma: 0.1,
        },
        compression: None,
        injection: None,
        tuning: scadles_api::Tuning::default(),
        completion: Completion::MaxSteps(u64::MAX),
        checkpoint_every_steps: 40,
        evaluate_every_steps: 0,
    };
    let mut state = GlobalState::default();
    serve_hub(runtime.handle(), listener, settings, move |reports: &[Option<Report>]| {
        let steps: Option<Vec<StepReport>> =
            reports.iter().map(|report| report.as_ref().map(|report| report.step.clone())).collect();
        let agreement = agree(&agreed, &state, &steps?).unwrap();
        state = agreement.next;
        Some(Ruling { verdict: agreement, last: false })
    });
    address
}

/// Milliseconds of each round as this rank saw it, the first tenth left out.
fn take_part(runtime: &Runtime, hub: SocketAddr, rank: usize, rounds: u64) -> Vec<f64> {
    let hello =
        Hello { protocol: scadles_api::PROTOCOL_VERSION, attempt: 1, rank, token: "bench".to_owned() };
    let member: Member<Report, StepAgreement> =
        Member::join(runtime.handle(), hub, hello, PATIENCE, |_| ()).unwrap();
    let mut milliseconds = Vec::new();
    for round in 0..rounds {
        let report = report(rank, round);
        let began = Instant::now();
        member.report(report);
        let verdict = member.verdict(began + PATIENCE).unwrap();
        milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(verdict.next.step, round + 1);
    }
    if rank == 0 {
        println!(
            "       rank 0 with the hub: {:.3} CPU ms a round",
            Cpu::now().process / rounds as f64 * 1e3
        );
        // The others may still wait for the last verdict, which this process sends.
        std::thread::sleep(Duration::from_millis(200));
    }
    milliseconds.split_off(rounds as usize / 10)
}
