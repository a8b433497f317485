//! What is known of the data sets that have a name. No I/O.

use scadles_api::worker::DatasetName;

/// Facts of a data set with a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DatasetFacts {
    /// As in the job file.
    pub label: &'static str,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Number of labels.
    pub num_classes: u32,
    /// Pictures to train on.
    pub train_samples: u64,
    /// Pictures held out.
    pub test_samples: u64,
    /// Mean per channel of the training pictures, of values in [0, 1].
    pub mean: &'static [f32],
    /// Standard deviation per channel.
    pub std: &'static [f32],
}

const CIFAR_10: DatasetFacts = DatasetFacts {
    label: "Cifar10",
    input_shape: [3, 32, 32],
    num_classes: 10,
    train_samples: 50_000,
    test_samples: 10_000,
    mean: &[0.49140, 0.48216, 0.44653],
    std: &[0.24703, 0.24349, 0.26159],
};

const CIFAR_100: DatasetFacts = DatasetFacts {
    label: "Cifar100",
    input_shape: [3, 32, 32],
    num_classes: 100,
    train_samples: 50_000,
    test_samples: 10_000,
    mean: &[0.50708, 0.48655, 0.44092],
    std: &[0.26733, 0.25644, 0.27615],
};

const FASHION_MNIST: DatasetFacts = DatasetFacts {
    label: "FashionMnist",
    input_shape: [1, 28, 28],
    num_classes: 10,
    train_samples: 60_000,
    test_samples: 10_000,
    mean: &[0.2860],
    std: &[0.3530],
};

/// Facts of a data set; `None` for the user's own files.
pub const fn facts(name: DatasetName) -> Option<DatasetFacts> {
    match name {
        DatasetName::Cifar10 => Some(CIFAR_10),
        DatasetName::Cifar100 => Some(CIFAR_100),
        DatasetName::FashionMnist => Some(FASHION_MNIST),
        DatasetName::Files => None,
    }
}
