//! What a supervisor saw and decided, look by look: plain data that can be stored and decided again. No I/O.

use std::collections::BTreeSet;

use scadles_api::{CheckpointRef, Phase, worker::JobConfig};
use serde::{Deserialize, Serialize};

use super::{Action, Decision, JobPhase, Observation, Supervision, WorkerObservation, decide};

/// What every look of a history has in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The job.
    pub job: JobConfig,
    /// What the supervisor remembered when it began.
    pub supervision: Supervision,
}

/// One look, and what was decided upon it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// Seconds on the clock of [`Supervision::new`].
    pub now: f64,
    /// What was seen.
    pub seen: Observation,
    /// Attempt after the decision.
    pub attempt: u32,
    /// Phase after it.
    pub phase: JobPhase,
    /// What was to be done.
    pub actions: Vec<Action>,
}

impl Look {
    /// A look and its decision.
    pub fn new(now: f64, seen: Observation, decision: &Decision) -> Self {
        let Decision { next, actions, .. } = decision;
        Self { now, seen, attempt: next.attempt, phase: next.phase.clone(), actions: actions.clone() }
    }

    /// What sets it apart: counters and ages alone do not.
    fn essence(&self) -> Essence<'_> {
        let progress = self.seen.progress.as_ref();
        Essence {
            workers: &self.seen.workers,
            progress: progress.map(|it| (it.attempt, it.phase, it.checkpoint.as_ref())),
            attempt: self.attempt,
            phase: &self.phase,
            actions: &self.actions,
        }
    }

    /// Whether it tells more than the look before it: a history of these alone leads to the same decisions.
    pub fn is_news_after(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| before.essence() != self.essence())
    }
}

#[derive(PartialEq)]
struct Essence<'a> {
    workers: &'a [WorkerObservation],
    progress: Option<(u32, Phase, Option<&'a CheckpointRef>)>,
    attempt: u32,
    phase: &'a JobPhase,
    actions: &'a [Action],
}

/// A history: JSON lines, the origin first.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Where it began.
    pub origin: Origin,
    /// The looks, in order.
    pub looks: Vec<Look>,
}

impl History {
    /// Reads JSON lines.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let mut lines = text.lines();
        let origin = serde_json::from_str(lines.next().unwrap_or_default())?;
        Ok(Self { origin, looks: lines.map(serde_json::from_str).collect::<Result<_, _>>()? })
    }

    /// Decides all of it again, with what `see` makes of each look: per look what is then to be done.
    pub fn decide_again(&self, mut see: impl FnMut(&Look, &Supervision) -> Observation) -> Vec<Decision> {
        let mut state = self.origin.supervision.clone();
        self.looks
            .iter()
            .map(|look| {
                let decision = decide(&self.origin.job, &state, &see(look, &state), look.now);
                state = decision.next.clone();
                decision
            })
            .collect()
    }

    /// Its course: each attempt's phases, and in each what was asked of whom; how often depends on the machine.
    pub fn course(&self) -> Vec<String> {
        let mut course: Vec<(u32, &'static str, BTreeSet<String>)> = Vec::new();
        for look in &self.looks {
            let name = look.phase.name();
            if course.last().is_none_or(|last| (last.0, last.1) != (look.attempt, name)) {
                course.push((look.attempt, name, BTreeSet::new()));
            }
            if let Some(last) = course.last_mut() {
                last.2.extend(look.actions.iter().filter_map(asked));
            }
        }
        let line = |(attempt, phase, asked): (u32, &str, BTreeSet<String>)| {
            let asked: Vec<String> = asked.into_iter().collect();
            format!("attempt {attempt}: {phase} [{}]", asked.join(", "))
        };
        course.into_iter().map(line).collect()
    }
}

/// An action in a word; `None` for those that depend on how quickly the others end by themselves.
fn asked(action: &Action) -> Option<String> {
    match action {
        Action::StartWorker { rank, attempt } => Some(format!("start {rank} for {attempt}")),
        Action::PostAttempt { rank, attempt } => Some(format!("post {} to {rank}", attempt.number)),
        Action::PostTuning { rank, tuning } => Some(format!("tune {rank} to {}", tuning.generation)),
        Action::RequestStop { rank, checkpoint } => Some(format!("stop {rank}, checkpoint {checkpoint}")),
        Action::Finish(outcome) => Some(format!("finish {:?}", outcome.code)),
        Action::KillWorker { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_history_is_decided_as_it_was() {
        let text = include_str!("../../tests/history.jsonl");
        let history = History::read(text).unwrap();
        let again = history.decide_again(|look, _| look.seen.clone());
        for (look, decision) in history.looks.iter().zip(&again) {
            assert_eq!(decision.actions, look.actions, "at {}", look.now);
            assert_eq!((decision.next.attempt, &decision.next.phase), (look.attempt, &look.phase));
        }
        assert!(history.looks.iter().any(|look| look.attempt == 2), "an attempt was lost in it");
    }

    #[test]
    fn counters_alone_are_no_news() {
        let history = History::read(include_str!("../../tests/history.jsonl")).unwrap();
        let trains = history.looks.iter().find(|look| look.seen.progress.is_some()).unwrap();
        let mut later = trains.clone();
        later.now += 1.0;
        later.seen.progress.as_mut().unwrap().step += 1;
        assert!(!later.is_news_after(Some(trains)) && later.is_news_after(None));
        later.seen.workers.pop();
        assert!(later.is_news_after(Some(trains)));
    }
}
