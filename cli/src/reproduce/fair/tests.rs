use std::path::Path;

use scadles_control::{BrokerKind, Machine, estimate, estimate::columns, parse_job, plan, validate};

use super::{
    course::{Common, Course, Outcome, Point, Spread, speed_up},
    *,
};
use crate::{
    reproduce::tests::assert_stored,
    simulate::{Simulated, options::apply, scenario::Scenario, simulate, table},
    surroundings,
};

#[test]
fn every_run_is_a_job_without_mistakes_under_a_name_of_its_own() {
    let mut names = std::collections::BTreeSet::new();
    for scale in [Scale::LONG, Scale::QUICK] {
        names.clear();
        let cases = cases(&scale);
        assert_eq!(cases.len(), 6 + 2 * 3 + 2 + 5);
        for case in &cases {
            for seed in 0..case.seeds {
                let (name, draft) = case.run(seed);
                let job = validate(&parse_job(&draft.text()).unwrap())
                    .unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
                assert_eq!((job.training.seed, job.devices.len()), (1234 + seed, scale.devices));
                let evaluation = job.evaluation.unwrap();
                let steps = steps(&draft, case.seconds, case.bandwidth_gbit);
                assert!(evaluation.every_steps * (scale.evaluations.0 - 1) <= steps, "{name}: {steps} steps");
                assert!(names.insert(name.clone()), "{name} twice");
            }
        }
    }
    assert!(Scale::LONG.seeds.0 >= LEAST_SEEDS && Scale::LONG.seeds.1 >= LEAST_SEEDS);
}

#[test]
fn baselines_are_what_they_are_called() {
    let cases = cases(&Scale::LONG);
    let rule = |method: &str| cases.iter().find(|case| case.draft.name.ends_with(method)).unwrap().draft.rule;
    // S1: eight devices, the slowest with 12, all together with 305 samples a second.
    assert_eq!(rule("s1-ddl"), BatchRule::Fixed { size: 64 });
    assert_eq!(rule("s1-least"), BatchRule::Fixed { size: 12 });
    assert_eq!(rule("s1-split"), BatchRule::StreamRate { window_seconds: 1.6787 });
    assert_eq!(rule("s1-accumulate"), BatchRule::StreamRate { window_seconds: 5.3333 });
    // 300,000 samples arrive in every run.
    for case in &cases {
        let arriving = case.draft.rates.iter().sum::<f64>() * mean_factor(case.shape) * case.seconds;
        assert!((arriving / 300_000.0 - 1.0).abs() < 0.01, "{}: {arriving}", case.draft.name);
    }
}

/// The case on the virtual clock without training, every step dense: the gate needs gradients.
fn timed(case: &Case) -> Simulated {
    let job = validate(&parse_job(&case.draft.text()).unwrap()).unwrap();
    let broker = BrokerKind::Servers("simulated:9092".to_owned());
    let plan = plan(&job, &surroundings::planning_body(&job, broker, None, None)).unwrap();
    // Compute and network are the case's own, whatever this machine is.
    let estimate = estimate(&plan, &Machine { cores: 1, seconds_per_sample: None }).unwrap();
    let scenario = Scenario::of_job(plan.job().unwrap(), &estimate, 1);
    simulate(apply(scenario, &case.changes()).unwrap())
}

#[test]
fn the_time_that_every_method_takes_is_what_is_stored() {
    let all: Vec<Simulated> = cases(&Scale::LONG).iter().map(timed).collect();
    let mut text = String::new();
    columns(&mut text, &table::comparison(&all), 1);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/fair.txt");
    assert_stored(&path, &text);
    let waiting = |name: &str| {
        let found = all.iter().find(|it| it.scenario.name == name).unwrap();
        1.0 - found.summary.busy_seconds / found.summary.step_seconds.mean
    };
    assert!(waiting("fair-s1-ddl") > 0.9, "64 samples of the slowest take 5.3 s: {}", waiting("fair-s1-ddl"));
    assert!(waiting("fair-s1-ours") < 0.3, "{}", waiting("fair-s1-ours"));
}

/// A run that trains `samples` and sends `bytes` a second, and learns with the samples.
fn course(samples: f64, bytes: f64, accuracy: impl Fn(f64) -> f64) -> Course {
    let point = |seconds: f64| Point {
        seconds,
        samples: samples * seconds,
        bytes: bytes * seconds,
        top_1: 0.1,
        top_5: accuracy(samples * seconds),
    };
    Course {
        points: (0..=10).map(|tenth| point(10.0 * f64::from(tenth))).collect(),
        waiting: 0.5,
        trained: 1.0,
        diverged: false,
    }
}

