//! `scadles fetch JOB`: model, journal and step table out of the job's claim or bucket, into a run folder. Shell around
//! [`source`], [`pod`] and [`unpack`].
//!
//! Guarantee: the pod is deleted however the command ends; where even that fails, it ends by itself.

pub mod pod;
pub mod source;
mod transfer;
pub mod unpack;

#[cfg(test)]
mod tests;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use scadles_api::{ExitCode, crd::ScadlesJobObject, worker::JobConfig};
use tempfile::TempDir;

use self::{source::Source, unpack::Unpacked};
use super::{args::FetchArgs, client::Cluster, in_runtime, page::full_name, words};
use crate::{
    failure::{Failure, Result},
    run_folder::write_json,
    screen::say,
    surroundings::random_text,
};

/// Name of the trained model.
const MODEL: &str = "model.safetensors";

/// Brings the results here.
pub fn fetch(args: &FetchArgs) -> Result<ExitCode> {
    let out = source::destination(&args.job, args.out.as_deref())?;
    let (job, unpacked) = in_runtime(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        let job = cluster.job(&args.job).await?;
        let source = Source::of(&job)?;
        let staging = staging(&out)?;
        let texts = texts(&cluster, &job).await?;
        let node = node_of_results(&cluster, &job).await;
        let pod = pod::fetch_pod(&job, &source, &random_text(3)?, node.as_deref());
        let unpacked = transfer::bring(&cluster, pod, &source, staging).await?;
        complete(unpacked.folder.path(), &job, &texts)?;
        Ok((job, unpacked))
    })?;
    let Unpacked { folder, files, .. } = unpacked;
    let staged = folder.keep();
    fs::rename(&staged, &out).map_err(|error| {
        // What is not in its place only takes room.
        let _ = fs::remove_dir_all(&staged);
        Failure::write(&out, &error)
    })?;
    let bytes = files.iter().map(|(_, bytes)| bytes).sum();
    say(format!("{}: {} files, {}, of {}", out.display(), files.len(), words::bytes(bytes), full_name(&job)));
    say(match job.status.as_ref().and_then(|status| status.result.as_ref()?.sha256.as_ref()) {
        Some(hash) => format!("  {MODEL} is the one that the job wrote (sha256 {hash})"),
        None => format!("  {MODEL} could not be compared: the job tells no sha256"),
    });
    if job.spec.evaluation.is_some() {
        say(format!("  its accuracy: scadles evaluate {} --data DIR", out.display()));
    }
    Ok(ExitCode::Completed)
}

/// A folder beside the place where the files will be: they come whole, or not at all.
fn staging(out: &Path) -> Result<TempDir> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| Failure::write(parent, &error))?;
    let folder = tempfile::Builder::new().prefix(".scadles-fetch-").tempdir_in(parent);
    let folder = folder.map_err(|error| Failure::write(parent, &error))?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::write(folder.path(), &error))?;
    Ok(folder)
}

/// The resolved job and the job as given, which the operator keeps in a ConfigMap.
async fn texts(cluster: &Cluster, job: &ScadlesJobObject) -> Result<Vec<(String, String)>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = format!("{}-scadles", job.name_any());
    let found = cluster.ask(&format!("read ConfigMap {name}"), "edit", api.get_opt(&name)).await?;
    Ok(found.and_then(|map| map.data).unwrap_or_default().into_iter().collect())
}

/// Where rank 0 ran: its image is there, and its claim can be mounted there.
async fn node_of_results(cluster: &Cluster, job: &ScadlesJobObject) -> Option<String> {
    let pods = cluster.pods(job).await.ok()?;
    let uses_claim = |pod: &k8s_openapi::api::core::v1::Pod| {
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.any(|volume| volume.name == "output" && volume.persistent_volume_claim.is_some())
    };
    pods.into_iter().filter(uses_claim).find_map(|pod| pod.spec?.node_name)
}

/// Makes the folder what `scadles evaluate` and `scadles replay` read: the resolved job beside the results.
fn complete(folder: &Path, job: &ScadlesJobObject, texts: &[(String, String)]) -> Result<()> {
    for (name, text) in texts.iter().filter(|(name, _)| name == "job.json" || name == "job.yaml") {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| Failure::write(&path, &error))?;
    }
    let path = folder.join("job.json");
    let wrong = |problem: String| {
        Failure::storage(
            format!("the job.json of {} cannot be read: {problem}", full_name(job)),
            "use a scadles of the operator's version",
        )
    };
    let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str::<JobConfig>(&text).map_err(|error| wrong(error.to_string()))?;
    let mut status = job.status.clone().unwrap_or_default();
    status.supervision = None;
    write_json(&folder.join("status.json"), &status, 0o644)
}
