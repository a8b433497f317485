//! Pods that do not come up: out of the pods themselves, their warnings, or the status' condition. Pure.

use k8s_openapi::api::core::v1::{ContainerStateWaiting, Event, Pod};
use kube::ResourceExt;
use scadles_api::{ScadlesJobStatus, job::StorageSpec, names::labels};

use super::{Answer, Facts, denied};
use crate::cluster::{time, words};

/// A mount that failed once may succeed the next time; after so many seconds it is a cause.
const MOUNT_SECONDS: f64 = 20.0;

/// Why a pod does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The API server does not take it: its words.
    Rejected(String),
    /// The name of a claim that is not there.
    ClaimMissing(String),
    /// The name of a Secret that is not there.
    SecretMissing(String),
    /// An image that cannot be had.
    Image {
        /// Its name.
        image: String,
        /// Why, in a few words.
        why: String,
    },
    /// The scheduler's words.
    Unschedulable(String),
    /// The kubelet's words.
    Other(String),
}

impl What {
    /// Smaller is earlier in the chain of causes. An image with a known reason says more than one without.
    fn precedence(&self) -> u8 {
        match self {
            Self::Rejected(_) => 0,
            Self::ClaimMissing(_) => 1,
            Self::SecretMissing(_) => 2,
            Self::Image { why, .. } if why != words::NO_REASON => 3,
            Self::Image { .. } => 4,
            Self::Unschedulable(_) => 5,
            Self::Other(_) => 6,
        }
    }

    /// Whether one sentence may speak of both.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Image { image, .. }, Self::Image { image: others, .. }) => image == others,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A pod that does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Device of the pod, or `producer`.
    pub device: String,
    /// Why.
    pub what: What,
}

