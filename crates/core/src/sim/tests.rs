use super::*;

const BOUNDS: BatchBounds = BatchBounds { min: 8, max: 1024, max_skip: 4 };
const S1: [f64; 8] = crate::rates::S1;

fn settings(rule: BatchRule, limits: SimLimits) -> SimSettings {
    SimSettings {
        rule,
        bounds: BOUNDS,
        policy: StreamPolicy::Persistence,
        aggregation: Aggregation::Weighted,
        exchange: ExchangeModel::constant(0.01),
        injection: None,
        compute_noise: 0.0,
        seed: 3,
        limits,
    }
}

fn devices(rates: &[f64], seconds_per_sample: f64) -> Vec<SimDevice> {
    rates.iter().map(|&rate| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample }).collect()
}

const RULES: [BatchRule; 3] =
    [BatchRule::Fixed { size: 64 }, BatchRule::StreamRate { window_seconds: 1.0 }, BatchRule::LineRate];

#[test]
fn every_sample_has_one_fate_under_every_rule_policy_and_stream() {
    let streams = [
        RateProfile::Constant(38.0),
        RateProfile::Step { before: 12.0, after: 90.0, at_seconds: 100.0 },
        RateProfile::Sine { mean: 64.0, swing: 0.9, period_seconds: 30.0 },
        RateProfile::Burst { rate: 20.0, burst_rate: 400.0, burst_seconds: 2.0, period_seconds: 15.0 },
        RateProfile::DropOut { rate: 50.0, from_seconds: 50.0, until_seconds: 120.0 },
    ];
    let devices = streams.map(|stream| SimDevice { stream, seconds_per_sample: 0.008 });
    for rule in RULES {
        for policy in [StreamPolicy::Persistence, StreamPolicy::Truncation] {
            let settings =
                SimSettings { policy, compute_noise: 0.2, ..settings(rule, SimLimits::seconds(300.0)) };
            let (summary, trace) = Simulation::new(settings, &devices).run();
            assert_eq!(summary.end, SimEnd::Complete);
            assert!(summary.steps > 40, "{rule:?}: {} steps", summary.steps);
            for device in &summary.devices {
                assert_eq!(device.arrived, device.trained + device.dropped + device.buffered);
            }
            assert_eq!(summary.dropped > 0, policy == StreamPolicy::Truncation, "{rule:?}");
            let times: f64 = summary.step_seconds.mean * summary.steps as f64;
            assert!((times - summary.simulated_seconds).abs() < 1e-6, "steps leave no time between them");
            assert_eq!(trace.points().last().unwrap().trained, summary.trained);
        }
    }
}

#[test]
fn batches_follow_each_other_without_gaps_but_what_truncation_drops() {
    for policy in [StreamPolicy::Persistence, StreamPolicy::Truncation] {
        let settings =
            SimSettings { policy, ..settings(BatchRule::Fixed { size: 64 }, SimLimits::steps(50)) };
        let mut simulation = Simulation::new(settings, &devices(&S1, 0.001));
        let mut ends = [0; S1.len()];
        let mut skipped = 0;
        while simulation.cut() {
            let batches: Vec<SimBatch> = simulation.batches().collect();
            for (batch, end) in batches.iter().zip(&mut ends) {
                skipped += batch.first_sample.checked_sub(*end).expect("a sample is trained twice");
                *end = batch.first_sample + batch.local_batch;
            }
            simulation.train(None);
        }
        let summary = simulation.summary();
        let trained: Vec<u64> = summary.devices.iter().map(|device| device.trained).collect();
        assert_eq!((summary.steps, trained), (50, vec![64 * 50; S1.len()]));
        match policy {
            StreamPolicy::Persistence => assert_eq!(skipped, 0),
            // What the last step dropped lies behind the last batch.
            StreamPolicy::Truncation => assert!(skipped > 0 && skipped <= summary.dropped),
        }
    }
}

#[test]
fn a_fixed_step_is_the_slowest_stream_or_compute_and_exchange_to_the_last_digit() {
    let run = |overhead| {
        let exchange = ExchangeModel::constant(overhead);
        let settings =
            SimSettings { exchange, ..settings(BatchRule::Fixed { size: 64 }, SimLimits::steps(300)) };
        Simulation::new(settings, &devices(&S1, 0.001)).run().0.step_seconds
    };
    let bound_by_stream = run(1.2);
    // The first step begins with an empty stream; the last digit is that of whole samples in 300 steps.
    assert!((bound_by_stream.mean - 64.0 / 12.0).abs() < 0.005, "{bound_by_stream:?}");
    assert!((run(6.0).mean - 6.064).abs() < 0.02);
}

#[test]
fn truncation_at_the_papers_step_time_drops_all_but_one_window_of_a_step() {
    // 1 − 1/t of all arrivals, for a window of a second and steps of t seconds.
    for step_seconds in [1.317, 1.852, 2.228] {
        let settings = SimSettings {
            policy: StreamPolicy::Truncation,
            exchange: ExchangeModel::constant(step_seconds),
            ..settings(BatchRule::StreamRate { window_seconds: 1.0 }, SimLimits::steps(2_000))
        };
        let (summary, _) = Simulation::new(settings, &devices(&S1, 0.0)).run();
        // A little more: what a poll every 250 ms reports late, the policy has already passed over.
        let more = summary.dropped_share() - (1.0 - 1.0 / step_seconds);
        assert!((-0.001..0.03).contains(&more), "{more} at {step_seconds} s");
        for (device, rate) in summary.devices.iter().zip(S1) {
            assert!(device.peak_buffered as f64 <= rate * (step_seconds + 1.0) + 2.0, "{device:?}");
        }
    }
}

