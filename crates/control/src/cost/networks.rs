//! What the large built-in networks are made of: enough to count their parameters and multiplications. No I/O.

use scadles_api::worker::{ModelConfig, Stem};

/// How large a network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Trained numbers.
    pub(super) parameters: u64,
    /// Multiplications (with their additions) of one picture's forward pass; norms and poolings left out.
    pub(super) multiplications: u64,
}

/// A walk through a network, layer by layer: what a picture has become, and how much has been counted.
struct Walk {
    size: Size,
    channels: u64,
    height: u64,
    width: u64,
}

impl Walk {
    fn new(model: &ModelConfig) -> Self {
        let [channels, height, width] = model.input_shape.map(u64::from);
        Self { size: Size::default(), channels, height, width }
    }

    /// A convolution of odd `side` without bias, padded so that `stride` alone makes the picture smaller, and its norm.
    fn convolution(&mut self, channels: u64, side: u64, stride: u64) {
        self.halve_rounding_up(stride);
        let weights = self.channels * channels * side * side;
        self.size.parameters += weights + 2 * channels;
        self.size.multiplications += weights * self.height * self.width;
        self.channels = channels;
    }

    /// What a padded convolution or pooling of this stride leaves of the sides.
    fn halve_rounding_up(&mut self, stride: u64) {
        (self.height, self.width) = (self.height.div_ceil(stride), self.width.div_ceil(stride));
    }

    fn linear(&mut self, inputs: u64, outputs: u64) {
        self.size.parameters += (inputs + 1) * outputs;
        self.size.multiplications += inputs * outputs;
    }

    /// One block of a ResNet: convolutions of these channels and sides; the first with `stride_at` as its place has the
    /// stride. A 1×1 convolution beside them where the shape changes.
    fn block(&mut self, convolutions: &[(u64, u64)], (stride_at, stride): (usize, u64)) {
        let (inputs, outputs) = (self.channels, convolutions.last().map_or(self.channels, |last| last.0));
        for (place, (channels, side)) in convolutions.iter().enumerate() {
            self.convolution(*channels, *side, if place == stride_at { stride } else { 1 });
        }
        if stride != 1 || inputs != outputs {
            self.channels = inputs;
            self.convolution(outputs, 1, 1);
        }
    }
}

/// A ResNet of so many blocks per stage, each of two 3×3 convolutions or (`bottleneck`) of 1×1, 3×3 and 1×1.
pub(super) fn resnet(model: &ModelConfig, blocks: [u64; 4], bottleneck: bool) -> Size {
    let mut walk = Walk::new(model);
    if model.stem == Some(Stem::Imagenet) {
        walk.convolution(64, 7, 2);
        walk.halve_rounding_up(2);
    } else {
        walk.convolution(64, 3, 1);
    }
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let channels = 64 << stage;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            if bottleneck {
                walk.block(&[(channels, 1), (channels, 3), (4 * channels, 1)], (1, stride));
            } else {
                walk.block(&[(channels, 3), (channels, 3)], (0, stride));
            }
        }
    }
    walk.linear(walk.channels, u64::from(model.num_classes));
    walk.size
}

/// A VGG of so many convolutions (with bias and norm) per stage.
pub(super) fn vgg(model: &ModelConfig, convolutions: [u64; 5]) -> Size {
    let mut walk = Walk::new(model);
    for (convolutions, channels) in convolutions.into_iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..convolutions {
            walk.convolution(channels, 3, 1);
            walk.size.parameters += channels;
        }
        (walk.height, walk.width) = (walk.height / 2, walk.width / 2);
    }
    // Averaged, or repeated, to 7×7.
    walk.linear(512 * 7 * 7, 4096);
    walk.linear(4096, 4096);
    walk.linear(4096, u64::from(model.num_classes));
    walk.size
}
