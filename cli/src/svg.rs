//! Line and dot charts as self-contained SVG: no script, no font, no file beside them. Pure; the same chart gives the same
//! text.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 58.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 17.0;
/// Steps between ticks that a linear axis aims at.
const TICKS: f64 = 6.0;
/// Told apart by most colour-blind people (Okabe and Ito), dark enough on white.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#7f3c8d"];

/// How numbers become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; numbers that are not above 0 are left out.
    Log,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line.
    Line,
    /// A circle per point.
    Dots,
}

/// Points with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub mark: Mark,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x_label: String,
    /// Beside it.
    pub y_label: String,
    /// Of the horizontal axis.
    pub x_scale: Scale,
    /// Of the vertical axis.
    pub y_scale: Scale,
    /// What is drawn, the first below.
    pub series: Vec<Series>,
}

/// One axis: the numbers it spans, and where it lies.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let fits = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (mut least, mut most) =
            values.filter(fits).fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        if least > most {
            (least, most) = (1.0, 1.0);
        }
        match scale {
            // Amounts are seen against nothing.
            Scale::Linear => {
                least = least.min(0.0);
                if most <= least {
                    most = least + 1.0;
                }
                let step = tick_step(most - least);
                least = (least / step).floor() * step;
                most = (most / step).ceil() * step;
            }
            Scale::Log => {
                least = power_of_ten(least.log10().floor());
                most = power_of_ten(most.log10().ceil());
                if most <= least {
                    most = least * 10.0;
                }
            }
        }
        Self { scale, least, most, from, to }
    }

    fn place(&self, value: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Log if value > 0.0 => (value / self.least).log10() / (self.most / self.least).log10(),
            Scale::Log => return None,
        };
        share.is_finite().then_some(self.from + share * (self.to - self.from))
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = tick_step(self.most - self.least);
                let count = ((self.most - self.least) / step).round() as i32;
                (0..=count).map(|tick| self.least + f64::from(tick) * step).collect()
            }
            Scale::Log => {
                let first = self.least.log10().round() as i32;
                let last = self.most.log10().round() as i32;
                (first..=last).map(|exponent| power_of_ten(f64::from(exponent))).collect()
            }
        }
    }
}

fn power_of_ten(exponent: f64) -> f64 {
    10_f64.powi(exponent as i32)
}

/// 1, 2 or 5 times a power of ten, so that an axis has about [`TICKS`] of them.
fn tick_step(range: f64) -> f64 {
    let rough = range / TICKS;
    let power = power_of_ten(rough.log10().floor());
    let factor = rough / power;
    let nice = if factor <= 1.0 {
        1.0
    } else if factor <= 2.0 {
        2.0
    } else if factor <= 5.0 {
        5.0
    } else {
        10.0
    };
    nice * power
}

