//! `scadles reproduce`: the paper's tables and figures that need no training, computed on the virtual clock. Pure.
//!
//! A number is *predicted* when it follows from stream rates, batch size and published times alone; it is *fitted* when
//! something else that the paper shows went into it. Only predicted numbers count as reproduced.

pub mod args;
pub mod buffers;
pub mod bytes;
pub mod clock;
pub mod fair;
pub mod paper;
pub mod steps;
pub mod text;

#[cfg(test)]
mod tests;

use crate::{plot::Figure, simulate::plots::Plot};

/// A number agrees with the paper's within this share of it, or half a unit of its last printed digit.
const TOLERANCE: f64 = 0.02;

/// A number as the paper prints it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    /// As printed.
    pub text: &'static str,
    /// Its value.
    pub value: f64,
    /// Digits behind the point.
    pub decimals: usize,
    /// Power of ten, if it is written with one.
    pub exponent: Option<i32>,
}

impl Printed {
    /// Reads `34.33`, `600` or `4.36e6`; not a number if the text is none.
    pub fn read(text: &'static str) -> Self {
        let (mantissa, exponent) = match text.split_once('e') {
            Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()),
            None => (text, None),
        };
        let decimals = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len());
        Self { text, value: text.parse().unwrap_or(f64::NAN), decimals, exponent }
    }

    /// max(2 %, half a unit of the last printed digit).
    pub fn tolerance(&self) -> f64 {
        let last_digit = 10_f64.powi(self.exponent.unwrap_or(0) - self.decimals as i32);
        (TOLERANCE * self.value.abs()).max(0.5 * last_digit)
    }
}

/// What a number of ours is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Rates, batch size and published times alone.
    Predicted,
    /// Also of these numbers of the paper.
    Fitted(&'static str),
}

/// What is the matter with a number of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// A slip of the pen.
    Misprint,
    /// It cannot be what it is called.
    Artefact,
}

/// One number of ours, beside the paper's.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is, with its unit.
    pub what: String,
    /// Ours.
    pub ours: f64,
    /// The paper's; `None` where it is silent.
    pub paper: Option<Printed>,
    /// What ours is made of.
    pub basis: Basis,
    /// What is the matter with the paper's.
    pub flag: Option<Flag>,
    /// Why they differ, or what is the matter.
    pub reason: Option<String>,
}

impl Row {
    /// A predicted number.
    pub fn predicted(what: impl Into<String>, ours: f64, paper: &'static str) -> Self {
        let what = what.into();
        Self {
            what,
            ours,
            paper: Some(Printed::read(paper)),
            basis: Basis::Predicted,
            flag: None,
            reason: None,
        }
    }

    /// A number on which the paper is silent.
    pub fn told(what: impl Into<String>, ours: f64) -> Self {
        Self { paper: None, ..Self::predicted(what, ours, "0") }
    }

    /// The same number, made of these inputs as well.
    #[must_use]
    pub fn fitted(self, inputs: &'static str) -> Self {
        Self { basis: Basis::Fitted(inputs), ..self }
    }

    /// The same number, with the reason for a deviation if there is one.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        let reason = (!self.agrees()).then(|| reason.into());
        Self { reason, ..self }
    }

    /// The same number, beside one of the paper with which something is the matter.
    #[must_use]
    pub fn flagged(self, flag: Flag, reason: impl Into<String>) -> Self {
        Self { flag: Some(flag), reason: Some(reason.into()), ..self }
    }

    /// Whether the two numbers agree; true where the paper is silent.
    pub fn agrees(&self) -> bool {
        self.paper.is_none_or(|paper| (self.ours - paper.value).abs() <= paper.tolerance())
    }

    /// Ours against the paper's, as a share of it.
    pub fn deviation(&self) -> Option<f64> {
        self.paper.map(|paper| (self.ours - paper.value) / paper.value)
    }

    /// The row in one word.
    pub fn verdict(&self) -> Verdict {
        match (self.flag, self.basis, self.paper) {
            (Some(Flag::Misprint), ..) => Verdict::Misprint,
            (Some(Flag::Artefact), ..) => Verdict::Artefact,
            (None, _, None) => Verdict::Ours,
            (None, Basis::Fitted(_), _) => Verdict::NotCounted,
            (None, Basis::Predicted, _) if self.agrees() => Verdict::Reproduced,
            (None, Basis::Predicted, _) => Verdict::Differs,
        }
    }
}

/// A row in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Predicted, and within the tolerance.
    Reproduced,
    /// Predicted, and not.
    Differs,
    /// Fitted: counts for nothing.
    NotCounted,
    /// The paper is silent.
    Ours,
    /// A slip of the paper's.
    Misprint,
    /// A number of the paper that cannot be what it is called.
    Artefact,
}

/// One table or figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Name on the command line.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
    /// How ours was computed.
    pub about: String,
    /// Numbers.
    pub rows: Vec<Row>,
    /// File and figure, if it has one.
    pub figure: Option<(&'static str, Figure)>,
}

impl Section {
    /// Its figure as a file.
    pub fn plot(&self) -> Option<Plot> {
        self.figure.as_ref().map(|(file, figure)| Plot { file, figure: figure.clone() })
    }
}

/// Computes one table or figure.
pub type Compute = fn() -> Section;

/// All tables and figures, by the name on the command line.
pub const SECTIONS: [(&str, Compute); 9] = [
    ("fig1", steps::fig1),
    ("table2", buffers::table2),
    ("baseline", steps::baseline),
    ("fig6", steps::fig6),
    ("table4", buffers::table4),
    ("fig9", bytes::fig9),
    ("break-even", bytes::break_even),
    ("table5", bytes::table5),
    ("table6", buffers::table6),
];

/// Computes all of them.
pub fn all() -> Vec<Section> {
    SECTIONS.iter().map(|(_, compute)| compute()).collect()
}

/// Computes one of them; `None` if there is none of this name.
pub fn one(key: &str) -> Option<Section> {
    SECTIONS.iter().find(|(known, _)| *known == key).map(|(_, compute)| compute())
}
