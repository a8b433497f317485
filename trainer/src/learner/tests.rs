use scadles_api::worker::{NormStatistics, Normalization, RecordFormat, SampleShape, Transform};

use scadles_control::parameter_count;

use super::*;
use crate::batch::{BatchAssembler, SampleRef};
use scadles_api::worker::ModelName::{self, Cnn, Mlp, ResNet18};

/// Every test begins with it: what a thread computes while another one sets libtorch up is freed by the wrong allocator.
fn model(name: ModelName, input_shape: [u32; 3], num_classes: u32) -> ModelConfig {
    set_up_torch(1).unwrap();
    ModelConfig::built_in(name, input_shape, num_classes)
}

/// An assembled batch of `count` random pictures.
fn assembled<T: Real>(model: &ModelConfig, count: usize) -> BatchAssembler<T> {
    let channels = model.input_shape[0] as usize;
    let transform = Transform {
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
        random_crop_padding: 0,
        horizontal_flip: false,
    };
    let record = |number: u64| -> Vec<u8> {
        let stream = scadles_core::random::RandomStream::new(number, 2);
        let label = stream.below(u64::MAX, u64::from(model.num_classes)) as u8;
        std::iter::once(label)
            .chain((0..model.picture_values() as u64).map(|i| stream.below(i, 256) as u8))
            .collect()
    };
    let records: Vec<Vec<u8>> = (0..count as u64).map(record).collect();
    let shape = SampleShape::new(RecordFormat::CifarBinary, model);
    let mut assembler = BatchAssembler::new(&shape, &transform, count.max(1)).unwrap();
    assembler.assemble(records.iter().map(|payload| SampleRef::plain(payload, &transform))).unwrap();
    assembler
}

