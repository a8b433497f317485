//! Stacked bars: wholes and their parts.

use super::{
    Colour,
    svg::{Anchor, Svg, cut, text_width},
    ticks::{Scale, Ticks, ticks},
};

/// Size of the letters, as in `plot.css`.
const LETTERS: f64 = 12.0;
const WIDTH: f64 = 440.0;
const ROW: f64 = 22.0;
const THICKNESS: f64 = 15.0;
const LEGEND_ROW: f64 = 18.0;

/// Names of bars are cut beyond this width.
const NAME_WIDTH: f64 = 110.0;

/// What every bar may consist of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its colour.
    pub colour: Colour,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar<'a> {
    /// Written to its left.
    pub name: &'a str,
    /// Its parts, in the order of the chart's; their sum is its length.
    pub values: Vec<f64>,
    /// Written to its right.
    pub label: String,
}

/// Bars below each other, on one axis that begins at zero.
#[derive(Clone, Debug, PartialEq)]
pub struct StackedBars<'a> {
    /// What it shows, for those who cannot see it.
    pub title: &'a str,
    /// Name of the axis.
    pub axis: &'a str,
    /// How numbers are written.
    pub scale: Scale,
    /// The parts of each bar; those that are nothing everywhere are left out of the legend.
    pub parts: Vec<Part<'a>>,
    /// The bars, from above.
    pub bars: Vec<Bar<'a>>,
}

/// An entry of the legend, and where its base line begins.
type Entry<'a> = (Part<'a>, (f64, f64));

/// Where the bars are within the picture.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    to: f64,
}

impl StackedBars<'_> {
    /// The picture. A chart without any value says so.
    pub fn svg(&self) -> String {
        let values = || self.bars.iter().flat_map(|bar| &bar.values);
        let points = values().filter(|value| **value > 0.0).count();
        let (entries, legend_height) = self.legend();
        let top = legend_height + 6.0;
        let bottom = top + ROW * self.bars.len() as f64;
        let mut svg = Svg::new(WIDTH, bottom + 38.0, self.title, points);
        if points == 0 {
            svg.text("", (WIDTH / 2.0, 20.0), Anchor::Middle, "no data");
            return svg.finish();
        }
        let widest = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|text| text_width(text, LETTERS)).fold(0.0, f64::max)
        };
        let names = widest(&mut self.bars.iter().map(|bar| bar.name)).min(NAME_WIDTH);
        let labels = widest(&mut self.bars.iter().map(|bar| bar.label.as_str()));
        let longest = self.bars.iter().map(|bar| bar.values.iter().sum()).fold(0.0, f64::max);
        let ticks = ticks(self.scale, 0.0, longest, 5);
        let right = WIDTH - (labels + 8.0).max(20.0);
        let frame = Frame { left: names + 8.0, right, top, bottom, to: longest };
        for (part, at) in entries {
            let class = format!("part f{}", part.colour.number());
            svg.rectangle(&class, (at.0, at.1 - 10.0), (12.0, 12.0), part.name);
            svg.text("name", (at.0 + 17.0, at.1), Anchor::Start, part.name);
        }
        self.axis(&mut svg, &frame, &ticks);
        for (row, bar) in self.bars.iter().enumerate() {
            self.bar(&mut svg, &frame, row, bar);
        }
        svg.finish()
    }

    /// The entries of the legend with their places, and how high it is.
    fn legend(&self) -> (Vec<Entry<'_>>, f64) {
        let there = |index: usize| {
            self.bars.iter().any(|bar| bar.values.get(index).is_some_and(|value| *value > 0.0))
        };
        let (mut x, mut y) = (0.0, 12.0);
        let mut places = Vec::new();
        for (_, part) in self.parts.iter().enumerate().filter(|(index, _)| there(*index)) {
            let width = 17.0 + text_width(part.name, LETTERS);
            if x > 0.0 && x + width > WIDTH {
                (x, y) = (0.0, y + LEGEND_ROW);
            }
            places.push((*part, (x, y)));
            x += width + 16.0;
        }
        (places, y + 6.0)
    }

    fn axis(&self, svg: &mut Svg, frame: &Frame, ticks: &Ticks) {
        for (value, text) in &ticks.at {
            let x = frame.left + value / frame.to * (frame.right - frame.left);
            svg.line("grid", (x, frame.top), (x, frame.bottom));
            svg.text("", (x, frame.bottom + 14.0), Anchor::Middle, text);
        }
        svg.line("axis", (frame.left, frame.top), (frame.left, frame.bottom));
        let name = if ticks.unit.is_empty() {
            self.axis.to_owned()
        } else {
            format!("{}, {}", self.axis, ticks.unit)
        };
        svg.text("", (frame.right, frame.bottom + 31.0), Anchor::End, &name);
    }

    fn bar(&self, svg: &mut Svg, frame: &Frame, row: usize, bar: &Bar<'_>) {
        let y = frame.top + ROW * row as f64 + (ROW - THICKNESS) / 2.0;
        let base = y + THICKNESS / 2.0 + 4.0;
        svg.text("name", (frame.left - 6.0, base), Anchor::End, &cut(bar.name, LETTERS, NAME_WIDTH));
        let sum: f64 = bar.values.iter().sum();
        let mut x = frame.left;
        for (part, value) in self.parts.iter().zip(&bar.values).filter(|(_, value)| **value > 0.0) {
            let width = value / frame.to * (frame.right - frame.left);
            let percent = share(*value, sum);
            let words = format!("{} {}: {percent}", bar.name, part.name);
            // Something is never drawn as nothing.
            let number = part.colour.number();
            svg.rectangle(&format!("part f{number}"), (x, y), (width.max(1.5), THICKNESS), &words);
            if width > text_width(&percent, LETTERS) + 8.0 && *value < sum {
                svg.text(&format!("o{number}"), (x + width / 2.0, base), Anchor::Middle, &percent);
            }
            x += width;
        }
        svg.text("", (x + 6.0, base), Anchor::Start, &bar.label);
    }
}

/// A part in per cent; one that is nearly nothing or nearly all does not become nothing or all by rounding.
fn share(value: f64, sum: f64) -> String {
    match 100.0 * value / sum {
        percent if percent < 0.5 => "< 1 %".to_owned(),
        percent if percent > 99.5 && value < sum => "> 99 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}
