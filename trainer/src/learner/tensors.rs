//! Named tensors in safetensors format: the model, and anything that is laid out like its parameters (momentum).
//! File I/O in [`Learner::save`] and [`Learner::load`] only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use scadles_core::norm_statistics::RunningStatistics;
use tch::Kind;
use torch_ext::Slot;

use super::{Learner, LearnerError};
use crate::numeric::{Real, bytes_of, bytes_of_mut};

/// Metadata of tensors of a network from a file: the SHA-256 of that file.
const MODEL_FILE: &str = "modelFileSha256";

/// What can go wrong between a flat buffer and a file of tensors.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// Not safetensors, or cut short.
    #[error("failed to read or write tensors in safetensors format")]
    Format(#[from] SafeTensorError),
    /// The file could not be read or written.
    #[error("failed to access {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tensor of the model is missing, or has another shape or number type.
    #[error("tensor {name} is {found}; the model has {expected}: is this file of another model?")]
    Mismatch {
        /// The tensor.
        name: String,
        /// What the file holds.
        found: String,
        /// What the model needs.
        expected: String,
    },
    /// The tensors belong to another TorchScript file than the model.
    #[error(
        "spec.model.torchScript.path: the tensors were trained with a file of SHA-256 {found}, the present one has {expected}"
    )]
    OtherModelFile {
        /// Of the tensors' file; `none` for those of a built-in network.
        found: String,
        /// Of the model's file.
        expected: String,
    },
    /// A buffer that is not laid out like the parameters.
    #[error("the buffer has {found} elements, the model's flat buffer {expected}")]
    Length {
        /// Elements of the given buffer.
        found: usize,
        /// Elements of the flat buffers.
        expected: usize,
    },
}

impl<T: Real> Learner<T> {
    /// `values`, laid out like the flat parameters, as a safetensors file with one tensor per parameter. If the network comes
    /// from a file, its SHA-256 is in the metadata.
    pub fn encode(&self, values: &[T]) -> Result<Vec<u8>, LearnerError> {
        self.encode_all(values, &[])
    }

    fn encode_all(&self, values: &[T], statistics: &[T]) -> Result<Vec<u8>, LearnerError> {
        self.check_length(values.len())?;
        let views = self.slots().map(|(slot, shape)| {
            let bytes = bytes_of(&values[slot.offset_elements..][..slot.len_elements]);
            Ok((slot.name.clone(), TensorView::new(dtype::<T>(), shape.to_vec(), bytes)?))
        });
        let mut views = views.collect::<Result<Vec<_>, SafeTensorError>>().map_err(TensorsError::from)?;
        let mut start = 0;
        for (name, tensor) in self.named_statistics().filter(|_| !statistics.is_empty()) {
            let own = &statistics[start..][..tensor.numel()];
            let view = TensorView::new(dtype::<T>(), vec![own.len()], bytes_of(own));
            views.push((name, view.map_err(TensorsError::from)?));
            start += own.len();
        }
        let metadata =
            self.model_file().map(|sha256| HashMap::from([(MODEL_FILE.to_owned(), sha256.to_owned())]));
        Ok(safetensors::serialize(views, metadata).map_err(TensorsError::from)?)
    }

    /// The parameters and the running statistics, under PyTorch's names, as a safetensors file: the model.
    pub fn encode_model(&self) -> Result<Vec<u8>, LearnerError> {
        self.encode_all(self.parameters()?, &self.statistics()?.values)
    }

    /// Fills `values`, laid out like the flat parameters, from a file of [`Learner::encode`]. Nothing is written unless
    /// all tensors fit; padding is left alone.
    pub fn decode(&self, file: &[u8], values: &mut [T]) -> Result<(), LearnerError> {
        self.check_length(values.len())?;
        let tensors = SafeTensors::deserialize(file).map_err(TensorsError::from)?;
        self.check_model_file(file)?;
        let views = self.slots().map(|(slot, shape)| checked::<T>(&tensors, &slot.name, shape));
        let views = views.collect::<Result<Vec<_>, TensorsError>>()?;
        for (slot, view) in self.flat.layout().iter().zip(views) {
            let target = &mut values[slot.offset_elements..][..slot.len_elements];
            bytes_of_mut(target).copy_from_slice(view.data());
        }
        Ok(())
    }

