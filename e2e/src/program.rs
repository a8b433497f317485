//! Programs, run as a user runs them: from the root of the repository, their output in the test's transcript.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// Longest that a program may take if the test says nothing else.
const DEFAULT_LIMIT: Duration = Duration::from_mins(2);

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes a line of the transcript, with the time of day.
pub fn say(line: impl std::fmt::Display) {
    eprintln!("{} {line}", jiff::Timestamp::now().strftime("%H:%M:%S"));
}

/// Types a line into a shell at the repository's root; its standard output.
pub async fn type_line(line: &str) -> Result<String> {
    type_line_within(DEFAULT_LIMIT, line).await
}

/// [`type_line`], with more or less patience.
pub async fn type_line_within(limit: Duration, line: &str) -> Result<String> {
    run(limit, line, Command::new("bash").args(["-euo", "pipefail", "-c", line])).await
}

/// Runs a program with exactly these arguments; its standard output.
pub async fn program(name: &str, arguments: &[&str]) -> Result<String> {
    let line = format!("{name} {}", arguments.join(" "));
    run(DEFAULT_LIMIT, &line, Command::new(name).args(arguments)).await
}

async fn run(limit: Duration, line: &str, command: &mut Command) -> Result<String> {
    say(format!("$ {line}"));
    let begin = Instant::now();
    let output = command.current_dir(root()).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(limit, output).await {
        Ok(output) => output.with_context(|| format!("failed to start `{line}`"))?,
        Err(_) => bail!("`{line}` did not end within {limit:?}"),
    };
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("`{line}` failed after {:.1?}: {}\n{said}{errors}", begin.elapsed(), output.status);
    }
    say(format!("  {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(said.into_owned())
}
