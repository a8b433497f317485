//! Aggregation weights w_i = b_i / Σb, the weight that is applied once, in the loss (algorithms §2). No I/O.

pub use scadles_api::job::Aggregation;

/// What one rank brings into a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// b_i, samples.
    pub local_batch: u64,
    /// Sum of the samples' class weights; b_i without class weights.
    pub loss_mass: f64,
}

/// The weights of one step, indexed by rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// w_i; they sum to 1 when any rank takes part.
    pub aggregation_weights: Vec<f64>,
    /// w_i / loss mass of rank i: what the *sum* of a rank's weighted sample losses is multiplied by, so that the plain
    /// sum of all ranks' gradients is the aggregate.
    pub loss_scales: Vec<f64>,
}

/// Weights for `shares` in rank order. A rank without samples or without mass has weight 0. The mass is summed in rank
/// order, so that all ranks get the same bits.
pub fn compute_weights(aggregation: Aggregation, shares: &[Share]) -> Weights {
    let mass = |share: &Share| if share.local_batch > 0 { share.loss_mass } else { 0.0 };
    let taking_part = shares.iter().filter(|share| mass(share) > 0.0).count();
    let total_mass: f64 = shares.iter().map(mass).sum();
    let weigh = |share: &Share| -> (f64, f64) {
        let mass = mass(share);
        if mass <= 0.0 {
            return (0.0, 0.0);
        }
        match aggregation {
            // One scale for all ranks, not w_i / mass_i: the same samples get the same bits wherever they are trained.
            Aggregation::Weighted => (mass / total_mass, 1.0 / total_mass),
            Aggregation::Uniform => (1.0 / taking_part as f64, 1.0 / (taking_part as f64 * mass)),
        }
    };
    let (aggregation_weights, loss_scales) = shares.iter().map(weigh).unzip();
    Weights { aggregation_weights, loss_scales }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(batches: &[u64]) -> Vec<Share> {
        batches.iter().map(|&b| Share { local_batch: b, loss_mass: b as f64 }).collect()
    }

    #[test]
    fn weighted_counts_every_sample_the_same() {
        let weights = compute_weights(Aggregation::Weighted, &shares(&[0, 1, 7, 64]));
        assert_eq!(weights.aggregation_weights, [0.0, 1.0 / 72.0, 7.0 / 72.0, 64.0 / 72.0]);
        assert_eq!(weights.loss_scales, [0.0, 1.0 / 72.0, 1.0 / 72.0, 1.0 / 72.0]);
    }

    #[test]
    fn uniform_counts_every_taking_part_device_the_same() {
        let weights = compute_weights(Aggregation::Uniform, &shares(&[0, 1, 64]));
        assert_eq!(weights.aggregation_weights, [0.0, 0.5, 0.5]);
        assert_eq!(weights.loss_scales, [0.0, 0.5, 1.0 / 128.0]);
    }
}
