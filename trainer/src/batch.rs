//! Batches: from records to tensors, in one pass per sample. No I/O.
//!
//! A record is one label byte and a picture, channel by channel, row by row, a byte per value. Crop, flip and
//! normalisation happen while the bytes become numbers, straight into the tensor that the network reads.

use scadles_api::worker::{ModelConfig, Transform};
use scadles_core::augment::{Augmentation, SampleIdentity};
use tch::{TchError, Tensor};

use crate::numeric::{FilledTensor, Real};

/// Why a record cannot be trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// Cut short, or of another picture size.
    #[error("the record has {found_bytes} bytes; expected {expected_bytes} (a label byte and the picture)")]
    Length {
        /// Bytes of the record.
        found_bytes: usize,
        /// Bytes that the model's input shape needs.
        expected_bytes: usize,
    },
    /// The label byte names no class.
    #[error("the record's label is {label}; the model has the classes 0 to {}", .num_classes - 1)]
    Label {
        /// The byte.
        label: u8,
        /// Classes of the model.
        num_classes: u32,
    },
}

/// Checks a record against the model's input: length and label. Returns the label.
pub fn decode(payload: &[u8], model: &ModelConfig) -> Result<u8, RejectReason> {
    let expected_bytes = model.record_bytes();
    match payload.first() {
        Some(&label) if payload.len() == expected_bytes => {
            if u32::from(label) < model.num_classes {
                Ok(label)
            } else {
                Err(RejectReason::Label { label, num_classes: model.num_classes })
            }
        }
        _ => Err(RejectReason::Length { found_bytes: payload.len(), expected_bytes }),
    }
}

/// What can go wrong while a batch is put together: mistakes of the caller, and no memory.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A record that [`decode`] would have refused.
    #[error("failed to put a record into a batch")]
    Rejected(#[from] RejectReason),
    /// More samples than the assembler has room for.
    #[error("the batch has more than {max_batch} samples")]
    TooLarge {
        /// Room of the assembler.
        max_batch: usize,
    },
    /// A crop outside the padded picture.
    #[error("the crop starts at column {}, row {}; allowed: 0 to {}", .augmentation.crop_x, .augmentation.crop_y, 2 * .padding)]
    Crop {
        /// The sample's augmentation.
        augmentation: Augmentation,
        /// Padding of the transform.
        padding: usize,
    },
    /// The thread that decodes ahead could not be started, or has ended with a batch in its hands.
    #[error("failed to decode ahead: {reason}")]
    Thread {
        /// What was seen.
        reason: String,
    },
    /// libtorch could not provide the tensors.
    #[error("failed to make the batch's tensors")]
    Torch(#[from] TchError),
}

/// One sample on its way into a batch.
#[derive(Debug, Clone, Copy)]
pub struct SampleRef<'a> {
    /// Label byte, then the picture.
    pub payload: &'a [u8],
    /// Its crop and flip.
    pub augmentation: Augmentation,
}

impl<'a> SampleRef<'a> {
    /// A sample as it is: cut from the middle of the padded picture, not mirrored. What evaluation looks at.
    pub fn plain(payload: &'a [u8], transform: &Transform) -> Self {
        let middle = transform.random_crop_padding;
        Self { payload, augmentation: Augmentation { crop_x: middle, crop_y: middle, flip: false } }
    }
}

/// Pictures `[b, C, H, W]` and labels `[b]` (i64).
#[derive(Debug)]
pub struct Batch {
    /// Normalised values.
    pub pictures: Tensor,
    /// Class numbers.
    pub labels: Tensor,
}

impl Batch {
    /// Number of samples b.
    pub fn len(&self) -> usize {
        self.labels.numel()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch in order, in views of at most `micro_batch` samples (at least 1).
    pub fn parts(&self, micro_batch: usize) -> impl Iterator<Item = Result<Self, TchError>> + '_ {
        let (len, size) = (self.len(), micro_batch.max(1));
        (0..len).step_by(size).map(move |start| {
            let count = size.min(len - start) as i64;
            let part = |tensor: &Tensor| tensor.f_narrow(0, start as i64, count);
            Ok(Self { pictures: part(&self.pictures)?, labels: part(&self.labels)? })
        })
    }
}

