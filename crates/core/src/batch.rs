//! When a device's window ends and how many samples it trains: the batch rules of algorithms §1. No I/O, no clock.
//!
//! Each rank drives one [`BatchClock`]: [`poll`](BatchClock::poll) until it is ready, report, then
//! [`agreed`](BatchClock::agreed) with what the group decided and [`step_finished`](BatchClock::step_finished) with what
//! the step took. A batch that was ready once does not change until the group has agreed: b_i is final in the report.

use serde::{Deserialize, Serialize};

use crate::agree::{Action, StepAgreement};
use crate::ewma::Ewma;

/// T_min: the shortest window of `LineRate`, in seconds.
pub const SHORTEST_WINDOW_SECONDS: f64 = 0.25;
/// A device that takes part after `max_skip_steps` trains at least this many samples.
pub const SMALLEST_FORCED_BATCH: u64 = 2;
/// Share of the newest step in the mean of busy seconds and of seconds per sample.
const STEP_GAIN: f64 = 0.2;
/// τ, the time in which `LineRate` works a backlog off: at least this, in seconds, and …
const SHORTEST_DRAIN_SECONDS: f64 = 2.0;
/// … at least this many windows.
const DRAIN_WINDOWS: f64 = 8.0;
/// Share of a window that the samples taken from the backlog may fill up to while the device keeps up (S·a < 1).
const DRAIN_LOAD: f64 = 0.9;
/// How late, in windows, a `StreamRate` window may close and still follow the schedule; later is an overrun.
const STREAM_RATE_SLACK: f64 = 0.5;
/// The same for `LineRate`, whose batches do not depend on when a window began.
const LINE_RATE_SLACK: f64 = 0.1;

/// When a step's window ends and how many samples a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum BatchRule {
    /// A batch of `size` on every device; the step waits for the slowest stream (conventional training).
    Fixed {
        /// Samples.
        size: u64,
    },
    /// What arrived in one window of `window_seconds` (ScaDLES).
    StreamRate {
        /// Length of a window, in seconds.
        window_seconds: f64,
    },
    /// What arrives while a step computes, plus a share of the backlog.
    LineRate,
}

/// Limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchBounds {
    /// b_min: a device with fewer samples sits the step out and keeps them.
    pub min: u64,
    /// b_max.
    pub max: u64,
    /// Steps in a row that a device may sit out before it takes part with what it has.
    pub max_skip_steps: u32,
}

/// What a device knows of its stream at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamView {
    /// Samples that can be trained now: fetched, decoded, undecided.
    pub available: u64,
    /// Samples that arrived since the attempt began, from end offsets.
    pub arrived_total: u64,
    /// S_i, samples per second.
    pub stream_rate: f64,
    /// Q_i: samples in the local buffer and at the broker.
    pub buffered: u64,
}

/// What a device is waiting for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Readiness {
    /// The window ends then, in seconds since the attempt began.
    NotBefore(f64),
    /// The rule wants more samples, whatever the time.
    NeedSamples {
        /// How many are missing.
        missing: u64,
    },
    /// The device trains this many samples; 0: it sits out.
    Ready {
        /// b_i.
        local_batch: u64,
    },
}

/// What one step took on one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepTiming {
    /// Agreement received → update applied, without waiting for samples and without evaluation.
    pub busy_seconds: f64,
    /// Forward and backward of this rank alone.
    pub compute_seconds: f64,
    /// b_i.
    pub local_batch: u64,
}

/// The batch rule of one rank, over the life of one attempt.
#[derive(Debug, Clone)]
pub struct BatchClock {
    rule: BatchRule,
    bounds: BatchBounds,
    window_seconds: f64,
    window_started: Option<f64>,
    window_arrived: u64,
    quota: f64,
    pending: Option<u64>,
    skipped_steps: u32,
    busy: Ewma,
    seconds_per_sample: Ewma,
}

impl BatchClock {
    /// A clock whose first window begins with the first poll.
    pub fn new(rule: BatchRule, bounds: BatchBounds) -> Self {
        let window_seconds = match rule {
            BatchRule::StreamRate { window_seconds } => window_seconds,
            BatchRule::Fixed { .. } | BatchRule::LineRate => SHORTEST_WINDOW_SECONDS,
        };
        Self {
            rule,
            bounds,
            window_seconds,
            window_started: None,
            window_arrived: 0,
            quota: 0.0,
            pending: None,
            skipped_steps: 0,
            busy: Ewma::default(),
            seconds_per_sample: Ewma::default(),
        }
    }

