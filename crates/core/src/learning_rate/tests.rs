use super::*;
use crate::random::RandomStream;

fn plan(scaling: LearningRateScaling) -> LearningRatePlan {
    LearningRatePlan {
        base_learning_rate: 0.1,
        scaling,
        base_global_batch: 256,
        epoch_samples: 50_000,
        milestone_epochs: vec![1.0, 2.5],
        gamma: 0.2,
    }
}

/// η_t of a step that trains what arrived, weighted by samples.
fn rate(plan: &LearningRatePlan, samples: u64, batch: u64) -> f64 {
    let batch = ScaledBatch { trained: batch, arrived: batch, independent: batch as f64 };
    plan.scale(LearningRateState::default(), samples, &batch).0
}

#[test]
fn linear_scaling_follows_the_global_batch() {
    let plan = plan(LearningRateScaling::Linear);
    assert_eq!(rate(&plan, 0, 256), 0.1);
    assert_eq!(rate(&plan, 0, 64), 0.1 * 0.25);
    assert_eq!(rate(&plan, 49_999, 512), 0.1 * 2.0);
}

#[test]
fn milestones_count_global_samples() {
    let plan = plan(LearningRateScaling::None);
    let at = |samples| rate(&plan, samples, 7);
    assert_eq!([at(49_999), at(50_000), at(125_000)], [0.1, 0.1 * 0.2, 0.1 * 0.2 * 0.2]);
}

#[test]
fn capped_scaling_stops_at_its_bound_and_comes_to_it_over_the_warm_up() {
    let capped = plan(LearningRateScaling::Capped { factor: 3.0, warm_up_epochs: 0.5 });
    assert_eq!(rate(&capped, 0, 2560), 0.1, "it begins with η");
    assert_eq!(rate(&capped, 12_500, 2560), 0.1 * 2.0, "half of the way");
    assert_eq!(rate(&capped, 25_000, 2560), 0.1 * 3.0);
    assert_eq!(rate(&capped, 25_000, 512), 0.1 * 2.0, "below the bound it is linear");
    assert_eq!(rate(&capped, 0, 64), 0.1 * 0.25, "a small batch has a small rate from the first step");
    let at_once = plan(LearningRateScaling::Capped { factor: 3.0, warm_up_epochs: 0.0 });
    assert_eq!(rate(&at_once, 0, 2560), 0.1 * 3.0);
}

/// A linear model of ten weights whose samples' gradients are g + noise: g of squared norm 2.5, noise of variance 4 in each
/// element, so trΣ = 40.
struct Quadratic {
    stream: RandomStream,
    drawn: u64,
}

const SIGNAL: f64 = 2.5;
const VARIANCE: f64 = 40.0;
const BASE: f64 = 32.0;

impl Quadratic {
    fn gradient(&mut self, samples: u64) -> [f64; 10] {
        let mut sum = [0.0; 10];
        for _ in 0..samples {
            for element in &mut sum {
                *element += 0.5 + 2.0 * self.stream.normal(self.drawn);
                self.drawn += 1;
            }
        }
        sum.map(|element| element / samples as f64)
    }

    /// The reports of a step with these batches and weights.
    fn step(&mut self, batches: &[u64], weights: &[f64]) -> Vec<Option<GradientReport>> {
        let mut delivered = [0.0; 10];
        let mut reports = Vec::new();
        for (&samples, &weight) in batches.iter().zip(weights) {
            let own = if samples == 0 { [0.0; 10] } else { self.gradient(samples) };
            let own = own.map(|element| weight * element);
            delivered.iter_mut().zip(own).for_each(|(sum, element)| *sum += element);
            let own_energy = own.iter().map(|element| element * element).sum();
            reports.push(GradientReport {
                own_energy,
                delivered_energy: 0.0,
                samples,
                aggregation_weight: weight,
            });
        }
        let delivered_energy = delivered.iter().map(|element| element * element).sum();
        reports.into_iter().map(|report| Some(GradientReport { delivered_energy, ..report })).collect()
    }
}

fn by_samples(batches: &[u64]) -> Vec<f64> {
    let sum: u64 = batches.iter().sum();
    batches.iter().map(|&samples| samples as f64 / sum as f64).collect()
}

/// Means of trΣ and G² over so many steps whose batches change.
fn estimated(steps: u64, weigh: impl Fn(&[u64]) -> Vec<f64>) -> (f64, f64) {
    let mut quadratic = Quadratic { stream: RandomStream::new(5, 0), drawn: 0 };
    let sizes = RandomStream::new(9, 0);
    let (mut variance, mut signal) = (0.0, 0.0);
    for step in 0..steps {
        // Unequal, and one sits out now and then.
        let batch = |rank: u64| (sizes.unit(step * 4 + rank) * [3.0, 9.0, 20.0, 60.0][rank as usize]) as u64;
        let batches = [batch(0), 1 + batch(1), 1 + batch(2), 1 + batch(3)];
        let noise = GradientNoise::default().observed(&quadratic.step(&batches, &weigh(&batches)));
        variance += noise.sample_variance.value().unwrap();
        signal += noise.signal.value().unwrap();
    }
    (variance / steps as f64, signal / steps as f64)
}

