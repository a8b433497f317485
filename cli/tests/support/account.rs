//! A run on a real Kafka, beside what the broker itself holds and what the journal says.

use std::{collections::BTreeMap, path::Path};

use scadles_api::{ExitCode, report::RunReport};

use super::{assert_balanced, finish, report, scadles, text, trainer};

/// The report of a run that has come to its end, with one set of parameters on all ranks.
pub fn completed(folder: &Path, steps: u64) -> RunReport {
    let report = report(folder);
    assert_eq!((report.outcome, report.steps), (ExitCode::Completed, steps));
    assert!(report.parameter_hashes.iter().all(|hash| *hash == report.parameter_hashes[0]), "{report:?}");
    report
}

/// What arrived according to the report is what `end_offsets`, Kafka's own tool, counts in a topic; and all of it is
/// accounted for.
pub fn assert_seen_from_outside(report: &RunReport, job: &str, end_offsets: impl Fn(&str) -> Vec<u64>) {
    assert_balanced(report);
    for device in &report.devices {
        let topic = format!("default.{job}.{}", device.name);
        let stored: u64 = end_offsets(&topic).iter().sum();
        assert_eq!(device.arrived, stored, "{topic}: {device:?}");
    }
}

/// All steps can be taken again from the broker's records, with the same parameters.
pub fn assert_replays(folder: &Path) {
    let output = finish(scadles(&trainer()).arg("replay").arg(folder).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("equal, bit for bit"), "{}", text(&output));
}

/// Ranges of offsets (first, length) per device and partition, in all records of the journal, those of steps that were
/// rolled back included.
fn ranges_in_journal(folder: &Path) -> BTreeMap<(usize, u64), Vec<(u64, u64)>> {
    let mut ranges: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("journal")).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            // A killed writer may leave half a line; the head of a segment has no ranges.
            let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let Some(devices) = record["devices"].as_array().filter(|all| all[0].is_object()) else {
                continue;
            };
            for (index, device) in devices.iter().enumerate() {
                for range in device["ranges"].as_array().unwrap() {
                    let [partition, first, len] = [0, 1, 2].map(|field| range[field].as_u64().unwrap());
                    ranges.entry((index, partition)).or_default().push((first, len));
                }
            }
        }
    }
    ranges
}

/// Samples per device in all records of the journal, those of steps that were rolled back included.
pub fn samples_in_journal(folder: &Path, devices: usize) -> Vec<u64> {
    let mut samples = vec![0; devices];
    for ((device, _), ranges) in ranges_in_journal(folder) {
        samples[device] += ranges.iter().map(|(_, len)| len).sum::<u64>();
    }
    samples
}

/// Of a run of one attempt under `Persistence`: every partition was trained from its first record on, without a gap and
/// nothing twice, up to what the report calls trained.
pub fn assert_each_sample_was_trained_once(folder: &Path, report: &RunReport) {
    let mut trained = vec![0; report.devices.len()];
    for ((device, partition), mut ranges) in ranges_in_journal(folder) {
        ranges.sort_unstable();
        let mut next = 0;
        for (first, len) in ranges {
            assert_eq!(first, next, "device {device}, partition {partition}");
            next += len;
        }
        trained[device] += next;
    }
    for (device, trained) in report.devices.iter().zip(trained) {
        assert_eq!(device.trained, trained, "{device:?}");
        assert_eq!((device.dropped, device.rejected, device.lost), (0, 0, 0), "{device:?}");
        assert!(trained > 0, "{device:?}");
    }
}
