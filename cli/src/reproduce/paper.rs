//! What the paper prints and plots, as printed (arXiv 2301.08897), and nothing of ours. Pure data.

use scadles_core::rates::{S1, S1_NORMAL, S2_NORMAL};

use crate::simulate::presets::{PaperNetwork, RESNET152, VGG19};

/// Bytes of a picture as the paper counts them: 3×32×32, without the label.
pub const BYTES_PER_SAMPLE: f64 = 3_072.0;
/// Batch of conventional training.
pub const BASE_BATCH: u32 = 64;
/// Devices of the IID runs.
pub const IID_DEVICES: usize = 16;

/// A set of stream rates (Table I).
#[derive(Clone, Copy, Debug)]
pub struct RateSet {
    /// Name.
    pub name: &'static str,
    /// Mean of the distribution, samples per second.
    pub mean: f64,
    /// The repository's list; empty where it has none.
    pub list: &'static [f64],
    /// Least and largest rate of the paper's draw, read off Fig. 1.
    pub drawn: (f64, f64),
}

impl RateSet {
    /// Rates of so many devices: the list, repeated; without a list least and largest of the draw in turn.
    pub fn rates(&self, devices: usize) -> Vec<f64> {
        let ends = [self.drawn.0, self.drawn.1];
        let known = if self.list.is_empty() { &ends[..] } else { self.list };
        known.iter().copied().cycle().take(devices).collect()
    }
}

/// Table I.
pub const SETS: [RateSet; 4] = [
    RateSet { name: "S1", mean: 38.0, list: &S1, drawn: (12.0, 82.0) },
    RateSet { name: "S2", mean: 300.0, list: &[], drawn: (136.0, 410.0) },
    RateSet { name: "S1′", mean: 64.0, list: &S1_NORMAL, drawn: (22.0, 92.0) },
    RateSet { name: "S2′", mean: 256.0, list: &S2_NORMAL, drawn: (218.0, 300.0) },
];

/// Fig. 1: set, batch, longest wait in seconds less one.
pub const FIG_1: [(usize, u32, &str); 10] = [
    (0, 64, "4.33"),
    (0, 128, "9.67"),
    (0, 256, "20.3"),
    (0, 512, "41.7"),
    (2, 64, "1.91"),
    (2, 128, "4.82"),
    (2, 256, "10.6"),
    (2, 512, "22.3"),
    (1, 512, "2.77"),
    (3, 512, "1.35"),
];

/// Table II: network, rate, and GB after 1e3, 1e4 and 1e5 steps.
pub const TABLE_2: [(PaperNetwork, f64, [&str; 3]); 4] = [
    (RESNET152, 100.0, ["0.35", "3.5", "34.33"]),
    (RESNET152, 600.0, ["2.06", "20.6", "200.6"]),
    (VGG19, 100.0, ["0.47", "4.69", "46.8"]),
    (VGG19, 600.0, ["2.75", "27.5", "274.83"]),
];
/// Its columns.
pub const TABLE_2_STEPS: [u64; 3] = [1_000, 10_000, 100_000];

/// One set and network of Fig. 6 and of Tables IV and VI.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Index into [`SETS`].
    pub set: usize,
    /// Network.
    pub network: PaperNetwork,
    /// Fig. 6: step time of conventional training, in seconds.
    pub ddl_step: &'static str,
    /// Fig. 6: step time of ScaDLES.
    pub scadles_step: &'static str,
    /// Fig. 6: hours of ScaDLES to 90 % (ResNet-152) or 80 % (VGG-19).
    pub hours: f64,
    /// Table IV: buffered samples under persistence.
    pub persistence: &'static str,
    /// Table IV: under truncation.
    pub truncation: &'static str,
    /// Table IV: the one over the other.
    pub reduction: &'static str,
    /// Table VI: buffer saved, GB.
    pub saved: &'static str,
    /// Table VI: speed-up.
    pub speed_up: &'static str,
}

