//! Ends a worker whose training thread is stuck, in a collective or in work of its own, and says in which.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use scadles_api::{ExitCode, worker::Limits};

use super::Failure;

/// A step may take so many windows.
const WINDOWS_PATIENCE: f64 = 20.0;

/// What the training thread does while it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Work that depends on no other rank, in one word.
    Own(&'static str),
    /// An exchange, which needs all ranks.
    Exchange,
}

impl Watched {
    /// How a worker ends that is stuck there. A rank that is stuck by itself is the first cause; in an exchange it waits
    /// for one that is.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Own(work) => {
                let message = format!("this worker is stuck in its own {work}: its deadline has passed");
                Failure::new(ExitCode::Internal, message).with_remedy(
                    "look into its log; a machine short of memory or CPU, or a disk that hangs, is the usual reason; \
                     raise spec.runPolicy.collectiveSeconds if it only needs longer, startDeadlineSeconds if it was \
                     the job's first step",
                )
            }
            Self::Exchange => {
                Failure::new(ExitCode::PeerLost, "the step outlived its deadline: a rank is stuck")
            }
        }
    }
}

/// How long a step after `step` others may take, in windows of `window_seconds`. Before the first of the job rank 0 writes
/// checkpoint 0, on which all wait: on a slow storage it takes its time, for which the supervisor has a limit.
pub(super) fn step_patience(limits: &Limits, window_seconds: f64, step: u64) -> Duration {
    let start = if step == 0 { limits.start_deadline_seconds } else { 0.0 };
    Duration::from_secs_f64(limits.collective_seconds.max(WINDOWS_PATIENCE * window_seconds).max(start))
}

enum State {
    Idle,
    Armed(Instant, Watched),
    Closed,
}

/// One thread that watches one deadline at a time.
pub(super) struct Watchdog {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. `expired` runs on it, once, when an armed deadline passes.
    pub(super) fn start(expired: impl FnOnce(Watched) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::Idle), Condvar::new()));
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if let Some(stuck) = watch(&watched) {
                expired(stuck);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// This must be done within `patience` from now; what was watched before is done.
    pub(super) fn arm(&self, patience: Duration, work: Watched) {
        self.set(State::Armed(Instant::now() + patience, work));
    }

    /// All is done.
    pub(super) fn disarm(&self) {
        self.set(State::Idle);
    }

    fn set(&self, state: State) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.shared.1.notify_one();
    }
}

/// Waits until a deadline passes, or the dog is put away.
fn watch((state, changed): &(Mutex<State>, Condvar)) -> Option<Watched> {
    let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        guard = match *guard {
            State::Closed => return None,
            State::Idle => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            State::Armed(deadline, work) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Some(work);
                }
                changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.set(State::Closed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    #[test]
    fn a_step_that_outlives_its_deadline_is_ended_while_its_thread_is_stuck() {
        let (sender, expired) = channel();
        let watchdog = Watchdog::start(move |work| sender.send(work).unwrap()).unwrap();
        watchdog.arm(Duration::from_hours(1), Watched::Exchange);
        watchdog.arm(Duration::from_millis(20), Watched::Own("compute"));
        assert_eq!(expired.recv_timeout(Duration::from_secs(10)), Ok(Watched::Own("compute")));
    }

    #[test]
    fn a_rank_that_is_stuck_by_itself_is_no_follower() {
        let own = Watched::Own("compute").failure();
        assert_eq!(own.code, ExitCode::Internal);
        assert!(own.message.contains("its own compute"), "{own:?}");
        assert_eq!(Watched::Exchange.failure().code, ExitCode::PeerLost);
    }

    #[test]
    fn a_step_has_the_longer_of_twenty_windows_and_the_collectives_time_and_the_first_one_time_to_start() {
        let limits = Limits {
            max_restarts: 0,
            start_deadline_seconds: 600.0,
            active_deadline_seconds: None,
            stall_seconds: 300.0,
            collective_seconds: 60.0,
            stop_grace_seconds: 30.0,
            orphan_seconds: 60.0,
        };
        let patience = |window_seconds, step| step_patience(&limits, window_seconds, step).as_secs();
        assert_eq!([(0.25, 1), (4.0, 7)].map(|(window, step)| patience(window, step)), [60, 80]);
        assert_eq!([0.25, 4.0, 40.0].map(|window| patience(window, 0)), [600, 600, 800]);
    }

    #[test]
    fn a_step_that_is_done_in_time_is_left_alone() {
        let (sender, expired) = channel();
        let watchdog = Watchdog::start(move |work| sender.send(work).unwrap()).unwrap();
        for _ in 0..100 {
            watchdog.arm(Duration::from_hours(1), Watched::Exchange);
            watchdog.disarm();
        }
        drop(watchdog);
        assert_eq!(expired.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}
