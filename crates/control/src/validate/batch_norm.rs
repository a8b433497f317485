//! What BatchNorm asks of a job.

use scadles_api::{
    job::ModelSpec,
    worker::{BatchRule, ModelConfig, ModelName, NormStatistics, Normalization, StreamConfig},
};
use scadles_core::batch::{LEAST_EVEN_MICRO_BATCH, SMALLEST_FORCED_BATCH};

use crate::mistake::Findings;

/// The norms of a network, and whose running statistics are kept; `None` where there are none.
pub(super) fn norms(found: &mut Findings, given: &ModelSpec) -> (Normalization, Option<NormStatistics>) {
    let normalization = given.normalization.unwrap_or(Normalization::Group);
    let field = "spec.model.normalization";
    if let (Some(named), ModelName::TorchScript) = (given.normalization, given.name) {
        let problem = "belongs to the built-in models; the file of a TorchScript model has its own norms";
        found.add(field, format!("{named:?}"), problem, "remove it");
    }
    if (normalization, given.name) == (Normalization::Batch, ModelName::Mlp) {
        let remedy = "remove it, or choose a network of convolutions with spec.model.name";
        found.add(field, "Batch", "belongs to networks of convolutions; Mlp has no norms", remedy);
    }
    if let (Some(statistics), Normalization::Group) = (given.statistics, normalization) {
        found.add(
            "spec.model.statistics",
            format!("{statistics:?}"),
            "belongs to spec.model.normalization: Batch; GroupNorm keeps no statistics",
            "remove it, or set spec.model.normalization: Batch",
        );
    }
    let keeps = normalization == Normalization::Batch;
    (normalization, keeps.then(|| given.statistics.unwrap_or(NormStatistics::Agreed)))
}

/// No forward pass of training may see a lone sample: of a map of one pixel it has no statistics.
pub(super) fn check_batches(
    found: &mut Findings,
    model: &ModelConfig,
    micro_batch: u32,
    stream: &StreamConfig,
) {
    if model.statistics.is_none() {
        return;
    }
    let two = SMALLEST_FORCED_BATCH;
    let (path, smallest) = match stream.batch {
        BatchRule::Fixed { size } => ("spec.stream.batch.fixed.size", size),
        BatchRule::StreamRate { .. } | BatchRule::LineRate => {
            ("spec.stream.batch.min", stream.batch_bounds.min)
        }
    };
    if u64::from(smallest) < two {
        found.add(
            path,
            smallest,
            format!("allowed is {two} or more with spec.model.normalization: Batch: a lone sample has no statistics"),
            format!("give {two} or more, or remove spec.model.normalization"),
        );
    }
    if (micro_batch as usize) < LEAST_EVEN_MICRO_BATCH {
        let problem = format!(
            "allowed is {LEAST_EVEN_MICRO_BATCH} or more with spec.model.normalization: Batch: batches are split evenly, \
             and no part may be a lone sample"
        );
        let remedy = format!("give {LEAST_EVEN_MICRO_BATCH} or more, or remove spec.model.normalization");
        found.add("spec.training.microBatch", micro_batch, problem, remedy);
    }
}
