//! Batches: from samples to tensors, in one pass per sample. No I/O.
//!
//! A sample is a label and a picture, channel by channel, row by row ([`SampleShape`]). Crop, flip and normalisation happen
//! while the bytes become numbers, straight into the tensor that the network reads: a value v of channel c becomes
//! (v/255 − mean_c)/std_c, numbers without the 255. Crops of the padded picture and mirror images are those of He et al.,
//! "Deep Residual Learning for Image Recognition" (CVPR 2016, §4.2).

use scadles_api::worker::{SampleShape, Transform, ValueType};
use scadles_core::augment::{Augmentation, SampleIdentity};
use scadles_core::batch::{Split, micro_batches};
use scadles_kafka::format::{RejectReason, check_sample};
use tch::{TchError, Tensor};

use crate::numeric::{FilledTensor, Real};

/// What can go wrong while a batch is put together: mistakes of the caller, and no memory.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A sample that does not have the job's shape.
    #[error("failed to put a sample into a batch")]
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
    /// Label, then the picture.
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
    pub fn parts(
        &self,
        micro_batch: usize,
        split: Split,
    ) -> impl Iterator<Item = Result<Self, TchError>> + '_ {
        let mut start = 0;
        micro_batches(self.len(), micro_batch, split).into_iter().map(move |count| {
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, count as i64);
            let part = Ok(Self { pictures: part(&self.pictures)?, labels: part(&self.labels)? });
            start += count as i64;
            part
        })
    }
}

/// How the values of a sample become numbers, by channel.
#[derive(Debug)]
enum Normalization<T> {
    /// The normalised value of each byte.
    Bytes(Vec<[T; 256]>),
    /// Of numbers.
    Numbers(Vec<Standard>),
}

/// Turns samples into batches, within memory that is allocated once and starts on 64 bytes.
///
/// The batch is a view of that memory: it is valid until the next call that fills rows. To gather one batch while another
/// is computed on, two assemblers are used in turn ([`crate::decode_ahead`]).
#[derive(Debug)]
pub struct BatchAssembler<T: Real> {
    shape: SampleShape,
    padding: usize,
    normalization: Normalization<T>,
    pictures: FilledTensor<T>,
    labels: FilledTensor<i64>,
    /// The sample that each row holds, where it is known.
    held: Vec<Option<SampleIdentity>>,
    batch: Batch,
}

impl<T: Real> BatchAssembler<T> {
    /// Room for batches of up to `max_batch` samples. `transform` has one mean and deviation per channel; a channel
    /// without one is normalised by the first's.
    pub fn new(shape: &SampleShape, transform: &Transform, max_batch: usize) -> Result<Self, BatchError> {
        let (pictures, labels) = memory(shape, max_batch)?;
        let batch = Batch { pictures: pictures.first(0)?, labels: labels.first(0)? };
        let statistics = |values: &[f32], channel: usize, default: f32| {
            f64::from(values.get(channel).or(values.first()).copied().unwrap_or(default))
        };
        let standards = (0..shape.input_shape[0] as usize).map(|channel| Standard {
            mean: statistics(&transform.mean, channel, 0.0),
            std: statistics(&transform.std, channel, 1.0),
        });
        Ok(Self {
            shape: *shape,
            padding: transform.random_crop_padding as usize,
            normalization: match shape.value_type() {
                ValueType::U8 => Normalization::Bytes(standards.map(table).collect()),
                ValueType::F32 => Normalization::Numbers(standards.collect()),
            },
            pictures,
            labels,
            held: vec![None; max_batch],
            batch,
        })
    }

