//! What the ranks of a job agree on with each step: how its gradients travel.

use scadles_core::compress::cost::LinkCost;
use scadles_core::compress::gate::{
    CompressionDecision, CompressionReport, CompressionRule, CompressionState, StepTimes,
};
use scadles_trainer::engine::Communicator;

/// What one rank knows of it.
pub struct Choice {
    rule: CompressionRule,
    state: CompressionState,
    /// Of the last step.
    pub compute_seconds: f64,
}

impl Choice {
    /// Nothing yet.
    pub fn new(rule: CompressionRule) -> Self {
        Self { rule, state: CompressionState::default(), compute_seconds: 0.0 }
    }

    /// One round in place of the control channel's.
    pub fn agree(&mut self, comm: &mut dyn Communicator, report: &CompressionReport) -> CompressionDecision {
        const REPORT_BYTES: usize = 2048;
        let mut own = serde_json::to_vec(&(report, self.compute_seconds)).unwrap();
        assert!(own.len() <= REPORT_BYTES, "{}", own.len());
        own.resize(REPORT_BYTES, b' ');
        let mut all = vec![0; REPORT_BYTES * comm.world_size()];
        comm.all_gather_equal(&own, &mut all).unwrap();
        let reports: Vec<(CompressionReport, f64)> =
            all.chunks_exact(REPORT_BYTES).map(|text| serde_json::from_slice(text).unwrap()).collect();
        let energies: Vec<_> = reports.iter().map(|(report, _)| report.energy).collect();
        let link = LinkCost::of_group(reports.iter().map(|(report, _)| report.link));
        let slowest = reports.iter().max_by(|(_, one), (_, other)| one.total_cmp(other)).unwrap();
        let times = StepTimes { compute: slowest.1, leads: slowest.0.leads.clone(), least: 0.0 };
        let (decision, state) = self.state.observed(&energies).decide(&self.rule, &link, &times);
        self.state = state;
        decision
    }
}
