//! Top-k compression of gradients (paper §IV, "High communication cost") with error feedback, of which the paper does not
//! speak. No I/O.
//!
//! A rank compensates its weighted gradient u with what it kept back, e = u + (η_{t−1}/η_t)·r. In a sparse step it
//! sends about the k largest of e and keeps the rest as the next residual; in a dense step it sends all of e and keeps
//! nothing. The residual therefore lies *after* weighting: a changed batch needs no rescaling, a changed rate does.
//!
//! # Guarantees
//! - Σ_t η_t·d_t + η_T·Σ_i r_i = Σ_t η_t·Σ_i u_i up to rounding, whatever the gate, the rates and the batches do.
//! - All outputs have the same bits on every instruction set.
//! - A sparse step is only decided on if its bytes at worst are not more than the dense step's.
//!
//! | module | holds |
//! |---|---|
//! | [`kernel`] | the one pass over gradient and residual, per instruction set |
//! | [`threshold`] | the magnitude that about k elements reach |
//! | [`select`] | selection within one bucket: floors of small layers, the bound k_max |
//! | [`wire`] | indices and values as bytes |
//! | [`compressor`] | one rank's residual and statistics |
//! | [`half`] | all elements in two bytes each |
//! | [`exchange`] | what ranks send, add and deliver, and how many bytes that takes at most |
//! | [`cost`] | which exchange is the quickest |
//! | [`gate`] | dense or sparse, from the energy that selection loses |

pub mod compressor;
pub mod cost;
pub mod exchange;
pub mod gate;
pub mod half;
pub mod kernel;
pub mod layout;
pub mod select;
pub mod threshold;
pub mod wire;

#[cfg(test)]
mod conservation;
