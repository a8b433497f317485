//! The framing of TensorFlow's record files: length, its check sum, content, its check sum; little-endian. Pure.

/// One record.
pub(super) fn framed(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(content.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_sum(&length).to_le_bytes());
    record.extend_from_slice(content);
    record.extend_from_slice(&masked_sum(content).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted, so that the sum of bytes which hold sums is not a sum in itself.
fn masked_sum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
