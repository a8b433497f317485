//! Runs side by side as a page.

use maud::{Markup, html};

use super::{chart, curves::evaluated, document, from_zero, notices, samples_axis, time_axis};
use crate::{
    plot::{Axis, Colour, Line, LineChart, Look, Scale, Series, Stroke, Thinner},
    report::{
        compare::{Row, results, settings},
        run::Run,
    },
};

/// A curve of a comparison has at most this many points.
const POINTS: usize = 50;

/// Strokes change with colours, so that runs are told apart without them.
const STROKES: [Stroke; 3] = [Stroke::Solid, Stroke::Dashed, Stroke::Dotted];

/// The page of a comparison of at most as many runs as there are colours.
pub fn comparison(runs: &[Run]) -> String {
    let differing = settings(runs);
    let told = runs.iter().flat_map(|run| run.notices.iter().map(|notice| format!("{}: {notice}", run.name)));
    document(
        "Runs side by side",
        &html! {
            header {
                h1 { "Runs side by side" }
                p.note { (runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(" · ")) }
            }
            main {
                (notices(&told.collect::<Vec<_>>()))
                section {
                    h2 { "Results" }
                    (table(runs, &results(runs)))
                    h2 { "Settings that differ" }
                    @if differing.is_empty() {
                        p.quiet { "The jobs' settings are the same." }
                    } @else {
                        (table(runs, &differing))
                    }
                }
                (curves(runs))
            }
        },
    )
}

fn table(runs: &[Run], rows: &[Row]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { } @for run in runs { th.n { (run.name) } } } }
            tbody { @for row in rows { tr { td { (row.name) } @for cell in &row.cells { td.n { (cell) } } } } }
        } }
    }
}

/// A value of each run over a common axis.
fn overlay(runs: &[Run], title: &str, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> Markup {
    if series.iter().all(Series::is_empty) {
        return html! {};
    }
    let there = runs.iter().zip(series).enumerate().filter(|(_, (_, series))| !series.is_empty());
    let lines = there.map(|(index, (run, series))| Line {
        name: &run.name,
        colour: Colour::of(index),
        stroke: STROKES[index % STROKES.len()],
        series,
    });
    chart(title, &LineChart { title, look: Look::Full, x, y, lines: lines.collect(), marks: vec![] })
}

/// Means over neighbouring steps: areas and jitter of several runs would hide each other.
fn smooth(series: &Series) -> Series {
    let mut thinner = Thinner::new(series.points.len() as u64, POINTS);
    for point in &series.points {
        thinner.add(point.x, point.mean);
    }
    Series::exact(thinner.finish().points.iter().map(|point| (point.x, point.mean)))
}

fn curves(runs: &[Run]) -> Markup {
    let each = |series: &dyn Fn(&Run) -> Series| runs.iter().map(series).collect::<Vec<_>>();
    let top_1 = |place: usize| {
        each(&|run| {
            let [by_time, by_samples] = evaluated(run, |evaluation| evaluation.top_1().unwrap_or(f64::NAN));
            if place == 0 { by_time } else { by_samples }
        })
    };
    let share = Axis { name: "right first guesses", scale: Scale::Share, from: Some(0.0), to: None };
    let loss = Axis { name: "mean loss of a sample", scale: Scale::Number, from: None, to: None };
    let samples = each(&|run| run.curves.samples_by_time.clone());
    let loss_by_time = each(&|run| smooth(&run.curves.loss_by_time));
    let loss_by_samples = each(&|run| smooth(&run.curves.loss_by_samples));
    let buffered = each(&|run| smooth(&run.curves.buffered));
    html! {
        section {
            h2 { "Curves" }
            p.note { "Curves over steps are means of neighbouring steps." }
            div.pair {
                (overlay(runs, "Top-1 accuracy over time", time_axis(), share, &top_1(0)))
                (overlay(runs, "Top-1 accuracy over samples", samples_axis(), share, &top_1(1)))
                (overlay(runs, "Training loss over time", time_axis(), loss, &loss_by_time))
                (overlay(runs, "Training loss over samples", samples_axis(), loss, &loss_by_samples))
                (overlay(runs, "Samples trained", time_axis(), from_zero("samples"), &samples))
                (overlay(runs, "Samples waiting", time_axis(), from_zero("samples, all devices"), &buffered))
            }
        }
    }
}
