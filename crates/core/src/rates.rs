//! Draws from the distributions of the paper's Table I, as its reference repository lists them, in samples per second. No I/O.
//!
//! Drawing rates from a distribution is a matter of planning a job and lives there; a running job knows only lists.

/// S1, uniform with mean 38 and sd 24, samples per second.
pub const S1: [f64; 8] = [50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0];
/// S1′, normal with mean 64 and sd 24.
pub const S1_NORMAL: [f64; 10] = [92.0, 38.0, 62.0, 42.0, 48.0, 88.0, 90.0, 22.0, 44.0, 28.0];
/// S2′, normal with mean 256 and sd 28.
pub const S2_NORMAL: [f64; 10] = [270.0, 218.0, 300.0, 246.0, 232.0, 284.0, 284.0, 236.0, 274.0, 228.0];
/// The list of 25 devices.
pub const S1_NORMAL_25: [f64; 25] = [
    92.0, 22.0, 62.0, 42.0, 48.0, 36.0, 18.0, 38.0, 84.0, 60.0, 108.0, 40.0, 58.0, 16.0, 44.0, 78.0, 92.0,
    28.0, 30.0, 52.0, 84.0, 20.0, 16.0, 38.0, 66.0,
];
