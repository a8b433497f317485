//! `report.html`: a run as a page that needs nothing but itself. Pure.
//!
//! The page has no script, and its own policy forbids it to load or run anything. All text goes through `maud`, or
//! through the escaping of `plot`: names and messages may hold what they like.

mod comparison;
mod curves;
mod devices;
mod headline;
mod history;
mod ledger;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use comparison::comparison;
pub use headline::broker;

use super::run::Run;
use crate::{
    plot::{self, Axis, LineChart, Scale},
    screen,
};

/// Nothing is loaded, no script runs: only the styles within the page.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The look of pages; colours of plots and texts are in [`plot::STYLE`].
pub const STYLE: &str = include_str!("style.css");

/// A supervisor's words are cut here.
const MOST_LETTERS: usize = 2_000;

/// The page of a run.
pub fn page(run: &Run) -> String {
    let title = format!("{} – run report", run.report.job.metadata.name);
    document(
        &title,
        &html! {
            (headline::headline(run))
            main {
                (notices(&run.notices))
                (headline::figures(run))
                (curves::learning(run))
                (curves::samples_and_bytes(run))
                (devices::devices(run))
                (devices::time(run))
                (ledger::ledger(run))
                (history::attempts(run))
                (history::conventional(run))
                (history::job(run))
                (history::making(run))
            }
        },
    )
}

/// A whole document around a body.
pub fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(plot::STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                (body)
                footer {
                    "Written by scadles " (env!("CARGO_PKG_VERSION")) ". Nothing in this page is loaded from elsewhere."
                }
            }
        }
    }
    .into_string()
}

/// What is missing or damaged.
pub fn notices(notices: &[String]) -> Markup {
    html! {
        @if !notices.is_empty() {
            div.notices role="note" {
                b { "Not everything could be read" }
                ul { @for notice in notices { li { (notice) } } }
            }
        }
    }
}

/// A chart with its heading.
pub fn chart(heading: &str, chart: &LineChart<'_>) -> Markup {
    html! { div { h3 { (heading) } (PreEscaped(chart.svg())) } }
}

/// Training time as horizontal axis.
pub fn time_axis() -> Axis<'static> {
    Axis { name: "training time", scale: Scale::Seconds, from: Some(0.0), to: None }
}

/// Samples as horizontal axis.
pub fn samples_axis() -> Axis<'static> {
    Axis { name: "samples trained", scale: Scale::Number, from: Some(0.0), to: None }
}

/// An axis of plain numbers that begins at zero.
pub fn from_zero(name: &str) -> Axis<'_> {
    Axis { name, scale: Scale::Number, from: Some(0.0), to: None }
}

/// A number in groups of three digits, which no line end tears apart.
pub fn grouped(number: u64) -> String {
    tight(&screen::grouped(number))
}

/// A duration, likewise.
pub fn span(seconds: f64) -> String {
    tight(&screen::span(seconds))
}

fn tight(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// `1 step`, `2 steps`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A supervisor's words, which may be long.
pub fn first_letters(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_LETTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A share in per cent; `some` where rounding would make it nothing.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 0.0 && percent < 0.1 => "<\u{a0}0.1\u{a0}%".to_owned(),
        0.0 => "0\u{a0}%".to_owned(),
        percent if percent < 20.0 => format!("{percent:.1}\u{a0}%"),
        percent => format!("{percent:.0}\u{a0}%"),
    }
}

/// Bytes with a unit of a power of 1,000.
pub fn bytes(number: f64) -> String {
    let text = tight(&plot::short(number));
    if text.ends_with(char::is_alphabetic) { format!("{text}B") } else { format!("{text}\u{a0}B") }
}

#[cfg(test)]
mod tests;
