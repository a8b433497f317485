//! Which values a step and an evaluation have, by TensorBoard's tags. Pure.

use scadles_api::progress::Evaluation;

use crate::report::steps::{DeviceStep, Step};

/// Devices have values of their own up to this many; of more, least, mean and greatest are told. TensorBoard draws a chart
/// per tag.
pub(super) const MOST_DEVICES: usize = 64;

/// A kind of value that every device has.
type Kind = (&'static str, fn(&DeviceStep) -> f64);

const KINDS: [Kind; 6] = [
    ("rate", |device| device.stream_rate),
    ("buffer", |device| device.buffered),
    ("batch", |device| device.local_batch),
    ("weight", |device| device.weight),
    ("wait_seconds", |device| device.spent.wait),
    ("compute_seconds", |device| device.spent.compute),
];

/// The values of a step; those that are no numbers, such as a rate that is not known yet, are left out.
pub(super) fn of_step(step: &Step<'_>, devices: &[String]) -> Vec<(String, f64)> {
    let spent = step.mean_spent();
    let mut all = vec![
        ("train/loss", step.loss()),
        ("train/learning_rate", step.learning_rate()),
        ("train/global_batch", step.global_batch()),
        ("train/samples", step.samples()),
        ("train/samples_per_second", step.global_batch() / step.step_seconds()),
        ("train/step_seconds", step.step_seconds()),
        ("streams/arriving_per_second", step.arriving()),
        ("streams/buffered", step.buffered()),
        ("time/wait_seconds", spent.wait),
        ("time/compute_seconds", spent.compute),
    ];
    if step.has_phases() {
        all.extend([("time/exchange_seconds", spent.exchange), ("time/own_seconds", spent.own)]);
    }
    if let Some((sent, dense)) = step.bytes() {
        all.push(("gradients/bytes_sent", sent));
        if dense > 0.0 {
            all.extend([("gradients/dense_bytes", dense), ("gradients/share_of_dense", sent / dense)]);
        }
    }
    let named = all.into_iter().map(|(tag, value)| (tag.to_owned(), value));
    named.chain(of_devices(step, devices)).filter(|(_, value)| value.is_finite()).collect()
}

fn of_devices(step: &Step<'_>, names: &[String]) -> Vec<(String, f64)> {
    let devices: Vec<DeviceStep> = (0..step.devices()).map(|rank| step.device(rank)).collect();
    if devices.len() <= MOST_DEVICES {
        let each = names.iter().zip(&devices);
        return each
            .flat_map(|(name, device)| {
                KINDS.map(|(kind, value)| (format!("device/{name}/{kind}"), value(device)))
            })
            .collect();
    }
    let spread = |(kind, value): &Kind| {
        let values = || devices.iter().map(value).filter(|value| value.is_finite());
        let count = values().count() as f64;
        [
            (format!("devices/{kind}/least"), values().fold(f64::INFINITY, f64::min)),
            (format!("devices/{kind}/mean"), values().sum::<f64>() / count),
            (format!("devices/{kind}/greatest"), values().fold(f64::NEG_INFINITY, f64::max)),
        ]
    };
    KINDS.iter().flat_map(spread).collect()
}

/// The values of an evaluation.
pub(super) fn of_evaluation(evaluation: &Evaluation) -> Vec<(String, f64)> {
    let top = evaluation.top_k.iter().map(|top| (format!("eval/top_{}", top.accuracy_k), top.share));
    top.chain([("eval/loss".to_owned(), evaluation.loss)]).filter(|(_, value)| value.is_finite()).collect()
}