#[test]
fn parameters_count_as_published() {
    for (config, expected) in [
        (model(ResNet18, [3, 32, 32], 10), 11_173_962),
        (model(Cnn, [3, 32, 32], 10), 33_946),
        (model(Mlp, [3, 32, 32], 10), 3072 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
    ] {
        assert_eq!(Learner::<f32>::new(&config, 1).unwrap().parameter_count(), expected);
        assert_eq!(parameter_count(&config), expected);
    }
    for name in [Cnn, Mlp, ResNet18] {
        for (shape, classes) in [([1, 28, 28], 10), ([2, 17, 40], 3)] {
            let config = model(name, shape, classes);
            let learner = Learner::<f32>::new(&config, 1).unwrap();
            assert_eq!(learner.parameter_count(), parameter_count(&config), "{name:?} {shape:?}");
        }
    }
}

#[test]
fn every_model_scores_both_picture_shapes() {
    for name in [Cnn, Mlp, ResNet18] {
        for shape in [[3, 32, 32], [1, 28, 28]] {
            let config = model(name, shape, 10);
            let mut learner = Learner::<f32>::new(&config, 1).unwrap();
            let assembler = assembled::<f32>(&config, 2);
            let statistics = learner.contribute(assembler.batch(), 0.5, 2).unwrap();
            let loss = statistics.loss_sum / 2.0;
            assert!(loss > 0.5 && loss < 20.0, "{name:?} {shape:?}: a loss of {loss} at the start");
            assert_eq!(learner.score(assembler.batch()).unwrap().0.size(), [2, 10]);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_torchs_generator_did() {
    let config = model(Cnn, [3, 32, 32], 10);
    let hash = |seed| Learner::<f32>::new(&config, seed).unwrap().parameter_hash().unwrap();
    let first = hash(1);
    tch::manual_seed(99);
    let _used = Tensor::randn([10], (Kind::Float, tch::Device::Cpu));
    assert_eq!(hash(1), first);
    assert_ne!(hash(2), first);
}

#[test]
fn start_values_follow_torchvisions_rules() {
    let learner = Learner::<f64>::new(&model(ResNet18, [3, 32, 32], 10), 1).unwrap();
    let values = learner.parameters().unwrap();
    for slot in learner.flat().layout() {
        let own = &values[slot.offset_elements..][..slot.len_elements];
        let shape = &learner.shapes[learner.flat().layout().iter().position(|other| other == slot).unwrap()];
        let deviation = (own.iter().map(|v| v * v).sum::<f64>() / own.len() as f64).sqrt();
        match shape[..] {
            [outputs, _, height, width] => {
                let expected = (2.0 / (outputs * height * width) as f64).sqrt();
                assert!((deviation / expected - 1.0).abs() < 0.05, "{}: {deviation}", slot.name);
            }
            [_, inputs] => {
                let bound = 1.0 / (inputs as f64).sqrt();
                assert!(own.iter().all(|v| v.abs() <= bound), "{}", slot.name);
                assert!((deviation * 3.0_f64.sqrt() / bound - 1.0).abs() < 0.05, "{}", slot.name);
            }
            _ if slot.name.ends_with("weight") => {
                assert!(own.iter().all(|&v| v.to_bits() == 1.0_f64.to_bits()));
            }
            _ => assert!(own.iter().all(|v| v.abs() <= 1.0 / 512.0_f64.sqrt())),
        }
    }
}

#[test]
fn micro_batches_change_gradients_by_rounding_only() {
    let config = model(Cnn, [3, 32, 32], 10);
    let assembler = assembled::<f64>(&config, 10);
    let mut gradients = [10, 3, 1].map(|micro_batch| {
        let mut learner = Learner::<f64>::new(&config, 1).unwrap();
        let statistics = learner.contribute(assembler.batch(), 0.1, micro_batch).unwrap();
        assert_eq!(statistics.samples, 10);
        learner.gradients().unwrap().to_vec()
    });
    let norm = gradients[0].iter().map(|g| g * g).sum::<f64>().sqrt();
    let whole = std::mem::take(&mut gradients[0]);
    for split in &gradients[1..] {
        let distance = whole.iter().zip(split).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!(distance < 1e-12 * norm, "{distance} of {norm}");
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_scaled_loss() {
    let config = model(Mlp, [1, 6, 6], 4);
    let assembler = assembled::<f64>(&config, 5);
    let mut learner = Learner::<f64>::new(&config, 1).unwrap();
    let scale = 0.37;
    learner.contribute(assembler.batch(), scale, 2).unwrap();
    let slopes = learner.gradients().unwrap().to_vec();
    let mut loss_at = |index: usize, shift: f64| {
        learner.parameters_mut().unwrap()[index] += shift;
        let loss = scale * learner.score(assembler.batch()).unwrap().1;
        learner.parameters_mut().unwrap()[index] -= shift;
        loss
    };
    let (step, checked) = (1e-6, [0, 100, 4700, 20_000]);
    for index in checked {
        let slope = (loss_at(index, step) - loss_at(index, -step)) / (2.0 * step);
        assert!((slope - slopes[index]).abs() < 1e-6, "{index}: {slope} and {}", slopes[index]);
    }
    assert!(checked.iter().any(|&index| slopes[index].abs() > 1e-4), "only flat places were checked");
}

#[test]
fn class_weights_multiply_the_slope_of_each_sample_and_leave_the_reported_loss() {
    let config = model(Mlp, [1, 6, 6], 4);
    let class_weights = [0.5_f32, 0.0, 3.0, 1.0];
    let single = |number: usize| -> Vec<f64> {
        let assembler = assembled::<f64>(&config, number + 1);
        let last = Batch {
            pictures: assembler.batch().pictures.narrow(0, number as i64, 1),
            labels: assembler.batch().labels.narrow(0, number as i64, 1),
        };
        let weight = f64::from(class_weights[assembler.labels()[number] as usize]);
        let mut learner = Learner::<f64>::new(&config, 1).unwrap();
        learner.contribute(&last, 0.25, 1).unwrap();
        learner.gradients().unwrap().iter().map(|slope| weight * slope).collect()
    };
    let expected = (0..9).map(single).reduce(|sum, next| sum.iter().zip(next).map(|(a, b)| a + b).collect());
    let assembler = assembled::<f64>(&config, 9);
    let trained = |class_weights: &[f32]| {
        let learner = Learner::<f64>::new(&config, 1).unwrap();
        let mut learner = learner.with_class_weights(class_weights).unwrap();
        let statistics = learner.contribute(assembler.batch(), 0.25, 4).unwrap();
        (learner.gradients().unwrap().to_vec(), statistics)
    };
    let ((plain, unweighted), (weighted, statistics)) = (trained(&[]), trained(&class_weights));
    assert!((statistics.loss_sum - unweighted.loss_sum).abs() < 1e-12 * unweighted.loss_sum);
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let norm = distance(&weighted, &vec![0.0; weighted.len()]);
    assert!(distance(&weighted, &expected.unwrap()) < 1e-12 * norm);
    assert!(distance(&weighted, &plain) > 1e-3 * norm, "the weights change nothing");
}

#[test]
fn an_empty_batch_leaves_zero_gradients() {
    let config = model(Cnn, [3, 32, 32], 10);
    let mut learner = Learner::<f32>::new(&config, 1).unwrap();
    learner.contribute(assembled::<f32>(&config, 4).batch(), 0.25, 4).unwrap();
    assert!(learner.gradients().unwrap().iter().any(|&gradient| gradient != 0.0));
    let statistics = learner.contribute(assembled::<f32>(&config, 0).batch(), 0.25, 4).unwrap();
    assert_eq!(statistics, StepStatistics::default());
    assert!(learner.gradients().unwrap().iter().all(|gradient| gradient.to_bits() == 0));
    assert!(learner.flat().gradients_are_aliased());
}

#[test]
fn training_repeats_bit_for_bit() {
    let config = model(Cnn, [3, 32, 32], 10);
    let assembler = assembled::<f32>(&config, 33);
    let gradients = || {
        let mut learner = Learner::<f32>::new(&config, 1).unwrap();
        learner.contribute(assembler.batch(), 1.0 / 33.0, 16).unwrap();
        bytes_of(learner.gradients().unwrap()).to_vec()
    };
    assert_eq!(gradients(), gradients());
}

#[test]
fn parameters_come_back_from_a_file_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = model(Cnn, [3, 32, 32], 10);
    let saved = Learner::<f32>::new(&config, 1).unwrap();
    saved.save(&path).unwrap();
    let mut loaded = Learner::<f32>::new(&config, 2).unwrap();
    loaded.load(&path).unwrap();
    assert_eq!(loaded.parameter_hash().unwrap(), saved.parameter_hash().unwrap());
    assert!(loaded.flat().gradients_are_aliased());
    assert_eq!(std::fs::read(&path).unwrap(), loaded.encode(loaded.parameters().unwrap()).unwrap());
}

#[test]
fn a_file_of_another_model_is_refused_and_changes_nothing() {
    let other = Learner::<f32>::new(&model(Cnn, [3, 32, 32], 7), 1).unwrap();
    let file = other.encode(other.parameters().unwrap()).unwrap();
    let mut learner = Learner::<f32>::new(&model(Cnn, [3, 32, 32], 10), 1).unwrap();
    let before = learner.parameter_hash().unwrap();
    let error = learner.set_model(&file).unwrap_err().to_string();
    assert!(error.contains("head.weight is F32 [7, 1024]; the model has F32 [10, 1024]"), "{error}");
    assert!(learner.set_model(&file[..file.len() / 2]).is_err());
    assert!(learner.set_model(b"no tensors").is_err());
    assert_eq!(learner.parameter_hash().unwrap(), before);
}

#[test]
fn the_hash_sees_every_bit_and_no_padding() {
    let mut learner = Learner::<f32>::new(&model(Cnn, [3, 32, 32], 10), 1).unwrap();
    let before = learner.parameter_hash().unwrap();
    let last = learner.flat().layout().last().unwrap().clone();
    let end = last.offset_elements + last.len_elements;
    let values = learner.parameters_mut().unwrap();
    values[end] = 1.0;
    assert_eq!(learner.parameter_hash().unwrap(), before);
    let values = learner.parameters_mut().unwrap();
    values[end - 1] = f32::from_bits(values[end - 1].to_bits() ^ 1);
    assert_ne!(learner.parameter_hash().unwrap(), before);
}

fn batch_norm(name: ModelName, input_shape: [u32; 3]) -> ModelConfig {
    let statistics = Some(NormStatistics::Agreed);
    ModelConfig { normalization: Normalization::Batch, statistics, ..model(name, input_shape, 10) }
}

#[test]
fn running_statistics_take_a_tenth_of_every_part_of_an_even_split() {
    let config = batch_norm(Cnn, [3, 32, 32]);
    let mut learner = Learner::<f64>::new(&config, 1).unwrap();
    let first = learner.flat().layout()[0].clone();
    assert_eq!(first.name, "blocks.0.conv.weight");
    let kernel = Tensor::from_slice(&learner.parameters().unwrap()[..first.len_elements]);
    let assembler = assembled::<f64>(&config, 9);
    learner.contribute(assembler.batch(), 0.1, 8).unwrap();
    let found = learner.statistics().unwrap();
    assert_eq!((found.samples, found.values.len()), (9, 2 * (16 + 32 + 64)));

    // The first norm by hand: 9 pictures by at most 8 are 5 and 4.
    let maps = assembler.batch().pictures.conv2d(
        &kernel.view([16, 3, 3, 3]),
        None::<&Tensor>,
        [1, 1],
        [1, 1],
        [1, 1],
        1,
    );
    let (mut mean, mut variance) = (
        Tensor::zeros([16], (Kind::Double, tch::Device::Cpu)),
        Tensor::ones([16], (Kind::Double, tch::Device::Cpu)),
    );
    for (start, count) in [(0, 5), (5, 4)] {
        let values = maps.narrow(0, start, count).transpose(0, 1).reshape([16, -1]);
        mean = mean * 0.9 + values.mean_dim(1, false, None::<Kind>) * 0.1;
        variance = variance * 0.9 + values.var_dim(1, true, false) * 0.1;
    }
    let all = 16 + 32 + 64;
    for (from, expected) in [(0, mean), (all, variance)] {
        let expected = Vec::<f64>::try_from(expected).unwrap();
        for (found, expected) in found.values[from..from + 16].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-10, "{found} {expected}");
        }
    }
}

#[test]
fn a_lone_sample_is_trained_by_the_running_statistics_and_leaves_them_alone() {
    // The last maps of a ResNet on pictures of 8 by 8 are one pixel.
    let config = batch_norm(ResNet18, [3, 8, 8]);
    let mut learner = Learner::<f32>::new(&config, 1).unwrap();
    learner.contribute(assembled::<f32>(&config, 4).batch(), 0.1, 8).unwrap();
    let before = learner.statistics().unwrap();
    let lone = learner.contribute(assembled::<f32>(&config, 1).batch(), 0.1, 8).unwrap();
    assert!(lone.loss_sum.is_finite());
    assert!(learner.gradients().unwrap().iter().all(|gradient| gradient.is_finite()));
    assert!(learner.gradients().unwrap().iter().any(|gradient| *gradient != 0.0));
    assert_eq!(learner.statistics().unwrap(), before);
}

#[test]
fn an_evaluation_scores_a_picture_alike_whatever_it_is_batched_with() {
    let config = batch_norm(Cnn, [3, 32, 32]);
    let mut learner = Learner::<f64>::new(&config, 1).unwrap();
    let assembler = assembled::<f64>(&config, 9);
    learner.contribute(assembler.batch(), 0.1, 9).unwrap();
    let before = learner.statistics().unwrap();
    let (together, _) = learner.score(assembler.batch()).unwrap();
    let (alone, _) = learner.score(assembled::<f64>(&config, 1).batch()).unwrap();
    assert!((together.narrow(0, 0, 1) - alone).abs().max().double_value(&[]) < 1e-12);
    assert_eq!(learner.statistics().unwrap(), before, "an evaluation is no training");
}

#[test]
fn a_model_file_has_the_running_statistics_and_its_parameters_hash_does_not() {
    let config = batch_norm(Cnn, [3, 32, 32]);
    let mut learner = Learner::<f32>::new(&config, 1).unwrap();
    let (parameters, statistics) = (learner.parameter_hash().unwrap(), learner.statistics_hash().unwrap());
    learner.contribute(assembled::<f32>(&config, 4).batch(), 0.1, 4).unwrap();
    assert_eq!(learner.parameter_hash().unwrap(), parameters);
    assert_ne!(learner.statistics_hash().unwrap(), statistics);
    let file = learner.encode_model().unwrap();
    let mut other = Learner::<f32>::new(&config, 2).unwrap();
    other.set_model(&file).unwrap();
    assert_eq!(other.parameter_hash().unwrap(), parameters);
    assert_eq!(other.statistics_hash().unwrap(), learner.statistics_hash().unwrap());
    assert_eq!(other.statistics().unwrap().samples, 0, "what a file holds was agreed on");

    // Of momentum there are no statistics, and without them a file is none of this model.
    let bare = learner.encode(learner.parameters().unwrap()).unwrap();
    let error = other.set_model(&bare).unwrap_err().to_string();
    assert!(error.contains("blocks.0.norm.running_mean is missing; the model has F32 [16]"), "{error}");
    let without = Learner::<f32>::new(&model(Cnn, [3, 32, 32], 10), 1).unwrap();
    assert_eq!((without.has_statistics(), without.statistics_hash().unwrap()), (false, None));
}

/// Steps of plain SGD, each of two contributions; what a rank looks at after each.
fn trained(mut learner: Learner<f32>, config: &ModelConfig) -> Vec<(Vec<f32>, u64, Option<u64>, f64)> {
    let (first, second) = (assembled::<f32>(config, 9), assembled::<f32>(config, 4));
    let step = |_| {
        learner.contribute(first.batch(), 0.1, 4).unwrap();
        learner.contribute_more(second.batch(), 0.1, 4).unwrap();
        let seen = learner.gradients().unwrap().to_vec();
        let (parameters, gradients) = learner.parameters_and_gradients_mut().unwrap();
        parameters.iter_mut().zip(gradients).for_each(|(value, gradient)| *value -= 0.05 * *gradient);
        let (_, loss_sum) = learner.score(first.batch()).unwrap();
        (seen, learner.parameter_hash().unwrap(), learner.statistics_hash().unwrap(), loss_sum)
    };
    (0..3).map(step).collect()
}

#[test]
fn a_network_that_computes_elsewhere_trains_with_the_bits_of_one_on_the_hosts_buffers() {
    for config in [model(Cnn, [3, 32, 32], 10), batch_norm(ResNet18, [3, 16, 16])] {
        let learner = || Learner::<f32>::new(&config, 1).unwrap().with_class_weights(&[2.0; 10]).unwrap();
        let here = trained(learner(), &config);
        // Another place on the CPU stands for a GPU, whose own arithmetic has other bits.
        let elsewhere = learner().on_device(tch::Device::Cpu).unwrap();
        assert!(elsewhere.is_on_device() && !elsewhere.flat().gradients_are_aliased());
        assert_eq!(trained(elsewhere, &config), here);
    }
}

#[test]
fn a_network_that_computes_elsewhere_takes_over_a_saved_model_and_what_was_summed_there() {
    let config = batch_norm(Cnn, [3, 32, 32]);
    let mut saved = Learner::<f32>::new(&config, 1).unwrap();
    let batch = assembled::<f32>(&config, 6);
    saved.contribute(batch.batch(), 0.1, 6).unwrap();
    let mut elsewhere = Learner::<f32>::new(&config, 2).unwrap().on_device(tch::Device::Cpu).unwrap();
    elsewhere.set_model(&saved.encode_model().unwrap()).unwrap();
    let [expected, found] = [&saved, &elsewhere].map(|learner| learner.score(batch.batch()).unwrap());
    assert_eq!(found, expected);

    elsewhere.contribute(batch.batch(), 0.1, 6).unwrap();
    let own = elsewhere.gradients().unwrap().to_vec();
    let mut there = elsewhere.gradients_on_device().unwrap();
    let _same = there.f_mul_scalar_(2.0).unwrap();
    assert!(
        elsewhere
            .gradients()
            .unwrap()
            .iter()
            .zip(&own)
            .all(|(sum, own)| sum.to_bits() == (2.0 * own).to_bits())
    );
    // What the host has changed since, such as a compressed sum, stays.
    elsewhere.gradients_mut().unwrap()[0] = 7.0;
    assert_eq!(elsewhere.gradients().unwrap()[0].to_bits(), 7.0_f32.to_bits());
    assert!(saved.gradients_on_device().is_none());
}
