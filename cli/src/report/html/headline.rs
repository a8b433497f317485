//! What one wants to know first.

use maud::{Markup, html};
use scadles_api::ExitCode;

use super::{bytes, counted, first_letters, grouped, percent, span};
use crate::report::{ends_well, run::Run};

/// A number with its name and what it refers to.
struct Figure {
    label: &'static str,
    value: String,
    note: String,
}

/// Name, outcome, and the end in one sentence.
pub(super) fn headline(run: &Run) -> Markup {
    let report = &run.report;
    let (class, sign) = match report.outcome {
        ExitCode::Completed => ("good", "✓"),
        code if ends_well(code) => ("quiet", "■"),
        _ => ("bad", "✕"),
    };
    html! {
        header {
            h1 { (report.job.metadata.name) }
            p {
                span class={ "outcome " (class) } { (sign) " " (format!("{:?}", report.outcome)) }
                " · " bdi { (first_letters(&report.message)) }
            }
            p.note { "Run " (run.name) " · " (counted(report.devices.len() as u64, "device", "devices")) " · "
                (format!("{:?}", report.job.spec.model.name)) " · streams on " (broker(&report.broker)) }
        }
    }
}

/// The broker in words.
pub fn broker(broker: &str) -> String {
    if broker == "embedded" { "the embedded broker".to_owned() } else { broker.to_owned() }
}

/// The headline numbers.
pub(super) fn figures(run: &Run) -> Markup {
    let figures = [
        Some(samples(run)),
        Some(time(run)),
        Some(accuracy(run)),
        conventional(run),
        waiting(run),
        Some(gone(run)),
        Some(sent(run)),
        shared(run),
        Some(parameters(run)),
    ];
    html! {
        div.figures {
            @for figure in figures.into_iter().flatten() {
                div.figure { span.label { (figure.label) } b { (figure.value) } span { (figure.note) } }
            }
        }
    }
}

fn samples(run: &Run) -> Figure {
    Figure {
        label: "Samples trained",
        value: grouped(run.report.samples),
        note: format!("{:.0} per second", run.samples_per_second()),
    }
}

fn time(run: &Run) -> Figure {
    let steps = counted(run.report.steps, "step", "steps");
    let attempts = counted(run.report.attempts.len() as u64, "attempt", "attempts");
    Figure { label: "Training time", value: span(run.report.seconds), note: format!("{steps}, {attempts}") }
}

fn accuracy(run: &Run) -> Figure {
    let Some(last) = run.report.accuracy.last() else {
        return Figure {
            label: "Training loss",
            value: run.curves.last_loss.map_or("–".to_owned(), |loss| format!("{loss:.3}")),
            note: "after the last step; no evaluation".to_owned(),
        };
    };
    let best = last.top_k.first();
    let others = last.top_k.iter().skip(1);
    let others: Vec<String> =
        others.map(|top| format!("Top-{} {:.2}\u{a0}%", top.accuracy_k, top.share * 100.0)).collect();
    let pictures = format!("{} held-out pictures", grouped(last.pictures));
    Figure {
        label: "Top-1 accuracy",
        value: best.map_or("–".to_owned(), |top| format!("{:.2}\u{a0}%", top.share * 100.0)),
        note: if others.is_empty() { pictures } else { format!("{} on {pictures}", others.join(", ")) },
    }
}

fn conventional(run: &Run) -> Option<Figure> {
    let conventional = run.report.conventional.as_ref().filter(|conventional| conventional.samples > 0)?;
    let factor = run.report.samples as f64 / conventional.samples as f64;
    Some(Figure {
        label: "Beside a conventional job",
        value: format!("{factor:.1}\u{a0}×"),
        note: format!("the {} samples of Fixed {}", grouped(conventional.samples), conventional.batch),
    })
}

fn waiting(run: &Run) -> Option<Figure> {
    Some(Figure {
        label: "Waiting",
        value: percent(run.waiting_share()?),
        note: "of the devices' time".to_owned(),
    })
}

fn gone(run: &Run) -> Figure {
    let gone = run.total(|device| device.dropped + device.rejected + device.lost);
    let arrived = run.total(|device| device.arrived);
    let share = if arrived > 0 { gone as f64 / arrived as f64 } else { 0.0 };
    Figure {
        label: "Dropped, rejected, lost",
        value: grouped(gone),
        note: format!("{} of {} that arrived", percent(share), grouped(arrived)),
    }
}

fn sent(run: &Run) -> Figure {
    let sent = run.total(|device| device.bytes_sent) as f64;
    Figure {
        label: "Gradients sent",
        value: bytes(sent),
        note: if run.report.steps > 0 {
            format!("{} a step, all devices", bytes(sent / run.report.steps as f64))
        } else {
            "no step".to_owned()
        },
    }
}

fn shared(run: &Run) -> Option<Figure> {
    let injection = run.report.injection.as_ref()?;
    let sent = bytes(injection.bytes_sent as f64);
    Some(Figure {
        label: "Samples shared",
        value: grouped(injection.shared_samples),
        note: format!(
            "{:?}, {sent} sent; {} as the paper counts",
            injection.mode,
            bytes(injection.paper_bytes as f64)
        ),
    })
}

fn parameters(run: &Run) -> Figure {
    let hashes = &run.report.parameter_hashes;
    let known: Vec<&String> = hashes.iter().filter(|hash| !hash.is_empty()).collect();
    let (value, note) = match known.first() {
        Some(first) if known.len() == hashes.len() && hashes.iter().all(|hash| hash == *first) => (
            "identical".to_owned(),
            format!("bit for bit, on {}", counted(hashes.len() as u64, "rank", "ranks")),
        ),
        Some(_) if known.len() == hashes.len() => ("DIFFERENT".to_owned(), "between ranks".to_owned()),
        _ => ("not known".to_owned(), format!("{} of {} ranks said a hash", known.len(), hashes.len())),
    };
    Figure { label: "Parameters", value, note }
}
