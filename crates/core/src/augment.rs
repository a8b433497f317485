//! The random crop and flip of one training sample: a pure function of seed, partition, offset and epoch, so
//! that a replay augments alike and the same picture looks different in another epoch. No I/O.

use serde::{Deserialize, Serialize};

use crate::random::RandomStream;

/// Keeps these words apart from all others drawn from the job's seed.
const STREAM: u64 = 0x5ced_0003;

/// Which sample of which pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleIdentity {
    /// Device number in the job.
    pub device: u64,
    /// Partition of its stream.
    pub partition: u32,
    /// Offset in the partition.
    pub offset: u64,
    /// Epoch in which it is trained.
    pub epoch: u64,
}

/// What is done to a picture that was padded by `padding` pixels on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Column of the crop's corner in the padded picture, 0 to 2·padding.
    pub crop_x: u32,
    /// Row of it.
    pub crop_y: u32,
    /// Mirrored left to right.
    pub flip: bool,
}

/// The augmentation of one sample. With `padding` 0 and `horizontal_flip` false the picture stays as it is.
pub fn augmentation(seed: u64, sample: SampleIdentity, padding: u32, horizontal_flip: bool) -> Augmentation {
    let stream = RandomStream::new(seed, STREAM)
        .substream(sample.device)
        .substream(u64::from(sample.partition))
        .substream(sample.epoch);
    let places = u64::from(padding) * 2 + 1;
    let words = stream.substream(sample.offset);
    Augmentation {
        crop_x: words.below(0, places) as u32,
        crop_y: words.below(1, places) as u32,
        flip: horizontal_flip && words.below(2, 2) == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: u64, epoch: u64) -> SampleIdentity {
        SampleIdentity { device: 1, partition: 2, offset, epoch }
    }

    #[test]
    fn every_crop_and_both_flips_occur_evenly() {
        let mut counts = std::collections::BTreeMap::new();
        for offset in 0..16_200 {
            let a = augmentation(5, sample(offset, 0), 4, true);
            *counts.entry((a.crop_x, a.crop_y, a.flip)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 9 * 9 * 2);
        assert!(counts.values().all(|&n| (50..160).contains(&n)), "{counts:?}");
    }

    #[test]
    fn the_same_sample_is_augmented_alike_and_another_epoch_otherwise() {
        let of = |epoch| (0..64).map(|o| augmentation(5, sample(o, epoch), 4, true)).collect::<Vec<_>>();
        assert_eq!(of(0), of(0));
        assert_ne!(of(0), of(1));
    }

    #[test]
    fn without_padding_and_flip_nothing_happens() {
        let none = Augmentation { crop_x: 0, crop_y: 0, flip: false };
        assert!((0..100).all(|o| augmentation(5, sample(o, 0), 0, false) == none));
    }
}
