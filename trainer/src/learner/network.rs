//! Networks over plain tensors: the small built-in ones here, the large ones and the user's own below. No I/O but for the
//! file of the user's own.
//!
//! Parameters carry PyTorch's names. GroupNorm unless the job says otherwise: no statistics travel between samples or ranks,
//! so that the split of a batch over ranks and micro-batches changes nothing but rounding. With BatchNorm each part of a
//! batch is normalised by itself.

mod resnet;
mod torch_script;
mod vgg;

use scadles_api::worker::{ModelConfig, ModelName, Normalization};
use tch::{TchError, Tensor};

use super::LearnerError;
use super::parameters::{ParameterSet, kaiming_normal, normal, uniform_fan_in};
use super::statistics::NormBuffers;
use resnet::ResNet;
use torch_script::TorchScript;
use vgg::Vgg;

pub use torch_script::ModelFileError;

/// A function from pictures `[b, C, H, W]` to scores `[b, classes]`. Implementations hold the parameters that they
/// registered in a [`ParameterSet`].
pub trait Network: Send {
    /// Scores of each class, before softmax. Networks without BatchNorm are the same by either kind of statistics.
    fn forward(&self, pictures: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError>;

    /// SHA-256, in hexadecimal, of the file that says what the network computes; `None` for networks of this program.
    fn file_sha256(&self) -> Option<&str> {
        None
    }
}

/// What BatchNorm normalises by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormBy {
    /// The statistics of the pictures at hand, by which the running ones are updated.
    Batch,
    /// The running statistics, which stay.
    Running,
}

impl NormBy {
    /// For so many pictures that are trained together. A lone one, at the end of a stream or among shared ones, has no
    /// statistics of its own where maps are of one pixel, and poor ones elsewhere: it takes the running ones.
    pub(super) const fn in_training(pictures: usize) -> Self {
        if pictures > 1 { Self::Batch } else { Self::Running }
    }
}

/// Builds the network that the job names and registers its parameters in layer order.
pub(super) fn build(config: &ModelConfig, set: &mut ParameterSet) -> Result<Box<dyn Network>, LearnerError> {
    Ok(match config.name {
        ModelName::Cnn => Box::new(Cnn::new(config, set)?),
        ModelName::Mlp => Box::new(Mlp::new(config, set)?),
        ModelName::ResNet18 => Box::new(ResNet::of_basic_blocks([2, 2, 2, 2], config, set)?),
        ModelName::ResNet34 => Box::new(ResNet::of_basic_blocks([3, 4, 6, 3], config, set)?),
        ModelName::ResNet50 => Box::new(ResNet::of_bottlenecks([3, 4, 6, 3], config, set)?),
        ModelName::ResNet152 => Box::new(ResNet::of_bottlenecks([3, 8, 36, 3], config, set)?),
        ModelName::Vgg11 => Box::new(Vgg::new([1, 1, 2, 2, 2], config, set)?),
        ModelName::Vgg16 => Box::new(Vgg::new([2, 2, 3, 3, 3], config, set)?),
        ModelName::Vgg19 => Box::new(Vgg::new([2, 2, 4, 4, 4], config, set)?),
        ModelName::TorchScript => Box::new(TorchScript::load(config, set)?),
    })
}

/// In place: what comes before it here (norm, sum, linear layer) does not need its own result for its gradient, and half of
/// the memory of a step is results that wait for theirs.
fn relu(mut hidden: Tensor) -> Result<Tensor, TchError> {
    hidden.f_relu_()
}

/// Groups per GroupNorm in the large networks, as in the paper on it (Wu, He 2018).
const GROUPS: Groups = Groups::Number(32);

/// Convolution with an odd kernel, padded so that stride 1 keeps the sides.
struct Convolution {
    weight: Tensor,
    /// Left out where the norm that follows is the only one to shift.
    bias: Option<Tensor>,
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
        Ok(Self { weight, bias: None, stride, padding: side / 2 })
    }

    /// The same with a bias that begins at zero.
    fn with_bias(set: &mut ParameterSet, name: &str, shape: [i64; 4]) -> Result<Self, TchError> {
        let convolution = Self::new(set, name, shape)?;
        let bias = set.add(&format!("{name}.bias"), &[shape[1]], |_| 0.0)?;
        Ok(Self { bias: Some(bias), ..convolution })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        input.f_conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], 1)
    }
}

/// Normalisation, then a learned scale and shift per channel.
struct Norm {
    weight: Tensor,
    bias: Tensor,
    over: NormOver,
}

/// What is brought to mean 0 and variance 1.
enum NormOver {
    /// Each of so many groups of channels of each sample.
    Groups(i64),
    /// Each channel over all samples.
    Samples(NormBuffers),
}

