//! Dense or sparse: the energy that selection loses, its mean, and the bound δ (algorithms §4; paper §III-C). No I/O.
//!
//! ℓ = (‖e‖² − ‖topk(e)‖²)/‖e‖². It is known only after a backward pass, so a step is decided on by the steps before it.
//! In a dense step it is estimated from a strided sample: a gate that only looked at sparse steps would never open again.

pub use scadles_api::job::EnergyOf;
use serde::{Deserialize, Serialize};

use super::{
    cost::{ExchangeCost, LinkCost, cheapest},
    exchange::SparseExchange,
};
use crate::ewma::Ewma;

/// Squared norms of what one rank had and of what selection left behind.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EnergyStatistics {
    /// ‖e‖², or ‖u‖² for [`EnergyOf::Gradient`].
    pub energy: f64,
    /// The same less what the k largest make of it.
    pub lost: f64,
}

impl EnergyStatistics {
    /// From a sample of the elements: its ⌈ratio·m⌉ largest stand for the k largest of all.
    pub fn of_sample(sample: impl Iterator<Item = f32>, ratio: f64) -> Self {
        let mut squares: Vec<f64> = sample.map(|value| f64::from(value) * f64::from(value)).collect();
        let energy: f64 = squares.iter().sum();
        let wanted = ((ratio * squares.len() as f64).ceil() as usize).min(squares.len());
        if wanted == squares.len() {
            return Self { energy, lost: 0.0 };
        }
        let (_, largest_lost, others) = squares.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a));
        let lost = *largest_lost + others.iter().sum::<f64>();
        Self { energy, lost }
    }

    /// ℓ in [0, 1]; nothing without energy.
    pub fn energy_loss(&self) -> Option<f64> {
        let loss = self.lost / self.energy;
        (self.energy > 0.0 && loss.is_finite()).then(|| loss.clamp(0.0, 1.0))
    }
}

/// What one rank tells the others after a step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CompressionReport {
    /// What selection lost in the step, or would have lost; nothing before the first.
    pub energy: Option<EnergyStatistics>,
    /// What the rank has measured.
    pub link: LinkCost,
}

/// How a job's steps are decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompressionRule {
    /// δ: the largest mean energy loss of a sparse step; `None` compresses every step.
    pub delta: Option<f64>,
    /// The exchanges whose bytes at worst are within the dense step's; empty: all steps are dense.
    pub allowed: Vec<ExchangeCost>,
}

/// What ranks have in common about compression between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompressionState {
    /// Mean of ℓ over the steps so far.
    pub energy_loss: Ewma,
    /// Steps that were sparse.
    pub sparse_steps: u64,
    /// Steps that were dense because ℓ was above δ.
    pub vetoed_steps: u64,
}

/// How one step's gradients travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CompressionDecision {
    /// All of e.
    #[default]
    Dense,
    /// The k largest of e.
    Sparse(SparseExchange),
}

impl CompressionState {
    /// The state with what the ranks found in the last step: one ℓ of all, each rank's weighted by its energy. So a rank
    /// without samples counts by the little it has, and all ranks get the same bits from one sum in rank order.
    #[must_use]
    pub fn observed(mut self, reports: &[Option<EnergyStatistics>]) -> Self {
        let mut sum = EnergyStatistics::default();
        for found in reports.iter().flatten() {
            sum.energy += found.energy;
            sum.lost += found.lost;
        }
        if let Some(loss) = sum.energy_loss() {
            self.energy_loss.update(loss, gain(reports.len()));
        }
        self
    }

    /// The decision for the next step, and the state once it is taken.
    pub fn decide(mut self, rule: &CompressionRule, measured: &LinkCost) -> (CompressionDecision, Self) {
        let Some(exchange) = cheapest(&rule.allowed, measured) else {
            return (CompressionDecision::Dense, self);
        };
        let is_open = match (rule.delta, self.energy_loss.value()) {
            (None, _) => true,
            (Some(_), None) => return (CompressionDecision::Dense, self),
            (Some(delta), Some(loss)) => loss <= delta,
        };
        if is_open {
            self.sparse_steps += 1;
            (CompressionDecision::Sparse(exchange), self)
        } else {
            self.vetoed_steps += 1;
            (CompressionDecision::Dense, self)
        }
    }
}

