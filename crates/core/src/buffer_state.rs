//! The word for a device's buffer: `Starved | Healthy | Backlogged | Overflowing | Unknown`, with hysteresis and a dwell
//! time, so that it does not flicker. No I/O.

pub use scadles_api::BufferState;

/// A state other than the current one must last so long before it is said, in seconds.
pub const DWELL_SECONDS: f64 = 5.0;
/// A step that waits so long for one device's samples, in seconds, waits for a stream that is too slow for its batch.
const SLOW_STREAM_SECONDS: f64 = 10.0;
/// Backlogged from so many windows' worth of samples on …
const BACKLOG_ENTER_WINDOWS: f64 = 4.0;
/// … until there are at most so many.
const BACKLOG_LEAVE_WINDOWS: f64 = 2.0;
/// Overflowing from this share of the limit on …
const OVERFLOW_ENTER_SHARE: f64 = 0.95;
/// … until it is at most this.
const OVERFLOW_LEAVE_SHARE: f64 = 0.8;
/// A backlog below this is none: windows of slow streams hold only a few samples.
const SMALLEST_BACKLOG_SAMPLES: f64 = 64.0;

/// What the state follows from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BufferView {
    /// Q_i: samples here and at the broker.
    pub buffered: u64,
    /// S_i; `None` before it is known.
    pub stream_rate: Option<f64>,
    /// T, in seconds.
    pub window_seconds: f64,
    /// Seconds since a sample last arrived (or since the start).
    pub silent_seconds: f64,
    /// Seconds that the step waits, or waited the last time, for samples of this device.
    pub short_seconds: f64,
    /// How full the tightest limit on the backlog is (what the broker keeps, or the job's bound), in [0, 1]; 0 without one.
    pub limit_used: f64,
    /// Samples were lost since the last view.
    pub losing: bool,
}

/// Follows the state of one device.
#[derive(Debug, Clone, Copy, Default)]
pub struct BufferStateTracker {
    state: BufferState,
    candidate: Option<(BufferState, f64)>,
}

impl BufferStateTracker {
    /// Takes a view in at `now` seconds and returns the state. The first known state is said at once.
    pub fn observe(&mut self, now: f64, stall_seconds: f64, view: &BufferView) -> BufferState {
        let seen = classify(self.state, stall_seconds, view);
        if seen == self.state || self.state == BufferState::Unknown {
            self.state = seen;
            self.candidate = None;
            return seen;
        }
        match self.candidate {
            Some((candidate, since)) if candidate == seen => {
                if now - since >= DWELL_SECONDS {
                    self.state = seen;
                    self.candidate = None;
                }
            }
            _ => self.candidate = Some((seen, now)),
        }
        self.state
    }

    /// The state as last said.
    pub fn state(&self) -> BufferState {
        self.state
    }
}

fn classify(current: BufferState, stall_seconds: f64, view: &BufferView) -> BufferState {
    let overflow_share =
        if current == BufferState::Overflowing { OVERFLOW_LEAVE_SHARE } else { OVERFLOW_ENTER_SHARE };
    if view.losing || view.limit_used > overflow_share {
        return BufferState::Overflowing;
    }
    let silent = view.silent_seconds >= stall_seconds && view.buffered == 0;
    if silent || view.short_seconds >= SLOW_STREAM_SECONDS {
        return BufferState::Starved;
    }
    let Some(stream_rate) = view.stream_rate else { return BufferState::Unknown };
    let windows = if matches!(current, BufferState::Backlogged | BufferState::Overflowing) {
        BACKLOG_LEAVE_WINDOWS
    } else {
        BACKLOG_ENTER_WINDOWS
    };
    let most = (windows * stream_rate * view.window_seconds.max(1.0)).max(SMALLEST_BACKLOG_SAMPLES);
    if view.buffered as f64 > most { BufferState::Backlogged } else { BufferState::Healthy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(buffered: u64) -> BufferView {
        BufferView {
            buffered,
            stream_rate: Some(100.0),
            window_seconds: 1.0,
            silent_seconds: 0.0,
            short_seconds: 0.0,
            limit_used: 0.0,
            losing: false,
        }
    }

    #[test]
    fn a_state_is_said_only_after_it_has_lasted() {
        let mut tracker = BufferStateTracker::default();
        assert_eq!(tracker.observe(0.0, 30.0, &view(90)), BufferState::Healthy);
        assert_eq!(tracker.observe(1.0, 30.0, &view(500)), BufferState::Healthy);
        assert_eq!(tracker.observe(3.0, 30.0, &view(90)), BufferState::Healthy);
        assert_eq!(tracker.observe(4.0, 30.0, &view(500)), BufferState::Healthy);
        assert_eq!(tracker.observe(8.9, 30.0, &view(500)), BufferState::Healthy);
        assert_eq!(tracker.observe(9.0, 30.0, &view(500)), BufferState::Backlogged);
    }

    #[test]
    fn a_backlog_ends_lower_than_it_begins() {
        let mut tracker = BufferStateTracker::default();
        assert_eq!(tracker.observe(0.0, 30.0, &view(500)), BufferState::Backlogged);
        for now in 1..20 {
            assert_eq!(tracker.observe(f64::from(now), 30.0, &view(300)), BufferState::Backlogged);
        }
        for now in 20..=25 {
            tracker.observe(f64::from(now), 30.0, &view(150));
        }
        assert_eq!(tracker.state(), BufferState::Healthy);
    }

    #[test]
    fn a_step_that_waits_for_a_batch_starves_whatever_lies_in_the_buffer() {
        let state = |view: BufferView| BufferStateTracker::default().observe(0.0, 30.0, &view);
        let slow = BufferView { stream_rate: Some(1.0), ..view(40) };
        assert_eq!(state(BufferView { short_seconds: 40.0, ..slow }), BufferState::Starved);
        assert_eq!(state(BufferView { short_seconds: 5.3, ..slow }), BufferState::Healthy);
    }

    #[test]
    fn silence_starves_only_an_empty_buffer_and_loss_overflows() {
        let state = |view: BufferView| BufferStateTracker::default().observe(0.0, 30.0, &view);
        assert_eq!(state(BufferView { silent_seconds: 31.0, ..view(0) }), BufferState::Starved);
        assert_eq!(state(BufferView { silent_seconds: 31.0, ..view(9) }), BufferState::Healthy);
        assert_eq!(state(BufferView { losing: true, ..view(9) }), BufferState::Overflowing);
        assert_eq!(state(BufferView { limit_used: 0.96, ..view(9) }), BufferState::Overflowing);
        assert_eq!(state(BufferView { stream_rate: None, ..view(9) }), BufferState::Unknown);
    }
}
