//! Snapshots as text. Pure.

use std::fmt::Write;

use scadles_api::{BufferState, DeviceProgress, Progress, worker::Completion};

use super::{Snapshot, StreamView};
use crate::screen::{grouped, span};

/// More devices than this do not fit a screen; the table shows those that need attention first.
const MAX_ROWS: usize = 24;

/// More devices than this are summed up in plain lines.
const MAX_LISTED: usize = 8;

/// The live table.
pub fn table(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = vec![headline(snapshot)];
    match &snapshot.progress {
        None => lines.push("no step yet".to_owned()),
        Some(progress) => lines.push(facts(snapshot, progress)),
    }
    let name_width = snapshot.devices.iter().map(String::len).max().unwrap_or(0).max("device".len());
    let shared =
        if shares(snapshot) { format!("{:>9}  {:>9}  ", "shared", "received") } else { String::new() };
    lines.push(format!(
        "{:name_width$}  {:>8}  {:>8}  {:>9}  {:>7}  {:>5}  {:>6}  {shared}state",
        "device", "asked/s", "rate/s", "buffered", "age", "batch", "weight"
    ));
    let rows = chosen_rows(snapshot);
    for &index in &rows {
        lines.push(row(snapshot, index, name_width));
    }
    if rows.len() < snapshot.devices.len() {
        lines.push(format!("… and {} more devices in good order", snapshot.devices.len() - rows.len()));
    }
    lines
}

/// One line for a log.
pub fn line(snapshot: &Snapshot) -> String {
    let mut text = format!("{:>8}  ", span(snapshot.seconds));
    match snapshot.progress.as_ref().filter(|progress| progress.attempt == snapshot.attempt) {
        None => text.push_str(&snapshot.activity),
        Some(progress) => {
            text.push_str(&facts(snapshot, progress));
            if let Some(left) = snapshot.seconds_left() {
                let _ = write!(text, "  left {}", span(left));
            }
            let _ = write!(text, "  {}", devices_in_brief(progress));
        }
    }
    text
}

fn headline(snapshot: &Snapshot) -> String {
    let mut text = format!("{}: {}", snapshot.job, snapshot.activity);
    if snapshot.attempt > 0 {
        let _ = write!(text, " · attempt {}", snapshot.attempt);
    }
    let _ = write!(text, " · {}", span(snapshot.seconds));
    if let Some(left) = snapshot.seconds_left() {
        let _ = write!(text, " · about {} left", span(left));
    }
    text
}

/// Step, samples, speed, loss, accuracy: the same words in the table and in plain lines.
fn facts(snapshot: &Snapshot, progress: &Progress) -> String {
    let mut text = match snapshot.completion {
        Completion::MaxSteps(steps) => format!("step {} of {}", grouped(progress.step), grouped(steps)),
        _ => format!("step {}", grouped(progress.step)),
    };
    let _ = write!(text, "  samples {}", grouped(progress.samples));
    if let Completion::MaxSamples(samples) = snapshot.completion {
        let _ = write!(text, " of {}", grouped(samples));
    }
    if let Completion::MaxEpochs(epochs) = snapshot.completion {
        let _ = write!(text, "  epoch {:.2} of {epochs}", progress.epoch);
    }
    let _ = write!(text, "  {:.0}/s", progress.samples_per_second);
    if let Some(loss) = progress.loss {
        let _ = write!(text, "  loss {loss:.3}");
    }
    if let Some((evaluation, share)) =
        progress.evaluation.as_ref().and_then(|evaluation| Some((evaluation, evaluation.top_1()?)))
    {
        let _ = write!(text, "  Top-1 {:.1} % at step {}", share * 100.0, evaluation.step);
    }
    if progress.window_seconds > 0.0 {
        let _ = write!(text, "  window {:.2} s", progress.window_seconds);
    }
    if let Some(compression) = &progress.compression {
        let share =
            |bytes: fn(&DeviceProgress) -> u64| progress.devices.iter().map(bytes).sum::<u64>() as f64;
        let cnc = compression.sparse_steps as f64 / progress.step.max(1) as f64;
        let bytes = share(|device| device.bytes_sent) / share(|device| device.dense_bytes).max(1.0);
        let _ = write!(text, "  CNC {cnc:.2} at {}", (compression.ratio * 1000.0).round() / 1000.0);
        if compression.half_steps > 0 {
            let half = compression.half_steps as f64 / progress.step.max(1) as f64;
            let _ = write!(text, "  half {half:.2}");
        }
        let _ = write!(text, "  bytes {:.0} % of dense", bytes * 100.0);
    }
    if let Some(injection) = &progress.injection {
        let _ = write!(text, "  {:?}: {} samples shared", injection.mode, grouped(injection.shared_samples));
    }
    text
}

