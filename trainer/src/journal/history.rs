//! Which of the journal's records count. Pure.

use super::JournalError;
use super::reader::Segment;
use super::record::StepRecord;

/// The surviving history of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Step after which the first record begins: 0 unless somebody has deleted old segments.
    pub from_step: u64,
    /// One record per step, without gaps.
    pub steps: Vec<StepRecord>,
}

/// Follows the segments, which must be in order of (attempt, step): what lies beyond a segment's start was rolled back
/// by it.
pub fn surviving(segments: &[Segment]) -> Result<History, JournalError> {
    let mut history = History {
        from_step: segments.first().map_or(0, |segment| segment.header.from_step),
        ..History::default()
    };
    for segment in segments {
        let kept = history.steps.partition_point(|record| record.step <= segment.header.from_step);
        history.steps.truncate(kept);
        let first = history.steps.last().map_or(history.from_step, |record| record.step) + 1;
        let gap = |expected, found| JournalError::Gap { segment: segment.name.clone(), expected, found };
        // An attempt cannot start beyond what the attempts before it have reached.
        if segment.header.from_step + 1 != first {
            return Err(gap(first, segment.header.from_step + 1));
        }
        for (record, expected) in segment.records.iter().zip(first..) {
            if record.step != expected {
                return Err(gap(expected, record.step));
            }
        }
        history.steps.extend(segment.records.iter().cloned());
    }
    Ok(history)
}
