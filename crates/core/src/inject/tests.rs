use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sim::InjectionModel;

/// Partition, offset and device of a sample.
type Place = (usize, u32, u64);

fn rule(mode: InjectionMode, fraction: f64, ranks: usize) -> InjectionRule {
    InjectionRule {
        mode,
        batch: ReplicateBatch::Grow,
        donor_fraction: fraction,
        shared_fraction: fraction,
        donors: DonorChoice::Random,
        may_share: vec![true; ranks],
        most_sent: None,
        seed: 7,
    }
}

/// A batch over two partitions, with a gap in the second.
fn batch(samples: u64) -> Vec<BatchRange> {
    let (first, rest) = (samples / 2, samples - samples / 2);
    let range = |partition, first_offset, count| BatchRange { partition, first_offset, count };
    let ranges = [range(0, 40, first), range(1, 10, rest / 2), range(1, 500, rest - rest / 2)];
    ranges.into_iter().filter(|range| range.count > 0).collect()
}

fn offers(batches: &[Vec<BatchRange>]) -> Vec<Offer<'_>> {
    batches.iter().map(|ranges| Offer { ranges, labels: &[] }).collect()
}

fn places(donor: usize, ranges: &[BatchRange]) -> impl Iterator<Item = Place> {
    let of = move |range: &BatchRange| {
        let partition = range.partition;
        (range.first_offset..range.first_offset + range.count).map(move |offset| (donor, partition, offset))
    };
    ranges.iter().flat_map(of)
}

/// What `rank` trains, in training order.
fn trained(plan: &InjectionPlan, rank: usize, ranges: &[BatchRange]) -> Vec<Place> {
    let samples: u64 = ranges.iter().map(|range| range.count).sum();
    let own = slice(ranges, 0..samples - plan.given_away(rank));
    let received = plan.received_by(rank).flat_map(|part| places(part.donor, &part.ranges));
    places(rank, &own).chain(received).collect()
}

fn counted(places: impl IntoIterator<Item = Place>) -> BTreeMap<Place, usize> {
    let mut counts = BTreeMap::new();
    places.into_iter().for_each(|place| *counts.entry(place).or_insert(0) += 1);
    counts
}

fn rules() -> impl Strategy<Value = InjectionRule> {
    let modes = prop_oneof![Just(InjectionMode::Move), Just(InjectionMode::Replicate)];
    let choices = prop_oneof![Just(DonorChoice::Random), Just(DonorChoice::LabelDeficit)];
    let may_share = prop::collection::vec(any::<bool>(), 1..9);
    let numbers = (0.01..=1.0, 0.01..=1.0, prop::option::of(0_u64..80), any::<u64>());
    (modes, choices, may_share, numbers).prop_map(|(mode, donors, may_share, numbers)| InjectionRule {
        donor_fraction: numbers.0,
        shared_fraction: numbers.1,
        donors,
        may_share,
        most_sent: numbers.2,
        seed: numbers.3,
        ..rule(mode, 1.0, 0)
    })
}

proptest! {
    #[test]
    fn no_sample_is_lost_or_doubled_and_nobody_shares_who_may_not(
        rule in rules(),
        sizes in prop::collection::vec(0_u64..60, 8),
        step in 0_u64..1000,
    ) {
        let ranks = rule.may_share.len();
        let batches: Vec<_> = sizes[..ranks].iter().map(|&size| batch(size)).collect();
        let plan = rule.plan(step, &offers(&batches));
        prop_assert_eq!(&plan, &rule.plan(step, &offers(&batches)));

        let all = counted(batches.iter().enumerate().flat_map(|(rank, ranges)| places(rank, ranges)));
        let shared = counted(plan.shared.iter().flat_map(|part| places(part.donor, &part.ranges)));
        prop_assert!(shared.keys().all(|place| all.contains_key(place)));
        let by_rank: Vec<Vec<Place>> = (0..ranks).map(|rank| trained(&plan, rank, &batches[rank])).collect();
        let copies = if rule.mode == InjectionMode::Replicate { ranks } else { 1 };
        let seen = counted(by_rank.iter().flatten().copied());
        for place in all.keys() {
            let expected = if shared.contains_key(place) { copies } else { 1 };
            prop_assert_eq!(seen.get(place), Some(&expected));
        }
        prop_assert!(by_rank.iter().all(|places| counted(places.iter().copied()).values().all(|&n| n == 1)));
        let lengths: Vec<u64> = by_rank.iter().map(|places| places.len() as u64).collect();
        prop_assert_eq!(plan.trained(&sizes[..ranks]), lengths);

        let largest = sizes[..ranks].iter().copied().max().unwrap_or(0);
        for (rank, (&may_share, &size)) in rule.may_share.iter().zip(&sizes).enumerate() {
            let out = plan.shared_out(rank);
            prop_assert!(out == 0 || may_share);
            prop_assert!(out <= shared_of(rule.shared_fraction, size));
            prop_assert!(rule.most_sent.is_none_or(|most| plan.sent(rank, ranks) <= most));
            prop_assert!(plan.received(rank) <= rule.most_received(largest));
        }
        prop_assert!(plan.shared.iter().all(|part| part.receiver != Receiver::Rank(part.donor)));
        let donors = (0..ranks).filter(|&rank| plan.shared_out(rank) > 0).count();
        prop_assert!(donors <= donor_count(rule.donor_fraction, ranks));
    }

    #[test]
    fn volumes_are_those_of_the_simulator(
        mode in prop_oneof![Just(InjectionMode::Move), Just(InjectionMode::Replicate)],
        sizes in prop::collection::vec(0_u64..100, 2..12),
        fraction in 0.05..0.9,
        step in 0_u64..100,
    ) {
        let rule = rule(mode, fraction, sizes.len());
        // Where everybody shares the simulator lets devices receive what is their own.
        prop_assume!(rule.donor_count() < sizes.len());
        let batches: Vec<_> = sizes.iter().map(|&size| batch(size)).collect();
        let plan = rule.plan(step, &offers(&batches));
        let model = InjectionModel {
            mode,
            batch: ReplicateBatch::Grow,
            donor_fraction: fraction,
            shared_fraction: fraction,
            record_bytes: 1,
        };
        let mut trained = sizes.clone();
        let volume = model.share(rule.draw(step), &mut trained);
        prop_assert_eq!(plan.trained(&sizes), trained);
        let sent = |rank| plan.sent(rank, sizes.len());
        prop_assert_eq!((0..sizes.len()).map(sent).sum::<u64>(), volume.sent_bytes);
    }
}

