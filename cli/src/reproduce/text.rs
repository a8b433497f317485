//! The sections as text for the terminal and as Markdown. Pure.

use std::fmt::Write as _;

use scadles_control::estimate::columns;

use super::{Basis, Printed, Row, SECTIONS, Section, Verdict};

/// Digits of a number that has none of the paper's to go by.
const DIGITS: i32 = 4;

/// Beginning of `docs/reproduction.md`.
const HEAD: &str = "\
# Reproduction of the paper

    scadles reproduce --markdown --plots docs/reproduction > docs/reproduction.md
    scadles reproduce fair --markdown --plots docs/reproduction >> docs/reproduction.md

This file and its plots are the output of these commands. The first covers every table and figure of the paper (arXiv
2301.08897) that needs no training, and a test compares the file with it. Our numbers come from the virtual clock (`scadles simulate`),
which shares batch rules, windows, truncation and rate estimates with a run. The second trains, see
[the virtual clock](concepts/virtual-clock.md); its tables are the last section.

A number is *predicted* when it follows from stream rates, batch size and published times alone; it is *fitted* when further
numbers of the paper went into it, which are named. Only predicted numbers count as reproduced: within 2 % of the paper's, or
half a unit of its last printed digit. Where they differ the reason stands below the table. Misprints and artefacts of the
paper are flagged and never fitted. Numbers of figures were read off the plots (error below 0.5 % of the axis).
";

/// Names and headings of all sections.
pub fn list() -> String {
    let mut out = String::new();
    let rows: Vec<Vec<String>> =
        SECTIONS.iter().map(|(key, compute)| vec![(*key).to_owned(), compute().title.to_owned()]).collect();
    columns(&mut out, &rows, 2);
    out
}

/// How many predicted numbers agree, and how many there are beside a number of the paper.
pub fn score(sections: &[Section]) -> (usize, usize) {
    let verdicts = || sections.iter().flat_map(|section| &section.rows).map(Row::verdict);
    let reproduced = verdicts().filter(|verdict| *verdict == Verdict::Reproduced).count();
    let differs = verdicts().filter(|verdict| *verdict == Verdict::Differs).count();
    (reproduced, reproduced + differs)
}

fn score_text(sections: &[Section]) -> String {
    let (reproduced, predicted) = score(sections);
    format!(
        "{reproduced} of {predicted} predicted numbers are reproduced; each of the others has its reason."
    )
}

/// A number of ours: one digit more than the paper's, or three where it is written with a power of ten.
fn ours_text(value: f64, paper: Option<&Printed>) -> String {
    match paper {
        Some(Printed { exponent: Some(_), .. }) => format!("{value:.2e}"),
        Some(Printed { decimals, .. }) => format!("{value:.*}", decimals + 1),
        None if value == 0.0 => "0".to_owned(),
        None => {
            let decimals = (DIGITS - 1 - value.abs().log10().floor() as i32).clamp(0, 6);
            format!("{value:.*}", decimals as usize)
        }
    }
}

/// A share as a signed percentage, without a sign before nothing.
fn deviation_text(share: f64) -> String {
    let text = format!("{:+.1}", share * 100.0);
    if text == "-0.0" || text == "+0.0" { "0.0 %".to_owned() } else { format!("{text} %") }
}

fn verdict_text(row: &Row) -> &'static str {
    match row.verdict() {
        Verdict::Reproduced => "reproduced",
        Verdict::Differs => "differs",
        Verdict::NotCounted => "not counted",
        Verdict::Ours => "paper silent",
        Verdict::Misprint => "misprint",
        Verdict::Artefact => "artefact",
    }
}

/// A section's notes: reasons and inputs, each once, in the order of their numbers.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: &str) -> usize {
        let place = self.0.iter().position(|known| known == note).unwrap_or_else(|| {
            self.0.push(note.to_owned());
            self.0.len() - 1
        });
        place + 1
    }
}

/// Number, ours, paper's, deviation, basis, verdict.
fn cells(row: &Row, notes: &mut Notes) -> [String; 6] {
    let dash = || "–".to_owned();
    let basis = match row.basis {
        Basis::Predicted => "predicted".to_owned(),
        Basis::Fitted(inputs) => format!("fitted [{}]", notes.number(&format!("Fitted with: {inputs}."))),
    };
    let verdict = match &row.reason {
        Some(reason) => format!("{} [{}]", verdict_text(row), notes.number(&format!("{reason}."))),
        None => verdict_text(row).to_owned(),
    };
    [
        row.what.clone(),
        ours_text(row.ours, row.paper.as_ref()),
        row.paper.map_or_else(dash, |paper| paper.text.to_owned()),
        row.deviation().map_or_else(dash, deviation_text),
        basis,
        verdict,
    ]
}

const HEADS: [&str; 6] = ["number", "ours", "paper", "deviation", "basis", "result"];

/// For the terminal.
pub fn plain(sections: &[Section]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for section in sections {
        let _ = writeln!(out, "{} ({})\n", section.title, section.key);
        let mut notes = Notes::default();
        let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
        rows.extend(section.rows.iter().map(|row| cells(row, &mut notes).to_vec()));
        columns(&mut out, &rows, 1);
        let _ = writeln!(out, "\n  {}", section.about);
        for (index, note) in notes.0.iter().enumerate() {
            let _ = writeln!(out, "  [{}] {note}", index + 1);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{}", score_text(sections));
    out
}

/// For `docs/reproduction.md`.
pub fn markdown(sections: &[Section]) -> String {
    let mut out = format!("{HEAD}\n{}\n", score_text(sections));
    for section in sections {
        let _ = writeln!(
            out,
            "\n## {}\n\n`scadles reproduce {}`. {}\n",
            section.title, section.key, section.about
        );
        if let Some((file, figure)) = &section.figure {
            let _ = writeln!(out, "![{}](reproduction/{file})\n", figure.title);
        }
        let _ = writeln!(out, "| {} |\n|---|---:|---:|---:|---|---|", HEADS.join(" | "));
        let mut notes = Notes::default();
        for row in &section.rows {
            let _ = writeln!(out, "| {} |", cells(row, &mut notes).join(" | "));
        }
        if !notes.0.is_empty() {
            out.push('\n');
        }
        for (index, note) in notes.0.iter().enumerate() {
            let _ = writeln!(out, "- [{}] {note}", index + 1);
        }
    }
    out
}
