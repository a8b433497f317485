//! The ranks' running statistics on their way to everybody. No I/O of its own.

use scadles_core::norm_statistics::RunningStatistics;

use crate::{
    engine::{Communicator, EngineError},
    numeric::{bytes_of, bytes_of_mut},
};

/// All ranks' statistics on all ranks, in rank order. All ranks call it, with as many values.
pub fn gather(
    comm: &mut dyn Communicator,
    own: &RunningStatistics<f32>,
) -> Result<Vec<RunningStatistics<f32>>, EngineError> {
    let mut sent = own.samples.to_le_bytes().to_vec();
    let head = sent.len();
    sent.extend_from_slice(bytes_of(&own.values));
    let mut received = vec![0; sent.len() * comm.world_size()];
    comm.all_gather_equal(&sent, &mut received)?;
    let one = |part: &[u8]| {
        let (samples, bytes) = part.split_at(head);
        let mut values = vec![0.0; own.values.len()];
        bytes_of_mut(&mut values).copy_from_slice(bytes);
        // The head is as long as the number that it was made from.
        RunningStatistics { samples: u64::from_le_bytes(samples.try_into().unwrap_or_default()), values }
    };
    Ok(received.chunks_exact(sent.len()).map(one).collect())
}
