//! Data sets: records of one size in memory, seen as the samples of a job, or as the records that its streams send.
//!
//! Reading files is I/O ([`Dataset::load`]); decoding them is pure.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scadles_api::job::DatasetName;
use scadles_api::worker::{DatasetConfig, PartitionRule, RecordFormat, SampleShape, ValueType};
use scadles_core::schedule::SampleSchedule;

use crate::format::encode_picture;
use crate::producer::{OutgoingRecord, RecordSource};

/// Bytes of a CIFAR-10 record: label, then 3 planes (red, green, blue) of 32×32.
pub const CIFAR_RECORD_BYTES: usize = 1 + 3 * 32 * 32;

/// Bytes of a CIFAR-100 record: coarse label, fine label, then as CIFAR-10.
pub const CIFAR_100_RECORD_BYTES: usize = 1 + CIFAR_RECORD_BYTES;

/// Bytes of a Fashion-MNIST record: label, then one plane of 28×28.
pub const FASHION_RECORD_BYTES: usize = 1 + 28 * 28;

/// Classes of CIFAR-10 and of Fashion-MNIST.
const CLASSES: u8 = 10;

/// Fine and coarse labels of CIFAR-100.
const FINE_CLASSES: u8 = 100;
const COARSE_CLASSES: u8 = 20;

/// Where the data can be had.
const REMEDY: &str = "fetch it with `scripts/setup.sh data`, or name its folder with --data DIR";

/// The same of CIFAR-100, which the set-up does not fetch.
const CIFAR_100_REMEDY: &str = "unpack the binary version of CIFAR-100 (cifar-100-binary.tar.gz of \
     https://www.cs.toronto.edu/~kriz/cifar.html) so that the folder cifar-100-binary lies among the data sets, or name \
     another folder of data sets with --data DIR";

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
    /// Bytes of a record before its label.
    before_label: usize,
    /// Type of the values in the records.
    stored: ValueType,
    /// What samples of it are to look like.
    shape: SampleShape,
}

impl Dataset {
    /// Reads a split for jobs with samples of this shape. `data_dir` holds the folders `cifar-10-batches-bin`,
    /// `cifar-100-binary` and `fashion-mnist`; the one file of `Files` serves for both splits.
    pub fn load(
        config: &DatasetConfig,
        split: Split,
        data_dir: &Path,
        shape: &SampleShape,
    ) -> Result<Self, DatasetError> {
        let named = |records, record_bytes, before_label| Self {
            records,
            record_bytes,
            before_label,
            stored: ValueType::U8,
            shape: *shape,
        };
        match config.name {
            DatasetName::Cifar10 => {
                let records = load_cifar(&data_dir.join("cifar-10-batches-bin"), split)?;
                Ok(named(records, CIFAR_RECORD_BYTES, 0))
            }
            DatasetName::Cifar100 => {
                let records = load_cifar_100(&data_dir.join("cifar-100-binary"), split)?;
                Ok(named(records, CIFAR_100_RECORD_BYTES, 1))
            }
            DatasetName::FashionMnist => {
                let records = load_fashion(&data_dir.join("fashion-mnist"), split)?;
                Ok(named(records, FASHION_RECORD_BYTES, 0))
            }
            DatasetName::Files => {
                let path = config.path.as_ref().ok_or(DatasetError::NoPath)?;
                let remedy = "name a file of records for spec.stream.format, spec.model.inputShape and \
                              spec.model.numClasses, one after another";
                let records = read(path, remedy)?;
                Self::from_records(records, shape).map_err(|reason| DatasetError::Content {
                    path: path.clone(),
                    reason,
                    remedy,
                })
            }
        }
    }

