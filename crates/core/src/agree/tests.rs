use proptest::prelude::*;
use scadles_api::tuning::{CompressionTuning, InjectionTuning};

use super::*;
use crate::compress::{exchange::compression_rule, layout::SparseLayout, wire::ValueFormat};
use crate::inject::{DonorChoice, InjectionMode, ReplicateBatch, SharedSamples};
use crate::learning_rate::LearningRateScaling;

fn settings(world_size: usize) -> AgreeSettings {
    AgreeSettings {
        world_size,
        rule: BatchRule::LineRate,
        aggregation: Aggregation::Weighted,
        learning_rate: LearningRatePlan {
            base_learning_rate: 0.1,
            scaling: LearningRateScaling::Linear,
            base_global_batch: 64 * world_size as u64,
            epoch_samples: 50_000,
            milestone_epochs: vec![1.0],
            gamma: 0.2,
        },
        compression: None,
        injection: None,
        tuning: Tuning::default(),
        completion: Completion::MaxSamples(1_000),
        checkpoint_every_steps: 5,
        evaluate_every_steps: 0,
    }
}

fn report(rank: usize, local_batch: u64) -> StepReport {
    StepReport {
        rank,
        step: 0,
        ready: true,
        local_batch,
        loss_mass: local_batch as f64,
        busy_seconds: 0.1,
        stream_rate: 100.0,
        buffered: local_batch,
        ranges: vec![BatchRange { partition: 0, first_offset: 7, count: local_batch }],
        labels: Vec::new(),
        stream: Some(DeviceCheckpoint::starting_at(&[7])),
        stream_ended: false,
        stop_requested: None,
        stop_unsaved: false,
        checkpoint_requested: false,
        tuning: None,
        parameter_hash: None,
        compression: None,
        gradient: None,
        evaluation: None,
    }
}

fn agreed(state: &GlobalState, reports: &[StepReport]) -> StepAgreement {
    agree(&settings(reports.len()), state, reports).unwrap()
}

fn plan(agreement: &StepAgreement) -> &StepPlan {
    match &agreement.action {
        Action::Step(plan) => plan,
        other => panic!("no step: {other:?}"),
    }
}

#[test]
fn a_step_weighs_by_samples_and_scales_the_rate_by_the_global_batch() {
    let agreement = agreed(&GlobalState::default(), &[report(0, 96), report(1, 32), report(2, 0)]);
    let plan = plan(&agreement);
    assert_eq!(plan.aggregation_weights, [0.75, 0.25, 0.0]);
    assert_eq!(plan.global_batch, 128);
    assert!((plan.scaled_learning_rate - 0.1 * 128.0 / 192.0).abs() < 1e-15);
    assert_eq!(
        agreement.next,
        GlobalState { step: 1, samples: 128, window_seconds: 0.25, ..GlobalState::default() }
    );
}

/// Half of the ranks share half of their batches.
fn sharing(mode: InjectionMode, world_size: usize) -> AgreeSettings {
    let injection = InjectionRule {
        mode,
        batch: ReplicateBatch::Grow,
        donor_fraction: 0.5,
        shared_fraction: 0.5,
        donors: DonorChoice::Random,
        may_share: vec![true; world_size],
        most_sent: None,
        seed: 3,
    };
    AgreeSettings { injection: Some(injection), ..settings(world_size) }
}

#[test]
fn samples_that_move_change_who_trains_them_and_nothing_else() {
    let reports = [report(0, 96), report(1, 32), report(2, 0)];
    let without = agreed(&GlobalState::default(), &reports);
    let with = agree(&sharing(InjectionMode::Move, 3), &GlobalState::default(), &reports).unwrap();
    let (without_plan, with_plan) = (plan(&without), plan(&with));
    assert!(!with_plan.injection.is_empty());
    assert_ne!(with_plan.trained_batches, without_plan.trained_batches);
    assert_eq!(with_plan.trained_batches.iter().sum::<u64>(), 128);
    assert_eq!(with_plan.local_batches, without_plan.local_batches);
    assert_eq!(with_plan.scaled_learning_rate.to_bits(), without_plan.scaled_learning_rate.to_bits());
    let scale = 1.0 / 128.0;
    let scales = with_plan.loss_scales.iter().zip(&with_plan.trained_batches);
    assert!(scales.into_iter().all(|(&of_rank, &trained)| trained == 0 || of_rank == scale));
    assert_eq!(with.next, without.next);
}