/// Share of the newest ℓ in the mean: n/100, at most all (the paper is silent; later implementations use this).
fn gain(ranks: usize) -> f64 {
    (ranks as f64 / 100.0).clamp(0.01, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(delta: Option<f64>) -> CompressionRule {
        let cost = ExchangeCost {
            exchange: SparseExchange::AllGather,
            worst_bytes: 10,
            rounds: 2,
            second_selection_elements: 0,
        };
        CompressionRule { delta, allowed: vec![cost] }
    }

    fn found(lost: f64) -> EnergyStatistics {
        EnergyStatistics { energy: 2.0, lost }
    }

    #[test]
    fn the_gate_opens_at_delta_and_closes_above_it_and_knows_nothing_at_first() {
        let rule = rule(Some(0.3));
        let (decision, state) = CompressionState::default().decide(&rule, &LinkCost::default());
        assert_eq!((decision, state.vetoed_steps), (CompressionDecision::Dense, 0));
        let open = state.observed(&[Some(found(0.6)), Some(found(0.6))]);
        let (decision, open) = open.decide(&rule, &LinkCost::default());
        assert_eq!(decision, CompressionDecision::Sparse(SparseExchange::AllGather));
        assert_eq!((open.sparse_steps, open.vetoed_steps), (1, 0));
        let mut closed = open;
        for _ in 0..100 {
            closed = closed.observed(&[Some(found(2.0)), Some(found(0.0))]);
        }
        let (decision, closed) = closed.decide(&rule, &LinkCost::default());
        assert_eq!((decision, closed.vetoed_steps), (CompressionDecision::Dense, 1));
    }

    #[test]
    fn without_delta_every_step_is_sparse_unless_bytes_forbid_it() {
        let state = CompressionState::default().observed(&[Some(found(2.0))]);
        assert_ne!(state.decide(&rule(None), &LinkCost::default()).0, CompressionDecision::Dense);
        let forbidden = CompressionRule { allowed: Vec::new(), ..rule(None) };
        assert_eq!(state.decide(&forbidden, &LinkCost::default()).0, CompressionDecision::Dense);
    }

    #[test]
    fn a_rank_counts_by_its_energy() {
        let small = Some(EnergyStatistics { energy: 0.0, lost: 0.0 });
        let state = CompressionState::default().observed(&[Some(found(0.5)), small, None]);
        assert_eq!(state.energy_loss.value(), Some(0.25));
        let nothing = CompressionState::default().observed(&[small, None]);
        assert_eq!(nothing.energy_loss.value(), None);
    }

    #[test]
    fn the_mean_follows_by_a_hundredth_a_rank() {
        let state = CompressionState::default().observed(&[Some(found(0.5)), Some(found(0.5))]);
        let later = state.observed(&[Some(found(1.5)), Some(found(1.5))]);
        let mean = later.energy_loss.value().unwrap();
        // Two ranks: the older ℓ counts 1 − 2/100 of the newer.
        assert!((mean - (0.25 * 0.98 + 0.75) / 1.98).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn the_sample_loses_what_is_not_among_its_largest() {
        let sample = [3.0_f32, -1.0, 2.0, 0.0];
        let half = EnergyStatistics::of_sample(sample.into_iter(), 0.5);
        assert_eq!(half, EnergyStatistics { energy: 14.0, lost: 1.0 });
        assert_eq!(EnergyStatistics::of_sample(sample.into_iter(), 1.0).lost, 0.0);
        assert_eq!(EnergyStatistics::of_sample(std::iter::empty(), 0.1).energy_loss(), None);
    }
}
