//! Against a real server of the protocol.

use std::{fs, path::Path};

use scadles_api::{
    ExitCode,
    worker::{BucketConfig, CheckpointConfig},
};

use super::{
    mirror::{Extent, Mirror},
    testing::Bucket,
};
use crate::checkpoint::{CheckpointError, CheckpointStore, CheckpointWriter, tests::snapshot};

const UID: &str = "uid-1";

fn store(bucket: &BucketConfig) -> CheckpointStore {
    let config =
        CheckpointConfig { root: "/none".into(), bucket: Some(bucket.clone()), every_steps: 4, keep: 3 };
    CheckpointStore::of(&config).unwrap()
}

fn mirror(folder: &Path, bucket: &Bucket) -> Mirror {
    Mirror::open(&bucket.config, UID, folder).unwrap()
}

fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_checkpoint_in_a_bucket_is_loaded_bit_for_bit_and_never_overwritten() {
    let bucket = Bucket::new();
    let store = store(&bucket.config);
    let reference = store.write(snapshot(1, 40)).unwrap();
    let mut loaded = store.load(&reference).unwrap();
    loaded.manifest.files.clear();
    assert_eq!(loaded, snapshot(1, 40));
    let place = "s3://results/team/a/uid-1/0001-00000040/manifest.json".to_owned();
    assert_eq!(store.write(snapshot(1, 40)), Err(CheckpointError::Exists { place }));
    fs::remove_file(bucket.file("uid-1/0001-00000040/model.safetensors")).unwrap();
    assert!(matches!(store.load(&reference), Err(CheckpointError::Missing { .. })));
}

#[test]
fn checkpoints_in_a_bucket_are_listed_and_pruned_as_in_a_folder() {
    let bucket = Bucket::new();
    let mut writer = CheckpointWriter::start(store(&bucket.config), None, 1, Vec::new).unwrap();
    for step in [0, 40, 80, 120] {
        writer.submit(snapshot(1, step)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    fs::remove_file(bucket.file("uid-1/0001-00000120/manifest.json")).unwrap();
    let names: Vec<String> =
        store(&bucket.config).list("uid-1").unwrap().into_iter().map(|reference| reference.name).collect();
    assert_eq!(names, ["0001-00000000"], "80 was pruned, 120 has no manifest");
    assert_eq!(store(&bucket.config).list("another").unwrap(), []);
}

#[test]
fn a_server_that_refuses_is_a_storage_failure_with_place_and_remedy() {
    let bucket = Bucket::new();
    fs::write(bucket.keys().join("secretAccessKey"), "wrong").unwrap();
    let error = store(&bucket.config).write(snapshot(1, 0)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::StorageFailed);
    assert!(error.to_string().contains("s3://results/team/a/uid-1"), "{error}");
    assert!(error.remedy().contains("url, endpoint and secret"), "{}", error.remedy());
    fs::remove_file(bucket.keys().join("secretAccessKey")).unwrap();
    let config = CheckpointConfig {
        root: "/none".into(),
        bucket: Some(bucket.config.clone()),
        every_steps: 4,
        keep: 3,
    };
    let error = CheckpointStore::of(&config).err().unwrap();
    assert!(error.to_string().contains("accessKeyId and secretAccessKey"), "{error}");
}

#[test]
fn another_machine_goes_on_with_the_results_of_the_first() {
    let bucket = Bucket::new();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(first.path(), "journal/0001-00000000.jsonl", "{}\n{\"torn");
    put(first.path(), "steps.csv", "head\n1\n");
    put(first.path(), "model.part", "half");
    let mut sender = mirror(first.path(), &bucket);
    assert_eq!(sender.push(Extent::Due).unwrap(), 2);
    assert_eq!(sender.push(Extent::All).unwrap(), 0, "nothing has changed");
    // Checkpoints may lie beside the results.
    store(&bucket.config).write(snapshot(1, 40)).unwrap();

    let mut receiver = mirror(second.path(), &bucket);
    assert_eq!(receiver.pull().unwrap(), 2);
    assert_eq!(fs::read_to_string(second.path().join("journal/0001-00000000.jsonl")).unwrap(), "{}\n");
    assert_eq!(fs::read_to_string(second.path().join("steps.csv")).unwrap(), "head\n1\n");
    assert_eq!(receiver.pull().unwrap(), 0, "what is there stays as it is");
    assert_eq!(receiver.push(Extent::All).unwrap(), 0, "what was brought is not sent back");
}

#[test]
fn a_table_that_grows_is_sent_when_it_has_grown_by_an_eighth_and_in_the_end() {
    let bucket = Bucket::new();
    let folder = tempfile::tempdir().unwrap();
    let (name, mut table) = ("steps.csv", "0123456\n".repeat(100));
    put(folder.path(), name, &table);
    let mut mirror = mirror(folder.path(), &bucket);
    assert_eq!(mirror.push(Extent::Due).unwrap(), 1);
    table.push_str("0123456\n");
    put(folder.path(), name, &table);
    assert_eq!(mirror.push(Extent::Due).unwrap(), 0);
    assert_eq!(mirror.push(Extent::All).unwrap(), 1);
    table.push_str(&"0123456\n".repeat(13));
    put(folder.path(), name, &table);
    assert_eq!(mirror.push(Extent::Due).unwrap(), 1);
    assert_eq!(fs::read_to_string(bucket.file(UID).join(name)).unwrap(), table);
}

#[test]
fn what_is_gone_from_the_folder_goes_from_the_bucket() {
    let bucket = Bucket::new();
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "journal/0001-00000000.jsonl", "{}\n");
    let mut mirror = mirror(folder.path(), &bucket);
    mirror.push(Extent::All).unwrap();
    let copy = bucket.file(UID).join("journal/0001-00000000.jsonl");
    assert!(copy.exists());
    fs::remove_file(folder.path().join("journal/0001-00000000.jsonl")).unwrap();
    mirror.push(Extent::Due).unwrap();
    assert!(!copy.exists());
}
