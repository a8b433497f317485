use proptest::prelude::*;

use super::*;
use crate::agree::{GlobalState, StepPlan};

const BOUNDS: BatchBounds = BatchBounds { min: 8, max: 1024, max_skip: 2 };

fn view(available: u64, arrived_total: u64, stream_rate: f64) -> StreamView {
    StreamView { available, arrived_total, stream_rate, buffered: available, supply: Supply::Flowing }
}

fn agreement(action: Action, window_seconds: f64) -> StepAgreement {
    StepAgreement { action, window_seconds, next: GlobalState::default(), evaluation: None }
}

fn step(window_seconds: f64) -> StepAgreement {
    let plan = StepPlan {
        local_batches: Vec::new(),
        trained_batches: Vec::new(),
        aggregation_weights: Vec::new(),
        loss_scales: Vec::new(),
        global_batch: 1,
        scaled_learning_rate: 0.1,
        tuning: scadles_api::Tuning::default(),
        compression: crate::compress::gate::CompressionDecision::Dense,
        injection: crate::inject::InjectionPlan::default(),
        checkpoint: false,
        evaluate: false,
    };
    agreement(Action::Step(plan), window_seconds)
}

fn ready(readiness: Readiness) -> u64 {
    match readiness {
        Readiness::Ready { local_batch } => local_batch,
        other => panic!("not ready: {other:?}"),
    }
}

#[test]
fn fixed_is_ready_when_the_batch_is_there_and_not_before() {
    let mut clock = BatchClock::new(BatchRule::Fixed { size: 64 }, BOUNDS);
    assert_eq!(clock.poll(0.0, &view(63, 63, 1.0)), Readiness::NeedSamples { missing: 1 });
    assert_eq!(ready(clock.poll(500.0, &view(64, 64, 1.0))), 64);
}

#[test]
fn what_an_ended_stream_still_holds_is_trained_to_the_last_sample_under_every_rule() {
    let rules =
        [BatchRule::Fixed { size: 64 }, BatchRule::StreamRate { window_seconds: 1.0 }, BatchRule::LineRate];
    for rule in rules {
        // 64 and a rest of one, and a stream that leaves less than the least batch.
        for held in [129, 3] {
            let mut clock = BatchClock::new(rule, BatchBounds { max: 64, ..BOUNDS });
            let (mut left, mut batches, mut now) = (held, Vec::new(), 0.0);
            while batches.last() != Some(&0) {
                let rest = StreamView { supply: Supply::AllHere, ..view(left, 0, 0.0) };
                if let Readiness::Ready { local_batch } = clock.poll(now, &rest) {
                    assert!(local_batch <= 64, "{rule:?}");
                    left -= local_batch;
                    batches.push(local_batch);
                    clock.agreed(&step(0.25));
                }
                now += 0.25;
                assert!(now < 60.0, "{rule:?} leaves {left} of {held}");
            }
            assert_eq!(left, 0, "{rule:?}: {batches:?}");
        }
    }
}

#[test]
fn windows_take_from_a_backlog_to_which_nothing_is_added_before_all_of_it_is_here() {
    for rule in [BatchRule::StreamRate { window_seconds: 1.0 }, BatchRule::LineRate] {
        let mut clock = BatchClock::new(rule, BOUNDS);
        let backlog = StreamView { supply: Supply::Ended, buffered: 9_000, ..view(400, 0, 0.0) };
        clock.poll(0.0, &backlog);
        assert!(ready(clock.poll(1.0, &backlog)) >= 8, "{rule:?}");
    }
    let mut clock = BatchClock::new(BatchRule::Fixed { size: 64 }, BOUNDS);
    let backlog = StreamView { supply: Supply::Ended, buffered: 9_000, ..view(40, 0, 0.0) };
    assert_eq!(clock.poll(0.0, &backlog), Readiness::NeedSamples { missing: 24 });
}

#[test]
fn how_long_a_step_waits_for_a_batch_is_told_until_a_batch_comes_sooner() {
    let mut clock = BatchClock::new(BatchRule::Fixed { size: 64 }, BOUNDS);
    let mut short_after = |now: f64, available: u64| {
        if let Readiness::Ready { .. } = clock.poll(now, &view(available, available, 1.0)) {
            clock.agreed(&step(0.0));
        }
        clock.short_seconds()
    };
    assert_eq!([short_after(0.0, 2), short_after(50.0, 52), short_after(62.0, 64)], [0.0, 50.0, 62.0]);
    // The next batch: that of the last one holds until this one is known to be quicker.
    assert_eq!([short_after(63.0, 1), short_after(90.0, 28), short_after(93.0, 64)], [62.0, 62.0, 30.0]);
    assert_eq!(short_after(94.0, 64), 0.0, "the batch was there when the step began");
    // Samples that wait at the broker are late, their stream is not.
    clock.poll(95.0, &StreamView { buffered: 900, ..view(3, 900, 10.0) });
    clock.poll(120.0, &StreamView { buffered: 900, ..view(3, 900, 10.0) });
    assert_eq!(clock.short_seconds(), 0.0);
}

