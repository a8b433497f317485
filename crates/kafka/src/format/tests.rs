use scadles_core::random::RandomStream;

use super::*;

fn shape(format: RecordFormat, input_shape: [u32; 3]) -> SampleShape {
    SampleShape { format, num_classes: 10, input_shape }
}

fn decoded(shape: SampleShape, payload: &[u8], label: Option<&[u8]>) -> Result<Vec<u8>, RejectReason> {
    RecordDecoder::new(shape).decode(payload, label).map(<[u8]>::to_vec)
}

fn image(fit: ImageFit) -> RecordFormat {
    RecordFormat::Image { fit }
}

/// Values that all differ in a row.
fn values(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 + 11) as u8).collect()
}

fn png(shape: &SampleShape, values: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    encode_picture(values, shape, &mut file).unwrap();
    file
}

/// A JPEG file of one colour.
fn jpeg(width: u32, height: u32, color: [u8; 3]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let picture = DynamicImage::ImageRgb8(image::RgbImage::from_pixel(width, height, image::Rgb(color)));
    picture.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

#[test]
fn records_of_wrong_length_or_label_are_rejected_with_the_reason() {
    let shape = shape(RecordFormat::CifarBinary, [3, 32, 32]);
    let record = |label: u8| std::iter::once(label).chain(values(3072)).collect::<Vec<u8>>();
    let (good, mut long) = (record(9), record(9));
    long.push(0);
    assert_eq!(decoded(shape, &good, None).unwrap(), good);
    for payload in [&good[..3072], &long, &[]] {
        let reason = decoded(shape, payload, None).unwrap_err().to_string();
        let expected = format!("the record has {} bytes; expected 3073", payload.len());
        assert!(reason.starts_with(&expected), "{reason}");
    }
    let reason = decoded(shape, &record(10), None).unwrap_err();
    assert_eq!(reason.to_string(), "the record's label is 10; the model has the classes 0 to 9");
}

#[test]
fn of_cifar_100_the_fine_label_counts() {
    let shape = shape(RecordFormat::Cifar100, [3, 32, 32]);
    let record: Vec<u8> = [19, 7].into_iter().chain(values(3072)).collect();
    assert_eq!(decoded(shape, &record, None).unwrap(), record[1..]);
    let wrong = decoded(shape, &record[1..], None).unwrap_err().to_string();
    assert!(wrong.contains("3073 bytes; expected 3074 (two label bytes and the picture)"), "{wrong}");
    let unknown: Vec<u8> = [7, 19].into_iter().chain(values(3072)).collect();
    assert_eq!(decoded(shape, &unknown, None), Err(RejectReason::Label { label: 19, num_classes: 10 }));
}

#[test]
fn the_label_of_a_header_is_a_decimal_number_and_nothing_else() {
    let shape = shape(RecordFormat::Tensor { dtype: ValueType::U8 }, [1, 2, 2]);
    let label = |text: &str| decoded(shape, &[1, 2, 3, 4], Some(text.as_bytes()));
    assert_eq!(label("7"), Ok(vec![7, 1, 2, 3, 4]));
    assert_eq!(label("007"), Ok(vec![7, 1, 2, 3, 4]));
    for text in ["", "-1", "+1", "1.0", " 1", "seven", "99999999999", "\u{665}"] {
        assert!(matches!(label(text), Err(RejectReason::LabelText { .. })), "{text:?}");
    }
    assert_eq!(label("10"), Err(RejectReason::Label { label: 10, num_classes: 10 }));
    assert_eq!(decoded(shape, &[1, 2, 3, 4], None), Err(RejectReason::NoLabel));
    assert!(decoded(shape, &[1, 2, 3, 4], Some(&[0xff])).is_err());
}

#[test]
fn a_tensor_is_taken_as_it_is_unless_it_has_another_size_or_no_numbers() {
    let shape = shape(RecordFormat::Tensor { dtype: ValueType::F32 }, [1, 2, 2]);
    let payload = |values: [f32; 4]| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let good = payload([0.0, -1.5, f32::MAX, 1e-40]);
    assert_eq!(decoded(shape, &good, Some(b"3")).unwrap(), [&[3], &good[..]].concat());
    for bad in [f32::NAN, f32::INFINITY] {
        let reason = decoded(shape, &payload([0.0, 1.0, bad, bad]), Some(b"3"));
        assert_eq!(reason, Err(RejectReason::Value { index: 2 }));
    }
    assert!(matches!(decoded(shape, &good[1..], Some(b"3")), Err(RejectReason::Length { .. })));
}

#[test]
fn a_picture_that_was_sent_as_png_is_the_same_again() {
    for (channels, width) in [(1, 28), (3, 5)] {
        let shape = shape(image(ImageFit::Exact), [channels, 4, width]);
        let values = values(shape.values());
        let sample = decoded(shape, &png(&shape, &values), Some(b"4")).unwrap();
        assert_eq!(sample, [&[4], &values[..]].concat());
    }
}

#[test]
fn grey_pictures_become_coloured_and_coloured_ones_grey_as_the_model_asks() {
    let (grey, coloured) =
        (shape(image(ImageFit::Exact), [1, 4, 4]), shape(image(ImageFit::Exact), [3, 4, 4]));
    let sample = decoded(coloured, &png(&grey, &values(16)), Some(b"0")).unwrap();
    assert_eq!(sample, [&[0], &values(16)[..], &values(16)[..], &values(16)[..]].concat());
    let sample = decoded(grey, &png(&coloured, &[200; 48]), Some(b"0")).unwrap();
    assert_eq!(sample[1..], [200; 16]);
}

#[test]
fn jpeg_pictures_are_read_and_scaled_where_the_job_says_so() {
    let shape = |fit| shape(image(fit), [3, 8, 8]);
    let file = jpeg(32, 16, [10, 120, 230]);
    for fit in [ImageFit::Stretch, ImageFit::Crop] {
        let sample = decoded(shape(fit), &file, Some(b"1")).unwrap();
        for (plane, color) in sample[1..].chunks_exact(64).zip([10_u8, 120, 230]) {
            assert!(plane.iter().all(|value| value.abs_diff(color) < 4), "{fit:?}: {plane:?}");
        }
    }
    let reason = decoded(shape(ImageFit::Exact), &file, Some(b"1")).unwrap_err().to_string();
    assert!(reason.contains("32×16") && reason.contains("8×8") && reason.contains("image.fit"), "{reason}");
}

#[test]
fn crop_cuts_to_the_middle_and_stretch_keeps_the_sides() {
    // Black, white, black, side by side.
    let wide = shape(image(ImageFit::Exact), [1, 2, 6]);
    let file = png(&wide, &[0, 0, 255, 255, 0, 0, 0, 0, 255, 255, 0, 0]);
    let cut = decoded(shape(image(ImageFit::Crop), [1, 2, 2]), &file, Some(b"1")).unwrap();
    assert_eq!(cut, [1, 255, 255, 255, 255]);
    let stretched = decoded(shape(image(ImageFit::Stretch), [1, 2, 3]), &file, Some(b"1")).unwrap();
    assert!(stretched[1] < 100 && stretched[2] > 150 && stretched[3] < 100, "{stretched:?}");
}

#[test]
fn what_is_no_picture_or_pretends_to_be_huge_is_rejected() {
    let shape = shape(image(ImageFit::Stretch), [1, 4, 4]);
    for payload in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n", &[0xff, 0xd8, 0xff]] {
        let reason = decoded(shape, payload, Some(b"1"));
        assert!(matches!(reason, Err(RejectReason::Picture { .. })), "{reason:?}");
    }
    // A picture of 4×4 pixels whose header says 8000×8000, then one that says 100,000×100,000.
    let small = png(&shape, &values(16));
    for (side, checked) in [(8000_u32, true), (100_000, false)] {
        let mut header = small.clone();
        header[16..20].copy_from_slice(&side.to_be_bytes());
        header[20..24].copy_from_slice(&side.to_be_bytes());
        let crc = crc32(&header[12..29]);
        header[29..33].copy_from_slice(&crc.to_be_bytes());
        let reason = decoded(shape, &header, Some(b"1")).unwrap_err();
        assert_eq!(matches!(reason, RejectReason::PictureTooLarge { .. }), checked, "{reason}");
    }
}

/// The checksum of PNG's chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn damaged_files_are_an_error_or_a_sample_and_never_a_panic() {
    let shape = shape(image(ImageFit::Crop), [3, 8, 8]);
    for (seed, file) in [png(&shape, &values(192)), jpeg(24, 17, [1, 2, 3])].into_iter().enumerate() {
        let mut decoder = RecordDecoder::new(shape);
        for round in 0..2000 {
            let draw = RandomStream::new(seed as u64, round);
            let mut damaged = file.clone();
            for change in 0..=draw.below(0, 4) {
                let place = draw.below(2 * change + 1, damaged.len() as u64) as usize;
                damaged[place] = draw.below(2 * change + 2, 256) as u8;
            }
            damaged.truncate(draw.below(99, 2 * damaged.len() as u64) as usize);
            if let Ok(sample) = decoder.decode(&damaged, Some(b"1")) {
                assert_eq!(sample.len(), shape.sample_bytes());
            }
        }
    }
}