    /// Writes parameters and running statistics to `path` as safetensors (f32 learners give f32 tensors).
    pub fn save(&self, path: &Path) -> Result<(), LearnerError> {
        let bytes = self.encode_model()?;
        let failed = |source| TensorsError::File { path: path.to_owned(), source };
        Ok(std::fs::write(path, bytes).map_err(failed)?)
    }

    /// Replaces parameters and running statistics by those in `path`.
    pub fn load(&mut self, path: &Path) -> Result<(), LearnerError> {
        let failed = |source| TensorsError::File { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(failed)?;
        self.set_model(&bytes)
    }

    /// Replaces parameters and running statistics by those of a file of [`Learner::encode_model`]. Nothing is written unless
    /// all tensors fit.
    pub fn set_model(&mut self, file: &[u8]) -> Result<(), LearnerError> {
        let mut values = self.parameters()?.to_vec();
        self.decode(file, &mut values)?;
        let statistics = RunningStatistics { samples: 0, values: self.decode_statistics(file)? };
        self.set_statistics(&statistics)?;
        self.parameters_mut()?.copy_from_slice(&values);
        Ok(())
    }

    fn decode_statistics(&self, file: &[u8]) -> Result<Vec<T>, TensorsError> {
        let tensors = SafeTensors::deserialize(file)?;
        let mut values = Vec::new();
        for (name, tensor) in self.named_statistics() {
            let view = checked::<T>(&tensors, &name, &[tensor.numel()])?;
            let start = values.len();
            values.resize(start + tensor.numel(), T::default());
            bytes_of_mut(&mut values[start..]).copy_from_slice(view.data());
        }
        Ok(values)
    }

    fn slots(&self) -> impl Iterator<Item = (&Slot, &[usize])> {
        self.flat.layout().iter().zip(self.shapes.iter().map(Vec::as_slice))
    }

    /// Parameters alone do not tell what a network from a file computes with them.
    fn check_model_file(&self, file: &[u8]) -> Result<(), TensorsError> {
        let Some(expected) = self.model_file() else { return Ok(()) };
        let (_, head) = SafeTensors::read_metadata(file)?;
        let found = head.metadata().as_ref().and_then(|metadata| metadata.get(MODEL_FILE));
        if found.is_some_and(|found| found == expected) {
            return Ok(());
        }
        let found = found.map_or("none", String::as_str).to_owned();
        Err(TensorsError::OtherModelFile { found, expected: expected.to_owned() })
    }

    pub(super) fn check_length(&self, found: usize) -> Result<(), TensorsError> {
        let expected = self.flat.len();
        if found == expected { Ok(()) } else { Err(TensorsError::Length { found, expected }) }
    }
}

fn dtype<T: Real>() -> Dtype {
    if T::KIND == Kind::Double { Dtype::F64 } else { Dtype::F32 }
}

fn checked<'a, T: Real>(
    tensors: &SafeTensors<'a>,
    name: &str,
    shape: &[usize],
) -> Result<TensorView<'a>, TensorsError> {
    let mismatch = |found: String| TensorsError::Mismatch {
        name: name.to_owned(),
        found,
        expected: format!("{:?} {shape:?}", dtype::<T>()),
    };
    let view = tensors.tensor(name).map_err(|_| mismatch("missing".to_owned()))?;
    if view.dtype() != dtype::<T>() || view.shape() != shape {
        return Err(mismatch(format!("{:?} {:?}", view.dtype(), view.shape())));
    }
    Ok(view)
}
