//! The one place that knows which YAML library is used.
//!
//! `serde_yaml` is asked for by the project but no longer developed; a swap to a live fork is a change of this file.

use serde::{Serialize, de::DeserializeOwned};

/// The text is not YAML, or not of the expected shape. The message carries line and column where known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(#[from] serde_yaml::Error);

/// Reads one YAML document.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    Ok(serde_yaml::from_str(text)?)
}

/// Reads all documents of a file.
pub fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, Error> {
    serde_yaml::Deserializer::from_str(text).map(|document| Ok(T::deserialize(document)?)).collect()
}

/// Writes a value as YAML.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    Ok(serde_yaml::to_string(value)?)
}
