//! What was learned, and from how much.

use maud::{Markup, html};

use super::{bytes, chart, from_zero, grouped, samples_axis, time_axis};
use crate::{
    plot::{Axis, Colour, Line, LineChart, Look, Mark, Scale, Series, Stroke, Thinner},
    report::{run::Run, steps},
};

/// Colours of Top-1, Top-5, …
const OF_TOP: [Colour; 4] = [Colour::Blue, Colour::Green, Colour::Purple, Colour::Olive];

/// A value of each evaluation, over time and over samples.
pub(super) fn evaluated(run: &Run, value: impl Fn(&scadles_api::progress::Evaluation) -> f64) -> [Series; 2] {
    let thinner = || Thinner::new(run.report.accuracy.len() as u64, steps::POINTS);
    let mut both = [thinner(), thinner()];
    for evaluation in &run.report.accuracy {
        both[0].add(evaluation.seconds, value(evaluation));
        both[1].add(evaluation.samples_trained as f64, value(evaluation));
    }
    both.map(Thinner::finish)
}

/// Accuracy and loss, over time and over samples.
pub(super) fn learning(run: &Run) -> Markup {
    let report = &run.report;
    let no_steps = run.curves.loss_by_time.is_empty();
    html! {
        section {
            h2 { "Accuracy and loss" }
            @if report.accuracy.is_empty() {
                p.quiet {
                    "Accuracy on held-out pictures was not measured: no evaluation took place (spec.evaluation of the job)."
                }
            }
            @if no_steps { p.quiet { "There is no loss to show: no step is known." } }
            @if run.curves.undefined_losses > 0 {
                p.bad { "The loss was not a number in " (grouped(run.curves.undefined_losses)) " of "
                    (grouped(run.curves.steps)) " steps." }
            }
            @if !report.accuracy.is_empty() { div.pair { (accuracy(run)) } }
            @if !no_steps { div.pair { (loss(run)) } }
            @if !no_steps && run.curves.loss_by_time.has_band() {
                p.note {
                    "A line is the mean over neighbouring steps, the area around it their least and greatest value."
                }
            }
        }
    }
}

fn accuracy(run: &Run) -> Markup {
    let ks: Vec<u32> =
        run.report.accuracy.first().map_or(vec![], |first| {
            first.top_k.iter().map(|top| top.accuracy_k).take(OF_TOP.len()).collect()
        });
    let share = |k: u32| {
        move |evaluation: &scadles_api::progress::Evaluation| {
            let found = evaluation.top_k.iter().find(|top| top.accuracy_k == k);
            found.map_or(f64::NAN, |top| top.share)
        }
    };
    let names: Vec<String> = ks.iter().map(|k| format!("Top-{k}")).collect();
    let series: Vec<[Series; 2]> = ks.iter().map(|k| evaluated(run, share(*k))).collect();
    let draw = |place: usize, title: &'static str, x: Axis<'static>, marks: Vec<Mark>| {
        let lines = series.iter().enumerate().map(|(index, both)| Line {
            name: &names[index],
            colour: OF_TOP[index],
            stroke: Stroke::Dots,
            series: &both[place],
        });
        let y = Axis { name: "right guesses", scale: Scale::Share, from: Some(0.0), to: None };
        chart(title, &LineChart { title, look: Look::Full, x, y, lines: lines.collect(), marks })
    };
    html! {
        (draw(0, "Accuracy over time", time_axis(), run.restarts()))
        (draw(1, "Accuracy over samples", samples_axis(), vec![]))
    }
}

fn loss(run: &Run) -> Markup {
    let held_out = evaluated(run, |evaluation| evaluation.loss);
    let draw = |title: &'static str, x: Axis<'static>, training: &Series, held_out: &Series, marks| {
        let mut lines =
            vec![Line { name: "training", colour: Colour::Blue, stroke: Stroke::Solid, series: training }];
        if !held_out.is_empty() {
            lines.insert(
                0,
                Line { name: "held-out", colour: Colour::Red, stroke: Stroke::Dots, series: held_out },
            );
        }
        let y = Axis { name: "mean loss of a sample", scale: Scale::Number, from: None, to: None };
        chart(title, &LineChart { title, look: Look::Full, x, y, lines, marks })
    };
    let curves = &run.curves;
    html! {
        (draw("Loss over time", time_axis(), &curves.loss_by_time, &held_out[0], run.restarts()))
        (draw("Loss over samples", samples_axis(), &curves.loss_by_samples, &held_out[1], vec![]))
    }
}

/// How much was trained, how quickly, and what went over the wire.
pub(super) fn samples_and_bytes(run: &Run) -> Markup {
    html! {
        section {
            h2 { "Samples and bytes" }
            @if run.curves.samples_by_time.is_empty() {
                p.quiet { "There are no samples over time to show: no step is known." }
            } @else {
                div.pair { (samples(run)) (speed(run)) }
            }
            (traffic(run))
        }
    }
}

fn samples(run: &Run) -> Markup {
    let conventional = run.report.conventional.as_ref();
    let name = conventional.map_or(String::new(), |conventional| format!("Fixed {}", conventional.batch));
    let beside = conventional
        .map(|conventional| Series::exact([(0.0, 0.0), (run.report.seconds, conventional.samples as f64)]));
    let mut lines = vec![Line {
        name: "this run",
        colour: Colour::Blue,
        stroke: Stroke::Solid,
        series: &run.curves.samples_by_time,
    }];
    if let Some(series) = &beside {
        lines.push(Line { name: &name, colour: Colour::Grey, stroke: Stroke::Dashed, series });
    }
    let title = "Samples trained";
    let y = from_zero("samples");
    let (x, marks) = (time_axis(), run.restarts());
    chart(title, &LineChart { title, look: Look::Full, x, y, lines, marks })
}

fn speed(run: &Run) -> Markup {
    let title = "Samples per second";
    let line = |name, colour, stroke, series| Line { name, colour, stroke, series };
    let lines = vec![
        line("trained", Colour::Blue, Stroke::Solid, &run.curves.training),
        line("arriving", Colour::Orange, Stroke::Dashed, &run.curves.arriving),
    ];
    let y = from_zero("samples per second, all devices");
    let (x, marks) = (time_axis(), run.restarts());
    chart(title, &LineChart { title, look: Look::Full, x, y, lines, marks })
}

fn traffic(run: &Run) -> Markup {
    let report = &run.report;
    let sent = run.total(|device| device.bytes_sent) as f64;
    let arrived = run.total(|device| device.arrived);
    // A label byte and a byte per value of the picture.
    let shape = report.job.spec.model.input_shape;
    let record = shape.map(|shape| 1.0 + shape.iter().map(|side| f64::from(*side)).product::<f64>());
    let devices = report.devices.len().max(1) as f64;
    html! {
        dl {
            dt { "Gradients between devices" }
            dd {
                (bytes(sent)) " sent in total, " (bytes(sent / devices)) " by each device"
                @if report.steps > 0 { ", " (bytes(sent / devices / report.steps as f64)) " in each step" }
            }
            dt { "Samples to devices" }
            dd {
                (grouped(arrived)) " that arrived"
                @if let Some(record) = record { ", " (bytes(record)) " each: " (bytes(arrived as f64 * record)) }
            }
        }
    }
}