/// A number beside a tick: `0.25`, `1500`, `2e6`.
fn tick_text(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e5).contains(&size) {
        let exponent = size.log10().floor() as i32;
        let mantissa = format!("{:.2}", value / power_of_ten(f64::from(exponent)));
        return format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'));
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The chart as an SVG document.
pub fn render(chart: &Chart) -> String {
    let all = || chart.series.iter().flat_map(|series| series.points.iter().copied());
    let x = Axis::new(chart.x_scale, all().map(|point| point.0), (LEFT, WIDTH - RIGHT));
    let y = Axis::new(chart.y_scale, all().map(|point| point.1), (HEIGHT - BOTTOM, TOP));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    frame(&mut out, chart, &x, &y);
    for (index, series) in chart.series.iter().enumerate() {
        draw(&mut out, series, COLOURS[index % COLOURS.len()], (&x, &y));
    }
    legend(&mut out, chart);
    out.push_str("</svg>\n");
    out
}

// Writing to a string cannot fail.
fn frame(out: &mut String, chart: &Chart, x: &Axis, y: &Axis) {
    for tick in x.ticks() {
        let Some(place) = x.place(tick) else { continue };
        let _ = writeln!(
            out,
            "<path d=\"M{place:.1} {TOP}V{:.1}\" stroke=\"#e4e4e4\"/><text x=\"{place:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            tick_text(tick)
        );
    }
    for tick in y.ticks() {
        let Some(place) = y.place(tick) else { continue };
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {place:.1}H{:.1}\" stroke=\"#e4e4e4\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 7.0,
            place + 4.0,
            tick_text(tick)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n<text x=\"{:.1}\" y=\"{:.1}\" \
         text-anchor=\"middle\">{}</text>\n<text transform=\"translate(18 {:.1}) rotate(-90)\" \
         text-anchor=\"middle\">{}</text>",
        escaped(&chart.title),
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 16.0,
        escaped(&chart.x_label),
        f64::midpoint(TOP, HEIGHT - BOTTOM),
        escaped(&chart.y_label)
    );
}

fn draw(out: &mut String, series: &Series, colour: &str, (x, y): (&Axis, &Axis)) {
    let places = series.points.iter().filter_map(|&(a, b)| Some((x.place(a)?, y.place(b)?)));
    match series.mark {
        Mark::Line => {
            let path: Vec<String> = places.map(|(a, b)| format!("{a:.1} {b:.1}")).collect();
            if !path.is_empty() {
                let _ = writeln!(
                    out,
                    "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
                    path.join("L")
                );
            }
        }
        Mark::Dots => {
            for (a, b) in places {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"4.5\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
                );
            }
        }
    }
}

fn legend(out: &mut String, chart: &Chart) {
    for (index, series) in chart.series.iter().enumerate() {
        let (left, middle) = (LEFT + 12.0, TOP + 14.0 + index as f64 * LEGEND_LINE);
        let colour = COLOURS[index % COLOURS.len()];
        let sign = match series.mark {
            Mark::Line => {
                format!("<path d=\"M{left:.1} {middle:.1}h18\" stroke=\"{colour}\" stroke-width=\"2.5\"/>")
            }
            Mark::Dots => format!(
                "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"4.5\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                left + 9.0
            ),
        };
        let _ = writeln!(
            out,
            "{sign}<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + 25.0,
            middle + 4.0,
            escaped(&series.name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, scale: Scale) -> String {
        render(&Chart {
            title: "a < b & c".to_owned(),
            x_label: "x".to_owned(),
            y_label: "y".to_owned(),
            x_scale: scale,
            y_scale: scale,
            series: vec![
                Series { name: "line".to_owned(), points: points.clone(), mark: Mark::Line },
                Series { name: "dots".to_owned(), points, mark: Mark::Dots },
            ],
        })
    }

    #[test]
    fn every_point_lies_within_the_frame_and_text_is_escaped() {
        for scale in [Scale::Linear, Scale::Log] {
            let svg = chart(vec![(1.0, 0.02), (50.0, 7_000.0), (1e6, 3.0)], scale);
            assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("NaN") && !svg.contains("inf"));
            let circles: Vec<&str> = svg.split("<circle cx=\"").skip(1).collect();
            assert_eq!(circles.len(), 4, "three points and the legend");
            for circle in &circles {
                let x: f64 = circle.split('"').next().unwrap().parse().unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{circle}");
            }
        }
    }

    #[test]
    fn charts_without_points_or_with_one_are_charts() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(f64::NAN, 1.0)], vec![(3.0, 3.0)]] {
            for scale in [Scale::Linear, Scale::Log] {
                let svg = chart(points.clone(), scale);
                assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let axis = Axis::new(Scale::Linear, [0.0, 5.333].into_iter(), (0.0, 1.0));
        assert_eq!(axis.ticks(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let texts = [0.0, 0.25, 1500.0, 2_000_000.0, 1e-6].map(tick_text);
        assert_eq!(texts, ["0", "0.25", "1500", "2e6", "1e-6"]);
    }
}
