//! Data injection: which devices share samples of their batches in a step, which samples, and who trains them
//! (paper §IV, "Unbalanced and Non-IID data"; `Move` is ours). Decided once for all ranks, in the agreement. No I/O.
//!
//! # Guarantees
//! A plan follows from rule, step and offers. Only devices that may share do; nobody sends to itself; nobody sends more
//! than its budget. With `Move` every sample is trained once, wherever that is; with `Replicate` every rank trains every
//! shared sample once.

use std::ops::Range;

pub use scadles_api::job::{DonorChoice, InjectionMode, ReplicateBatch};
use scadles_api::{tuning::InjectionTuning, worker::InjectionConfig};
use serde::{Deserialize, Serialize};

use crate::partition_queue::BatchRange;
use crate::random::{Permutation, RandomStream};

/// Keeps these words apart from all others drawn from the job's seed.
const STREAM: u64 = 0x5ced_0004;
/// A product that rounds to so little beside a whole number is that number.
const ROUNDING: f64 = 1e-9;

/// ⌈α·n⌉, the donors of a step among `world_size` devices.
pub fn donor_count(donor_fraction: f64, world_size: usize) -> usize {
    ((donor_fraction * world_size as f64 - ROUNDING).ceil().max(0.0) as usize).min(world_size)
}

/// ⌊β·b⌋, the samples that a donor shares of a batch.
pub fn shared_of(shared_fraction: f64, local_batch: u64) -> u64 {
    ((shared_fraction * local_batch as f64 + ROUNDING) as u64).min(local_batch)
}

/// What a device takes from its own stream where the batch rule says `local_batch`: with `Shrink` b / (1 + β·donors), so
/// that with the copies it is about as large again (SelSync).
pub fn own_batch(batch: ReplicateBatch, donors: usize, shared_fraction: f64, local_batch: u64) -> u64 {
    match batch {
        ReplicateBatch::Grow => local_batch,
        ReplicateBatch::Shrink => {
            let own = local_batch as f64 / (1.0 + shared_fraction * donors as f64);
            ((own + ROUNDING) as u64).max(local_batch.min(1))
        }
    }
}

/// How the devices of a job share samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InjectionRule {
    /// What becomes of a shared sample.
    pub mode: InjectionMode,
    /// How large batches are beside copies.
    pub batch: ReplicateBatch,
    /// α.
    pub donor_fraction: f64,
    /// β.
    pub shared_fraction: f64,
    /// Who of those that may share does so.
    pub donors: DonorChoice,
    /// By rank: whether its samples may leave it.
    pub may_share: Vec<bool>,
    /// Most samples that one device sends in a step, every copy counted.
    pub most_sent: Option<u64>,
    /// Of the draws.
    pub seed: u64,
}

/// What one rank would train without injection.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Its batch in training order.
    pub ranges: &'a [BatchRange],
    /// Samples of the batch by label; only `LabelDeficit` looks at them.
    pub labels: &'a [u32],
}

impl Offer<'_> {
    /// b_i.
    pub fn samples(&self) -> u64 {
        self.ranges.iter().map(|range| range.count).sum()
    }
}

/// Who trains shared samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Receiver {
    /// This rank, and the donor does not.
    Rank(usize),
    /// Every rank, the donor too.
    Everybody,
}

/// Samples that one donor shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSamples {
    /// The rank at whose stream they arrived.
    pub donor: usize,
    /// Who trains them.
    pub receiver: Receiver,
    /// Which, in the donor's training order.
    pub ranges: Vec<BatchRange>,
}

impl SharedSamples {
    /// How many, each counted once.
    pub fn samples(&self) -> u64 {
        self.ranges.iter().map(|range| range.count).sum()
    }

    /// Whether `rank` trains them without having them.
    pub fn reaches(&self, rank: usize) -> bool {
        self.donor != rank && matches!(self.receiver, Receiver::Everybody)
            || self.receiver == Receiver::Rank(rank)
    }
}

/// What the ranks share in one step. A donor's shared samples are the last of its batch, in the order of the entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InjectionPlan {
    /// Ordered by donor, then by receiver.
    pub shared: Vec<SharedSamples>,
}

