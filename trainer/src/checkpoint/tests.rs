use std::fs;

use scadles_api::{CheckpointRef, ExitCode, PROTOCOL_VERSION};
use scadles_core::compress::gate::CompressionState;
use scadles_core::device_stream::DeviceCheckpoint;
use scadles_core::learning_rate::LearningRateState;

use super::store::{MANIFEST_FILE, MODEL_FILE};
use super::*;
use crate::source::StreamCheckpoint;

pub(crate) fn snapshot(attempt: u32, step: u64) -> Snapshot {
    let stream =
        StreamCheckpoint { device: DeviceCheckpoint::starting_at(&[3, 5]), ..StreamCheckpoint::default() };
    let device = DeviceState {
        name: "device-0".to_owned(),
        stream,
        totals: DeviceTotals::default(),
        compressor: None,
    };
    let manifest = Manifest {
        protocol: PROTOCOL_VERSION,
        job_uid: "uid-1".to_owned(),
        attempt,
        step,
        samples: 640,
        epoch: 0.1 + 0.2,
        learner_seed: u64::MAX,
        window_seconds: 0.25 + f64::EPSILON,
        tunings: Vec::new(),
        train_seconds: 1.0 / 3.0,
        compression: CompressionState {
            sparse_steps: [3, 0, 0],
            vetoed_steps: 1,
            ..CompressionState::default()
        },
        learning_rate: LearningRateState { ahead_samples: -1.0 / 3.0, ..LearningRateState::default() },
        parameter_hash: "00ff".to_owned(),
        statistics_hash: None,
        journal_segment: "0001-00000000".to_owned(),
        devices: vec![device],
        evaluations: Vec::new(),
        files: Vec::new(),
    };
    let residuals = if step == 40 { vec![vec![3; 70]] } else { Vec::new() };
    Snapshot { manifest, model: vec![0, 255, 7, step as u8], momentum: vec![9; 1000], residuals }
}

fn names(references: &[CheckpointRef]) -> Vec<&str> {
    references.iter().map(|reference| reference.name.as_str()).collect()
}

#[test]
fn what_is_loaded_is_what_was_written_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    let written = snapshot(1, 40);
    let reference = store.write(written.clone()).unwrap();
    assert_eq!(reference.name, "0001-00000040");
    let mut loaded = CheckpointStore::open(root.path()).unwrap().load(&reference).unwrap();
    assert_eq!(loaded.manifest.files.len(), 3);
    loaded.manifest.files.clear();
    assert_eq!(loaded, written);
    assert_eq!(loaded.manifest.epoch.to_bits(), written.manifest.epoch.to_bits());
}

#[test]
fn a_half_written_checkpoint_is_ignored_and_can_be_written_again() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    store.write(snapshot(1, 40)).unwrap();
    let half = root.path().join("uid-1/0001-00000080");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join(MODEL_FILE), b"half").unwrap();
    assert_eq!(names(&store.list("uid-1").unwrap()), ["0001-00000040"]);
    let reference = snapshot(1, 80).manifest.reference();
    assert!(matches!(store.load(&reference), Err(CheckpointError::Missing { .. })));
    store.write(snapshot(1, 80)).unwrap();
    assert_eq!(store.latest("uid-1").unwrap().unwrap().step, 80);
}

#[test]
fn a_complete_checkpoint_is_never_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    let reference = store.write(snapshot(1, 40)).unwrap();
    let other = Snapshot { model: vec![1], ..snapshot(1, 40) };
    assert!(matches!(store.write(other), Err(CheckpointError::Exists { .. })));
    assert_eq!(store.load(&reference).unwrap().model, snapshot(1, 40).model);
}

#[test]
fn a_file_of_another_length_than_the_manifest_says_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    let reference = store.write(snapshot(1, 40)).unwrap();
    fs::write(root.path().join("uid-1").join(&reference.name).join(MODEL_FILE), b"cut").unwrap();
    let error = store.load(&reference).unwrap_err();
    assert!(
        error.to_string().contains("model.safetensors") && error.to_string().contains("3 bytes"),
        "{error}"
    );
    assert_eq!(error.exit_code(), ExitCode::Configuration);
}

#[test]
fn a_manifest_of_another_job_or_protocol_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    let reference = store.write(snapshot(1, 40)).unwrap();
    let path = root.path().join("uid-1").join(&reference.name).join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("uid-1", "uid-2")).unwrap();
    assert!(matches!(store.load(&reference), Err(CheckpointError::Damaged { .. })));
    fs::write(&path, text.replace("\"protocol\": 1", "\"protocol\": 999")).unwrap();
    assert!(store.load(&reference).unwrap_err().to_string().contains("protocol 999"));
}

