//! What became of every sample.

use maud::{Markup, PreEscaped, html};
use scadles_api::report::DeviceReport;

use super::{counted, devices::not_all, grouped, span};
use crate::{
    plot::{Bar, Colour, Part, Scale, StackedBars},
    report::{is_balanced, run::Run},
};

/// The table has at most this many devices; the others are one row together.
const MOST_ROWS: usize = 64;

/// A fate: name, colour in the bar, samples.
type Fate = (&'static str, Colour, fn(&DeviceReport) -> u64);

const FATES: [Fate; 5] = [
    ("trained", Colour::Blue, |device| device.trained),
    ("buffered", Colour::Sky, |device| device.buffered),
    ("dropped", Colour::Orange, |device| device.dropped),
    ("rejected", Colour::Purple, |device| device.rejected),
    ("lost", Colour::Red, |device| device.lost),
];

/// The ledger as a bar whose parts add up, and as a table.
pub(super) fn ledger(run: &Run) -> Markup {
    let balanced = run.report.devices.iter().all(is_balanced);
    html! {
        section {
            h2 { "Ledger" }
            @if balanced {
                p.quiet {
                    "Every sample that arrived has one fate: arrived = trained + buffered + dropped + rejected + lost. "
                    "Rolled back are samples of steps that a restart undid; they are beside the account, not in it. "
                    @if run.report.injection.is_some() {
                        "So are samples shared with other devices and received from them: each is trained where it arrived, "
                        "in this account, whoever trained it. "
                    }
                    "Prequential are right guesses among the newest samples, before they were trained."
                }
            } @else {
                p.bad { "The account of samples does not balance. Please report this with the run folder." }
            }
            @if let Some(text) = not_all(run) { p.note { "The bars show " (text) } }
            @if run.total(|device| device.arrived) == 0 {
                p.quiet { "No sample has arrived." }
            } @else {
                div.pair { (bars(run)) (of_all(run)) }
            }
            div.scroll { (table(run)) }
        }
    }
}

fn parts() -> Vec<Part<'static>> {
    FATES.iter().map(|(name, colour, _)| Part { name, colour: *colour }).collect()
}

fn bars(run: &Run) -> Markup {
    let bar = |&place: &usize| {
        let device = &run.report.devices[place];
        Bar {
            name: &device.name,
            values: FATES.iter().map(|(_, _, samples)| samples(device) as f64).collect(),
            label: grouped(device.arrived),
        }
    };
    let bars = StackedBars {
        title: "Samples of each device by what became of them",
        axis: "samples that arrived",
        scale: Scale::Number,
        parts: parts(),
        bars: run.shown.iter().map(bar).collect(),
    };
    html! { div { h3 { "Each device" } (PreEscaped(bars.svg())) } }
}

fn of_all(run: &Run) -> Markup {
    let bars = StackedBars {
        title: "Samples of all devices by what became of them",
        axis: "samples that arrived",
        scale: Scale::Number,
        parts: parts(),
        bars: vec![Bar {
            name: "all",
            values: FATES.iter().map(|(_, _, samples)| run.total(samples) as f64).collect(),
            label: grouped(run.total(|device| device.arrived)),
        }],
    };
    html! { div { h3 { "All devices" } (PreEscaped(bars.svg())) } }
}

/// The account in the order of its sum, then what is beside it.
fn table(run: &Run) -> Markup {
    let devices = &run.report.devices;
    let mut order = run.shown.clone();
    order.extend((0..devices.len()).filter(|place| !run.shown.contains(place)));
    let (listed, others) = order.split_at(order.len().min(MOST_ROWS));
    let shares = run.report.injection.is_some();
    let sum = |places: &[usize], name: String| {
        let mut sum = DeviceReport { name, ..DeviceReport::default() };
        for device in places.iter().map(|place| &devices[*place]) {
            sum.arrived += device.arrived;
            sum.trained += device.trained;
            sum.buffered += device.buffered;
            sum.dropped += device.dropped;
            sum.rejected += device.rejected;
            sum.lost += device.lost;
            sum.rolled_back += device.rolled_back;
            sum.shared_out += device.shared_out;
            sum.received += device.received;
            sum.rate_mean += device.rate_mean;
            sum.wait_seconds += device.wait_seconds;
        }
        sum
    };
    html! {
        table {
            thead { tr {
                th { "Device" } th.n { "Rate, /s" } th.n { "Arrived" }
                @for (name, _, _) in &FATES { th.n { (capital(name)) } }
                th.n { "Rolled back" }
                @if shares { th.n { "Shared" } th.n { "Received" } }
                th.n { "Waited" } th.n { "Prequential" }
            } }
            tbody {
                @for place in listed { (row(&devices[*place], shares, "")) }
                @if !others.is_empty() {
                    (row(&sum(others, counted(others.len() as u64, "more device", "more devices")), shares, ""))
                }
                @if devices.len() > 1 { (row(&sum(&order, "all".to_owned()), shares, "sum")) }
            }
        }
    }
}

fn row(device: &DeviceReport, shares: bool, class: &str) -> Markup {
    let prequential = device.prequential_accuracy.map(|share| format!("{:.1} %", share * 100.0));
    html! {
        tr class=[(!class.is_empty()).then_some(class)] {
            td { (device.name) } td.n { (format!("{:.1}", device.rate_mean)) } td.n { (grouped(device.arrived)) }
            @for (_, _, samples) in &FATES { td.n { (grouped(samples(device))) } }
            td.n { (grouped(device.rolled_back)) }
            @if shares { td.n { (grouped(device.shared_out)) } td.n { (grouped(device.received)) } }
            td.n { (span(device.wait_seconds)) }
            td.n { (prequential.unwrap_or("–".to_owned())) }
        }
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
