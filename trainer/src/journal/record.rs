//! Lines of the journal. Plain data.

use scadles_api::Tuning;
use scadles_core::agree::StepPlan;
use scadles_core::compress::gate::CompressionDecision;
use scadles_core::device_stream::BatchRange;
use scadles_core::inject::slice;
use serde::{Deserialize, Serialize};

/// First line of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentHeader {
    /// [`scadles_api::PROTOCOL_VERSION`] of who wrote it.
    pub protocol: u32,
    /// Unique id of the job.
    pub job_uid: String,
    /// Attempt that writes.
    pub attempt: u32,
    /// Step after which the segment's records begin.
    pub from_step: u64,
    /// Name of the checkpoint of that step.
    pub checkpoint: String,
    /// Model of the CPU, and whether it left computing to a GPU: replay gives the same bits on the same kind.
    pub cpu: String,
    /// libtorch's version.
    pub torch: String,
    /// Compute threads per worker.
    pub threads: u32,
    /// Device names in the order of ranks: the order of addition.
    pub devices: Vec<String>,
    /// Hash of the settings that bits follow from, see [`super::writer::config_hash`].
    pub config_hash: String,
}

/// One committed step. All numbers read back with the bits that were written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Attempt that took it.
    pub attempt: u32,
    /// The step's number: the first is 1.
    pub step: u64,
    /// Epoch that augmentation was drawn for: samples before the step / epoch_samples, rounded down.
    pub epoch: u64,
    /// η_t as given to the optimiser.
    pub learning_rate: f64,
    /// Agreed window T in seconds; 0 for rules without one.
    pub window_seconds: f64,
    /// Σb, each sample once.
    pub global_batch: u64,
    /// Samples per forward pass.
    pub micro_batch: u32,
    /// Per device in the order of ranks.
    pub devices: Vec<DeviceStep>,
    /// How the gradients travelled, in jobs with compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionDecision>,
    /// Settings that held for the step, in jobs with compression or injection: a job may be tuned while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// All ranks' running statistics became one after the step, in networks that have them. They also do where a checkpoint
    /// follows that no step announced: before the segment that begins with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub statistics_agreed: bool,
    /// Hash of the parameters after the step, hexadecimal, where it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_hash: Option<String>,
}

/// What one device trained in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStep {
    /// Factor of the summed cross-entropy: w_i / loss mass.
    pub loss_scale: f64,
    /// Records of its own stream in training order; empty if the device sat out.
    pub ranges: Vec<RecordRange>,
    /// Records of its own stream that it gave away: only another device trained them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<RecordRange>,
    /// Records of other streams that it trained, in training order behind its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub received: Vec<ReceivedRecords>,
}

impl DeviceStep {
    /// Every rank's part of a step, from what each has taken of its stream. Topics in the order of ranks.
    pub fn of_plan(plan: &StepPlan, taken: &[&[BatchRange]], topics: &[&str]) -> Vec<Self> {
        let records = |ranges: &[BatchRange]| ranges.iter().map(Into::into).collect::<Vec<RecordRange>>();
        let device =
            |(rank, ((ranges, &local_batch), &loss_scale)): (usize, ((&&[BatchRange], &u64), &f64))| {
                let kept = local_batch - plan.injection.given_away(rank);
                let received = plan.injection.received_by(rank).map(|part| ReceivedRecords {
                    rank: part.donor,
                    topic: topics.get(part.donor).copied().unwrap_or_default().to_owned(),
                    ranges: records(&part.ranges),
                });
                Self {
                    loss_scale,
                    ranges: records(&slice(ranges, 0..kept)),
                    given: records(&slice(ranges, kept..local_batch)),
                    received: received.collect(),
                }
            };
        taken.iter().zip(&plan.local_batches).zip(&plan.loss_scales).enumerate().map(device).collect()
    }

    /// b_i: samples of its own stream, whoever trained them.
    pub fn samples(&self) -> u64 {
        self.ranges.iter().chain(&self.given).map(|range| range.2).sum()
    }
}

/// Records of one stream that another device trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceivedRecords {
    /// The rank that sent them.
    pub rank: usize,
    /// The topic of its stream.
    pub topic: String,
    /// Which, in training order.
    pub ranges: Vec<RecordRange>,
}

/// (partition, first offset, records): consecutive offsets, all of them samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRange(pub u32, pub u64, pub u64);

impl From<&BatchRange> for RecordRange {
    fn from(range: &BatchRange) -> Self {
        Self(range.partition, range.first_offset, range.count)
    }
}
