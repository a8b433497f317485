//! When a device's window ends and how many samples it trains: the batch rules of algorithms §1. No I/O, no clock.
//!
//! What an ended stream still holds is trained to the last sample: in batches of at most the rule's size, or of `max` under
//! `StreamRate`, whose windows bring nothing more; the bounds below do not count.
//!
//! Each rank drives one [`BatchClock`]: [`poll`](BatchClock::poll) until it is ready, report, then
//! [`agreed`](BatchClock::agreed) with what the group decided and [`step_finished`](BatchClock::step_finished) with what
//! the step took. A batch that was ready once does not change until the group has agreed: b_i is final in the report.

pub use scadles_api::worker::{BatchBounds, BatchRule};

use crate::agree::{Action, StepAgreement};
use crate::ewma::{Ewma, LastThree};

/// T_min: the shortest window of `LineRate`, in seconds.
pub const SHORTEST_WINDOW_SECONDS: f64 = 0.25;
/// A device that takes part after `max_skip` steps trains at least this many samples.
pub const SMALLEST_FORCED_BATCH: u64 = 2;
/// Micro-batches of BatchNorm are at most this many samples or more: an even split of a batch of 2 or more then has no part
/// of 1.
pub const LEAST_EVEN_MICRO_BATCH: usize = 3;
/// Share of the newest step in the means of busy seconds and seconds per sample, in the long run. Small, so that T stays in
/// its dead band under ± 20 % noise of compute.
const STEP_GAIN: f64 = 0.05;
/// At first the newest step counts 1 / (1 + steps / this), so that T finds its place before it is held still.
const SETTLING_STEPS: f64 = 4.0;
/// Busy seconds that leave the mean by more than this share are another load, not noise: the mean settles anew.
const LOAD_CHANGE: f64 = 0.25;
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
/// A quota so close below a whole sample is that sample.
const ROUNDING: f64 = 1e-6;

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
    /// Whether more will come.
    pub supply: Supply,
}

/// What is to be expected of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Supply {
    /// More may arrive.
    #[default]
    Flowing,
    /// Nothing more arrives; the broker has some that is not here yet.
    Ended,
    /// Nothing more arrives, and all that is left is available.
    AllHere,
}

/// How a batch is split for forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Full micro-batches, and a rest.
    Full,
    /// As few parts, of sizes that differ by at most 1: each has its own statistics in BatchNorm, and a small rest's were
    /// poor, those of a lone sample none.
    Even,
}

/// Sizes, in samples, of the parts of a batch of `samples` that are computed one after another: `micro_batch` (at least 1) at
/// most.
pub fn micro_batches(samples: usize, micro_batch: usize, split: Split) -> Vec<usize> {
    let micro_batch = micro_batch.max(1);
    let parts = samples.div_ceil(micro_batch);
    let size = |part| match split {
        Split::Full => micro_batch.min(samples - part * micro_batch),
        Split::Even => samples / parts + usize::from(part < samples % parts),
    };
    (0..parts).map(size).collect()
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
    /// Samples trained: b_i, or what is left of it with those of others.
    pub local_batch: u64,
}

