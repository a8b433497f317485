//! What a simulation comes to: sums that need no memory of steps, and a thinned record of them. No I/O.

use serde::Serialize;

use super::{SimEnd, SimStep, Simulation};

/// Points that a [`Trace`] keeps at most.
const MOST_POINTS: usize = 2_000;

/// Least, mean and largest of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub most: f64,
}

/// Sums up to a [`Spread`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Spreading {
    least: f64,
    sum: f64,
    most: f64,
    count: u64,
}

impl Spreading {
    pub(super) const EMPTY: Self = Self { least: f64::INFINITY, sum: 0.0, most: 0.0, count: 0 };

    pub(super) fn add(&mut self, value: f64) {
        self.least = self.least.min(value);
        self.most = self.most.max(value);
        self.sum += value;
        self.count += 1;
    }

    /// All 0 if there was no value.
    pub(super) fn spread(self) -> Spread {
        if self.count == 0 {
            return Spread { least: 0.0, mean: 0.0, most: 0.0 };
        }
        Spread { least: self.least, mean: self.sum / self.count as f64, most: self.most }
    }
}

/// What became of one device's samples, and of its time. arrived = trained + dropped + buffered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSummary {
    /// Samples that its stream brought.
    pub arrived: u64,
    /// Samples of its stream that were trained, here or, shared, elsewhere.
    pub trained: u64,
    /// Samples that the stream policy passed over.
    pub dropped: u64,
    /// Samples that wait at the end.
    pub buffered: u64,
    /// Most samples that waited at the end of a step, before the policy acted.
    pub peak_buffered: u64,
    /// b_i, mean over the steps.
    pub local_batch: f64,
    /// w_i, mean over the steps.
    pub aggregation_weight: f64,
    /// Until its batch was there, mean over the steps, in seconds.
    pub stream_wait_seconds: f64,
    /// For slower devices, mean over the steps, in seconds.
    pub group_wait_seconds: f64,
}

/// What a simulation came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SimSummary {
    /// Why it ended.
    pub end: SimEnd,
    /// Steps of the group.
    pub steps: u64,
    /// On the virtual clock, to the end of the last step.
    pub simulated_seconds: f64,
    /// From the end of one step to the end of the next.
    pub step_seconds: Spread,
    /// Compute and exchange of a step, mean.
    pub busy_seconds: f64,
    /// Σb, mean.
    pub global_batch: f64,
    /// Samples trained per second by all devices together, each counted once.
    pub samples_per_second: f64,
    /// Of all devices.
    pub arrived: u64,
    /// Of all devices.
    pub trained: u64,
    /// Of all devices.
    pub dropped: u64,
    /// Of all devices at the end.
    pub buffered: u64,
    /// The largest sum over all devices at the end of a step, before the policy acted.
    pub peak_buffered: u64,
    /// Steps whose exchange was compressed.
    pub sparse_steps: u64,
    /// Gradients that all ranks together sent, in bytes.
    pub exchange_bytes: u64,
    /// What they would have sent without compression.
    pub dense_bytes: u64,
    /// Samples shared between devices, each counted once.
    pub shared_samples: u64,
    /// What shared samples took on the wire, in bytes.
    pub injection_bytes: u64,
    /// By rank.
    pub devices: Vec<DeviceSummary>,
}

impl SimSummary {
    /// Share of all arrivals that the policy passed over, in [0, 1].
    pub fn dropped_share(&self) -> f64 {
        if self.arrived == 0 { 0.0 } else { self.dropped as f64 / self.arrived as f64 }
    }

    /// Share of the step in which a device, on average, neither computes nor exchanges, in [0, 1].
    pub fn wait_share(&self) -> f64 {
        let waited = |device: &DeviceSummary| device.stream_wait_seconds + device.group_wait_seconds;
        let mean = self.devices.iter().map(waited).sum::<f64>() / self.devices.len().max(1) as f64;
        if self.step_seconds.mean > 0.0 { mean / self.step_seconds.mean } else { 0.0 }
    }
}

/// One step among all those of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracePoint {
    /// Number of the step, from 1.
    pub step: u64,
    /// When it ended.
    pub seconds: f64,
    /// Since the end of the last one.
    pub step_seconds: f64,
    /// Mean over the devices of what was neither compute nor exchange.
    pub wait_seconds: f64,
    /// Σb.
    pub global_batch: u64,
    /// Trained so far.
    pub trained: u64,
    /// Waiting in all buffers at its end, before the policy acted.
    pub buffered: u64,
    /// Dropped so far.
    pub dropped: u64,
    /// Sent so far by all ranks, gradients and shared samples.
    pub bytes: u64,
}

/// A record of a simulation that never grows beyond 2,000 points: every k-th step, k doubling when it is full.
#[derive(Debug, Clone)]
pub struct Trace {
    points: Vec<TracePoint>,
    every: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { points: Vec::new(), every: 1 }
    }
}

impl Trace {
    /// Takes a step in, or leaves it out.
    pub fn record(&mut self, point: TracePoint) {
        if !point.step.is_multiple_of(self.every) {
            return;
        }
        if self.points.len() == MOST_POINTS {
            self.every *= 2;
            let every = self.every;
            self.points.retain(|kept| kept.step.is_multiple_of(every));
            if !point.step.is_multiple_of(every) {
                return;
            }
        }
        self.points.push(point);
    }

    /// The recorded steps, in order.
    pub fn points(&self) -> &[TracePoint] {
        &self.points
    }
}

impl Simulation {
    /// Runs to the end, keeping nothing but sums and a thinned record.
    pub fn run(mut self) -> (SimSummary, Trace) {
        let mut trace = Trace::default();
        while self.advance().is_some() {
            trace.record(self.point());
        }
        (self.summary(), trace)
    }

    /// Runs to the end and returns every step: for short simulations.
    pub fn steps(mut self) -> Vec<SimStep> {
        let mut steps = Vec::new();
        while let Some(step) = self.advance() {
            steps.push(step.clone());
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64) -> TracePoint {
        TracePoint {
            step,
            seconds: step as f64,
            step_seconds: 1.0,
            wait_seconds: 0.0,
            global_batch: 1,
            trained: step,
            buffered: 0,
            dropped: 0,
            bytes: 0,
        }
    }

    #[test]
    fn a_trace_stays_within_its_bound_and_evenly_spaced() {
        let mut trace = Trace::default();
        for step in 1..=1_000_000 {
            trace.record(point(step));
            assert!(trace.points().len() <= MOST_POINTS);
        }
        let points = trace.points();
        assert!(points.len() > MOST_POINTS / 3, "{}", points.len());
        let gap = points[1].step - points[0].step;
        assert!(points.windows(2).all(|pair| pair[1].step - pair[0].step == gap));
    }

    #[test]
    fn a_short_trace_has_every_step() {
        let mut trace = Trace::default();
        for step in 1..=50 {
            trace.record(point(step));
        }
        assert_eq!(trace.points().len(), 50);
    }
}