impl InjectionPlan {
    /// Whether nothing travels.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty()
    }

    /// Samples of its own that `rank` shares, each counted once.
    pub fn shared_out(&self, rank: usize) -> u64 {
        self.shared.iter().filter(|part| part.donor == rank).map(SharedSamples::samples).sum()
    }

    /// Samples that leave `rank` of `world_size`, every copy counted.
    pub fn sent(&self, rank: usize, world_size: usize) -> u64 {
        let copies = |part: &SharedSamples| match part.receiver {
            Receiver::Rank(_) => part.samples(),
            Receiver::Everybody => part.samples() * (world_size as u64 - 1),
        };
        self.shared.iter().filter(|part| part.donor == rank).map(copies).sum()
    }

    /// Samples of its own that `rank` does not train itself.
    pub fn given_away(&self, rank: usize) -> u64 {
        let moved = |part: &&SharedSamples| part.donor == rank && part.receiver != Receiver::Everybody;
        self.shared.iter().filter(moved).map(SharedSamples::samples).sum()
    }

    /// What `rank` trains of others, in training order: behind what it keeps of its own.
    pub fn received_by(&self, rank: usize) -> impl Iterator<Item = &SharedSamples> {
        self.shared.iter().filter(move |part| part.reaches(rank))
    }

    /// Samples of others that `rank` trains.
    pub fn received(&self, rank: usize) -> u64 {
        self.received_by(rank).map(SharedSamples::samples).sum()
    }

    /// What each rank trains where it would train `local_batches` without injection.
    pub fn trained(&self, local_batches: &[u64]) -> Vec<u64> {
        let trained = |(rank, own): (usize, &u64)| own - self.given_away(rank) + self.received(rank);
        local_batches.iter().enumerate().map(trained).collect()
    }
}

impl InjectionRule {
    /// The rule of a job whose records have `record_bytes`.
    pub fn new(config: &InjectionConfig, record_bytes: u64, seed: u64) -> Self {
        Self {
            mode: config.mode,
            batch: config.batch,
            donor_fraction: config.donor_fraction,
            shared_fraction: config.shared_fraction,
            donors: config.donors,
            may_share: config.may_share.clone(),
            most_sent: config.budget_bytes_per_step.map(|bytes| bytes / record_bytes.max(1)),
            seed,
        }
    }

    /// The rule of the same job with another α and β.
    #[must_use]
    pub fn tuned(&self, tuning: &InjectionTuning) -> Self {
        let InjectionTuning { donor_fraction, shared_fraction } = *tuning;
        Self { donor_fraction, shared_fraction, ..self.clone() }
    }

    /// Donors of a step: ⌈α·n⌉, or as many as may share.
    pub fn donor_count(&self) -> usize {
        let willing = self.may_share.iter().filter(|may_share| **may_share).count();
        donor_count(self.donor_fraction, self.may_share.len()).min(willing)
    }

    /// What a device takes from its own stream where the batch rule says `local_batch`.
    pub fn own_batch(&self, local_batch: u64) -> u64 {
        own_batch(self.batch, self.donor_count(), self.shared_fraction, local_batch)
    }

    /// Most samples of others that a rank trains in a step in which no own batch is above `largest_batch`.
    pub fn most_received(&self, largest_batch: u64) -> u64 {
        let (ranks, donors) = (self.may_share.len() as u64, self.donor_count() as u64);
        let shared = donors * self.shared_samples(largest_batch);
        match self.mode {
            InjectionMode::Replicate => shared,
            // Where all are donors, each of them deals to one receiver less.
            InjectionMode::Move if donors == ranks => shared.div_ceil((ranks - 1).max(1)) + donors,
            InjectionMode::Move => shared.div_ceil(ranks - donors),
        }
    }