pub(super) fn answer(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Option<Answer> {
    let told = told(facts, status);
    let found = match facts.pods {
        // A pod that the API server refused is not there to be looked at.
        Some(pods) => {
            let refused = told.filter(|trouble| matches!(trouble.what, What::Rejected(_)));
            refused.into_iter().chain(troubles(pods, facts.events, facts.now)).collect()
        }
        None => Vec::from_iter(told),
    };
    let first = found.iter().min_by_key(|trouble| trouble.what.precedence())?;
    let same: Vec<&str> = found
        .iter()
        .filter(|trouble| trouble.what.is_like(&first.what))
        .map(|trouble| trouble.device.as_str())
        .collect();
    Some(Answer::wrong(sentence(facts, &first.what, &words::list(&same))))
}

fn sentence(facts: &Facts<'_>, what: &What, devices: &str) -> String {
    match what {
        What::Rejected(said) => rejected(said, devices),
        What::ClaimMissing(claim) => missing_claim(facts, claim),
        What::SecretMissing(secret) => missing_secret(facts, secret),
        What::Image { image, why } => no_image(facts, image, why, devices),
        What::Unschedulable(said) => {
            format!("no node takes the pod of {devices}: {said}; {}", make_room(facts, said))
        }
        What::Other(said) => format!("the pod of {devices} does not come up: {said}"),
    }
}

fn rejected(said: &str, devices: &str) -> String {
    let remedy = if said.contains("exceeded quota") {
        "raise the quota, or ask for less in spec.devices.template.resources"
    } else if said.contains("PodSecurity") {
        "lower the namespace's pod security to `restricted`, or change spec.devices.template"
    } else {
        "change spec.devices.template, or ask who set this rule"
    };
    format!("the API server refuses the pod of {devices}: {said}; {remedy}")
}

fn make_room(facts: &Facts<'_>, said: &str) -> String {
    if said.contains("unbound immediate PersistentVolumeClaims") {
        format!("see why the claim has no volume: kubectl -n {} describe pvc", facts.namespace())
    } else if said.contains("Insufficient") {
        "ask for less in spec.devices.template.resources.requests, or add nodes".to_owned()
    } else if said.contains("taint") {
        "name the taint in spec.devices.template.tolerations, or add nodes".to_owned()
    } else if said.contains("selector") {
        "correct spec.devices.template.nodeSelector, or label a node".to_owned()
    } else {
        "add nodes".to_owned()
    }
}

fn no_image(facts: &Facts<'_>, image: &str, why: &str, devices: &str) -> String {
    let spec = &facts.job.spec;
    let data = spec.data.as_ref().and_then(|data| data.image.as_deref());
    let field = if spec.image.as_deref() == Some(image) {
        "spec.image"
    } else if data == Some(image) {
        "spec.data.image"
    } else {
        "the operator's default; spec.image names another"
    };
    let remedy = if why.contains("refuses access") {
        "name a Secret for the registry in spec.devices.template.imagePullSecrets"
    } else if why.contains("cannot be reached") {
        "see to the node's way to the registry, or use another registry"
    } else {
        "correct the image's name, or push it there"
    };
    format!("image {image} ({field}) cannot be pulled for {devices}: {why}; {remedy}")
}

fn missing_claim(facts: &Facts<'_>, claim: &str) -> String {
    let spec = &facts.job.spec;
    let named = |storage: Option<&StorageSpec>| {
        storage
            .and_then(|storage| storage.persistent_volume_claim.as_ref())
            .is_some_and(|it| it.claim_name == claim)
    };
    let data = spec.data.as_ref().and_then(|data| data.persistent_volume_claim.as_ref());
    let field = if named(spec.checkpoint.as_ref().and_then(|it| it.storage.as_ref())) {
        "spec.checkpoint.storage.persistentVolumeClaim"
    } else if named(spec.output.as_ref().and_then(|it| it.storage.as_ref())) {
        "spec.output.storage.persistentVolumeClaim"
    } else if data.is_some_and(|it| it.claim_name == claim) {
        "spec.data.persistentVolumeClaim"
    } else {
        "of the job"
    };
    format!(
        "PersistentVolumeClaim {}/{claim} ({field}) is missing; make it (ReadWriteOnce is enough), or correct its name",
        facts.namespace()
    )
}

/// A Secret that is not there, and how to make it.
pub(super) fn missing_secret(facts: &Facts<'_>, secret: &str) -> String {
    let namespace = facts.namespace();
    let kafka = facts.job.spec.kafka.as_ref();
    let ca = kafka.and_then(|kafka| kafka.tls.as_ref()?.ca_secret.as_deref());
    let sasl = kafka.and_then(|kafka| kafka.sasl.as_ref()).map(|sasl| sasl.secret.as_str());
    let checkpoints = facts.job.spec.checkpoint.as_ref().and_then(|it| it.storage.as_ref());
    let output = facts.job.spec.output.as_ref().and_then(|it| it.storage.as_ref());
    let of_bucket = |storage: Option<&StorageSpec>| {
        storage.and_then(|storage| storage.s3.as_ref()?.secret.as_deref()) == Some(secret)
    };
    let bucket_keys = "--from-literal=accessKeyId=ID --from-literal=secretAccessKey=KEY";
    let (field, keys) = if sasl == Some(secret) {
        (" (spec.kafka.sasl.secret)", "--from-literal=username=NAME --from-literal=password=PASSWORD")
    } else if ca == Some(secret) {
        (" (spec.kafka.tls.caSecret)", "--from-file=ca.crt=FILE")
    } else if of_bucket(checkpoints) {
        (" (spec.checkpoint.storage.s3.secret)", bucket_keys)
    } else if of_bucket(output) {
        (" (spec.output.storage.s3.secret)", bucket_keys)
    } else {
        return format!("Secret {namespace}/{secret} is missing");
    };
    format!(
        "Secret {namespace}/{secret}{field} is missing; make it: kubectl -n {namespace} create secret generic {secret} {keys}"
    )
}

/// What the status says of pods.
fn told(facts: &Facts<'_>, status: &ScadlesJobStatus) -> Option<Trouble> {
    let condition = denied(status, "PodsReady")?;
    let (device, said) = condition.message.split_once(": ")?;
    let what = match condition.reason.as_str() {
        "PodRejected" => What::Rejected(words::refusal(said)),
        "ImagePullFailed" => {
            let resolved = status.resolved.as_ref().map(|resolved| resolved.image.as_str());
            let spec = facts.job.spec.image.as_deref();
            let image = words::between(said, "image \"", "\"").or(resolved).or(spec).unwrap_or_default();
            What::Image { image: image.to_owned(), why: words::pull("", said) }
        }
        "Unschedulable" => unschedulable(said),
        "ClaimMissing" | "SecretMissing" | "ContainerConfigError" | "PodsNotReady" => {
            missing(said).unwrap_or_else(|| What::Other(words::one_line(said)))
        }
        _ => return None,
    };
    Some(Trouble { device: device.to_owned(), what })
}

/// Pods that do not come up, in the order of pods.
pub fn troubles(pods: &[Pod], events: &[Event], now: f64) -> Vec<Trouble> {
    let comes_up = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && matches!(phase, None | Some("Pending" | "Running"))
    };
    let of = |pod: &Pod| {
        let what = unplaced(pod).or_else(|| held_up(pod, events)).or_else(|| unmounted(pod, events, now))?;
        Some(Trouble { device: device(pod), what })
    };
    pods.iter().filter(comes_up).filter_map(of).collect()
}

