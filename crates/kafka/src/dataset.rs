//! Data sets as streams send them: fixed-size records of raw bytes, a label byte followed by the picture.
//!
//! Reading files is I/O ([`Dataset::load`]); decoding them is pure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scadles_api::job::DatasetName;
use scadles_api::worker::{DatasetConfig, PartitionRule};
use scadles_core::schedule::SampleSchedule;

use crate::producer::RecordSource;

/// Bytes of a CIFAR-10 record: label, then 3 planes (red, green, blue) of 32×32.
pub const CIFAR_RECORD_BYTES: usize = 1 + 3 * 32 * 32;

/// Bytes of a Fashion-MNIST record: label, then one plane of 28×28.
pub const FASHION_RECORD_BYTES: usize = 1 + 28 * 28;

/// Classes of CIFAR-10 and of Fashion-MNIST.
const CLASSES: u8 = 10;

/// Where the data can be had.
const REMEDY: &str = "fetch it with `scripts/setup.sh data`, or name its folder with --data DIR";

/// A data set that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// A file is missing or cannot be read.
    #[error("failed to read {} ({reason}); {remedy}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{} is not usable: {reason}; {remedy}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// `Files` without a path.
    #[error("spec.producer.dataset.files.path: missing; name the file that holds the records")]
    NoPath,
    /// The records cannot be spread over the devices as asked.
    #[error("spec.producer: {0}")]
    Spread(#[from] scadles_core::schedule::Error),
}

/// Part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is sent to the devices.
    Train,
    /// What accuracy is measured on.
    Test,
}

/// All records of one split, in memory, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    records: Vec<u8>,
    record_bytes: usize,
}

impl Dataset {
    /// Reads a split. `data_dir` holds the folders `cifar-10-batches-bin` and `fashion-mnist`; `files_record_bytes` is
    /// the record size of `Files`, whose one file serves for both splits.
    pub fn load(
        config: &DatasetConfig,
        split: Split,
        data_dir: &Path,
        files_record_bytes: usize,
    ) -> Result<Self, DatasetError> {
        match config.name {
            DatasetName::Cifar10 => load_cifar(&data_dir.join("cifar-10-batches-bin"), split),
            DatasetName::FashionMnist => load_fashion(&data_dir.join("fashion-mnist"), split),
            DatasetName::Files => {
                let path = config.path.as_ref().ok_or(DatasetError::NoPath)?;
                let remedy = "name a file of records of the stream's format, one after another";
                let records = read(path, remedy)?;
                Self::from_records(records, files_record_bytes).map_err(|reason| DatasetError::Content {
                    path: path.clone(),
                    reason,
                    remedy,
                })
            }
        }
    }

    /// Records of `record_bytes` each, label first; the reason where the bytes do not fit.
    pub fn from_records(records: Vec<u8>, record_bytes: usize) -> Result<Self, String> {
        if records.is_empty() {
            return Err("it is empty".to_owned());
        }
        if record_bytes == 0 || !records.len().is_multiple_of(record_bytes) {
            return Err(format!(
                "its {} bytes are not a whole number of records of {record_bytes} bytes",
                records.len()
            ));
        }
        Ok(Self { records, record_bytes })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len() / self.record_bytes
    }

    /// Never true: a data set has a record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of a record.
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// The bytes of record `index`, label first.
    pub fn record(&self, index: usize) -> &[u8] {
        &self.records[index * self.record_bytes..][..self.record_bytes]
    }

    /// The label of record `index`.
    pub fn label(&self, index: usize) -> u8 {
        self.records[index * self.record_bytes]
    }

    /// The labels of all records.
    pub fn labels(&self) -> Vec<u32> {
        (0..self.len()).map(|index| u32::from(self.label(index))).collect()
    }
}

/// Records of a data set, spread over devices: what `spec.producer` sends.
#[derive(Debug, Clone)]
pub struct DatasetSource {
    dataset: Arc<Dataset>,
    schedule: SampleSchedule,
}

