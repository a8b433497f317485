//! What one sample of a job is: as it travels, as a file holds it, and as it lies in memory. Pure.

use serde::{Deserialize, Serialize};

use crate::job::{ImageFit, ValueType};
use crate::worker::ModelConfig;

/// Labels up to this number fit a byte.
const CLASSES_OF_A_BYTE: u32 = 256;

/// Layout of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum RecordFormat {
    /// One label byte, then the picture's bytes.
    CifarBinary,
    /// A coarse label byte, a fine label byte, then the picture's bytes.
    Cifar100,
    /// A PNG or JPEG file, the label in a header.
    Image {
        /// What happens to pictures of another size.
        fit: ImageFit,
    },
    /// Plain values, the label in a header.
    Tensor {
        /// Their type.
        dtype: ValueType,
    },
}

/// What one sample of a job is.
///
/// A decoded sample has one layout whatever the format: the label (one byte; two, little-endian, with more than 256 classes),
/// then the values, channel by channel, row by row, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleShape {
    /// Layout of its record.
    pub format: RecordFormat,
    /// Number of labels.
    pub num_classes: u32,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
}

impl SampleShape {
    /// Samples of this format for `model`.
    pub fn new(format: RecordFormat, model: &ModelConfig) -> Self {
        Self { format, num_classes: model.num_classes, input_shape: model.input_shape }
    }

    /// Number of values: channels × height × width.
    pub fn values(&self) -> usize {
        self.input_shape.iter().map(|side| *side as usize).product()
    }

    /// Type of the values.
    pub const fn value_type(&self) -> ValueType {
        match self.format {
            RecordFormat::Tensor { dtype } => dtype,
            RecordFormat::CifarBinary | RecordFormat::Cifar100 | RecordFormat::Image { .. } => ValueType::U8,
        }
    }

    /// Bytes of the label.
    pub const fn label_bytes(&self) -> usize {
        if self.num_classes > CLASSES_OF_A_BYTE { 2 } else { 1 }
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> usize {
        self.values() * self.value_type().bytes()
    }

    /// Bytes of a decoded sample.
    pub fn sample_bytes(&self) -> usize {
        self.label_bytes() + self.value_bytes()
    }

    /// Bytes in front of the label in a record of a file.
    pub const fn bytes_before_label(&self) -> usize {
        if matches!(self.format, RecordFormat::Cifar100) { 1 } else { 0 }
    }

    /// Bytes of a record's payload; of a packed picture what it has unpacked, which is mostly more.
    pub fn payload_bytes(&self) -> usize {
        match self.format {
            RecordFormat::CifarBinary | RecordFormat::Cifar100 => {
                self.bytes_before_label() + self.sample_bytes()
            }
            RecordFormat::Image { .. } | RecordFormat::Tensor { .. } => self.value_bytes(),
        }
    }

    /// The label of a decoded sample; of one that is cut short what is left of it.
    pub fn label(&self, sample: &[u8]) -> u32 {
        let bytes = sample.iter().take(self.label_bytes());
        bytes.rev().fold(0, |label, byte| (label << 8) | u32::from(*byte))
    }

    /// The label as a decoded sample begins with it.
    pub fn label_prefix(&self, label: u32) -> impl Iterator<Item = u8> + use<> {
        label.to_le_bytes().into_iter().take(self.label_bytes())
    }
}

impl ValueType {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_more_than_256_classes_take_two_bytes() {
        let shape = |num_classes| SampleShape {
            format: RecordFormat::Tensor { dtype: ValueType::F32 },
            num_classes,
            input_shape: [2, 3, 4],
        };
        for (classes, label, bytes) in [(256, 255, 1), (257, 256, 2), (1024, 1023, 2)] {
            let shape = shape(classes);
            let sample: Vec<u8> = shape.label_prefix(label).chain([9; 96]).collect();
            assert_eq!((sample.len(), shape.sample_bytes()), (bytes + 96, bytes + 96));
            assert_eq!(shape.label(&sample), label);
        }
    }
}