fn row(snapshot: &Snapshot, index: usize, name_width: usize) -> String {
    let name = &snapshot.devices[index];
    let stream = snapshot.streams.get(index);
    let asked = stream.map_or_else(|| "-".to_owned(), |stream| format!("{:.1}", stream.asked));
    let Some(device) = device(snapshot, index) else {
        return format!("{name:name_width$}  {asked:>8}");
    };
    let shared = if shares(snapshot) {
        format!("{:>9}  {:>9}  ", grouped(device.ledger.shared_out), grouped(device.ledger.received))
    } else {
        String::new()
    };
    format!(
        "{name:name_width$}  {asked:>8}  {:>8.1}  {:>9}  {:>7}  {:>5}  {:>6.3}  {shared}{}",
        device.stream_rate,
        grouped(device.ledger.buffered),
        span(device.oldest_seconds),
        device.local_batch,
        device.aggregation_weight,
        state(device, stream),
    )
}

/// Whether devices share samples.
fn shares(snapshot: &Snapshot) -> bool {
    snapshot.progress.as_ref().is_some_and(|progress| progress.injection.is_some())
}

pub(super) fn device(snapshot: &Snapshot, index: usize) -> Option<&DeviceProgress> {
    snapshot.progress.as_ref().and_then(|progress| progress.devices.get(index))
}

fn state(device: &DeviceProgress, stream: Option<&StreamView>) -> String {
    let word = match device.state {
        BufferState::Unknown => "-",
        BufferState::Starved => "Starved",
        BufferState::Healthy => "Healthy",
        BufferState::Backlogged => "Backlogged",
        BufferState::Overflowing => "Overflowing",
    };
    match stream.and_then(|stream| stream.waiting.as_ref()) {
        Some((cause, seconds)) => format!("{word}, producer waits {} {cause}", span(*seconds)),
        None => word.to_owned(),
    }
}

/// All devices where they fit, otherwise the worst first.
pub(super) fn chosen_rows(snapshot: &Snapshot) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..snapshot.devices.len()).collect();
    if rows.len() > MAX_ROWS {
        let badness = |index: &usize| {
            let waits = snapshot.streams.get(*index).is_some_and(|stream| stream.waiting.is_some());
            let rank = match device(snapshot, *index).map(|device| device.state) {
                Some(BufferState::Overflowing) => 0,
                Some(BufferState::Starved) => 1,
                Some(BufferState::Backlogged) => 2,
                _ => 3,
            };
            (!waits, rank, *index)
        };
        rows.sort_by_key(badness);
        rows.truncate(MAX_ROWS);
    }
    rows
}

fn devices_in_brief(progress: &Progress) -> String {
    let devices = &progress.devices;
    if devices.len() <= MAX_LISTED {
        let list =
            |of: &dyn Fn(&DeviceProgress) -> String| devices.iter().map(of).collect::<Vec<_>>().join(" ");
        return format!(
            "batches {}  buffered {}",
            list(&|device| device.local_batch.to_string()),
            list(&|device| device.ledger.buffered.to_string())
        );
    }
    let batches = devices.iter().map(|device| device.local_batch);
    let buffered: u64 = devices.iter().map(|device| device.ledger.buffered).sum();
    format!(
        "batches {} to {}  buffered {} in all",
        batches.clone().min().unwrap_or(0),
        batches.max().unwrap_or(0),
        grouped(buffered)
    )
}

#[cfg(test)]
mod tests {
    use scadles_api::{
        job::InjectionMode,
        progress::{CompressionProgress, InjectionProgress},
    };

    use super::*;
    use crate::view::testing::{progress, snapshot};

