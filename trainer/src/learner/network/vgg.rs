//! VGGs (Simonyan, Zisserman 2015) with a norm after every convolution: the layers, parameter names and start values of
//! torchvision's `vgg*_bn`, without dropout. No I/O.
//!
//! Dropout's draws would have to follow from seed, step, device and sample, so that ranks, restarts and replays agree; a
//! forward pass knows none of them. On a stream, whose samples are seen once or a few times, it has little to prevent.

use scadles_api::worker::ModelConfig;
use tch::{TchError, Tensor};

use super::{Convolution, GROUPS, Linear, Network, Norm, NormBy, Norms, ParameterSet, forward_all, relu};

/// Channels of the five stages, each of which ends with a 2×2 max-pool.
const CHANNELS: [i64; 5] = [64, 128, 256, 512, 512];
/// Sides of what the head sees: averaged from larger pictures, repeated from smaller ones.
const POOLED_SIDE: i64 = 7;
const HEAD_UNITS: i64 = 4096;
/// Standard deviation of the head's first weights.
const HEAD_DEVIATION: f64 = 0.01;

/// A VGG of five stages.
pub(super) struct Vgg {
    stages: Vec<Vec<(Convolution, Norm)>>,
    head: Vec<Linear>,
}

impl Vgg {
    /// `convolutions` per stage.
    pub(super) fn new(
        convolutions: [usize; 5],
        config: &ModelConfig,
        set: &mut ParameterSet,
    ) -> Result<Self, TchError> {
        let norms = Norms { normalization: config.normalization, groups: GROUPS };
        let mut stages = Vec::new();
        // torchvision's places in one list: convolution, norm, activation, …, pooling.
        let (mut place, mut inputs) = (0, i64::from(config.input_shape[0]));
        for (count, outputs) in convolutions.into_iter().zip(CHANNELS) {
            let mut stage = Vec::new();
            for _ in 0..count {
                let shape = [inputs, outputs, 3, 1];
                let convolution = Convolution::with_bias(set, &format!("features.{place}"), shape)?;
                let norm = norms.norm(set, &format!("features.{}", place + 1), outputs)?;
                stage.push((convolution, norm));
                place += 3;
                inputs = outputs;
            }
            stages.push(stage);
            place += 1;
        }
        let widths =
            [inputs * POOLED_SIDE * POOLED_SIDE, HEAD_UNITS, HEAD_UNITS, i64::from(config.num_classes)];
        let head = widths.windows(2).enumerate().map(|(i, pair)| {
            Linear::normal(set, &format!("classifier.{}", 3 * i), [pair[0], pair[1]], HEAD_DEVIATION)
        });
        Ok(Self { stages, head: head.collect::<Result<_, _>>()? })
    }
}

impl Network for Vgg {
    fn forward(&self, pictures: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
        let mut hidden = pictures.shallow_clone();
        for stage in &self.stages {
            for (convolution, norm) in stage {
                hidden = relu(norm.forward(&convolution.forward(&hidden)?, norm_by)?)?;
            }
            hidden = hidden.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        }
        let pooled = hidden.f_adaptive_avg_pool2d([POOLED_SIDE, POOLED_SIDE])?;
        forward_all(&self.head, pooled.f_flatten(1, -1)?)
    }
}
