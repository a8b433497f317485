//! One device on the virtual clock: its stream, its batch clock, what has become of its samples. No I/O.

use scadles_api::job::StreamPolicy;

use super::{SimDevice, SimSettings};
use crate::batch::{BatchClock, Readiness, StepTiming, StreamView, Supply};
use crate::device_stream::kept_by_truncation;
use crate::random::RandomStream;
use crate::rate::{POLL_SECONDS, RateEstimator};

/// Polls of the end offset that are made one by one after a wait, two time constants of the rate; what lies before is
/// one poll over the whole of it. Windows shorter than that see every poll.
const MOST_POLLS: u64 = 8;

/// Sums of one device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeviceTotals {
    pub(super) trained: u64,
    pub(super) dropped: u64,
    pub(super) peak_buffered: u64,
    pub(super) aggregation_weights: f64,
    pub(super) stream_wait_seconds: f64,
    pub(super) group_wait_seconds: f64,
}

/// One device on the virtual clock.
#[derive(Debug, Clone)]
pub(super) struct SimRank {
    pub(super) device: SimDevice,
    noise: RandomStream,
    pub(super) clock: BatchClock,
    rate: RateEstimator,
    polls: u64,
    /// Trained or dropped.
    pub(super) consumed: u64,
    pub(super) view: StreamView,
    pub(super) ready_seconds: f64,
    pub(super) local_batch: u64,
    pub(super) totals: DeviceTotals,
}

/// The stream will never bring what the batch rule waits for.
pub(super) struct Starved;

impl SimRank {
    pub(super) fn new(settings: &SimSettings, device: SimDevice, noise: RandomStream) -> Self {
        Self {
            device,
            noise,
            clock: BatchClock::new(settings.rule, settings.bounds),
            rate: RateEstimator::new(),
            polls: 0,
            consumed: 0,
            view: StreamView {
                available: 0,
                arrived_total: 0,
                stream_rate: 0.0,
                buffered: 0,
                supply: Supply::Flowing,
            },
            ready_seconds: 0.0,
            local_batch: 0,
            totals: DeviceTotals::default(),
        }
    }

    fn look(&mut self, now: f64) {
        let due = (now / POLL_SECONDS) as u64 + 1;
        self.polls = self.polls.max(due.saturating_sub(MOST_POLLS));
        while self.polls < due {
            let at = self.polls as f64 * POLL_SECONDS;
            self.rate.poll(at, self.device.stream.arrived(at));
            self.polls += 1;
        }
        let buffered = self.device.stream.arrived(now).saturating_sub(self.consumed);
        self.view = StreamView {
            available: buffered,
            arrived_total: self.rate.arrived_total(),
            stream_rate: self.rate.stream_rate().unwrap_or(0.0),
            buffered,
            supply: Supply::Flowing,
        };
    }

    /// Waits from `now` until the batch is fixed, or the simulation is over.
    pub(super) fn become_ready(&mut self, now: f64, end: f64) -> Result<(), Starved> {
        self.ready_seconds = now;
        while self.ready_seconds < end {
            self.look(self.ready_seconds);
            match self.clock.poll(self.ready_seconds, &self.view) {
                Readiness::NotBefore(at) => self.ready_seconds = at.max(self.ready_seconds.next_up()),
                Readiness::NeedSamples { missing } => {
                    let wanted = self.consumed + self.view.available + missing;
                    let arrival = self.device.stream.time_of(wanted, self.ready_seconds).ok_or(Starved)?;
                    self.ready_seconds = arrival.max(self.ready_seconds.next_up());
                }
                Readiness::Ready { local_batch } => {
                    self.local_batch = local_batch;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn compute_seconds(&self, trained: u64, compute_noise: f64, step: u64) -> f64 {
        let seconds = self.device.seconds_per_sample * trained as f64;
        if compute_noise == 0.0 {
            return seconds;
        }
        seconds * (1.0 + compute_noise * (2.0 * self.noise.unit(step) - 1.0))
    }

    /// Commits the batch, notes what waits then, and acts on the policy. Returns what waited.
    pub(super) fn finish(&mut self, now: f64, policy: StreamPolicy, timing: &StepTiming) -> u64 {
        self.consumed += self.local_batch;
        self.totals.trained += self.local_batch;
        self.clock.step_finished(timing);
        let arrived = self.device.stream.arrived(now);
        let buffered = arrived.saturating_sub(self.consumed);
        self.totals.peak_buffered = self.totals.peak_buffered.max(buffered);
        if policy == StreamPolicy::Truncation {
            let kept = kept_by_truncation(self.view.stream_rate, 1.0);
            let dropped = buffered.saturating_sub(kept);
            self.consumed += dropped;
            self.totals.dropped += dropped;
        }
        buffered
    }
}
