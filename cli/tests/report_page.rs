//! `scadles report --html` and `scadles compare`, as a user starts them, on folders of runs that have ended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use scadles_api::ExitCode;
use support::{Scratch, finish, finished::Finished, scadles, text};

/// Starts `scadles`; tells the exit code and what it said.
fn said(arguments: &[&str]) -> (Option<i32>, String) {
    // No worker is started: its program is only named.
    let output = finish(scadles(Path::new("/nonexistent")).args(arguments).spawn().unwrap());
    (output.status.code(), text(&output))
}

/// Writes the page of the run in a folder; tells the page and what was said.
fn page(folder: &Path) -> (String, String) {
    let (code, words) = said(&["report", folder.to_str().unwrap(), "--html"]);
    assert_eq!(code, Some(0), "{words}");
    (std::fs::read_to_string(folder.join("report.html")).unwrap(), words)
}

fn written(scratch: &Scratch, name: &str, run: &Finished) -> PathBuf {
    let folder = scratch.path().join(name);
    run.write(&folder);
    folder
}

/// Compares with a stored file; `SCADLES_WRITE_GOLDEN=1` writes it anew.
fn assert_golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, found).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    let first = stored.lines().zip(found.lines()).position(|(stored, found)| stored != found);
    assert!(
        stored == found,
        "{} differs, first in line {}; SCADLES_WRITE_GOLDEN=1 writes it anew",
        path.display(),
        first.map_or("?".to_owned(), |line| (line + 1).to_string())
    );
}

#[test]
fn the_page_of_a_small_run_is_the_stored_one() {
    let scratch = Scratch::new("page-golden");
    let folder =
        written(&scratch, "finished-20260101T120000Z", &Finished { rolled_back: 5, ..Finished::default() });
    let (page, _) = page(&folder);
    // One element a line: a change is seen where it is.
    let by_line = page.replace('>', ">\n").replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert_golden("report.html.txt", &by_line);
}

