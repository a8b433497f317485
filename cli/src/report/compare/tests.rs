use super::*;
use crate::report::tests::{report, tuned};

fn run(name: &str, change: impl FnOnce(&mut Run)) -> Run {
    let mut run = Run {
        name: name.to_owned(),
        report: report(),
        curves: crate::report::steps::Curves::default(),
        shown: vec![0, 1],
        job_text: String::new(),
        notices: vec![],
    };
    change(&mut run);
    run
}

#[test]
fn only_settings_that_differ_are_listed_and_a_missing_one_is_the_default() {
    let runs = [
        run("one", |_| {}),
        run("two", |run| {
            run.report.job.spec.completion.max_steps = Some(20);
            run.report.job.metadata.name = "another name".to_owned();
            run.report.job.spec.suspend = Some(true);
        }),
    ];
    let row = |name: &str, cells: [&str; 2]| Row {
        name: name.to_owned(),
        cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
    };
    assert_eq!(
        settings(&runs),
        [row("spec.completion.maxSteps", ["10", "20"]), row("spec.suspend", ["(default)", "true"])]
    );
    assert!(settings(&runs[..1]).is_empty());
}

#[test]
fn a_field_that_was_tuned_is_not_what_the_job_file_says() {
    let tunings = vec![tuned(1, 1, 0.1), tuned(7, 2, 0.05), tuned(9, 3, 0.02)];
    let runs = [run("one", |_| {}), run("two", |run| run.report.tunings = tunings)];
    let cells = vec!["(default)".to_owned(), "0.1, from step 7 0.05, from step 9 0.02".to_owned()];
    assert_eq!(settings(&runs), [Row { name: "spec.compression.ratio".to_owned(), cells }]);
}

#[test]
fn results_stand_side_by_side() {
    let runs = [
        run("one", |_| {}),
        run("two", |run| {
            run.report.samples = 10_000;
            run.report.devices[0].dropped = 1_234;
        }),
    ];
    let cells = |name: &str| {
        results(&runs).into_iter().find(|row| row.name == name).map(|row| row.cells).unwrap_or_default()
    };
    assert_eq!(cells("samples trained"), ["5 000", "10 000"]);
    assert_eq!(cells("dropped"), ["0", "1 234"]);
    assert_eq!(cells("waiting"), ["62.5 %", "62.5 %"], "12.5 s of 20 s on both devices");
    assert_eq!(cells("beside Fixed 64"), ["2.6 ×", "5.2 ×"]);
    assert!(cells("Top-1").is_empty(), "nobody measured it");
    let text = text(&runs);
    assert!(text.contains("the jobs' settings are the same"), "{text}");
    let line = text.lines().find(|line| line.starts_with("samples trained")).unwrap();
    assert!(line.contains(" 5 000 ") && line.ends_with(" 10 000"), "{line}");
}
