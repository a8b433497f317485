//! The comparison as tables for the terminal, and as plots. Pure.

use std::fmt::Write as _;

use scadles_control::estimate::columns;

use super::{
    SECONDS_PER_SAMPLE, Scale as Size, Table,
    course::{Common, Outcome, Point, Spread, speed_up},
};
use crate::{
    plot::{Colour, Curve, Figure, Scale, Stroke},
    report::html::counted,
    screen::grouped,
    simulate::plots::Plot,
};

/// A mean and its spread in per cent.
fn per_cent(spread: Spread) -> String {
    match spread.deviation {
        _ if !spread.mean.is_finite() => "–".to_owned(),
        None => format!("{:.1}", spread.mean * 100.0),
        Some(deviation) => format!("{:.1} ± {:.1}", spread.mean * 100.0, deviation * 100.0),
    }
}

fn title(table: Table) -> &'static str {
    match table {
        Table::Fair => "Baselines, ScaDLES, ours",
        Table::Scaling => "Large batches: how the learning rate follows them",
        Table::Changing => "Streams whose rates change: four times the rate for 5 of every 30 s",
        Table::Skew => "Streams that differ in their labels (but for the first row), LineRate on all",
    }
}

const HEADS: [&str; 11] = [
    "method",
    "Top-1 %",
    "Top-5 %",
    "at = samples",
    "at = bytes",
    "trained",
    "waiting",
    "sent MB",
    "speed-up",
    "by waiting",
    "by algorithm",
];

const LEGEND: &str = "\
Top-1 and Top-5: at the end, which is the same virtual time for all methods of a set; equally many samples have arrived by then.
at = samples, at = bytes: Top-5 where each has trained, or sent, as much as the one that trained or sent least.
trained: share of what arrived; waiting: share of the devices' time; sent: by all devices.
speed-up: virtual time to the Top-5 that every run comes to, against the set's first method.
by waiting, by algorithm: its two factors: samples trained per second, and how many samples are needed.";

/// Heading of the comparison in `docs/reproduction.md`: what comes before it needs no training.
pub const HEADING: &str = "## Trained: ours and ScaDLES beside baselines that the paper does not show";

fn about(scale: &Size) -> String {
    format!(
        "{:?} on CIFAR-10 with real gradients on the virtual clock: {} devices of {} ms a sample behind {} Mbit/s, on which about {} \
         samples arrive.",
        scale.model,
        scale.devices,
        SECONDS_PER_SAMPLE * 1e3,
        scale.bandwidth_gbit * 1e3,
        grouped(scale.arriving_samples as u64),
    )
}

/// "S1, 3 seeds".
fn caption(set: &[&Outcome]) -> String {
    let seeds = set.iter().map(|outcome| outcome.courses.len()).max().unwrap_or(0);
    format!("{}, {}", set[0].set, counted(seeds as u64, "seed", "seeds"))
}

/// All tables, for the terminal.
pub fn plain(scale: &Size, outcomes: &[(Table, Outcome)]) -> String {
    let mut out = format!("{}\n\n", about(scale));
    // Writing to a string cannot fail.
    let mut last = None;
    for (table, set) in sets(outcomes) {
        if last.replace(table) != Some(table) {
            let _ = writeln!(out, "{}\n", title(table));
        }
        let _ = writeln!(out, "{}", caption(&set));
        let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
        rows.extend(set.iter().map(|outcome| row(outcome, &set)));
        columns(&mut out, &rows, 1);
        out.push('\n');
    }
    let _ = writeln!(out, "{LEGEND}");
    out
}

/// All tables and plots, as the end of `docs/reproduction.md`.
pub fn markdown(scale: &Size, outcomes: &[(Table, Outcome)]) -> String {
    let mut out = format!("\n{HEADING}\n\n`scadles reproduce fair`. {}\n", about(scale));
    let mut last = None;
    for (table, set) in sets(outcomes) {
        if last.replace(table) != Some(table) {
            let _ = writeln!(out, "\n### {}", title(table));
        }
        let _ = writeln!(out, "\n{}\n", caption(&set));
        for plot in plots_of(table, &set) {
            let _ = writeln!(out, "![{}](reproduction/{})\n", plot.figure.title, plot.file);
        }
        let _ = writeln!(out, "| {} |\n|---|{}", HEADS.join(" | "), "---:|".repeat(HEADS.len() - 1));
        for outcome in &set {
            let _ = writeln!(out, "| {} |", row(outcome, &set).join(" | "));
        }
    }
    let _ = writeln!(out, "\n- {}", LEGEND.replace('\n', "\n- "));
    out
}

