use super::*;

const LEAST: CompressionDecision = sparse(0);

const fn sparse(level: u8) -> CompressionDecision {
    CompressionDecision::Sparse(SparseChoice { exchange: SparseExchange::AllGather, level })
}

fn cost(decision: CompressionDecision, worst_bytes: u64) -> ExchangeCost {
    ExchangeCost { decision, worst_bytes, rounds: 2, elements: 1000 }
}

fn rule(delta: Option<f64>) -> CompressionRule {
    CompressionRule {
        delta,
        allowed: vec![cost(LEAST, 10)],
        dense: None,
        ratios: vec![0.1],
        layout: SparseLayout::new(&[0], 1000, 2, 0.1),
        format: ValueFormat::Bf16,
    }
}

/// Dense takes 8 kB, half precision 4 kB, a tenth 600 B, a hundredth 60 B.
fn open() -> CompressionRule {
    CompressionRule {
        allowed: vec![cost(CompressionDecision::Half, 4000), cost(sparse(0), 600), cost(sparse(1), 60)],
        dense: Some(cost(CompressionDecision::Dense, 8000)),
        ratios: vec![0.1, 0.01],
        ..rule(Some(0.3))
    }
}

fn found(lost: f64) -> EnergyStatistics {
    EnergyStatistics { energy: 2.0, lost: [lost, lost, 0.0] }
}

fn decide(state: CompressionState, rule: &CompressionRule) -> (CompressionDecision, CompressionState) {
    state.decide(rule, &LinkCost::default(), &StepTimes::default())
}

#[test]
fn the_gate_opens_at_delta_and_closes_above_it_and_knows_nothing_at_first() {
    let rule = rule(Some(0.3));
    let (decision, state) = decide(CompressionState::default(), &rule);
    assert_eq!((decision, state.vetoed_steps), (CompressionDecision::Dense, 0));
    let open = state.observed(&[Some(found(0.6)), Some(found(0.6))]);
    let (decision, open) = decide(open, &rule);
    assert_eq!(decision, LEAST);
    assert_eq!((open.all_sparse_steps(), open.vetoed_steps), (1, 0));
    let mut closed = open;
    for _ in 0..100 {
        closed = closed.observed(&[Some(found(2.0)), Some(found(0.0))]);
    }
    let (decision, closed) = decide(closed, &rule);
    assert_eq!((decision, closed.vetoed_steps), (CompressionDecision::Dense, 1));
}

#[test]
fn without_delta_every_step_is_sparse_unless_bytes_forbid_it() {
    let state = CompressionState::default().observed(&[Some(found(2.0))]);
    assert_ne!(decide(state, &rule(None)).0, CompressionDecision::Dense);
    let forbidden = CompressionRule { allowed: Vec::new(), ..rule(None) };
    let (decision, state) = decide(state, &forbidden);
    assert_eq!((decision, state.vetoed_steps), (CompressionDecision::Dense, 0));
}

/// A link of so many seconds per byte, work that costs nothing.
fn link(seconds_per_byte: f64) -> LinkCost {
    LinkCost { seconds_per_byte, dense_seconds_per_byte: seconds_per_byte, ..LinkCost::default() }
}

fn taking(compute: f64, least: f64) -> StepTimes {
    StepTimes { compute, least, leads: Vec::new() }
}

fn auto(lost: [f64; MOST_LEVELS], link: &LinkCost, times: &StepTimes) -> CompressionDecision {
    let energy = EnergyStatistics { energy: 1.0, lost };
    CompressionState::default().observed(&[Some(energy)]).decide(&open(), link, times).0
}

#[test]
fn a_free_choice_takes_no_loss_where_the_exchange_is_not_what_takes_the_time() {
    let times = taking(1.0, 0.0);
    assert_eq!(auto([0.01, 0.1, 0.0], &link(1e-9), &times), CompressionDecision::Dense);
    // 8 s, 4 s, 0.6 s; but samples for a step take 10 s to come.
    let waiting = taking(1.0, 10.0);
    assert_eq!(auto([0.01, 0.1, 0.0], &link(1e-3), &waiting), CompressionDecision::Dense);
    let half = taking(1.0, 5.5);
    assert_eq!(auto([0.01, 0.1, 0.0], &link(1e-3), &half), CompressionDecision::Half);
}

#[test]
fn a_free_choice_weighs_what_is_lost_against_the_time() {
    let times = taking(1.0, 0.0);
    // 1.6 s at a tenth, 1.06 s at a hundredth: worth a fifth of the energy, not a third.
    assert_eq!(auto([0.01, 0.2, 0.0], &link(1e-3), &times), sparse(1));
    assert_eq!(auto([0.01, 0.29, 0.0], &link(1e-3), &times), sparse(1));
    assert_eq!(auto([0.01, 0.35, 0.0], &link(1e-3), &times), sparse(0), "the gate");
    let shorter = taking(4.0, 0.0);
    assert_eq!(auto([0.01, 0.2, 0.0], &link(1e-3), &shorter), sparse(0), "4.6 s and 4.06 s");
    assert_eq!(auto([0.4, 0.9, 0.0], &link(1e-3), &times), CompressionDecision::Half, "the gate closes all");
}

