//! Records and samples: what travels over a topic, and what a batch is made of. No I/O.
//!
//! A record becomes a sample before it counts as buffered: only then is it known to be good, and only so has the buffer
//! slots of one size. The layout of a sample is that of [`SampleShape`], whatever the format.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::error::ImageResult;
use image::imageops::FilterType;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader, Limits};
use scadles_api::worker::{ImageFit, RecordFormat, SampleShape, ValueType};

/// Name of the header that holds a record's label, a decimal number.
pub const LABEL_HEADER: &str = "label";

/// Largest side of a picture that is scaled.
const LARGEST_SIDE: u32 = 8192;
/// Most pixels of a picture that is scaled: one of 3,840 × 2,160 has fewer.
const MOST_PIXELS: u64 = 1 << 23;
/// Most memory that a decoder may take: such a picture with 16 bits in each of four channels, and the decoder's own.
const MOST_DECODER_BYTES: u64 = 96 << 20;

/// Why a record cannot be trained on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// Cut short, or of another picture size.
    #[error("the record has {found_bytes} bytes; expected {expected_bytes} ({expected})")]
    Length {
        /// Bytes of the record.
        found_bytes: usize,
        /// Bytes that the job's shape needs.
        expected_bytes: usize,
        /// What they hold.
        expected: &'static str,
    },
    /// The label names no class.
    #[error("the record's label is {label}; the model has the classes 0 to {}", .num_classes - 1)]
    Label {
        /// The label.
        label: u32,
        /// Classes of the model.
        num_classes: u32,
    },
    /// The format has its label in a header, and there is none.
    #[error("the record has no header `{LABEL_HEADER}`, where its label belongs (a decimal number)")]
    NoLabel,
    /// The header holds something else.
    #[error("the record's header `{LABEL_HEADER}` is {text:?}; expected is a decimal number such as 7")]
    LabelText {
        /// What it holds, or the beginning of it.
        text: String,
    },
    /// No PNG or JPEG file, or a damaged one.
    #[error("the record is no readable PNG or JPEG picture: {reason}")]
    Picture {
        /// What the decoder said.
        reason: String,
    },
    /// The picture has another size, and is not to be scaled.
    #[error(
        "the picture has {width}×{height} pixels; spec.model.inputShape asks for {}×{} (spec.stream.image.fit: Stretch or \
         Crop scales pictures)", .expected.0, .expected.1
    )]
    PictureSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Width and height of the model's input.
        expected: (u32, u32),
    },
    /// The picture is too large to be scaled.
    #[error(
        "the picture has {width}×{height} pixels; scaled are pictures of at most {MOST_PIXELS} pixels and {LARGEST_SIDE} a side"
    )]
    PictureTooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// NaN or infinite.
    #[error("value {index} of the tensor is not a finite number")]
    Value {
        /// Its place, counted from 0.
        index: usize,
    },
}

/// Checks a decoded sample against the job's shape: length, label, and that values are numbers. Returns the label.
pub fn check_sample(sample: &[u8], shape: &SampleShape) -> Result<u32, RejectReason> {
    check_length(sample, shape.sample_bytes(), "the label and the picture's values")?;
    let label = check_label(shape.label(sample), shape)?;
    check_values(&sample[shape.label_bytes()..], shape)?;
    Ok(label)
}

fn check_length(bytes: &[u8], expected_bytes: usize, expected: &'static str) -> Result<(), RejectReason> {
    let found_bytes = bytes.len();
    if found_bytes == expected_bytes {
        Ok(())
    } else {
        Err(RejectReason::Length { found_bytes, expected_bytes, expected })
    }
}

fn check_label(label: u32, shape: &SampleShape) -> Result<u32, RejectReason> {
    let num_classes = shape.num_classes;
    if label < num_classes { Ok(label) } else { Err(RejectReason::Label { label, num_classes }) }
}

fn check_values(values: &[u8], shape: &SampleShape) -> Result<(), RejectReason> {
    if shape.value_type() == ValueType::U8 {
        return Ok(());
    }
    let bad = values.as_chunks::<4>().0.iter().position(|bytes| !f32::from_le_bytes(*bytes).is_finite());
    bad.map_or(Ok(()), |index| Err(RejectReason::Value { index }))
}

/// Makes samples of records. Memory for one sample is kept from record to record.
#[derive(Debug)]
pub struct RecordDecoder {
    shape: SampleShape,
    sample: Vec<u8>,
}

impl RecordDecoder {
    /// For records of a job.
    pub fn new(shape: SampleShape) -> Self {
        Self { shape, sample: Vec::with_capacity(shape.sample_bytes()) }
    }

