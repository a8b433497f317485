//! Names and labels of everything that is made for a job. Pure.

use std::collections::BTreeMap;

use scadles_api::names::labels;
use twox_hash::XxHash64;

/// `spec.managedBy` of objects that are ours; also the field manager.
pub const MANAGER: &str = "scadles-operator";
/// Selects everything that is ours.
pub const MANAGED_SELECTOR: &str = "app.kubernetes.io/managed-by=scadles-operator";
/// Component of a trainer pod.
pub const TRAINER: &str = "trainer";
/// Component of a producer pod.
pub const PRODUCER: &str = "producer";

/// Label of a producer pod: hash of the settings that it was made for.
pub const SETTINGS: &str = "scadles.io/settings";

/// Five characters that tell jobs of the same name apart.
fn short(uid: &str) -> String {
    format!("{:016x}", XxHash64::oneshot(0, uid.as_bytes()))[..5].to_owned()
}

/// Name of a trainer pod: the same for every try, so that a second create is refused.
pub fn trainer_pod(job: &str, device: &str, attempt: u32, uid: &str) -> String {
    format!("{job}-{device}-{attempt}-{}", short(uid))
}

/// Name of the producer pod.
pub fn producer_pod(job: &str, uid: &str) -> String {
    format!("{job}-{PRODUCER}-{}", short(uid))
}

/// Name of ConfigMap, Secret and NetworkPolicy.
pub fn shared(job: &str) -> String {
    format!("{job}-scadles")
}

/// Labels of everything that is made for a job.
pub fn labels_of(job: &str, uid: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "scadles"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (labels::JOB, job),
        (labels::JOB_UID, uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use scadles_api::names::{MAX_DEVICE_NAME_BYTES, MAX_JOB_NAME_BYTES};

    use super::*;

    #[test]
    fn the_longest_name_of_a_pod_is_a_host_name() {
        let (job, device) = ("j".repeat(MAX_JOB_NAME_BYTES), "d".repeat(MAX_DEVICE_NAME_BYTES));
        let name = trainer_pod(&job, &device, 99_999, "0f8fad5b-d9cb-469f-a165-70867728950e");
        assert!(name.len() <= 63, "{name}");
    }

    #[test]
    fn jobs_of_the_same_name_have_pods_of_different_names() {
        assert_ne!(producer_pod("a", "uid-1"), producer_pod("a", "uid-2"));
    }
}
