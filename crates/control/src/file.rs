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

/// Reads a job file. What else it holds for `kubectl apply`, such as the job's namespace, is passed over.
pub fn parse_job(text: &str) -> Result<ScadlesJob, Mistakes> {
    let mut found = Findings::default();
    let document = match yaml::documents(text) {
        Ok(documents) => the_job(documents),
        Err(error) => {
            let remedy = "mend the text there; indentation and quotes are the usual reasons";
            Err((format!("is not readable as YAML: {error}"), remedy))
        }
    };
    let value = match document {
        Ok(document) => document.into_json("", &mut found),
        Err((problem, remedy)) => {
            found.add("", "", problem, remedy);
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

/// The only document, or the only one among several that is a job; or else what is wrong, and what to do.
fn the_job(mut documents: Vec<Document>) -> Result<Document, (String, &'static str)> {
    documents.retain(|document| *document != Document::Null);
    if documents.len() > 1 {
        let all = documents.len();
        documents.retain(|document| document.text("kind") == Some("ScadlesJob"));
        if documents.len() != 1 {
            let problem = format!("{} of the {all} documents are of kind ScadlesJob", documents.len());
            return Err((problem, "keep one ScadlesJob in the file"));
        }
    }
    Ok(documents.pop().unwrap_or(Document::Null))
}

#[cfg(test)]
mod tests;
