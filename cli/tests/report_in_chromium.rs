//! The pages in a real browser: nothing overlaps, every plot has data, the console is silent; on a desk, on a phone, in
//! the dark, and on paper.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use scadles_api::ExitCode;
use support::{
    Scratch,
    chromium::{Findings, WINDOWS, console, look, print},
    finish,
    finished::Finished,
    scadles, text,
};

fn carry_out(arguments: &[&str]) {
    // The worker is not started: its program is only named.
    let output = finish(scadles(Path::new("/nonexistent")).args(arguments).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// Writes the run and its page.
fn page(scratch: &Scratch, name: &str, run: &Finished) -> PathBuf {
    let folder = scratch.path().join(name);
    run.write(&folder);
    carry_out(&["report", folder.to_str().unwrap(), "--html"]);
    folder.join("report.html")
}

fn assert_sound(page: &Path, plots: usize, scratch: &Scratch) {
    assert_eq!(console(page, scratch.path()), [""; 0], "{}", page.display());
    let mut grounds = Vec::new();
    for window in WINDOWS {
        let Findings { plots: found, mistakes, ground } = look(page, window, scratch.path());
        assert!(mistakes.is_empty(), "{} at {window:?}:\n{}", page.display(), mistakes.join("\n"));
        assert_eq!(found, plots, "plots of {}", page.display());
        grounds.push(ground);
    }
    assert_ne!(grounds[0], grounds[1], "light and dark");
}

/// Accuracy and loss 4, samples 2, a device 4, time 2, ledger 2, conventional 1.
const fn plots(devices: usize) -> usize {
    4 + 2 + 4 * devices + 2 + 2 + 1
}

#[test]
fn the_page_of_a_run_is_sound() {
    let scratch = Scratch::new("chromium-run");
    let run = Finished { steps: 400, rolled_back: 30, devices: 4, ..Finished::default() };
    let page = page(&scratch, "run", &run);
    assert_sound(&page, plots(4), &scratch);
    let pdf = print(&page, scratch.path());
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 20_000, "{} bytes on paper", pdf.len());
}

#[test]
fn the_pages_of_no_step_and_of_one_are_sound() {
    let scratch = Scratch::new("chromium-short");
    let nothing = Finished {
        steps: 0,
        evaluations: 0,
        outcome: ExitCode::BrokerLost,
        message: "the broker was away for longer than 60 s".to_owned(),
        ..Finished::default()
    };
    assert_sound(&page(&scratch, "nothing", &nothing), 0, &scratch);
    let one = Finished { steps: 1, evaluations: 0, ..Finished::default() };
    assert_sound(&page(&scratch, "one", &one), plots(3) - 2, &scratch);
}

#[test]
fn the_page_of_many_devices_is_sound() {
    let scratch = Scratch::new("chromium-many");
    let run = Finished {
        devices: 64,
        prefix: "a-device-with-a-rather-long-name-".to_owned(),
        ..Finished::default()
    };
    assert_sound(&page(&scratch, "many", &run), plots(16), &scratch);
}

#[test]
fn hostile_text_runs_nothing_and_breaks_nothing() {
    let scratch = Scratch::new("chromium-hostile");
    let hostile = "<script>console.error('ran')</script><img src=x onerror=console.error('ran')>\"'</style></svg>&\u{202e}";
    let run = Finished {
        prefix: hostile.to_owned(),
        message: hostile.repeat(40),
        job_text: hostile.repeat(20),
        rolled_back: 5,
        ..Finished::default()
    };
    assert_sound(&page(&scratch, "hostile", &run), plots(3), &scratch);
}

#[test]
fn the_page_of_a_comparison_is_sound() {
    let scratch = Scratch::new("chromium-compare");
    let runs: Vec<String> = (1..=8)
        .map(|number| {
            let folder = scratch.path().join(format!("run-number-{number}"));
            Finished { steps: 50 * number, devices: number as usize, ..Finished::default() }.write(&folder);
            folder.display().to_string()
        })
        .collect();
    let page = scratch.path().join("compare.html");
    let mut arguments: Vec<&str> = vec!["compare", "--html", page.to_str().unwrap()];
    arguments.extend(runs.iter().map(String::as_str));
    carry_out(&arguments);
    assert_sound(&page, 6, &scratch);
}

#[test]
fn the_checks_find_what_they_look_for() {
    let scratch = Scratch::new("chromium-checks");
    let page = page(&scratch, "run", &Finished::default());
    let text = std::fs::read_to_string(&page).unwrap();
    let broken = [
        (
            "overlaps",
            text.replace(
                "</svg>",
                "<text x=\"20\" y=\"20\">aaaa</text><text x=\"22\" y=\"21\">bbbb</text></svg>",
            ),
        ),
        (
            "leaves the picture",
            text.replace("</svg>", "<text x=\"425\" y=\"50\">beyond the edge</text></svg>"),
        ),
        ("has no data", text.replacen("data-points=\"8\"", "data-points=\"0\"", 1)),
        ("is wider than its place", text.replace("<h2>", "<h2 style=\"width:20px\">")),
        ("wide in", text.replace("<main>", "<main style=\"min-width:3000px\">")),
        ("ran", text.replace("</body>", "<script>console.error('ran')</script></body>")),
    ];
    for (mistake, text) in broken {
        let broken = scratch.file("broken.html", &text);
        let found = look(&broken, WINDOWS[0], scratch.path());
        assert!(
            found.mistakes.iter().any(|found| found.contains(mistake)),
            "{mistake}: {:?}",
            found.mistakes
        );
    }
}
