//! Plots as SVG text: line charts, also small ones for many side by side and figures that are files of their own, and
//! stacked bars. Pure; nothing but the standard library.
//!
//! A plot takes its colours from CSS variables, so that one picture serves light and dark pages and print: put [`STYLE`]
//! into the page's style sheet once. Every plot says in `data-points` how many values it shows.

mod bars;
mod figure;
mod line;
mod svg;
mod thin;
mod ticks;

pub use bars::{Bar, Part, StackedBars};
pub use figure::{Curve, Figure, beside};
pub use line::{Axis, Line, LineChart, Look, Mark, Stroke};
pub use thin::{Point, Series, Thinner};
pub use ticks::{Scale, short};

/// What the pictures need of the page's style sheet.
pub const STYLE: &str = include_str!("plot.css");

/// As many colours are told apart, also by those who see fewer; more lines than that are a table.
pub const COLOURS: usize = 8;

/// A colour of the palette, by its role in the plots of this program. Light, dark and print values are in `plot.css`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Colour {
    /// The thing that the plot is about.
    Blue,
    /// What was lost; what went wrong.
    Red,
    /// A second thing of the same kind.
    Green,
    /// A third.
    Purple,
    /// Given up on purpose; a cost.
    Orange,
    /// What is still to come.
    Sky,
    /// Idle; a comparison.
    Grey,
    /// A fourth.
    Olive,
}

impl Colour {
    /// All of them, those that differ most first.
    pub const ALL: [Self; COLOURS] =
        [Self::Blue, Self::Red, Self::Green, Self::Purple, Self::Orange, Self::Sky, Self::Grey, Self::Olive];

    /// The colour of the curve in this place; after the last they begin again.
    pub const fn of(place: usize) -> Self {
        Self::ALL[place % COLOURS]
    }

    /// Number of the CSS classes `s1` … `s8` (stroke), `f1` … (fill), `o1` … (text on it).
    fn number(self) -> usize {
        Self::ALL.iter().position(|colour| *colour == self).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests;
