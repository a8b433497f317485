//! The sparse wire format: one message per bucket. No I/O.
//!
//! ```text
//! bytes of the whole message   u32      ┐
//! elements                     u32      │ 12 bytes, little-endian
//! form of the indices          u8       │ 0 gaps, 1 bitmap
//! form of the values           u8       │ 0 f32, 1 f16, 2 bf16, 3 int8 per block
//! zero                         u16      ┘
//! indices    gaps: per element a byte below 255, the distance from the last index less one; each 255 before it adds 255
//!            bitmap: a bit per place, the lowest first
//! values     in the order of the indices; int8: per block of 64 an f32 scale, then a byte per element
//! ```
//!
//! Whoever encodes gets the values back as the receivers will read them: the difference belongs into the residual.
//! A decoder trusts nothing: every count is checked against the bytes that are there before memory is taken.

use half::{bf16, f16};

use super::kernel::Kept;

/// Bytes before the indices.
pub const HEADER_BYTES: usize = 12;
/// Elements that share an int8 scale.
const INT8_BLOCK: usize = 64;
/// A gap byte that adds its value and goes on.
const ESCAPE: u8 = 255;
/// Largest int8 magnitude; −128 is not used, so that both signs reach as far.
const INT8_MOST: f32 = 127.0;

/// How values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueFormat {
    /// As they are.
    F32,
    /// 11 bits of precision, magnitudes up to 65,504.
    F16,
    /// 8 bits of precision, the range of f32.
    Bf16,
    /// 8 bits relative to the largest of 64.
    Int8,
}

impl ValueFormat {
    fn code(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 3,
        }
    }

    fn of_code(code: u8) -> Result<Self, WireError> {
        match code {
            0 => Ok(Self::F32),
            1 => Ok(Self::F16),
            2 => Ok(Self::Bf16),
            3 => Ok(Self::Int8),
            _ => Err(WireError::Form { what: "values", code }),
        }
    }

    /// Bytes of `count` values.
    pub fn bytes(self, count: usize) -> usize {
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::Bf16 => 2 * count,
            Self::Int8 => count + 4 * count.div_ceil(INT8_BLOCK),
        }
    }
}

/// Bytes that are no message of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter or longer than it says, or than what it announces takes.
    #[error("failed to decode: {bytes} bytes where the message needs {needed}")]
    Length {
        /// Bytes that are there.
        bytes: usize,
        /// Bytes that it needs.
        needed: usize,
    },
    /// A form that is not known.
    #[error("failed to decode: {code} is no form of {what}")]
    Form {
        /// Indices, values or the reserved bytes.
        what: &'static str,
        /// What was read.
        code: u8,
    },
    /// More elements than places, or other than the bitmap has.
    #[error("failed to decode: {count} elements for {places} places")]
    Count {
        /// Elements announced.
        count: usize,
        /// Places.
        places: usize,
    },
    /// An index past the end.
    #[error("failed to decode: index {index} in a range of {len} elements")]
    Index {
        /// The index.
        index: usize,
        /// Elements of the range.
        len: usize,
    },
}

/// The most bytes that a message of up to `count` of `len` elements takes.
pub fn max_bytes(count: usize, len: usize, format: ValueFormat) -> usize {
    let count = count.min(len);
    HEADER_BYTES + len.div_ceil(8).min(count + len / usize::from(ESCAPE)) + format.bytes(count)
}

/// Appends the message of `kept`, whose indices ascend below `len`, to `out`, and replaces its values by what receivers
/// will read.
pub fn encode(kept: &mut Kept, len: usize, format: ValueFormat, out: &mut Vec<u8>) {
    let start = out.len();
    let gap_bytes: usize = gaps(&kept.indices).map(|gap| 1 + gap / usize::from(ESCAPE)).sum();
    let is_bitmap = len.div_ceil(8) < gap_bytes;
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(kept.len() as u32).to_le_bytes());
    out.extend_from_slice(&[u8::from(is_bitmap), format.code(), 0, 0]);
    let indices = out.len();
    if is_bitmap {
        out.resize(indices + len.div_ceil(8), 0);
        for &index in &kept.indices {
            out[indices + index as usize / 8] |= 1 << (index % 8);
        }
    } else {
        for gap in gaps(&kept.indices) {
            out.resize(out.len() + gap / usize::from(ESCAPE), ESCAPE);
            out.push((gap % usize::from(ESCAPE)) as u8);
        }
    }
    encode_values(&mut kept.values, format, out);
    let bytes = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// Distances between ascending indices, less one; the first from the start.
fn gaps(indices: &[u32]) -> impl Iterator<Item = usize> {
    let before = std::iter::once(None).chain(indices.iter().copied().map(Some));
    indices.iter().zip(before).map(|(&index, before)| match before {
        None => index as usize,
        Some(before) => (index - before) as usize - 1,
    })
}

