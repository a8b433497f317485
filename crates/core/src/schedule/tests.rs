use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn labels(len: u32, num_classes: u32) -> Vec<u32> {
    (0..len).map(|i| i * 7 % num_classes).collect()
}

#[test]
fn the_order_is_the_same_for_ever() {
    let schedule = SampleSchedule::new(1234, PartitionRule::Iid, &labels(50_000, 10), 4).unwrap();
    let first: Vec<u64> = (0..6).map(|number| schedule.sample_index(1, number)).collect();
    assert_eq!(first, PINNED);
}

const PINNED: [u64; 6] = [25_127, 28_922, 29_394, 36_860, 1_430, 48_947];

#[test]
fn another_seed_and_another_epoch_are_another_order() {
    let order = |seed, epoch: u64| -> Vec<u64> {
        let schedule = SampleSchedule::new(seed, PartitionRule::Iid, &labels(500, 10), 1).unwrap();
        (0..500).map(|k| schedule.sample_index(0, epoch * 500 + k)).collect()
    };
    assert_ne!(order(1, 0), order(2, 0));
    assert_ne!(order(1, 0), order(1, 1));
    let fixed_points = order(1, 0).iter().enumerate().filter(|&(i, &image)| i as u64 == image).count();
    assert!(fixed_points < 10, "{fixed_points} of 500 stay where they are");
}

#[test]
fn an_iid_device_sees_all_labels_evenly() {
    let labels = labels(50_000, 10);
    let schedule = SampleSchedule::new(5, PartitionRule::Iid, &labels, 16).unwrap();
    let mut counts = [0; 10];
    for number in 0..3_000 {
        counts[labels[schedule.sample_index(7, number) as usize] as usize] += 1;
    }
    assert!(counts.iter().all(|&n| (220..380).contains(&n)), "{counts:?}");
}

#[test]
fn skewed_devices_hold_their_own_labels_only() {
    let labels = labels(5_000, 100);
    let skew = PartitionRule::LabelSkew { labels_per_device: 4 };
    let schedule = SampleSchedule::new(5, skew, &labels, 25).unwrap();
    let held = |device| -> BTreeSet<u32> {
        (0..400).map(|number| labels[schedule.sample_index(device, number) as usize]).collect()
    };
    assert_eq!(held(0), (0..4).collect());
    assert_eq!(held(24), (96..100).collect());
}

#[test]
fn a_skewed_device_passes_over_all_its_elements_before_it_repeats_one() {
    let labels = labels(1_000, 10);
    let skew = PartitionRule::LabelSkew { labels_per_device: 2 };
    let schedule = SampleSchedule::new(5, skew, &labels, 5).unwrap();
    for epoch in 0..3 {
        let seen: BTreeSet<u64> = (0..200).map(|k| schedule.sample_index(2, epoch * 200 + k)).collect();
        assert_eq!(seen.len(), 200);
    }
}

#[test]
fn impossible_plans_are_refused() {
    let plan = |labels: &[u32], labels_per_device, devices| {
        SampleSchedule::new(0, PartitionRule::LabelSkew { labels_per_device }, labels, devices).unwrap_err()
    };
    assert_eq!(plan(&[], 1, 1), Error::EmptyDataset);
    assert_eq!(plan(&[0, 1], 1, 0), Error::NoDevices);
    assert_eq!(plan(&[0, 1], 3, 1), Error::LabelsPerDevice { labels_per_device: 3, num_classes: 2 });
    assert_eq!(plan(&[0, 2], 1, 2), Error::EmptyLabels { device: 1, labels: vec![1] });
}

proptest! {
    #[test]
    fn one_pass_gives_every_element_to_exactly_one_device(
        seed in any::<u64>(),
        len in 1_u32..400,
        devices in 1_usize..12,
        epoch in 0_u64..5,
    ) {
        let schedule = SampleSchedule::new(seed, PartitionRule::Iid, &labels(len, 10), devices).unwrap();
        let len = u64::from(len);
        // The records dealt out in this pass, whoever they went to.
        let mut seen: Vec<u64> = (epoch * len..(epoch + 1) * len)
            .map(|dealt| schedule.sample_index((dealt % devices as u64) as usize, dealt / devices as u64))
            .collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
    }
}
