//! `scadles simulate`: a job or a preset on the virtual clock, as table, JSON, CSV and plots. Pure: the command reads and
//! writes the files.

pub mod args;
pub mod draft;
pub mod export;
pub mod laptop;
pub mod options;
pub mod plots;
pub mod presets;
pub mod scenario;
pub mod table;

#[cfg(test)]
mod tests;

use scadles_core::sim::{SimSummary, Simulation, Trace};

use scenario::Scenario;

/// A scenario and what came of it.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// What was simulated.
    pub scenario: Scenario,
    /// Sums.
    pub summary: SimSummary,
    /// At most 2,000 of its steps.
    pub trace: Trace,
}

/// Runs a scenario on the virtual clock.
pub fn simulate(scenario: Scenario) -> Simulated {
    let (summary, trace) = Simulation::new(scenario.settings, &scenario.sim_devices()).run();
    Simulated { scenario, summary, trace }
}