const fn run(
    (set, network): (usize, PaperNetwork),
    (ddl_step, scadles_step, hours): (&'static str, &'static str, f64),
    (persistence, truncation, reduction): (&'static str, &'static str, &'static str),
    (saved, speed_up): (&'static str, &'static str),
) -> Run {
    Run { set, network, ddl_step, scadles_step, hours, persistence, truncation, reduction, saved, speed_up }
}

/// Fig. 6, Table IV, Table VI.
pub const RUNS: [Run; 8] = [
    run((0, RESNET152), ("5.333", "1.317", 0.81), ("2.9e5", "129", "2238"), ("0.6", "1.89")),
    run((1, RESNET152), ("1.223", "1.852", 1.85), ("4.36e6", "633", "6889"), ("5.9", "1.15")),
    run((2, RESNET152), ("2.908", "1.182", 0.98), ("6.2e5", "143", "4340"), ("0.8", "3.29")),
    run((3, RESNET152), ("1.423", "2.228", 0.88), ("3.6e6", "384", "9429"), ("4.03", "1.42")),
    run((0, VGG19), ("5.333", "1.112", 1.32), ("1e5", "118", "848"), ("0.26", "1.56")),
    run((1, VGG19), ("1.156", "1.040", 0.22), ("4e6", "523", "7830"), ("3.91", "2.83")),
    run((2, VGG19), ("2.909", "1.100", 0.78), ("3.7e5", "129", "2861"), ("0.35", "2.06")),
    run((3, VGG19), ("1.050", "1.078", 0.30), ("2.5e6", "360", "6956"), ("2.58", "2.13")),
];

/// α = β of Fig. 9.
pub const FRACTIONS: [f64; 4] = [0.5, 0.25, 0.1, 0.05];
/// Fig. 9: mean KB per iteration, by set and fraction.
pub const FIG_9: [[&str; 4]; 4] = [
    ["340", "105", "15", "8"],
    ["2234", "654", "87", "48"],
    ["435", "134", "18", "10"],
    ["1898", "573", "77", "39"],
];
/// Devices of Fig. 9.
pub const FIG_9_DEVICES: usize = 10;

/// One cell of Table V.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Network.
    pub network: PaperNetwork,
    /// CR.
    pub ratio: f64,
    /// δ, as printed.
    pub delta: &'static str,
    /// CNC.
    pub sparse_share: f64,
    /// Floats sent.
    pub floats: &'static str,
}

const fn cell(
    network: PaperNetwork,
    ratio: f64,
    delta: &'static str,
    sparse_share: f64,
    floats: &'static str,
) -> Cell {
    Cell { network, ratio, delta, sparse_share, floats }
}

/// Table V.
pub const TABLE_5: [Cell; 16] = [
    cell(RESNET152, 0.1, "0.1", 0.29, "4.43e11"),
    cell(RESNET152, 0.1, "0.2", 0.99, "0.56e11"),
    cell(RESNET152, 0.1, "0.3", 1.0, "0.4e11"),
    cell(RESNET152, 0.1, "0.4", 1.0, "0.4e11"),
    cell(RESNET152, 0.01, "0.1", 0.0, "6.02e11"),
    cell(RESNET152, 0.01, "0.2", 0.17, "4.99e11"),
    cell(RESNET152, 0.01, "0.3", 0.43, "2.56e11"),
    cell(RESNET152, 0.01, "0.4", 0.99, "6.32e8"),
    cell(VGG19, 0.1, "0.1", 0.0, "1.3e12"),
    cell(VGG19, 0.1, "0.2", 0.08, "1.19e12"),
    cell(VGG19, 0.1, "0.3", 1.0, "1.3e10"),
    cell(VGG19, 0.1, "0.4, printed 0.04", 1.0, "1.3e10"),
    cell(VGG19, 0.01, "0.1", 0.0, "1.3e12"),
    cell(VGG19, 0.01, "0.2", 0.0, "1.3e12"),
    cell(VGG19, 0.01, "0.3", 0.0, "1.3e12"),
    cell(VGG19, 0.01, "0.4", 0.004, "1.29e12"),
];
