//! What holds in every life, read from all versions of all objects. Pure.

use std::collections::{BTreeMap, BTreeSet};

use scadles_api::names::labels;
use scadles_operator::controller::names;
use serde_json::Value;

use crate::{
    store::{Change, JOBS},
    story::Story,
};

/// What was broken.
pub(crate) fn faults(log: &[Change], story: Story) -> Vec<String> {
    let mut history = History::default();
    for change in log {
        match change.kind.as_str() {
            JOBS => history.job(change),
            "pods" => history.pod(change),
            kind => history.other(kind, change),
        }
    }
    history.ended(story);
    history.faults
}

/// What is known after the versions so far.
#[derive(Default)]
struct History {
    faults: Vec<String>,
    /// The latest status of the job.
    status: Value,
    /// Objects that are there, besides jobs and pods.
    there: BTreeSet<String>,
    /// Pods that were ever made, by what they are for.
    made: BTreeMap<(String, String), String>,
    /// Attempts of the processes that live, by pod.
    alive: BTreeMap<String, u64>,
}

impl History {
    fn claim(&mut self, holds: bool, change: &Change, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("at {}: {}", change.tick, what()));
        }
    }

    fn job(&mut self, change: &Change) {
        let status = change.object["status"].clone();
        let number = |status: &Value, field: &str| status[field].as_u64().unwrap_or(0);
        let [before, after] = [&self.status, &status].map(|it| (number(it, "attempt"), number(it, "step")));
        self.claim(after.0 >= before.0, change, || format!("attempt {} came after {}", after.0, before.0));
        let steps_back = after.0 == before.0 && after.1 < before.1;
        self.claim(!steps_back, change, || {
            format!("step {} came after {} in one attempt", after.1, before.1)
        });
        let count = status["conditions"].as_array().map_or(0, Vec::len);
        self.claim(status.is_null() || count > 0, change, || "a status without conditions".to_owned());
        self.status = status;
    }

    fn pod(&mut self, change: &Change) {
        let label = |name: &str| change.object["metadata"]["labels"][name].as_str().unwrap_or_default();
        let uid = change.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let purpose = (label(labels::DEVICE).to_owned(), label(labels::ATTEMPT).to_owned());
        let known = self.made.get(&purpose).cloned();
        if known.is_none() {
            self.made.insert(purpose.clone(), uid.clone());
            self.is_made_in_order(change);
        }
        let again = known.is_some_and(|known| known != uid);
        self.claim(!again, change, || format!("a second pod for {purpose:?}"));
        let over = matches!(change.object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if over || change.gone {
            self.alive.remove(&change.name);
        } else if label(labels::COMPONENT) == names::TRAINER {
            self.alive.insert(change.name.clone(), purpose.1.parse().unwrap_or(0));
            let attempts: BTreeSet<u64> = self.alive.values().copied().collect();
            self.claim(attempts.len() == 1, change, || {
                format!("workers of attempts {attempts:?} live together")
            });
        }
    }

    /// Before a pod there are: its attempt in the status, who may talk to it, its files, its topics.
    fn is_made_in_order(&mut self, change: &Change) {
        let made_for = change.object["metadata"]["labels"][labels::ATTEMPT].as_str();
        let made_for = made_for.map(|text| text.parse::<u64>().unwrap_or(0));
        let told = self.status["attempt"].as_u64().unwrap_or(0);
        self.claim(told > 0 && made_for.is_none_or(|it| it == told), change, || {
            format!("a pod for attempt {made_for:?} while the status tells {told}")
        });
        for kind in ["networkpolicies", "secrets", "configmaps", "topics"] {
            let is_there = self.there.iter().any(|it| it.starts_with(kind));
            self.claim(is_there, change, || format!("a pod before {kind}"));
        }
    }

    fn other(&mut self, kind: &str, change: &Change) {
        let object = format!("{kind} {}", change.name);
        if change.gone {
            self.there.remove(&object);
        } else {
            self.there.insert(object);
        }
    }

    /// The last status of all tells the whole story.
    fn ended(&mut self, story: Story) {
        self.faults.extend(story.fault(&self.status));
        if !self.alive.is_empty() {
            self.faults.push(format!("still alive: {:?}", self.alive));
        }
    }
}