fn device(pod: &Pod) -> String {
    let labels = pod.labels();
    labels.get(labels::DEVICE).or(labels.get(labels::COMPONENT)).cloned().unwrap_or_else(|| pod.name_any())
}

fn unplaced(pod: &Pod) -> Option<What> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?;
    Some(unschedulable(scheduled.message.as_deref().unwrap_or_default()))
}

fn unschedulable(said: &str) -> What {
    missing(said).unwrap_or_else(|| What::Unschedulable(words::scheduler(said)))
}

/// A claim or Secret that is said not to be there.
fn missing(said: &str) -> Option<What> {
    let claim = words::between(said, "persistentvolumeclaim \"", "\" not found");
    let secret = words::between(said, "secret \"", "\" not found");
    claim
        .map(|name| What::ClaimMissing(name.to_owned()))
        .or_else(|| secret.map(|name| What::SecretMissing(name.to_owned())))
}

/// A container that waits for more than its turn.
fn held_up(pod: &Pod, events: &[Event]) -> Option<What> {
    let status = pod.status.as_ref()?;
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut waiting =
        all.filter_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)));
    let usual = |waiting: &ContainerStateWaiting| {
        matches!(waiting.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing"))
    };
    let (container, waiting) = waiting.find(|(_, waiting)| !usual(waiting))?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let said = waiting.message.as_deref().unwrap_or_default();
    match reason {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            let spec = pod.spec.as_ref()?;
            let mut specs = spec.init_containers.iter().flatten().chain(&spec.containers);
            let image = specs.find(|it| it.name == container.name).and_then(|it| it.image.clone());
            // While it waits to try again, the kubelet only says that it waits.
            let earlier = warnings(pod, events, "Failed").find(|said| said.contains("Failed to pull"));
            let why = words::pull(reason, &format!("{} {said}", earlier.unwrap_or_default()));
            Some(What::Image { image: image.unwrap_or_default(), why })
        }
        _ => {
            Some(missing(said).unwrap_or_else(|| What::Other(words::one_line(&format!("{reason}: {said}")))))
        }
    }
}

/// A volume that cannot be mounted: only warnings tell.
fn unmounted(pod: &Pod, events: &[Event], now: f64) -> Option<What> {
    let age = pod.creation_timestamp().map_or(0.0, |made| now - time::of(&made));
    let mut started = pod.status.as_ref()?.container_statuses.iter().flatten();
    if age < MOUNT_SECONDS || started.any(|container| container.started == Some(true)) {
        return None;
    }
    let said: Vec<&str> =
        warnings(pod, events, "FailedMount").chain(warnings(pod, events, "FailedAttachVolume")).collect();
    said.iter()
        .find_map(|said| missing(said))
        .or_else(|| said.last().map(|said| What::Other(words::one_line(said))))
}

/// What was warned of about a pod, for this reason.
fn warnings<'a>(pod: &Pod, events: &'a [Event], reason: &'a str) -> impl Iterator<Item = &'a str> {
    let uid = pod.uid();
    let name = pod.metadata.name.clone();
    events
        .iter()
        .filter(move |event| {
            let about = &event.involved_object;
            event.reason.as_deref() == Some(reason)
                && about.name == name
                && (about.uid.is_none() || about.uid == uid)
        })
        .filter_map(|event| event.message.as_deref())
}
