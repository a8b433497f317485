//! A network that computes on a GPU, with its parameters and gradients on the host as well. No I/O but the GPU's.
//!
//! What decides and what is kept looks at the host's buffers, as without a GPU: optimizer, hashes, checkpoints, compression. The
//! parameters go to the GPU before a step computes with new ones; the gradients come back when somebody looks at them, after a
//! dense exchange has summed them where they are.

use std::cell::Cell;

use tch::{Device, TchError, Tensor};
use torch_ext::FlatParameters;

use super::{Learner, LearnerError};
use crate::{batch::Batch, numeric::Real};

/// The buffers that a network on a GPU computes with.
#[derive(Debug)]
pub(super) struct OnDevice {
    flat: FlatParameters,
    device: Device,
    /// Whether the host's parameters have changed since they were last brought here.
    parameters_are_old: Cell<bool>,
    /// Whether the host's gradients are older than these.
    gradients_are_new: Cell<bool>,
}

impl OnDevice {
    /// Parameters and gradients of a step that begins: those of the host, and zeros.
    pub(super) fn begin(&mut self, host: &FlatParameters) -> Result<(), TchError> {
        self.bring_parameters(host)?;
        self.flat.zero_gradients();
        self.gradients_are_new.set(true);
        Ok(())
    }

    /// Lets the network compute with the host's parameters.
    pub(super) fn bring_parameters(&self, host: &FlatParameters) -> Result<(), TchError> {
        if self.parameters_are_old.get() {
            copy(host.values(), self.flat.values())?;
            self.parameters_are_old.set(false);
        }
        Ok(())
    }

    /// Lets the host see the gradients.
    pub(super) fn give_gradients(&self, host: &FlatParameters) -> Result<(), TchError> {
        if self.gradients_are_new.get() {
            copy(self.flat.gradients(), host.gradients())?;
            self.gradients_are_new.set(false);
        }
        Ok(())
    }

    pub(super) fn parameters_change(&self) {
        self.parameters_are_old.set(true);
    }

    pub(super) fn place(&self, batch: &Batch) -> Result<Batch, TchError> {
        let place = |tensor: &Tensor| tensor.f_to_device(self.device);
        Ok(Batch { pictures: place(&batch.pictures)?, labels: place(&batch.labels)? })
    }
}

fn copy(from: &Tensor, to: &Tensor) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    to.shallow_clone().f_copy_(from)
}

impl<T: Real> Learner<T> {
    /// Lets the network compute on `device`. Parameters and gradients of the host stay what everybody else works with.
    pub fn on_device(mut self, device: Device) -> Result<Self, LearnerError> {
        let named = self.flat.named_parameters();
        let flat = FlatParameters::adopt_on(&named, device)?;
        for norm in &mut self.norms {
            norm.move_to(device)?;
        }
        if let Some(weights) = &mut self.class_weights {
            *weights = weights.f_to_device(device)?;
        }
        self.on_device = Some(OnDevice {
            flat,
            device,
            parameters_are_old: Cell::new(false),
            gradients_are_new: Cell::new(false),
        });
        Ok(self)
    }

    /// Whether the network computes elsewhere than on the host's buffers.
    pub fn is_on_device(&self) -> bool {
        self.on_device.is_some()
    }

    /// The gradients where the network computes, to be summed there, if that is not on the host: one dimension, laid out as the
    /// host's. Whatever is looked at later on the host comes from here.
    pub fn gradients_on_device(&mut self) -> Option<Tensor> {
        let on_device = self.on_device.as_ref()?;
        on_device.gradients_are_new.set(true);
        Some(on_device.flat.gradients().shallow_clone())
    }
}
