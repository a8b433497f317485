//! The crash matrix: whatever call the operator is stopped at, before it or after it, the job's life goes on as it should.
//!
//! One whole life is recorded: topics, pods, an attempt, a worker that is killed, a second attempt, completion, deletion.
//! Then it is lived again for every call of it, cut there; with caches that are behind, too. Calls that only a cut life
//! makes are cut in a life of their own. Everything around the operator is here in memory, but for the workers, which
//! listen on the loopback; the operator's passes are the real ones.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics and prints"
)]

mod api_server;
mod broker;
mod claims;
mod cluster;
mod life;
mod line;
mod operator;
mod store;
mod story;
mod workers;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use life::{Outcome, Plan, live};
use line::{Call, Cut, Harm, Side};
use operator::Lags;
use story::Story;
use tokio::runtime::Runtime;

/// Lives that are lived at the same time.
const THREADS: usize = 2;
/// A cut may cost so many writes more than a life without: objects that all pods share are applied again, topics are
/// looked at anew.
const MORE_WRITES: usize = 10;
/// Failed lives that are told in full.
const TOLD: usize = 12;

/// How a call can be cut with an effect of its own. Only the life that the others vary is cut at every look.
fn cuts_of(call: &Call, plan: &Plan) -> Vec<Cut> {
    let changes_nothing = call.only_looks() || call.name.ends_with(" events");
    if changes_nothing && call.ordinal > 1 && !plan.is_the_plainest() {
        return Vec::new();
    }
    let sides: &[Side] = if call.only_looks() { &[Side::Before] } else { &[Side::Before, Side::After] };
    // An operator that lives on is never away; the next look at topics that failed is a matter of real seconds.
    let only_stops = plan.away > 0 || call.name.starts_with("topics");
    let harms: &[Harm] = if only_stops { &[Harm::Stop] } else { &[Harm::Stop, Harm::Fail] };
    let cut = |side, harm| Cut { call: call.clone(), side, harm };
    sides.iter().flat_map(|side| harms.iter().map(move |harm| cut(*side, *harm))).collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn run_all(plans: &[Plan]) -> Vec<(Plan, Outcome)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = runtime();
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = runtime.block_on(live(plan));
                    done.lock().unwrap().push((plan.clone(), outcome));
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn names(calls: &[Call]) -> BTreeSet<String> {
    calls.iter().map(|call| call.name.clone()).collect()
}

/// All lives like `plan`: without a cut, with every cut of its calls, and with the cuts of calls that only these made.
fn matrix(plan: &Plan) {
    let uncut = runtime().block_on(live(plan));
    assert_eq!(uncut.faults, Vec::<String>::new(), "without a cut: {plan}");
    let mut cut = names(&uncut.calls);
    let of = |call: &Call| cuts_of(call, plan);
    let with = |cuts| Plan { cuts, ..plan.clone() };
    let mut lives = run_all(&uncut.calls.iter().flat_map(of).map(|cut| with(vec![cut])).collect::<Vec<_>>());
    let mut known = 0;
    loop {
        let mut more = Vec::new();
        for (earlier, outcome) in &lives[known..] {
            let fresh = outcome.calls.iter().filter(|call| cut.insert(call.name.clone()));
            let both = |second| with([earlier.cuts.clone(), vec![second]].concat());
            more.extend(fresh.flat_map(of).map(both));
        }
        known = lives.len();
        if more.is_empty() {
            break;
        }
        lives.extend(run_all(&more));
    }
    judge(&uncut, &lives);
}

/// Every life was as it should be, and every call that was ever made was cut in one of them.
fn judge(uncut: &Outcome, lives: &[(Plan, Outcome)]) {
    let cut: BTreeSet<&str> =
        lives.iter().flat_map(|(plan, _)| plan.cuts.iter().map(|cut| cut.call.name.as_str())).collect();
    let made = lives.iter().flat_map(|(_, outcome)| &outcome.calls).chain(&uncut.calls);
    let missed: BTreeSet<&str> =
        made.map(|call| call.name.as_str()).filter(|name| !cut.contains(name)).collect();
    assert!(missed.is_empty(), "calls that no life was cut at: {missed:?}");
    let most = lives.iter().max_by_key(|(_, outcome)| outcome.writes);
    let (plan, outcome) = most.unwrap();
    println!(
        "{} lives, {} calls without a cut of which {} writes; at most {} writes, {} passes without a cut: {plan}",
        lives.len(),
        uncut.calls.len(),
        uncut.writes,
        outcome.writes,
        uncut.ticks,
    );
    let limit = |plan: &Plan| uncut.writes + MORE_WRITES * plan.cuts.len();
    let failed: Vec<String> = lives
        .iter()
        .filter(|(plan, outcome)| !outcome.faults.is_empty() || outcome.writes > limit(plan))
        .map(|(plan, outcome)| format!("{plan}: {} writes, {:#?}", outcome.writes, outcome.faults))
        .collect();
    let told = failed.iter().take(TOLD).cloned().collect::<Vec<_>>().join("\n");
    assert!(failed.is_empty(), "{} of {} lives went wrong:\n{told}", failed.len(), lives.len());
}

#[test]
fn a_job_outlives_every_stop_of_its_operator() {
    matrix(&Plan::default());
}

#[test]
fn a_job_outlives_an_operator_that_is_away_for_a_while() {
    matrix(&Plan { away: 5, ..Plan::default() });
}

#[test]
fn pods_may_be_seen_before_their_job() {
    matrix(&Plan { lags: Lags { jobs: 2, pods: 0 }, ..Plan::default() });
}

#[test]
fn pods_may_be_seen_after_their_job() {
    matrix(&Plan { lags: Lags { jobs: 0, pods: 2 }, ..Plan::default() });
}

#[test]
fn caches_may_be_behind() {
    matrix(&Plan { lags: Lags { jobs: 1, pods: 1 }, ..Plan::default() });
}

#[test]
fn a_rest_outlives_every_stop_of_the_operator() {
    matrix(&Plan { story: Story::Rested, ..Plan::default() });
}

#[test]
fn a_job_that_is_given_up_leaves_nothing_wherever_the_operator_stops() {
    matrix(&Plan { story: Story::GivenUp, ..Plan::default() });
}

#[test]
fn a_tuned_job_is_told_to_its_workers_wherever_the_operator_stops_and_nothing_restarts() {
    matrix(&Plan { story: Story::Tuned, ..Plan::default() });
}
