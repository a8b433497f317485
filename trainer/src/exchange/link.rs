//! What a rank measures of its exchanges, for the choice between them. No I/O of its own.

use std::time::Instant;

use scadles_core::{
    compress::{cost::LinkCost, gate::CompressionDecision},
    ewma::Ewma,
};

/// Share of the newest measurement in the mean.
const GAIN: f64 = 0.2;

/// Means of what was measured.
#[derive(Debug, Default)]
pub(super) struct Link {
    latency_seconds: Ewma,
    seconds_per_byte: Ewma,
    dense_seconds_per_byte: Ewma,
    half_seconds_per_element: Ewma,
    sparse_seconds_per_element: Ewma,
    added_seconds: Ewma,
    /// One per bucket; none before the first step that overlaps.
    leads: Vec<Ewma>,
    step: Transfers,
}

/// Of the present step.
#[derive(Debug, Default)]
struct Transfers {
    /// In collectives, in seconds.
    seconds: f64,
    /// Of the quickest collective with next to no bytes: in the others this rank has waited.
    latency_seconds: Option<f64>,
    /// In collectives with messages, in seconds, and bytes that they moved.
    messages: (f64, f64),
}

/// A step whose exchange is over.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) decision: CompressionDecision,
    /// With all buckets' exchanges, in seconds.
    pub(super) seconds: f64,
    /// Beyond the end of compute, in seconds.
    pub(super) added_seconds: f64,
    /// How long before the end of compute each bucket could have left, in seconds, if this rank's backward says it.
    pub(super) leads: Option<Vec<f64>>,
    pub(super) bytes_sent: u64,
    /// Elements that the rank has worked on.
    pub(super) elements: usize,
}

impl Link {
    pub(super) fn cost(&self) -> LinkCost {
        let mean = |mean: &Ewma| mean.value().unwrap_or(0.0);
        LinkCost {
            latency_seconds: mean(&self.latency_seconds),
            seconds_per_byte: mean(&self.seconds_per_byte),
            dense_seconds_per_byte: mean(&self.dense_seconds_per_byte),
            half_seconds_per_element: mean(&self.half_seconds_per_element),
            sparse_seconds_per_element: mean(&self.sparse_seconds_per_element),
        }
    }

    /// Mean time by which exchanges outlast compute.
    pub(super) fn added_seconds(&self) -> f64 {
        self.added_seconds.value().unwrap_or(0.0)
    }

    /// How long before the end of compute each bucket could leave, on average.
    pub(super) fn leads(&self) -> Vec<f64> {
        self.leads.iter().map(|lead| lead.value().unwrap_or(0.0)).collect()
    }

    /// A step begins.
    pub(super) fn begin(&mut self) {
        self.step = Transfers::default();
    }

    /// A collective with next to no bytes is over.
    pub(super) fn met(&mut self, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        self.step.seconds += seconds;
        self.step.latency_seconds =
            Some(self.step.latency_seconds.map_or(seconds, |least| least.min(seconds)));
    }

    /// A collective with messages is over; of bytes sent and received, the more.
    pub(super) fn moved(&mut self, began: Instant, sent: usize, received: usize) {
        let seconds = began.elapsed().as_secs_f64();
        self.step.seconds += seconds;
        self.step.messages.0 += seconds;
        self.step.messages.1 += sent.max(received) as f64;
    }

    /// A step is over.
    pub(super) fn finished(&mut self, spent: &Spent) {
        let step = std::mem::take(&mut self.step);
        if let Some(seconds) = step.latency_seconds {
            self.latency_seconds.update(seconds, GAIN);
        }
        if step.messages.1 > 0.0 {
            self.seconds_per_byte.update(step.messages.0 / step.messages.1, GAIN);
        }
        self.added_seconds.update(spent.added_seconds, GAIN);
        if let Some(leads) = &spent.leads {
            self.leads.resize(leads.len(), Ewma::default());
            self.leads.iter_mut().zip(leads).for_each(|(mean, lead)| mean.update(*lead, GAIN));
        }
        let working = (spent.seconds - step.seconds).max(0.0) / spent.elements.max(1) as f64;
        match spent.decision {
            CompressionDecision::Dense if spent.bytes_sent > 0 => {
                self.dense_seconds_per_byte.update(spent.seconds / spent.bytes_sent as f64, GAIN);
            }
            CompressionDecision::Dense => {}
            CompressionDecision::Half => self.half_seconds_per_element.update(working, GAIN),
            CompressionDecision::Sparse(_) => self.sparse_seconds_per_element.update(working, GAIN),
        }
    }
}
