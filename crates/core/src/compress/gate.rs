//! Dense or sparse: the energy that selection loses, its mean, and the bound δ (paper §IV, "High communication
//! cost"). No I/O.
//!
//! ℓ = (‖e‖² − ‖topk(e)‖²)/‖e‖². It is known only after a backward pass, so a step is decided on by the steps before it.
//! In a dense step it is estimated from a strided sample: a gate that only looked at sparse steps would never open again.

pub use scadles_api::job::EnergyOf;
use serde::{Deserialize, Serialize};

use super::{
    cost::{ExchangeCost, LinkCost, cheapest},
    exchange::SparseExchange,
    layout::SparseLayout,
    wire::ValueFormat,
};
use crate::ewma::Ewma;

/// Ratios at most between which a job may choose.
pub const MOST_LEVELS: usize = 3;
/// So many steps after the last dense one another is taken where the choice is free: what it costs changes unseen.
const LOOK_AGAIN_STEPS: u32 = 64;
/// A choice that loses more must be better by so much.
const WORTH_A_LOSS: f64 = 1.02;

/// Squared norms of what one rank had and of what selection left behind.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EnergyStatistics {
    /// ‖e‖², or ‖u‖² for [`EnergyOf::Gradient`].
    pub energy: f64,
    /// The same less what the k largest make of it, for each of the job's ratios.
    pub lost: [f64; MOST_LEVELS],
}

impl EnergyStatistics {
    /// From a sample of the elements: its ⌈ratio·m⌉ largest stand for the k largest of all.
    pub fn of_sample(sample: impl Iterator<Item = f32>, ratios: impl Iterator<Item = f64>) -> Self {
        let mut squares: Vec<f64> = sample.map(|value| f64::from(value) * f64::from(value)).collect();
        let mut found = Self { energy: squares.iter().sum(), ..Self::default() };
        for (lost, ratio) in found.lost.iter_mut().zip(ratios) {
            let wanted = ((ratio * squares.len() as f64).ceil() as usize).min(squares.len());
            if wanted < squares.len() {
                let (_, largest_lost, others) = squares.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a));
                *lost = *largest_lost + others.iter().sum::<f64>();
            }
        }
        found
    }

    /// ℓ in [0, 1] at one of the job's ratios; nothing without energy.
    pub fn energy_loss(&self, level: usize) -> Option<f64> {
        let loss = self.lost[level] / self.energy;
        (self.energy > 0.0 && loss.is_finite()).then(|| loss.clamp(0.0, 1.0))
    }
}

/// What one rank tells the others after a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CompressionReport {
    /// What selection lost in the step, or would have lost; nothing before the first.
    pub energy: Option<EnergyStatistics>,
    /// What the rank has measured.
    pub link: LinkCost,
    /// Mean time by which exchanges outlasted compute, in seconds.
    pub exchange_seconds: f64,
    /// How long before the end of compute backward completes each bucket, on average, in seconds; empty where the exchange
    /// begins when compute is over.
    pub leads: Vec<f64>,
}

/// How a job's steps are decided on.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressionRule {
    /// δ: the largest mean energy loss of a sparse step; `None` compresses every step.
    pub delta: Option<f64>,
    /// The exchanges whose bytes at worst are within the dense step's; empty: all steps are dense.
    pub allowed: Vec<ExchangeCost>,
    /// What a dense step costs, where the job leaves it open how gradients travel (`Auto`); `None`: what is allowed is
    /// wanted.
    pub dense: Option<ExchangeCost>,
    /// CR of each level, descending.
    pub ratios: Vec<f64>,
    /// The buffer, from which the costs at other ratios follow.
    pub layout: SparseLayout,
    /// How values travel.
    pub format: ValueFormat,
}

/// The ratios of a job, descending: its own, and before it coarser ones if it is free to choose.
pub fn ratios(least: f64, is_free: bool) -> Vec<f64> {
    /// Above it the bytes of half precision are not far.
    const COARSEST: f64 = 0.1;
    match least {
        least if !is_free || least >= COARSEST => vec![least],
        least if least >= 0.01 => vec![COARSEST, least],
        least => vec![COARSEST, (COARSEST * least).sqrt(), least],
    }
}

/// What a step takes beside its exchange, in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepTimes {
    /// All work of the slowest rank but the exchange.
    pub compute: f64,
    /// How long before its end this rank's backward completes each bucket; those that are missing, at the end.
    pub leads: Vec<f64>,
    /// No step is shorter: the window, or the wait for the batch.
    pub least: f64,
}

/// What ranks have in common about compression between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressionState {
    /// The job's ratios that means and counts are of; all 0 before the first decision.
    #[serde(default)]
    pub ratios: [f64; MOST_LEVELS],
    /// Mean of ℓ over the steps so far, at each of the job's ratios.
    pub energy_losses: [Ewma; MOST_LEVELS],
    /// Steps that were sparse, at each of the job's ratios.
    pub sparse_steps: [u64; MOST_LEVELS],
    /// Sparse steps at ratios that the job had before.
    #[serde(default)]
    pub earlier_sparse_steps: u64,
    /// Sum of the ratios of those steps.
    #[serde(default)]
    pub earlier_ratio_sum: f64,
    /// Steps that sent all in half precision.
    pub half_steps: u64,
    /// Steps that sent all because ℓ was above δ.
    pub vetoed_steps: u64,
    /// Steps since the last dense one.
    pub since_dense: u32,
}

/// A sparse exchange at one of the job's ratios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseChoice {
    /// How selections become one sum.
    pub exchange: SparseExchange,
    /// Which of the job's ratios.
    pub level: u8,
}