#[test]
fn copies_count_for_weights_and_rate_and_not_for_epochs() {
    let reports = [report(0, 40), report(1, 40)];
    let agreement = agree(&sharing(InjectionMode::Replicate, 2), &GlobalState::default(), &reports).unwrap();
    let plan = plan(&agreement);
    assert_eq!((plan.global_batch, agreement.next.samples), (80, 80));
    assert_eq!(plan.trained_batches.iter().sum::<u64>(), 100, "one donor, twenty copies");
    assert!((plan.scaled_learning_rate - 0.1 * 100.0 / 128.0).abs() < 1e-15);
    let receiver = plan.trained_batches.iter().position(|&trained| trained == 60).unwrap();
    assert_eq!(plan.aggregation_weights[receiver], 0.6);
}

#[test]
fn a_batch_that_is_not_what_it_lists_is_not_shared() {
    let settings = sharing(InjectionMode::Move, 2);
    let wrong = StepReport { ranges: Vec::new(), ..report(1, 8) };
    let error = agree(&settings, &GlobalState::default(), &[report(0, 8), wrong.clone()]).unwrap_err();
    assert_eq!(error, Error::Ranges { rank: 1, local_batch: 8, listed: 0 });
    let waiting = StepReport { ready: false, ..wrong };
    assert!(agree(&settings, &GlobalState::default(), &[report(0, 8), waiting]).is_ok());
}

/// δ = 0.3 and one exchange that is allowed.
fn compressing() -> AgreeSettings {
    let layouts = [SparseLayout::new(&[0], 100_000, 2, 0.1)];
    let rule = compression_rule(&layouts, ValueFormat::Bf16, Some(0.3), false);
    assert!(!rule.allowed.is_empty());
    AgreeSettings { compression: Some(rule), completion: Completion::MaxSteps(u64::MAX), ..settings(2) }
}

/// A rank that lost this share of an energy of 1 in the step before.
fn having_lost(rank: usize, step: u64, lost: f64) -> StepReport {
    let energy = Some(EnergyStatistics { energy: 1.0, lost: [lost, 0.0, 0.0] });
    let compression = Some(CompressionReport { energy, ..CompressionReport::default() });
    StepReport { step, compression, ..report(rank, 8) }
}

/// Two ranks whose messages and sums take a second a million bytes, with the rule of a batch.
fn free(rule: BatchRule, compute_seconds: f64) -> StepPlan {
    free_of(rule, &[0, 1].map(|rank| measured(rank, compute_seconds)))
}

/// A rank of them that computes for so long in a step, and exchanges for 4 s.
fn measured(rank: usize, compute_seconds: f64) -> StepReport {
    let mut report = having_lost(rank, 0, 0.1);
    let known = report.compression.as_mut().unwrap();
    known.link = LinkCost { seconds_per_byte: 1e-6, dense_seconds_per_byte: 1e-6, ..LinkCost::default() };
    known.exchange_seconds = 4.0;
    StepReport { busy_seconds: compute_seconds + 4.0, stream_rate: 8.0, ..report }
}

fn free_of(rule: BatchRule, reports: &[StepReport]) -> StepPlan {
    let layouts = [SparseLayout::new(&[0], 1_000_000, 2, 0.1)];
    let compression = Some(compression_rule(&layouts, ValueFormat::Bf16, Some(0.3), true));
    let settings = AgreeSettings { rule, compression, ..compressing() };
    plan(&agree(&settings, &GlobalState::default(), reports).unwrap()).clone()
}

#[test]
fn a_free_choice_knows_what_a_step_takes_beside_its_exchange() {
    // 4 s dense, 2 s in half precision, a third of a second with a tenth; what a tenth loses is 10 %.
    let line_rate = |compute_seconds| free(BatchRule::LineRate, compute_seconds).compression;
    assert!(matches!(line_rate(1.0), CompressionDecision::Sparse(_)));
    assert_eq!(line_rate(30.0), CompressionDecision::Half, "30.3 s at nine tenths, 32 s, 34 s");
    assert_eq!(line_rate(300.0), CompressionDecision::Dense);
    let waiting = |window_seconds| free(BatchRule::StreamRate { window_seconds }, 1.0).compression;
    assert_eq!(waiting(6.0), CompressionDecision::Dense, "the window is longer than the step");
    assert_eq!(waiting(3.5), CompressionDecision::Half);
    // Eight samples a second: a batch of 64 takes eight seconds to come.
    assert_eq!(free(BatchRule::Fixed { size: 64 }, 1.0).compression, CompressionDecision::Dense);
    assert!(matches!(free(BatchRule::Fixed { size: 8 }, 1.0).compression, CompressionDecision::Sparse(_)));
}

