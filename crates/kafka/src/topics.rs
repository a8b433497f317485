//! Topics of a job in a cluster: what has to be done so that they are as the job asks, and whose topics they are.
//!
//! Pure, except [`TopicAdmin`], which asks the brokers and carries the steps out.
//!
//! Guarantees: nothing is deleted but names that begin with `{namespace}.{job}.`; nothing is grown or changed but names
//! that begin with `{namespace}.`; a topic never shrinks; settings that the job does not name stay as they are.

use std::collections::BTreeMap;

use scadles_api::job::{Adoption, TopicManagement};
use scadles_api::names;

use crate::error::Error;

mod admin;
mod progress;
#[cfg(test)]
mod tests;

pub use admin::TopicAdmin;

/// A topic as the job wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTopic {
    /// The device whose stream it is.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Partitions, at least 1; more are accepted.
    pub partitions: u32,
    /// Copies of each record; `None`: the brokers' default. Matters when the topic is made.
    pub replication: Option<u32>,
    /// Settings that the job names; others are left alone.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u32,
    /// Its settings; `None` where the user may not read them.
    pub settings: Option<BTreeMap<String, Setting>>,
}

/// A setting of a topic in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its value; `None` where the broker keeps it to itself.
    pub value: Option<String>,
    /// It was given for this topic; else it is the brokers' default.
    pub own: bool,
}

/// Whose topics are whose, and what may be done to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// The job's namespace.
    pub namespace: String,
    /// The job.
    pub job: String,
    /// `spec.kafka.topics.nameTemplate`, or its default.
    pub name_template: String,
    /// Who makes topics.
    pub management: TopicManagement,
    /// What happens to topics that are not the job's own.
    pub adoption: Adoption,
    /// The job has read from its topics: one that is gone is not made again, because offsets of before mean nothing in it.
    pub started: bool,
}

impl TopicRules {
    /// Whether the job may make the topic, use it again, let it grow and change its settings.
    ///
    /// A name tells: `{namespace}.{job}.…` is the job's whatever the template says; another one of the namespace is where
    /// the template gives it for this device.
    pub fn is_own(&self, device: &str, name: &str) -> bool {
        let by_template = || names::topic(&self.name_template, &self.namespace, &self.job, device) == name;
        self.may_delete(name) || (name.starts_with(&self.namespace_prefix()) && by_template())
    }

    /// Whether the topic goes with the job.
    pub fn may_delete(&self, name: &str) -> bool {
        let prefix = format!("{}.{}.", self.namespace, self.job);
        name.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty())
    }

    fn namespace_prefix(&self) -> String {
        format!("{}.", self.namespace)
    }
}

/// Where a topic comes from that a job uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicOrigin {
    /// Made now.
    Created,
    /// The job's own, there before: it may hold records of an earlier life.
    Reused,
    /// Somebody else's, used as it is (`adoption: Adopt`).
    Adopted,
    /// Somebody else's, by `management: External`.
    External,
}

/// One step on the way to the topics that a job wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicStep {
    /// Make it.
    Create(WantedTopic),
    /// Add partitions.
    Grow {
        /// The topic.
        name: String,
        /// Partitions that it has.
        from: u32,
        /// Partitions that it needs.
        to: u32,
    },
    /// Change these settings and no other.
    Configure {
        /// The topic.
        name: String,
        /// What changes.
        settings: BTreeMap<String, String>,
    },
    /// Take it as it is, after the steps before.
    Use {
        /// The topic.
        name: String,
        /// Partitions that it has now.
        partitions: u32,
        /// Where it comes from.
        origin: TopicOrigin,
    },
    /// The job cannot have it; nothing is done to any topic.
    Refuse(Error),
}

/// A topic that the job can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its name.
    pub name: String,
    /// Its partitions, at least those asked for.
    pub partitions: u32,
    /// Records that it holds.
    pub records: u64,
    /// Where it comes from.
    pub origin: TopicOrigin,
    /// Partitions before it grew, where it did.
    pub grown_from: Option<u32>,
    /// Settings that were changed.
    pub changed_settings: Vec<String>,
}

/// What became of topics that were to be deleted; every one is in one of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicDeletion {
    /// Deleted now.
    pub deleted: Vec<String>,
    /// Gone before.
    pub missing: Vec<String>,
    /// Not the job's: never touched.
    pub kept: Vec<String>,
    /// Not deleted, and why.
    pub failed: Vec<(String, Error)>,
}

/// What has to be done: per topic, in the order of `wanted`, one `Create`, or one `Refuse`, or `Grow` and `Configure` where
/// they are needed and a `Use`.
pub fn plan_topics(wanted: &[WantedTopic], found: &[FoundTopic], rules: &TopicRules) -> Vec<TopicStep> {
    let found: BTreeMap<&str, &FoundTopic> = found.iter().map(|topic| (topic.name.as_str(), topic)).collect();
    wanted
        .iter()
        .flat_map(|topic| plan_topic(topic, found.get(topic.name.as_str()).copied(), rules))
        .collect()
}

