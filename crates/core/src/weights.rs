//! Aggregation weights w_i = loss mass of rank i / Σ loss mass (b_i / Σb without class weights), the weight that is applied
//! once, in the loss (paper Eqn 4, with the batch that was trained in place of the rate). No I/O.

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

/// What samples with these labels count in the loss: the sum of their classes' weights, in their order; their number without
/// weights.
pub fn loss_mass(class_weights: &[f32], labels: impl Iterator<Item = usize>) -> f64 {
    if class_weights.is_empty() {
        return labels.count() as f64;
    }
    labels.filter_map(|label| class_weights.get(label)).map(|weight| f64::from(*weight)).sum()
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
    fn with_class_weights_every_sample_counts_what_its_class_does() {
        let class_weights = [0.5, 0.0, 2.0];
        let batches: [&[usize]; 4] = [&[0, 0, 2], &[], &[1, 1], &[2]];
        let shares = batches.map(|labels| Share {
            local_batch: labels.len() as u64,
            loss_mass: loss_mass(&class_weights, labels.iter().copied()),
        });
        assert_eq!(shares.map(|share| share.loss_mass), [3.0, 0.0, 0.0, 2.0]);
        let weights = compute_weights(Aggregation::Weighted, &shares);
        assert_eq!(weights.aggregation_weights, [0.6, 0.0, 0.0, 0.4]);
        assert_eq!(weights.loss_scales, [0.2, 0.0, 0.0, 0.2]);
        let uniform = compute_weights(Aggregation::Uniform, &shares);
        assert_eq!(uniform.aggregation_weights, [0.5, 0.0, 0.0, 0.5], "without mass a device takes no part");
        let massless = compute_weights(Aggregation::Weighted, &shares[1..3]);
        assert_eq!(massless.loss_scales, [0.0, 0.0]);
    }

    #[test]
    fn uniform_counts_every_taking_part_device_the_same() {
        let weights = compute_weights(Aggregation::Uniform, &shares(&[0, 1, 64]));
        assert_eq!(weights.aggregation_weights, [0.0, 0.5, 0.5]);
        assert_eq!(weights.loss_scales, [0.0, 0.5, 1.0 / 128.0]);
    }
}
