//! The lines that the documentation tells people to type: the tests type the very same.

use std::fs;

use anyhow::{Context as _, Result};

use crate::program::root;

/// The line of a document that begins with `beginning`, once the marks of its layout are taken away.
pub fn line_of(document: &str, beginning: &str) -> Result<String> {
    let text =
        fs::read_to_string(root().join(document)).with_context(|| format!("failed to read {document}"))?;
    let line = text
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ', '$']))
        .find(|line| line.starts_with(beginning));
    // A remark behind a command is for people.
    let line = line.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned());
    line.with_context(|| format!("{document} has no line `{beginning}…` any more: change the test with it"))
}
