//! A run as its pages and comparisons show it. Plain data, and how it is read from a run folder (shell).

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use scadles_api::report::{DeviceReport, RunReport};

use super::steps::{self, Curves, Spent, Survey};
use crate::{
    failure::{Failure, Result},
    plot::Mark,
};

/// So many devices are shown with curves and bars of their own.
pub const SHOWN_DEVICES: usize = 16;

/// A job file is shown up to here.
const JOB_BYTES: u64 = 64 << 10;

/// A report is not larger than this: 1,024 devices and an evaluation at each of 100,000 steps come to about 50 MiB.
const REPORT_BYTES: u64 = 256 << 20;

/// The files that a run is read from.
pub const REPORT: &str = "report.json";
/// The table of steps.
pub const STEPS: &str = "steps.csv";
const JOB: &str = "job.yaml";

/// A run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Name of its folder.
    pub name: String,
    /// Its report.
    pub report: RunReport,
    /// Its steps; empty where they could not be read.
    pub curves: Curves,
    /// Devices with curves of their own, as places in `report.devices`.
    pub shown: Vec<usize>,
    /// The job file's text, as given; the report's copy where there is no file.
    pub job_text: String,
    /// What is missing or damaged, in sentences.
    pub notices: Vec<String>,
}

impl Run {
    /// Reads the run in `folder`. Only a report that cannot be read is an error; all else is a notice.
    pub fn load(folder: &Path) -> Result<Self> {
        let report = read_report(folder)?;
        Ok(Self::of(folder, report))
    }

    /// The run in `folder` that has this report.
    pub fn of(folder: &Path, report: RunReport) -> Self {
        let mut notices = Vec::new();
        let shown = chosen(&report.devices);
        let curves = read_steps(&folder.join(STEPS), &report, &shown).unwrap_or_else(|problem| {
            // Without a step there is no table of steps: nothing is missing then.
            let none =
                matches!(&problem, steps::Error::Read(error) if error.kind() == io::ErrorKind::NotFound);
            if report.steps > 0 || !none {
                notices.push(format!("{STEPS}: {problem}; there are no curves over the steps"));
            }
            Curves::default()
        });
        if curves.damaged_lines > 0 {
            let (lines, are) = if curves.damaged_lines == 1 { ("line", "is") } else { ("lines", "are") };
            notices.push(format!(
                "{STEPS}: {} {lines} could not be read and {are} left out",
                curves.damaged_lines
            ));
        }
        let job_text = read_job(&folder.join(JOB)).unwrap_or_else(|problem| {
            notices.push(format!("{JOB}: {problem}; the page shows the job as {REPORT} has it"));
            serde_json::to_string_pretty(&report.job).unwrap_or_default()
        });
        Self { name: name(folder), report, curves, shown, job_text, notices }
    }

    /// Share of the devices' time in steps in which they waited; `None` if nothing was trained.
    pub fn waiting_share(&self) -> Option<f64> {
        if self.curves.steps > 0 {
            let sum = |seconds: fn(&Spent) -> f64| self.curves.spent.iter().map(seconds).sum::<f64>();
            let whole = sum(|spent| spent.wait + spent.compute + spent.exchange + spent.own);
            return (whole > 0.0).then(|| sum(|spent| spent.wait) / whole);
        }
        // Without the steps' table: what the report has, of the whole training time.
        let devices = &self.report.devices;
        let waited: f64 = devices.iter().map(|device| device.wait_seconds).sum();
        let whole = self.report.seconds * devices.len() as f64;
        (whole > 0.0).then(|| (waited / whole).min(1.0))
    }

    /// Restarts as marks of a chart over training time.
    pub fn restarts(&self) -> Vec<Mark> {
        let mark = |(x, attempt): &(f64, u64)| Mark { x: *x, name: format!("attempt {attempt}") };
        self.curves.restarts.iter().map(mark).collect()
    }

    /// Sum of a column over the devices.
    pub fn total(&self, column: impl Fn(&DeviceReport) -> u64) -> u64 {
        self.report.devices.iter().map(column).sum()
    }

    /// Samples per second of training time.
    pub fn samples_per_second(&self) -> f64 {
        if self.report.seconds > 0.0 { self.report.samples as f64 / self.report.seconds } else { 0.0 }
    }
}

/// Name of the run in a folder.
pub fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// The report of the run in a folder, or in a file.
pub fn read_report(path: &Path) -> Result<RunReport> {
    let path = if path.is_dir() { path.join(REPORT) } else { path.to_owned() };
    let wrong = |problem: String| {
        Failure::configuration(
            format!("{}: {problem}", path.display()),
            "name the folder of a run that has ended; `scadles run JOB --resume RUN_DIR` goes on with one that has not",
        )
    };
    let text = read_text(&path, REPORT_BYTES).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn read_text(path: &Path, most_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most_bytes).read_to_string(&mut text)?;
    Ok(text)
}

fn read_steps(path: &Path, report: &RunReport, shown: &[usize]) -> std::result::Result<Curves, steps::Error> {
    let devices: Vec<String> = report.devices.iter().map(|device| device.name.clone()).collect();
    let open = || File::open(path).map(|file| BufReader::with_capacity(1 << 20, file));
    let survey = Survey::of(open()?, &devices)?;
    steps::collect(open()?, &survey, shown)
}

/// A job file's text. Bytes that are no text are replaced, what is too long is cut.
fn read_job(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(JOB_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if length > JOB_BYTES { format!("{text}\n… cut here: the file has {length} bytes") } else { text })
}

/// All devices in the order of ranks if they are few, otherwise those that need attention most, the worst first: samples
/// that were given up or lost, as a share of what arrived; then the seconds that what waits stands for.
pub fn chosen(devices: &[DeviceReport]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..devices.len()).collect();
    if devices.len() > SHOWN_DEVICES {
        places.sort_by(|a, b| {
            let (a, b) = (trouble(&devices[*a]), trouble(&devices[*b]));
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        places.truncate(SHOWN_DEVICES);
    }
    places
}

fn trouble(device: &DeviceReport) -> (f64, f64) {
    let gone = device.dropped + device.rejected + device.lost;
    (gone as f64 / device.arrived.max(1) as f64, device.buffered as f64 / device.rate_mean.max(1e-3))
}

#[cfg(test)]
mod tests;