/// The outcomes of each set of streams of each table, in order.
fn sets(outcomes: &[(Table, Outcome)]) -> Vec<(Table, Vec<&Outcome>)> {
    let mut sets: Vec<(Table, Vec<&Outcome>)> = Vec::new();
    for (table, outcome) in outcomes {
        match sets.last_mut() {
            Some((known, set)) if known == table && set[0].set == outcome.set => set.push(outcome),
            _ => sets.push((*table, vec![outcome])),
        }
    }
    sets
}

fn row(outcome: &Outcome, set: &[&Outcome]) -> Vec<String> {
    let Common { samples, bytes, top_5: target } = Common::of(set);
    let diverged = outcome.courses.len() - outcome.sound().len();
    let mut method = outcome.method.to_owned();
    if diverged > 0 {
        let _ = write!(method, " ({diverged} of {} diverged)", outcome.courses.len());
    }
    let mut cells = vec![
        method,
        per_cent(outcome.spread(|course| course.last().top_1)),
        per_cent(outcome.spread(|course| course.last().top_5)),
        per_cent(outcome.spread(|course| course.at(|point| point.samples, samples, |point| point.top_5))),
        per_cent(outcome.spread(|course| course.at(|point| point.bytes, bytes, |point| point.top_5))),
        per_cent(Spread { deviation: None, ..outcome.spread(|course| course.trained) }),
        per_cent(Spread { deviation: None, ..outcome.spread(|course| course.waiting) }),
        format!("{:.1}", outcome.spread(|course| course.last().bytes).mean / 1e6),
    ];
    match speed_up(outcome, set[0], target) {
        None => cells.extend(["–", "–", "–"].map(str::to_owned)),
        Some(found) => {
            cells.extend([found.whole, found.waiting, found.algorithm].map(|times| format!("{times:.2}×")));
        }
    }
    cells
}

/// The plots of all sets of streams.
pub fn plots(outcomes: &[(Table, Outcome)]) -> Vec<Plot> {
    sets(outcomes).iter().flat_map(|(table, set)| plots_of(*table, set)).collect()
}

/// Top-5 over time; for the baselines over samples and bytes too.
fn plots_of(table: Table, set: &[&Outcome]) -> Vec<Plot> {
    let file = match (table, set[0].set) {
        (Table::Fair, _) => "fair-time.svg",
        (Table::Scaling, "S2") => "scaling-s2.svg",
        (Table::Scaling, _) => "scaling-s2-normal.svg",
        (Table::Changing, _) => "changing.svg",
        (Table::Skew, _) => "labels.svg",
    };
    let mut plots = vec![plot(file, set, ("virtual time", Scale::Seconds), |point| point.seconds)];
    if table == Table::Fair {
        let samples = ("samples trained", Scale::Number);
        plots.push(plot("fair-samples.svg", set, samples, |point| point.samples));
        let bytes = ("bytes sent", Scale::Bytes);
        plots.push(plot("fair-bytes.svg", set, bytes, |point| point.bytes));
    }
    plots
}

fn plot(
    file: &'static str,
    set: &[&Outcome],
    (x_name, x_scale): (&str, Scale),
    along: fn(&Point) -> f64,
) -> Plot {
    let curve = |(place, outcome): (usize, &&Outcome)| Curve {
        name: outcome.method.to_owned(),
        colour: Colour::of(place),
        stroke: Stroke::Dots,
        points: outcome.mean_points().iter().map(|point| (along(point), point.top_5)).collect(),
    };
    let figure = Figure {
        title: format!("{}: Top-5 by {x_name}, mean of the seeds", set[0].set),
        x_name: x_name.to_owned(),
        x_scale,
        y_name: "Top-5".to_owned(),
        y_scale: Scale::Share,
        curves: set.iter().enumerate().map(curve).filter(|curve| !curve.points.is_empty()).collect(),
        marks: vec![],
    };
    Plot { file, figure }
}