#[test]
fn a_free_choice_loses_nothing_where_backward_hides_the_exchange() {
    let layout = SparseLayout::new(&[0, 500_000], 1_000_000, 2, 0.1);
    assert_eq!(layout.buckets.len(), 2);
    let rule = CompressionRule { layout, ..open() };
    let decide = |leads: &[f64]| {
        let times = StepTimes { leads: leads.to_vec(), ..taking(10.0, 0.0) };
        let energy = EnergyStatistics { energy: 1.0, lost: [0.3, 0.3, 0.0] };
        CompressionState::default().observed(&[Some(energy)]).decide(&rule, &link(1e-3), &times).0
    };
    // 8 s and 4 s, half of it for each bucket; three tenths of the energy are worth 4.6 s.
    assert_eq!(decide(&[]), CompressionDecision::Half, "18 s, 14 s, 10.06 s at seven tenths");
    assert_eq!(decide(&[4.0]), CompressionDecision::Half, "14 s, 12 s");
    assert_eq!(decide(&[9.0, 4.0]), CompressionDecision::Dense, "all of it is hidden");
}

#[test]
fn work_counts_as_time() {
    let slow_selection = LinkCost { sparse_seconds_per_element: 0.01, ..link(1e-3) };
    let times = taking(1.0, 0.0);
    assert_eq!(auto([0.0; 3], &slow_selection, &times), CompressionDecision::Half);
    let slow_both = LinkCost { half_seconds_per_element: 0.01, ..slow_selection };
    assert_eq!(auto([0.0; 3], &slow_both, &times), CompressionDecision::Dense);
}

#[test]
fn a_free_choice_begins_dense_looks_again_and_counts_what_the_gate_closed() {
    let (link, times) = (link(1e-3), taking(1.0, 0.0));
    let (first, mut state) = CompressionState::default().decide(&open(), &link, &times);
    assert_eq!((first, state.vetoed_steps), (CompressionDecision::Dense, 0));
    let mut dense = Vec::new();
    for step in 0..200 {
        let (decision, next) = state.observed(&[Some(found(0.2))]).decide(&open(), &link, &times);
        if decision == CompressionDecision::Dense {
            dense.push(step);
        }
        state = next;
    }
    assert_eq!(dense, [64, 129, 194]);
    assert_eq!(state.all_sparse_steps(), 197);
    assert_eq!(state.sparse_steps[1], 197, "{state:?}");
    assert!((state.mean_ratio().unwrap() - 0.01).abs() < 1e-12);
    let mut closed = state;
    for _ in 0..2000 {
        closed = closed.observed(&[Some(found(1.0))]);
    }
    let (decision, closed) = closed.decide(&open(), &link, &times);
    assert_eq!((decision, closed.vetoed_steps, closed.half_steps), (CompressionDecision::Half, 1, 1));
}

#[test]
fn a_rank_counts_by_its_energy() {
    let small = Some(EnergyStatistics::default());
    let state = CompressionState::default().observed(&[Some(found(0.5)), small, None]);
    assert_eq!(state.energy_losses[0].value(), Some(0.25));
    let nothing = CompressionState::default().observed(&[small, None]);
    assert_eq!(nothing.energy_losses[0].value(), None);
}

#[test]
fn the_mean_follows_by_a_hundredth_a_rank() {
    let state = CompressionState::default().observed(&[Some(found(0.5)), Some(found(0.5))]);
    let later = state.observed(&[Some(found(1.5)), Some(found(1.5))]);
    let mean = later.energy_losses[0].value().unwrap();
    // Two ranks: the older ℓ counts 1 − 2/100 of the newer.
    assert!((mean - (0.25 * 0.98 + 0.75) / 1.98).abs() < 1e-12, "{mean}");
}

#[test]
fn the_sample_loses_what_is_not_among_its_largest() {
    let sample = [3.0_f32, -1.0, 2.0, 0.0];
    let of = |ratios: &[f64]| EnergyStatistics::of_sample(sample.into_iter(), ratios.iter().copied());
    assert_eq!(of(&[0.5, 0.25]), EnergyStatistics { energy: 14.0, lost: [1.0, 5.0, 0.0] });
    assert_eq!(of(&[1.0]).lost[0], 0.0);
    let nothing = EnergyStatistics::of_sample(std::iter::empty(), [0.1].into_iter());
    assert_eq!(nothing.energy_loss(0), None);
}

#[test]
fn a_free_job_has_coarser_ratios_before_its_own() {
    assert_eq!(ratios(0.01, false), [0.01]);
    assert_eq!(ratios(0.2, true), [0.2]);
    assert_eq!(ratios(0.01, true), [0.1, 0.01]);
    let fine = ratios(0.001, true);
    assert!(fine.len() == MOST_LEVELS && (fine[1] - 0.01).abs() < 1e-15, "{fine:?}");
}

#[test]
fn another_ratio_forgets_what_the_earlier_one_lost_and_keeps_what_was_sent() {
    let before = rule(Some(0.3));
    let (_, state) = decide(CompressionState::default(), &before);
    let (decision, state) = decide(state.observed(&[Some(found(0.1))]), &before);
    assert_eq!((decision, state.all_sparse_steps()), (LEAST, 1));
    let finer = CompressionRule { ratios: vec![0.01], ..before };
    // A tenth loses little; what a hundredth loses nobody knows yet, and the gate is shut until a dense step has looked.
    let (decision, state) = decide(state, &finer);
    assert_eq!(decision, CompressionDecision::Dense);
    assert_eq!((state.all_sparse_steps(), state.mean_ratio()), (1, Some(0.1)), "the step stays what it was");
    let (decision, state) = decide(state.observed(&[Some(found(0.1))]), &finer);
    assert_eq!((decision, state.all_sparse_steps()), (LEAST, 2));
    assert!((state.mean_ratio().unwrap() - 0.055).abs() < 1e-12, "{:?}", state.mean_ratio());
}