/// How the norms of a network are made.
#[derive(Clone, Copy)]
struct Norms {
    normalization: Normalization,
    groups: Groups,
}

/// Groups of a GroupNorm.
#[derive(Clone, Copy)]
enum Groups {
    /// So many, whatever the channels.
    Number(i64),
    /// Of so many channels each.
    OfChannels(i64),
}

impl Norms {
    fn norm(&self, set: &mut ParameterSet, name: &str, channels: i64) -> Result<Norm, TchError> {
        let weight = set.add(&format!("{name}.weight"), &[channels], |_| 1.0)?;
        let bias = set.add(&format!("{name}.bias"), &[channels], |_| 0.0)?;
        let over = match (self.normalization, self.groups) {
            (Normalization::Batch, _) => NormOver::Samples(set.add_norm(name, channels)?),
            (Normalization::Group, Groups::Number(groups)) => NormOver::Groups(groups),
            (Normalization::Group, Groups::OfChannels(each)) => NormOver::Groups(channels / each),
        };
        Ok(Norm { weight, bias, over })
    }
}

impl Norm {
    const EPSILON: f64 = 1e-5;
    /// Share of the newest batch in the running statistics.
    const MOMENTUM: f64 = 0.1;

    fn forward(&self, input: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        match &self.over {
            NormOver::Groups(groups) => input.f_group_norm(*groups, weight, bias, Self::EPSILON, false),
            NormOver::Samples(running) => input.f_batch_norm(
                weight,
                bias,
                Some(running.mean()),
                Some(running.variance()),
                norm_by == NormBy::Batch,
                Self::MOMENTUM,
                Self::EPSILON,
                false,
            ),
        }
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

    /// The same with weights that begin normal with this standard deviation, and a bias that begins at zero.
    fn normal(
        set: &mut ParameterSet,
        name: &str,
        [inputs, outputs]: [i64; 2],
        deviation: f64,
    ) -> Result<Self, TchError> {
        let weight = set.add(&format!("{name}.weight"), &[outputs, inputs], normal(deviation))?;
        let bias = set.add(&format!("{name}.bias"), &[outputs], |_| 0.0)?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }
}

/// Fully connected layers with ReLU between them.
fn forward_all(layers: &[Linear], mut hidden: Tensor) -> Result<Tensor, TchError> {
    for (i, layer) in layers.iter().enumerate() {
        if i > 0 {
            hidden = relu(hidden)?;
        }
        hidden = layer.forward(&hidden)?;
    }
    Ok(hidden)
}

const CNN_CHANNELS: [i64; 3] = [16, 32, 64];
/// Groups in the small CNN's norms.
const CNN_GROUPS: Groups = Groups::OfChannels(8);

/// Three blocks of 3×3 convolution, norm, ReLU and 2×2 max-pool, then one linear layer: 33,946 parameters at
/// 3×32×32 and 10 classes.
struct Cnn {
    blocks: Vec<(Convolution, Norm)>,
    head: Linear,
}

impl Cnn {
    fn new(config: &ModelConfig, set: &mut ParameterSet) -> Result<Self, TchError> {
        let [mut inputs, height, width] = config.input_shape.map(i64::from);
        let norms = Norms { normalization: config.normalization, groups: CNN_GROUPS };
        let mut blocks = Vec::new();
        for (i, outputs) in CNN_CHANNELS.into_iter().enumerate() {
            let convolution = Convolution::new(set, &format!("blocks.{i}.conv"), [inputs, outputs, 3, 1])?;
            blocks.push((convolution, norms.norm(set, &format!("blocks.{i}.norm"), outputs)?));
            inputs = outputs;
        }
        let head =
            Linear::new(set, "head", inputs * (height / 8) * (width / 8), i64::from(config.num_classes))?;
        Ok(Self { blocks, head })
    }
}

impl Network for Cnn {
    fn forward(&self, pictures: &Tensor, norm_by: NormBy) -> Result<Tensor, TchError> {
        let mut hidden = pictures.shallow_clone();
        for (convolution, norm) in &self.blocks {
            let normed = norm.forward(&convolution.forward(&hidden)?, norm_by)?;
            hidden = relu(normed)?.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
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
        let widths = [config.picture_values() as i64, MLP_HIDDEN, MLP_HIDDEN, i64::from(config.num_classes)];
        let layers = widths.windows(2).enumerate();
        let layers = layers.map(|(i, pair)| Linear::new(set, &format!("layers.{i}"), pair[0], pair[1]));
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }
}

impl Network for Mlp {
    fn forward(&self, pictures: &Tensor, _norm_by: NormBy) -> Result<Tensor, TchError> {
        forward_all(&self.layers, pictures.f_flatten(1, -1)?)
    }
}
