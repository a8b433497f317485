//! Pictures that are files of their own, beside a text or for a slide.

use super::{Axis, Colour, Line, LineChart, Look, Mark, Scale, Series, Stroke};

/// One curve of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Written at its end.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// Its kind.
    pub stroke: Stroke,
    /// Places and values.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// Its points from left to right.
    fn series(&self) -> Series {
        let mut points = self.points.clone();
        points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Series::exact(points)
    }
}

/// Numbers of ours as a line, and those that they are compared with as rings of its colour.
pub fn beside(name: &str, colour: Colour, ours: Vec<(f64, f64)>, theirs: Vec<(f64, f64)>) -> [Curve; 2] {
    let curve = |whose, stroke, points| Curve { name: format!("{name}, {whose}"), colour, stroke, points };
    [curve("ours", Stroke::Solid, ours), curve("paper", Stroke::Rings, theirs)]
}

/// Curves with all that belongs to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Above it.
    pub title: String,
    /// Below it, with the unit.
    pub x_name: String,
    /// Of the horizontal axis.
    pub x_scale: Scale,
    /// Beside it, with the unit.
    pub y_name: String,
    /// Of the vertical axis.
    pub y_scale: Scale,
    /// The curves, the most important first.
    pub curves: Vec<Curve>,
    /// Moments.
    pub marks: Vec<Mark>,
}

impl Figure {
    /// The figure as a file. Amounts are seen against nothing: axes begin at 0 unless they are of powers.
    pub fn document(&self) -> String {
        let series: Vec<Series> = self.curves.iter().map(Curve::series).collect();
        let lines = self.curves.iter().zip(&series).map(|(curve, series)| Line {
            name: &curve.name,
            colour: curve.colour,
            stroke: curve.stroke,
            series,
        });
        let chart = LineChart {
            title: &self.title,
            look: Look::Document,
            x: Axis { name: &self.x_name, scale: self.x_scale, from: Some(0.0), to: None },
            y: Axis { name: &self.y_name, scale: self.y_scale, from: Some(0.0), to: None },
            lines: lines.collect(),
            marks: self.marks.clone(),
        };
        format!("{}\n", chart.svg())
    }
}
