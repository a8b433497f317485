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

/// Around a picture of its own.
const MARGIN: f64 = 16.0;

/// Height of the title of a picture of its own.
const TITLE: f64 = 30.0;

/// How large a chart is, and how much is written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Half the width of a page: axes with names, curves with their names.
    Full,
    /// One of many side by side: few ticks, no names.
    Small,
    /// A file of its own: with its title, and room for long names.
    Document,
}

impl Look {
    const fn size(self) -> (f64, f64) {
        match self {
            Self::Full => (440.0, 230.0),
            Self::Small => (200.0, 82.0),
            Self::Document => (728.0, 420.0),
        }
    }

    /// At most so many ticks along the axes.
    const fn ticks(self) -> (usize, usize) {
        match self {
            Self::Full => (6, 6),
            Self::Small => (3, 4),
            Self::Document => (8, 7),
        }
    }

    /// Names at the ends of curves are cut beyond this width.
    const fn name_width(self) -> f64 {
        match self {
            Self::Full | Self::Small => 110.0,
            Self::Document => 250.0,
        }
    }

    /// Room for a sign of the curve's kind before its name.
    const fn sign_width(self) -> f64 {
        match self {
            Self::Full | Self::Small => 0.0,
            Self::Document => 22.0,
        }
    }

    /// What stands above everything else.
    const fn head(self) -> f64 {
        match self {
            Self::Full | Self::Small => 0.0,
            Self::Document => TITLE,
        }
    }
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
    /// A ring at each value and no line, for numbers that others are compared with.
    Rings,
}

impl Stroke {
    /// Of the line, beside that of the colour.
    const fn class(self) -> &'static str {
        match self {
            Self::Dashed => " dashed",
            Self::Dotted => " dotted",
            Self::Solid | Self::Dots | Self::Rings => "",
        }
    }
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
    scales: (Scale, Scale),
}

impl Frame {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + self.scales.0.along(x, self.x) * (self.right - self.left),
            self.bottom - self.scales.1.along(y, self.y) * (self.bottom - self.top),
        )
    }

    /// The points that have a place.
    fn shown<'a>(&self, line: &Line<'a>) -> Vec<&'a Point> {
        line.series.points.iter().filter(|point| holds(self.scales, point)).collect()
    }
}

fn holds((x, y): (Scale, Scale), point: &Point) -> bool {
    x.holds(point.x) && y.holds(point.low)
}