    /// Asks at `now` seconds whether the device is ready. Cheap; to be asked when samples arrive or a time has come.
    pub fn poll(&mut self, now: f64, view: &StreamView) -> Readiness {
        if let Some(local_batch) = self.pending {
            return Readiness::Ready { local_batch };
        }
        if let BatchRule::Fixed { size } = self.rule {
            if view.available < size {
                return Readiness::NeedSamples { missing: size - view.available };
            }
            return self.ready(size);
        }
        let Some(started) = self.window_started else {
            self.window_started = Some(now);
            self.window_arrived = view.arrived_total;
            return Readiness::NotBefore(now + self.window_seconds);
        };
        let ends = started + self.window_seconds;
        if now < ends {
            return Readiness::NotBefore(ends);
        }
        let wanted = match self.rule {
            BatchRule::StreamRate { .. } => self.close_stream_rate_window(now, started, view),
            BatchRule::LineRate | BatchRule::Fixed { .. } => {
                self.window_started = Some(next_start(now, ends, self.window_seconds * LINE_RATE_SLACK));
                self.line_rate_batch(view).clamp(self.bounds.min, self.bounds.max.max(self.bounds.min))
            }
        };
        let local_batch = self.sit_out(wanted.min(view.available).min(self.bounds.max));
        self.ready(local_batch)
    }

    /// Closes the window that began at `started` and returns the quota in whole samples. The quota telescopes: it counts
    /// end offsets from window end to window end, so that a late fetch or a skipped step loses nothing. A window that
    /// closes too late is an overrun: it counts one window's worth, the rest is left to the stream policy.
    fn close_stream_rate_window(&mut self, now: f64, started: f64, view: &StreamView) -> u64 {
        let arrived = view.arrived_total.saturating_sub(self.window_arrived) as f64;
        self.window_arrived = view.arrived_total;
        let ends = started + self.window_seconds;
        let next = next_start(now, ends, self.window_seconds * STREAM_RATE_SLACK);
        let share = if next > ends { self.window_seconds / (now - started) } else { 1.0 };
        self.window_started = Some(next);
        // What is neither here nor at the broker (rejected, dropped) cannot be trained by a later window.
        self.quota = (self.quota + arrived * share).min(view.buffered as f64);
        self.quota as u64
    }

    /// round(S·T + Q·T/τ), the second term only as far as a·b ≤ 0.9·T while the device keeps up.
    fn line_rate_batch(&self, view: &StreamView) -> u64 {
        let window = self.window_seconds;
        let drain_seconds = SHORTEST_DRAIN_SECONDS.max(DRAIN_WINDOWS * window);
        let arrivals = view.stream_rate * window;
        let mut extra = view.buffered as f64 * window / drain_seconds;
        if let Some(seconds_per_sample) = self.seconds_per_sample.value().filter(|&a| a > 0.0)
            && view.stream_rate * seconds_per_sample < 1.0
        {
            extra = extra.min((DRAIN_LOAD * window / seconds_per_sample - arrivals).max(0.0));
        }
        (arrivals + extra).round() as u64
    }

    fn sit_out(&self, local_batch: u64) -> u64 {
        let may_skip = self.skipped_steps < self.bounds.max_skip_steps;
        let least = if may_skip { self.bounds.min } else { SMALLEST_FORCED_BATCH.min(self.bounds.min) };
        if local_batch < least { 0 } else { local_batch }
    }

    fn ready(&mut self, local_batch: u64) -> Readiness {
        self.pending = Some(local_batch);
        Readiness::Ready { local_batch }
    }

    /// Takes the group's decision in. After `Step` the reported batch is spent, after `Wait` nothing is.
    pub fn agreed(&mut self, agreement: &StepAgreement) {
        if let Action::Step(_) = agreement.action {
            let local_batch = self.pending.take().unwrap_or(0);
            self.skipped_steps = if local_batch == 0 { self.skipped_steps + 1 } else { 0 };
            // Bounded, so that a stream above b_max per window does not earn batches for hours to come.
            self.quota = (self.quota - local_batch as f64).clamp(0.0, self.bounds.max as f64);
        }
        self.pending = None;
        if self.rule == BatchRule::LineRate {
            self.window_seconds = agreement.window_seconds.max(SHORTEST_WINDOW_SECONDS);
        }
    }

    /// Takes the measurements of a finished step in.
    pub fn step_finished(&mut self, timing: &StepTiming) {
        self.busy.update(timing.busy_seconds, STEP_GAIN);
        if timing.local_batch > 0 {
            self.seconds_per_sample.update(timing.compute_seconds / timing.local_batch as f64, STEP_GAIN);
        }
    }

    /// EWMA of compute + exchange, in seconds: what goes into the report. 0 before the first step.
    pub fn busy_seconds(&self) -> f64 {
        self.busy.value().unwrap_or(0.0)
    }

    /// a_i: EWMA of compute seconds per sample.
    pub fn seconds_per_sample(&self) -> Option<f64> {
        self.seconds_per_sample.value()
    }

    /// T, the current window, in seconds. Without meaning for `Fixed`.
    pub fn window_seconds(&self) -> f64 {
        self.window_seconds
    }
}

/// The next window follows the schedule if the last one closed at most `slack` seconds late, or else begins now.
fn next_start(now: f64, ends: f64, slack: f64) -> f64 {
    if now - ends <= slack { ends } else { now }
}

#[cfg(test)]
mod tests;
