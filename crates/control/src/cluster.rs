//! What a cluster asks of a job beyond [`validate()`]: addresses that pods can resolve, claims or buckets instead of folders,
//! data that is mounted. No I/O.

use std::net::IpAddr;

use scadles_api::{
    ScadlesJob,
    job::{
        BackendChoice, CleanPods, CompressionMode, DataSpec, DatasetName, DatasetSpec, DeviceTemplate,
        ScadlesJobSpec,
    },
    names,
};
use twox_hash::XxHash64;

use crate::{
    backend,
    mistake::{Findings, Mistakes},
    validate::{ValidatedJob, validate},
};

mod storage;

pub use self::storage::{Bucket, Storage};
use self::storage::{check_claim, storage};

/// Folder of the data sets in a pod.
pub const DATA_FOLDER: &str = "/data";

/// How long a worker waits for a silent operator before it ends, in seconds, if the job says nothing: an upgrade of the
/// operator, or a node that is drained under it, must not end a job.
pub const ORPHAN_SECONDS: f64 = 300.0;

/// A job without mistakes, and what a cluster makes of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClusterJob {
    /// What both bodies know.
    pub job: ValidatedJob,
    /// Brokers.
    pub bootstrap_servers: String,
    /// Where the data sets come from, if any are needed.
    pub data: Option<DataSpec>,
    /// Place of the checkpoints.
    pub checkpoints: Storage,
    /// Place of the results.
    pub output: Storage,
    /// What every trainer pod gets.
    pub template: DeviceTemplate,
    /// Image of the trainers, if the job names one.
    pub image: Option<String>,
    /// Pods to delete at the end.
    pub clean_pods: CleanPods,
    /// Seconds from the end to the deletion of the object.
    pub ttl_seconds: Option<u64>,
    /// Whether the job rests.
    pub suspend: bool,
    /// Hash over all fields whose change asks for a new attempt.
    pub settings_hash: String,
}

/// [`validate()`], and what a cluster needs besides; all mistakes at once.
pub fn validate_in_cluster(job: &ScadlesJob) -> Result<ClusterJob, Mistakes> {
    let validated = validate(job);
    let mut found = Findings::default();
    let spec = &job.spec;
    let namespace = job.metadata.namespace.as_deref().unwrap_or(names::DEFAULT_NAMESPACE);
    let bootstrap_servers = bootstrap_servers(&mut found, spec, namespace);
    check_data(&mut found, spec);
    let checkpoints = spec.checkpoint.as_ref().and_then(|checkpoint| checkpoint.storage.as_ref());
    let checkpoints = storage(&mut found, "spec.checkpoint.storage", checkpoints, true);
    let output = spec.output.as_ref().and_then(|output| output.storage.as_ref());
    let output = storage(&mut found, "spec.output.storage", output, false);
    let template = spec.devices.template.clone().unwrap_or_default();
    check_template(&mut found, &template);
    check_backend(&mut found, spec, &template);
    let (validated, checkpoints) = match (validated, checkpoints) {
        (Ok(validated), Some(checkpoints)) => (validated, checkpoints),
        (Err(mistakes), _) => return Err(found.with(mistakes)),
        // What is no place was found wrong.
        (Ok(_), None) => return Err(found.into_mistakes()),
    };
    found.into_result(ClusterJob {
        job: with_patient_workers(validated, spec),
        bootstrap_servers,
        data: spec.data.clone(),
        output: output.unwrap_or_else(|| checkpoints.clone()),
        checkpoints,
        template,
        image: spec.image.clone(),
        clean_pods: spec.run_policy.as_ref().and_then(|it| it.clean_pods).unwrap_or(CleanPods::Running),
        ttl_seconds: spec.run_policy.as_ref().and_then(|it| it.ttl_seconds_after_finished),
        suspend: spec.suspend.unwrap_or(false),
        settings_hash: settings_hash(spec),
    })
}