#[test]
fn a_batch_that_was_ready_once_does_not_change_until_the_group_agrees() {
    let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
    clock.poll(0.0, &view(0, 0, 0.0));
    let first = ready(clock.poll(0.25, &view(30, 30, 200.0)));
    assert_eq!(ready(clock.poll(7.0, &view(900, 900, 200.0))), first);
    clock.agreed(&step(0.25));
    assert_ne!(ready(clock.poll(7.5, &view(900, 900, 200.0))), first);
}

#[test]
fn line_rate_takes_arrivals_and_a_share_of_the_backlog_but_not_more_than_it_can_compute() {
    let batch = |compute_seconds: Option<f64>| {
        let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
        for compute_seconds in compute_seconds.into_iter().flat_map(|seconds| [3.0, seconds, seconds]) {
            clock.step_finished(&StepTiming { busy_seconds: 0.2, compute_seconds, local_batch: 1 });
        }
        clock.poll(0.0, &view(0, 0, 0.0));
        ready(clock.poll(0.25, &view(800, 800, 200.0)))
    };
    // S·T + Q·T/τ = 200 · 0.25 + 800 · 0.25 / 2.
    assert_eq!(batch(Some(1e-6)), 150);
    // Nothing is known of a yet: only what arrived.
    assert_eq!(batch(None), 50);
    // a·b ≤ 0.9·T: at 4 ms a sample, 56.25.
    assert_eq!(batch(Some(0.004)), 56);
    // S·a ≥ 1: the device cannot keep up anyhow, so the backlog counts in full.
    assert_eq!(batch(Some(0.006)), 150);
}

#[test]
fn a_device_below_the_minimum_sits_out_and_then_takes_part_with_two() {
    let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
    clock.poll(0.0, &view(0, 0, 1.0));
    let mut batches = Vec::new();
    for (i, available) in [0, 1, 1, 3, 3, 8].into_iter().enumerate() {
        batches.push(ready(clock.poll(0.25 * (i + 1) as f64, &view(available, available, 1.0))));
        clock.agreed(&step(0.25));
    }
    // Two steps sat out; then 1 is still too few; then 3 take part; then the count begins anew.
    assert_eq!(batches, [0, 0, 0, 3, 0, 8]);
}

#[test]
fn waiting_together_is_no_step_sat_out() {
    let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
    clock.poll(0.0, &view(0, 0, 1.0));
    for i in 1..10 {
        assert_eq!(ready(clock.poll(0.25 * f64::from(i), &view(3, 3, 1.0))), 0);
        clock.agreed(&agreement(Action::Wait, 0.25));
    }
}

#[test]
fn stream_rate_windows_are_back_to_back_and_late_fetches_lose_nothing() {
    let mut clock = BatchClock::new(BatchRule::StreamRate { window_seconds: 1.0 }, BOUNDS);
    let view = |available, arrived_total, buffered| StreamView {
        available,
        arrived_total,
        stream_rate: 100.0,
        buffered,
        supply: Supply::Flowing,
    };
    assert_eq!(clock.poll(10.0, &view(40, 0, 40)), Readiness::NotBefore(11.0));
    // 100 arrived in the window and 10 since; only 70 are here: the missing 30 are taken a window later.
    assert_eq!(ready(clock.poll(11.1, &view(70, 110, 150))), 70);
    clock.agreed(&step(1.0));
    assert_eq!(clock.poll(11.5, &view(100, 150, 120)), Readiness::NotBefore(12.0));
    assert_eq!(ready(clock.poll(12.0, &view(160, 200, 170))), 130);
    clock.agreed(&step(1.0));
}

#[test]
fn a_stream_rate_overrun_counts_one_window() {
    let mut clock = BatchClock::new(BatchRule::StreamRate { window_seconds: 1.0 }, BOUNDS);
    clock.poll(0.0, &view(0, 0, 100.0));
    assert_eq!(ready(clock.poll(4.0, &view(400, 400, 100.0))), 100);
    clock.agreed(&step(1.0));
    // The next window begins where the late one was closed.
    assert_eq!(clock.poll(4.5, &view(350, 450, 100.0)), Readiness::NotBefore(5.0));
}

#[test]
fn a_load_that_doubled_is_known_within_a_few_steps_however_long_the_old_one_lasted() {
    let mut clock = BatchClock::new(BatchRule::LineRate, BOUNDS);
    let mut after = |busy_seconds: f64, steps: u32| {
        for _ in 0..steps {
            clock.step_finished(&StepTiming { busy_seconds, compute_seconds: busy_seconds, local_batch: 10 });
        }
        clock.busy_seconds()
    };
    assert!((after(0.3, 500) - 0.3).abs() < 1e-9);
    assert!((after(0.6, 3) - 0.6).abs() < 0.03);
}

