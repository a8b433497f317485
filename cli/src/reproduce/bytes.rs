//! Fig. 9, the break-even of compression, Table V: what travels. Pure.

use scadles_api::worker::{Aggregation, BatchBounds, StreamPolicy};
use scadles_core::sim::{
    ExchangeModel, InjectionMode, InjectionModel, RateProfile, ReplicateBatch, SimDevice, SimLimits,
    SimSettings, SimSummary, Simulation, SparseKind,
    exchange::{break_even_ratio, dense_bytes, sparse_bytes},
};

use super::{
    Flag, Printed, Row, Section,
    clock::WINDOW,
    paper::{Cell, FIG_9, FIG_9_DEVICES, FRACTIONS, RateSet, SETS, TABLE_5},
};
use crate::{
    plot::{Colour, Curve, Figure, Scale, Stroke, beside},
    simulate::presets::RESNET152,
};

/// KB that the paper counts per shared sample.
const KILOBYTES_PER_SAMPLE: f64 = 3.0;
/// Bytes of a record as it is sent: label and picture.
const RECORD_BYTES: u64 = 3_073;
/// Bytes of the KB.
const KILOBYTE: f64 = 1_024.0;
/// Steps over which donors are drawn.
const STEPS: u64 = 2_000;

/// Fig. 9: what data injection sends.
pub fn fig9() -> Section {
    let mut rows = Vec::new();
    let mut sent = Vec::new();
    let mut curves = Vec::new();
    for (place, (set, cells)) in SETS.iter().zip(FIG_9).enumerate() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (fraction, paper) in FRACTIONS.into_iter().zip(cells) {
            let summary = injected(set, InjectionMode::Replicate, fraction);
            let row = counted(set, fraction, &summary, paper);
            ours.push((fraction, row.ours));
            theirs.push((fraction, Printed::read(paper).value));
            rows.push(row);
            let name = format!("{}, α = β = {fraction}", set.name);
            let per_step = |summary: &SimSummary| summary.injection_bytes as f64 / STEPS as f64 / KILOBYTE;
            sent.push(Row::told(format!("{name}: KB really sent, copies to all"), per_step(&summary)));
            let moved = per_step(&injected(set, InjectionMode::Move, fraction));
            sent.push(Row::told(format!("{name}: KB really sent, ours (`Move`)"), moved));
        }
        curves.extend(beside(set.name, Colour::of(place), ours, theirs));
    }
    rows.extend(sent);
    Section {
        key: "fig9",
        title: "Fig. 9: what data injection sends in a step",
        about: "Ten devices under `StreamRate` 1 s. The paper counts 3 KB per shared sample, once: ⌈α·n⌉ donors, β of the \
                mean batch each. What is really sent is below: whole samples, 3,073 B each, nine copies of each where \
                everybody trains them (the paper's scheme), one where they change hands."
            .to_owned(),
        rows,
        figure: Some((
            "fig9.svg",
            Figure {
                title: "Data injection, the paper's way of counting".to_owned(),
                x_name: "α = β".to_owned(),
                y_name: "KB per step".to_owned(),
                x_scale: Scale::Number,
                y_scale: Scale::Powers,
                curves,
                marks: vec![],
            },
        )),
    }
}

/// Rates of Fig. 9's devices: the list, or the mean where there is none.
fn rates(set: &RateSet) -> Vec<f64> {
    if set.list.is_empty() { vec![set.mean; FIG_9_DEVICES] } else { set.rates(FIG_9_DEVICES) }
}

fn injected(set: &RateSet, mode: InjectionMode, fraction: f64) -> SimSummary {
    let settings = SimSettings {
        rule: WINDOW,
        bounds: BatchBounds { min: 1, max: 1024, max_skip: 0 },
        policy: StreamPolicy::Persistence,
        aggregation: Aggregation::Weighted,
        exchange: ExchangeModel::constant(0.0),
        injection: Some(injection(mode, fraction)),
        compute_noise: 0.0,
        seed: 1,
        limits: SimLimits::steps(STEPS),
    };
    let device = |rate: f64| SimDevice { stream: RateProfile::Constant(rate), seconds_per_sample: 0.0 };
    let devices: Vec<SimDevice> = rates(set).into_iter().map(device).collect();
    Simulation::new(settings, &devices).run().0
}

const fn injection(mode: InjectionMode, fraction: f64) -> InjectionModel {
    InjectionModel {
        mode,
        batch: ReplicateBatch::Grow,
        donor_fraction: fraction,
        shared_fraction: fraction,
        record_bytes: RECORD_BYTES,
    }
}

fn counted(set: &RateSet, fraction: f64, summary: &SimSummary, paper: &'static str) -> Row {
    let donors = injection(InjectionMode::Replicate, fraction).donors(FIG_9_DEVICES) as f64;
    let mean_batch = summary.global_batch / FIG_9_DEVICES as f64;
    let ours = donors * fraction * mean_batch * KILOBYTES_PER_SAMPLE;
    let row = Row::predicted(format!("{}, α = β = {fraction}: KB", set.name), ours, paper);
    let implied = Printed::read(paper).value / (donors * fraction * KILOBYTES_PER_SAMPLE);
    let reason = if set.list.len() == FIG_9_DEVICES {
        format!(
            "The figure implies batches of {implied:.0} samples on average, the list has {mean_batch:.0}: another draw, \
             and whole samples rounded up"
        )
    } else {
        format!(
            "The figure implies batches of {implied:.0} samples on average; the ten rates of its run are not published, \
             ours have a mean of {mean_batch:.0}"
        )
    };
    row.because(reason)
}

