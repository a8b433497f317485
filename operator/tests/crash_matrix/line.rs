//! The line between the operator and everything else: every call is numbered here, and can be cut.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// One call of a life: what it is, and the how-manieth of its kind, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) ordinal: u32,
}

impl Call {
    /// Whether nothing is changed by it: cut before or after, the world is the same.
    pub(crate) fn only_looks(&self) -> bool {
        self.name.starts_with("GET") || self.name.ends_with("dry") || self.name == "worker progress"
    }

    /// Whether it asks the API server to change something.
    fn is_write(&self) -> bool {
        let verbs = ["POST ", "PUT ", "PATCH ", "DELETE "];
        verbs.iter().any(|verb| self.name.starts_with(verb)) && !self.only_looks()
    }
}

/// Where a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It never arrives.
    Before,
    /// It takes effect, its answer is lost.
    After,
}

/// What the cut does to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It ends in the middle of the call, and is started anew with nothing remembered.
    Stop,
    /// The call fails; the operator lives on with its memory.
    Fail,
}

/// One cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) call: Call,
    pub(crate) side: Side,
    pub(crate) harm: Harm,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, side, harm } = self;
        write!(f, "{harm:?} {side:?} {} #{}", call.name, call.ordinal)
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Served,
    Cut(Side),
    /// The operator that made it is no more.
    Unheard,
}

impl Fate {
    /// Whether the call takes effect.
    pub(crate) fn arrives(self) -> bool {
        matches!(self, Self::Served | Self::Cut(Side::After))
    }
}

/// The line.
pub(crate) struct Line {
    state: Mutex<State>,
    down: watch::Sender<bool>,
}

struct State {
    counts: BTreeMap<String, u32>,
    calls: Vec<Call>,
    cuts: Vec<Cut>,
    strangers: Vec<String>,
}

impl Line {
    pub(crate) fn new(cuts: Vec<Cut>) -> Self {
        let state = State { counts: BTreeMap::new(), calls: Vec::new(), cuts, strangers: Vec::new() };
        Self { state: Mutex::new(state), down: watch::Sender::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call comes in.
    pub(crate) fn arrive(&self, name: &str) -> Fate {
        if self.is_down() {
            return Fate::Unheard;
        }
        let mut state = self.state();
        let ordinal = state.counts.entry(name.to_owned()).or_default();
        *ordinal += 1;
        let call = Call { name: name.to_owned(), ordinal: *ordinal };
        state.calls.push(call.clone());
        let Some(index) = state.cuts.iter().position(|cut| cut.call == call) else { return Fate::Served };
        let cut = state.cuts.remove(index);
        if cut.harm == Harm::Stop {
            self.down.send_replace(true);
        }
        Fate::Cut(cut.side)
    }

    /// A call came in that nobody here knows.
    pub(crate) fn stranger(&self, what: String) {
        self.state().strangers.push(what);
    }

    /// Whether a cut has stopped the operator.
    pub(crate) fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    /// Waits for that.
    pub(crate) async fn stopped(&self) {
        // The sender is `self`: it outlives the wait.
        let _ = self.down.subscribe().wait_for(|down| *down).await;
    }

    /// A new operator makes the calls from here on.
    pub(crate) fn restart(&self) {
        self.down.send_replace(false);
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Calls so far that asked the API server to change something.
    pub(crate) fn writes(&self) -> usize {
        self.state().calls.iter().filter(|call| call.is_write()).count()
    }

    /// Cuts that are yet to come.
    pub(crate) fn open_cuts(&self) -> usize {
        self.state().cuts.len()
    }

    /// Calls that nobody here knows.
    pub(crate) fn strangers(&self) -> Vec<String> {
        self.state().strangers.clone()
    }
}