#[test]
fn the_comparison_in_a_terminal_is_the_stored_one() {
    let scratch = Scratch::new("compare-golden");
    let one = written(&scratch, "one", &Finished::default());
    let two = written(
        &scratch,
        "two",
        &Finished { steps: 100, rolled_back: 20, evaluations: 0, ..Finished::default() },
    );
    let (code, words) = said(&["compare", one.to_str().unwrap(), two.join("report.json").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");
    assert_golden("compare.txt", &words);
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let scratch = Scratch::new("page-alone");
    let (page, _) = page(&written(&scratch, "run", &Finished::default()));
    for forbidden in ["<script", "http://", "https://", "url(", "@import", " src=", " href="] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let scratch = Scratch::new("page-hostile");
    let hostile = "</pre><script>alert(1)</script><svg onload=alert(1)>\"'&";
    let run = Finished {
        prefix: hostile.to_owned(),
        message: hostile.to_owned(),
        job_text: hostile.to_owned(),
        rolled_back: 5,
        ..Finished::default()
    };
    let (page, words) = page(&written(&scratch, "run", &run));
    assert!(!page.contains("<script") && !page.contains("<svg onload"), "{page}");
    assert!(page.contains("&lt;script"), "the text is there");
    assert!(!words.contains("report.html:"), "{words}");
}

/// A name, what is done to a run folder, and what must be said about it.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

#[test]
fn a_missing_or_damaged_input_is_said_in_the_page_and_in_the_terminal() {
    let scratch = Scratch::new("page-damaged");
    let cases: [Damage; 6] = [
        (
            "no-steps",
            |folder| std::fs::remove_file(folder.join("steps.csv")).unwrap(),
            &["steps.csv: failed to read it"],
        ),
        (
            "no-job",
            |folder| std::fs::remove_file(folder.join("job.yaml")).unwrap(),
            &["job.yaml: ", "report.json has it"],
        ),
        (
            "no-columns",
            |folder| std::fs::write(folder.join("steps.csv"), "a,b\n1,2\n").unwrap(),
            &["no column `attempt`"],
        ),
        (
            "no-text",
            |folder| std::fs::write(folder.join("steps.csv"), [0xff; 5_000]).unwrap(),
            &["no column `attempt`"],
        ),
        (
            "a-folder",
            |folder| {
                std::fs::remove_file(folder.join("steps.csv")).unwrap();
                std::fs::create_dir(folder.join("steps.csv")).unwrap();
            },
            &["steps.csv: failed to read it"],
        ),
        (
            "bad-lines",
            |folder| {
                let text = std::fs::read_to_string(folder.join("steps.csv")).unwrap();
                let damaged = text.replacen("\n1,7,", "\n1,7,x", 1).replacen("\n1,9,", "\n\u{0}", 1);
                std::fs::write(folder.join("steps.csv"), damaged).unwrap();
            },
            &["steps.csv: 2 lines could not be read"],
        ),
    ];
    for (name, damage, parts) in cases {
        let folder = written(&scratch, name, &Finished::default());
        damage(&folder);
        let (page, words) = page(&folder);
        for part in parts {
            assert!(page.contains(part), "`{part}` is missing in the page of {name}");
            assert!(words.contains(part), "`{part}` is missing in:\n{words}");
        }
    }
}

#[test]
fn a_report_that_cannot_be_read_is_an_error_with_a_remedy() {
    let scratch = Scratch::new("page-no-report");
    for (name, content) in [("missing", None), ("cut", Some("{\"version\": 1,")), ("strange", Some("[]"))] {
        let folder = written(&scratch, name, &Finished::default());
        match content {
            None => std::fs::remove_file(folder.join("report.json")).unwrap(),
            Some(content) => std::fs::write(folder.join("report.json"), content).unwrap(),
        }
        for arguments in [
            vec!["report", folder.to_str().unwrap(), "--html"],
            vec!["compare", folder.to_str().unwrap(), folder.to_str().unwrap()],
        ] {
            let (code, words) = said(&arguments);
            assert_eq!(code, Some(i32::from(ExitCode::Configuration.code())), "{words}");
            assert!(
                words.contains("report.json: ") && words.contains("remedy: name the folder of a run"),
                "{words}"
            );
        }
        assert!(!folder.join("report.html").exists());
    }
    let folder = written(&scratch, "alone", &Finished::default());
    let (code, words) = said(&["compare", folder.to_str().unwrap()]);
    assert_eq!(code, Some(2), "one run is no comparison: {words}");
}

#[test]
fn the_page_of_a_run_without_a_step_says_why_and_draws_nothing() {
    let scratch = Scratch::new("page-nothing");
    let run = Finished {
        steps: 0,
        evaluations: 0,
        outcome: ExitCode::BrokerLost,
        message: "the broker was away for longer than 60 s".to_owned(),
        ..Finished::default()
    };
    let (page, words) = page(&written(&scratch, "run", &run));
    assert!(
        page.contains("BrokerLost") && page.contains("the broker was away for longer than 60 s"),
        "{page}"
    );
    assert!(!page.contains("<svg") && !page.contains("Not everything could be read"), "{page}");
    assert!(!words.contains("steps.csv"), "nothing is missing: {words}");
}

#[test]
fn a_large_run_has_a_small_page() {
    let scratch = Scratch::new("page-large");
    // As wide as a job may be; in length its curves are thinned to the same number of points whatever it is.
    let run =
        Finished { devices: 1024, steps: 400, evaluations: 400, rolled_back: 50, ..Finished::default() };
    let (page, _) = page(&written(&scratch, "run", &run));
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    assert!(
        page.contains("16 of 1\u{a0}024 devices, the worst first"),
        "the page says that not all are shown"
    );
    assert!(page.contains("960 more devices"), "the rows of the ledger add up to the last one");
}
