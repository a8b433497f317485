//! Devices side by side: what came, what waited, what was trained, where the time went.

use maud::{Markup, PreEscaped, html};

use super::{chart, from_zero, grouped, percent, span, time_axis};
use crate::{
    plot::{Axis, Bar, Colour, Line, LineChart, Look, Part, Scale, Series, StackedBars, Stroke, short},
    report::{
        run::{Run, SHOWN_DEVICES},
        steps::{DeviceCurves, Spent},
    },
};

/// A kind of curve that every device has.
struct Kind {
    heading: &'static str,
    scale: Scale,
    colour: Colour,
    series: fn(&DeviceCurves) -> &Series,
}

const KINDS: [Kind; 4] = [
    Kind {
        heading: "Rate, samples/s",
        scale: Scale::Number,
        colour: Colour::Blue,
        series: |device| &device.stream_rate,
    },
    Kind {
        heading: "Buffer, samples waiting",
        scale: Scale::Number,
        colour: Colour::Orange,
        series: |device| &device.buffered,
    },
    Kind {
        heading: "Batch, samples a step",
        scale: Scale::Number,
        colour: Colour::Green,
        series: |device| &device.local_batch,
    },
    Kind {
        heading: "Weight, % of the step",
        scale: Scale::Share,
        colour: Colour::Purple,
        series: |device| &device.weight,
    },
];

/// What is said where not all devices are shown.
pub(super) fn not_all(run: &Run) -> Option<String> {
    let all = run.report.devices.len();
    (all > SHOWN_DEVICES).then(|| {
        format!(
            "{} of {} devices, the worst first: those that dropped, rejected or lost the greatest share of their samples, \
             then those with the longest backlog.",
            run.shown.len(),
            grouped(all as u64)
        )
    })
}

/// Rate, buffer, batch and weight of each device over time. A column has one scale, so that devices can be compared.
pub(super) fn devices(run: &Run) -> Markup {
    if run.curves.steps == 0 {
        return html! {
            section { h2 { "Devices" } p.quiet { "There are no curves of devices to show: no step is known." } }
        };
    }
    html! {
        section {
            h2 { "Devices" }
            p.quiet {
                "Each column has one scale. The dashed line is the rate that was asked of the stream. "
                "An area reaches from the least to the greatest value of neighbouring steps, the line is their mean."
                @if let Some(text) = not_all(run) { " " (text) }
            }
            div.device.heads { div {} @for kind in &KINDS { div { (kind.heading) } } }
            @for (curves, &place) in run.curves.devices.iter().zip(&run.shown) { (device(run, place, curves)) }
        }
    }
}

fn device(run: &Run, place: usize, curves: &DeviceCurves) -> Markup {
    let device = &run.report.devices[place];
    html! {
        div.device {
            div.who {
                b { (device.name) }
                span { (short(device.rate_mean)) " samples/s" }
                span { "batch " (short(device.batch_mean)) }
                span { "weight " (percent(device.weight_mean)) }
            }
            @for kind in &KINDS {
                div.cell { div.what { (kind.heading) } (PreEscaped(cell(run, place, curves, kind))) }
            }
        }
    }
}

fn cell(run: &Run, place: usize, curves: &DeviceCurves, kind: &Kind) -> String {
    let all = run.curves.devices.iter().flat_map(|curves| &(kind.series)(curves).points);
    let asked = run.report.devices[place].rate_asked.filter(|_| kind.colour == Colour::Blue);
    let asked_most = run.shown.iter().filter_map(|place| run.report.devices[*place].rate_asked);
    let greatest = all.map(|point| point.high).fold(0.0, f64::max);
    let greatest = if kind.colour == Colour::Blue { asked_most.fold(greatest, f64::max) } else { greatest };
    let series = (kind.series)(curves);
    let ends = series.points.first().zip(series.points.last());
    let asked = asked.zip(ends).map(|(rate, (first, last))| Series::exact([(first.x, rate), (last.x, rate)]));
    let line = |colour, stroke, series| Line { name: "", colour, stroke, series };
    let mut lines = vec![line(kind.colour, Stroke::Solid, series)];
    // Behind the curve, and only if there is one: what was asked for is no measurement.
    lines.extend(asked.iter().map(|asked| line(Colour::Grey, Stroke::Dashed, asked)));
    let title = format!("{} of {} over time", kind.heading, run.report.devices[place].name);
    LineChart {
        title: &title,
        look: Look::Small,
        x: Axis { to: Some(run.report.seconds), ..time_axis() },
        y: Axis { name: "", scale: kind.scale, from: Some(0.0), to: Some(greatest) },
        lines,
        marks: run.restarts(),
    }
    .svg()
}