fn check_backend(found: &mut Findings, spec: &ScadlesJobSpec, template: &DeviceTemplate) {
    let choice = spec.backend.unwrap_or_default();
    backend::check_template(found, choice, template);
    // What the job itself asks for was looked at with the job.
    if choice == BackendChoice::Auto {
        let plan = backend::backend_plan(choice, backend::gpus(Some(template)), true);
        backend::check_model(found, &plan, spec.model.name);
    }
}

fn with_patient_workers(mut job: ValidatedJob, spec: &ScadlesJobSpec) -> ValidatedJob {
    if spec.run_policy.as_ref().is_none_or(|policy| policy.orphan_seconds.is_none()) {
        job.limits.orphan_seconds = ORPHAN_SECONDS;
    }
    job
}

/// A name without a dot means one thing in the operator's namespace and another in the job's.
fn bootstrap_servers(found: &mut Findings, spec: &ScadlesJobSpec, namespace: &str) -> String {
    let Some(kafka) = &spec.kafka else {
        found.add(
            "spec.kafka",
            "",
            "is missing: the embedded broker lives in `scadles run` only",
            format!("give spec.kafka.bootstrapServers, for instance kafka.{namespace}.svc:9092"),
        );
        return String::new();
    };
    for server in kafka.bootstrap_servers.split(',').map(str::trim) {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if loopback || (address.is_none() && !host.contains('.')) {
            let problem = if loopback {
                format!("`{host}` is the pod itself")
            } else {
                format!("`{host}` means something else in every namespace")
            };
            let remedy = match host {
                "localhost" => format!("write for instance kafka.{namespace}.svc:9092"),
                _ if loopback => format!("write for instance kafka.{namespace}.svc:9092"),
                _ => format!("write {}", server.replacen(host, &format!("{host}.{namespace}.svc"), 1)),
            };
            found.add("spec.kafka.bootstrapServers", server, problem, remedy);
        }
    }
    kafka.bootstrap_servers.clone()
}

fn check_data(found: &mut Findings, spec: &ScadlesJobSpec) {
    let producer = spec.producer.as_ref().map(|it| ("spec.producer.dataset", &it.dataset));
    let evaluation = spec.evaluation.as_ref().and_then(|it| it.dataset.as_ref());
    let evaluation = evaluation.map(|it| ("spec.evaluation.dataset", it));
    let sets: Vec<(&str, &DatasetSpec)> = producer.into_iter().chain(evaluation).collect();
    let model = spec.model.torch_script.as_ref().map(|file| &file.path);
    if spec.data.is_none() && (!sets.is_empty() || spec.evaluation.is_some() || model.is_some()) {
        found.add(
            "spec.data",
            "",
            "is missing: pods find data sets and files of models in a mounted volume only",
            "give spec.data.image (scadles-data has Fashion-MNIST) or spec.data.persistentVolumeClaim.claimName",
        );
    }
    let files = sets.into_iter().filter(|(_, set)| set.name == DatasetName::Files);
    let files = files.filter_map(|(at, set)| Some((format!("{at}.files.path"), &set.files.as_ref()?.path)));
    let model = model.map(|path| ("spec.model.torchScript.path".to_owned(), path));
    for (at, path) in files.chain(model).filter(|(_, path)| path.starts_with('/') || path.contains("..")) {
        let problem = format!("files are looked for below the data volume, {DATA_FOLDER}");
        found.add(at, path, problem, "give a path relative to the volume");
    }
    let claim = spec.data.as_ref().and_then(|data| data.persistent_volume_claim.as_ref());
    check_claim(found, "spec.data.persistentVolumeClaim", claim);
    if let Some(data) =
        spec.data.as_ref().filter(|it| it.image.is_some() == it.persistent_volume_claim.is_some())
    {
        let given = if data.image.is_some() { "image, persistentVolumeClaim" } else { "" };
        let problem = "needs exactly one of image, persistentVolumeClaim";
        found.add("spec.data", given, problem, "keep one of them");
    }
}

