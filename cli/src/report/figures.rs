//! The curves of runs as pictures of their own, for a text or a slide. Pure.

use super::{run::Run, steps::DeviceCurves};
use crate::{
    plot::{COLOURS, Colour, Curve, Figure, Mark, Scale, Series, Stroke},
    simulate::plots::Plot,
};

/// What a picture over training time shows.
struct Kind {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    scale: Scale,
}

const fn kind(file: &'static str, title: &'static str, unit: &'static str, scale: Scale) -> Kind {
    Kind { file, title, unit, scale }
}

const LOSS: Kind = kind("loss.svg", "Loss", "", Scale::Number);
const SAMPLES: Kind = kind("samples.svg", "Samples trained", "samples", Scale::Number);
const ACCURACY: Kind = kind("accuracy.svg", "Top-1 on held-out samples", "right guesses", Scale::Share);
const BYTES: Kind = kind("bytes.svg", "Bytes of a step, all devices", "", Scale::Bytes);

type OfDevice = fn(&DeviceCurves) -> &Series;

/// Pictures with a curve for each device.
const OF_DEVICES: [(Kind, OfDevice); 5] = [
    (kind("rate.svg", "Rate of each device", "samples/s", Scale::Number), |it| &it.stream_rate),
    (kind("buffer.svg", "What waits on each device", "samples", Scale::Number), |it| &it.buffered),
    (kind("batch.svg", "Batch of each device", "samples", Scale::Number), |it| &it.local_batch),
    (kind("weight.svg", "Weight of each device", "share of a step", Scale::Share), |it| &it.weight),
    (kind("received.svg", "Samples of others in a step", "samples", Scale::Number), |it| &it.received),
];

/// Pictures of all that a run has: devices (as many as there are colours, the worst first), loss, samples, accuracy,
/// what was received in jobs that share samples, and bytes in jobs that compress. Restarts are marked.
pub fn pictures(run: &Run) -> Vec<Plot> {
    let shares = run.report.injection.is_some();
    let devices = OF_DEVICES.into_iter().filter(|(kind, _)| shares || kind.file != "received.svg");
    let mut pictures: Vec<Plot> = devices.map(|(kind, series)| of_devices(run, &kind, series)).collect();
    let mut of_run = |kind: &Kind, curves| pictures.push(plot(kind, curves, run.restarts()));
    of_run(&LOSS, vec![curve("loss", 0, &run.curves.loss_by_time)]);
    of_run(&SAMPLES, vec![curve("samples", 0, &run.curves.samples_by_time)]);
    of_run(&ACCURACY, vec![curve("Top-1", 0, &top_1(run))]);
    if run.report.compression.is_some() {
        let curves = [("sent", 0, &run.curves.sent_bytes), ("dense", 6, &run.curves.dense_bytes)];
        of_run(&BYTES, curves.map(|(name, place, series)| curve(name, place, series)).into());
    }
    with_data(pictures)
}

/// Loss, accuracy and samples of several runs, a curve for each.
pub fn side_by_side(runs: &[Run]) -> Vec<Plot> {
    let of_runs = |kind: &Kind, series: fn(&Run) -> Series| {
        let curves = runs.iter().enumerate().map(|(place, run)| curve(&run.name, place, &series(run)));
        plot(kind, curves.collect(), vec![])
    };
    with_data(vec![
        of_runs(&LOSS, |run| run.curves.loss_by_time.clone()),
        of_runs(&SAMPLES, |run| run.curves.samples_by_time.clone()),
        of_runs(&ACCURACY, top_1),
    ])
}

/// Top-1 of each evaluation over training time.
fn top_1(run: &Run) -> Series {
    Series::exact(run.report.accuracy.iter().filter_map(|it| Some((it.seconds, it.top_1()?))))
}

fn of_devices(run: &Run, kind: &Kind, series: OfDevice) -> Plot {
    let devices = run.curves.devices.iter().zip(&run.shown).take(COLOURS).enumerate();
    let curves =
        devices.map(|(place, (curves, &at))| curve(&run.report.devices[at].name, place, series(curves)));
    plot(kind, curves.collect(), run.restarts())
}

fn plot(kind: &Kind, curves: Vec<Curve>, marks: Vec<Mark>) -> Plot {
    let figure = Figure {
        title: kind.title.to_owned(),
        x_name: "training time".to_owned(),
        x_scale: Scale::Seconds,
        y_name: kind.unit.to_owned(),
        y_scale: kind.scale,
        curves: curves.into_iter().filter(|curve| !curve.points.is_empty()).collect(),
        marks,
    };
    Plot { file: kind.file, figure }
}

fn curve(name: &str, place: usize, series: &Series) -> Curve {
    let points = series.points.iter().map(|point| (point.x, point.mean)).collect();
    Curve { name: name.to_owned(), colour: Colour::of(place), stroke: Stroke::Solid, points }
}

fn with_data(mut pictures: Vec<Plot>) -> Vec<Plot> {
    pictures.retain(|picture| !picture.figure.curves.is_empty());
    pictures
}

#[cfg(test)]
mod tests;
