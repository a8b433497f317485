//! Whether a record can be trained on. Pure.

use scadles_api::worker::ModelConfig;

/// Checks length and label; the reason if it cannot.
pub(super) fn decode(payload: &[u8], model: &ModelConfig) -> Result<(), String> {
    let expected = model.record_bytes();
    match payload.first() {
        Some(&label) if payload.len() == expected => {
            if u32::from(label) < model.num_classes {
                return Ok(());
            }
            Err(format!(
                "the record's label is {label}; the model has the classes 0 to {}",
                model.num_classes - 1
            ))
        }
        _ => Err(format!("the record has {} bytes; expected {expected}", payload.len())),
    }
}