fn encode_values(values: &mut [f32], format: ValueFormat, out: &mut Vec<u8>) {
    match format {
        ValueFormat::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        ValueFormat::F16 => {
            for value in values {
                let most = f16::MAX.to_f32();
                let narrow = f16::from_f32(value.clamp(-most, most));
                out.extend_from_slice(&narrow.to_le_bytes());
                *value = narrow.to_f32();
            }
        }
        ValueFormat::Bf16 => {
            for value in values {
                let most = bf16::MAX.to_f32();
                let narrow = bf16::from_f32(value.clamp(-most, most));
                out.extend_from_slice(&narrow.to_le_bytes());
                *value = narrow.to_f32();
            }
        }
        ValueFormat::Int8 => values.chunks_mut(INT8_BLOCK).for_each(|block| encode_int8(block, out)),
    }
}

fn encode_int8(block: &mut [f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())).min(f32::MAX);
    // A NaN travels as the scale: the whole block becomes NaN, and is seen.
    let scale = if block.iter().any(|value| value.is_nan()) { f32::NAN } else { largest / INT8_MOST };
    out.extend_from_slice(&scale.to_le_bytes());
    for value in block {
        let code = if scale > 0.0 { (*value / scale).round().clamp(-INT8_MOST, INT8_MOST) } else { 0.0 };
        out.push((code as i8) as u8);
        *value = code * scale;
    }
}

/// Decodes one message about a range of `len` elements into `kept`, emptied first.
pub fn decode(message: &[u8], len: usize, kept: &mut Kept) -> Result<(), WireError> {
    kept.clear();
    let needed = |needed| WireError::Length { bytes: message.len(), needed };
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| needed(HEADER_BYTES))?;
    let [b0, b1, b2, b3, c0, c1, c2, c3, indices, values, zero, other_zero] = *head;
    let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
    let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
    if bytes != message.len() {
        return Err(needed(bytes));
    }
    let format = ValueFormat::of_code(values)?;
    if zero != 0 || other_zero != 0 {
        return Err(WireError::Form { what: "the reserved bytes", code: zero | other_zero });
    }
    if count > len {
        return Err(WireError::Count { count, places: len });
    }
    let index_bytes = body
        .len()
        .checked_sub(format.bytes(count))
        .ok_or_else(|| needed(HEADER_BYTES + format.bytes(count)))?;
    let (index_part, value_part) = body.split_at(index_bytes);
    match indices {
        0 => decode_gaps(index_part, count, len, &mut kept.indices)?,
        1 => decode_bitmap(index_part, count, len, &mut kept.indices)?,
        code => return Err(WireError::Form { what: "indices", code }),
    }
    decode_values(value_part, format, &mut kept.values);
    Ok(())
}

fn decode_gaps(bytes: &[u8], count: usize, len: usize, indices: &mut Vec<u32>) -> Result<(), WireError> {
    if count > bytes.len() {
        return Err(WireError::Length { bytes: bytes.len(), needed: count });
    }
    indices.reserve(count);
    let (mut next, mut open) = (0_usize, false);
    for &byte in bytes {
        next += usize::from(byte);
        if next >= len {
            return Err(WireError::Index { index: next, len });
        }
        open = byte == ESCAPE;
        if !open {
            if indices.len() == count {
                return Err(WireError::Count { count, places: count + 1 });
            }
            indices.push(next as u32);
            next += 1;
        }
    }
    if indices.len() != count || open {
        return Err(WireError::Count { count, places: indices.len() });
    }
    Ok(())
}

fn decode_bitmap(bytes: &[u8], count: usize, len: usize, indices: &mut Vec<u32>) -> Result<(), WireError> {
    if bytes.len() != len.div_ceil(8) {
        return Err(WireError::Length { bytes: bytes.len(), needed: len.div_ceil(8) });
    }
    let set: usize = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
    if set != count {
        return Err(WireError::Count { count, places: set });
    }
    indices.reserve(count);
    for (place, &byte) in bytes.iter().enumerate() {
        let mut left = byte;
        while left != 0 {
            let index = 8 * place + left.trailing_zeros() as usize;
            left &= left - 1;
            if index >= len {
                return Err(WireError::Index { index, len });
            }
            indices.push(index as u32);
        }
    }
    Ok(())
}