#[test]
fn a_rank_that_tells_nothing_of_its_exchange_is_not_taken_for_another() {
    let silent = StepReport { compression: None, ..measured(0, 300.0) };
    let plan = free_of(BatchRule::LineRate, &[silent, measured(1, 1.0)]);
    assert!(matches!(plan.compression, CompressionDecision::Sparse(_)), "{:?}", plan.compression);
}

#[test]
fn one_gate_for_all_ranks_looks_at_the_steps_before() {
    let settings = compressing();
    let round = |state: &GlobalState, lost: [f64; 2]| {
        let reports = [0, 1].map(|rank| having_lost(rank, state.step, lost[rank]));
        let agreement = agree(&settings, state, &reports).unwrap();
        let sparse = plan(&agreement).compression != CompressionDecision::Dense;
        (sparse, agreement.next)
    };
    let first = agree(&settings, &GlobalState::default(), &[report(0, 8), report(1, 8)]).unwrap();
    assert_eq!(plan(&first).compression, CompressionDecision::Dense, "nothing is known yet");
    let (open, state) = round(&first.next, [0.5, 0.1]);
    assert!(open, "the mean of both is 0.3");
    assert_eq!(state.compression.all_sparse_steps(), 1);
    let (closed, state) = (0..200).fold((true, state), |(_, state), _| round(&state, [0.9, 0.1]));
    assert!(!closed, "the mean has come up to 0.5");
    assert!(state.compression.vetoed_steps > 0 && state.compression.all_sparse_steps() < 200);
}

/// Two ranks at `step` whose gradients had these squared norms, in what they trained and together.
fn gradients(step: u64, own: [f64; 2], delivered_energy: f64) -> [StepReport; 2] {
    [0, 1].map(|rank| {
        let gradient =
            GradientReport { own_energy: own[rank], delivered_energy, samples: 64, aggregation_weight: 0.5 };
        StepReport { step, gradient: Some(gradient), ..report(rank, 256) }
    })
}

#[test]
fn ada_scale_follows_the_noise_of_the_step_before_and_resumes_with_it() {
    let rates = LearningRatePlan { scaling: LearningRateScaling::AdaScale, ..settings(2).learning_rate };
    let settings = AgreeSettings { learning_rate: rates, completion: Completion::MaxSteps(9), ..settings(2) };
    let first = agree(&settings, &GlobalState::default(), &[report(0, 256), report(1, 256)]).unwrap();
    assert_eq!(plan(&first).scaled_learning_rate, 0.1, "nothing is known yet");
    assert_eq!(first.next.learning_rate.ahead_samples, 128.0 - 512.0, "the step is worth one of 128");
    // Σw‖g‖² = 2, ‖ḡ‖² = 1, so trΣ = 128 and G² = 0: all is noise, four times the batch bears four times the rate.
    let reports = gradients(1, [0.5, 0.5], 1.0);
    let second = agree(&settings, &first.next, &reports).unwrap();
    assert_eq!(plan(&second).scaled_learning_rate, 0.1 * 4.0);
    let waiting = reports.clone().map(|report| StepReport { ready: false, ..report });
    let waited = agree(&settings, &first.next, &waiting).unwrap().next;
    assert_eq!(waited.learning_rate, first.next.learning_rate, "a round that waits counts nothing twice");
    let saved = observed_learning_rate(&first.next, &[&reports[0], &reports[1]]);
    let resumed = GlobalState { learning_rate: saved, ..first.next };
    let fresh = [0, 1].map(|rank| StepReport { step: 1, ..report(rank, 256) });
    assert_eq!(agree(&settings, &resumed, &fresh).unwrap(), second);
}

#[test]
fn a_round_that_waits_does_not_count_what_was_lost_twice() {
    let waiting = [0, 1].map(|rank| StepReport { ready: false, ..having_lost(rank, 0, 0.1) });
    let agreement = agree(&compressing(), &GlobalState::default(), &waiting).unwrap();
    assert_eq!(agreement.next.compression, CompressionState::default());
}

