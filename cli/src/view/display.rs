//! Writing snapshots, events and other lines to the terminal or a pipe, and handing them on to those who look from
//! elsewhere.

use std::{io::IsTerminal, time::Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use scadles_api::progress::Evaluation;

use super::{Snapshot, line, page::EventKind, table};
use crate::{
    live::Feed,
    screen::{say, span},
};

/// Seconds between two summary lines in a pipe.
const PLAIN_INTERVAL_SECONDS: f64 = 5.0;

/// Where snapshots and events go.
pub struct Display {
    began: Instant,
    kind: Kind,
    feed: Feed,
}

enum Kind {
    Live(Lines),
    Plain { last: f64 },
}

/// Lines that keep their place on a terminal and change their text.
pub struct Lines {
    screen: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Lines {
    /// On standard output, if that is a terminal on which the cursor can move.
    pub fn on_terminal() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        (!dumb && std::io::stdout().is_terminal()).then(|| Self {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10)),
            lines: Vec::new(),
        })
    }

    /// Shows these lines, and no others any more.
    pub fn show(&mut self, texts: &[String]) {
        while self.lines.len() < texts.len() {
            let bar = ProgressBar::no_length().with_style(verbatim());
            self.lines.push(self.screen.add(bar));
        }
        let texts = texts.iter().cloned().chain(std::iter::repeat(String::new()));
        for (bar, text) in self.lines.iter().zip(texts) {
            bar.set_message(text);
            bar.tick();
        }
    }

    /// Writes a line that stays, above the others.
    pub fn say(&self, text: &str) {
        // A terminal that is gone cannot be written to; the command goes on.
        drop(self.screen.println(text));
    }

    /// Ends the lines and clears their place.
    pub fn clear(&mut self) {
        self.lines.drain(..).for_each(|bar| bar.finish_and_clear());
        drop(self.screen.clear());
    }
}

impl Display {
    /// A live table where standard output is a terminal and `plain` is not asked for, plain lines otherwise; the same goes
    /// to `feed`.
    pub fn new(plain: bool, began: Instant, feed: Feed) -> Self {
        let lines = if plain { None } else { Lines::on_terminal() };
        let kind = lines.map_or(Kind::Plain { last: 0.0 }, Kind::Live);
        Self { began, kind, feed }
    }

    /// Tells of something that happened; stays above the table.
    pub fn event(&self, text: &str) {
        self.tell(EventKind::Note, text);
    }

    /// Tells of something that went wrong, likewise.
    pub fn failure(&self, text: &str) {
        self.tell(EventKind::Failure, text);
    }

    fn tell(&self, kind: EventKind, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.feed.note(seconds, kind, text);
        let text = format!("{:>8}  {text}", span(seconds));
        match &self.kind {
            Kind::Live(lines) => lines.say(&text),
            Kind::Plain { .. } => say(text),
        }
    }

    /// The evaluations along the surviving history, when they have changed.
    pub fn evaluated(&self, evaluations: &[Evaluation]) {
        self.feed.evaluated(evaluations);
    }

    /// Shows how things stand.
    pub fn show(&mut self, snapshot: &Snapshot) {
        self.feed.show(snapshot);
        match &mut self.kind {
            Kind::Live(lines) => lines.show(&table(snapshot)),
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
        if let Kind::Live(lines) = &mut self.kind {
            lines.clear();
        }
    }
}

/// A line that shows its message and nothing else, cut at the terminal's width.
fn verbatim() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
