//! What is fetched, and where to. Pure, but for a look at the destination.

use std::path::{Path, PathBuf};

use kube::ResourceExt;
use scadles_api::{crd::ScadlesJobObject, status::JobState};

use crate::{
    cluster::page::full_name,
    failure::{Failure, Result},
    run_folder::RUNS,
};

/// Schemes of results on a claim and in a bucket.
const CLAIM: &str = "claim://";
const BUCKET: &str = "s3://";

/// What holds a job's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// A claim of that name.
    Claim(String),
    /// A bucket, whose keys are in a Secret of that name.
    Bucket(Option<String>),
}

/// Where a job's results lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Their address.
    pub uri: String,
    /// What holds them.
    pub volume: Volume,
    /// Folder within it.
    pub folder: String,
    /// SHA-256 of the model, hexadecimal.
    pub sha256: Option<String>,
    /// An image with `tar` and `sleep`: the job's trainers'.
    pub image: String,
}

impl Source {
    /// The results of a complete job.
    pub fn of(job: &ScadlesJobObject) -> Result<Self> {
        let name = full_name(job);
        let status = job.status.as_ref();
        let Some(result) = status.and_then(|status| status.result.as_ref()) else {
            let state = status.and_then(|status| status.state);
            let place = format!("-n {} ", job.namespace().unwrap_or_default());
            let remedy = match state {
                Some(JobState::Failed | JobState::Invalid) | None => {
                    format!("see: scadles why {place}{}", job.name_any())
                }
                _ => format!(
                    "wait: kubectl {place}wait --for=condition=Complete --timeout=1h scadlesjob/{}",
                    job.name_any()
                ),
            };
            let state =
                state.map_or("not looked at by any operator".to_owned(), |state| format!("{state:?}"));
            return Err(Failure::configuration(format!("{name} has no result: it is {state}"), remedy));
        };
        let (volume, folder) = volume_and_folder(job, &result.uri).ok_or_else(|| {
            Failure::configuration(
                format!("{name}: its result {} is at no place that scadles can fetch from", result.uri),
                "fetched are results on a PersistentVolumeClaim, claim://CLAIM/FOLDER, and in a bucket, s3://BUCKET/FOLDER",
            )
        })?;
        let resolved =
            status.and_then(|status| status.resolved.as_ref()).map(|resolved| resolved.image.clone());
        let image = resolved.or_else(|| job.spec.image.clone()).ok_or_else(|| {
            Failure::configuration(format!("{name}: its status names no image"), "give spec.image")
        })?;
        let (uri, sha256) = (result.uri.clone(), result.sha256.clone());
        Ok(Self { uri, volume, folder, sha256, image })
    }
}

fn volume_and_folder(job: &ScadlesJobObject, uri: &str) -> Option<(Volume, String)> {
    if let Some((claim, folder)) = place_and_folder(uri, CLAIM) {
        return Some((Volume::Claim(claim), folder));
    }
    let (_, folder) = place_and_folder(uri, BUCKET)?;
    let output = job.spec.output.as_ref().and_then(|output| output.storage.as_ref());
    let storage = output.or_else(|| job.spec.checkpoint.as_ref()?.storage.as_ref());
    Some((Volume::Bucket(storage?.s3.as_ref()?.secret.clone()), folder))
}

/// The parts of `SCHEME PLACE/FOLDER`. A folder that leads out of the volume is none.
fn place_and_folder(uri: &str, scheme: &str) -> Option<(String, String)> {
    let (claim, folder) = uri.strip_prefix(scheme)?.split_once('/')?;
    let steps: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    let fine = !claim.is_empty() && !steps.is_empty() && !steps.iter().any(|step| [".", ".."].contains(step));
    fine.then(|| (claim.to_owned(), steps.join("/")))
}

/// The folder to write: one that is asked for, or `runs/JOB`; new or empty.
pub fn destination(job: &str, out: Option<&Path>) -> Result<PathBuf> {
    let path = out.map_or_else(|| Path::new(RUNS).join(job), Path::to_owned);
    let is_empty = |path: &Path| path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if path.symlink_metadata().is_err() || is_empty(&path) {
        return Ok(path);
    }
    Err(Failure::configuration(
        format!("{} is there already", path.display()),
        "choose another folder with --out DIR, or remove this one",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_a_claim_and_a_folder_within_it() {
        let parts = |claim: &str, folder: &str| Some((claim.to_owned(), folder.to_owned()));
        assert_eq!(place_and_folder("claim://results/u-1", CLAIM), parts("results", "u-1"));
        assert_eq!(place_and_folder("claim://results/team/u-1/", CLAIM), parts("results", "team/u-1"));
        assert_eq!(place_and_folder("s3://results/team/u-1", BUCKET), parts("results", "team/u-1"));
        for bad in [
            "s3://bucket/u-1",
            "claim://results",
            "claim://results/",
            "claim:///u",
            "claim://r/../u",
            "claim://r/a/..",
        ] {
            assert_eq!(place_and_folder(bad, CLAIM), None, "{bad}");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_never_written_to() {
        let scratch = tempfile::tempdir().unwrap();
        let taken = scratch.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert_eq!(destination("a", Some(&taken)).unwrap(), taken, "an empty folder will do");
        std::fs::write(taken.join("x"), "").unwrap();
        assert!(destination("a", Some(&taken)).unwrap_err().message.ends_with("taken is there already"));
        assert_eq!(destination("a", Some(&scratch.path().join("new"))).unwrap(), scratch.path().join("new"));
    }
}
