//! The poller thread: end offsets and low watermarks, four times a second, whatever the fetching does. Shell.

use std::time::{Duration, Instant};

use scadles_core::rate::POLL_SECONDS;
use scadles_kafka::OffsetWatcher;

use super::SourceError;
use super::state::{Shared, reach};

/// How long one question may take: an outage is noticed, and stopping is possible, within this time.
const DEADLINE: Duration = Duration::from_secs(2);
/// A topic that is missing for longer is gone. A broker that just started may not know its topics at once.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// Polls until the source is dropped or has failed.
pub(super) fn run(shared: &Shared, mut watcher: OffsetWatcher, patience: Duration) {
    let mut answered = Instant::now();
    let mut missing_since: Option<Instant> = None;
    while begin_poll(shared) {
        match watcher.poll(DEADLINE) {
            Ok(offsets) => {
                answered = Instant::now();
                missing_since = None;
                let mut state = shared.lock();
                if let Err(error) = state.observe(&reach(&offsets), shared.now_seconds()) {
                    drop(state);
                    return shared.fail(error);
                }
                state.polls_done = state.polls_begun;
                drop(state);
                shared.notify_changed();
            }
            Err(error) if error.is_transient() => {
                if answered.elapsed() > patience {
                    let away = answered.elapsed();
                    return shared.fail(SourceError::BrokerLost { away, reason: error.to_string() });
                }
                tracing::debug!(%error, "no answer about offsets");
            }
            Err(error @ scadles_kafka::Error::TopicMissing { .. }) => {
                if missing_since.get_or_insert_with(Instant::now).elapsed() > TOPIC_PATIENCE {
                    return shared.fail(error.into());
                }
            }
            Err(error) => return shared.fail(error.into()),
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
