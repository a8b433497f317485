use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use scadles_api::{ExitCode, PROTOCOL_VERSION, names};

use super::writer::journal_dir;
use super::*;

fn header(attempt: u32, from_step: u64, loaded_by: u32) -> SegmentHeader {
    SegmentHeader {
        protocol: PROTOCOL_VERSION,
        job_uid: "uid-1".to_owned(),
        attempt,
        from_step,
        checkpoint: names::checkpoint(loaded_by, from_step),
        cpu: "some cpu".to_owned(),
        torch: "2.11.0".to_owned(),
        threads: 1,
        devices: vec!["a".to_owned(), "b".to_owned()],
        config_hash: "00".to_owned(),
    }
}

fn record(attempt: u32, step: u64) -> StepRecord {
    let first = step * 10;
    let device = |ranges| DeviceStep {
        loss_scale: 1.0 / (3.0 + step as f64),
        ranges,
        given: Vec::new(),
        received: Vec::new(),
    };
    StepRecord {
        attempt,
        step,
        epoch: 0,
        learning_rate: 0.1 / 3.0 + f64::EPSILON * step as f64,
        window_seconds: 0.25,
        global_batch: 5,
        micro_batch: 64,
        devices: vec![device(vec![RecordRange(0, first, 2), RecordRange(1, first, 3)]), device(Vec::new())],
        compression: None,
        tuning: None,
        statistics_agreed: false,
        parameter_hash: None,
    }
}

fn write(
    run_dir: &Path,
    attempt: u32,
    from: u64,
    steps: std::ops::RangeInclusive<u64>,
    checkpoint_at: &[u64],
) {
    let mut writer = JournalWriter::open(run_dir, header(attempt, from, 1)).unwrap();
    for step in steps {
        writer.append(&record(attempt, step)).unwrap();
        if checkpoint_at.contains(&step) {
            writer.checkpoint(step).unwrap();
        }
    }
}

fn attempts_and_steps(records: &[StepRecord]) -> Vec<(u32, u64)> {
    records.iter().map(|record| (record.attempt, record.step)).collect()
}

#[test]
fn a_record_reads_back_with_the_bits_that_were_written() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=50, &[]);
    let read = read_surviving(&journal_dir(run.path())).unwrap();
    for (read, step) in read.iter().zip(1..) {
        let written = record(1, step);
        assert_eq!(*read, written);
        assert_eq!(read.learning_rate.to_bits(), written.learning_rate.to_bits());
        assert_eq!(read.devices[0].loss_scale.to_bits(), written.devices[0].loss_scale.to_bits());
    }
    assert_eq!(read.len(), 50);
    assert_eq!(read[0].devices[0].samples(), 5);
}

#[test]
fn steps_beyond_the_checkpoint_that_a_later_attempt_loaded_are_superseded() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=9, &[4, 8]);
    write(run.path(), 2, 4, 5..=6, &[]);
    write(run.path(), 3, 4, 5..=7, &[7]);
    let segments = read_segments(&journal_dir(run.path())).unwrap();
    assert_eq!(segments.len(), 6, "{segments:?}");
    let history = surviving(&segments).unwrap();
    assert_eq!(attempts_and_steps(&history.steps), [(1, 1), (1, 2), (1, 3), (1, 4), (3, 5), (3, 6), (3, 7)]);
}

#[test]
fn segments_that_hold_nothing_later_than_a_checkpoint_are_not_read() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=9, &[4, 8]);
    write(run.path(), 2, 4, 5..=6, &[]);
    let dir = journal_dir(run.path());
    // Nobody looks into it.
    std::fs::write(dir.join("0001-00000000.jsonl"), b"no\njournal\n").unwrap();
    let segments = read_segments_from(&dir, (1, 4)).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let later = segments.iter().flat_map(|segment| segment.records.clone()).collect::<Vec<_>>();
    assert_eq!(attempts_and_steps(&later), [(1, 5), (1, 6), (1, 7), (1, 8), (1, 9), (2, 5), (2, 6)]);
}

#[test]
fn an_attempt_that_took_no_step_still_rolls_back() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=3, &[]);
    drop(JournalWriter::open(run.path(), header(2, 0, 1)).unwrap());
    assert_eq!(read_surviving(&journal_dir(run.path())).unwrap(), []);
}

#[test]
fn a_torn_last_line_is_as_if_it_had_not_been_written() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=3, &[]);
    let path = journal_dir(run.path()).join("0001-00000000.jsonl");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"attempt\":1,\"st").unwrap();
    assert_eq!(read_surviving(&journal_dir(run.path())).unwrap().len(), 3);
    std::fs::write(journal_dir(run.path()).join("0002-00000000.jsonl"), b"{\"proto").unwrap();
    assert_eq!(
        read_surviving(&journal_dir(run.path())).unwrap().len(),
        3,
        "a torn header rolls nothing back"
    );
}

#[test]
fn a_damaged_line_in_the_middle_is_named() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=3, &[]);
    let path = journal_dir(run.path()).join("0001-00000000.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"step\":2", "\"step\":x", 1)).unwrap();
    let error = read_surviving(&journal_dir(run.path())).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { line: 3, .. }), "{error}");
}

#[test]
fn a_missing_step_is_an_error() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=2, &[]);
    write(run.path(), 2, 4, 5..=5, &[]);
    let error = read_surviving(&journal_dir(run.path())).unwrap_err();
    assert!(matches!(error, JournalError::Gap { expected: 3, found: 5, .. }), "{error}");
}

#[test]
fn a_history_whose_first_segments_were_deleted_begins_behind_them() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=9, &[3, 6]);
    for name in ["0001-00000000", "0001-00000003"] {
        std::fs::remove_file(journal_dir(run.path()).join(format!("{name}.jsonl"))).unwrap();
    }
    let history = surviving(&read_segments(&journal_dir(run.path())).unwrap()).unwrap();
    assert_eq!((history.from_step, history.steps.len()), (6, 3));
}

#[test]
fn a_segment_is_never_overwritten() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1, 0, 1..=2, &[]);
    let error = JournalWriter::open(run.path(), header(1, 0, 1)).err().unwrap();
    assert_eq!(error.exit_code(), ExitCode::StorageFailed);
    assert!(error.to_string().contains("0001-00000000.jsonl"), "{error}");
}

#[test]
fn a_run_without_a_journal_has_no_steps() {
    let run = tempfile::tempdir().unwrap();
    assert_eq!(read_surviving(&journal_dir(run.path())).unwrap(), []);
}