fn check_template(found: &mut Findings, template: &DeviceTemplate) {
    let resources = template.resources.as_ref();
    let lists = [
        ("requests", resources.and_then(|it| it.requests.as_ref())),
        ("limits", resources.and_then(|it| it.limits.as_ref())),
    ];
    for (name, quantities) in lists {
        for (resource, quantity) in quantities.into_iter().flatten() {
            if !is_quantity(&quantity.0) {
                let path = format!("spec.devices.template.resources.{name}[{resource}]");
                let problem =
                    "is no quantity: a number with an optional suffix m, k, M, G, T, Ki, Mi, Gi or Ti";
                found.add(path, &quantity.0, problem, "write for instance 500m, 2 or 1Gi");
            }
        }
    }
    for (index, variable) in template.env.iter().flatten().enumerate() {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if variable.name.is_empty() || !variable.name.bytes().all(fine) {
            let path = format!("spec.devices.template.env[{index}].name");
            found.add(path, &variable.name, "is no name of a variable", "use letters, digits and _");
        }
    }
}

fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let suffix = &text[number.len()..];
    let known = ["", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
    known.contains(&suffix) && number.parse::<f64>().is_ok_and(|number| number.is_finite() && number >= 0.0)
}

/// Fields that `scadles run` does not honour.
pub(crate) fn fields_given(spec: &ScadlesJobSpec) -> Vec<&'static str> {
    let topics = spec.kafka.as_ref().and_then(|kafka| kafka.topics.as_ref());
    let policy = spec.run_policy.as_ref();
    let storage = spec.checkpoint.as_ref().and_then(|checkpoint| checkpoint.storage.as_ref());
    [
        ("spec.kafka.topics.deletionPolicy", topics.is_some_and(|topics| topics.deletion_policy.is_some())),
        ("spec.devices.template", spec.devices.template.is_some()),
        ("spec.data", spec.data.is_some()),
        (
            "spec.checkpoint.storage.persistentVolumeClaim",
            storage.is_some_and(|storage| storage.persistent_volume_claim.is_some()),
        ),
        ("spec.checkpoint.storage.s3", storage.is_some_and(|storage| storage.s3.is_some())),
        ("spec.output", spec.output.is_some()),
        (
            "spec.runPolicy.ttlSecondsAfterFinished",
            policy.is_some_and(|it| it.ttl_seconds_after_finished.is_some()),
        ),
        ("spec.runPolicy.cleanPods", policy.is_some_and(|it| it.clean_pods.is_some())),
        ("spec.image", spec.image.is_some()),
        ("spec.suspend", spec.suspend == Some(true)),
        ("spec.managedBy", spec.managed_by.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

/// Hash over the *spec*, never over what is made from it: an upgrade of the operator must not restart anything. What only
/// concerns the life of the object is left out, and what the running group is told instead ([`crate::tuning`]).
fn settings_hash(spec: &ScadlesJobSpec) -> String {
    let mut spec = spec.clone();
    spec.suspend = None;
    spec.managed_by = None;
    if let Some(policy) = &mut spec.run_policy {
        policy.ttl_seconds_after_finished = None;
        policy.clean_pods = None;
        policy.max_restarts = None;
        policy.active_deadline_seconds = None;
    }
    if let Some(compression) = spec.compression.as_mut().filter(|it| it.mode != CompressionMode::None) {
        (compression.mode, compression.ratio, compression.delta) = (CompressionMode::Static, None, None);
    }
    if let Some(injection) = &mut spec.injection {
        (injection.donor_fraction, injection.shared_fraction) = (None, None);
    }
    // Plain data always has a JSON form; its members are in the order of the types.
    let text = serde_json::to_string(&spec).unwrap_or_default();
    format!("{:016x}", XxHash64::oneshot(0, text.as_bytes()))
}

#[cfg(test)]
mod tests;
