//! From the text of a job file to a `ScadlesJob`, with every mistake of form found at once. No I/O.
//!
//! YAML → a tree that still shows repeated keys → JSON → the schema generated from the types, made strict → serde. The
//! schema finds all mistakes in one pass, where serde would stop at the first; serde has the last word.

mod document;
mod schema;
mod wording;

use scadles_api::{ScadlesJob, yaml};

use crate::mistake::{Findings, Mistakes};
use document::Document;

/// Reads a job file.
pub fn parse_job(text: &str) -> Result<ScadlesJob, Mistakes> {
    let mut found = Findings::default();
    let value = match yaml::from_str::<Document>(text) {
        Ok(document) => document.into_json("", &mut found),
        Err(error) => {
            let remedy = "mend the text there; indentation and quotes are the usual reasons";
            found.add("", "", format!("is not readable as YAML: {error}"), remedy);
            return Err(found.into_mistakes());
        }
    };
    if value.is_null() {
        let remedy = "start from one of the example jobs";
        found.add("", "", "is empty", remedy);
        return Err(found.into_mistakes());
    }
    wording::find_mistakes(&value, &mut found);
    if !found.is_empty() {
        return Err(found.into_mistakes());
    }
    // Only what the schema cannot express is left, such as byte sizes beyond 64 bits.
    serde_json::from_value(value).map_err(|error| {
        found.add("", "", error.to_string(), "mend that value");
        found.into_mistakes()
    })
}

#[cfg(test)]
mod tests;
