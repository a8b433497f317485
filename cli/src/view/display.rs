//! Writing snapshots and events to the terminal or a pipe.

use std::{io::IsTerminal, time::Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Snapshot, line, table};
use crate::screen::{say, span};

/// Seconds between two summary lines in a pipe.
const PLAIN_INTERVAL_SECONDS: f64 = 5.0;

/// Where snapshots and events go.
pub struct Display {
    began: Instant,
    kind: Kind,
}

enum Kind {
    Live { screen: MultiProgress, lines: Vec<ProgressBar> },
    Plain { last: f64 },
}

impl Display {
    /// A live table where standard output is a terminal and `plain` is not asked for, plain lines otherwise.
    pub fn new(plain: bool, began: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let kind = if plain || dumb || !std::io::stdout().is_terminal() {
            Kind::Plain { last: 0.0 }
        } else {
            let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10));
            Kind::Live { screen, lines: Vec::new() }
        };
        Self { began, kind }
    }

    /// Tells of something that happened; stays above the table.
    pub fn event(&self, text: &str) {
        let text = format!("{:>8}  {text}", span(self.began.elapsed().as_secs_f64()));
        match &self.kind {
            // A terminal that is gone cannot be written to; the run goes on.
            Kind::Live { screen, .. } => drop(screen.println(text)),
            Kind::Plain { .. } => say(text),
        }
    }

    /// Shows how things stand.
    pub fn show(&mut self, snapshot: &Snapshot) {
        match &mut self.kind {
            Kind::Live { screen, lines } => {
                let texts = table(snapshot);
                while lines.len() < texts.len() {
                    let bar = ProgressBar::no_length().with_style(verbatim());
                    lines.push(screen.add(bar));
                }
                for (bar, text) in lines.iter().zip(texts.into_iter().chain(std::iter::repeat(String::new())))
                {
                    bar.set_message(text);
                    bar.tick();
                }
            }
            Kind::Plain { last } => {
                if snapshot.seconds - *last >= PLAIN_INTERVAL_SECONDS {
                    *last = snapshot.seconds;
                    say(line(snapshot));
                }
            }
        }
    }

    /// Ends the live table and clears its place, for the summary that follows.
    pub fn close(&mut self) {
        if let Kind::Live { screen, lines } = &mut self.kind {
            lines.drain(..).for_each(|bar| bar.finish_and_clear());
            drop(screen.clear());
        }
    }
}

/// A line that shows its message and nothing else, cut at the terminal's width.
fn verbatim() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
