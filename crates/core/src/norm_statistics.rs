//! Running statistics of BatchNorm, made one over all ranks. No I/O.
//!
//! Each rank's norms have seen the means and variances of its own batches. What all ranks' samples together would show
//! follows from the law of total variance: with w_i the share of rank i in the samples trained since the last agreement,
//!
//! ```text
//! mean = Σ w_i·m_i        var = Σ w_i·(v_i + (m_i − mean)²)  =  Σ w_i·(v_i + m_i²) − mean²
//! ```
//!
//! Averaging the variances alone drops the part between the ranks, which is the larger one where each sees labels of its own.
//! The first form is computed: it takes no difference of large numbers, so that no variance becomes negative.
//!
//! Weighting by samples gives every sample the same say, wherever it was trained, as the gradients do, and a rank that has
//! trained nothing since the last agreement, which only knows what that has said, none.

pub use scadles_api::worker::NormStatistics;

/// What the norms of one rank have seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunningStatistics<T> {
    /// Samples that they have seen since the last agreement.
    pub samples: u64,
    /// All means, in layer order, then all variances in the same order.
    pub values: Vec<T>,
}

/// The statistics that all ranks go on with, from those of each in rank order, of one length; `None` if none has seen a
/// sample since the last agreement, whose statistics they all have still. Sums in f64 and in rank order: the same bits everywhere.
pub fn agreed_statistics<T: Copy + Into<f64>>(
    rule: NormStatistics,
    ranks: &[RunningStatistics<T>],
) -> Option<Vec<f64>> {
    let samples: u64 = ranks.iter().map(|rank| rank.samples).sum();
    if samples == 0 {
        return None;
    }
    let first = ranks.first()?;
    if rule == NormStatistics::Local {
        return Some(first.values.iter().map(|&value| value.into()).collect());
    }
    let count = first.values.len() / 2;
    // The others' numbers count nothing, whatever they are.
    let seen: Vec<(f64, &[T], &[T])> = ranks
        .iter()
        .filter(|rank| rank.samples > 0)
        .map(|rank| {
            let (means, variances) = rank.values.split_at(count);
            (rank.samples as f64 / samples as f64, means, variances)
        })
        .collect();
    let mut agreed = vec![0.0; 2 * count];
    for place in 0..count {
        let mean: f64 = seen.iter().map(|(weight, means, _)| weight * means[place].into()).sum();
        let variance = seen.iter().map(|(weight, means, variances)| {
            let away: f64 = means[place].into() - mean;
            weight * (variances[place].into() + away * away)
        });
        agreed[place] = mean;
        agreed[count + place] = variance.sum();
    }
    Some(agreed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mean and variance, both as of a whole population.
    fn moments(samples: &[f64]) -> [f64; 2] {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        [mean, samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / count]
    }

    fn seen(samples: &[f64]) -> RunningStatistics<f64> {
        let values = if samples.is_empty() { vec![7.0, 3.0] } else { moments(samples).to_vec() };
        RunningStatistics { samples: samples.len() as u64, values }
    }

    #[test]
    fn two_ranks_of_unlike_labels_agree_on_the_variance_between_them_too() {
        // Both spread by 1 around −10 and +10: the mean of their variances says 1, where it is 101.
        let ranks = [seen(&[-11.0, -9.0]), seen(&[9.0, 11.0])];
        assert_eq!(agreed_statistics(NormStatistics::Agreed, &ranks), Some(vec![0.0, 101.0]));
        assert_eq!(agreed_statistics(NormStatistics::Local, &ranks), Some(vec![-10.0, 1.0]));
    }

    #[test]
    fn means_and_variances_of_several_channels_stay_apart() {
        let rank = |samples, values: [f32; 4]| RunningStatistics { samples, values: values.to_vec() };
        let ranks = [rank(1, [0.0, 8.0, 1.0, 2.0]), rank(3, [4.0, 8.0, 1.0, 6.0])];
        // Channel 0: 1 within and 0.25·9 + 0.75·1 between; channel 1: 0.25·2 + 0.75·6.
        assert_eq!(agreed_statistics(NormStatistics::Agreed, &ranks), Some(vec![3.0, 8.0, 4.0, 5.0]));
    }

    #[test]
    fn a_second_agreement_without_a_step_between_changes_nothing() {
        let idle = RunningStatistics { samples: 0, values: vec![1.0_f32, 2.0] };
        for rule in [NormStatistics::Agreed, NormStatistics::Local] {
            assert_eq!(agreed_statistics(rule, &[idle.clone(), idle.clone()]), None);
        }
    }

    proptest! {
        #[test]
        fn the_agreed_statistics_are_those_of_the_union_of_all_batches(
            ranks in prop::collection::vec(
                (-50.0_f64..50.0, prop::collection::vec(-5.0_f64..5.0, 0..20)),
                1..6,
            ),
        ) {
            let shifted: Vec<Vec<f64>> = ranks
                .into_iter()
                .map(|(shift, samples)| samples.into_iter().map(|sample| sample + shift).collect())
                .collect();
            let union = shifted.concat();
            let parts: Vec<_> = shifted.iter().map(|samples| seen(samples)).collect();
            match agreed_statistics(NormStatistics::Agreed, &parts) {
                None => prop_assert!(union.is_empty()),
                Some(agreed) => {
                    for (found, expected) in agreed.iter().zip(moments(&union)) {
                        prop_assert!((found - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{found} {expected}");
                    }
                }
            }
        }
    }
}
