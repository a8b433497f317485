//! The built-in networks, over plain tensors. No I/O.
//!
//! Parameters carry PyTorch's names. GroupNorm throughout: no statistics travel between samples or ranks, so that the
//! split of a batch over ranks and micro-batches changes nothing but rounding.

use scadles_api::worker::{ModelConfig, ModelName};
use tch::{TchError, Tensor};

use super::parameters::{ParameterSet, kaiming_normal, uniform_fan_in};

/// A function from pictures `[b, C, H, W]` to scores `[b, classes]`. Implementations hold the parameters that they
/// registered in a [`ParameterSet`].
pub trait Network: Send {
    /// Scores of each class, before softmax.
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError>;
}

/// Builds the network that the job names and registers its parameters in layer order.
pub(super) fn build(config: &ModelConfig, set: &mut ParameterSet) -> Result<Box<dyn Network>, TchError> {
    Ok(match config.name {
        ModelName::Cnn => Box::new(Cnn::new(config, set)?),
        ModelName::Mlp => Box::new(Mlp::new(config, set)?),
        ModelName::ResNet18 => Box::new(ResNet18::new(config, set)?),
    })
}

/// 3×3 or 1×1 convolution without bias: a norm follows, which has one.
struct Convolution {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

impl Convolution {
    fn new(
        set: &mut ParameterSet,
        name: &str,
        [inputs, outputs, side, stride]: [i64; 4],
    ) -> Result<Self, TchError> {
        let shape = [outputs, inputs, side, side];
        let weight = set.add(&format!("{name}.weight"), &shape, kaiming_normal(outputs * side * side))?;
        Ok(Self { weight, stride, padding: side / 2 })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        input.f_conv2d::<&Tensor>(&self.weight, None, stride, padding, [1, 1], 1)
    }
}

/// Normalisation over groups of channels, then a learned scale and shift per channel.
struct GroupNorm {
    groups: i64,
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    const EPSILON: f64 = 1e-5;

    fn new(set: &mut ParameterSet, name: &str, groups: i64, channels: i64) -> Result<Self, TchError> {
        let weight = set.add(&format!("{name}.weight"), &[channels], |_| 1.0)?;
        let bias = set.add(&format!("{name}.bias"), &[channels], |_| 0.0)?;
        Ok(Self { groups, weight, bias })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), Self::EPSILON, false)
    }
}

/// Fully connected layer.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(set: &mut ParameterSet, name: &str, inputs: i64, outputs: i64) -> Result<Self, TchError> {
        let weight = set.add(&format!("{name}.weight"), &[outputs, inputs], uniform_fan_in(inputs))?;
        let bias = set.add(&format!("{name}.bias"), &[outputs], uniform_fan_in(inputs))?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }
}

const CNN_CHANNELS: [i64; 3] = [16, 32, 64];
/// Channels per group in the small CNN's norms.
const CNN_GROUP_CHANNELS: i64 = 8;

/// Three blocks of 3×3 convolution, GroupNorm, ReLU and 2×2 max-pool, then one linear layer: 33,946 parameters at
/// 3×32×32 and 10 classes.
struct Cnn {
    blocks: Vec<(Convolution, GroupNorm)>,
    head: Linear,
}

impl Cnn {
    fn new(config: &ModelConfig, set: &mut ParameterSet) -> Result<Self, TchError> {
        let [mut inputs, height, width] = config.input_shape.map(i64::from);
        let mut blocks = Vec::new();
        for (i, outputs) in CNN_CHANNELS.into_iter().enumerate() {
            let convolution = Convolution::new(set, &format!("blocks.{i}.conv"), [inputs, outputs, 3, 1])?;
            let groups = outputs / CNN_GROUP_CHANNELS;
            blocks.push((convolution, GroupNorm::new(set, &format!("blocks.{i}.norm"), groups, outputs)?));
            inputs = outputs;
        }
        let head =
            Linear::new(set, "head", inputs * (height / 8) * (width / 8), i64::from(config.num_classes))?;
        Ok(Self { blocks, head })
    }
}