/// The batch rule of one rank, over the life of one attempt.
#[derive(Debug, Clone)]
pub struct BatchClock {
    rule: BatchRule,
    bounds: BatchBounds,
    window_seconds: f64,
    window_started: Option<f64>,
    window_arrived: f64,
    quota: f64,
    pending: Option<u64>,
    short_since: Option<f64>,
    short_seconds: f64,
    skipped_steps: u32,
    steps_settling: u64,
    recent_busy: LastThree,
    recent_per_sample: LastThree,
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
            window_arrived: 0.0,
            quota: 0.0,
            pending: None,
            short_since: None,
            short_seconds: 0.0,
            skipped_steps: 0,
            steps_settling: 0,
            recent_busy: LastThree::default(),
            recent_per_sample: LastThree::default(),
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
            let size = u64::from(size);
            if view.available < size && view.supply == Supply::AllHere {
                (self.short_since, self.short_seconds) = (None, 0.0);
                return self.ready(view.available);
            }
            if view.available < size {
                // What has arrived and is not here yet is not the stream's delay.
                if view.buffered < size {
                    let short_since = *self.short_since.get_or_insert(now);
                    self.short_seconds = self.short_seconds.max(now - short_since);
                }
                return Readiness::NeedSamples { missing: size - view.available };
            }
            self.short_seconds = self.short_since.take().map_or(0.0, |since| now - since);
            return self.ready(size);
        }
        let Some(started) = self.window_started else {
            self.window_started = Some(now);
            self.window_arrived = view.arrived_total as f64;
            return Readiness::NotBefore(now + self.window_seconds);
        };
        let ends = started + self.window_seconds;
        if now < ends {
            return Readiness::NotBefore(ends);
        }
        let wanted = match self.rule {
            BatchRule::StreamRate { .. } => {
                let quota = self.close_stream_rate_window(now, started, view);
                if view.supply == Supply::Flowing { quota } else { u64::MAX }
            }
            BatchRule::LineRate | BatchRule::Fixed { .. } => {
                self.window_started = Some(next_start(now, ends, self.window_seconds * LINE_RATE_SLACK));
                self.line_rate_batch(view).max(u64::from(self.bounds.min))
            }
        };
        let possible = wanted.min(view.available).min(u64::from(self.bounds.max));
        // A rest that is too small for a batch would stay for ever once the stream is over.
        let is_rest = view.supply == Supply::AllHere;
        self.ready(if is_rest { possible } else { self.sit_out(possible) })
    }

    /// Closes the window that began at `started` and returns the quota in whole samples: what arrived in one window's length.
    /// The quota telescopes: it counts end offsets from window end to window end, so that a late fetch, a late look or a
    /// skipped step loses nothing. After an overrun the next window begins now, and what arrived since the last one
    /// ended is left to the stream policy.
    fn close_stream_rate_window(&mut self, now: f64, started: f64, view: &StreamView) -> u64 {
        let arrived = (view.arrived_total as f64 - self.window_arrived).max(0.0);
        let ends = started + self.window_seconds;
        let earned = arrived * self.window_seconds / (now - started);
        let next = next_start(now, ends, self.window_seconds * STREAM_RATE_SLACK);
        self.window_arrived =
            if next > ends { view.arrived_total as f64 } else { self.window_arrived + earned };
        self.window_started = Some(next);
        // What is neither here nor at the broker (rejected, dropped) cannot be trained by a later window.
        self.quota = (self.quota + earned).min(view.buffered as f64);
        (self.quota + ROUNDING) as u64
    }

    /// round(S·T + Q·T/τ), the second term only as far as a·b ≤ 0.9·T while the device keeps up, and not at all before a
    /// is known: a first batch out of a large backlog could take minutes on a slow device.
    fn line_rate_batch(&self, view: &StreamView) -> u64 {
        let window = self.window_seconds;
        let arrivals = view.stream_rate * window;
        let drain_seconds = SHORTEST_DRAIN_SECONDS.max(DRAIN_WINDOWS * window);
        let wanted = view.buffered as f64 * window / drain_seconds;
        let extra = match self.seconds_per_sample.value() {
            None => 0.0,
            Some(a) if a > 0.0 && view.stream_rate * a < 1.0 => {
                wanted.min((DRAIN_LOAD * window / a - arrivals).max(0.0))
            }
            Some(_) => wanted,
        };
        (arrivals + extra).round() as u64
    }

    fn sit_out(&self, local_batch: u64) -> u64 {
        let may_skip = self.skipped_steps < self.bounds.max_skip;
        let min = u64::from(self.bounds.min);
        let least = if may_skip { min } else { SMALLEST_FORCED_BATCH.min(min) };
        if local_batch < least { 0 } else { local_batch }
    }

    fn ready(&mut self, local_batch: u64) -> Readiness {
        self.pending = Some(local_batch);
        Readiness::Ready { local_batch }
    }

    /// Takes the group's decision in. After `Step` the reported batch is spent, after `Wait` nothing is.
    pub fn agreed(&mut self, agreement: &StepAgreement) {
        self.settle(matches!(agreement.action, Action::Step(_)), agreement.window_seconds);
    }

    /// The decision in two facts: whether the group trains what was reported, and T of the next window, in seconds.
    pub fn settle(&mut self, trains: bool, window_seconds: f64) {
        if trains {
            let local_batch = self.pending.take().unwrap_or(0);
            self.skipped_steps = if local_batch == 0 { self.skipped_steps + 1 } else { 0 };
            // Bounded, so that a stream above b_max per window does not earn batches for hours to come.
            self.quota = (self.quota - local_batch as f64).clamp(0.0, f64::from(self.bounds.max));
        }
        self.pending = None;
        if self.rule == BatchRule::LineRate {
            self.window_seconds = window_seconds.max(SHORTEST_WINDOW_SECONDS);
        }
    }

    /// Takes the measurements of a finished step in.
    pub fn step_finished(&mut self, timing: &StepTiming) {
        self.recent_busy.push(timing.busy_seconds);
        if let Some(usual) = self.recent_busy.median() {
            let mean = self.busy.value().unwrap_or(usual);
            if (usual - mean).abs() > LOAD_CHANGE * mean {
                self.steps_settling = 0;
            }
            self.busy.update(usual, settling_gain(self.steps_settling));
        }
        if timing.local_batch > 0 {
            self.recent_per_sample.push(timing.compute_seconds / timing.local_batch as f64);
            if let Some(usual) = self.recent_per_sample.median() {
                self.seconds_per_sample.update(usual, settling_gain(self.steps_settling));
            }
        }
        self.steps_settling += 1;
    }

    /// How long the step waits for samples of this device, or waited the last time if that was longer, in seconds. 0 for
    /// rules that wait for the time alone.
    pub fn short_seconds(&self) -> f64 {
        self.short_seconds
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

fn settling_gain(steps: u64) -> f64 {
    STEP_GAIN.max(1.0 / (1.0 + steps as f64 / SETTLING_STEPS))
}

#[cfg(test)]
mod tests;
