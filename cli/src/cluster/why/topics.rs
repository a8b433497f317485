//! Brokers, topics and the Secrets of the connection. The operator's words are those of `scadles-kafka`. Pure.

use scadles_api::{
    ScadlesJobStatus,
    status::{Condition, JobState},
};

use super::{Answer, Facts, denied, pods::missing_secret};
use crate::{
    cluster::{
        time,
        words::{between, one_line},
    },
    screen::span,
};

/// The operator has begun and knows nothing yet.
const NOT_YET: &str = "its topics are being looked at";

pub(super) fn answer(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Option<Answer> {
    let condition = denied(status, "TopicsReady").filter(|condition| condition.message != NOT_YET)?;
    let problem = one_line(&condition.message);
    let sentence = secret(facts, &problem)
        .or_else(|| foreign(&problem))
        .or_else(|| unreachable(facts, status, condition))
        .unwrap_or_else(|| format!("its topics are not ready: {problem}"));
    Some(Answer::wrong(sentence))
}

fn secret(facts: &Facts<'_>, problem: &str) -> Option<String> {
    if let Some(rest) = problem.strip_prefix("the operator may not read Secret ") {
        let (secret, line) = rest.split_once(": ")?;
        return Some(format!(
            "the operator may not read Secret {secret}, which it needs to make the topics; allow it: {line}"
        ));
    }
    let secret = between(problem, "Secret ", " is missing")?;
    Some(missing_secret(facts, secret.rsplit('/').next().unwrap_or(secret)))
}

fn foreign(problem: &str) -> Option<String> {
    let topic = between(problem, "topic \"", "\" is not this job's own")?;
    let prefix = between(problem, "does not begin with \"", "\"")?;
    Some(format!(
        "topic {topic} is not this job's own, whose names begin with {prefix}; set spec.kafka.topics.adoption: Adopt to use it as \
         it is, or give another name in spec.kafka.topics.nameTemplate"
    ))
}

fn unreachable(facts: &Facts<'_>, status: &ScadlesJobStatus, condition: &Condition) -> Option<String> {
    let address = between(&condition.message, "no broker answered at \"", "\"")?;
    let reason =
        between(&condition.message, " s (", "); ").map_or(String::new(), |reason| format!(": {reason}"));
    let waited = facts.age(&condition.last_transition_time).unwrap_or(0.0);
    let waits = matches!(status.state, Some(JobState::Waiting | JobState::Restarting));
    let limit = facts.valid.as_ref().map(|valid| valid.limits.start_deadline_seconds).filter(|_| waits);
    let limit = limit.map_or(String::new(), |limit| match limit - waited {
        left if left > 0.0 => format!(" (it gives up in {})", span(left)),
        _ => String::new(),
    });
    Some(format!(
        "no broker answers at {address} {}{reason}; see that Kafka runs there and that spec.kafka.bootstrapServers is \
         right{limit}",
        time::since(&condition.last_transition_time, facts.now)
    ))
}
