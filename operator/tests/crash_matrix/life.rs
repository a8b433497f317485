//! One life of one job, from its creation to the last trace of it, with the operator cut where the plan says.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use scadles_operator::error::Error;

use crate::{
    claims,
    cluster::Cluster,
    line::{Call, Cut, Line},
    operator::{Lags, Operator, set_clock},
    store::{JOBS, Store},
    story::Story,
    workers::Workers,
};

/// The world begins then.
const START: f64 = 1_800_000_000.0;
/// A life that is not over by then never will be.
const LONGEST: u64 = 100;
/// After the end of the job the collector has so long.
const AFTERMATH: u64 = 3;

/// A life to be lived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) story: Story,
    pub(crate) lags: Lags,
    /// Passes that a stopped operator misses before it is back.
    pub(crate) away: u64,
    pub(crate) cuts: Vec<Cut>,
}

impl Plan {
    /// Whether nothing but its cuts makes it hard.
    pub(crate) fn is_the_plainest(&self) -> bool {
        self.story == Story::default() && self.lags == Lags::default() && self.away == 0
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { story, lags, away, cuts } = self;
        let cuts: Vec<String> = cuts.iter().map(ToString::to_string).collect();
        write!(f, "{story:?}, lag {}/{}, away {away}, cut at [{}]", lags.jobs, lags.pods, cuts.join(", "))
    }
}

/// What a life was.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) calls: Vec<Call>,
    /// Calls that asked the API server to change something.
    pub(crate) writes: usize,
    /// Length in passes.
    pub(crate) ticks: u64,
    /// What should not have happened.
    pub(crate) faults: Vec<String>,
}

/// Lives it.
pub(crate) async fn live(plan: &Plan) -> Outcome {
    let store = Arc::new(Mutex::new(Store::default()));
    let line = Arc::new(Line::new(plan.cuts.clone()));
    let workers = Workers::new(line.clone());
    let cluster = Cluster { store: store.clone(), workers: workers.clone(), script: plan.story.script() };
    let locked = || store.lock().unwrap_or_else(PoisonError::into_inner);
    let mut operator = None;
    let (mut faults, mut end, mut back_at) = (Vec::new(), LONGEST, 0);
    let mut tick = 0;
    while tick < end {
        tick += 1;
        let now = START + tick as f64;
        set_clock(now);
        locked().set_time(tick, now);
        if tick == 1 {
            locked().create(JOBS, plan.story.job()).unwrap();
        }
        // What the operator left to a task of its own gets its turn.
        tokio::task::yield_now().await;
        cluster.tick().await;
        plan.story.turn(&mut locked(), workers.step());
        if tick >= back_at {
            let new = || Operator::start(&store, &line, &workers, plan.lags);
            let running: &mut Operator = operator.get_or_insert_with(new);
            running.catch_up(tick);
            let cuts = line.open_cuts();
            match running.pass().await {
                None => {
                    operator = None;
                    back_at = tick + 1 + plan.away;
                }
                // A call that was cut may fail its pass; so may a cache that is behind, by a conflict.
                Some(Err(error)) if cuts == line.open_cuts() && !matches!(error, Error::Conflict) => {
                    faults.push(format!("a pass failed at {tick} without cause: {error}"));
                }
                Some(_) => {}
            }
        }
        if end == LONGEST && locked().of_kind(JOBS).is_empty() {
            end = tick + AFTERMATH;
        }
    }
    let store = locked();
    if end == LONGEST {
        faults.push(format!("the job was not gone after {LONGEST} passes"));
    }
    faults.extend(store.left().into_iter().map(|object| format!("left of the job: {object}")));
    faults.extend(claims::faults(store.changes(), plan.story));
    faults.extend(workers.mistakes());
    faults.extend(line.strangers().into_iter().map(|call| format!("not a call of the operator: {call}")));
    if line.open_cuts() > 0 {
        faults.push("a cut was never reached".to_owned());
    }
    Outcome { calls: line.calls(), writes: line.writes(), ticks: tick, faults }
}