#[test]
fn without_any_sample_nothing_advances() {
    let state =
        GlobalState { samples: 40, window_seconds: 0.3, tuning: tuned(2, 0.1), ..GlobalState::default() };
    let agreement = agreed(&state, &[report(0, 0), report(1, 0)]);
    assert_eq!(agreement.action, Action::Wait);
    assert_eq!((agreement.next.step, agreement.next.samples), (0, 40));
}

/// What a job with compression and injection is tuned to.
fn tuned(generation: u64, ratio: f64) -> Tuning {
    Tuning {
        generation,
        compression: Some(CompressionTuning { ratio, is_free: false, delta: Some(0.3) }),
        injection: Some(InjectionTuning { donor_fraction: 0.5, shared_fraction: ratio }),
    }
}

fn told(report: StepReport, tuning: Tuning) -> StepReport {
    StepReport { tuning: Some(tuning), ..report }
}

/// Two ranks that compress and share.
fn tunable() -> AgreeSettings {
    AgreeSettings { injection: sharing(InjectionMode::Move, 2).injection, ..compressing() }
}

#[test]
fn a_tuning_that_one_rank_was_told_of_holds_for_all_from_the_next_step_on() {
    let reports = [told(report(0, 20), tuned(1, 0.25)), report(1, 20)];
    let waiting = [reports[0].clone(), StepReport { ready: false, ..reports[1].clone() }];
    let undecided = agree(&tunable(), &GlobalState::default(), &waiting).unwrap();
    assert_eq!(undecided.next.tuning, Tuning::default(), "a wait changes nothing");
    let agreement = agree(&tunable(), &GlobalState::default(), &reports).unwrap();
    assert_eq!((plan(&agreement).tuning, agreement.next.tuning), (tuned(1, 0.25), tuned(1, 0.25)));
    let shared: u64 = plan(&agreement).injection.shared.iter().map(SharedSamples::samples).sum();
    assert_eq!(shared, 5, "a quarter of one of two batches");
    assert_eq!(agreement.next.compression.ratios, [0.25, 0.0, 0.0]);
    // The next round needs to be told of nothing, and older tunings change nothing.
    let later = [0, 1].map(|rank| StepReport { step: 1, ..report(rank, 20) });
    for reports in [later.clone(), later.map(|report| told(report, tuned(1, 0.9)))] {
        let agreement = agree(&tunable(), &agreement.next, &reports).unwrap();
        assert_eq!(plan(&agreement).tuning, tuned(1, 0.25));
        assert_eq!(plan(&agreement).injection.shared[0].samples(), 5);
    }
}

#[test]
fn a_part_that_a_tuning_leaves_out_stays_as_it_was_tuned() {
    let state = GlobalState { tuning: tuned(1, 0.25), ..GlobalState::default() };
    let compression = tuned(2, 0.5).compression;
    let other = Tuning { generation: 2, compression, injection: None };
    let agreement = agree(&tunable(), &state, &[told(report(0, 20), other), report(1, 20)]).unwrap();
    assert_eq!(plan(&agreement).tuning, Tuning { compression, generation: 2, ..tuned(1, 0.25) });
    assert_eq!(plan(&agreement).injection.shared[0].samples(), 5);
}

#[test]
fn what_another_ratio_lost_opens_no_gate() {
    let (mut state, mut decisions) = (GlobalState::default(), Vec::new());
    for step in 0..6 {
        let reports = [0, 1].map(|rank| {
            let report = having_lost(rank, step, if step <= 3 { 0.1 } else { 0.2 });
            if step == 3 { told(report, tuned(1, 0.01)) } else { report }
        });
        let agreement = agree(&tunable(), &state, &reports).unwrap();
        decisions.push(plan(&agreement).compression != CompressionDecision::Dense);
        state = agreement.next;
    }
    assert_eq!(decisions, [true, true, true, false, true, true], "one dense step that looks");
    assert_eq!(state.compression.all_sparse_steps(), 5);
    let mean = state.compression.mean_ratio().unwrap();
    assert!((mean - (3.0 * 0.1 + 2.0 * 0.01) / 5.0).abs() < 1e-12, "{mean}");
    assert!((state.compression.energy_losses[0].value().unwrap() - 0.2).abs() < 1e-12);
}

