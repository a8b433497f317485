//! The poller thread: end offsets and low watermarks, four times a second, whatever the fetching does. Shell.

use std::time::{Duration, Instant};

use scadles_core::device_stream::PartitionOffsets;
use scadles_core::rate::POLL_SECONDS;
use scadles_kafka::OffsetWatcher;

use super::state::{Shared, reach};
use super::{SourceError, SourceSettings};

/// How long one question may take: an outage is noticed, and stopping is possible, within this time.
const DEADLINE: Duration = Duration::from_secs(2);
/// A topic that is missing for longer is gone. A broker that just started may not know its topics at once.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// How often a topic is looked at for new partitions.
const GROWTH_INTERVAL: Duration = Duration::from_mins(1);

/// What an unanswered poll means.
#[derive(Debug, PartialEq)]
enum Silence {
    /// It may pass: ask again.
    Bear,
    /// The stream cannot go on.
    End(SourceError),
}

/// How long the broker has given no useful answer. No I/O; time is an argument.
struct Outage {
    patience: Duration,
    answered: Instant,
    missing_since: Option<Instant>,
}

impl Outage {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, answered: now, missing_since: None }
    }

    fn over(&mut self, now: Instant) {
        self.answered = now;
        self.missing_since = None;
    }

    /// Judges an error. Only a topic that was made anew is final at once: whatever else a broker says in its trouble (a
    /// code that nobody listed, an authorizer that is restarting) may pass, and a new attempt looks again.
    fn judge(&mut self, error: scadles_kafka::Error, now: Instant) -> Silence {
        use scadles_kafka::Error;
        match error {
            Error::TopicRecreated { .. } | Error::TopicLost { .. } => Silence::End(error.into()),
            Error::TopicMissing { .. } => {
                let since = *self.missing_since.get_or_insert(now);
                if now.duration_since(since) > TOPIC_PATIENCE {
                    Silence::End(error.into())
                } else {
                    Silence::Bear
                }
            }
            error => {
                let away = now.duration_since(self.answered);
                if away > self.patience {
                    return Silence::End(SourceError::BrokerLost { away, reason: error.to_string() });
                }
                tracing::debug!(%error, "no answer about offsets");
                Silence::Bear
            }
        }
    }
}

/// The thread's own.
pub(super) struct Poller {
    watcher: OffsetWatcher,
    settings: SourceSettings,
    outage: Outage,
    /// Partitions that the topic is known to have.
    partitions: u32,
    looked_for_growth: Instant,
}

impl Poller {
    /// Polls with a watcher that has answered just now.
    pub(super) fn new(watcher: OffsetWatcher, settings: &SourceSettings) -> Self {
        let now = Instant::now();
        Self {
            partitions: watcher.partitions(),
            watcher,
            settings: settings.clone(),
            outage: Outage::new(settings.broker_patience, now),
            looked_for_growth: now,
        }
    }

    /// Polls until the source is dropped or has failed.
    pub(super) fn run(mut self, shared: &Shared) {
        while begin_poll(shared) {
            match self.watcher.poll(DEADLINE) {
                Ok(offsets) => {
                    self.outage.over(Instant::now());
                    if let Err(error) = self.take(shared, &reach(&offsets)) {
                        return shared.fail(error);
                    }
                    self.look_for_growth();
                }
                Err(error) => {
                    if let Silence::End(error) = self.outage.judge(error, Instant::now()) {
                        return shared.fail(error);
                    }
                }
            }
        }
    }

    fn take(&self, shared: &Shared, offsets: &[PartitionOffsets]) -> Result<(), SourceError> {
        let read = offsets.get(..self.settings.partitions as usize).unwrap_or(offsets);
        let mut state = shared.lock();
        state.observe(read, shared.now_seconds())?;
        state.polls_done = state.polls_begun;
        drop(state);
        shared.notify_changed();
        Ok(())
    }

    /// Records of partitions that came later are not read: that must be said, since nothing else shows it.
    fn look_for_growth(&mut self) {
        if self.looked_for_growth.elapsed() < GROWTH_INTERVAL {
            return;
        }
        self.looked_for_growth = Instant::now();
        let SourceSettings { device, topic, partitions: read, .. } = &self.settings;
        match self.watcher.count_partitions(DEADLINE) {
            Ok(found) if found > self.partitions => {
                self.partitions = found;
                tracing::warn!(
                    device,
                    topic,
                    found,
                    read,
                    "the topic has grown; the job reads the new partitions once spec.kafka.topics.partitions names them"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "no answer about partitions"),
        }
    }
}

/// Waits for the next poll; `false`: it is over.
fn begin_poll(shared: &Shared) -> bool {
    let due = Instant::now() + Duration::from_secs_f64(POLL_SECONDS);
    let mut state = shared.lock();
    loop {
        if state.stop || state.failure.is_some() {
            return false;
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || std::mem::take(&mut state.poll_at_once) {
            state.polls_begun += 1;
            return true;
        }
        state = shared.wait_poll(state, left);
    }
}

#[cfg(test)]
mod tests {
    use scadles_api::ExitCode;
    use scadles_kafka::Error;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(100);

    /// The exit code that the same error leads to when it comes again after so many seconds; none: it is borne.
    fn end_after(error: &Error, seconds: u64) -> Option<ExitCode> {
        let began = Instant::now();
        let mut outage = Outage::new(PATIENCE, began);
        let mut judge = |after| match outage.judge(error.clone(), began + Duration::from_secs(after)) {
            Silence::Bear => None,
            Silence::End(error) => Some(error.exit_code()),
        };
        judge(0).or_else(|| judge(seconds))
    }

    #[test]
    fn an_error_that_nobody_listed_is_borne_as_long_as_an_outage() {
        let reason = "Broker: Unknown server error".to_owned();
        let unlisted = Error::NotAuthorized { what: "ask for offsets".to_owned(), reason };
        assert_eq!(end_after(&unlisted, 99), None);
        assert_eq!(end_after(&unlisted, 101), Some(ExitCode::BrokerLost), "a new attempt may help");
    }

    #[test]
    fn a_missing_topic_is_borne_for_seconds_and_one_made_anew_not_at_all() {
        let missing = Error::TopicMissing { topic: "t".to_owned() };
        assert_eq!(end_after(&missing, 4), None);
        assert_eq!(end_after(&missing, 6), Some(ExitCode::TopicLost));
        let anew = Error::TopicRecreated { topic: "t".to_owned(), partition: 0, was: 9, now: 3 };
        assert_eq!(end_after(&anew, 0), Some(ExitCode::TopicLost));
    }

    #[test]
    fn an_answer_ends_an_outage() {
        let began = Instant::now();
        let mut outage = Outage::new(PATIENCE, began);
        outage.over(began + Duration::from_secs(90));
        let error = Error::NotAuthorized { what: String::new(), reason: String::new() };
        assert_eq!(outage.judge(error, began + Duration::from_secs(170)), Silence::Bear);
    }
}
