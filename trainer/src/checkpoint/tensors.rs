//! Named tensors of one flat f32 buffer as safetensors bytes, and back. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors, View};

/// One tensor's place in a flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// The parameter's name.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// First element in the flat buffer.
    pub offset_elements: usize,
}

impl TensorSlot {
    /// Number of elements: the product of the shape.
    pub fn len_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A copy of a flat buffer and where its tensors lie. Taking one is a single copy of the buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatTensors {
    /// The tensors' places, shared between snapshots.
    pub layout: Arc<[TensorSlot]>,
    /// The flat buffer, padding included.
    pub values: Vec<f32>,
}

/// Tensors do not fit their layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorsError {
    /// The bytes are no safetensors file.
    #[error("it is not a safetensors file ({0})")]
    Format(String),
    /// A tensor of the model is not in the file.
    #[error("tensor {0:?} is missing")]
    Missing(String),
    /// A tensor has another shape or element type than the model's.
    #[error("tensor {name:?} is {found}, the model's is {expected}")]
    Mismatch {
        /// The tensor.
        name: String,
        /// Element type and shape in the file.
        found: String,
        /// Element type and shape in the model.
        expected: String,
    },
    /// The layout reaches beyond the buffer: a bug of the caller.
    #[error("tensor {0:?} reaches beyond the flat buffer")]
    Layout(String),
}

/// One tensor as `safetensors` wants it.
struct Part<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for &Part<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

impl FlatTensors {
    /// The tensors without padding, as the bytes of a safetensors file.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, TensorsError> {
        let mut parts = Vec::with_capacity(self.layout.len());
        for slot in self.layout.iter() {
            let values = self
                .values
                .get(slot.offset_elements..slot.offset_elements + slot.len_elements())
                .ok_or_else(|| TensorsError::Layout(slot.name.clone()))?;
            parts.push((slot.name.as_str(), Part { shape: &slot.shape, values }));
        }
        safetensors::serialize(parts.iter().map(|(name, part)| (name, part)), None)
            .map_err(|error| TensorsError::Format(error.to_string()))
    }
}

/// Copies every tensor of `layout` out of the safetensors file `bytes` into the flat buffer `values`, bit for bit; the
/// buffer's padding is left as it is. Tensors that the layout does not name are refused nowhere and ignored.
pub fn read_into(bytes: &[u8], layout: &[TensorSlot], values: &mut [f32]) -> Result<(), TensorsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| TensorsError::Format(error.to_string()))?;
    for slot in layout {
        let tensor = file.tensor(&slot.name).map_err(|_| TensorsError::Missing(slot.name.clone()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != slot.shape {
            return Err(TensorsError::Mismatch {
                name: slot.name.clone(),
                found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                expected: format!("{:?} {:?}", Dtype::F32, slot.shape),
            });
        }
        let target = values
            .get_mut(slot.offset_elements..slot.offset_elements + slot.len_elements())
            .ok_or_else(|| TensorsError::Layout(slot.name.clone()))?;
        let (words, _) = tensor.data().as_chunks::<4>();
        for (value, word) in target.iter_mut().zip(words) {
            *value = f32::from_le_bytes(*word);
        }
    }
    Ok(())
}