/// World sizes of the break-even's table.
const WORLD_SIZES: [usize; 6] = [4, 8, 10, 16, 25, 64];

/// The compression ratio at which a sparse all-gather breaks even with a dense step.
pub fn break_even() -> Section {
    let mut rows = Vec::new();
    for world_size in WORLD_SIZES {
        for index_bytes in [4, 8] {
            if let Some(ratio) = break_even_ratio(index_bytes, world_size) {
                rows.push(Row::told(
                    format!("{world_size} devices, indices of {index_bytes} B: CR that breaks even"),
                    ratio,
                ));
            }
        }
        for ratio in [0.1, 0.01] {
            rows.push(Row::told(
                format!("{world_size} devices, CR {ratio}, indices of 8 B: bytes over those of a dense step"),
                over_dense(SparseKind::AllGather { index_bytes: 8 }, ratio, world_size),
            ));
        }
        rows.push(Row::told(
            format!("{world_size} devices, CR 0.1, reduce-scatter: bytes over those of a dense step"),
            over_dense(SparseKind::ReduceScatter, 0.1, world_size),
        ));
    }
    let line = |name: &str, colour, stroke, of: &dyn Fn(usize) -> Option<f64>| Curve {
        name: name.to_owned(),
        colour,
        stroke,
        points: (2..=64).filter_map(|n| Some((n as f64, of(n)?))).collect(),
    };
    let curves = vec![
        line("indices of 4 B", Colour::Blue, Stroke::Solid, &|n| break_even_ratio(4, n)),
        line("indices of 8 B (reference)", Colour::Red, Stroke::Solid, &|n| break_even_ratio(8, n)),
        line("the paper's CR 0.1", Colour::Grey, Stroke::Dashed, &|_| Some(0.1)),
        line("the paper's CR 0.01", Colour::Grey, Stroke::Dotted, &|_| Some(0.01)),
    ];
    Section {
        key: "break-even",
        title: "When compression saves bytes",
        about: "A sparse all-gather brings every device the values and indices of all others, a dense ring 2(n−1)/n of the \
                gradient. The paper counts values only and is silent about this. A CR below the break-even saves bytes; \
                with indices of 8 B the recommended CR 0.1 sends more than a dense step from 7 devices on, with 4 B from \
                11 on."
            .to_owned(),
        rows,
        figure: Some((
            "break-even.svg",
            Figure {
                title: "The largest CR at which an all-gather saves bytes".to_owned(),
                x_name: "devices".to_owned(),
                y_name: "CR".to_owned(),
                x_scale: Scale::Number,
                y_scale: Scale::Powers,
                curves,
                marks: vec![],
            },
        )),
    }
}

fn over_dense(kind: SparseKind, ratio: f64, world_size: usize) -> f64 {
    let parameters = RESNET152.parameters;
    sparse_bytes(kind, ratio, parameters, world_size) as f64 / dense_bytes(parameters, world_size) as f64
}

/// A cell that needs fewer steps than this share of the others' does not count what it says.
const ODD_SHARE: f64 = 0.25;

/// Table V: whether its counts of floats fit together.
pub fn table5() -> Section {
    Section {
        key: "table5",
        title: "Table V: floats sent, checked for consistency",
        about: "Parameters × ((1 − CNC) + CNC·CR) × steps, values only as the table counts them. The number of steps is that \
                of the network's first cell in which nothing was compressed (CNC 0). Accuracies need training."
            .to_owned(),
        rows: TABLE_5.iter().map(table5_row).collect(),
        figure: None,
    }
}

/// Values of the gradient that a step of a cell sends on average.
fn floats_per_step(cell: &Cell) -> f64 {
    cell.network.parameters as f64 * (1.0 - cell.sparse_share + cell.sparse_share * cell.ratio)
}

fn table5_row(cell: &Cell) -> Row {
    let plain = TABLE_5.iter().find(|other| other.network == cell.network && other.sparse_share == 0.0);
    let steps = plain.map_or(f64::NAN, |plain| Printed::read(plain.floats).value / floats_per_step(plain));
    let implied = Printed::read(cell.floats).value / floats_per_step(cell);
    let what = format!("{}, CR {}, δ {}: floats", cell.network.label, cell.ratio, cell.delta);
    let row = Row::predicted(what, floats_per_step(cell) * steps, cell.floats)
        .fitted("CNC of the table, steps from its first cell without compression");
    if implied < ODD_SHARE * steps {
        let reason =
            format!("The cell would need a run of {implied:.0} steps, the others have up to {steps:.0}");
        return row.flagged(Flag::Artefact, reason);
    }
    row.because(format!(
        "The cell fits a run of {implied:.0} steps; runs ended at different steps, and CNC is rounded"
    ))
}
