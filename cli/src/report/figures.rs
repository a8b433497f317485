//! The curves of a run as pictures of their own, for a text or a slide. Pure.

use super::run::Run;
use crate::{
    plot::{COLOURS, Colour, Curve, Figure, Scale, Series, Stroke},
    simulate::plots::Plot,
};

/// Pictures of all that the run has: devices (as many as there are colours, the worst first), loss, accuracy, and bytes
/// in jobs that compress.
pub fn pictures(run: &Run) -> Vec<Plot> {
    let mut pictures = vec![
        of_devices(run, ("rate.svg", "Rate of each device", "samples/s", Scale::Number), |it| {
            &it.stream_rate
        }),
        of_devices(run, ("buffer.svg", "What waits on each device", "samples", Scale::Number), |it| {
            &it.buffered
        }),
        of_devices(run, ("batch.svg", "Batch of each device", "samples", Scale::Number), |it| {
            &it.local_batch
        }),
        of_devices(run, ("weight.svg", "Weight of each device", "% of a step", Scale::Share), |it| {
            &it.weight
        }),
        of_run("loss.svg", "Loss", ("", Scale::Number), vec![curve("loss", 0, &run.curves.loss_by_time)]),
    ];
    if !run.report.accuracy.is_empty() {
        let top_1 = run.report.accuracy.iter().filter_map(|it| Some((it.seconds, it.top_1()?)));
        let curves = vec![curve("Top-1", 0, &Series::exact(top_1))];
        pictures.push(of_run("accuracy.svg", "Top-1 on held-out samples", ("%", Scale::Share), curves));
    }
    if run.report.compression.is_some() {
        let curves =
            vec![curve("sent", 0, &run.curves.sent_bytes), curve("dense", 6, &run.curves.dense_bytes)];
        pictures.push(of_run("bytes.svg", "Bytes of a step, all devices", ("", Scale::Bytes), curves));
    }
    pictures.retain(|picture| !picture.figure.curves.is_empty());
    pictures
}

fn of_devices(
    run: &Run,
    (file, title, unit, scale): (&'static str, &str, &str, Scale),
    series: fn(&super::steps::DeviceCurves) -> &Series,
) -> Plot {
    let devices = run.curves.devices.iter().zip(&run.shown).take(COLOURS).enumerate();
    let curves =
        devices.map(|(place, (curves, &at))| curve(&run.report.devices[at].name, place, series(curves)));
    of_run(file, title, (unit, scale), curves.collect())
}

fn of_run(file: &'static str, title: &str, (unit, scale): (&str, Scale), curves: Vec<Curve>) -> Plot {
    let figure = Figure {
        title: title.to_owned(),
        x_name: "training time".to_owned(),
        x_scale: Scale::Seconds,
        y_name: unit.to_owned(),
        y_scale: scale,
        curves: curves.into_iter().filter(|curve| !curve.points.is_empty()).collect(),
    };
    Plot { file, figure }
}

fn curve(name: &str, place: usize, series: &Series) -> Curve {
    let points = series.points.iter().map(|point| (point.x, point.mean)).collect();
    Curve { name: name.to_owned(), colour: Colour::of(place), stroke: Stroke::Solid, points }
}