impl Network for Cnn {
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let mut hidden = pictures.shallow_clone();
        for (convolution, norm) in &self.blocks {
            let normed = norm.forward(&convolution.forward(&hidden)?)?;
            hidden = normed.f_relu()?.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        }
        self.head.forward(&hidden.f_flatten(1, -1)?)
    }
}

const MLP_HIDDEN: i64 = 128;

/// Two hidden layers of 128 units with ReLU.
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(config: &ModelConfig, set: &mut ParameterSet) -> Result<Self, TchError> {
        let widths = [config.picture_bytes() as i64, MLP_HIDDEN, MLP_HIDDEN, i64::from(config.num_classes)];
        let layers = widths.windows(2).enumerate();
        let layers = layers.map(|(i, pair)| Linear::new(set, &format!("layers.{i}"), pair[0], pair[1]));
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }
}

impl Network for Mlp {
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let mut hidden = pictures.f_flatten(1, -1)?;
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                hidden = hidden.f_relu()?;
            }
            hidden = layer.forward(&hidden)?;
        }
        Ok(hidden)
    }
}

/// Groups per norm in ResNet-18, as in the paper on GroupNorm (Wu, He 2018).
const RESNET_GROUPS: i64 = 32;

/// Two 3×3 convolutions around a shortcut (He et al. 2016).
struct BasicBlock {
    first: (Convolution, GroupNorm),
    second: (Convolution, GroupNorm),
    /// 1×1 convolution where shape changes.
    shortcut: Option<(Convolution, GroupNorm)>,
}

impl BasicBlock {
    fn new(
        set: &mut ParameterSet,
        name: &str,
        [inputs, outputs, stride]: [i64; 3],
    ) -> Result<Self, TchError> {
        let mut pair = |conv: &str, norm: &str, shape| -> Result<_, TchError> {
            let convolution = Convolution::new(set, &format!("{name}.{conv}"), shape)?;
            Ok((convolution, GroupNorm::new(set, &format!("{name}.{norm}"), RESNET_GROUPS, outputs)?))
        };
        let first = pair("conv1", "bn1", [inputs, outputs, 3, stride])?;
        let second = pair("conv2", "bn2", [outputs, outputs, 3, 1])?;
        let reshapes = stride != 1 || inputs != outputs;
        let shortcut = if reshapes {
            Some(pair("downsample.0", "downsample.1", [inputs, outputs, 1, stride])?)
        } else {
            None
        };
        Ok(Self { first, second, shortcut })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let hidden = self.first.1.forward(&self.first.0.forward(input)?)?.f_relu()?;
        let hidden = self.second.1.forward(&self.second.0.forward(&hidden)?)?;
        let shortcut = match &self.shortcut {
            Some((convolution, norm)) => norm.forward(&convolution.forward(input)?)?,
            None => input.shallow_clone(),
        };
        hidden.f_add(&shortcut)?.f_relu()
    }
}

/// ResNet-18 with a 3×3 stem of stride 1 and no first pooling, for small pictures; torchvision's parameter names, with
/// GroupNorm in BatchNorm's place.
struct ResNet18 {
    stem: (Convolution, GroupNorm),
    blocks: Vec<BasicBlock>,
    head: Linear,
}

impl ResNet18 {
    fn new(config: &ModelConfig, set: &mut ParameterSet) -> Result<Self, TchError> {
        let stem = Convolution::new(set, "conv1", [i64::from(config.input_shape[0]), 64, 3, 1])?;
        let stem = (stem, GroupNorm::new(set, "bn1", RESNET_GROUPS, 64)?);
        let mut blocks = Vec::new();
        let mut inputs = 64;
        for (stage, outputs) in [64, 128, 256, 512].into_iter().enumerate() {
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                blocks.push(BasicBlock::new(set, &name, [inputs, outputs, stride])?);
                inputs = outputs;
            }
        }
        Ok(Self { stem, blocks, head: Linear::new(set, "fc", inputs, i64::from(config.num_classes))? })
    }
}

impl Network for ResNet18 {
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let mut hidden = self.stem.1.forward(&self.stem.0.forward(pictures)?)?.f_relu()?;
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        let pooled = hidden.f_adaptive_avg_pool2d([1, 1])?;
        self.head.forward(&pooled.f_flatten(1, -1)?)
    }
}