    /// Records of the user's own; the reason where the bytes do not fit.
    pub fn from_records(records: Vec<u8>, shape: &SampleShape) -> Result<Self, String> {
        let record_bytes = shape.bytes_before_label() + shape.sample_bytes();
        if records.is_empty() {
            return Err("it is empty".to_owned());
        }
        if !records.len().is_multiple_of(record_bytes) {
            return Err(format!(
                "its {} bytes are not a whole number of records of {record_bytes} bytes",
                records.len()
            ));
        }
        let (before_label, stored) = (shape.bytes_before_label(), shape.value_type());
        Ok(Self { records, record_bytes, before_label, stored, shape: *shape })
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

    /// The bytes of record `index`.
    pub fn record(&self, index: usize) -> &[u8] {
        &self.records[index * self.record_bytes..][..self.record_bytes]
    }

    /// The label of record `index`.
    pub fn label(&self, index: usize) -> u32 {
        self.shape.label(self.labelled(index))
    }

    /// The labels of all records.
    pub fn labels(&self) -> Vec<u32> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// Record `index` as a sample of the job. Bytes become numbers from 0 to 1 where the job wants numbers.
    pub fn sample(&self, index: usize) -> Cow<'_, [u8]> {
        let labelled = self.labelled(index);
        if self.stored == self.shape.value_type() {
            return Cow::Borrowed(labelled);
        }
        let (label, bytes) = labelled.split_at(self.shape.label_bytes());
        let mut sample = Vec::with_capacity(self.shape.sample_bytes());
        sample.extend_from_slice(label);
        sample.extend(bytes.iter().flat_map(|byte| (f32::from(*byte) / 255.0).to_le_bytes()));
        Cow::Owned(sample)
    }

    /// Record `index` from its label on.
    fn labelled(&self, index: usize) -> &[u8] {
        &self.record(index)[self.before_label..]
    }

    /// Record `index` as a stream sends it: its payload into `payload`, and the label of its header, if it has one.
    fn outgoing(&self, index: usize, payload: &mut Vec<u8>) -> Result<Option<u32>, String> {
        payload.clear();
        let sample = self.sample(index);
        match self.shape.format {
            RecordFormat::CifarBinary => payload.extend_from_slice(&sample),
            RecordFormat::Cifar100 if self.before_label == self.shape.bytes_before_label() => {
                payload.extend_from_slice(self.record(index));
            }
            RecordFormat::Cifar100 => return Err("the data set has no coarse labels".to_owned()),
            RecordFormat::Image { .. } => {
                let values = &sample[self.shape.label_bytes()..];
                encode_picture(values, &self.shape, payload).map_err(|error| error.to_string())?;
                return Ok(Some(self.label(index)));
            }
            RecordFormat::Tensor { .. } => {
                payload.extend_from_slice(&sample[self.shape.label_bytes()..]);
                return Ok(Some(self.label(index)));
            }
        }
        Ok(None)
    }
}

/// Records of a data set, spread over devices: what `spec.producer` sends.
#[derive(Debug, Clone)]
pub struct DatasetSource {
    dataset: Arc<Dataset>,
    schedule: SampleSchedule,
    /// The record that was last made.
    payload: Vec<u8>,
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
        Ok(Self { dataset, schedule, payload: Vec::new() })
    }

    /// Sample `number` of `device` as a worker decodes it: a pure function of data set, seed, device and number.
    pub fn sample(&self, device: usize, number: u64) -> Cow<'_, [u8]> {
        self.dataset.sample(self.schedule.sample_index(device, number) as usize)
    }
}

impl RecordSource for DatasetSource {
    fn record(&mut self, device: usize, number: u64) -> Result<OutgoingRecord<'_>, String> {
        let index = self.schedule.sample_index(device, number) as usize;
        let label = self.dataset.outgoing(index, &mut self.payload)?;
        Ok(OutgoingRecord { payload: &self.payload, label })
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
fn load_cifar(dir: &Path, split: Split) -> Result<Vec<u8>, DatasetError> {
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
    Ok(records)
}

/// Pure: why a file is not a batch of CIFAR-10.
fn check_cifar(bytes: &[u8]) -> Result<(), String> {
    check_whole(bytes, CIFAR_RECORD_BYTES, "CIFAR-10")?;
    check_labels(bytes.iter().step_by(CIFAR_RECORD_BYTES), CLASSES)
}

fn check_whole(bytes: &[u8], record_bytes: usize, name: &str) -> Result<(), String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(record_bytes) {
        return Err(format!(
            "its {} bytes are not a whole number of {name} records of {record_bytes} bytes",
            bytes.len()
        ));
    }
    Ok(())
}

