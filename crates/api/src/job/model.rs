//! The network.

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::rules;

/// Networks: built-in ones, and your own. Those of convolutions have torchvision's parameters, with GroupNorm in BatchNorm's
/// place unless `normalization` says otherwise; numbers of parameters are those for 3 channels and 10 labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum ModelName {
    /// Three convolution blocks (34 thousand parameters at 3×32×32, 10 classes): trains on a laptop's CPU.
    Cnn,
    /// Two hidden layers of 128 units.
    Mlp,
    /// ResNet-18 (11.2 million parameters).
    ResNet18,
    /// ResNet-34 (21.3 million parameters).
    ResNet34,
    /// ResNet-50, of bottleneck blocks (23.5 million parameters).
    ResNet50,
    /// ResNet-152, of bottleneck blocks (58.2 million parameters).
    ResNet152,
    /// VGG-11, a norm after every convolution, no dropout (128.8 million parameters).
    Vgg11,
    /// VGG-16, likewise (134.3 million parameters).
    Vgg16,
    /// VGG-19, likewise (139.6 million parameters).
    Vgg19,
    /// Your own network, from the file that `torchScript` names.
    TorchScript,
}

impl ModelName {
    /// Whether it is a ResNet, which has a choice of stems.
    pub const fn is_resnet(self) -> bool {
        matches!(self, Self::ResNet18 | Self::ResNet34 | Self::ResNet50 | Self::ResNet152)
    }
}

/// The first layers of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Stem {
    /// A 3×3 convolution: for small pictures.
    Cifar,
    /// A 7×7 convolution and a 3×3 max-pool, both of stride 2, as in torchvision.
    Imagenet,
}

impl Stem {
    /// Sides from this one on get `Imagenet` by default, in pixels: its layers then still see 16×16 and not 8×8.
    pub const SMALLEST_IMAGENET_SIDE: u32 = 64;

    /// The default for pictures of this shape (channels, height, width).
    pub fn of_pictures([_, height, width]: [u32; 3]) -> Self {
        if height.min(width) < Self::SMALLEST_IMAGENET_SIDE { Self::Cifar } else { Self::Imagenet }
    }
}

/// Normalisation between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Normalization {
    /// GroupNorm: no statistics shared between samples or ranks.
    Group,
    /// BatchNorm, as in torchvision: training normalises by the statistics of the device's own batch, evaluation by running
    /// statistics, which `statistics` is about. Batches have 2 samples or more.
    Batch,
}

/// Whose running statistics of BatchNorm an evaluation, a checkpoint and the results have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum NormStatistics {
    /// Those of all devices' samples together: means weighted by samples, and the variance within and between devices.
    Agreed,
    /// Those of rank 0, as where nothing is agreed: wrong where devices see different labels; for comparisons.
    Local,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::KubeSchema))]
#[cfg_attr(feature = "crd", x_kube(validation = rules::FILE_OF_TORCH_SCRIPT, validation = rules::STEM_OF_RESNETS, validation = rules::NORMALIZATION_OF_BUILT_IN, validation = rules::BATCH_NORM_OF_CONVOLUTIONS, validation = rules::STATISTICS_OF_BATCH_NORM))]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// Which network.
    pub name: ModelName,
    /// Built-in networks only. Default `Group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// `normalization: Batch` only. Default `Agreed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<NormStatistics>,
    /// Number of labels. Default 10; 100 with the format or the producer's data set `Cifar100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<u32>,
    /// Channels, height, width of one sample. Default [3, 32, 32].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_shape: Option<[u32; 3]>,
    /// ResNets only: the first layers. Default `Cifar` for pictures whose shorter side is below 64 pixels, else `Imagenet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// `TorchScript` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_script: Option<TorchScriptSpec>,
}

/// Your own network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TorchScriptSpec {
    /// A file written by `torch.jit.script(module).save(FILE)`, whose values training begins with. `scadles run` looks for it
    /// beside the job file, a cluster below `/data` (`spec.data`).
    pub path: String,
}