fn plan_topic(wanted: &WantedTopic, found: Option<&FoundTopic>, rules: &TopicRules) -> Vec<TopicStep> {
    let topic = || wanted.name.clone();
    let own = rules.is_own(&wanted.device, &wanted.name);
    let refuse = |error| vec![TopicStep::Refuse(error)];
    let origin = match (rules.management, rules.adoption) {
        (TopicManagement::External, _) => TopicOrigin::External,
        (TopicManagement::Operator, _) if own => TopicOrigin::Reused,
        (TopicManagement::Operator, Adoption::Adopt) => TopicOrigin::Adopted,
        // Whether it is there or not: else a name that was free at the first look would be refused at the second.
        (TopicManagement::Operator, Adoption::Refuse) => {
            return refuse(Error::TopicForeign { topic: topic(), prefix: rules.namespace_prefix() });
        }
    };
    let Some(found) = found else {
        return match (origin, rules.started) {
            (_, true) => refuse(Error::TopicLost { topic: topic() }),
            (TopicOrigin::External, false) => refuse(Error::TopicMissing { topic: topic() }),
            (_, false) => vec![TopicStep::Create(wanted.clone())],
        };
    };
    if let Some(policy) = found.compaction() {
        return refuse(Error::TopicCompacted { topic: topic(), policy });
    }
    let using = TopicStep::Use { name: topic(), partitions: found.partitions, origin };
    if origin != TopicOrigin::Reused {
        let (have, want) = (found.partitions as usize, wanted.partitions as usize);
        if have < want {
            return refuse(Error::TooFewPartitions { topic: topic(), have, want });
        }
        return vec![using];
    }
    let settings = match drift(wanted, found) {
        Ok(settings) => settings,
        Err(error) => return refuse(error),
    };
    let mut steps = Vec::new();
    if wanted.partitions > found.partitions {
        steps.push(TopicStep::Grow { name: topic(), from: found.partitions, to: wanted.partitions });
    }
    if !settings.is_empty() {
        steps.push(TopicStep::Configure { name: topic(), settings });
    }
    steps.push(using);
    steps
}

impl FoundTopic {
    /// The clean-up policy of a compacted topic. A user who may not read settings is believed.
    fn compaction(&self) -> Option<String> {
        let policy = self.settings.as_ref()?.get("cleanup.policy")?.value.clone()?;
        policy.contains("compact").then_some(policy)
    }
}

/// The settings that the job names and that are not in effect.
fn drift(wanted: &WantedTopic, found: &FoundTopic) -> Result<BTreeMap<String, String>, Error> {
    if wanted.settings.is_empty() {
        return Ok(BTreeMap::new());
    }
    let Some(now) = &found.settings else {
        let what = format!("read the settings of topic {:?}", wanted.name);
        let reason = "no DescribeConfigs on the topic; needed because the job names settings".to_owned();
        return Err(Error::NotAuthorized { what, reason });
    };
    let unknown: Vec<&str> =
        wanted.settings.keys().map(String::as_str).filter(|key| !now.contains_key(*key)).collect();
    if !unknown.is_empty() {
        return Err(Error::TopicSettings {
            topic: wanted.name.clone(),
            settings: unknown.join(", "),
            reason: "they know no such setting".to_owned(),
        });
    }
    let differs = |key: &str, value: &str| {
        let now = now.get(key).and_then(|setting| setting.value.as_deref());
        !now.is_some_and(|now| is_same_value(now, value))
    };
    let changed = wanted.settings.iter().filter(|(key, value)| differs(key, value));
    Ok(changed.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Whether two texts mean the same value: brokers answer `0.5` for `0.50`, `true` for `TRUE` and `a,b` for `a, b`.
fn is_same_value(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    if let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return a.total_cmp(&b).is_eq();
    }
    if a.eq_ignore_ascii_case(b) && a.parse::<bool>().or(b.parse::<bool>()).is_ok() {
        return true;
    }
    a.split(',').map(str::trim).eq(b.split(',').map(str::trim))
}

/// All settings that the topic shall have of its own: those that it has, with the changes. A call that names only the
/// changes would reset the others.
fn merged<'a>(
    topic: &str,
    now: &'a BTreeMap<String, Setting>,
    changes: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, &'a str>, Error> {
    let mut all = BTreeMap::new();
    for (key, setting) in now.iter().filter(|(key, setting)| setting.own && !changes.contains_key(*key)) {
        let Some(value) = &setting.value else {
            return Err(Error::TopicSettings {
                topic: topic.to_owned(),
                settings: changes.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                reason: format!(
                    "to change it would reset {key}, whose value they do not tell; change it with kafka-configs"
                ),
            });
        };
        all.insert(key.as_str(), value.as_str());
    }
    all.extend(changes.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    Ok(all)
}
