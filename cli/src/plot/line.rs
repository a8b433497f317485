//! Curves over a common axis.

use super::{
    Colour,
    svg::{Anchor, Svg, cut, text_width},
    thin::{Point, Series},
    ticks::{Scale, Ticks, rounded, ticks},
};

/// Size of the letters, as in `plot.css`.
const LETTERS: f64 = 12.0;

/// Least distance of the base lines of two names.
const NAME_DISTANCE: f64 = 14.0;

/// Names at the ends of curves are cut beyond this width.
const NAME_WIDTH: f64 = 110.0;

/// How large a chart is, and how much is written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Half the width of a page: axes with names, curves with their names.
    Full,
    /// One of many side by side: few ticks, no names.
    Small,
}

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis<'a> {
    /// What it counts, with the unit unless the scale has one.
    pub name: &'a str,
    /// How numbers are written.
    pub scale: Scale,
    /// The axis begins here at the latest; `None`: near the least value.
    pub from: Option<f64>,
    /// The axis ends here at the earliest; `None`: near the greatest value.
    pub to: Option<f64>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// A line.
    Solid,
    /// Dashes, for what is only compared with.
    Dashed,
    /// Points of dots, for a third kind.
    Dotted,
    /// A line with a dot at each value, for few values.
    Dots,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// Written at its end.
    pub name: &'a str,
    /// Its colour.
    pub colour: Colour,
    /// Its kind.
    pub stroke: Stroke,
    /// Its values.
    pub series: &'a Series,
}

/// A moment that matters, such as a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where on the horizontal axis.
    pub x: f64,
    /// What happened.
    pub name: String,
}

/// Curves over a common horizontal axis.
#[derive(Clone, Debug, PartialEq)]
pub struct LineChart<'a> {
    /// What it shows, for those who cannot see it.
    pub title: &'a str,
    /// Size.
    pub look: Look,
    /// Horizontal axis.
    pub x: Axis<'a>,
    /// Vertical axis.
    pub y: Axis<'a>,
    /// Curves, the most important first: it is drawn last, on top.
    pub lines: Vec<Line<'a>>,
    /// Moments.
    pub marks: Vec<Mark>,
}

/// Where the data are within the picture, and what the edges stand for.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + (x - self.x.0) / (self.x.1 - self.x.0) * (self.right - self.left),
            self.bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (self.bottom - self.top),
        )
    }
}

impl LineChart<'_> {
    /// The picture. A chart without any value says so.
    pub fn svg(&self) -> String {
        let (width, height) = self.size();
        let points = self.lines.iter().map(|line| line.series.points.len()).sum();
        let mut svg = Svg::new(width, height, self.title, points);
        if points == 0 {
            svg.text("", (width / 2.0, height / 2.0), Anchor::Middle, "no data");
            return svg.finish();
        }
        let (frame, x_ticks, y_ticks) = self.frame();
        self.axes(&mut svg, &frame, &x_ticks, &y_ticks);
        self.marks(&mut svg, &frame);
        for line in self.lines.iter().rev() {
            draw(&mut svg, &frame, line, self.look);
        }
        if self.look == Look::Full && self.lines.len() > 1 {
            self.names(&mut svg, &frame);
        }
        svg.finish()
    }

    fn size(&self) -> (f64, f64) {
        match self.look {
            Look::Full => (440.0, 230.0),
            Look::Small => (200.0, 82.0),
        }
    }

    fn frame(&self) -> (Frame, Ticks, Ticks) {
        let (width, height) = self.size();
        let (x_count, y_count) = if self.look == Look::Full { (6, 6) } else { (3, 4) };
        let points = || self.lines.iter().flat_map(|line| &line.series.points);
        let x = range(&self.x, points().map(|point| (point.x, point.x)));
        let y = range(&self.y, points().map(|point| (point.low, point.high)));
        let (y, y_ticks) = rounded(self.y.scale, y.0, y.1, y_count);
        let x_ticks = ticks(self.x.scale, x.0, x.1, x_count);
        let labels = y_ticks.at.iter().map(|(_, text)| text_width(text, LETTERS)).fold(0.0, f64::max);
        let names = match self.look {
            Look::Full if self.lines.len() > 1 => {
                let width = |line: &Line<'_>| text_width(line.name, LETTERS).min(NAME_WIDTH) + 8.0;
                self.lines.iter().map(width).fold(16.0, f64::max)
            }
            _ => 16.0,
        };
        let (top, below) = match self.look {
            // Names of moments have a row of their own, below the name of the axis.
            Look::Full if !self.marks.is_empty() => (42.0, 38.0),
            Look::Full => (26.0, 38.0),
            Look::Small => (8.0, 18.0),
        };
        let frame =
            Frame { left: labels.max(20.0) + 8.0, right: width - names, top, bottom: height - below, x, y };
        (frame, x_ticks, y_ticks)
    }

    fn axes(&self, svg: &mut Svg, frame: &Frame, x_ticks: &Ticks, y_ticks: &Ticks) {
        for (value, text) in &y_ticks.at {
            let (_, y) = frame.place(frame.x.0, *value);
            svg.line("grid", (frame.left, y), (frame.right, y));
            svg.text("", (frame.left - 6.0, y + 4.0), Anchor::End, text);
        }
        svg.line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
        // In a small chart the last number carries the unit: there is no name that could.
        let last = x_ticks.at.len().saturating_sub(1);
        for (index, (value, text)) in x_ticks.at.iter().enumerate() {
            let (x, _) = frame.place(*value, frame.y.0);
            svg.line("axis", (x, frame.bottom), (x, frame.bottom + 4.0));
            let text = match self.look {
                Look::Small if index == last && !x_ticks.unit.is_empty() => {
                    format!("{text} {}", x_ticks.unit)
                }
                _ => text.clone(),
            };
            let half = text_width(&text, LETTERS) / 2.0;
            // Nothing is written beyond the picture's edge.
            let at = x.min(self.size().0 - half);
            svg.text("", (at, frame.bottom + 16.0), Anchor::Middle, &text);
        }
        if self.look == Look::Full {
            svg.text("name", (0.0, 12.0), Anchor::Start, &with_unit(self.y.name, y_ticks.unit));
            let name = with_unit(self.x.name, x_ticks.unit);
            svg.text("", (frame.right, frame.bottom + 33.0), Anchor::End, &name);
        }
    }

    fn marks(&self, svg: &mut Svg, frame: &Frame) {
        let mut free_from = f64::NEG_INFINITY;
        for mark in &self.marks {
            let (x, _) = frame.place(mark.x, frame.y.0);
            if !(frame.left..=frame.right).contains(&x) {
                continue;
            }
            svg.line("mark", (x, frame.top - 2.0), (x, frame.bottom));
            let width = text_width(&mark.name, LETTERS);
            let start = (x - width / 2.0).min(frame.right - width);
            // A row of restarts: the lines stay, names that would lie on each other do not.
            if self.look == Look::Full && start > free_from + 6.0 && start > frame.left {
                svg.text("", (start, frame.top - 4.0), Anchor::Start, &mark.name);
                free_from = start + width;
            }
        }
    }

    /// Names at the ends of curves, moved apart where curves end close to each other.
    fn names(&self, svg: &mut Svg, frame: &Frame) {
        let mut ends: Vec<(f64, &Line<'_>)> = self
            .lines
            .iter()
            .filter_map(|line| Some((frame.place(0.0, line.series.points.last()?.mean).1, line)))
            .collect();
        ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let wanted: Vec<f64> = ends.iter().map(|(y, _)| *y).collect();
        let places = spread(&wanted, frame.top + 4.0, frame.bottom - 4.0);
        for ((_, line), y) in ends.iter().zip(places) {
            let name = cut(line.name, LETTERS, NAME_WIDTH);
            let class = format!("f{}", line.colour.number());
            svg.text(&class, (frame.right + 7.0, y + 4.0), Anchor::Start, &name);
        }
    }
}

