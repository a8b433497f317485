//! Levels that keep still, and what a change of status is worth. No I/O.

use scadles_api::{ScadlesJobStatus, status::DeviceStatus};

use crate::decide::Supervision;

/// A level that moved by no more than this share of what was shown keeps its shown value.
const DEAD_BAND: f64 = 0.2;

/// The number with so many significant digits.
pub(super) fn significant(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Two significant digits, and the value already shown while the fresh one is within the dead band around it.
pub(super) fn calm(shown: f64, fresh: f64) -> f64 {
    let near = shown != 0.0 && (fresh - shown).abs() <= DEAD_BAND * shown.abs();
    if near { shown } else { significant(fresh, 2) }
}

/// What a change of the status is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Nothing changed.
    Nothing,
    /// Only counters: they wait for the heartbeat.
    Counters,
    /// A level left its dead band: written at most every 10 s.
    Levels,
    /// What people and programs wait for: written at once.
    State,
}

/// What the change from `previous` to `fresh` is worth.
pub fn worth_writing(previous: &ScadlesJobStatus, fresh: &ScadlesJobStatus) -> Worth {
    if state_of(previous) != state_of(fresh) {
        Worth::State
    } else if without_counters(previous) != without_counters(fresh) {
        Worth::Levels
    } else if previous == fresh {
        Worth::Nothing
    } else {
        Worth::Counters
    }
}

/// What is left when levels and counters are taken away.
fn state_of(status: &ScadlesJobStatus) -> ScadlesJobStatus {
    let mut status = without_counters(status);
    status.samples_per_second = 0.0;
    status.lag = 0;
    status.starved = 0;
    // A row's place follows from levels; its state is state.
    status.devices.sort_by(|a, b| a.name.cmp(&b.name));
    status.devices = status
        .devices
        .into_iter()
        .map(|row| DeviceStatus { lag: 0, rate: 0.0, batch: 0, weight: 0.0, ..row })
        .collect();
    status
}

fn without_counters(status: &ScadlesJobStatus) -> ScadlesJobStatus {
    let mut status = status.clone();
    status.step = 0;
    status.samples = 0;
    status.epoch = 0.0;
    status.loss = None;
    status.ledger = None;
    status.heartbeat_at = None;
    for row in &mut status.devices {
        row.dropped = 0;
    }
    status.supervision = status.supervision.map(|text| without_steps(&text));
    status
}

fn without_steps(supervision: &str) -> String {
    let Ok(mut supervision) = serde_json::from_str::<Supervision>(supervision) else {
        return supervision.to_owned();
    };
    supervision.last_step = 0;
    supervision.last_samples = 0;
    serde_json::to_string(&supervision).unwrap_or_default()
}