/// A part of a step's time: name, colour, seconds.
type TimePart = (&'static str, Colour, fn(&Spent) -> f64);

const PHASES: [TimePart; 4] = [
    ("waiting", Colour::Grey, |spent| spent.wait),
    ("compute", Colour::Blue, |spent| spent.compute),
    ("exchange", Colour::Orange, |spent| spent.exchange),
    ("own", Colour::Purple, |spent| spent.own),
];

const WITHOUT_PHASES: [TimePart; 2] =
    [PHASES[0], ("compute, exchange, own", Colour::Blue, |spent| spent.compute)];

/// Where the time of a step goes.
pub(super) fn time(run: &Run) -> Markup {
    let curves = &run.curves;
    if curves.steps == 0 {
        return html! { section { h2 { "Where the time of a step goes" } p.quiet { "No step is known." } } };
    }
    let parts: &[TimePart] = if curves.phases { &PHASES } else { &WITHOUT_PHASES };
    html! {
        section {
            h2 { "Where the time of a step goes" }
            p.quiet {
                b { "Waiting" } " for samples or until all are ready, "
                @if curves.phases {
                    b { "compute" } " (forward and backward), " b { "exchange" }
                    " of gradients (what is left of it after compute, with the wait for slower devices) and the program's "
                    b { "own" }
                    " work: update, agreement, bookkeeping. A device that gets fewer samples than it could train waits."
                } @else {
                    "and everything else: this run did not measure compute, exchange and own work apart."
                }
                @if let Some(text) = not_all(run) { " The bars show " (text) }
            }
            div.pair { (time_bars(run, parts)) (time_over_time(run, parts)) }
        }
    }
}

fn time_bars(run: &Run, parts: &[TimePart]) -> Markup {
    let bar = |&place: &usize| {
        let spent = run.curves.spent.get(place).copied().unwrap_or_default();
        let values: Vec<f64> = parts.iter().map(|(_, _, seconds)| seconds(&spent)).collect();
        let label = span(values.iter().sum());
        Bar { name: &run.report.devices[place].name, values, label }
    };
    let bars = StackedBars {
        title: "Time of each device by what it did",
        axis: "training time",
        scale: Scale::Seconds,
        parts: parts.iter().map(|(name, colour, _)| Part { name, colour: *colour }).collect(),
        bars: run.shown.iter().map(bar).collect(),
    };
    html! { div { h3 { "Each device, over the whole run" } (PreEscaped(bars.svg())) } }
}

fn time_over_time(run: &Run, parts: &[TimePart]) -> Markup {
    let curves = &run.curves;
    let series = [&curves.wait, &curves.compute, &curves.exchange, &curves.own];
    let title = "Mean of the devices, by step";
    let lines = series.into_iter().zip(parts).map(|(series, (name, colour, _))| Line {
        name: if curves.phases || *name == "waiting" { name } else { "the rest" },
        colour: *colour,
        stroke: if *name == "waiting" { Stroke::Dashed } else { Stroke::Solid },
        series,
    });
    let y = from_zero("seconds per step");
    chart(
        title,
        &LineChart {
            title,
            look: Look::Full,
            x: time_axis(),
            y,
            lines: lines.collect(),
            marks: run.restarts(),
        },
    )
}