/// Places at least [`NAME_DISTANCE`] apart, in the given order, as near to the wanted ones as a sweep down and one up
/// come, within `top..=bottom` if they fit there.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut least = top;
    for place in &mut places {
        *place = place.max(least);
        least = *place + NAME_DISTANCE;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - NAME_DISTANCE;
    }
    places
}

fn with_unit(name: &str, unit: &str) -> String {
    match (name.is_empty(), unit.is_empty()) {
        (_, true) => name.to_owned(),
        (true, false) => unit.to_owned(),
        (false, false) => format!("{name}, {unit}"),
    }
}

/// What an axis spans: its values, its bounds, and never nothing.
fn range(axis: &Axis<'_>, values: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let (mut from, mut to) = (axis.from.unwrap_or(f64::INFINITY), axis.to.unwrap_or(f64::NEG_INFINITY));
    for (low, high) in values {
        from = from.min(low);
        to = to.max(high);
    }
    // A single value has no span of its own.
    if to - from > 1e-9 * to.abs().max(1e-3) {
        (from, to)
    } else if from == 0.0 {
        (0.0, 1.0)
    } else {
        (from - from.abs() * 0.5, from + from.abs() * 0.5)
    }
}

fn draw(svg: &mut Svg, frame: &Frame, line: &Line<'_>, look: Look) {
    let number = line.colour.number();
    let at = |point: &Point, y: f64| frame.place(point.x, y);
    let points = &line.series.points;
    if line.series.has_band() {
        let upper = points.iter().map(|point| at(point, point.high));
        let lower = points.iter().rev().map(|point| at(point, point.low));
        svg.path(&format!("band f{number}"), upper.chain(lower), true);
    }
    let kind = match line.stroke {
        Stroke::Dashed => " dashed",
        Stroke::Dotted => " dotted",
        Stroke::Solid | Stroke::Dots => "",
    };
    let fine = if look == Look::Small { " fine" } else { "" };
    if points.len() > 1 {
        let class = format!("curve s{number}{kind}{fine}");
        svg.path(&class, points.iter().map(|point| at(point, point.mean)), false);
    }
    // A single value makes no line, and must be seen all the same.
    if line.stroke == Stroke::Dots || points.len() == 1 {
        let radius = if points.len() > 40 { 1.5 } else { 2.8 };
        for point in points {
            svg.dot(&format!("f{number}"), at(point, point.mean), radius);
        }
    }
}