    /// The sample in a record of this payload, with what its header [`LABEL_HEADER`] holds.
    pub fn decode<'a>(
        &'a mut self,
        payload: &'a [u8],
        label: Option<&[u8]>,
    ) -> Result<&'a [u8], RejectReason> {
        let shape = self.shape;
        match shape.format {
            RecordFormat::CifarBinary => {
                check_length(payload, shape.payload_bytes(), "a label byte and the picture")?;
                check_label(shape.label(payload), &shape)?;
                return Ok(payload);
            }
            RecordFormat::Cifar100 => {
                check_length(payload, shape.payload_bytes(), "two label bytes and the picture")?;
                let sample = &payload[shape.bytes_before_label()..];
                check_label(shape.label(sample), &shape)?;
                return Ok(sample);
            }
            RecordFormat::Image { fit } => {
                self.begin(label)?;
                append_picture(&mut self.sample, payload, &shape, fit)?;
            }
            RecordFormat::Tensor { .. } => {
                self.begin(label)?;
                check_length(payload, shape.payload_bytes(), "the values of spec.model.inputShape")?;
                check_values(payload, &shape)?;
                self.sample.extend_from_slice(payload);
            }
        }
        Ok(&self.sample)
    }

    /// Begins a sample with the label of a header.
    fn begin(&mut self, label: Option<&[u8]>) -> Result<(), RejectReason> {
        let label = check_label(header_label(label.ok_or(RejectReason::NoLabel)?)?, &self.shape)?;
        self.sample.clear();
        self.sample.extend(self.shape.label_prefix(label));
        Ok(())
    }
}

/// Longest text of a label, and what is shown of a longer one.
const LONGEST_LABEL_BYTES: usize = 10;

fn header_label(text: &[u8]) -> Result<u32, RejectReason> {
    let digits = std::str::from_utf8(text).ok().filter(|text| {
        (1..=LONGEST_LABEL_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    });
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let shown = &text[..text.len().min(LONGEST_LABEL_BYTES)];
        RejectReason::LabelText { text: String::from_utf8_lossy(shown).into_owned() }
    })
}

/// Appends the picture of a PNG or JPEG file, plane by plane. Whatever the file says, no more memory is taken than a picture
/// of the largest allowed size needs.
fn append_picture(
    sample: &mut Vec<u8>,
    file: &[u8],
    shape: &SampleShape,
    fit: ImageFit,
) -> Result<(), RejectReason> {
    let unreadable = |error: image::ImageError| RejectReason::Picture { reason: error.to_string() };
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|error| RejectReason::Picture { reason: error.to_string() })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(MOST_DECODER_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unreadable)?;
    let [channels, height, width] = shape.input_shape;
    check_size(decoder.dimensions(), (width, height), fit)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    // To bytes first: scaling four bytes a value would take four times the memory.
    let picture = match channels {
        1 => DynamicImage::ImageLuma8(picture.into_luma8()),
        _ => DynamicImage::ImageRgb8(picture.into_rgb8()),
    };
    let picture = match fit {
        _ if (picture.width(), picture.height()) == (width, height) => picture,
        ImageFit::Exact | ImageFit::Stretch => picture.resize_exact(width, height, FilterType::Triangle),
        ImageFit::Crop => picture.resize_to_fill(width, height, FilterType::Triangle),
    };
    let pixels = picture.as_bytes();
    for channel in 0..channels as usize {
        sample.extend(pixels.iter().skip(channel).step_by(channels as usize));
    }
    // Never more or less than a slot holds, whatever the decoder did.
    check_length(sample, shape.sample_bytes(), "the label and the picture's values")
}

fn check_size((width, height): (u32, u32), expected: (u32, u32), fit: ImageFit) -> Result<(), RejectReason> {
    if fit == ImageFit::Exact && (width, height) != expected {
        return Err(RejectReason::PictureSize { width, height, expected });
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(RejectReason::PictureTooLarge { width, height });
    }
    Ok(())
}

/// Writes the picture of a sample of bytes as a PNG file. The shape has 1 or 3 channels.
pub(crate) fn encode_picture(values: &[u8], shape: &SampleShape, file: &mut Vec<u8>) -> ImageResult<()> {
    let [channels, height, width] = shape.input_shape;
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let (channels, plane) = (channels as usize, (height * width) as usize);
    let pixels: Vec<u8> = (0..values.len()).map(|i| values[i % channels * plane + i / channels]).collect();
    file.clear();
    PngEncoder::new(file).write_image(&pixels, width, height, color)
}

#[cfg(test)]
mod tests;