#[test]
fn pruning_keeps_checkpoint_0_and_the_newest_and_removes_older_half_written_ones() {
    let root = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(root.path()).unwrap();
    for (attempt, step) in [(1, 0), (1, 40), (1, 80), (2, 60), (2, 100)] {
        store.write(snapshot(attempt, step)).unwrap();
    }
    for half in ["0001-00000020", "0002-00000140", "not-a-checkpoint"] {
        fs::create_dir_all(root.path().join("uid-1").join(half)).unwrap();
        fs::write(root.path().join("uid-1").join(half).join(MODEL_FILE), b"half").unwrap();
    }
    let mut removed = store.prune("uid-1", 2, &[]).unwrap();
    removed.sort();
    assert_eq!(removed, ["0001-00000020", "0001-00000040", "0001-00000080"]);
    assert_eq!(names(&store.list("uid-1").unwrap()), ["0001-00000000", "0002-00000060", "0002-00000100"]);
    assert!(root.path().join("uid-1/0002-00000140").is_dir(), "it may be on its way");
    assert!(root.path().join("uid-1/not-a-checkpoint").is_dir());
    assert!(!root.path().join("uid-1/0001-00000040").exists());
}

#[test]
fn of_two_writers_of_one_manifest_the_second_is_refused_by_the_store_itself() {
    let root = tempfile::tempdir().unwrap();
    let bucket = crate::storage::testing::Bucket::new();
    let config = scadles_api::worker::CheckpointConfig {
        root: root.path().to_owned(),
        bucket: Some(bucket.config.clone()),
        every_steps: 4,
        keep: 3,
    };
    let reference = snapshot(1, 40).manifest.reference();
    for store in [CheckpointStore::open(root.path()).unwrap(), CheckpointStore::of(&config).unwrap()] {
        store.put_manifest(&reference, b"first".to_vec()).unwrap();
        let second = store.put_manifest(&reference, b"second".to_vec());
        assert!(matches!(second, Err(CheckpointError::Exists { .. })), "{second:?}");
    }
}

#[test]
fn the_writer_reports_in_order_and_prunes() {
    let root = tempfile::tempdir().unwrap();
    let mut writer =
        CheckpointWriter::start(CheckpointStore::open(root.path()).unwrap(), None, 1, Vec::new).unwrap();
    let mut done = Vec::new();
    for step in [0, 40, 80, 120] {
        done.extend(writer.submit(snapshot(1, step)).unwrap());
    }
    assert_eq!(done.len(), 2, "two may be on their way, the others must have been waited for");
    done.extend(writer.finish().unwrap());
    assert_eq!(names(&done), ["0001-00000000", "0001-00000040", "0001-00000120"]);
    assert_eq!(writer.poll().unwrap(), None);
    drop(writer);
    let left = CheckpointStore::open(root.path()).unwrap().list("uid-1").unwrap();
    assert_eq!(names(&left), ["0001-00000000", "0001-00000120"]);
}

#[test]
fn the_checkpoint_that_a_supervisor_knows_is_not_pruned_before_it_knows_another() {
    let root = tempfile::tempdir().unwrap();
    let known = std::sync::Arc::new(std::sync::Mutex::new(vec!["0001-00000040".to_owned()]));
    let spared = std::sync::Arc::clone(&known);
    let mut writer =
        CheckpointWriter::start(CheckpointStore::open(root.path()).unwrap(), None, 1, move || {
            spared.lock().unwrap().clone()
        })
        .unwrap();
    let mut write = |step| {
        writer.submit(snapshot(1, step)).unwrap();
        writer.finish().unwrap();
        CheckpointStore::open(root.path()).unwrap().list("uid-1").unwrap()
    };
    write(40);
    assert_eq!(names(&write(80)), ["0001-00000040", "0001-00000080"]);
    assert_eq!(names(&write(120)), ["0001-00000040", "0001-00000120"]);
    *known.lock().unwrap() = vec!["0001-00000120".to_owned()];
    assert_eq!(names(&write(160)), ["0001-00000120", "0001-00000160"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_a_storage_failure_with_path_and_remedy() {
    let root = tempfile::tempdir().unwrap();
    // A file where the job's folder should be: fails for every user, also for root.
    fs::write(root.path().join("uid-1"), b"").unwrap();
    let mut writer =
        CheckpointWriter::start(CheckpointStore::open(root.path()).unwrap(), None, 1, Vec::new).unwrap();
    writer.submit(snapshot(1, 0)).unwrap();
    let error = writer.finish().unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::StorageFailed);
    assert!(error.to_string().contains("uid-1"), "{error}");
    assert!(error.remedy().contains("spec.checkpoint.storage.path"));
}