    /// Sees to room for `max_batch` samples. Where there was less, the batch is gone and one of no samples.
    pub fn make_room(&mut self, max_batch: usize) -> Result<(), BatchError> {
        if max_batch <= self.held.len() {
            return Ok(());
        }
        (self.pictures, self.labels) = memory(&self.shape, max_batch)?;
        self.held = vec![None; max_batch];
        self.close(0).map(|_| ())
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

    /// The first `kept` samples of the batch last assembled are the batch, or all if they are fewer.
    pub fn keep(&mut self, kept: usize) -> Result<&Batch, BatchError> {
        self.close(kept.min(self.batch.len()))
    }

    fn rows(&mut self) -> Rows<'_, T> {
        Rows {
            shape: &self.shape,
            padding: self.padding,
            normalization: &self.normalization,
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

    /// Class numbers of the batch last assembled.
    pub fn labels(&self) -> &[i64] {
        &self.labels.as_slice()[..self.batch.len()]
    }
}

/// Pictures and labels of up to `max_batch` samples.
fn memory<T: Real>(
    shape: &SampleShape,
    max_batch: usize,
) -> Result<(FilledTensor<T>, FilledTensor<i64>), TchError> {
    let [channels, height, width] = shape.input_shape.map(i64::from);
    let size = [max_batch as i64, channels, height, width];
    Ok((FilledTensor::new(&size)?, FilledTensor::new(&size[..1])?))
}

/// The memory of a batch, to be filled row by row.
struct Rows<'a, T> {
    shape: &'a SampleShape,
    padding: usize,
    normalization: &'a Normalization<T>,
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
        let label = check_sample(sample.payload, self.shape)?;
        let place = Placement::new(sample.augmentation, self.padding)?;
        let picture_len = self.shape.values();
        let target = &mut self.pictures[row * picture_len..][..picture_len];
        let source = &sample.payload[self.shape.label_bytes()..];
        match self.normalization {
            Normalization::Bytes(tables) => {
                fill(target, source.as_chunks::<1>().0, tables, self.shape, place);
            }
            Normalization::Numbers(standards) => {
                fill(target, source.as_chunks::<4>().0, standards, self.shape, place);
            }
        }
        self.labels[row] = i64::from(label);
        self.held[row] = identity;
        Ok(())
    }
}

/// Mean and standard deviation of one channel.
#[derive(Debug, Clone, Copy)]
struct Standard {
    mean: f64,
    std: f64,
}

impl Standard {
    /// (v − mean) / std, rounded once.
    fn of<T: Real>(self, value: f64) -> T {
        T::from_f64((value - self.mean) / self.std)
    }
}

/// The normalised value of each byte v, which stands for v/255.
fn table<T: Real>(standard: Standard) -> [T; 256] {
    std::array::from_fn(|byte| standard.of(byte as f64 / 255.0))
}

/// From the bytes of a value to the normalised number.
trait Normalize<T, const BYTES: usize> {
    /// Of one value.
    fn number(&self, bytes: [u8; BYTES]) -> T;
}

impl<T: Real> Normalize<T, 1> for [T; 256] {
    fn number(&self, [byte]: [u8; 1]) -> T {
        self[usize::from(byte)]
    }
}

impl<T: Real> Normalize<T, 4> for Standard {
    fn number(&self, bytes: [u8; 4]) -> T {
        self.of(f64::from(f32::from_le_bytes(bytes)))
    }
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

/// Normalises one picture into `target`, cropped and mirrored. Outside the picture lie zeros, so that padding is black, as
/// when a picture is padded before it is normalised.
fn fill<T: Real, const BYTES: usize, N: Normalize<T, BYTES>>(
    target: &mut [T],
    source: &[[u8; BYTES]],
    channels: &[N],
    shape: &SampleShape,
    place: Placement,
) {
    let [_, height, width] = shape.input_shape.map(|side| side as usize);
    let columns = visible(place.right, width);
    for (channel, normalize) in channels.iter().enumerate() {
        let (plane, target) = (channel * height * width, &mut target[channel * height * width..]);
        for (y, row) in target.chunks_exact_mut(width).take(height).enumerate() {
            let source_y = y as isize + place.down;
            if source_y < 0 || source_y >= height as isize || columns.is_empty() {
                row.fill(normalize.number([0; BYTES]));
                continue;
            }
            let source_row = &source[plane + source_y as usize * width..][..width];
            let first = (columns.start as isize + place.right) as usize;
            let values = &source_row[first..][..columns.len()];
            fill_row(row, values, columns.start, normalize, place.flip);
        }
    }
}

/// Columns of the crop that lie within the picture.
fn visible(right: isize, width: usize) -> std::ops::Range<usize> {
    let start = (-right).clamp(0, width as isize) as usize;
    let end = (width as isize - right).clamp(0, width as isize) as usize;
    start..end
}

/// One row: `values` from column `start` on, black around them; mirrored afterwards if `flip`.
fn fill_row<T: Real, const BYTES: usize>(
    row: &mut [T],
    values: &[[u8; BYTES]],
    start: usize,
    normalize: &impl Normalize<T, BYTES>,
    flip: bool,
) {
    let (width, end, black) = (row.len(), start + values.len(), normalize.number([0; BYTES]));
    if flip {
        row[..width - end].fill(black);
        row[width - start..].fill(black);
        for (number, &bytes) in row[width - end..width - start].iter_mut().rev().zip(values) {
            *number = normalize.number(bytes);
        }
    } else {
        row[..start].fill(black);
        row[end..].fill(black);
        for (number, &bytes) in row[start..end].iter_mut().zip(values) {
            *number = normalize.number(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