proptest! {
    /// Whoever hears of what when: generations only grow, a plan is made by the tuning that it carries, and it is the same
    /// whether or not the hub keeps its settings up to date.
    #[test]
    fn every_plan_is_made_by_the_tuning_that_it_carries(
        rounds in prop::collection::vec((prop::option::of(0_u64..6), prop::option::of(0_u64..6), 0.01..1.0_f64), 1..20)
    ) {
        let began = tunable();
        let (mut state, mut kept) = (GlobalState::default(), began.clone());
        for (of_0, of_1, share) in rounds {
            let tuning = |generation| tuned(generation, share);
            let reports = [of_0, of_1].into_iter().enumerate().map(|(rank, generation)| StepReport {
                tuning: generation.map(tuning),
                ..having_lost(rank, state.step, 0.1)
            });
            let reports: Vec<StepReport> = reports.collect();
            let agreement = agree(&began, &state, &reports).unwrap();
            prop_assert_eq!(&agreement, &agree(&kept, &state, &reports).unwrap());
            let made_by = began.tuned(&plan(&agreement).tuning);
            let untold: Vec<StepReport> =
                reports.iter().map(|report| StepReport { tuning: None, ..report.clone() }).collect();
            let before = GlobalState { tuning: plan(&agreement).tuning, ..state };
            prop_assert_eq!(&agreement, &agree(&made_by, &before, &untold).unwrap());
            prop_assert!(agreement.next.tuning.generation >= state.tuning.generation);
            prop_assert_eq!(agreement.next.tuning, plan(&agreement).tuning);
            kept = kept.tuned(&agreement.next.tuning);
            state = agreement.next;
        }
    }
}

#[test]
fn one_rank_missing_or_not_ready_means_waiting() {
    let mut reports = vec![report(0, 8), StepReport { ready: false, ..report(1, 8) }];
    assert_eq!(agreed(&GlobalState::default(), &reports).action, Action::Wait);
    reports.pop();
    let alone = agree(&settings(2), &GlobalState::default(), &reports).unwrap();
    assert_eq!(alone.action, Action::Wait);
}

#[test]
fn a_stop_is_agreed_at_once_and_the_gravest_reason_wins() {
    let mut reports =
        vec![StepReport { ready: false, local_batch: 0, loss_mass: 0.0, ..report(0, 0) }, report(1, 8)];
    reports[1].stop_requested = Some(StopReason::Requested);
    let stop = |reports: &[StepReport]| agreed(&GlobalState::default(), reports).action;
    assert_eq!(stop(&reports), Action::Stop { reason: StopReason::Requested, checkpoint: true });
    reports[0].stop_requested = Some(StopReason::Fault(ExitCode::StreamStalled));
    let stalled = StopReason::Fault(ExitCode::StreamStalled);
    assert_eq!(stop(&reports), Action::Stop { reason: stalled, checkpoint: true });
    reports[0].stop_requested = Some(StopReason::Fault(ExitCode::StorageFailed));
    assert!(matches!(stop(&reports), Action::Stop { checkpoint: false, .. }));
}

#[test]
fn a_request_waits_for_every_report_of_the_step_but_a_fault_does_not() {
    let decide =
        |reports: &[StepReport]| agree(&settings(2), &GlobalState::default(), reports).unwrap().action;
    let asking = |reason| StepReport { stop_requested: Some(reason), ..report(0, 8) };
    let unready = StepReport { ready: false, ..report(1, 0) };
    assert_eq!(decide(&[asking(StopReason::Requested)]), Action::Wait);
    let stop = |reason, checkpoint| Action::Stop { reason, checkpoint };
    assert_eq!(decide(&[asking(StopReason::Requested), unready.clone()]), stop(StopReason::Requested, true));
    let fault = StopReason::Fault(ExitCode::TopicLost);
    assert_eq!(decide(&[asking(fault)]), stop(fault, false));
    assert_eq!(decide(&[report(0, 8), unready]), Action::Wait);
    assert_eq!(decide(&[report(0, 0), report(1, 0)]), Action::Wait);
}

#[test]
fn a_stop_without_a_checkpoint_has_one_if_anybody_asks_for_it() {
    let asking = |rank, stop_unsaved| StepReport {
        stop_requested: Some(StopReason::Requested),
        stop_unsaved,
        ..report(rank, 8)
    };
    let stop = |reports: &[StepReport]| agreed(&GlobalState::default(), reports).action;
    let requested = |checkpoint| Action::Stop { reason: StopReason::Requested, checkpoint };
    assert_eq!(stop(&[asking(0, true), report(1, 8)]), requested(false));
    assert_eq!(stop(&[asking(0, true), asking(1, false)]), requested(true));
}

