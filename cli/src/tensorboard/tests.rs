use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    report::{
        steps::testing::{table, text},
        tests::report,
    },
    view::testing::progress,
};

/// CRC-32C by its definition, bit by bit.
fn crc32c_by_bits(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 },
        )
    })
}

/// The contents of the records of a file, every check sum checked.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let masked = |bytes: &[u8]| crc32c_by_bits(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().unwrap()), masked(&bytes[..8]));
        let content = &bytes[12..12 + length];
        assert_eq!(u32::from_le_bytes(bytes[12 + length..16 + length].try_into().unwrap()), masked(content));
        found.push(content.to_vec());
        bytes = &bytes[16 + length..];
    }
    found
}

/// The fields of a message by number: whole numbers as they are, others as bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => unreachable!("wire type {other}"),
        };
        found.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

/// One entry of a file, read without the code that wrote it.
#[derive(Debug, Default)]
struct Read {
    wall_time: f64,
    step: u64,
    version: Option<String>,
    scalars: BTreeMap<String, f32>,
    starts: bool,
}

fn entry(record: &[u8]) -> Read {
    let mut read = Read::default();
    for (number, bytes) in fields(record) {
        match number {
            1 => read.wall_time = f64::from_le_bytes(bytes.try_into().unwrap()),
            2 => read.step = u64::from_le_bytes(bytes.try_into().unwrap()),
            3 => read.version = Some(String::from_utf8(bytes).unwrap()),
            5 => {
                for (_, value) in fields(&bytes) {
                    let parts: BTreeMap<u64, Vec<u8>> = fields(&value).into_iter().collect();
                    let number = f32::from_le_bytes(parts[&2].clone().try_into().unwrap());
                    read.scalars.insert(String::from_utf8(parts[&1].clone()).unwrap(), number);
                }
            }
            7 => read.starts = fields(&bytes) == [(1, 1u64.to_le_bytes().to_vec())],
            other => unreachable!("field {other}"),
        }
    }
    read
}

/// Writes a run and reads it back.
fn written(devices: usize, lines: &[(u64, u64, f64)], evaluations: &[Evaluation]) -> Vec<Read> {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..devices).map(scadles_api::names::numbered_device).collect();
    let mut file = EventFile::begin(folder.path(), "run", &folder.path().join("steps.csv"), &names).unwrap();
    table(devices, lines, |step| file.add(step, evaluations).unwrap());
    file.flush(None, evaluations).unwrap();
    read_back(&folder.path().join("run").join(FILE))
}

fn read_back(file: &Path) -> Vec<Read> {
    records(&fs::read(file).unwrap()).iter().map(|record| entry(record)).collect()
}

/// A table of two devices that was written to for the last time at this second since 1970.
fn table_of(lines: &[(u64, u64, f64)], file: &Path, written_at: u64) {
    fs::write(file, text(2, lines)).unwrap();
    let written_at = SystemTime::UNIX_EPOCH + Duration::from_secs(written_at);
    File::options().append(true).open(file).unwrap().set_modified(written_at).unwrap();
}

#[test]
fn the_check_sum_of_the_tests_is_the_published_one() {
    assert_eq!(crc32c_by_bits(b"123456789"), 0xe306_9283);
}

#[test]
fn a_file_holds_every_step_with_its_values() {
    let read = written(2, &[(1, 1, 2.5), (1, 2, f64::NAN)], &[]);
    assert_eq!(read.len(), 3);
    assert_eq!(read[0].version.as_deref(), Some("brain.Event:2"));
    assert_eq!((read[1].step, read[2].step), (1, 2));
    assert!((read[2].wall_time - read[1].wall_time - 0.5).abs() < 1e-6, "a step of half a second");
    let expected = [
        ("train/loss", 2.5),
        ("train/learning_rate", 0.1),
        ("train/global_batch", 20.0),
        ("train/samples", 20.0),
        ("train/samples_per_second", 40.0),
        ("train/step_seconds", 0.5),
        ("streams/arriving_per_second", 40.0),
        ("streams/buffered", 6.0),
        ("time/wait_seconds", 0.25),
        ("time/compute_seconds", 0.125),
        ("time/exchange_seconds", 0.0625),
        ("time/own_seconds", 0.0625),
        ("gradients/bytes_sent", 1000.0),
        ("gradients/dense_bytes", 4000.0),
        ("gradients/share_of_dense", 0.25),
        ("device/device-1/rate", 20.0),
        ("device/device-1/buffer", 3.0),
        ("device/device-1/batch", 10.0),
        ("device/device-1/weight", 0.5),
        ("device/device-1/wait_seconds", 0.25),
        ("device/device-1/compute_seconds", 0.125),
    ];
    for (tag, value) in expected {
        let found = read[1].scalars.get(tag).copied();
        assert!(found.is_some_and(|found| (found - value).abs() < 1e-6), "{tag}: {found:?}");
    }
    assert_eq!(read[1].scalars.len(), 15 + 2 * KINDS, "nothing else");
    assert!(!read[2].scalars.contains_key("train/loss"), "no number is no value");
}

/// Kinds of a device's values.
const KINDS: usize = 6;

