//! What is wrong with a job, in words that say what to change. No I/O.

use std::fmt;

use scadles_api::units::is_positive_share;

/// One thing that is wrong with a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Path of the field, such as `spec.stream.batch.rule`; empty for the file as a whole.
    pub path: String,
    /// The value found there; empty where there is none.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the job file" } else { &self.path };
        formatter.write_str(path)?;
        if !self.value.is_empty() {
            write!(formatter, " = {}", self.value)?;
        }
        write!(formatter, "\n  problem: {}\n  remedy:  {}", self.problem, self.remedy)
    }
}

/// Everything that is wrong with a job, ordered by path; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes, ordered by path.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(formatter, "the job has 1 mistake")?,
            count => writeln!(formatter, "the job has {count} mistakes")?,
        }
        for mistake in &self.0 {
            write!(formatter, "\n{mistake}\n")?;
        }
        Ok(())
    }
}

/// Collects mistakes, so that all of them are found in one pass.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Mistake>);

impl Findings {
    /// Notes one mistake.
    pub(crate) fn add(
        &mut self,
        path: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Mistake {
            path: path.into(),
            value: value.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Notes a mistake unless `fine`.
    pub(crate) fn require(&mut self, fine: bool, path: &str, value: impl fmt::Display, rule: (&str, &str)) {
        if !fine {
            self.add(path, value, rule.0, rule.1);
        }
    }

    /// Whether nothing was found wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All mistakes in the order of their paths.
    pub(crate) fn into_mistakes(mut self) -> Mistakes {
        self.0.sort_by(|a, b| natural(&a.path).cmp(&natural(&b.path)).then_with(|| a.cmp(b)));
        self.0.dedup();
        Mistakes(self.0)
    }

    /// All mistakes, together with those found elsewhere.
    pub(crate) fn with(mut self, others: Mistakes) -> Mistakes {
        self.0.extend(others.0);
        self.into_mistakes()
    }

    /// The value if nothing was found wrong, else all mistakes.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Mistakes> {
        if self.is_empty() { Ok(value) } else { Err(self.into_mistakes()) }
    }
}

/// Sort key in which `named[2]` comes before `named[10]`.
fn natural(path: &str) -> Vec<(String, u64)> {
    path.split('[')
        .map(|piece| match piece.split_once(']') {
            Some((index, rest)) => (rest.to_owned(), index.parse().unwrap_or(u64::MAX)),
            None => (piece.to_owned(), 0),
        })
        .collect()
}

/// Numbers that a field allows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Allowed {
    /// Above 0, at most this.
    Positive(f64),
    /// From 0 to this, both included.
    NotNegative(f64),
    /// From 0 (included) to 1 (left out).
    ShareBelowOne,
    /// From 0 to 1, both included.
    Share,
    /// From 0 (left out) to 1 (included).
    PositiveShare,
}

impl Allowed {
    fn contains(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Positive(most) => value > 0.0 && value <= most,
                Self::NotNegative(most) => (0.0..=most).contains(&value),
                Self::ShareBelowOne => (0.0..1.0).contains(&value),
                Self::Share => (0.0..=1.0).contains(&value),
                Self::PositiveShare => is_positive_share(value),
            }
    }

    fn words(self) -> String {
        match self {
            Self::Positive(most) => format!("a number above 0, at most {most}"),
            Self::NotNegative(most) => format!("a number from 0 to {most}"),
            Self::ShareBelowOne => "a number from 0 to below 1".to_owned(),
            Self::Share => "a number from 0 to 1".to_owned(),
            Self::PositiveShare => "a number above 0, at most 1".to_owned(),
        }
    }
}

/// Fields with a default and a range: the value to go on with comes back, right or wrong.
impl Findings {
    /// An integer within bounds.
    pub(crate) fn integer(
        &mut self,
        path: &str,
        given: Option<u64>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let value = given.unwrap_or(default);
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            self.add(
                path,
                value,
                format!("allowed is an integer from {least} to {most}"),
                format!("give such an integer, for instance {default}"),
            );
        }
        value
    }

    /// [`Self::integer`] for fields of 32 bits.
    pub(crate) fn integer_32(
        &mut self,
        path: &str,
        given: Option<u32>,
        default: u32,
        range: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        let (least, most) = range.into_inner();
        let wide = u64::from(least)..=u64::from(most);
        self.integer(path, given.map(u64::from), u64::from(default), wide);
        given.unwrap_or(default)
    }

    /// A finite number that is allowed there.
    pub(crate) fn number(&mut self, path: &str, given: Option<f64>, default: f64, allowed: Allowed) -> f64 {
        let value = given.unwrap_or(default);
        if !allowed.contains(value) {
            let remedy = format!("give such a number, for instance {default}");
            self.add(path, value, format!("allowed is {}", allowed.words()), remedy);
        }
        value
    }

    /// Exactly one of the members of a choice may be given; the names of those that are.
    pub(crate) fn exactly_one(&mut self, path: &str, members: &[(&str, bool)]) {
        let given: Vec<&str> = members.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if given.len() == 1 {
            return;
        }
        let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let remedy =
            if given.is_empty() { "give one of them" } else { "keep one of them, remove the others" };
        self.add(path, given.join(", "), format!("needs exactly one of {names}"), remedy);
    }
}