/// The binary version of CIFAR-100: coarse label, fine label, red, green, blue.
fn load_cifar_100(dir: &Path, split: Split) -> Result<Vec<u8>, DatasetError> {
    let path = dir.join(match split {
        Split::Train => "train.bin",
        Split::Test => "test.bin",
    });
    let remedy = CIFAR_100_REMEDY;
    let bytes = read(&path, remedy)?;
    check_cifar_100(&bytes).map_err(|reason| DatasetError::Content { path, reason, remedy })?;
    Ok(bytes)
}

/// Pure: why a file is not a part of CIFAR-100.
fn check_cifar_100(bytes: &[u8]) -> Result<(), String> {
    check_whole(bytes, CIFAR_100_RECORD_BYTES, "CIFAR-100")?;
    check_labels(bytes.iter().step_by(CIFAR_100_RECORD_BYTES), COARSE_CLASSES)?;
    check_labels(bytes.iter().skip(1).step_by(CIFAR_100_RECORD_BYTES), FINE_CLASSES)
}

fn check_labels<'a>(mut labels: impl Iterator<Item = &'a u8>, classes: u8) -> Result<(), String> {
    match labels.find(|label| **label >= classes) {
        None => Ok(()),
        Some(label) => Err(format!("it has the label {label}, above {}", classes - 1)),
    }
}

