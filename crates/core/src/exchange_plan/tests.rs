use proptest::prelude::*;

use super::*;

#[test]
fn the_last_layers_make_a_small_first_bucket_and_the_rest_large_ones() {
    // 40 layers of 1 MiB of f32.
    let layer = (1 << 20) / 4;
    let slots: Vec<usize> = (0..40).map(|i| i * layer).collect();
    let buckets = plan_buckets(&slots, 40 * layer, 4, 4);
    let layers: Vec<_> = buckets.iter().map(|b| (b.range.start / layer, b.range.end / layer)).collect();
    assert_eq!(layers, [(39, 40), (14, 39), (0, 14)]);
    assert_eq!(buckets[0].owned_elements, layer / 4);
}

#[test]
fn a_tiny_model_is_one_bucket_and_no_model_is_none() {
    assert_eq!(plan_buckets(&[0, 16, 48], 64, 4, 3).len(), 1);
    assert_eq!(plan_buckets(&[32, 48], 64, 4, 3)[0].range, 0..64);
    assert_eq!(plan_buckets(&[], 0, 4, 3), []);
    assert_eq!(plan_buckets(&[0], 0, 4, 3), []);
}

#[test]
fn addition_runs_in_rank_order() {
    // (1e30 + 1) - 1e30 is 0 in f32, any other order gives 1.
    let values: [Vec<f32>; 3] = [1e30, 1.0, -1e30].map(|value| vec![value; 5000]);
    let contributions: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let mut out = vec![7.0; 5000];
    add_in_rank_order(&mut out, &contributions);
    assert!(out.iter().all(|&sum| sum == 0.0));
    add_in_rank_order(&mut out, &[contributions[0], contributions[2], contributions[1]]);
    assert!(out.iter().all(|&sum| sum == 1.0));
    add_in_rank_order(&mut out, &[]);
    assert!(out.iter().all(|&sum| sum == 1.0));
}

proptest! {
    #[test]
    fn buckets_and_owner_ranges_cover_every_element_once_and_cut_no_tensor(
        lens in prop::collection::vec(1_usize..400_000, 1..60),
        padding in 0_usize..40,
        world_size in 1_usize..33,
        wide in any::<bool>(),
    ) {
        let align = 16;
        let mut slots = Vec::new();
        let mut total = 0;
        for len in lens {
            slots.push(total);
            total += len.next_multiple_of(align);
        }
        total += padding;
        let buckets = plan_buckets(&slots, total, if wide { 8 } else { 4 }, world_size);
        let mut end = total;
        for bucket in &buckets {
            prop_assert_eq!(bucket.range.end, end);
            prop_assert!(bucket.range.start == 0 || slots.contains(&bucket.range.start));
            let mut owned_end = bucket.range.start;
            for rank in 0..world_size {
                let owned = bucket.owned_range(rank);
                prop_assert_eq!(owned.start, owned_end);
                owned_end = owned.end;
            }
            prop_assert_eq!(owned_end, bucket.range.end);
            prop_assert_eq!(bucket.owned_elements % OWNER_ALIGN_ELEMENTS, 0);
            prop_assert!(bucket.owned_elements * world_size >= bucket.range.len());
            end = bucket.range.start;
        }
        prop_assert_eq!(end, 0);
    }

    #[test]
    fn the_sum_has_the_bits_of_the_plain_loop(
        contributions in (1_usize..6, 1_usize..10_000).prop_flat_map(|(n, len)| {
            prop::collection::vec(prop::collection::vec(-1e3_f32..1e3, len), n)
        }),
    ) {
        let mut out = vec![0.0; contributions[0].len()];
        let parts: Vec<&[f32]> = contributions.iter().map(Vec::as_slice).collect();
        add_in_rank_order(&mut out, &parts);
        for (i, sum) in out.iter().enumerate() {
            let plain = parts[1..].iter().fold(parts[0][i], |sum, part| sum + part[i]);
            prop_assert_eq!(sum.to_bits(), plain.to_bits());
        }
    }
}
