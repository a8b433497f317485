use scadles_api::worker::RecordFormat;

use super::*;

fn shape(input_shape: [u32; 3]) -> SampleShape {
    SampleShape { format: RecordFormat::CifarBinary, num_classes: 10, input_shape }
}

fn transform(padding: u32) -> Transform {
    Transform {
        mean: vec![0.5, 0.25, 0.125],
        std: vec![0.25, 0.5, 1.0],
        random_crop_padding: padding,
        horizontal_flip: true,
    }
}

/// A record whose bytes all differ in a row.
fn record(shape: &SampleShape, label: u8) -> Vec<u8> {
    let pixels = (0..shape.values()).map(|i| (i * 37 + usize::from(label)) as u8);
    std::iter::once(label).chain(pixels).collect()
}

/// The value at one place, by the definition: pad with black, cut, mirror, normalise.
fn expected(
    payload: &[u8],
    shape: &SampleShape,
    transform: &Transform,
    augmentation: Augmentation,
    [channel, y, x]: [usize; 3],
) -> f64 {
    let [_, height, width] = shape.input_shape.map(|side| side as usize);
    let padding = transform.random_crop_padding as usize;
    let x = if augmentation.flip { width - 1 - x } else { x };
    let (row, column) = (y + augmentation.crop_y as usize, x + augmentation.crop_x as usize);
    let inside = (padding..padding + height).contains(&row) && (padding..padding + width).contains(&column);
    let byte = if inside {
        payload[1 + channel * height * width + (row - padding) * width + column - padding]
    } else {
        0
    };
    let (mean, std) = (f64::from(transform.mean[channel]), f64::from(transform.std[channel]));
    (f64::from(byte) / 255.0 - mean) / std
}

#[test]
fn every_crop_and_flip_gives_the_values_of_the_definition() {
    let (shape, transform) = (shape([3, 6, 5]), transform(2));
    let payload = record(&shape, 3);
    let mut assembler = BatchAssembler::<f64>::new(&shape, &transform, 50).unwrap();
    let places = (0..5).flat_map(|crop_y| (0..5).map(move |crop_x| (crop_x, crop_y)));
    for flip in [false, true] {
        let augmentations: Vec<Augmentation> =
            places.clone().map(|(crop_x, crop_y)| Augmentation { crop_x, crop_y, flip }).collect();
        let samples = augmentations.iter().map(|&augmentation| SampleRef { payload: &payload, augmentation });
        let batch = assembler.assemble(samples).unwrap();
        assert_eq!(batch.pictures.size(), [25, 3, 6, 5]);
        for (i, &augmentation) in augmentations.iter().enumerate() {
            for place in (0..3 * 6 * 5).map(|p| [p / 30, p / 5 % 6, p % 5]) {
                let index = [i, place[0], place[1], place[2]].map(|number| number as i64);
                let found = batch.pictures.double_value(&index);
                let expected = expected(&payload, &shape, &transform, augmentation, place);
                assert_eq!(found.to_bits(), expected.to_bits(), "{augmentation:?} at {place:?}");
            }
        }
    }
}