/// How one step's gradients travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CompressionDecision {
    /// All of e.
    #[default]
    Dense,
    /// All of e, in two bytes each.
    Half,
    /// The k largest of e.
    Sparse(SparseChoice),
}

impl CompressionState {
    /// The state with what the ranks found in the last step: one ℓ of all, each rank's weighted by its energy. So a rank
    /// without samples counts by the little it has, and all ranks get the same bits from one sum in rank order.
    #[must_use]
    pub fn observed(mut self, reports: &[Option<EnergyStatistics>]) -> Self {
        let mut sum = EnergyStatistics::default();
        for found in reports.iter().flatten() {
            sum.energy += found.energy;
            for (sum, lost) in sum.lost.iter_mut().zip(found.lost) {
                *sum += lost;
            }
        }
        for (level, mean) in self.energy_losses.iter_mut().enumerate() {
            if let Some(loss) = sum.energy_loss(level) {
                mean.update(loss, gain(reports.len()));
            }
        }
        self
    }

    /// Steps that sent only the largest elements.
    pub fn all_sparse_steps(&self) -> u64 {
        self.earlier_sparse_steps + self.sparse_steps.iter().sum::<u64>()
    }

    /// Mean CR of the sparse steps; nothing before the first.
    pub fn mean_ratio(&self) -> Option<f64> {
        let steps = self.all_sparse_steps();
        (steps > 0).then(|| (self.earlier_ratio_sum + self.ratio_sum()) / steps as f64)
    }

    /// Of the sparse steps at the present ratios.
    fn ratio_sum(&self) -> f64 {
        self.sparse_steps.iter().zip(self.ratios).map(|(&steps, ratio)| steps as f64 * ratio).sum()
    }

    /// Other ratios lose other shares: what is known of ℓ is forgotten, and with a gate the next step is dense and looks.
    fn turn_to(&mut self, ratios: &[f64]) {
        let mut new = [0.0; MOST_LEVELS];
        new.iter_mut().zip(ratios).for_each(|(level, ratio)| *level = *ratio);
        if new.iter().eq(&self.ratios) {
            return;
        }
        if self.ratios[0] > 0.0 {
            self.earlier_ratio_sum += self.ratio_sum();
            self.earlier_sparse_steps += self.sparse_steps.iter().sum::<u64>();
            self.sparse_steps = [0; MOST_LEVELS];
            self.energy_losses = Default::default();
        }
        self.ratios = new;
    }

    /// The decision for the next step, and the state once it is taken.
    pub fn decide(
        mut self,
        rule: &CompressionRule,
        measured: &LinkCost,
        times: &StepTimes,
    ) -> (CompressionDecision, Self) {
        self.turn_to(&rule.ratios);
        let wanted = self.choose(rule, None, measured, times);
        let chosen = self.choose(rule, rule.delta, measured, times);
        let is_sparse = |decision| matches!(decision, CompressionDecision::Sparse(_));
        if is_sparse(wanted) && !is_sparse(chosen) && self.is_known() {
            self.vetoed_steps += 1;
        }
        self.since_dense = self.since_dense.saturating_add(1);
        match chosen {
            CompressionDecision::Dense => self.since_dense = 0,
            CompressionDecision::Half => self.half_steps += 1,
            CompressionDecision::Sparse(choice) => self.sparse_steps[usize::from(choice.level)] += 1,
        }
        (chosen, self)
    }

    fn is_known(&self) -> bool {
        self.energy_losses[0].value().is_some()
    }

    /// The best of what `delta` lets through.
    fn choose(
        &self,
        rule: &CompressionRule,
        delta: Option<f64>,
        measured: &LinkCost,
        times: &StepTimes,
    ) -> CompressionDecision {
        let is_open = |level: u8| match (delta, self.energy_losses[usize::from(level)].value()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(delta), Some(loss)) => loss <= delta,
        };
        let open = rule.allowed.iter().filter(|cost| match cost.decision {
            CompressionDecision::Sparse(choice) => is_open(choice.level),
            _ => true,
        });
        let added = |cost: &ExchangeCost| measured.added_seconds(cost, &rule.layout, &times.leads);
        match &rule.dense {
            None => cheapest(open, added).unwrap_or_default(),
            Some(dense) if self.is_known() && self.since_dense < LOOK_AGAIN_STEPS => {
                self.most_gain(std::iter::once(dense).chain(open), added, times)
            }
            Some(_) => CompressionDecision::Dense,
        }
    }

    /// What brings the most of a gradient's energy to the others per second (after GraVAC, IEEE CLOUD 2023), what loses least
    /// first. Nothing is gained by an exchange that is shorter than the wait for samples.
    fn most_gain<'a>(
        &self,
        costs: impl Iterator<Item = &'a ExchangeCost>,
        added_seconds: impl Fn(&ExchangeCost) -> f64,
        times: &StepTimes,
    ) -> CompressionDecision {
        let mut best = (CompressionDecision::Dense, 0.0);
        for cost in costs {
            let gain = match cost.decision {
                CompressionDecision::Sparse(choice) => {
                    1.0 - self.energy_losses[usize::from(choice.level)].value().unwrap_or(1.0)
                }
                _ => 1.0,
            };
            let seconds = (times.compute + added_seconds(cost)).max(times.least).max(f64::MIN_POSITIVE);
            if gain / seconds > WORTH_A_LOSS * best.1 {
                best = (cost.decision, gain / seconds);
            }
        }
        best.0
    }
}

/// Share of the newest ℓ in the mean: n/100, at most all (the paper is silent; later implementations use this).
fn gain(ranks: usize) -> f64 {
    (ranks as f64 / 100.0).clamp(0.01, 1.0)
}

#[cfg(test)]
mod tests;