#[test]
fn what_is_shared_is_the_end_of_the_batch_in_equal_parts() {
    let batches = [batch(12), batch(0), batch(3)];
    let offers = offers(&batches);
    let only_the_first =
        InjectionRule { may_share: vec![true, false, false], ..rule(InjectionMode::Move, 0.5, 3) };
    let plan = only_the_first.plan(0, &offers);
    let range = |partition, first_offset, count| BatchRange { partition, first_offset, count };
    // Six of twelve: all of partition 1.
    let parts = [vec![range(1, 10, 3)], vec![range(1, 500, 3)]];
    let expected = [1, 2].map(|receiver| SharedSamples {
        donor: 0,
        receiver: Receiver::Rank(receiver),
        ranges: parts[receiver - 1].clone(),
    });
    assert_eq!(plan.shared, expected);
    assert_eq!(plan.trained(&[12, 0, 3]), [6, 3, 6]);
    assert_eq!((plan.shared_out(0), plan.given_away(0), plan.received(1)), (6, 6, 3));
    let copied = InjectionRule { mode: InjectionMode::Replicate, ..only_the_first }.plan(0, &offers);
    assert_eq!(copied.shared.len(), 1, "one entry, whatever the number of copies");
    assert_eq!(copied.trained(&[12, 0, 3]), [12, 6, 9]);
    assert_eq!((copied.shared_out(0), copied.given_away(0), copied.received(0)), (6, 0, 0));
}

#[test]
fn a_share_is_rounded_down_but_not_by_a_rounding_error() {
    assert_eq!(
        [shared_of(0.1, 9), shared_of(0.1, 10), shared_of(0.29, 100), shared_of(1.0, 7)],
        [0, 1, 29, 7]
    );
    assert_eq!([donor_count(0.1, 30), donor_count(0.0, 9), donor_count(0.05, 10)], [3, 0, 1]);
    let batches = [batch(9), batch(9)];
    assert!(rule(InjectionMode::Move, 0.1, 2).plan(0, &offers(&batches)).is_empty(), "⌊0.9⌋");
}

#[test]
fn a_shrunken_batch_is_as_large_again_with_its_copies() {
    let rule = InjectionRule { batch: ReplicateBatch::Shrink, ..rule(InjectionMode::Replicate, 0.5, 8) };
    assert_eq!(rule.donor_count(), 4);
    let own = rule.own_batch(64);
    assert_eq!((own, rule.own_batch(1), rule.own_batch(0)), (21, 1, 0), "64 / (1 + 4 · 0.5)");
    let batches = vec![batch(own); 8];
    let trained = rule.plan(3, &offers(&batches)).trained(&[own; 8]);
    assert!(trained.iter().all(|trained| (51..=64).contains(trained)), "{trained:?}");
}

#[test]
fn donors_change_from_step_to_step_and_with_the_seed() {
    let batches = vec![batch(20); 6];
    let donors = |seed, step| {
        let plan = InjectionRule { seed, ..rule(InjectionMode::Move, 0.5, 6) }.plan(step, &offers(&batches));
        (0..6).filter(|&rank| plan.shared_out(rank) > 0).collect::<Vec<_>>()
    };
    let seen: std::collections::BTreeSet<_> = (0..30).map(|step| donors(1, step)).collect();
    assert!(seen.len() > 8 && seen.iter().all(|donors| donors.len() == 3), "{seen:?}");
    assert!((0..30).any(|step| donors(1, step) != donors(2, step)));
}

#[test]
fn a_rare_label_is_shared_more_often_than_a_common_one_and_none_always() {
    let batches = vec![batch(20); 5];
    // Rank 4 alone has label 1.
    let labels = [[20, 0], [20, 0], [20, 0], [20, 0], [0, 20]];
    let offers: Vec<Offer<'_>> =
        batches.iter().zip(&labels).map(|(ranges, labels)| Offer { ranges, labels }).collect();
    let rule = InjectionRule { donors: DonorChoice::LabelDeficit, ..rule(InjectionMode::Move, 0.2, 5) };
    let mut shared = [0; 5];
    for step in 0..400 {
        let plan = rule.plan(step, &offers);
        (0..5).filter(|&rank| plan.shared_out(rank) > 0).for_each(|rank| shared[rank] += 1);
    }
    assert_eq!(shared.iter().sum::<u32>(), 400, "one donor in each step");
    assert!(shared[4] > 2 * shared[..4].iter().max().unwrap(), "{shared:?}");
    assert!(shared.iter().all(|&times| times > 5), "{shared:?}");
}

#[test]
fn without_labels_nobody_lacks_anything() {
    let batches = [batch(4), batch(0)];
    assert_eq!(deficits(&offers(&batches)), [0.0, 0.0]);
}
