//! The batch rules on the virtual clock: where devices can keep up, windows settle and hold still; where they cannot, the
//! state says so (ARCHITECTURE.md, "Batch rules").

use scadles_api::job::StreamPolicy;
use scadles_core::agree::WINDOW_DEAD_BAND;
use scadles_core::batch::{BatchBounds, BatchRule};
use scadles_core::buffer_state::{BufferState, BufferStateTracker, BufferView};
use scadles_core::rates::S1;
use scadles_core::sim::{
    ExchangeModel, RateProfile, SimDevice, SimDeviceStep, SimLimits, SimSettings, SimStep, Simulation,
};
use scadles_core::weights::Aggregation;

const BOUNDS: BatchBounds = BatchBounds { min: 8, max: 1024, max_skip: 4 };
/// Rates of the four devices; the first is the quickest and has the load S·a of the test.
const RATES: [f64; 4] = [200.0, 152.0, 48.0, 144.0];
const STEP_AT_SECONDS: f64 = 20.0;
const DURATION_SECONDS: f64 = 120.0;
/// The estimate of a rate that stepped by a factor 2.5 is within 5 % after ln(0.6 / 0.05) time constants and a poll.
const STEP_KNOWN_SECONDS: f64 = STEP_AT_SECONDS + 2.8;

fn settings(overhead_seconds: f64, compute_noise: f64, seed: u64) -> SimSettings {
    SimSettings {
        rule: BatchRule::LineRate,
        bounds: BOUNDS,
        policy: StreamPolicy::Persistence,
        aggregation: Aggregation::Weighted,
        exchange: ExchangeModel::constant(overhead_seconds),
        injection: None,
        compute_noise,
        seed,
        limits: SimLimits::seconds(DURATION_SECONDS),
    }
}

fn simulate(settings: &SimSettings, devices: &[SimDevice]) -> Vec<SimStep> {
    Simulation::new(*settings, devices).steps()
}

/// The second half of a run, and how long it lasts.
fn second_half(steps: &[SimStep]) -> (&[SimStep], f64) {
    let half = &steps[steps.len() / 2..];
    (half, half[half.len() - 1].agreed_seconds - half[0].agreed_seconds)
}

/// Growth of the first device's backlog over the second half, in samples per second.
fn backlog_growth(steps: &[SimStep]) -> f64 {
    let (half, seconds) = second_half(steps);
    (half[half.len() - 1].devices[0].buffered as f64 - half[0].devices[0].buffered as f64) / seconds
}

fn devices(load: f64, profile: impl Fn(f64) -> RateProfile) -> Vec<SimDevice> {
    let device = |&rate: &f64| SimDevice { stream: profile(rate), seconds_per_sample: load / RATES[0] };
    RATES.iter().map(device).collect()
}

fn step_profile(rate: f64) -> RateProfile {
    RateProfile::Step { before: rate * 0.4, after: rate, at_seconds: STEP_AT_SECONDS }
}

/// The load is reached at the top of the wave; the slope stays below 5 % of the rate within the estimate's second.
fn sine_profile(rate: f64) -> RateProfile {
    RateProfile::Sine { mean: rate / 1.25, swing: 0.25, period_seconds: 60.0 }
}

/// The steps from the tenth after the rates are known.
fn settled(steps: &[SimStep], known_seconds: f64) -> &[SimStep] {
    let known = steps.iter().position(|step| step.agreed_seconds >= known_seconds).expect("the run goes on");
    &steps[known + 10..]
}

/// The largest Q / (S·T) over all devices and steps; where S·T is below b_min, a device saves up and Q / b_min counts.
fn worst_backlog(steps: &[SimStep]) -> f64 {
    let backlog = |step: &SimStep| {
        let of = |d: &SimDeviceStep| {
            d.buffered as f64 / (d.stream_rate * step.window_seconds).max(f64::from(BOUNDS.min))
        };
        step.devices.iter().map(of).fold(0.0, f64::max)
    };
    steps.iter().map(backlog).fold(0.0, f64::max)
}

#[test]
fn line_rate_settles_in_ten_steps_and_stays_in_the_dead_band_at_a_load_of_four_fifths() {
    type Profile = fn(f64) -> RateProfile;
    let profiles: [(Profile, f64); 3] =
        [(RateProfile::Constant, 0.5), (step_profile, STEP_KNOWN_SECONDS), (sine_profile, 0.5)];
    for (profile, known_seconds) in profiles {
        for compute_noise in [0.0, 0.2] {
            for seed in 0..10 {
                let steps = simulate(&settings(0.01, compute_noise, seed), &devices(0.8, profile));
                let steps = settled(&steps, known_seconds);
                assert!(steps.len() > 200);
                let window = steps[0].window_seconds;
                for step in steps {
                    let off = (step.window_seconds - window).abs();
                    assert!(off <= WINDOW_DEAD_BAND * window, "T left its band: {step:?}");
                }
                assert!(worst_backlog(steps) <= 2.0, "Q/(S·T) = {}", worst_backlog(steps));
            }
        }
    }
}

#[test]
fn line_rate_with_a_long_exchange_finds_its_fixed_point_and_holds_still() {
    // T = c / (1 − S·a): the window in which a batch of S·T computes and exchanges.
    let steps = simulate(&settings(0.1, 0.0, 0), &devices(0.8, RateProfile::Constant));
    let late = &steps[40..];
    assert!(late.len() > 100);
    let last = late[late.len() - 1].step_seconds;
    assert!((last / 0.5 - 1.0).abs() <= WINDOW_DEAD_BAND, "steps take {last} s");
    let changes =
        late.windows(2).filter(|pair| pair[0].window_seconds.to_bits() != pair[1].window_seconds.to_bits());
    assert!(changes.count() <= 1);
    assert!(worst_backlog(&steps[10..]) <= 2.0);
}

