use super::*;
use crate::{
    plot::Point,
    report::{steps::Curves, tests::report},
};

fn series(values: &[(f64, f64)]) -> Series {
    Series::exact(values.iter().copied())
}

/// Two devices that received samples, one restart, nothing evaluated.
fn run(name: &str) -> Run {
    let device = |height: f64| DeviceCurves {
        stream_rate: series(&[(0.0, height), (1.0, height)]),
        received: series(&[(0.0, 2.0 * height), (2.0, height)]),
        ..DeviceCurves::default()
    };
    let curves = Curves {
        devices: vec![device(1.0), device(3.0)],
        samples_by_time: series(&[(0.0, 10.0), (2.0, 30.0)]),
        restarts: vec![(1.5, 2)],
        ..Curves::default()
    };
    let mut report = report();
    report.accuracy.clear();
    Run { name: name.to_owned(), report, curves, shown: vec![1, 0], job_text: String::new(), notices: vec![] }
}

fn find<'a>(plots: &'a [Plot], file: &str) -> Option<&'a Figure> {
    plots.iter().find(|plot| plot.file == file).map(|plot| &plot.figure)
}

#[test]
fn pictures_of_devices_and_of_the_run_mark_restarts_and_leave_out_what_has_no_data() {
    let run = run("one");
    assert!(run.report.injection.is_some());
    let plots = pictures(&run);
    let received = find(&plots, "received.svg").unwrap();
    let curves: Vec<(&str, &[(f64, f64)])> =
        received.curves.iter().map(|curve| (curve.name.as_str(), curve.points.as_slice())).collect();
    let names: Vec<&str> = run.shown.iter().map(|&at| run.report.devices[at].name.as_str()).collect();
    assert_eq!(
        curves,
        [(names[0], &[(0.0, 2.0), (2.0, 1.0)][..]), (names[1], &[(0.0, 6.0), (2.0, 3.0)][..])]
    );
    for file in ["received.svg", "samples.svg"] {
        let figure = find(&plots, file).unwrap();
        assert_eq!(figure.marks, [Mark { x: 1.5, name: "attempt 2".to_owned() }]);
        assert!(figure.document().contains("attempt 2"), "{file}");
    }
    for without_data in ["loss.svg", "accuracy.svg", "buffer.svg", "bytes.svg"] {
        assert!(find(&plots, without_data).is_none(), "{without_data}");
    }
}

#[test]
fn a_job_that_shares_nothing_has_no_picture_of_what_was_received() {
    let mut run = run("one");
    run.report.injection = None;
    assert!(find(&pictures(&run), "received.svg").is_none());
}

#[test]
fn runs_side_by_side_have_a_curve_each() {
    let (one, mut two) = (run("one"), run("two"));
    two.curves.samples_by_time = Series { points: vec![Point { x: 1.0, low: 5.0, mean: 6.0, high: 7.0 }] };
    let plots = side_by_side(&[one, two]);
    assert_eq!(plots.len(), 1, "only samples have data");
    let samples = find(&plots, "samples.svg").unwrap();
    let curves: Vec<(&str, usize)> =
        samples.curves.iter().map(|curve| (curve.name.as_str(), curve.points.len())).collect();
    assert_eq!(curves, [("one", 2), ("two", 1)]);
    assert_eq!(samples.curves[1].points, [(1.0, 6.0)], "the mean of neighbouring steps");
    assert!(samples.marks.is_empty(), "whose restart would it be");
}