impl LineChart<'_> {
    /// The picture. A chart without any value says so.
    pub fn svg(&self) -> String {
        let (width, height) = self.look.size();
        let points = self.points().count();
        let mut svg = match self.look {
            Look::Full | Look::Small => Svg::new(width, height, self.title, points),
            Look::Document => Svg::document(width, height, MARGIN, self.title, points),
        };
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
        if self.look != Look::Small && self.lines.len() > 1 {
            self.names(&mut svg, &frame);
        }
        svg.finish()
    }

    /// The points that have a place on both axes.
    fn points(&self) -> impl Iterator<Item = &Point> {
        let scales = (self.x.scale, self.y.scale);
        self.lines.iter().flat_map(|line| &line.series.points).filter(move |point| holds(scales, point))
    }

    fn frame(&self) -> (Frame, Ticks, Ticks) {
        let (width, height) = self.look.size();
        let (x_count, y_count) = self.look.ticks();
        let x = range(&self.x, self.points().map(|point| (point.x, point.x)));
        let y = range(&self.y, self.points().map(|point| (point.low, point.high)));
        let (y, y_ticks) = rounded(self.y.scale, y.0, y.1, y_count);
        let (x, x_ticks) = match self.x.scale {
            Scale::Powers => rounded(self.x.scale, x.0, x.1, x_count),
            scale => (x, ticks(scale, x.0, x.1, x_count)),
        };
        let labels = y_ticks.at.iter().map(|(_, text)| text_width(text, LETTERS)).fold(0.0, f64::max);
        let names = match self.look {
            Look::Full | Look::Document if self.lines.len() > 1 => {
                let (most, sign) = (self.look.name_width(), self.look.sign_width());
                let width = |line: &Line<'_>| text_width(line.name, LETTERS).min(most) + sign + 8.0;
                self.lines.iter().map(width).fold(16.0, f64::max)
            }
            _ => 16.0,
        };
        let (top, below) = match self.look {
            // Names of moments have a row of their own, below the name of the axis.
            Look::Full | Look::Document if !self.marks.is_empty() => (42.0, 38.0),
            Look::Full | Look::Document => (26.0, 38.0),
            Look::Small => (8.0, 18.0),
        };
        let frame = Frame {
            left: labels.max(20.0) + 8.0,
            right: width - names,
            top: top + self.look.head(),
            bottom: height - below,
            x,
            y,
            scales: (self.x.scale, self.y.scale),
        };
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
            let at = x.min(self.look.size().0 - half);
            svg.text("", (at, frame.bottom + 16.0), Anchor::Middle, &text);
        }
        if self.look != Look::Small {
            svg.text(
                "name",
                (0.0, 12.0 + self.look.head()),
                Anchor::Start,
                &with_unit(self.y.name, y_ticks.unit),
            );
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
            if self.look != Look::Small && start > free_from + 6.0 && start > frame.left {
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
            .filter_map(|line| {
                let last = *frame.shown(line).last()?;
                Some((frame.place(last.x, last.mean).1, line))
            })
            .collect();
        ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let wanted: Vec<f64> = ends.iter().map(|(y, _)| *y).collect();
        let places = spread(&wanted, frame.top + 4.0, frame.bottom - 4.0);
        for ((_, line), y) in ends.iter().zip(places) {
            let name = cut(line.name, LETTERS, self.look.name_width());
            let class = format!("f{}", line.colour.number());
            let left = frame.right + 7.0;
            if self.look == Look::Document {
                sign(svg, line, (left, y));
            }
            svg.text(&class, (left + self.look.sign_width(), y + 4.0), Anchor::Start, &name);
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
    let bound = |bound: Option<f64>, none: f64| bound.filter(|it| axis.scale.holds(*it)).unwrap_or(none);
    let (mut from, mut to) = (bound(axis.from, f64::INFINITY), bound(axis.to, f64::NEG_INFINITY));
    for (low, high) in values {
        from = from.min(low);
        to = to.max(high);
    }
    // A single value has no span of its own.
    if to - from > 1e-9 * to.abs().max(1e-3) || axis.scale == Scale::Powers {
        (from, to)
    } else if from == 0.0 {
        (0.0, 1.0)
    } else {
        (from - from.abs() * 0.5, from + from.abs() * 0.5)
    }
}

/// How a curve is drawn, beside its name.
fn sign(svg: &mut Svg, line: &Line<'_>, (x, y): (f64, f64)) {
    let number = line.colour.number();
    match line.stroke {
        Stroke::Rings => svg.dot(&format!("ring s{number}"), (x + 8.0, y), 4.5),
        stroke => svg.line(&format!("curve s{number}{}", stroke.class()), (x, y), (x + 16.0, y)),
    }
}

fn draw(svg: &mut Svg, frame: &Frame, line: &Line<'_>, look: Look) {
    let number = line.colour.number();
    let at = |point: &Point, y: f64| frame.place(point.x, y);
    let points = frame.shown(line);
    if line.series.has_band() {
        let upper = points.iter().map(|point| at(point, point.high));
        let lower = points.iter().rev().map(|point| at(point, point.low));
        svg.path(&format!("band f{number}"), upper.chain(lower), true);
    }
    let kind = line.stroke.class();
    if line.stroke == Stroke::Rings {
        for point in points {
            svg.dot(&format!("ring s{number}"), at(point, point.mean), 4.5);
        }
        return;
    }
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