#[test]
fn a_device_whose_stream_ends_starves_the_fixed_rule_and_is_named() {
    let mut devices = devices(&[50.0, 50.0, 50.0], 0.001);
    devices[1].stream = RateProfile::DropOut { rate: 50.0, from_seconds: 20.0, until_seconds: f64::INFINITY };
    let run = |rule| Simulation::new(settings(rule, SimLimits::seconds(100.0)), &devices).run().0;
    let fixed = run(BatchRule::Fixed { size: 64 });
    assert_eq!((fixed.end, fixed.steps), (SimEnd::Starved { rank: 1 }, 15));
    let streaming = run(BatchRule::LineRate);
    assert_eq!(streaming.end, SimEnd::Complete);
    assert!(streaming.devices[1].trained <= 1_000 && streaming.devices[0].trained > 4_500);
}

#[test]
fn silent_streams_end_a_simulation_without_limit() {
    let silent = RateProfile::DropOut { rate: 9.0, from_seconds: 30.0, until_seconds: f64::INFINITY };
    let devices = [SimDevice { stream: silent, seconds_per_sample: 0.001 }; 2];
    let run = |rule| Simulation::new(settings(rule, SimLimits::NONE), &devices).run().0.end;
    assert_eq!(run(BatchRule::LineRate), SimEnd::Silent);
    assert_eq!(run(BatchRule::StreamRate { window_seconds: 1.0 }), SimEnd::Silent);
    assert_eq!(run(BatchRule::Fixed { size: 64 }), SimEnd::Starved { rank: 0 });
    let nobody = Simulation::new(settings(BatchRule::LineRate, SimLimits::NONE), &[]).run().0;
    assert_eq!((nobody.end, nobody.steps), (SimEnd::Silent, 0));
}

#[test]
fn waits_and_work_fill_every_devices_step() {
    for rule in RULES {
        let steps = Simulation::new(settings(rule, SimLimits::steps(50)), &devices(&S1, 0.002)).steps();
        for step in &steps {
            for device in &step.devices {
                let work = 0.002 * device.local_batch as f64 + 0.01;
                let filled = device.wait_seconds + device.group_wait_seconds + work;
                assert!((filled - step.step_seconds).abs() < 1e-9, "{rule:?} {device:?} {step:?}");
            }
            let weights: f64 = step.devices.iter().map(|device| device.aggregation_weight).sum();
            assert!((weights - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn bytes_follow_the_share_of_sparse_steps_and_of_shared_samples() {
    let sparse = SparseModel {
        kind: SparseKind::AllGather { index_bytes: 4 },
        compression_ratio: 0.01,
        sparse_share: 0.5,
        select_seconds: 0.0,
    };
    let exchange = ExchangeModel {
        parameters: 1_000_000,
        network: NetworkModel { bytes_per_second: 1e8, latency_seconds: 0.0 },
        constant_seconds: 0.0,
        sparse: Some(sparse),
    };
    let injection = InjectionModel {
        mode: InjectionMode::Move,
        batch: ReplicateBatch::Grow,
        donor_fraction: 0.5,
        shared_fraction: 0.5,
        record_bytes: 3_073,
    };
    let rule = BatchRule::StreamRate { window_seconds: 1.0 };
    let settings =
        SimSettings { exchange, injection: Some(injection), ..settings(rule, SimLimits::steps(100)) };
    let (summary, _) = Simulation::new(settings, &devices(&S1, 0.001)).run();
    assert_eq!(summary.sparse_steps, 50);
    assert_eq!(summary.dense_bytes, 100 * 8 * 7_000_000);
    assert_eq!(summary.exchange_bytes, 8 * (50 * 7_000_000 + 50 * 560_000));
    assert_eq!(summary.injection_bytes, summary.shared_samples * 3_073);
    // Half of the devices share half: a quarter of all, but for halves of samples.
    let share = summary.shared_samples as f64 / summary.trained as f64;
    assert!((share - 0.25).abs() < 0.02, "{share}");
}

#[test]
fn a_poll_over_a_long_wait_measures_the_same_rate() {
    // A step of 40 s has 160 polls, of which 8 are made one by one.
    let settings = SimSettings {
        policy: StreamPolicy::Truncation,
        exchange: ExchangeModel::constant(40.0),
        ..settings(BatchRule::Fixed { size: 64 }, SimLimits::steps(20))
    };
    let steps = Simulation::new(settings, &devices(&S1, 0.0)).steps();
    for (device, rate) in steps[10].devices.iter().zip(S1) {
        assert!((device.stream_rate / rate - 1.0).abs() < 0.05, "{} for {rate}", device.stream_rate);
        // A second's worth was kept, and what came in 40 s.
        assert!((device.buffered as f64 - rate).abs() <= 0.05 * rate + 64.0, "{device:?}");
    }
}
