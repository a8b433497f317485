use scadles_api::worker::{ModelConfig, ModelName, RecordFormat};

use super::*;
use crate::learner::set_up_torch;

fn model() -> ModelConfig {
    ModelConfig::built_in(ModelName::Mlp, [1, 8, 8], 10)
}

fn shape() -> SampleShape {
    SampleShape::new(RecordFormat::CifarBinary, &model())
}

fn transform() -> Transform {
    Transform { mean: vec![0.5], std: vec![0.25], random_crop_padding: 2, horizontal_flip: true }
}

fn records(count: u64) -> Vec<Vec<u8>> {
    let record = |number: u64| {
        let stream = scadles_core::random::RandomStream::new(number, 1);
        std::iter::once((number % 10) as u8).chain((0..64).map(|i| stream.below(i, 256) as u8)).collect()
    };
    (0..count).map(record).collect()
}

fn evaluated(records: &[Vec<u8>], micro_batch: usize, shard: Shard) -> ShardResult {
    set_up_torch(1).unwrap();
    let learner = Learner::<f32>::new(&model(), 3).unwrap();
    let mut evaluator = Evaluator::new(&shape(), &transform(), micro_batch, &[1, 5]).unwrap();
    evaluator
        .evaluate_shard(
            &learner,
            records.len() as u64,
            |i| Cow::Borrowed(records[i as usize].as_slice()),
            shard,
        )
        .unwrap()
}

#[test]
fn shards_of_any_number_of_ranks_sum_to_the_whole() {
    let records = records(103);
    let whole = evaluated(&records, 16, Shard { rank: 0, world_size: 1, limit: 103 });
    assert_eq!(whole.counts.samples, 103);
    for world_size in [2, 3, 7] {
        let mut sum = ShardResult::default();
        for rank in 0..world_size {
            sum.add(&evaluated(&records, 5, Shard { rank, world_size, limit: 1000 }));
        }
        assert_eq!(sum.counts, whole.counts);
        assert!((sum.loss_sum - whole.loss_sum).abs() < 1e-4 * whole.loss_sum);
    }
}

#[test]
fn a_limit_chooses_pictures_spread_over_the_set_each_once() {
    for (available, limit, world_size) in [(10_000, 2_000, 4), (10, 7, 3), (5, 9, 2), (0, 5, 2), (7, 0, 1)] {
        let shards = (0..world_size).map(|rank| Shard { rank, world_size, limit });
        let pictures: Vec<u64> = shards.flat_map(|shard| shard.pictures(available)).collect();
        assert_eq!(pictures.len() as u64, limit.min(available));
        assert!(pictures.windows(2).all(|pair| pair[0] < pair[1]), "not distinct: {pictures:?}");
        assert!(pictures.iter().all(|&picture| picture < available));
        if limit == 2_000 {
            assert_eq!(pictures.last(), Some(&9_995));
        }
    }
}

#[test]
fn an_evaluation_leaves_gradients_and_parameters_alone() {
    let learner = Learner::<f32>::new(&model(), 3).unwrap();
    let before = learner.parameter_hash().unwrap();
    let records = records(20);
    let mut evaluator = Evaluator::new(&shape(), &transform(), 8, &[1]).unwrap();
    let shard = Shard { rank: 0, world_size: 1, limit: 20 };
    evaluator.evaluate_shard(&learner, 20, |i| Cow::Borrowed(records[i as usize].as_slice()), shard).unwrap();
    assert_eq!(learner.parameter_hash().unwrap(), before);
    assert!(learner.gradients().unwrap().iter().all(|&gradient| gradient == 0.0));
}

#[test]
fn a_record_that_does_not_fit_is_named() {
    let learner = Learner::<f32>::new(&model(), 3).unwrap();
    let mut evaluator = Evaluator::new(&shape(), &transform(), 8, &[1]).unwrap();
    let shard = Shard { rank: 0, world_size: 1, limit: 9 };
    let error =
        evaluator.evaluate_shard(&learner, 9, |_| Cow::Borrowed([0_u8; 3].as_slice()), shard).unwrap_err();
    assert!(
        matches!(error, EvaluateError::Record { index: 0, source: BatchError::Rejected(_) }),
        "{error:?}"
    );
}
