//! Reads the journal's segments. Shell.

use std::path::Path;

use super::JournalError;
use super::history::surviving;
use super::record::{SegmentHeader, StepRecord};
use crate::checkpoint::store::parse_name;

/// One segment as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// `<attempt>-<step>`.
    pub name: String,
    /// Its first line.
    pub header: SegmentHeader,
    /// Its records.
    pub records: Vec<StepRecord>,
}

/// ((attempt, step), name) of a segment.
type Named = ((u32, u64), String);

/// Extension of a segment's file.
pub(super) const EXTENSION: &str = "jsonl";

/// The segments in the folder `journal_dir`, in order of (attempt, step). A segment whose header was torn is left out:
/// nothing had been written behind it.
pub fn read_segments(journal_dir: &Path) -> Result<Vec<Segment>, JournalError> {
    read_segments_from(journal_dir, (0, 0))?.collect()
}

/// The same one by one, without those whose (attempt, step) is below `first`: they hold nothing later than it.
pub fn read_segments_from(
    journal_dir: &Path,
    first: (u32, u64),
) -> Result<impl Iterator<Item = Result<Segment, JournalError>>, JournalError> {
    let names = segment_names(journal_dir)?.into_iter().filter(move |(age, _)| *age >= first);
    Ok(names.filter_map(|(_, name)| read_segment(journal_dir, &name).transpose()))
}

fn read_segment(journal_dir: &Path, name: &str) -> Result<Option<Segment>, JournalError> {
    let path = journal_dir.join(format!("{name}.{EXTENSION}"));
    let place = path.display().to_string();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| JournalError::Read { place: place.clone(), reason: error.to_string() })?;
    parse_segment(name, &place, &text)
}

/// The steps that count, oldest first.
pub fn read_surviving(journal_dir: &Path) -> Result<Vec<StepRecord>, JournalError> {
    Ok(surviving(&read_segments(journal_dir)?)?.steps)
}

/// The segments, in order. A folder that is not there has none.
fn segment_names(journal_dir: &Path) -> Result<Vec<Named>, JournalError> {
    let failed = |error: std::io::Error| JournalError::Read {
        place: journal_dir.display().to_string(),
        reason: error.to_string(),
    };
    let entries = match std::fs::read_dir(journal_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        if let Some((age, stem)) = stem.and_then(|stem| Some((parse_name(stem)?, stem.to_owned()))) {
            names.push((age, stem));
        }
    }
    names.sort();
    Ok(names)
}

/// Pure: one segment's text. Only the last line may be torn.
fn parse_segment(name: &str, place: &str, text: &str) -> Result<Option<Segment>, JournalError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines().enumerate();
    let damaged = |line: usize, error: serde_json::Error| JournalError::Damaged {
        place: place.to_owned(),
        line: line + 1,
        reason: error.to_string(),
    };
    let Some((line, first)) = lines.next() else { return Ok(None) };
    let header = serde_json::from_str(first).map_err(|error| damaged(line, error))?;
    let records = lines
        .map(|(line, record)| serde_json::from_str(record).map_err(|error| damaged(line, error)))
        .collect::<Result<Vec<StepRecord>, _>>()?;
    Ok(Some(Segment { name: name.to_owned(), header, records }))
}
