//! ResNets (He et al. 2016): torchvision's layers, parameter names and start values, with either norm. No I/O.

use scadles_api::worker::{ModelConfig, Stem};
use tch::{TchError, Tensor};

use super::{Convolution, GROUPS, Linear, Network, Norm, NormBy, Norms, ParameterSet, relu};

type Normed = (Convolution, Norm);

/// `shape`: channels in and out, side of the kernel, stride.
fn normed(
    set: &mut ParameterSet,
    norms: Norms,
    [convolution, norm]: [&str; 2],
    shape: [i64; 4],
) -> Result<Normed, TchError> {
    let convolution = Convolution::new(set, convolution, shape)?;
    Ok((convolution, norms.norm(set, norm, shape[1])?))
}

fn forward((convolution, norm): &Normed, input: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
    norm.forward(&convolution.forward(input)?, norm_by)
}

/// Convolutions around a shortcut.
struct Block {
    path: Vec<Normed>,
    /// 1×1 convolution where the shape changes.
    shortcut: Option<Normed>,
}

impl Block {
    /// `shapes`: those of the path's convolutions, as [`normed`] takes them.
    fn new(set: &mut ParameterSet, norms: Norms, name: &str, shapes: &[[i64; 4]]) -> Result<Self, TchError> {
        let mut path = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let names = [format!("{name}.conv{}", i + 1), format!("{name}.bn{}", i + 1)];
            path.push(normed(set, norms, names.each_ref().map(String::as_str), *shape)?);
        }
        let inputs = shapes.first().map_or(0, |first| first[0]);
        let outputs = shapes.last().map_or(0, |last| last[1]);
        let stride = shapes.iter().map(|shape| shape[3]).product();
        let shortcut = if stride != 1 || inputs != outputs {
            let names = [format!("{name}.downsample.0"), format!("{name}.downsample.1")];
            Some(normed(set, norms, names.each_ref().map(String::as_str), [inputs, outputs, 1, stride])?)
        } else {
            None
        };
        Ok(Self { path, shortcut })
    }

    fn forward(&self, input: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
        let mut hidden = input.shallow_clone();
        for (i, layer) in self.path.iter().enumerate() {
            if i > 0 {
                hidden = relu(hidden)?;
            }
            hidden = forward(layer, &hidden, norm_by)?;
        }
        let shortcut = match &self.shortcut {
            Some(layer) => forward(layer, input, norm_by)?,
            None => input.shallow_clone(),
        };
        relu(hidden.f_add_(&shortcut)?)
    }
}

/// A ResNet of four stages.
pub(super) struct ResNet {
    stem: Normed,
    /// What the stem ends with.
    pools: bool,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet {
    /// Blocks of two 3×3 convolutions, so many per stage.
    pub(super) fn of_basic_blocks(
        stages: [usize; 4],
        config: &ModelConfig,
        set: &mut ParameterSet,
    ) -> Result<Self, TchError> {
        Self::new(stages, config, set, |inputs, channels, stride| {
            vec![[inputs, channels, 3, stride], [channels, channels, 3, 1]]
        })
    }

    /// Blocks of 1×1, 3×3 and 1×1, the last to four times the channels; the middle one has the stride, as in torchvision.
    pub(super) fn of_bottlenecks(
        stages: [usize; 4],
        config: &ModelConfig,
        set: &mut ParameterSet,
    ) -> Result<Self, TchError> {
        Self::new(stages, config, set, |inputs, channels, stride| {
            vec![[inputs, channels, 1, 1], [channels, channels, 3, stride], [channels, 4 * channels, 1, 1]]
        })
    }

    /// `shapes` gives a block's convolutions from its channels of input, those of its stage, and its stride.
    fn new(
        stages: [usize; 4],
        config: &ModelConfig,
        set: &mut ParameterSet,
        shapes: impl Fn(i64, i64, i64) -> Vec<[i64; 4]>,
    ) -> Result<Self, TchError> {
        let pools = config.stem == Some(Stem::Imagenet);
        let [side, stride] = if pools { [7, 2] } else { [3, 1] };
        let channels = i64::from(config.input_shape[0]);
        let norms = Norms { normalization: config.normalization, groups: GROUPS };
        let stem = normed(set, norms, ["conv1", "bn1"], [channels, 64, side, stride])?;
        let mut blocks = Vec::new();
        let mut inputs = 64;
        for (stage, count) in stages.into_iter().enumerate() {
            for block in 0..count {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let shapes = shapes(inputs, 64 << stage, stride);
                blocks.push(Block::new(set, norms, &format!("layer{}.{block}", stage + 1), &shapes)?);
                inputs = shapes.last().map_or(inputs, |last| last[1]);
            }
        }
        let head = Linear::new(set, "fc", inputs, i64::from(config.num_classes))?;
        Ok(Self { stem, pools, blocks, head })
    }
}

impl Network for ResNet {
    fn forward(&self, pictures: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
        let mut hidden = relu(forward(&self.stem, pictures, norm_by)?)?;
        if self.pools {
            hidden = hidden.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            hidden = block.forward(&hidden, norm_by)?;
        }
        let pooled = hidden.f_adaptive_avg_pool2d([1, 1])?;
        self.head.forward(&pooled.f_flatten(1, -1)?)
    }
}
