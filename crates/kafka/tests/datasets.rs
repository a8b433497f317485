//! The real data sets, as `scripts/setup.sh data` leaves them (or `SCADLES_DATA` names them).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

use std::path::PathBuf;

use scadles_api::job::DatasetName;
use scadles_api::worker::{DatasetConfig, RecordFormat, SampleShape};
use scadles_kafka::dataset::{CIFAR_RECORD_BYTES, Dataset, FASHION_RECORD_BYTES, Split};

fn load(name: DatasetName, split: Split) -> Dataset {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = std::env::var_os("SCADLES_DATA").map_or_else(|| repository.join(".cache/data"), PathBuf::from);
    let config = DatasetConfig { name, path: None };
    let shape = SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape: [3, 32, 32] };
    Dataset::load(&config, split, &dir, &shape).unwrap_or_else(|error| panic!("{error}"))
}

fn labels_counted(dataset: &Dataset) -> [usize; 10] {
    let mut counts = [0; 10];
    for index in 0..dataset.len() {
        counts[dataset.label(index) as usize] += 1;
    }
    counts
}

#[test]
fn cifar_10_has_its_published_pictures_in_records_of_3073_bytes() {
    let train = load(DatasetName::Cifar10, Split::Train);
    assert_eq!((train.len(), train.record_bytes()), (50_000, CIFAR_RECORD_BYTES));
    assert_eq!(labels_counted(&train), [5000; 10]);
    // The mean of the red plane over the training pictures, as published: 0.4914.
    let red: u64 = (0..train.len()).flat_map(|i| &train.record(i)[1..=1024]).map(|&v| u64::from(v)).sum();
    let mean = red as f64 / (50_000.0 * 1024.0 * 255.0);
    assert!((mean - 0.4914).abs() < 1e-4, "{mean}");
    let test = load(DatasetName::Cifar10, Split::Test);
    assert_eq!((test.len(), labels_counted(&test)), (10_000, [1000; 10]));
}

#[test]
fn fashion_mnist_has_its_published_pictures_in_records_of_785_bytes() {
    let train = load(DatasetName::FashionMnist, Split::Train);
    assert_eq!((train.len(), train.record_bytes()), (60_000, FASHION_RECORD_BYTES));
    assert_eq!(labels_counted(&train), [6000; 10]);
    let pixels: u64 = (0..train.len()).flat_map(|i| &train.record(i)[1..]).map(|&v| u64::from(v)).sum();
    let mean = pixels as f64 / (60_000.0 * 784.0 * 255.0);
    assert!((mean - 0.2860).abs() < 1e-4, "{mean}");
    let test = load(DatasetName::FashionMnist, Split::Test);
    assert_eq!((test.len(), labels_counted(&test)), (10_000, [1000; 10]));
}