/// Side lengths of a picture.
#[derive(Debug, Clone, Copy)]
struct Shape {
    channels: usize,
    height: usize,
    width: usize,
}

/// Turns records into batches, within memory that is allocated once and starts on 64 bytes.
///
/// The batch is a view of that memory: it is valid until the next call that fills rows. To gather one batch while another
/// is computed on, two assemblers are used in turn ([`crate::decode_ahead`]).
#[derive(Debug)]
pub struct BatchAssembler<T: Real> {
    model: ModelConfig,
    shape: Shape,
    padding: usize,
    /// Per channel, the normalised value of each byte.
    tables: Vec<[T; 256]>,
    pictures: FilledTensor<T>,
    labels: FilledTensor<i64>,
    /// The sample that each row holds, where it is known.
    held: Vec<Option<SampleIdentity>>,
    batch: Batch,
}

impl<T: Real> BatchAssembler<T> {
    /// Room for batches of up to `max_batch` samples. `transform` has one mean and deviation per channel; a channel
    /// without one is normalised by the first's.
    pub fn new(model: &ModelConfig, transform: &Transform, max_batch: usize) -> Result<Self, BatchError> {
        let [channels, height, width] = model.input_shape.map(|side| side as usize);
        let shape = [max_batch as i64, channels as i64, height as i64, width as i64];
        let (pictures, labels) = (FilledTensor::new(&shape)?, FilledTensor::new(&shape[..1])?);
        let batch = Batch { pictures: pictures.first(0)?, labels: labels.first(0)? };
        let statistics = |values: &[f32], channel: usize, default: f32| {
            f64::from(values.get(channel).or(values.first()).copied().unwrap_or(default))
        };
        let table = |channel| {
            table(statistics(&transform.mean, channel, 0.0), statistics(&transform.std, channel, 1.0))
        };
        Ok(Self {
            model: model.clone(),
            shape: Shape { channels, height, width },
            padding: transform.random_crop_padding as usize,
            tables: (0..channels).map(table).collect(),
            pictures,
            labels,
            held: vec![None; max_batch],
            batch,
        })
    }

    /// Puts `samples` in order into one batch.
    pub fn assemble<'a>(
        &mut self,
        samples: impl IntoIterator<Item = SampleRef<'a>>,
    ) -> Result<&Batch, BatchError> {
        let mut rows = self.rows();
        let mut len = 0;
        for sample in samples {
            rows.fill(len, None, sample)?;
            len += 1;
        }
        self.close(len)
    }

    /// Decodes samples into rows of a batch to come, which [`BatchAssembler::complete`] makes. One identity always stands
    /// for the same bytes, crop and flip.
    pub fn prepare<'a>(
        &mut self,
        samples: impl IntoIterator<Item = (usize, SampleIdentity, SampleRef<'a>)>,
    ) -> Result<(), BatchError> {
        let mut rows = self.rows();
        samples.into_iter().try_for_each(|(row, identity, sample)| rows.fill(row, Some(identity), sample))
    }

    /// Puts `samples` in order into one batch; rows that hold their sample already stay as they are. Returns how many
    /// those were.
    pub fn complete<'a>(
        &mut self,
        samples: impl IntoIterator<Item = (SampleIdentity, SampleRef<'a>)>,
    ) -> Result<u64, BatchError> {
        let mut rows = self.rows();
        let (mut len, mut kept) = (0, 0);
        for (identity, sample) in samples {
            if rows.held.get(len) == Some(&Some(identity)) {
                kept += 1;
            } else {
                rows.fill(len, Some(identity), sample)?;
            }
            len += 1;
        }
        self.close(len)?;
        Ok(kept)
    }

    fn rows(&mut self) -> Rows<'_, T> {
        Rows {
            model: &self.model,
            shape: self.shape,
            padding: self.padding,
            tables: &self.tables,
            pictures: self.pictures.as_mut_slice(),
            labels: self.labels.as_mut_slice(),
            held: &mut self.held,
        }
    }

    /// The first `len` rows are the batch.
    fn close(&mut self, len: usize) -> Result<&Batch, BatchError> {
        self.batch = Batch { pictures: self.pictures.first(len)?, labels: self.labels.first(len)? };
        Ok(&self.batch)
    }

    /// The batch last assembled; empty before the first.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }
}