#[test]
fn line_rate_with_a_long_exchange_and_noise_keeps_up_with_the_streams() {
    for seed in 0..10 {
        let steps = simulate(&settings(0.1, 0.2, seed), &devices(0.8, RateProfile::Constant));
        assert!(worst_backlog(&steps[10..]) <= 3.0, "Q/(S·T) = {}", worst_backlog(&steps[10..]));
        let (half, seconds) = second_half(&steps);
        let trained = half[1..].iter().map(SimStep::global_batch).sum::<u64>() as f64 / seconds;
        assert!((trained / RATES.iter().sum::<f64>() - 1.0).abs() < 0.03, "{trained}/s");
    }
}

#[test]
fn line_rate_saturates_and_says_so_when_the_stream_is_faster_than_the_device() {
    for compute_noise in [0.0, 0.2] {
        let mut settings = settings(0.01, compute_noise, 3);
        settings.limits = SimLimits::seconds(300.0);
        let steps = simulate(&settings, &devices(1.2, RateProfile::Constant));
        let mut tracker = BufferStateTracker::default();
        for step in &steps {
            let device = &step.devices[0];
            let view = BufferView {
                buffered: device.buffered,
                stream_rate: Some(device.stream_rate),
                window_seconds: step.window_seconds,
                silent_seconds: 0.0,
                short_seconds: 0.0,
                limit_used: 0.0,
                losing: false,
            };
            tracker.observe(step.agreed_seconds, 30.0, &view);
        }
        let saturated =
            steps.iter().position(|step| step.devices[0].local_batch == 1024).expect("b saturates");
        assert!(
            steps[saturated].agreed_seconds < 90.0,
            "saturated after {} s",
            steps[saturated].agreed_seconds
        );
        assert!(steps[saturated..].iter().all(|step| step.devices[0].local_batch == 1024), "b fell back");
        assert_eq!(tracker.state(), BufferState::Backlogged);
    }
}

#[test]
fn one_slow_first_step_does_not_lengthen_the_window() {
    // A first step that takes 3 s (kernels warm up) is not a load.
    use scadles_core::batch::{BatchClock, StepTiming};
    let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
    for busy_seconds in [3.0, 0.1, 0.11, 0.1, 2.0, 0.1, 0.1] {
        clock.step_finished(&StepTiming { busy_seconds, compute_seconds: busy_seconds, local_batch: 10 });
        assert!(clock.busy_seconds() < 0.12, "{}", clock.busy_seconds());
    }
}

#[test]
fn fixed_waits_for_the_slowest_stream() {
    let devices: Vec<SimDevice> = S1
        .iter()
        .map(|&rate| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample: 0.0005 })
        .collect();
    let settings = SimSettings { rule: BatchRule::Fixed { size: 64 }, ..settings(0.01, 0.0, 0) };
    let steps = simulate(&settings, &devices);
    let slowest_batches = (DURATION_SECONDS * 12.0 / 64.0) as usize;
    assert!(steps.len().abs_diff(slowest_batches) <= 1, "{} steps, {slowest_batches} batches", steps.len());
    let (half, seconds) = second_half(&steps);
    let step_seconds = seconds / (half.len() - 1) as f64;
    assert!((step_seconds / (64.0 / 12.0) - 1.0).abs() < 0.02, "{step_seconds} s");
}

#[test]
fn stream_rate_trains_what_arrives_within_one_window() {
    let devices: Vec<SimDevice> = S1
        .iter()
        .map(|&rate| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample: 0.004 })
        .collect();
    let settings =
        SimSettings { rule: BatchRule::StreamRate { window_seconds: 1.0 }, ..settings(0.02, 0.2, 1) };
    let steps = simulate(&settings, &devices);
    let end = steps.last().unwrap().agreed_seconds;
    for (rank, rate) in S1.iter().enumerate() {
        let trained: u64 = steps.iter().map(|step| step.devices[rank].local_batch).sum();
        let arrived = rate * end;
        assert!((arrived - trained as f64).abs() <= rate + 8.0, "rank {rank}: {trained} of {arrived}");
    }
}

#[test]
fn stream_rate_on_a_slow_device_leaves_the_remainder_to_the_policy() {
    // A step computes for 1.6 windows: one window's arrivals are trained per step, the rest waits or is dropped.
    let devices = [SimDevice { stream: RateProfile::Constant(100.0), seconds_per_sample: 0.016 }];
    let rule = BatchRule::StreamRate { window_seconds: 1.0 };
    for (policy, grows) in [(StreamPolicy::Persistence, true), (StreamPolicy::Truncation, false)] {
        let steps = simulate(&SimSettings { rule, policy, ..settings(0.0, 0.0, 0) }, &devices);
        let late = &steps[10..];
        assert!(late.iter().all(|step| step.devices[0].local_batch.abs_diff(100) <= 16), "{:?}", late[0]);
        let growth = backlog_growth(&steps);
        assert_eq!(growth > 30.0, grows, "backlog grows by {growth}/s");
    }
}

#[test]
fn the_same_simulation_gives_the_same_bits() {
    let run = || format!("{:?}", simulate(&settings(0.03, 0.2, 7), &devices(0.8, step_profile)));
    assert_eq!(run(), run());
}
