//! Progress as OpenMetrics text. No I/O.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use scadles_api::{DeviceProgress, Progress, progress::CompressionProgress};

use std::sync::atomic::AtomicU64;

type Value = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DeviceLabel {
    device: String,
}

/// One value of a device: metric name, help, where it stands in the progress.
type DeviceMetric = (&'static str, &'static str, fn(&DeviceProgress) -> f64);

const DEVICE_METRICS: [DeviceMetric; 19] = [
    ("stream_rate", "Samples arriving per second", |device| device.stream_rate),
    ("buffered_samples", "Samples that wait, in the worker and at the broker", |device| {
        device.ledger.buffered as f64
    }),
    ("buffered_local_samples", "Samples that wait in the worker", |device| device.buffered_local as f64),
    ("oldest_sample_seconds", "Age of the oldest waiting sample", |device| device.oldest_seconds),
    ("silent_seconds", "Time since the stream last grew", |device| device.silent_seconds),
    ("local_batch_samples", "Batch of the last step", |device| f64::from(device.local_batch)),
    ("aggregation_weight", "Weight in the last step", |device| device.aggregation_weight),
    ("arrived_samples", "Records that reached the stream", |device| device.ledger.arrived as f64),
    ("trained_samples", "Samples whose step committed", |device| device.ledger.trained as f64),
    ("dropped_samples", "Samples given up by the stream policy", |device| device.ledger.dropped as f64),
    ("rejected_records", "Records that could not be decoded", |device| device.ledger.rejected as f64),
    ("lost_records", "Records that retention removed unread", |device| device.ledger.lost as f64),
    ("sent_bytes", "Bytes handed to the collectives", |device| device.bytes_sent as f64),
    (
        "dense_bytes",
        "Bytes that the same steps would have sent without compression; 0 without it",
        |device| device.dense_bytes as f64,
    ),
    ("shared_out_samples", "Samples given or copied to other devices, each once", |device| {
        device.ledger.shared_out as f64
    }),
    ("received_samples", "Samples of other devices that it trained", |device| device.ledger.received as f64),
    ("sent_sample_bytes", "Bytes of samples sent to other devices, every copy counted", |device| {
        device.sample_bytes_sent as f64
    }),
    ("wait_seconds", "Time spent waiting", |device| device.wait_seconds),
    ("busy_seconds", "Time of compute, exchange and update", |device| device.busy_seconds),
];

/// One value of the job: metric name, help, where it stands in the progress.
type JobMetric = (&'static str, &'static str, fn(&Progress) -> f64);

const JOB_METRICS: [JobMetric; 9] = [
    ("attempt", "Number of the running attempt", |progress| f64::from(progress.attempt)),
    ("step", "Steps committed", |progress| progress.step as f64),
    ("samples", "Samples trained by all devices", |progress| progress.samples as f64),
    ("epoch", "Epochs trained", |progress| progress.epoch),
    ("loss", "Weighted mean loss of the last step", |progress| progress.loss.unwrap_or(f64::NAN)),
    ("learning_rate", "Scaled learning rate of the last step", |progress| progress.learning_rate),
    ("window_seconds", "Agreed window", |progress| progress.window_seconds),
    ("step_seconds", "Duration of the last step", |progress| progress.step_seconds),
    ("samples_per_second", "Samples trained per second by all devices", |progress| {
        progress.samples_per_second
    }),
];

/// One value of compression: metric name, help, where it stands.
type CompressionMetric = (&'static str, &'static str, fn(&CompressionProgress) -> f64);

const COMPRESSION_METRICS: [CompressionMetric; 5] = [
    ("compression_ratio", "Mean share of the elements that a sparse step sends", |it| it.ratio),
    ("half_steps", "Steps that sent all elements in half precision", |it| it.half_steps as f64),
    ("sparse_steps", "Steps that sent only the largest elements", |it| it.sparse_steps as f64),
    ("vetoed_steps", "Steps that sent all because the energy loss was too high", |it| it.vetoed_steps as f64),
    ("energy_loss", "Mean energy loss that the gate looks at", |it| it.energy_loss.unwrap_or(f64::NAN)),
];

/// Renders one scrape.
pub(super) fn render(progress: &Progress) -> String {
    let mut registry = Registry::with_prefix("scadles");
    for (name, help, read) in JOB_METRICS {
        let gauge = Value::default();
        gauge.set(read(progress));
        registry.register(name, help, gauge);
    }
    for (name, help, read) in progress.compression.iter().flat_map(|_| COMPRESSION_METRICS) {
        let gauge = Value::default();
        gauge.set(progress.compression.as_ref().map_or(f64::NAN, read));
        registry.register(name, help, gauge);
    }
    for (name, help, read) in DEVICE_METRICS {
        let family = Family::<DeviceLabel, Value>::default();
        for device in &progress.devices {
            family.get_or_create(&DeviceLabel { device: device.name.clone() }).set(read(device));
        }
        registry.register(format!("device_{name}"), help, family);
    }
    if let Some(top_1) = progress.evaluation.as_ref().and_then(scadles_api::progress::Evaluation::top_1) {
        let gauge = Value::default();
        gauge.set(top_1);
        registry.register("top_1_accuracy", "Top-1 share of the latest evaluation", gauge);
    }
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}