#[test]
fn a_restart_tells_readers_to_forget_what_it_rolled_back() {
    let evaluation = |step| Evaluation { step, ..progress().evaluation.unwrap() };
    let lines = [(1, 1, 2.0), (1, 2, 1.9), (1, 3, 1.8), (2, 2, 1.7), (2, 3, 1.6)];
    let read = written(1, &lines, &[evaluation(1), evaluation(2), evaluation(3)]);
    let story: Vec<String> = read
        .iter()
        .skip(1)
        .map(|entry| {
            let kind = if entry.starts {
                "starts"
            } else if entry.scalars.contains_key("eval/top_1") {
                "evaluated"
            } else {
                "trained"
            };
            format!("{} {kind}", entry.step)
        })
        .collect();
    assert_eq!(
        story,
        [
            "1 trained",
            "1 evaluated",
            "2 trained",
            "2 evaluated",
            "3 trained",
            "2 starts",
            "2 trained",
            "2 evaluated",
            "3 trained",
            "3 evaluated",
        ]
    );
    let evaluated = read.iter().find(|entry| entry.scalars.contains_key("eval/top_1")).unwrap();
    assert!((evaluated.scalars["eval/top_1"] - 0.4731).abs() < 1e-6);
    assert!((evaluated.scalars["eval/loss"] - 1.5).abs() < 1e-6);
    assert!(read.windows(2).all(|pair| pair[0].wall_time <= pair[1].wall_time), "time never goes back");
}

#[test]
fn of_very_many_devices_the_spread_is_told() {
    let read = written(scalars::MOST_DEVICES + 1, &[(1, 1, 2.0)], &[]);
    assert!(!read[1].scalars.keys().any(|tag| tag.starts_with("device/")));
    for tag in ["devices/rate/least", "devices/rate/mean", "devices/rate/greatest"] {
        assert!((read[1].scalars[tag] - 20.0).abs() < 1e-6, "{tag}");
    }
}

#[test]
fn the_time_of_events_never_goes_back_and_pauses_move_it_forward() {
    let mut clock = WallClock { began: 100.0, elapsed_seconds: 10.0 };
    clock.catch_up(105.0);
    assert!((clock.now() - 110.0).abs() < 1e-9, "never back");
    clock.catch_up(130.0);
    assert!((clock.now() - 130.0).abs() < 1e-9, "there was a pause of 20 s");
}

#[test]
fn the_steps_of_a_table_end_when_it_was_written_and_without_one_time_begins_now() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(STEPS);
    let devices = [0, 1].map(scadles_api::names::numbered_device);
    let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let before = since_1970();
    let clock = WallClock::of_table(&file, &devices).unwrap();
    assert!((before..=since_1970()).contains(&clock.now()), "{clock:?}");
    table_of(&[(1, 1, 2.0), (1, 2, 1.9), (2, 2, 1.8)], &file, 1_000);
    let clock = WallClock::of_table(&file, &devices).unwrap();
    assert!((clock.now() - 998.5).abs() < 1e-9, "three steps of half a second lie before the end: {clock:?}");
}

#[test]
fn a_finished_run_is_exported_with_its_evaluations_and_its_restart() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("quickstart-1");
    fs::create_dir(&run).unwrap();
    let mut report = report();
    for (rank, device) in report.devices.iter_mut().enumerate() {
        device.name = scadles_api::names::numbered_device(rank);
    }
    report.accuracy = vec![Evaluation { step: 2, ..progress().evaluation.unwrap() }];
    let into = folder.path().join("tb");
    let failure = export(&run, &report, &into).unwrap_err();
    assert!(failure.message.contains("steps.csv: there is no such file"), "{failure:?}");
    fs::write(run.join(STEPS), "a,b\n").unwrap();
    let failure = export(&run, &report, &into).unwrap_err();
    assert!(failure.message.contains("no column `attempt`") && !failure.remedy.is_empty(), "{failure:?}");

    table_of(&[(1, 1, 2.0), (1, 2, 1.9), (2, 2, 1.8), (2, 3, 1.7)], &run.join(STEPS), 1_000);
    let file = export(&run, &report, &into).unwrap();
    assert_eq!(file, into.join("quickstart-1").join(FILE));
    let read = read_back(&file);
    let trained: Vec<(u64, f64)> = read
        .iter()
        .filter(|entry| entry.scalars.contains_key("train/loss"))
        .map(|entry| (entry.step, entry.wall_time))
        .collect();
    assert_eq!(trained, [(1, 998.5), (2, 999.0), (2, 999.5), (3, 1000.0)]);
    assert_eq!(read.iter().filter(|entry| entry.starts).map(|entry| entry.step).collect::<Vec<_>>(), [2]);
    let evaluated = read.iter().filter(|entry| entry.scalars.contains_key("eval/top_1"));
    assert_eq!(evaluated.map(|entry| entry.step).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_failure_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    fs::write(&file, "").unwrap();
    let failure = EventFile::begin(&file, "run", &folder.path().join("steps.csv"), &[]).err().unwrap();
    assert!(failure.message.contains("--tensorboard: ") && !failure.remedy.is_empty(), "{failure:?}");
}
