//! Attempts and failures, the conventional job, the job file, and how all this was made.

use maud::{Markup, PreEscaped, html};

use super::{counted, first_letters, grouped, headline::broker, span};
use crate::{
    plot::{Bar, Colour, Part, Scale, StackedBars},
    report::{ends_well, run::Run, switches},
};

/// The table has at most this many attempts, the newest.
const MOST_ATTEMPTS: usize = 50;

/// Lives of the group, and why each ended.
pub(super) fn attempts(run: &Run) -> Markup {
    let attempts = &run.report.attempts;
    let skipped = attempts.len().saturating_sub(MOST_ATTEMPTS);
    let failed = !ends_well(run.report.outcome);
    html! {
        section {
            h2 { "Attempts and failures" }
            @if attempts.is_empty() {
                p.quiet { "No attempt to train was made." }
            } @else if attempts.len() == 1 && !failed {
                p.quiet { "The group ran through in one attempt." }
            } @else {
                p.quiet { (counted(attempts.len() as u64, "attempt", "attempts"))
                    ". Each later one goes on from the last checkpoint; its steps replace those that came after it." }
            }
            @if skipped > 0 { p.note { "The first " (grouped(skipped as u64)) " are left out." } }
            @if !attempts.is_empty() {
                div.scroll { table {
                    thead { tr {
                        th.n { "Attempt" } th.n { "Steps" } th { "First cause" } th.words { "How it ended" }
                    } }
                    tbody { @for attempt in attempts.iter().skip(skipped) { tr {
                        td.n { (attempt.number) }
                        td.n { (grouped(attempt.from_step)) " – " (grouped(attempt.to_step)) }
                        td { (attempt.first_cause.as_deref().unwrap_or("–")) }
                        td.words { bdi { (first_letters(&attempt.ended)) } }
                    } } }
                } }
            }
        }
    }
}

/// What equal batches of 64 would have trained.
pub(super) fn conventional(run: &Run) -> Markup {
    let report = &run.report;
    let Some(conventional) = &report.conventional else {
        return html! {
            section {
                h2 { "Beside a conventional job" }
                p.quiet { "Not known: it follows from the streams' rates, and the run has not measured all of them." }
            }
        };
    };
    let rate = f64::from(conventional.batch) / conventional.step_seconds;
    let bar = |name, samples: u64, blue: bool| Bar {
        name,
        values: if blue { vec![samples as f64, 0.0] } else { vec![0.0, samples as f64] },
        label: grouped(samples),
    };
    let fixed = format!("Fixed {}", conventional.batch);
    let bars = StackedBars {
        title: "Samples trained by this run and by a conventional job",
        axis: "samples trained in the same time",
        scale: Scale::Number,
        parts: vec![
            Part { name: "this run", colour: Colour::Blue },
            Part { name: "conventional, by arithmetic", colour: Colour::Grey },
        ],
        bars: vec![bar("this run", report.samples, true), bar(&fixed, conventional.samples, false)],
    };
    html! {
        section {
            h2 { "Beside a conventional job" }
            div.pair {
                div { (PreEscaped(bars.svg())) }
                div {
                    p { "A conventional job (" (fixed) ") takes batches of " (conventional.batch)
                        " from every device and waits at each step until the slowest stream has one: max"
                        sub { "i" } " " (conventional.batch) " / S" sub { "i" } " = " (conventional.batch) " / "
                        (format!("{rate:.1}")) " = " (format!("{:.2}", conventional.step_seconds)) " s." }
                    p { "In the " (span(report.seconds)) " of this run that makes "
                        (counted(conventional.steps, "step", "steps")) " and "
                        (grouped(conventional.samples)) " samples." }
                    p.note {
                        "This is arithmetic, not a measurement, and in favour of the conventional job: its compute and its "
                        "exchange count as nothing."
                    }
                }
            }
        }
    }
}

/// The job file.
pub(super) fn job(run: &Run) -> Markup {
    let switches = switches(&run.report.tunings);
    html! {
        section {
            h2 { "Job" }
            @if !switches.is_empty() {
                p { "The job was tuned while it ran; until then it was as its file says." }
                ul { @for (step, fields) in &switches { @for field in fields {
                    li { "From step " (grouped(*step)) ": " (field.to_string()) }
                } } }
            }
            pre { (run.job_text) }
        }
    }
}

/// What took part.
pub(super) fn making(run: &Run) -> Markup {
    let report = &run.report;
    let hashes = &report.parameter_hashes;
    let hash = hashes.first().filter(|first| !first.is_empty() && hashes.iter().all(|hash| hash == *first));
    html! {
        section {
            h2 { "How it was made" }
            dl {
                @for (name, version) in &report.versions { dt { (name) } dd { (version) } }
                dt { "broker" } dd { (broker(&report.broker)) }
                dt { "run" } dd { (report.job_uid) }
                dt { "first step after" } dd { (span(report.start_seconds)) }
                @if let Some(hash) = hash { dt { "hash of the parameters" } dd { (hash) } }
                dt { "this page" } dd {
                    "from report.json (format " (report.version) "), " (counted(run.curves.steps, "step", "steps"))
                    " of steps.csv, and job.yaml"
                }
            }
        }
    }
}
