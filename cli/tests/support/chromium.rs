//! Pages, looked at by a real browser.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use scadles::report::html::POLICY;

/// What a browser's window is like.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub width: u32,
    pub dark: bool,
}

/// A desk and a phone, light and dark.
pub const WINDOWS: [Window; 3] = [
    Window { width: 1280, dark: false },
    Window { width: 1280, dark: true },
    Window { width: 390, dark: false },
];

/// Measures the page from within: see `page_checks.js`.
const CHECKS: &str = include_str!("page_checks.js");

/// What a browser found in a page.
#[derive(Debug)]
pub struct Findings {
    /// Plots of the page.
    pub plots: usize,
    /// What is wrong, in words.
    pub mistakes: Vec<String>,
    /// Colour of the page's ground.
    pub ground: String,
}

/// Chromium's program, from `CHROMIUM`. A missing one is a failure: `scripts/test.sh` leaves these tests out by name
/// where it cannot be had, and says so.
fn program() -> PathBuf {
    std::env::var_os("CHROMIUM").map(PathBuf::from).expect(
        "CHROMIUM names no program: set it to chromium or chromium-headless-shell, or start the tests by scripts/test.sh",
    )
}

fn chromium(window: Window, profile: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={},900", window.width))
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!window.dark)))
        .stdin(Stdio::null());
    command
}

/// Opens a page as it is and tells what the browser's console says.
pub fn console(page: &Path, scratch: &Path) -> Vec<String> {
    let mut command = chromium(WINDOWS[0], scratch);
    let output = command.arg("--dump-dom").arg(page).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
}

/// Measures a page in a window. Works on a copy that is allowed to run the checks.
pub fn look(page: &Path, window: Window, scratch: &Path) -> Findings {
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.contains(POLICY), "the page has no policy");
    let checked = text.replace(POLICY, "").replace("</body>", &format!("<script>{CHECKS}</script></body>"));
    let copy = scratch.join(format!("checked-{}-{}.html", window.width, window.dark));
    std::fs::write(&copy, checked).unwrap();
    let output = chromium(window, scratch).arg("--dump-dom").arg(&copy).output().unwrap();
    findings(&Seen::of(&output))
}

/// A page after a while, as a browser has it.
pub struct Seen {
    pub dom: String,
    pub console: Vec<String>,
}

impl Seen {
    fn of(output: &Output) -> Self {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Self {
            dom: String::from_utf8_lossy(&output.stdout).into_owned(),
            console: said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
        }
    }

    /// A number in the document's own attributes.
    pub fn data(&self, name: &str) -> u64 {
        let value = self.dom.split(&format!("data-{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no data-{name}:\n{}", self.dom))
    }
}

/// Opens the page at an address and leaves it alone for so many seconds of its own time, which passes as quickly as the
/// answers to its requests come.
pub fn open(address: &str, window: Window, seconds: u64, scratch: &Path) -> Seen {
    let mut command = chromium(window, scratch);
    command.arg(format!("--virtual-time-budget={}", seconds * 1_000)).arg("--dump-dom").arg(address);
    Seen::of(&command.output().unwrap())
}

/// The checks as a script that a page may run by itself, once it has been brought up to date so many times.
pub fn checks_after(updates: u64) -> String {
    format!(
        "const looking = setInterval(() => {{ if (!(Number(document.documentElement.dataset.updates) >= {updates})) return; \
         clearInterval(looking);\n{CHECKS}\n}}, 50);"
    )
}

/// What the checks have written into a page.
pub fn findings(seen: &Seen) -> Findings {
    let found = seen.dom.split("<pre id=\"findings\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let found = found.unwrap_or_else(|| panic!("the checks did not run:\n{:?}\n{}", seen.console, seen.dom));
    let mut lines = found.lines();
    let plots = lines.next().unwrap().parse().unwrap();
    let ground = lines.next().unwrap().to_owned();
    let mistakes = lines.map(str::to_owned).chain(seen.console.iter().cloned());
    Findings { plots, mistakes: mistakes.collect(), ground }
}

/// The page as it is printed.
pub fn print(page: &Path, scratch: &Path) -> Vec<u8> {
    let pdf = scratch.join("page.pdf");
    let status = chromium(WINDOWS[1], scratch)
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(page)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status:?}");
    std::fs::read(pdf).unwrap()
}
