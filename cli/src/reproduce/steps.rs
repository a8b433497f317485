//! Fig. 1, the baseline's step times, Fig. 6. Pure.

use super::{
    Row, Section,
    clock::{CONVENTIONAL, Cost, WINDOW, gathering_seconds, settled_mean, step_seconds},
    paper::{FIG_1, IID_DEVICES, RUNS, Run, SETS},
};
use crate::{
    plot::{Colour, Curve, Figure, Scale, Stroke, beside},
    simulate::presets::{RESNET152, VGG19},
};

/// Fig. 1: the longest wait for a batch.
pub fn fig1() -> Section {
    let row = |&(set, batch, paper): &(usize, u32, &'static str)| {
        let set = &SETS[set];
        let wait = gathering_seconds(&set.rates(IID_DEVICES), batch);
        let row =
            Row::predicted(format!("{}, batch {batch}: longest wait − 1, s", set.name), wait - 1.0, paper);
        if set.list.is_empty() { row.fitted("least rate of S2, read off this figure") } else { row }
    };
    let rows: Vec<Row> = FIG_1.iter().map(row).collect();
    let points = |set: usize, of: fn(&Row) -> Option<f64>| {
        let pairs = FIG_1.iter().zip(&rows).filter(|(cell, _)| cell.0 == set);
        pairs.filter_map(|(cell, row)| Some((f64::from(cell.1), of(row)?))).collect()
    };
    let pair = |(set, colour): (usize, Colour)| {
        let paper = points(set, |row| row.paper.map(|paper| paper.value));
        beside(SETS[set].name, colour, points(set, |row| Some(row.ours)), paper)
    };
    let curves: Vec<Curve> = [(0, Colour::Blue), (2, Colour::Red)].into_iter().flat_map(pair).collect();
    Section {
        key: "fig1",
        title: "Fig. 1: the wait for a batch on the slowest stream",
        about: "The first step of `Fixed` on the set's list of rates. The figure plots the wait less one second, which is \
                why it can fall below 0; we subtract the same."
            .to_owned(),
        rows,
        figure: Some((
            "fig1.svg",
            Figure {
                title: "Longest wait for a batch, less one second".to_owned(),
                x_name: "batch, samples".to_owned(),
                y_name: "s".to_owned(),
                x_scale: Scale::Number,
                y_scale: Scale::Number,
                curves,
                marks: vec![],
            },
        )),
    }
}

/// The step time of conventional training on slow streams, and what not to wait is worth at most.
pub fn baseline() -> Section {
    let mut rows = Vec::new();
    for (set, paper) in [(0, "5.333"), (2, "2.909")] {
        for network in [RESNET152, VGG19] {
            let set = &SETS[set];
            let ours = step_seconds(CONVENTIONAL, &set.rates(IID_DEVICES), Cost::published(network));
            rows.push(Row::predicted(format!("{} {}: step, s", set.name, network.label), ours, paper));
        }
    }
    for set in SETS.iter().filter(|set| !set.list.is_empty()) {
        let per_second = |rule| {
            let mean = |of: fn(&scadles_core::sim::SimStep) -> f64| {
                settled_mean(rule, set.list, Cost::constant(0.0), of)
            };
            mean(|step| step.global_batch() as f64) / mean(|step| step.step_seconds)
        };
        let gain = per_second(WINDOW) / per_second(CONVENTIONAL);
        rows.push(Row::told(
            format!("{}, its list: samples per second, ScaDLES over conventional, without compute", set.name),
            gain,
        ));
    }
    Section {
        key: "baseline",
        title: "Step times of conventional training",
        about: "`Fixed` 64 on 16 devices with the compute and exchange of Table II and Fig. 4b. The slowest stream alone \
                decides: 64/12 and 64/22 s. The last rows are the mean rate over the least one: no way of not waiting can \
                gain more."
            .to_owned(),
        rows,
        figure: None,
    }
}

/// Fig. 6, its time axis: the step times.
pub fn fig6() -> Section {
    let rows: Vec<Row> = RUNS.iter().flat_map(fig6_rows).collect();
    let pairs = |scadles: bool| {
        let of = rows.iter().filter(|row| row.what.contains("ScaDLES") == scadles);
        of.filter_map(|row| Some((row.paper?.value, row.ours))).collect()
    };
    let curve = |name: &str, colour, stroke, points| Curve { name: name.to_owned(), colour, stroke, points };
    let curves = vec![
        curve("agreement", Colour::Grey, Stroke::Dashed, vec![(0.0, 0.0), (6.0, 6.0)]),
        curve("conventional", Colour::Blue, Stroke::Rings, pairs(false)),
        curve("ScaDLES", Colour::Red, Stroke::Rings, pairs(true)),
    ];
    Section {
        key: "fig6",
        title: "Fig. 6: the time axis",
        about: "The axis is the number of steps times the step time. Ours: 16 devices, 64 samples or what one second \
                brings, compute in proportion to the batch (Table II less Fig. 4b), exchange as in Fig. 4b. Time to \
                accuracy itself needs training."
            .to_owned(),
        rows,
        figure: Some((
            "fig6.svg",
            Figure {
                title: "Step times of Fig. 6, ours against the paper's".to_owned(),
                x_name: "paper, s".to_owned(),
                y_name: "ours, s".to_owned(),
                x_scale: Scale::Number,
                y_scale: Scale::Number,
                curves,
                marks: vec![],
            },
        )),
    }
}

fn fig6_rows(run: &Run) -> [Row; 2] {
    let set = &SETS[run.set];
    let rates = set.rates(IID_DEVICES);
    let cost = Cost::published(run.network);
    let name = format!("{} {}", set.name, run.network.label);
    let other = if run.network == VGG19 {
        "The paper contradicts itself: Table II gives a step of VGG-19 1.6 s, Fig. 6 about 1.1 s, less than the 1.45 s \
         that Fig. 4b gives its exchange alone"
    } else {
        "Table II and Fig. 4b give one time for 64 samples; the figure implies that compute grows otherwise, or that these \
         runs had other machines"
    };
    let ddl = Row::predicted(
        format!("{name}, conventional: step, s"),
        step_seconds(CONVENTIONAL, &rates, cost),
        run.ddl_step,
    );
    let scadles = Row::predicted(
        format!("{name}, ScaDLES: step, s"),
        step_seconds(WINDOW, &rates, cost),
        run.scadles_step,
    );
    [ddl.because(other), scadles.because(other)]
}