/// `bytes` are as many as `format` takes.
fn decode_values(bytes: &[u8], format: ValueFormat, values: &mut Vec<f32>) {
    match format {
        ValueFormat::F32 => values.extend(bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk))),
        ValueFormat::F16 => {
            values.extend(bytes.as_chunks().0.iter().map(|chunk| f16::from_le_bytes(*chunk).to_f32()));
        }
        ValueFormat::Bf16 => {
            values.extend(bytes.as_chunks().0.iter().map(|chunk| bf16::from_le_bytes(*chunk).to_f32()));
        }
        ValueFormat::Int8 => {
            for block in bytes.chunks(4 + INT8_BLOCK) {
                let Some((scale, codes)) = block.split_first_chunk::<4>() else { return };
                let scale = f32::from_le_bytes(*scale);
                values.extend(codes.iter().map(|&code| f32::from(code as i8) * scale));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMATS: [ValueFormat; 4] =
        [ValueFormat::F32, ValueFormat::F16, ValueFormat::Bf16, ValueFormat::Int8];

    fn kept(len: usize, every: &[usize], values: &[f32]) -> Kept {
        let (mut next, mut kept) = (0, Kept::default());
        for (gap, value) in every.iter().zip(values) {
            next += gap;
            if next >= len {
                break;
            }
            kept.indices.push(next as u32);
            kept.values.push(*value);
            next += 1;
        }
        kept
    }

    fn cases() -> impl Strategy<Value = (usize, Kept)> {
        let gap = prop_oneof![6 => 0_usize..4, 3 => 0_usize..300, 1 => 250_usize..5000];
        let gaps = proptest::collection::vec(gap, 0..300);
        (1_usize..40_000, gaps, proptest::collection::vec(-1e3_f32..1e3, 300))
            .prop_map(|(len, gaps, values)| (len, kept(len, &gaps, &values)))
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_what_the_sender_was_told_within_the_announced_size((len, sent) in cases()) {
            for format in FORMATS {
                let (mut told, mut bytes, mut read) = (sent.clone(), vec![9, 9], Kept::default());
                encode(&mut told, len, format, &mut bytes);
                prop_assert!(bytes.len() - 2 <= max_bytes(sent.len(), len, format), "{:?}", format);
                decode(&bytes[2..], len, &mut read).unwrap();
                prop_assert_eq!(&read, &told);
                prop_assert_eq!(&told.indices, &sent.indices);
                let largest = sent.values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                for (told, sent) in told.values.iter().zip(&sent.values) {
                    let off = match format {
                        ValueFormat::F32 => 0.0,
                        ValueFormat::F16 => sent.abs() / 1024.0 + 1e-7,
                        ValueFormat::Bf16 => sent.abs() / 128.0,
                        ValueFormat::Int8 => largest / 127.0,
                    };
                    prop_assert!((told - sent).abs() <= off, "{:?}: {} became {}", format, sent, told);
                }
            }
        }

        #[test]
        fn random_bytes_are_an_error_or_a_message_and_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            len in 0_usize..3000,
        ) {
            let mut read = Kept::default();
            if decode(&bytes, len, &mut read).is_ok() {
                prop_assert!(read.len() <= len && read.indices.len() == read.values.len());
            }
        }

        #[test]
        fn a_mutated_message_is_an_error_or_still_within_its_range(
            (len, sent) in cases(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            format in prop::sample::select(FORMATS.to_vec()),
        ) {
            let (mut sent, mut bytes, mut read) = (sent, Vec::new(), Kept::default());
            encode(&mut sent, len, format, &mut bytes);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())], len, &mut read).is_err());
            for (place, byte) in &changes {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            if decode(&bytes, len, &mut read).is_ok() {
                prop_assert_eq!(read.indices.len(), read.values.len());
                prop_assert!(read.indices.is_sorted_by(|a, b| a < b));
                prop_assert!(read.indices.last().is_none_or(|last| (*last as usize) < len));
            }
            prop_assert!(read.indices.capacity() <= 4 * (bytes.len() * 8).max(8), "memory follows the bytes");
        }
    }

    #[test]
    fn an_announced_count_takes_no_memory_that_the_bytes_do_not_back() {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[0] = HEADER_BYTES as u8;
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut read = Kept::default();
        assert!(decode(&bytes, usize::MAX, &mut read).is_err());
        assert_eq!(read.indices.capacity(), 0);
    }

    #[test]
    fn dense_places_travel_as_a_bitmap_and_sparse_ones_as_gaps() {
        for (every, form, bytes) in [(2_usize, 1, 125), (100, 0, 10)] {
            let mut sent = Kept {
                indices: (0..1000).step_by(every).collect(),
                values: vec![1.0; 1000_usize.div_ceil(every)],
            };
            let mut out = Vec::new();
            encode(&mut sent, 1000, ValueFormat::Int8, &mut out);
            assert_eq!(
                (out[8], out.len()),
                (form, HEADER_BYTES + bytes + ValueFormat::Int8.bytes(sent.len()))
            );
        }
    }

    #[test]
    fn what_is_too_large_for_a_format_is_cut_and_what_is_no_number_stays_none() {
        for (format, most) in [(ValueFormat::F16, 65504.0), (ValueFormat::Bf16, bf16::MAX.to_f32())] {
            let mut sent = Kept { indices: vec![0, 1], values: vec![f32::MAX, f32::NAN] };
            encode(&mut sent, 2, format, &mut Vec::new());
            assert_eq!(sent.values[0], most);
            assert!(sent.values[1].is_nan());
        }
        let mut sent = Kept { indices: vec![0, 1], values: vec![1.0, f32::NAN] };
        encode(&mut sent, 2, ValueFormat::Int8, &mut Vec::new());
        assert!(sent.values.iter().all(|value| value.is_nan()), "{sent:?}");
    }
}
