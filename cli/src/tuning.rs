//! `tuning.json` in a run folder: what `scadles tune` asks of the runner. Plain data, its file, and the runner's look at it.
//!
//! A file in a folder that only its owner writes to needs neither an address nor a token, and is still there when the run
//! is resumed.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use scadles_api::{ScadlesJob, Tuning};
use scadles_control::tuning::{Changes, settings, tuned};
use serde::{Deserialize, Serialize};

use crate::{failure::Result, run_folder::write_json};

/// Name of the file in the run folder.
pub const FILE: &str = "tuning.json";

/// A file that is longer was not written by `scadles tune`.
const LONGEST_BYTES: u64 = 1 << 16;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// What is to be another than in the job file.
    pub changes: Changes,
    /// What the job file said then: where it says something else by now, it has the last word.
    pub job_file: Tuning,
}

impl Wish {
    /// Reads the file in `folder`; nothing where there is none, or none of ours.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&text(&folder.join(FILE))?).ok()
    }

    /// Writes the file, for the owner's eyes only.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(FILE), self, 0o600)
    }
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(LONGEST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The runner's look at the file.
pub struct TuningFile {
    path: PathBuf,
    job: ScadlesJob,
    /// What the job file says.
    job_file: Tuning,
    seen: Option<String>,
}

impl TuningFile {
    /// Of the run in `folder`, whose job file says `job` and, resolved, `job_file`.
    pub fn of(folder: &Path, job: ScadlesJob, job_file: Tuning) -> Self {
        Self { path: folder.join(FILE), job, job_file, seen: None }
    }

    /// The settings that are asked for, if the file has changed since the last look; or why they cannot be had.
    pub fn look(&mut self) -> Option<std::result::Result<Tuning, String>> {
        let found = text(&self.path);
        if found == self.seen {
            return None;
        }
        self.seen.clone_from(&found);
        Some(found.map_or(Ok(self.job_file), |found| self.wanted(&found)))
    }

    fn wanted(&self, text: &str) -> std::result::Result<Tuning, String> {
        let refused = |why: String| format!("{}: {why}; nothing was changed", self.path.display());
        let wish: Wish = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        if !wish.job_file.has_settings_of(&self.job_file) {
            return Err(refused(
                "the job file says something else by now than when the run was tuned".to_owned(),
            ));
        }
        let job = tuned(&self.job, &wish.changes).map_err(|mistakes| refused(mistakes.to_string()))?;
        Ok(settings(&job))
    }
}

#[cfg(test)]
mod tests {
    use scadles_control::{parse_job, validate};

    use super::*;

    const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: tuned}
spec:
  model: {name: Cnn}
  devices: {count: 2}
  compression: {mode: Static}
  completion: {maxSteps: 10}
";

    fn file(folder: &Path) -> TuningFile {
        let job = parse_job(JOB).unwrap();
        let began = settings(&validate(&job).unwrap());
        TuningFile::of(folder, job, began)
    }

    fn wish(file: &TuningFile, ratio: f64) -> Wish {
        Wish { changes: Changes { ratio: Some(ratio), ..Changes::default() }, job_file: file.job_file }
    }

    fn ratio(looked: Option<std::result::Result<Tuning, String>>) -> f64 {
        looked.unwrap().unwrap().compression.unwrap().ratio
    }

    #[test]
    fn what_the_file_asks_for_is_seen_once_and_a_file_that_goes_leaves_the_job_as_its_own_file_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(folder.path());
        assert_eq!(file.look(), None);
        wish(&file, 0.05).write(folder.path()).unwrap();
        assert_eq!(Wish::read(folder.path()), Some(wish(&file, 0.05)));
        assert_eq!((ratio(file.look()), file.look()), (0.05, None));
        wish(&file, 0.02).write(folder.path()).unwrap();
        assert_eq!((ratio(file.look()), file.look()), (0.02, None));
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_eq!((ratio(file.look()), file.look()), (0.1, None));
    }

    #[test]
    fn only_the_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        wish(&file(folder.path()), 0.05).write(folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_damaged_impossible_or_of_another_job_changes_nothing_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(folder.path());
        let mut refused = |text: String| {
            fs::write(folder.path().join(FILE), text).unwrap();
            file.look().unwrap().unwrap_err()
        };
        let json = |wish: &Wish| serde_json::to_string(wish).unwrap();
        let good = wish(&self::file(folder.path()), 0.05);
        assert!(refused("{".to_owned()).contains(FILE));
        assert!(refused(json(&good).replace("0.05", "7")).contains("spec.compression.ratio = 7"));
        let stale = refused(json(&Wish { job_file: Tuning::default(), ..good }));
        assert!(stale.contains("says something else by now"), "{stale}");
        assert!(refused("x".repeat(1 << 20)).ends_with("nothing was changed"));
    }
}