impl DatasetSource {
    /// Spreads `dataset` over `devices` devices.
    pub fn new(
        dataset: Arc<Dataset>,
        partition: PartitionRule,
        seed: u64,
        devices: usize,
    ) -> Result<Self, DatasetError> {
        let schedule = SampleSchedule::new(seed, partition, &dataset.labels(), devices)?;
        Ok(Self { dataset, schedule })
    }

    /// The bytes of sample `number` of `device`: a pure function of data set, seed, device and number.
    pub fn sample(&self, device: usize, number: u64) -> &[u8] {
        self.dataset.record(self.schedule.sample_index(device, number) as usize)
    }
}

impl RecordSource for DatasetSource {
    fn record(&mut self, device: usize, number: u64) -> &[u8] {
        self.sample(device, number)
    }
}

fn read(path: &Path, remedy: &'static str) -> Result<Vec<u8>, DatasetError> {
    std::fs::read(path).map_err(|error| DatasetError::Read {
        path: path.to_owned(),
        reason: error.to_string(),
        remedy,
    })
}

fn content(path: &Path, reason: String) -> DatasetError {
    DatasetError::Content { path: path.to_owned(), reason, remedy: REMEDY }
}

/// The binary version of CIFAR-10 is what streams send already: label, red, green, blue.
fn load_cifar(dir: &Path, split: Split) -> Result<Dataset, DatasetError> {
    let names: &[&str] = match split {
        Split::Train => &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        Split::Test => &["test_batch.bin"],
    };
    let mut records = Vec::new();
    for name in names {
        let path = dir.join(name);
        let bytes = read(&path, REMEDY)?;
        check_cifar(&bytes).map_err(|reason| content(&path, reason))?;
        // The first file tells how large the others are.
        if records.is_empty() {
            records.reserve_exact(bytes.len() * names.len());
        }
        records.extend_from_slice(&bytes);
    }
    Ok(Dataset { records, record_bytes: CIFAR_RECORD_BYTES })
}

/// Pure: why a file is not a batch of CIFAR-10.
fn check_cifar(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(CIFAR_RECORD_BYTES) {
        return Err(format!(
            "its {} bytes are not a whole number of CIFAR-10 records of {CIFAR_RECORD_BYTES} bytes",
            bytes.len()
        ));
    }
    check_labels(bytes.iter().step_by(CIFAR_RECORD_BYTES).copied())
}

fn check_labels(mut labels: impl Iterator<Item = u8>) -> Result<(), String> {
    match labels.find(|&label| label >= CLASSES) {
        None => Ok(()),
        Some(label) => Err(format!("it has the label {label}, above {}", CLASSES - 1)),
    }
}

fn load_fashion(dir: &Path, split: Split) -> Result<Dataset, DatasetError> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images_path = dir.join(format!("{prefix}-images-idx3-ubyte"));
    let labels_path = dir.join(format!("{prefix}-labels-idx1-ubyte"));
    let (images_file, labels_file) = (read(&images_path, REMEDY)?, read(&labels_path, REMEDY)?);
    let images = idx_values(&images_file, &[28, 28]).map_err(|reason| content(&images_path, reason))?;
    let labels = idx_values(&labels_file, &[]).map_err(|reason| content(&labels_path, reason))?;
    check_labels(labels.iter().copied()).map_err(|reason| content(&labels_path, reason))?;
    let pictures = images.len() / (FASHION_RECORD_BYTES - 1);
    if pictures != labels.len() {
        return Err(content(&labels_path, format!("it has {} labels for {pictures} pictures", labels.len())));
    }
    let mut records = Vec::with_capacity(labels.len() * FASHION_RECORD_BYTES);
    for (&label, image) in labels.iter().zip(images.chunks_exact(FASHION_RECORD_BYTES - 1)) {
        records.push(label);
        records.extend_from_slice(image);
    }
    Ok(Dataset { records, record_bytes: FASHION_RECORD_BYTES })
}