fn load_fashion(dir: &Path, split: Split) -> Result<Vec<u8>, DatasetError> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images_path = dir.join(format!("{prefix}-images-idx3-ubyte"));
    let labels_path = dir.join(format!("{prefix}-labels-idx1-ubyte"));
    let (images_file, labels_file) = (read(&images_path, REMEDY)?, read(&labels_path, REMEDY)?);
    let images = idx_values(&images_file, &[28, 28]).map_err(|reason| content(&images_path, reason))?;
    let labels = idx_values(&labels_file, &[]).map_err(|reason| content(&labels_path, reason))?;
    check_labels(labels.iter(), CLASSES).map_err(|reason| content(&labels_path, reason))?;
    let pictures = images.len() / (FASHION_RECORD_BYTES - 1);
    if pictures != labels.len() {
        return Err(content(&labels_path, format!("it has {} labels for {pictures} pictures", labels.len())));
    }
    let mut records = Vec::with_capacity(labels.len() * FASHION_RECORD_BYTES);
    for (&label, image) in labels.iter().zip(images.chunks_exact(FASHION_RECORD_BYTES - 1)) {
        records.push(label);
        records.extend_from_slice(image);
    }
    Ok(records)
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
    use std::io::Write;

    use super::*;
    use crate::format::{RecordDecoder, check_sample};

    fn shape(format: RecordFormat, num_classes: u32, input_shape: [u32; 3]) -> SampleShape {
        SampleShape { format, num_classes, input_shape }
    }

    fn binary(input_shape: [u32; 3]) -> SampleShape {
        shape(RecordFormat::CifarBinary, 10, input_shape)
    }

    /// Three records as CIFAR-100 has them, with the fine labels 0, 1 and 99.
    fn cifar_100() -> Vec<u8> {
        [(0_u8, 0_u8), (19, 1), (7, 99)]
            .into_iter()
            .flat_map(|(coarse, fine)| {
                let pixel = move |i: usize| (i * 13 + usize::from(fine)) as u8;
                [coarse, fine].into_iter().chain((0..3072).map(pixel))
            })
            .collect()
    }

    #[test]
    fn a_missing_data_set_is_an_error_that_names_the_file_and_both_remedies() {
        let config = DatasetConfig { name: DatasetName::Cifar10, path: None };
        let error = Dataset::load(&config, Split::Test, Path::new("/nowhere"), &binary([3, 32, 32]))
            .unwrap_err()
            .to_string();
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
        let load = |records: Vec<u8>| Dataset::from_records(records, &binary([1, 1, 2]));
        let set = load(vec![3, 0, 0, 4, 1, 1]).unwrap();
        assert_eq!((set.len(), set.label(1), set.record(1)), (2, 4, &[4, 1, 1][..]));
        assert!(load(vec![1, 2]).unwrap_err().contains("2 bytes"));
        assert!(load(vec![]).is_err());
    }

    #[test]
    fn cifar_100_is_read_from_its_folder_and_its_fine_labels_count() {
        let folder = std::env::temp_dir().join(format!("scadles-cifar-100-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("cifar-100-binary")).unwrap();
        let file = folder.join("cifar-100-binary/test.bin");
        std::fs::File::create(&file).unwrap().write_all(&cifar_100()).unwrap();
        let config = DatasetConfig { name: DatasetName::Cifar100, path: None };
        let shape = shape(RecordFormat::CifarBinary, 100, [3, 32, 32]);
        let set = Dataset::load(&config, Split::Test, &folder, &shape).unwrap();
        let missing = Dataset::load(&config, Split::Train, &folder, &shape).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((set.len(), set.labels()), (3, vec![0, 1, 99]));
        assert_eq!(set.sample(2), &cifar_100()[2 * 3074 + 1..]);
        for part in ["cifar-100-binary/train.bin", "cifar-100-binary.tar.gz", "--data DIR"] {
            assert!(missing.contains(part), "{part} is missing in: {missing}");
        }
    }

    #[test]
    fn a_damaged_file_of_cifar_100_is_refused() {
        let damaged = |place: usize, value: u8| {
            let mut bytes = cifar_100();
            bytes[place] = value;
            check_cifar_100(&bytes)
        };
        assert_eq!(check_cifar_100(&cifar_100()), Ok(()));
        assert!(damaged(3074, 20).unwrap_err().contains("label 20, above 19"));
        assert!(damaged(3075, 100).unwrap_err().contains("label 100, above 99"));
        assert!(check_cifar_100(&cifar_100()[1..]).unwrap_err().contains("9221 bytes"));
    }

    #[test]
    fn what_a_stream_sends_is_decoded_to_the_sample_that_a_replay_makes() {
        let image = RecordFormat::Image { fit: scadles_api::worker::ImageFit::Exact };
        let tensor = |dtype| RecordFormat::Tensor { dtype };
        let formats = [
            RecordFormat::CifarBinary,
            RecordFormat::Cifar100,
            image,
            tensor(ValueType::U8),
            tensor(ValueType::F32),
        ];
        for format in formats {
            let shape = shape(format, 100, [3, 32, 32]);
            let stored = ValueType::U8;
            let set = Dataset {
                records: cifar_100(),
                record_bytes: CIFAR_100_RECORD_BYTES,
                before_label: 1,
                stored,
                shape,
            };
            let mut source = DatasetSource::new(Arc::new(set), PartitionRule::Iid, 3, 1).unwrap();
            let mut decoder = RecordDecoder::new(shape);
            let mut labels = std::collections::BTreeSet::new();
            for number in 0..3 {
                let expected = source.sample(0, number).into_owned();
                let record = source.record(0, number).unwrap();
                let label = record.label.map(|label| label.to_string());
                let sample = decoder.decode(record.payload, label.as_ref().map(String::as_bytes)).unwrap();
                assert_eq!(sample, expected, "{format:?}");
                labels.insert(check_sample(sample, &shape).unwrap());
            }
            assert_eq!(labels.into_iter().collect::<Vec<_>>(), [0, 1, 99]);
        }
    }

    #[test]
    fn a_data_set_without_coarse_labels_is_not_sent_as_cifar_100() {
        let shape = shape(RecordFormat::Cifar100, 10, [1, 1, 1]);
        let set = Dataset { before_label: 0, ..Dataset::from_records(vec![0, 1, 2], &shape).unwrap() };
        let mut source = DatasetSource::new(Arc::new(set), PartitionRule::Iid, 3, 1).unwrap();
        assert!(source.record(0, 0).unwrap_err().contains("coarse"));
    }

    #[test]
    fn every_device_gets_its_own_records_and_the_same_again() {
        let records: Vec<u8> = (0..40u8).flat_map(|i| [i % 4, i]).collect();
        let set = Arc::new(Dataset::from_records(records, &binary([1, 1, 1])).unwrap());
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