/// The memory of a batch, to be filled row by row.
struct Rows<'a, T> {
    model: &'a ModelConfig,
    shape: Shape,
    padding: usize,
    tables: &'a [[T; 256]],
    pictures: &'a mut [T],
    labels: &'a mut [i64],
    held: &'a mut [Option<SampleIdentity>],
}

impl<T: Real> Rows<'_, T> {
    fn fill(
        &mut self,
        row: usize,
        identity: Option<SampleIdentity>,
        sample: SampleRef<'_>,
    ) -> Result<(), BatchError> {
        if row >= self.labels.len() {
            return Err(BatchError::TooLarge { max_batch: self.labels.len() });
        }
        let label = decode(sample.payload, self.model)?;
        let place = Placement::new(sample.augmentation, self.padding)?;
        let picture_len = self.model.picture_bytes();
        let target = &mut self.pictures[row * picture_len..][..picture_len];
        fill(target, &sample.payload[1..], self.tables, self.shape, place);
        self.labels[row] = i64::from(label);
        self.held[row] = identity;
        Ok(())
    }
}

/// (v/255 − mean) / std of each byte v, rounded once.
fn table<T: Real>(mean: f64, std: f64) -> [T; 256] {
    std::array::from_fn(|byte| T::from_f64((byte as f64 / 255.0 - mean) / std))
}

/// Where the crop lies relative to the picture: rows down, columns right; negative reaches into the padding.
#[derive(Debug, Clone, Copy)]
struct Placement {
    down: isize,
    right: isize,
    flip: bool,
}

impl Placement {
    fn new(augmentation: Augmentation, padding: usize) -> Result<Self, BatchError> {
        let Augmentation { crop_x, crop_y, flip } = augmentation;
        if crop_x.max(crop_y) as usize > 2 * padding {
            return Err(BatchError::Crop { augmentation, padding });
        }
        let shift = |crop: u32| crop as isize - padding as isize;
        Ok(Self { down: shift(crop_y), right: shift(crop_x), flip })
    }
}

/// Normalises one picture into `target`, cropped and mirrored. Outside the picture lie zero bytes, so that padding is
/// black, as when a picture is padded before it is normalised.
fn fill<T: Real>(target: &mut [T], source: &[u8], tables: &[[T; 256]], shape: Shape, place: Placement) {
    let Shape { channels, height, width } = shape;
    let columns = visible(place.right, width);
    for channel in 0..channels {
        let table = &tables[channel];
        let (plane, target) = (channel * height * width, &mut target[channel * height * width..]);
        for (y, row) in target.chunks_exact_mut(width).take(height).enumerate() {
            let source_y = y as isize + place.down;
            if source_y < 0 || source_y >= height as isize || columns.is_empty() {
                row.fill(table[0]);
                continue;
            }
            let source_row = &source[plane + source_y as usize * width..][..width];
            let first = (columns.start as isize + place.right) as usize;
            let bytes = &source_row[first..][..columns.len()];
            fill_row(row, bytes, columns.start, table, place.flip);
        }
    }
}

/// Columns of the crop that lie within the picture.
fn visible(right: isize, width: usize) -> std::ops::Range<usize> {
    let start = (-right).clamp(0, width as isize) as usize;
    let end = (width as isize - right).clamp(0, width as isize) as usize;
    start..end
}

/// One row: `bytes` from column `start` on, black around them; mirrored afterwards if `flip`.
fn fill_row<T: Real>(row: &mut [T], bytes: &[u8], start: usize, table: &[T; 256], flip: bool) {
    let (width, end) = (row.len(), start + bytes.len());
    if flip {
        row[..width - end].fill(table[0]);
        row[width - start..].fill(table[0]);
        for (value, &byte) in row[width - end..width - start].iter_mut().rev().zip(bytes) {
            *value = table[usize::from(byte)];
        }
    } else {
        row[..start].fill(table[0]);
        row[end..].fill(table[0]);
        for (value, &byte) in row[start..end].iter_mut().zip(bytes) {
            *value = table[usize::from(byte)];
        }
    }
}

#[cfg(test)]
mod tests;