#[test]
fn micro_batches_are_full_with_a_rest_or_even_without_one() {
    for (samples, micro_batch, full, even) in [
        (9, 8, vec![8, 1], vec![5, 4]),
        (7, 3, vec![3, 3, 1], vec![3, 2, 2]),
        (8, 8, vec![8], vec![8]),
        (2, 100, vec![2], vec![2]),
        (0, 8, vec![], vec![]),
        (2, 0, vec![1, 1], vec![1, 1]),
    ] {
        assert_eq!(micro_batches(samples, micro_batch, Split::Full), full, "{samples} by {micro_batch}");
        assert_eq!(micro_batches(samples, micro_batch, Split::Even), even, "{samples} by {micro_batch}");
    }
}

proptest! {
    #[test]
    fn an_even_split_leaves_no_lone_sample_of_two_or_more(
        samples in 2_usize..5_000,
        micro_batch in LEAST_EVEN_MICRO_BATCH..600,
    ) {
        let parts = micro_batches(samples, micro_batch, Split::Even);
        prop_assert_eq!(parts.iter().sum::<usize>(), samples);
        prop_assert!(parts.iter().all(|part| (2..=micro_batch).contains(part)), "{parts:?}");
        prop_assert_eq!(parts.len(), micro_batches(samples, micro_batch, Split::Full).len());
    }

    #[test]
    fn a_rule_whose_least_batch_is_two_never_trains_a_lone_sample_of_a_stream_that_goes_on(
        stream_rate_rule in any::<bool>(),
        rounds in prop::collection::vec((0.2_f64..1.9, 0_u64..4), 1..60),
    ) {
        let rule = if stream_rate_rule { BatchRule::StreamRate { window_seconds: 1.0 } } else { BatchRule::LineRate };
        let mut clock = BatchClock::new(rule, BatchBounds { min: 2, max: 8, max_skip: 1 });
        let (mut now, mut arrived_total, mut trained) = (0.0, 0, 0);
        for (seconds, arrived) in rounds {
            now += seconds;
            arrived_total += arrived;
            let left = arrived_total - trained;
            if let Readiness::Ready { local_batch } = clock.poll(now, &view(left, arrived_total, 1.5)) {
                prop_assert_ne!(local_batch, 1);
                trained += local_batch;
                clock.agreed(&step(1.0));
            }
        }
    }

    #[test]
    fn a_batch_is_never_more_than_is_there_nor_than_the_maximum(
        rule in prop_oneof![
            Just(BatchRule::LineRate),
            Just(BatchRule::StreamRate { window_seconds: 1.0 }),
            (1_u32..100).prop_map(|size| BatchRule::Fixed { size }),
        ],
        max in 1_u32..2_000,
        rounds in prop::collection::vec((0.0_f64..3.0, 0_u64..3_000, 0_u64..3_000, 0.0_f64..5e3, 0.0_f64..2.0, any::<bool>()), 1..50),
    ) {
        let mut clock = BatchClock::new(rule, BatchBounds { min: 8.min(max), max, max_skip: 3 });
        let (mut now, mut arrived_total) = (0.0, 0);
        for (seconds, arrived, available, stream_rate, busy_seconds, wait) in rounds {
            now += seconds;
            arrived_total += arrived;
            let buffered = available + arrived;
            let view = StreamView { available, arrived_total, stream_rate, buffered, supply: Supply::Flowing };
            if let Readiness::Ready { local_batch } = clock.poll(now, &view) {
                prop_assert!(local_batch <= available);
                match rule {
                    BatchRule::Fixed { size } => prop_assert_eq!(local_batch, u64::from(size)),
                    _ => prop_assert!(local_batch <= u64::from(max)),
                }
                clock.agreed(&if wait { agreement(Action::Wait, 0.3) } else { step(0.3) });
                let timing = StepTiming { busy_seconds, compute_seconds: busy_seconds / 2.0, local_batch };
                clock.step_finished(&timing);
            }
        }
    }

    #[test]
    fn stream_rate_never_trains_more_than_arrived_since_its_start(
        rounds in prop::collection::vec((0.2_f64..1.9, 0_u64..300), 1..60),
    ) {
        let mut clock = BatchClock::new(BatchRule::StreamRate { window_seconds: 1.0 }, BOUNDS);
        let (mut now, mut arrived_total, mut trained) = (0.0, 0, 0);
        clock.poll(now, &view(500, 0, 100.0));
        for (seconds, arrived) in rounds {
            now += seconds;
            arrived_total += arrived;
            let backlog = 500 + arrived_total - trained;
            if let Readiness::Ready { local_batch } = clock.poll(now, &view(backlog, arrived_total, 100.0)) {
                trained += local_batch;
                prop_assert!(trained <= arrived_total);
                clock.agreed(&step(1.0));
            }
        }
    }
}