#[test]
fn completion_does_not_wait_for_samples() {
    let state = GlobalState { samples: 1_000, ..GlobalState::default() };
    let unready = |rank| StepReport { ready: false, ..report(rank, 0) };
    let decide = |reports: &[StepReport]| agree(&settings(2), &state, reports).unwrap().action;
    let complete = Action::Stop { reason: StopReason::Completed, checkpoint: true };
    assert_eq!(decide(&[unready(0), unready(1)]), complete);
    assert_eq!(decide(&[unready(0)]), Action::Wait);
}

#[test]
fn different_parameters_end_the_attempt_without_a_checkpoint() {
    let hash = |rank, hash| StepReport { parameter_hash: hash, ..report(rank, 8) };
    let decide = |a, b| agreed(&GlobalState::default(), &[hash(0, a), hash(1, b)]).action;
    let diverged = Action::Stop { reason: StopReason::Diverged, checkpoint: false };
    assert_eq!(decide(Some(1), Some(2)), diverged);
    assert!(matches!(decide(Some(2), Some(2)), Action::Step(_)));
    assert!(matches!(decide(Some(2), None), Action::Step(_)));
}

#[test]
fn every_completion_rule_stops_all_ranks_at_one_step() {
    let evaluation = |correct| {
        let mut counts = EvaluationCounts::new(1, &[1]);
        (0..10).for_each(|i| counts.observe(&[if i < correct { 1.0 } else { f32::NAN }], 0));
        Some(counts)
    };
    let stops = |completion, state: GlobalState, correct| {
        let settings = AgreeSettings { completion, ..settings(2) };
        let report =
            |rank| StepReport { step: state.step, evaluation: evaluation(correct), ..report(rank, 8) };
        let action = agree(&settings, &state, &[report(0), report(1)]).unwrap().action;
        action == Action::Stop { reason: StopReason::Completed, checkpoint: true }
    };
    let at = |step, samples| GlobalState { step, samples, ..GlobalState::default() };
    assert!(!stops(Completion::MaxSteps(9), at(8, 0), 0) && stops(Completion::MaxSteps(9), at(9, 0), 0));
    let samples = Completion::MaxSamples(1_000);
    assert!(!stops(samples, at(1, 999), 0) && stops(samples, at(1, 1_001), 0));
    let epochs = Completion::MaxEpochs(0.5);
    assert!(!stops(epochs, at(1, 24_999), 0) && stops(epochs, at(1, 25_000), 0));
    let target = Completion::TargetAccuracy(0.7);
    assert!(!stops(target, at(1, 0), 6) && stops(target, at(1, 0), 7));
}

#[test]
fn checkpoints_come_by_step_and_on_request() {
    let checkpoints = |step, checkpoint_requested| {
        let state = GlobalState { step, ..GlobalState::default() };
        let report = |rank| StepReport { step, checkpoint_requested, ..report(rank, 8) };
        plan(&agreed(&state, &[report(0), report(1)])).checkpoint
    };
    assert!(!checkpoints(3, false) && checkpoints(4, false) && checkpoints(9, false) && checkpoints(3, true));
}

#[test]
fn the_window_follows_the_busiest_rank_beyond_its_dead_band() {
    let window = |current: f64, busy: [f64; 2]| {
        let state = GlobalState { window_seconds: current, ..GlobalState::default() };
        let report = |rank: usize| StepReport { busy_seconds: busy[rank], ..report(rank, 8) };
        agreed(&state, &[report(0), report(1)]).window_seconds
    };
    assert_eq!(window(0.0, [0.1, 0.05]), 0.25);
    assert_eq!(window(0.25, [0.1, 0.4]), 0.4);
    assert_eq!(window(0.4, [0.41, 0.3]), 0.4);
    assert_eq!(window(0.4, [0.381, 0.3]), 0.4);
    assert_eq!(window(0.4, [0.37, 0.3]), 0.37);
}