    /// What the ranks share in the step after `step`. Offers are by rank.
    pub fn plan(&self, step: u64, offers: &[Offer<'_>]) -> InjectionPlan {
        let donors = self.donor_count();
        if offers.len() < 2 || donors == 0 {
            return InjectionPlan::default();
        }
        let order = self.order(self.draw(step), offers);
        let mut shared = match self.mode {
            InjectionMode::Move => self.moved(&order, donors, offers),
            InjectionMode::Replicate => self.replicated(&order[..donors], offers),
        };
        shared.sort_by_key(|part| (part.donor, part.receiver));
        InjectionPlan { shared }
    }

    fn draw(&self, step: u64) -> RandomStream {
        RandomStream::new(self.seed, STREAM).substream(step)
    }

    /// ⌊β·b⌋, as far as the budget allows.
    fn shared_samples(&self, local_batch: u64) -> u64 {
        let copies = match self.mode {
            InjectionMode::Move => 1,
            InjectionMode::Replicate => (self.may_share.len() as u64).saturating_sub(1).max(1),
        };
        let affordable = self.most_sent.map_or(u64::MAX, |most| most / copies);
        shared_of(self.shared_fraction, local_batch).min(affordable)
    }

    /// All ranks, in the order in which they become donors; those that may not share come last.
    fn order(&self, draw: RandomStream, offers: &[Offer<'_>]) -> Vec<usize> {
        let drawn = Permutation::new(draw, offers.len() as u64);
        let mut order: Vec<usize> =
            (0..offers.len() as u64).map(|index| drawn.apply(index) as usize).collect();
        let wanted = match self.donors {
            DonorChoice::Random => vec![0.0; offers.len()],
            DonorChoice::LabelDeficit => {
                // A product and no power: no mathematics library decides who shares.
                let luck = draw.substream(1);
                let weigh = |(rank, wanted): (usize, f64)| wanted * luck.unit(rank as u64);
                deficits(offers).into_iter().enumerate().map(weigh).collect()
            }
        };
        let willing = |rank: usize| self.may_share.get(rank).copied().unwrap_or(false);
        // Stable: equal ones stay as drawn.
        order.sort_by(|&a, &b| willing(b).cmp(&willing(a)).then(wanted[b].total_cmp(&wanted[a])));
        order
    }

    /// The donors' shares dealt to those that are no donors, or to all others where everybody is: each gets as many, what
    /// is left over goes round.
    fn moved(&self, order: &[usize], donors: usize, offers: &[Offer<'_>]) -> Vec<SharedSamples> {
        let receivers = if donors == order.len() { order } else { &order[donors..] };
        let (mut turn, mut shared) = (0, Vec::new());
        for &donor in &order[..donors] {
            let local_batch = offers[donor].samples();
            let samples = self.shared_samples(local_batch);
            let others: Vec<usize> = (0..receivers.len())
                .map(|place| receivers[(turn + place) % receivers.len()])
                .filter(|&receiver| receiver != donor)
                .collect();
            let (each, left_over) = (samples / others.len() as u64, samples % others.len() as u64);
            turn = (turn + left_over as usize) % receivers.len();
            let mut portions: Vec<(usize, u64)> = others
                .iter()
                .enumerate()
                .map(|(place, &receiver)| (receiver, each + u64::from((place as u64) < left_over)))
                .filter(|(_, portion)| *portion > 0)
                .collect();
            portions.sort_unstable();
            let mut next = local_batch - samples;
            for (receiver, portion) in portions {
                let ranges = slice(offers[donor].ranges, next..next + portion);
                next += portion;
                shared.push(SharedSamples { donor, receiver: Receiver::Rank(receiver), ranges });
            }
        }
        shared
    }

    fn replicated(&self, donors: &[usize], offers: &[Offer<'_>]) -> Vec<SharedSamples> {
        let part = |&donor: &usize| {
            let local_batch = offers[donor].samples();
            let samples = self.shared_samples(local_batch);
            let ranges = slice(offers[donor].ranges, local_batch - samples..local_batch);
            (samples > 0).then_some(SharedSamples { donor, receiver: Receiver::Everybody, ranges })
        };
        donors.iter().filter_map(part).collect()
    }
}

/// The samples of these numbers, counted in training order.
pub fn slice(ranges: &[BatchRange], samples: Range<u64>) -> Vec<BatchRange> {
    let mut before = 0;
    let part = |range: &BatchRange| {
        let behind = before + range.count;
        let (start, end) = (samples.start.clamp(before, behind), samples.end.clamp(before, behind));
        let first_offset = range.first_offset + (start - before);
        before = behind;
        (start < end).then_some(BatchRange { first_offset, count: end - start, ..*range })
    };
    ranges.iter().filter_map(part).collect()
}

/// By rank: how much of what the other batches lack its own holds. A batch lacks of a label what is missing to an equal
/// share of all labels that any batch has.
fn deficits(offers: &[Offer<'_>]) -> Vec<f64> {
    let labels = offers.iter().map(|offer| offer.labels.len()).max().unwrap_or(0);
    let share = |offer: &Offer<'_>, label: usize| -> Option<f64> {
        let all: u64 = offer.labels.iter().map(|&count| u64::from(count)).sum();
        (all > 0).then(|| f64::from(offer.labels.get(label).copied().unwrap_or(0)) / all as f64)
    };
    let present: Vec<usize> = (0..labels)
        .filter(|&label| offers.iter().any(|offer| offer.labels.get(label).is_some_and(|&count| count > 0)))
        .collect();
    let even = 1.0 / present.len().max(1) as f64;
    let mut scores = vec![0.0; offers.len()];
    for label in present {
        let lacks: Vec<f64> = offers
            .iter()
            .map(|offer| share(offer, label).map_or(0.0, |held| (even - held).max(0.0)))
            .collect();
        let all: f64 = lacks.iter().sum();
        for ((score, offer), own) in scores.iter_mut().zip(offers).zip(lacks) {
            *score += share(offer, label).unwrap_or(0.0) * (all - own);
        }
    }
    scores
}

#[cfg(test)]
mod tests;
