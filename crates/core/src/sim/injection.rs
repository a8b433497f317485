//! Data injection as volumes: how many samples a step shares, and who trains how many more (paper
//! §IV, "Unbalanced and Non-IID data"). No I/O.

use serde::{Deserialize, Serialize};

pub use crate::inject::{InjectionMode, ReplicateBatch};
use crate::inject::{donor_count, own_batch, shared_of};
use crate::random::{Permutation, RandomStream};

/// How a job shares samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InjectionModel {
    /// Copies or not.
    pub mode: InjectionMode,
    /// How large batches are beside copies.
    pub batch: ReplicateBatch,
    /// α: share of the devices that are donors, drawn anew each step.
    pub donor_fraction: f64,
    /// β: share of its batch that a donor shares.
    pub shared_fraction: f64,
    /// Bytes of one record.
    pub record_bytes: u64,
}

/// What one step shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InjectionVolume {
    /// Samples, each counted once.
    pub shared_samples: u64,
    /// Bytes that all devices together send.
    pub sent_bytes: u64,
}

impl InjectionModel {
    /// ⌈α·n⌉.
    pub fn donors(&self, world_size: usize) -> usize {
        donor_count(self.donor_fraction, world_size)
    }

    /// What a device takes from its own stream where the batch rule says `local_batch`.
    pub fn own_batch(&self, world_size: usize, local_batch: u64) -> u64 {
        own_batch(self.batch, self.donors(world_size), self.shared_fraction, local_batch)
    }

    /// Turns the batches of one step into what each device trains, and says what travelled. `draw` is the step's own
    /// randomness.
    pub fn share(&self, draw: RandomStream, batches: &mut [u64]) -> InjectionVolume {
        let world_size = batches.len();
        let donors = self.donors(world_size);
        if world_size < 2 || donors == 0 {
            return InjectionVolume::default();
        }
        let order = Permutation::new(draw, world_size as u64);
        let donor = |index: usize| order.apply(index as u64) as usize;
        let mut shared_samples = 0;
        for index in 0..donors {
            let batch = &mut batches[donor(index)];
            let shared = shared_of(self.shared_fraction, *batch);
            *batch -= shared;
            shared_samples += shared;
        }
        match self.mode {
            // A donor trains its own samples anyway: with the copies of all it has them back.
            InjectionMode::Replicate => {
                for batch in batches.iter_mut() {
                    *batch += shared_samples;
                }
            }
            InjectionMode::Move => {
                // Where all are donors all receive as well.
                let first = if donors == world_size { 0 } else { donors };
                let receivers = (world_size - first) as u64;
                for index in first..world_size {
                    let place = (index - first) as u64;
                    let more = u64::from(place < shared_samples % receivers);
                    batches[donor(index)] += shared_samples / receivers + more;
                }
            }
        }
        let copies = match self.mode {
            InjectionMode::Replicate => world_size as u64 - 1,
            InjectionMode::Move => 1,
        };
        InjectionVolume { shared_samples, sent_bytes: shared_samples * copies * self.record_bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BATCHES: [u64; 10] = [92, 38, 62, 42, 48, 88, 90, 22, 44, 28];

    fn model(mode: InjectionMode, fraction: f64) -> InjectionModel {
        InjectionModel {
            mode,
            batch: ReplicateBatch::Grow,
            donor_fraction: fraction,
            shared_fraction: fraction,
            record_bytes: 3_073,
        }
    }

    fn draw(step: u64) -> RandomStream {
        RandomStream::new(7, 1).substream(step)
    }

    #[test]
    fn moving_samples_changes_nobodys_total() {
        for step in 0..50 {
            let mut batches = BATCHES;
            let volume = model(InjectionMode::Move, 0.5).share(draw(step), &mut batches);
            assert_eq!(batches.iter().sum::<u64>(), BATCHES.iter().sum::<u64>());
            assert_eq!(volume.sent_bytes, volume.shared_samples * 3_073);
            let gave = BATCHES.iter().zip(&batches).filter(|(before, after)| after < before).count();
            assert_eq!(gave, 5);
        }
    }

    #[test]
    fn where_all_are_donors_all_receive() {
        let mut batches = BATCHES;
        let all = InjectionModel { donor_fraction: 1.0, ..model(InjectionMode::Move, 0.5) };
        all.share(draw(0), &mut batches);
        assert_eq!(batches.iter().sum::<u64>(), BATCHES.iter().sum::<u64>());
    }

    #[test]
    fn a_replicated_sample_is_trained_by_all_and_sent_to_all_others() {
        let mut batches = BATCHES;
        let volume = model(InjectionMode::Replicate, 0.5).share(draw(3), &mut batches);
        let more: u64 = batches.iter().sum::<u64>() - BATCHES.iter().sum::<u64>();
        assert_eq!(more, 9 * volume.shared_samples);
        assert_eq!(volume.sent_bytes, 9 * volume.shared_samples * 3_073);
        assert!(volume.shared_samples > 0);
    }

    #[test]
    fn donors_change_from_step_to_step_and_are_the_same_for_a_seed() {
        let shared = |step| {
            let mut batches = BATCHES;
            model(InjectionMode::Move, 0.25).share(draw(step), &mut batches).shared_samples
        };
        assert_eq!(shared(4), shared(4));
        let different: BTreeSet<u64> = (0..20).map(shared).collect();
        assert!(different.len() > 5, "{different:?}");
    }

    #[test]
    fn donors_are_rounded_up_but_not_by_a_rounding_error() {
        let donors = |fraction, n| model(InjectionMode::Move, fraction).donors(n);
        assert_eq!([donors(0.5, 10), donors(0.25, 10), donors(0.05, 10), donors(0.1, 10)], [5, 3, 1, 1]);
        assert_eq!([donors(0.1, 30), donors(0.0, 9), donors(1.0, 9)], [3, 0, 9]);
    }
}