/// Pure: the values of an IDX file of unsigned bytes whose items have the dimensions `item`.
fn idx_values<'a>(file: &'a [u8], item: &[u32]) -> Result<&'a [u8], String> {
    let word = |at: usize| file.get(at * 4..at * 4 + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    // Magic: two zero bytes, 8 for unsigned bytes, the number of dimensions.
    let magic = 0x0800 + 1 + item.len() as u32;
    if word(0) != Some(magic) {
        return Err(format!("it is not an IDX file of bytes with {} dimension(s)", item.len() + 1));
    }
    let count = word(1).ok_or("it ends in its header")? as usize;
    for (i, &want) in item.iter().enumerate() {
        if word(2 + i) != Some(want) {
            return Err(format!("its pictures are not of {item:?} pixels"));
        }
    }
    let values = &file[8 + 4 * item.len()..];
    let want = count * item.iter().product::<u32>() as usize;
    if count == 0 || values.len() != want {
        return Err(format!("it holds {} values where its header promises {want}", values.len()));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_data_set_is_an_error_that_names_the_file_and_both_remedies() {
        let config = DatasetConfig { name: DatasetName::Cifar10, path: None };
        let error = Dataset::load(&config, Split::Test, Path::new("/nowhere"), 0).unwrap_err().to_string();
        for part in ["/nowhere/cifar-10-batches-bin/test_batch.bin", "scripts/setup.sh data", "--data DIR"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn a_truncated_batch_and_an_impossible_label_are_refused() {
        let mut bytes = vec![0; 2 * CIFAR_RECORD_BYTES];
        assert_eq!(check_cifar(&bytes), Ok(()));
        bytes[CIFAR_RECORD_BYTES] = 10;
        assert!(check_cifar(&bytes).unwrap_err().contains("label 10"));
        bytes.pop();
        assert!(check_cifar(&bytes).unwrap_err().contains("6145 bytes"));
    }

    #[test]
    fn idx_files_are_read_by_their_header() {
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28];
        file.resize(16 + 2 * 784, 7);
        assert_eq!(idx_values(&file, &[28, 28]).unwrap().len(), 1568);
        assert!(idx_values(&file, &[]).unwrap_err().contains("1 dimension"));
        assert!(idx_values(&file, &[28, 29]).unwrap_err().contains("pixels"));
        file.pop();
        assert!(idx_values(&file, &[28, 28]).unwrap_err().contains("promises 1568"));
        assert!(idx_values(&file[..3], &[28, 28]).is_err());
        assert!(idx_values(&file[..10], &[28, 28]).is_err());
    }

    #[test]
    fn records_of_a_file_must_fill_it() {
        let set = Dataset::from_records(vec![3, 0, 0, 4, 1, 1], 3).unwrap();
        assert_eq!((set.len(), set.label(1), set.record(1)), (2, 4, &[4, 1, 1][..]));
        assert!(Dataset::from_records(vec![1, 2], 3).unwrap_err().contains("2 bytes"));
        assert!(Dataset::from_records(vec![], 3).is_err());
    }

    #[test]
    fn every_device_gets_its_own_records_and_the_same_again() {
        let records: Vec<u8> = (0..40u8).flat_map(|i| [i % 4, i]).collect();
        let set = Arc::new(Dataset::from_records(records, 2).unwrap());
        let source = DatasetSource::new(Arc::clone(&set), PartitionRule::Iid, 7, 2).unwrap();
        let draw = |source: &DatasetSource, device| -> Vec<u8> {
            (0..20).map(|number| source.sample(device, number)[1]).collect()
        };
        let (a, b) = (draw(&source, 0), draw(&source, 1));
        let mut all = [a.clone(), b].concat();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<u8>>(), "one epoch is the whole data set, each record once");
        assert_eq!(a, draw(&DatasetSource::new(set, PartitionRule::Iid, 7, 2).unwrap(), 0));
    }
}
