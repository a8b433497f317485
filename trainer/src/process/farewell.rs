//! A worker's last words: on standard output, and in the termination log where one is asked for. Shell around
//! [`termination_message`], which is pure.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use scadles_api::{LastWords, Ledger, Progress};

/// Kubernetes shows no more of a termination message.
const TERMINATION_BYTES: usize = 4096;

/// Stands where a text was cut.
const CUT: &str = "…";

/// Who says the last words: once, by whoever comes first.
pub(super) struct Farewell {
    termination_log: Option<PathBuf>,
    taken: Mutex<()>,
}

impl Farewell {
    pub(super) const fn new(termination_log: Option<PathBuf>) -> Self {
        Self { termination_log, taken: Mutex::new(()) }
    }

    /// The right to end the process: from now on others wait in vain.
    pub(super) fn take(&self) -> MutexGuard<'_, ()> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody has it yet.
    pub(super) fn try_take(&self) -> Option<MutexGuard<'_, ()>> {
        self.taken.try_lock().ok()
    }

    /// Says them where a supervisor may listen.
    pub(super) fn say(&self, words: &LastWords) {
        if let Some(path) = &self.termination_log
            && let Err(error) = write(path, &termination_message(words))
        {
            tracing::warn!(path = %path.display(), %error, "the last words cannot be written");
        }
        say(words);
    }
}

/// One line of JSON on standard output. A supervisor that does not listen any more is none of the worker's failures.
pub(super) fn say(line: &impl serde::Serialize) {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// In place: in a container the file is a mount of its own and cannot be replaced by another.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

/// Adds what the progress knows: the last evaluation, and the account of all devices.
pub(super) fn with_account(words: LastWords, progress: &Progress) -> LastWords {
    let ledgers = progress.devices.iter().map(|device| device.ledger);
    LastWords {
        accuracy: progress.evaluation.as_ref().map(Into::into),
        ledger: (!progress.devices.is_empty()).then(|| ledgers.sum::<Ledger>()),
        ..words
    }
}

/// The words as JSON that fits: texts are cut first, the longest most, then the accuracy goes.
fn termination_message(words: &LastWords) -> String {
    let mut words = words.clone();
    loop {
        let text = serde_json::to_string(&words).unwrap_or_default();
        let excess = text.len().saturating_sub(TERMINATION_BYTES);
        if excess == 0 {
            return text;
        }
        let longest =
            if words.remedy.len() > words.message.len() { &mut words.remedy } else { &mut words.message };
        if longest.len() > CUT.len() {
            shorten(longest, excess);
        } else {
            words.accuracy = None;
            words.checkpoint = None;
        }
    }
}

/// Takes `excess` bytes away, but half of the text at most: a byte of it may be several of JSON.
fn shorten(text: &mut String, excess: usize) {
    let kept = text.len() - excess.min(text.len() / 2);
    let kept = kept.saturating_sub(CUT.len());
    text.truncate(text.floor_char_boundary(kept));
    text.push_str(CUT);
}

#[cfg(test)]
mod tests {
    use scadles_api::{
        CheckpointRef, ExitCode,
        progress::{Accuracy, TopK},
    };

    use super::*;

    fn words(message: &str, remedy: &str) -> LastWords {
        let accuracy =
            Accuracy { step: 9, pictures: 10_000, top_k: vec![TopK { accuracy_k: 1, share: 0.71 }] };
        LastWords {
            remedy: remedy.to_owned(),
            accuracy: Some(accuracy),
            ledger: Some(Ledger { arrived: 3, trained: 3, ..Ledger::default() }),
            ..LastWords::new(ExitCode::Completed, message)
        }
    }

    fn read(text: &str) -> LastWords {
        assert!(text.len() <= TERMINATION_BYTES, "{} bytes", text.len());
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn words_that_fit_are_whole_in_the_termination_message() {
        let words = words("complete after 9 steps", "");
        assert_eq!(read(&termination_message(&words)), words);
    }

    #[test]
    fn a_text_of_any_length_and_kind_leaves_valid_json_within_the_limit() {
        // Quotes and control characters grow in JSON; others take several bytes each.
        for unit in ["a", "\"", "\u{1}", "ä", "🦀", "\n\\"] {
            for length in [1000, 4000, 4096, 100_000] {
                let long = unit.repeat(length / unit.len());
                for (message, remedy) in [(long.as_str(), ""), ("short", long.as_str()), (&long, &long)] {
                    let full = words(message, remedy);
                    let cut = read(&termination_message(&full));
                    assert_eq!((cut.accuracy, cut.ledger), (full.accuracy, full.ledger));
                    let begin = cut.message.trim_end_matches(CUT);
                    assert!(message.starts_with(begin) && !cut.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_else_is_too_long_goes_before_the_limit_does() {
        let name = "x".repeat(5000);
        let checkpoint =
            CheckpointRef { job_uid: name, name: String::new(), step: 1, restart_streams: false };
        let words = LastWords { checkpoint: Some(checkpoint), ..words("complete", "") };
        assert_eq!(read(&termination_message(&words)).code, ExitCode::Completed);
    }
}