#[test]
fn a_batch_of_classes_that_count_nothing_is_a_step_without_weight() {
    let massless = StepReport { loss_mass: 0.0, ..report(0, 8) };
    let agreement = agreed(&GlobalState::default(), &[massless.clone(), report(1, 8)]);
    assert_eq!(plan(&agreement).aggregation_weights, [0.0, 1.0]);
    let agreement = agreed(&GlobalState::default(), &[massless]);
    assert_eq!((plan(&agreement).loss_scales[0], agreement.next.samples), (0.0, 8));
}

#[test]
fn a_job_is_complete_when_the_streams_of_all_ranks_are_over() {
    let settings = AgreeSettings { completion: Completion::StreamEnd, ..settings(2) };
    let action = |reports: &[StepReport]| agree(&settings, &GlobalState::default(), reports).unwrap().action;
    let over = |rank| StepReport { stream_ended: true, ready: false, ..report(rank, 0) };
    let complete = Action::Stop { reason: StopReason::Completed, checkpoint: true };
    assert_eq!(action(&[over(0), over(1)]), complete);
    assert_eq!(action(&[over(1)]), Action::Wait, "the other has not said so");
    let waiting = StepReport { ready: false, ..report(1, 0) };
    assert_eq!(action(&[over(0), waiting]), Action::Wait);
    let idle = StepReport { ready: true, ..over(0) };
    assert!(matches!(action(&[idle, report(1, 3)]), Action::Step(_)), "the other trains on alone");
}

#[test]
fn reports_that_break_the_protocol_are_refused() {
    let decide = |reports: &[StepReport]| agree(&settings(2), &GlobalState::default(), reports).unwrap_err();
    assert_eq!(decide(&[report(2, 1)]), Error::UnknownRank { rank: 2, world_size: 2 });
    assert_eq!(decide(&[report(1, 1), report(1, 1)]), Error::DuplicateRank { rank: 1 });
    let late = StepReport { step: 3, ..report(0, 1) };
    assert_eq!(decide(&[late]), Error::WrongStep { rank: 0, step: 3, expected: 0 });
    for loss_mass in [f64::NAN, -1.0] {
        let impossible = StepReport { loss_mass, ..report(0, 1) };
        assert!(matches!(decide(&[impossible]), Error::LossMass { rank: 0, .. }));
    }
}

#[test]
fn reports_and_agreements_survive_the_wire_bit_for_bit() {
    let sent = StepReport { busy_seconds: 0.1 + 0.2, loss_mass: 1.0 / 3.0, ..report(1, 8) };
    let agreement = agreed(&GlobalState::default(), &[report(0, 7), sent.clone()]);
    let received: StepReport = serde_json::from_str(&serde_json::to_string(&sent).unwrap()).unwrap();
    assert_eq!(received, sent);
    let received: StepAgreement = serde_json::from_str(&serde_json::to_string(&agreement).unwrap()).unwrap();
    assert_eq!(received, agreement);
}

proptest! {
    #[test]
    fn weights_sum_to_one_and_the_order_of_arrival_counts_for_nothing(
        batches in prop::collection::vec((0_u64..1_025, 0.1_f64..3.0, 0.0_f64..9.0), 1..33),
        uniform in any::<bool>(),
        shuffle in any::<u64>(),
    ) {
        let aggregation = if uniform { Aggregation::Uniform } else { Aggregation::Weighted };
        let settings = AgreeSettings { aggregation, ..settings(batches.len()) };
        let reports: Vec<StepReport> = batches
            .iter()
            .enumerate()
            .map(|(rank, &(b, mass, busy_seconds))| {
                StepReport { loss_mass: b as f64 * mass, busy_seconds, ..report(rank, b) }
            })
            .collect();
        let agreement = agree(&settings, &GlobalState::default(), &reports).unwrap();
        let mut shuffled = reports.clone();
        shuffled.sort_by_key(|report| crate::random::mix(shuffle ^ report.rank as u64));
        prop_assert_eq!(&agree(&settings, &GlobalState::default(), &shuffled).unwrap(), &agreement);
        if let Action::Step(plan) = &agreement.action {
            prop_assert!((plan.aggregation_weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (report, (w, scale)) in reports.iter().zip(plan.aggregation_weights.iter().zip(&plan.loss_scales)) {
                prop_assert!((w - scale * report.loss_mass).abs() < 1e-12);
                prop_assert_eq!(*w > 0.0, report.local_batch > 0);
            }
        } else {
            prop_assert!(batches.iter().all(|&(b, ..)| b == 0));
        }
    }
}
