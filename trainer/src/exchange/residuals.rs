//! Residuals on their way to rank 0 and back: it alone reads and writes checkpoints. No I/O of its own.

use crate::{
    engine::{Communicator, EngineError},
    numeric::{bytes_of, bytes_of_mut},
};

/// So many elements travel at once, per rank: each piece has the whole time limit of a collective.
const PIECE_ELEMENTS: usize = 1 << 20;

/// All ranks' residuals on rank 0, in rank order; nothing on the others. All ranks call it, with one length.
pub fn gather(comm: &mut dyn Communicator, own: &[f32]) -> Result<Vec<Vec<f32>>, EngineError> {
    let (is_root, ranks) = (comm.rank() == 0, comm.world_size());
    // One by one: a clone has no room beyond its elements, and growing would take up to twice the memory.
    let mut all: Vec<Vec<f32>> = Vec::new();
    all.resize_with(if is_root { ranks } else { 0 }, || Vec::with_capacity(own.len()));
    for piece in own.chunks(PIECE_ELEMENTS) {
        let mut received = vec![0.0_f32; if is_root { ranks * piece.len() } else { 0 }];
        let (send_counts, recv_counts) = (to_root(ranks, size_of_val(piece)), counts(is_root, ranks, piece));
        comm.all_to_all_v(bytes_of(piece), &send_counts, bytes_of_mut(&mut received), &recv_counts)?;
        for (residual, part) in all.iter_mut().zip(received.chunks(piece.len())) {
            residual.extend_from_slice(part);
        }
    }
    Ok(all)
}

/// The way back: each rank's own, from rank 0, which gives `all` in rank order; the others give nothing.
pub fn scatter(comm: &mut dyn Communicator, all: &[Vec<f32>], own: &mut [f32]) -> Result<(), EngineError> {
    let (is_root, ranks) = (comm.rank() == 0, comm.world_size());
    for (number, piece) in own.chunks_mut(PIECE_ELEMENTS).enumerate() {
        let start = number * PIECE_ELEMENTS;
        let send: Vec<f32> =
            all.iter().flat_map(|residual| &residual[start..start + piece.len()]).copied().collect();
        let (send_counts, recv_counts) = (counts(is_root, ranks, piece), to_root(ranks, size_of_val(piece)));
        comm.all_to_all_v(bytes_of(&send), &send_counts, bytes_of_mut(piece), &recv_counts)?;
    }
    Ok(())
}

/// `bytes` with rank 0, nothing with the others.
fn to_root(ranks: usize, bytes: usize) -> Vec<usize> {
    (0..ranks).map(|rank| if rank == 0 { bytes } else { 0 }).collect()
}

/// A piece with every rank, if this is rank 0.
fn counts(is_root: bool, ranks: usize, piece: &[f32]) -> Vec<usize> {
    vec![if is_root { size_of_val(piece) } else { 0 }; ranks]
}
