//! Ends a step that outlives its deadline, even while the training thread is stuck in a collective.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

enum State {
    Idle,
    Armed(Instant),
    Closed,
}

/// One thread that watches one deadline at a time.
pub(super) struct Watchdog {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. `expired` runs on it, once, when an armed deadline passes.
    pub(super) fn start(expired: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::Idle), Condvar::new()));
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if watch(&watched) {
                expired();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The step must be done within `patience` from now.
    pub(super) fn arm(&self, patience: Duration) {
        self.set(State::Armed(Instant::now() + patience));
    }

    /// The step is done.
    pub(super) fn disarm(&self) {
        self.set(State::Idle);
    }

    fn set(&self, state: State) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.shared.1.notify_one();
    }
}

/// Waits until a deadline passes (true) or the dog is put away (false).
fn watch((state, changed): &(Mutex<State>, Condvar)) -> bool {
    let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        guard = match *guard {
            State::Closed => return false,
            State::Idle => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            State::Armed(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return true;
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
        let watchdog = Watchdog::start(move || sender.send(()).unwrap()).unwrap();
        watchdog.arm(Duration::from_millis(20));
        assert_eq!(expired.recv_timeout(Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn a_step_that_is_done_in_time_is_left_alone() {
        let (sender, expired) = channel();
        let watchdog = Watchdog::start(move || sender.send(()).unwrap()).unwrap();
        for _ in 0..100 {
            watchdog.arm(Duration::from_hours(1));
            watchdog.disarm();
        }
        drop(watchdog);
        assert_eq!(expired.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}
