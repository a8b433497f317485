//! Names that several parts must derive alike.

/// API group of the custom resource.
pub const GROUP: &str = "scadles.io";
/// Version of the custom resource.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of a job file.
pub const API_VERSION: &str = "scadles.io/v1alpha1";
/// `kind` of a job file.
pub const KIND: &str = "ScadlesJob";
/// Namespace of a job whose file names none (the local body).
pub const DEFAULT_NAMESPACE: &str = "default";
/// Longest job name: leaves room for `<job>-<device>-<attempt>-<hash>` within a pod's 63 characters.
pub const MAX_JOB_NAME_BYTES: usize = 30;
/// Longest device name.
pub const MAX_DEVICE_NAME_BYTES: usize = 18;
/// Template of topic names when the job gives none.
pub const DEFAULT_TOPIC_TEMPLATE: &str = "{namespace}.{job}.{device}";

/// Port of a trainer pod's endpoint.
pub const ENDPOINT_PORT: u16 = 7200;
/// Port of a trainer pod's control hub.
pub const HUB_PORT: u16 = 7201;
/// File of a run folder with the settings of its virtual clock, where it has one.
pub const VIRTUAL_CLOCK: &str = "virtual-clock.json";
/// Where a pod finds the keys of the bucket of results.
pub const OUTPUT_KEYS: &str = "/etc/scadles/storage/output";
/// Labels of everything that the operator makes.
pub mod labels {
    /// Job's name.
    pub const JOB: &str = "scadles.io/job";
    /// Job's UID: an object of an earlier job of the same name is not this one's.
    pub const JOB_UID: &str = "scadles.io/job-uid";
    /// `trainer` or `producer`.
    pub const COMPONENT: &str = "scadles.io/component";
    /// Device of a trainer pod.
    pub const DEVICE: &str = "scadles.io/device";
    /// Attempt that a trainer pod was made for.
    pub const ATTEMPT: &str = "scadles.io/attempt";
}

/// Name of the n-th device (from 0) of a job that only gives a count.
pub fn numbered_device(index: usize) -> String {
    format!("device-{index}")
}

/// Fills `{namespace}`, `{job}` and `{device}` into a topic name template.
pub fn topic(template: &str, namespace: &str, job: &str, device: &str) -> String {
    template.replace("{namespace}", namespace).replace("{job}", job).replace("{device}", device)
}

/// Whether `name` is a DNS label (RFC 1123) of at most `max_bytes`.
pub fn is_dns_label(name: &str, max_bytes: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    !name.is_empty()
        && name.len() <= max_bytes
        && name.bytes().all(inner)
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
}

/// Whether `name` can be the name of a Secret, claim or other object (a DNS subdomain, RFC 1123).
pub fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|label| is_dns_label(label, 253))
}

/// Directory and object prefix of the checkpoint taken after `step` by `attempt`; sorts by age.
pub fn checkpoint(attempt: u32, step: u64) -> String {
    format!("{attempt:04}-{step:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels_are_told_from_other_names() {
        for good in ["a", "cifar10-s1", "9"] {
            assert!(is_dns_label(good, 30), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(!is_dns_label(bad, 30), "{bad}");
        }
    }

    #[test]
    fn topics_follow_their_template() {
        assert_eq!(topic(DEFAULT_TOPIC_TEMPLATE, "demo", "s1", "device-0"), "demo.s1.device-0");
    }
}