    #[test]
    fn the_table_shows_each_device_under_the_facts_of_the_step() {
        let expected = [
            "quickstart: training · attempt 1 · 1 min 01 s · about 56.8 s left",
            "step 214  samples 29 104 of 60 000  544/s  loss 1.412  Top-1 47.3 % at step 200  window 0.25 s",
            "device     asked/s    rate/s   buffered      age  batch  weight  state",
            "device-0     200.0     199.8      1 112    0.4 s     50   0.806  Healthy",
            "device-1      48.0      47.9         31    0.4 s     12   0.194  Healthy, producer waits 3.0 s for a checkpoint",
        ];
        assert_eq!(table(&snapshot()), expected);
    }

    #[test]
    fn a_plain_line_says_the_same_in_one_line() {
        assert_eq!(
            line(&snapshot()),
            "1 min 01 s  step 214  samples 29 104 of 60 000  544/s  loss 1.412  Top-1 47.3 % at step 200  \
             window 0.25 s  left 56.8 s  batches 50 12  buffered 1112 31"
        );
    }

    #[test]
    fn a_job_with_compression_shows_how_often_and_how_much() {
        let mut compressed = progress();
        compressed.compression = Some(CompressionProgress {
            ratio: 0.1,
            sparse_steps: 107,
            vetoed_steps: 90,
            ..CompressionProgress::default()
        });
        for device in &mut compressed.devices {
            (device.bytes_sent, device.dense_bytes) = (300, 1000);
        }
        let text = line(&Snapshot { progress: Some(compressed), ..snapshot() });
        assert!(text.contains("window 0.25 s  CNC 0.50 at 0.1  bytes 30 % of dense  left"), "{text}");
    }

    #[test]
    fn a_job_whose_devices_share_samples_shows_how_many() {
        let mut sharing = progress();
        sharing.injection = Some(InjectionProgress {
            mode: InjectionMode::Move,
            shared_samples: 1210,
            bytes_sent: 3_718_330,
        });
        (sharing.devices[0].ledger.shared_out, sharing.devices[1].ledger.received) = (1210, 1210);
        let sharing = Snapshot { progress: Some(sharing), ..snapshot() };
        assert!(
            line(&sharing).contains("window 0.25 s  Move: 1 210 samples shared  left"),
            "{}",
            line(&sharing)
        );
        let lines = table(&sharing);
        assert!(lines[2].ends_with("weight     shared   received  state"), "{}", lines[2]);
        assert!(lines[3].ends_with(" 0.806      1 210          0  Healthy"), "{}", lines[3]);
    }

    #[test]
    fn before_the_first_step_the_activity_is_shown() {
        let early = Snapshot { progress: None, streams: vec![], ..snapshot() };
        assert!(line(&early).ends_with("training"));
        assert_eq!(table(&early).len(), 5, "headline, no step yet, head of the table, two devices");
    }

    #[test]
    fn between_two_attempts_a_plain_line_says_what_is_waited_for() {
        let waiting = Snapshot { attempt: 2, activity: "waiting for the broker".to_owned(), ..snapshot() };
        assert_eq!(line(&waiting), "1 min 01 s  waiting for the broker");
    }

    #[test]
    fn with_many_devices_those_in_trouble_are_shown_first() {
        let mut many = snapshot();
        let healthy = progress().devices.remove(0);
        let starved = DeviceProgress { state: BufferState::Starved, ..healthy.clone() };
        let mut devices = vec![healthy; 40];
        devices[33] = starved;
        many.devices = (0..40).map(scadles_api::names::numbered_device).collect();
        many.streams = vec![];
        many.progress = Some(Progress { devices, ..progress() });
        let lines = table(&many);
        assert!(lines[3].starts_with("device-33"), "{}", lines[3]);
        assert_eq!(lines.last().unwrap(), "… and 16 more devices in good order");
    }

    #[test]
    fn time_left_follows_the_completion_rule() {
        let steps = Snapshot { completion: Completion::MaxSteps(218), ..snapshot() };
        assert_eq!(steps.seconds_left(), Some(1.0));
        let accuracy = Snapshot { completion: Completion::TargetAccuracy(0.6), ..snapshot() };
        assert_eq!(accuracy.seconds_left(), None);
        let halted = Progress { samples_per_second: 0.0, ..progress() };
        assert_eq!(Snapshot { progress: Some(halted), ..snapshot() }.seconds_left(), None);
    }
}