fn outcome(method: &'static str, courses: Vec<Course>) -> Outcome {
    Outcome { set: "S1", method, courses }
}

#[test]
fn budgets_are_what_all_have_spent_and_accuracy_lies_between_evaluations() {
    let learns = |samples: f64| 0.5 + samples / 10_000.0;
    let slow = outcome("slow", vec![course(10.0, 50.0, learns)]);
    let quick = outcome("quick", vec![course(30.0, 20.0, learns)]);
    let Common { samples, bytes, top_5 } = Common::of(&[&slow, &quick]);
    assert_eq!((samples, bytes), (1_000.0, 2_000.0));
    assert!((top_5 - 0.6).abs() < 1e-12);
    let at = |outcome: &Outcome, along, budget| outcome.courses[0].at(along, budget, |point| point.top_5);
    assert!((at(&quick, |point| point.samples, samples) - 0.6).abs() < 1e-12);
    assert!((at(&slow, |point| point.bytes, bytes) - 0.54).abs() < 1e-12, "40 s of 50 bytes");
    assert!(
        (at(&slow, |point| point.bytes, 2_250.0) - 0.545).abs() < 1e-12,
        "halfway between two evaluations"
    );
    assert!((at(&slow, |point| point.bytes, 1e9) - 0.6).abs() < 1e-12, "the last one's");
}

#[test]
fn a_speed_up_is_the_product_of_less_waiting_and_a_better_algorithm() {
    let slow = outcome("slow", vec![course(10.0, 1.0, |samples| 0.5 + samples / 10_000.0)]);
    // Three times the samples per second, each worth half as much.
    let quick = outcome("quick", vec![course(30.0, 1.0, |samples| 0.5 + samples / 20_000.0)]);
    let found = speed_up(&quick, &slow, 0.6).unwrap();
    assert!((found.whole - 1.5).abs() < 1e-9, "{found:?}");
    assert!((found.waiting - 3.0).abs() < 1e-9 && (found.algorithm - 0.5).abs() < 1e-9, "{found:?}");
    let itself = speed_up(&slow, &slow, 0.6).unwrap();
    assert_eq!((itself.whole, itself.waiting, itself.algorithm), (1.0, 1.0, 1.0));
    assert_eq!(speed_up(&quick, &slow, 0.7), None, "one of them never gets there");
}

#[test]
fn runs_that_diverged_are_counted_and_left_out_of_the_mean() {
    let sound = course(10.0, 1.0, |_| 0.6);
    let lost = Course { diverged: true, ..course(10.0, 1.0, |_| 0.1) };
    let of = outcome("method", vec![sound.clone(), lost.clone(), course(10.0, 1.0, |_| 0.8)]);
    let spread = of.spread(|course| course.last().top_5);
    assert!((spread.mean - 0.7).abs() < 1e-12 && (spread.deviation.unwrap() - 0.02_f64.sqrt()).abs() < 1e-12);
    let table =
        text::plain(&Scale::QUICK, &[(Table::Fair, of), (Table::Fair, outcome("all lost", vec![lost]))]);
    assert!(table.contains("method (1 of 3 diverged)") && table.contains("70.0 ± 14.1"), "{table}");
    assert!(table.contains("all lost (1 of 1 diverged)"), "{table}");
    assert_eq!(Spread::of(&[2.0]).deviation, None);
}

#[test]
fn each_set_of_streams_has_its_picture() {
    let outcomes: Vec<(Table, Outcome)> = cases(&Scale::QUICK)
        .into_iter()
        .map(|case| {
            let (set, method) = (case.set, case.method);
            (case.table, Outcome { set, method, courses: vec![course(10.0, 1.0, |_| 0.6)] })
        })
        .collect();
    let plots = text::plots(&outcomes);
    let files: Vec<&str> = plots.iter().map(|plot| plot.file).collect();
    assert_eq!(
        files,
        [
            "fair-time.svg",
            "fair-samples.svg",
            "fair-bytes.svg",
            "scaling-s2.svg",
            "scaling-s2-normal.svg",
            "changing.svg",
            "labels.svg"
        ]
    );
    assert!(plots[0].figure.document().contains("conventional DDL"));
    let page = text::markdown(&Scale::QUICK, &outcomes);
    for file in files {
        assert_eq!(page.matches(&format!("(reproduction/{file})")).count(), 1, "{file}:\n{page}");
    }
}