#[test]
fn f32_batches_hold_the_rounded_values_and_the_labels_in_order() {
    let (shape, transform) = (shape([3, 4, 4]), transform(1));
    let records: Vec<Vec<u8>> = (0..7).map(|label| record(&shape, label)).collect();
    let plain = || records.iter().map(|payload| SampleRef::plain(payload, &transform));
    let mut single = BatchAssembler::<f32>::new(&shape, &transform, 7).unwrap();
    let mut double = BatchAssembler::<f64>::new(&shape, &transform, 7).unwrap();
    let (single, double) = (single.assemble(plain()).unwrap(), double.assemble(plain()).unwrap());
    assert_eq!(single.pictures, double.pictures.to_kind(tch::Kind::Float));
    assert_eq!(Vec::<i64>::try_from(&single.labels).unwrap(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_batch_is_a_view_of_memory_that_starts_on_64_bytes_and_is_never_allocated_again() {
    let (shape, transform) = (shape([1, 28, 28]), transform(0));
    let payload = record(&shape, 1);
    let mut assembler = BatchAssembler::<f32>::new(&shape, &transform, 64).unwrap();
    assert!(assembler.batch().is_empty());
    let starts = [64, 1, 33].map(|count| {
        let samples = std::iter::repeat_n(SampleRef::plain(&payload, &transform), count);
        let batch = assembler.assemble(samples).unwrap();
        assert_eq!(batch.len(), count);
        (batch.pictures.data_ptr() as usize, batch.labels.data_ptr() as usize)
    });
    assert!(starts.iter().all(|start| start.0 % 64 == 0 && start.1 % 64 == 0));
    assert_eq!(starts, [starts[0]; 3]);
}

#[test]
fn parts_cover_a_batch_in_order_whatever_their_size() {
    let (shape, transform) = (shape([1, 2, 2]), transform(0));
    let records: Vec<Vec<u8>> = (0..7).map(|label| record(&shape, label)).collect();
    let mut assembler = BatchAssembler::<f32>::new(&shape, &transform, 7).unwrap();
    let batch =
        assembler.assemble(records.iter().map(|payload| SampleRef::plain(payload, &transform))).unwrap();
    for (size, lengths) in [(3, vec![3, 3, 1]), (7, vec![7]), (100, vec![7]), (0, vec![1; 7])] {
        let parts: Vec<Batch> = batch.parts(size, Split::Full).map(Result::unwrap).collect();
        assert_eq!(parts.iter().map(Batch::len).collect::<Vec<_>>(), lengths);
        let labels: Vec<i64> =
            parts.iter().flat_map(|part| Vec::<i64>::try_from(&part.labels).unwrap()).collect();
        assert_eq!(labels, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn numbers_are_normalised_as_they_are_and_padded_with_zeros() {
    let shape = SampleShape { format: RecordFormat::Tensor { dtype: ValueType::F32 }, ..shape([3, 3, 4]) };
    let transform = transform(1);
    let values: Vec<f32> = (0..36_u8).map(|i| f32::from(i) * 0.37 - 5.0).collect();
    let payload: Vec<u8> =
        shape.label_prefix(7).chain(values.iter().flat_map(|value| value.to_le_bytes())).collect();
    let mut assembler = BatchAssembler::<f64>::new(&shape, &transform, 1).unwrap();
    for flip in [false, true] {
        // The picture is one row down and one column left of the crop.
        let augmentation = Augmentation { crop_x: 2, crop_y: 0, flip };
        let batch = assembler.assemble([SampleRef { payload: &payload, augmentation }]).unwrap();
        for place in (0..36_usize).map(|p| [p / 12, p / 4 % 3, p % 4]) {
            let [channel, y, x] = place;
            let from_left = if flip { 3 - x } else { x };
            let inside = y > 0 && from_left < 3;
            let value = if inside { values[channel * 12 + (y - 1) * 4 + from_left + 1] } else { 0.0 };
            let (mean, std) = (f64::from(transform.mean[channel]), f64::from(transform.std[channel]));
            let expected = (f64::from(value) - mean) / std;
            let found = batch.pictures.double_value(&[0, channel as i64, y as i64, x as i64]);
            assert_eq!(found.to_bits(), expected.to_bits(), "flip {flip} at {place:?}");
        }
    }
    assert_eq!(assembler.labels(), [7]);
}

#[test]
fn an_impossible_sample_or_batch_is_an_error_and_not_a_wrong_picture() {
    let (shape, transform) = (shape([3, 4, 4]), transform(1));
    let payload = record(&shape, 1);
    let mut assembler = BatchAssembler::<f32>::new(&shape, &transform, 2).unwrap();
    let sample = |crop_x| SampleRef {
        payload: &payload,
        augmentation: Augmentation { crop_x, crop_y: 0, flip: false },
    };
    assert!(matches!(assembler.assemble([sample(3)]), Err(BatchError::Crop { .. })));
    assert!(matches!(assembler.assemble([sample(0); 3]), Err(BatchError::TooLarge { max_batch: 2 })));
    let short = SampleRef { payload: &payload[..9], ..sample(0) };
    assert!(matches!(assembler.assemble([short]), Err(BatchError::Rejected(_))));
    assert_eq!(assembler.assemble([sample(2); 2]).unwrap().len(), 2);
}

#[test]
fn room_for_more_samples_is_made_when_it_is_needed_and_only_then() {
    let (shape, transform) = (shape([3, 6, 5]), transform(0));
    let payloads: Vec<Vec<u8>> = (0..5).map(|label| record(&shape, label)).collect();
    let samples =
        |count: usize| payloads[..count].iter().map(|payload| SampleRef::plain(payload, &transform));
    let mut assembler = BatchAssembler::<f32>::new(&shape, &transform, 3).unwrap();
    assembler.assemble(samples(3)).unwrap();
    assembler.make_room(3).unwrap();
    assert_eq!(assembler.labels(), [0, 1, 2], "there is room: the batch stays");
    assert!(matches!(assembler.assemble(samples(5)), Err(BatchError::TooLarge { max_batch: 3 })));
    assembler.make_room(5).unwrap();
    assert!(assembler.batch().is_empty());
    assembler.assemble(samples(5)).unwrap();
    assert_eq!(assembler.labels(), [0, 1, 2, 3, 4]);
}
