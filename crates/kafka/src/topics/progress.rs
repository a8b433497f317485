//! What follows from a look at the topics and from what was asked for already: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{TopicOrigin, TopicStep};
use crate::error::Error;

/// Topics, partitions and settings together that one call makes; brokers refuse more than 10,000.
const CHANGES_PER_CALL: usize = 4000;

/// What a call has done so far.
#[derive(Default)]
pub(super) struct Done {
    /// Changes that were asked for, once each.
    pub(super) asked: BTreeSet<(Change, String)>,
    pub(super) created: BTreeSet<String>,
    pub(super) grown_from: BTreeMap<String, u32>,
    pub(super) changed: BTreeMap<String, Vec<String>>,
    pub(super) errors: Vec<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Create,
    Grow,
    Configure,
}

pub(super) fn change(step: &TopicStep) -> Option<(Change, String)> {
    match step {
        TopicStep::Create(topic) => Some((Change::Create, topic.name.clone())),
        TopicStep::Grow { name, .. } => Some((Change::Grow, name.clone())),
        TopicStep::Configure { name, .. } => Some((Change::Configure, name.clone())),
        TopicStep::Use { .. } | TopicStep::Refuse(_) => None,
    }
}

/// A [`TopicStep::Use`].
pub(super) struct Used<'a> {
    pub(super) name: &'a str,
    pub(super) partitions: u32,
    pub(super) origin: TopicOrigin,
}

pub(super) enum Next<'a> {
    Refuse(Vec<Error>),
    /// A topic is missing that nobody here may make; it may come back.
    LookForMissing,
    CarryOut(Vec<&'a TopicStep>),
    /// Of this topic, a change that was asked for.
    AwaitChange(String),
    Use(Vec<Used<'a>>),
}

/// What to do after a look at the topics. `is_sure`: what is missing now will stay so.
pub(super) fn next<'a>(steps: &'a [TopicStep], done: &Done, is_sure: bool) -> Next<'a> {
    let refusals: Vec<&Error> = steps
        .iter()
        .filter_map(|step| match step {
            TopicStep::Refuse(error) => Some(error),
            _ => None,
        })
        .collect();
    if !refusals.is_empty() {
        let may_pass = |error: &&Error| matches!(error, Error::TopicMissing { .. } | Error::TopicLost { .. });
        if !is_sure && refusals.iter().all(may_pass) {
            return Next::LookForMissing;
        }
        return Next::Refuse(refusals.into_iter().cloned().collect());
    }
    let (asked, open): (Vec<_>, Vec<_>) = steps
        .iter()
        .filter_map(|step| Some((step, change(step)?)))
        .partition(|(_, change)| done.asked.contains(change));
    if !open.is_empty() {
        return Next::CarryOut(open.into_iter().map(|(step, _)| step).collect());
    }
    // A setting that was written and still differs is one that the broker writes in another way.
    if let Some((_, (_, topic))) = asked.into_iter().find(|(_, (kind, _))| *kind != Change::Configure) {
        return Next::AwaitChange(topic);
    }
    let used = steps.iter().filter_map(|step| match step {
        TopicStep::Use { name, partitions, origin } => {
            Some(Used { name, partitions: *partitions, origin: *origin })
        }
        _ => None,
    });
    Next::Use(used.collect())
}

/// Cuts `items` into runs of at most [`CHANGES_PER_CALL`], a larger item for itself.
pub(super) fn chunks<T>(items: &[T], changes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut runs, mut first, mut sum) = (Vec::new(), 0, 0);
    for (index, item) in items.iter().enumerate() {
        let more = changes(item);
        if index > first && sum + more > CHANGES_PER_CALL {
            runs.push(&items[first..index]);
            (first, sum) = (index, 0);
        }
        sum += more;
    }
    if first < items.len() {
        runs.push(&items[first..]);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::WantedTopic;

    fn topic(name: &str, partitions: u32) -> WantedTopic {
        let name = name.to_owned();
        WantedTopic { device: String::new(), name, partitions, replication: None, settings: BTreeMap::new() }
    }

    fn using(name: &str) -> TopicStep {
        TopicStep::Use { name: name.to_owned(), partitions: 1, origin: TopicOrigin::Reused }
    }

    fn done(kind: Change, name: &str) -> Done {
        Done { asked: BTreeSet::from([(kind, name.to_owned())]), ..Done::default() }
    }

    #[test]
    fn every_change_is_asked_for_once_and_awaited() {
        let steps = [TopicStep::Create(topic("a", 1)), using("b")];
        assert!(matches!(next(&steps, &Done::default(), true), Next::CarryOut(open) if open == [&steps[0]]));
        let asked = done(Change::Create, "a");
        assert!(matches!(next(&steps, &asked, true), Next::AwaitChange(topic) if topic == "a"));
        assert!(matches!(next(&steps[1..], &asked, true), Next::Use(used) if used.len() == 1));
    }

    #[test]
    fn a_setting_that_the_broker_writes_in_another_way_is_not_awaited_for_ever() {
        let settings = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let steps = [TopicStep::Configure { name: "a".to_owned(), settings }, using("a")];
        assert!(matches!(next(&steps, &done(Change::Configure, "a"), true), Next::Use(_)));
    }

    #[test]
    fn a_refusal_stops_everything_and_what_is_missing_is_looked_for_again() {
        let missing = TopicStep::Refuse(Error::TopicMissing { topic: "b".to_owned() });
        let foreign =
            TopicStep::Refuse(Error::TopicForeign { topic: "c".to_owned(), prefix: "n.".to_owned() });
        let steps = [TopicStep::Create(topic("a", 1)), missing.clone()];
        assert!(matches!(next(&steps, &Done::default(), false), Next::LookForMissing));
        assert!(matches!(next(&steps, &Done::default(), true), Next::Refuse(errors) if errors.len() == 1));
        let steps = [missing, foreign];
        assert!(matches!(next(&steps, &Done::default(), false), Next::Refuse(errors) if errors.len() == 2));
    }

    #[test]
    fn no_call_makes_more_than_brokers_take_at_once() {
        let topics: Vec<_> = [3000, 900, 200, 5000, 1, 1].map(|partitions| topic("t", partitions)).into();
        let runs = chunks(&topics, |topic| topic.partitions as usize);
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert!(chunks::<WantedTopic>(&[], |_| 1).is_empty());
    }
}