#[test]
fn noise_and_signal_are_estimated_without_bias_from_unequal_batches() {
    let (variance, signal) = estimated(4_000, by_samples);
    assert!((variance - VARIANCE).abs() < 0.03 * VARIANCE, "{variance}");
    assert!((signal - SIGNAL).abs() < 0.05 * SIGNAL, "{signal}");
    // The mean of means has another noise, and the same samples.
    let uniform = |batches: &[u64]| {
        let taking_part = batches.iter().filter(|samples| **samples > 0).count() as f64;
        batches.iter().map(|&samples| if samples > 0 { taking_part.recip() } else { 0.0 }).collect()
    };
    let (variance, signal) = estimated(4_000, uniform);
    assert!((variance - VARIANCE).abs() < 0.03 * VARIANCE, "{variance}");
    assert!((signal - SIGNAL).abs() < 0.2 * SIGNAL, "{signal}");
}

#[test]
fn the_gain_comes_to_what_the_known_variance_asks_for() {
    let mut quadratic = Quadratic { stream: RandomStream::new(1, 0), drawn: 0 };
    let batches = [4, 10, 34, 80];
    let noise = (0..400).fold(GradientNoise::default(), |noise, _| {
        noise.observed(&quadratic.step(&batches, &by_samples(&batches)))
    });
    // (40/32 + 2.5)/(40/128 + 2.5) = 1.333: four times the batch bears a third more.
    let expected = (VARIANCE / BASE + SIGNAL) / (VARIANCE / 128.0 + SIGNAL);
    let gain = noise.gain(128.0, BASE);
    assert!((gain - expected).abs() < 0.08 * expected, "{gain}, not {expected}");
    assert_eq!(noise.gain(BASE, BASE), 1.0);
    let smaller = noise.gain(8.0, BASE);
    assert!(smaller > 8.0 / BASE && smaller < 1.0, "{smaller}");
}

#[test]
fn the_gain_is_the_batchs_where_all_is_noise_and_one_where_there_is_none() {
    let report = |own_energy, delivered_energy| {
        Some(GradientReport { own_energy, delivered_energy, samples: 8, aggregation_weight: 0.5 })
    };
    let noise =
        |own, delivered| GradientNoise::default().observed(&[report(own, delivered), report(own, delivered)]);
    assert_eq!(noise(0.25, 1.0).gain(128.0, BASE), 1.0, "both have the gradient of all");
    assert_eq!(noise(0.25, 0.0).gain(128.0, BASE), 4.0, "they cancel each other");
    assert_eq!(noise(0.0, 0.0).gain(128.0, BASE), 1.0, "nothing to learn, nothing to gain");
    // A sparse step may deliver more than there was.
    assert_eq!(noise(0.25, 9.0).gain(128.0, BASE), 1.0);
}

#[test]
fn one_rank_alone_and_what_is_no_number_teach_nothing() {
    let report =
        GradientReport { own_energy: 1.0, delivered_energy: 1.0, samples: 8, aggregation_weight: 1.0 };
    let idle = GradientReport { own_energy: 0.0, samples: 0, aggregation_weight: 0.0, ..report };
    let endless = GradientReport { own_energy: f64::INFINITY, ..report };
    let unknown = GradientNoise::default();
    assert_eq!(unknown.observed(&[Some(report), Some(idle), None]), unknown);
    assert_eq!(unknown.observed(&[Some(report), Some(endless)]), unknown);
    assert_eq!((unknown.gain(512.0, 256.0), unknown.gain(64.0, 256.0)), (1.0, 0.25), "the least there is");
}

#[test]
fn milestones_of_ada_scale_come_after_as_many_steps_as_the_gain_is_worth() {
    let plan = plan(LearningRateScaling::AdaScale);
    let batch = ScaledBatch::of(&[512, 256], &[2.0 / 3.0, 1.0 / 3.0], 768);
    let rates: Vec<f64> = (0..200)
        .scan((LearningRateState::default(), 0), |(state, samples), _| {
            let (rate, next) = plan.scale(*state, *samples, &batch);
            (*state, *samples) = (next, *samples + batch.arrived);
            Some(rate)
        })
        .collect();
    // Of noise nothing is known: each step counts as one of 256 samples, 196 of them make an epoch.
    assert_eq!((rates[195], rates[196]), (0.1, 0.1 * 0.2));
}

#[test]
fn a_batch_of_equal_weights_has_the_noise_of_a_smaller_one() {
    let by_samples = ScaledBatch::of(&[96, 0, 32], &[0.75, 0.0, 0.25], 120);
    assert!((by_samples.independent - 128.0).abs() < 1e-9, "{by_samples:?}");
    assert_eq!((by_samples.trained, by_samples.arrived), (128, 120));
    let uniform = ScaledBatch::of(&[96, 0, 32], &[0.5, 0.0, 0.5], 128);
    assert!((uniform.independent - 96.0).abs() < 1e-9, "1 / (1/384 + 1/128): {uniform:?}");
}

#[test]
fn energy_is_the_sum_of_all_squares() {
    let values: Vec<f32> = (0..21).map(|i| i as f32).collect();
    assert_eq!(energy(&values), (0..21).map(|i| f64::from(i * i)).sum::<f64>());
    assert_eq!(energy(&[]), 0.0);
}
