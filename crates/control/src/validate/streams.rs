//! Devices, topics, batches, buffers, transforms.

use std::collections::BTreeMap;

use scadles_api::{
    ScadlesJob,
    job::{
        Adoption, BatchRuleName, BatchSpec, DeletionPolicy, KafkaSpec, SaslMechanism, ScadlesJobSpec,
        TopicManagement, TopicsSpec, TransformSpec,
    },
    names,
    worker::{BatchBounds, BatchRule, SampleShape, StreamConfig, StreamPolicy, Transform, ValueType},
};

use super::{
    KafkaSecrets, LARGEST_BATCH, MOST_DEVICES, ValidatedDevice, ValidatedTopics, dns_label, records,
};
use crate::{
    dataset::DatasetFacts,
    mistake::{Allowed, Findings},
    text,
};

/// Kafka's limit on topic names.
const LONGEST_TOPIC_BYTES: usize = 249;
/// Default of `spec.stream.bufferBytes`.
const DEFAULT_BUFFER_BYTES: u64 = 64 << 20;
/// Longest window of `StreamRate` in seconds.
const LONGEST_WINDOW_SECONDS: f64 = 3600.0;

pub(super) fn devices(found: &mut Findings, job: &ScadlesJob, namespace: &str) -> Vec<ValidatedDevice> {
    let given = &job.spec.devices;
    found.exactly_one("spec.devices", &[("count", given.count.is_some()), ("named", given.named.is_some())]);
    let template = job.spec.kafka.as_ref().and_then(|kafka| kafka.topics.as_ref()?.name_template.as_deref());
    let template = template.unwrap_or(names::DEFAULT_TOPIC_TEMPLATE);
    let topic = |device: &str| names::topic(template, namespace, &job.metadata.name, device);
    let from_count = given.named.is_none();
    let (devices, paths): (Vec<_>, Vec<_>) = if let Some(named) = &given.named {
        named_devices(found, named, topic)
    } else {
        found.integer_32("spec.devices.count", given.count, 1, 1..=MOST_DEVICES);
        (0..given.count.unwrap_or(0).min(MOST_DEVICES) as usize)
            .map(|index| {
                let name = names::numbered_device(index);
                (ValidatedDevice { topic: topic(&name), name }, "spec.kafka.topics.nameTemplate".to_owned())
            })
            .unzip()
    };
    topic_names(found, &devices, &paths, template, from_count);
    devices
}

fn named_devices(
    found: &mut Findings,
    named: &[scadles_api::job::NamedDevice],
    topic: impl Fn(&str) -> String,
) -> (Vec<ValidatedDevice>, Vec<String>) {
    let most = MOST_DEVICES as usize;
    if named.is_empty() || named.len() > most {
        found.add(
            "spec.devices.named",
            format!("{} devices", named.len()),
            format!("needs 1 to {most} devices"),
            "name at least one device, or give spec.devices.count",
        );
    }
    let mut first_by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, device) in named.iter().enumerate() {
        let path = format!("spec.devices.named[{index}].name");
        dns_label(found, &path, &device.name, names::MAX_DEVICE_NAME_BYTES);
        if let Some(first) = first_by_name.get(device.name.as_str()) {
            let problem = format!("the name is taken by spec.devices.named[{first}]");
            found.add(path, &device.name, problem, "give every device a name of its own");
        } else {
            first_by_name.insert(&device.name, index);
        }
    }
    named
        .iter()
        .enumerate()
        .map(|(index, device)| {
            let path = match device.topic {
                Some(_) => format!("spec.devices.named[{index}].topic"),
                None => "spec.kafka.topics.nameTemplate".to_owned(),
            };
            let topic = device.topic.clone().unwrap_or_else(|| topic(&device.name));
            (ValidatedDevice { name: device.name.clone(), topic }, path)
        })
        .unzip()
}

/// Kafka's rules for topic names, and one topic per device.
fn topic_names(
    found: &mut Findings,
    devices: &[ValidatedDevice],
    paths: &[String],
    template: &str,
    from_count: bool,
) {
    if devices.len() > 1 && from_count && !template.contains("{device}") {
        found.add(
            "spec.kafka.topics.nameTemplate",
            template,
            "gives all devices the same topic; each device needs a stream of its own",
            "put {device} into the template",
        );
        return;
    }
    let mut first_by_topic: BTreeMap<&str, &str> = BTreeMap::new();
    for (device, path) in devices.iter().zip(paths) {
        if !is_topic_name(&device.topic) {
            found.add(
                path,
                &device.topic,
                format!(
                    "a topic's name has 1 to {LONGEST_TOPIC_BYTES} of the characters a-z, A-Z, 0-9, . _ - and \
                     is neither . nor .."
                ),
                "use only these characters",
            );
        }
        // Devices with the same name share a topic, too; that is told with the name.
        let first = first_by_topic.entry(&device.topic).or_insert(&device.name);
        if *first != device.name {
            let problem = format!("is the topic of {first} already; each device needs a stream of its own");
            found.add(path, &device.topic, problem, "give every device a topic of its own");
        }
    }
}

fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=LONGEST_TOPIC_BYTES).contains(&name.len())
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..")
}

pub(super) fn bootstrap_servers(found: &mut Findings, given: Option<&KafkaSpec>) -> Option<String> {
    let servers = &given?.bootstrap_servers;
    if let Some(bad) = servers.split(',').map(str::trim).find(|server| !is_host_and_port(server)) {
        found.add(
            "spec.kafka.bootstrapServers",
            servers,
            format!("`{bad}` is not HOST:PORT"),
            "give a comma-separated list of HOST:PORT, for instance 127.0.0.1:9092",
        );
    }
    Some(servers.clone())
}

/// Whether the text is `host:port` with a port of 1 to 65535; an IPv6 address stands in brackets.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_fine = match host.strip_prefix('[') {
        Some(rest) => rest.ends_with(']') && rest.len() > 2,
        None => !host.is_empty() && !host.contains(|letter: char| letter == ':' || letter.is_whitespace()),
    };
    host_is_fine && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Kafka's own limit on settings is far above; more than this is a slip of the pen.
const MOST_TOPIC_SETTINGS: usize = 64;

pub(super) fn topics(found: &mut Findings, given: Option<&KafkaSpec>) -> ValidatedTopics {
    let given = given.and_then(|kafka| kafka.topics.as_ref());
    let partitions = given.and_then(|topics| topics.partitions);
    found.integer_32("spec.kafka.topics.partitions", partitions, 1, 1..=256);
    let replication = given.and_then(|topics| topics.replication_factor);
    ValidatedTopics {
        management: given.and_then(|topics| topics.management).unwrap_or(TopicManagement::Operator),
        partitions,
        replication: found.integer_32("spec.kafka.topics.replicationFactor", replication, 1, 1..=32),
        config: topic_settings(found, given),
        adoption: given.and_then(|topics| topics.adoption).unwrap_or(Adoption::Refuse),
        deletion_policy: given.and_then(|topics| topics.deletion_policy).unwrap_or(DeletionPolicy::Retain),
    }
}

/// `retentionMs` and `config` as one map; a compacted topic would lose samples unseen.
fn topic_settings(found: &mut Findings, given: Option<&TopicsSpec>) -> BTreeMap<String, String> {
    let mut settings = given.and_then(|topics| topics.config.clone()).unwrap_or_default();
    let path = |key: &str| format!("spec.kafka.topics.config[{key}]");
    if settings.len() > MOST_TOPIC_SETTINGS {
        let problem = format!("needs at most {MOST_TOPIC_SETTINGS} settings");
        found.add("spec.kafka.topics.config", settings.len(), problem, "keep those that matter");
    }
    if let Some(policy) = settings.get("cleanup.policy").filter(|policy| policy.contains("compact")) {
        let remedy = "remove it, or write delete";
        found.add(
            path("cleanup.policy"),
            policy,
            "a compacted topic drops samples that nobody has trained on",
            remedy,
        );
    }
    if let Some(milliseconds) = given.and_then(|topics| topics.retention_ms) {
        let milliseconds = found.integer(
            "spec.kafka.topics.retentionMs",
            Some(milliseconds),
            3_600_000,
            1000..=i64::MAX as u64,
        );
        if settings.contains_key("retention.ms") {
            let remedy = "keep one of the two";
            found.add(path("retention.ms"), "", "says the same as spec.kafka.topics.retentionMs", remedy);
        }
        settings.insert("retention.ms".to_owned(), milliseconds.to_string());
    }
    settings
}

pub(super) fn kafka_secrets(found: &mut Findings, given: Option<&KafkaSpec>) -> KafkaSecrets {
    let Some(given) = given else { return KafkaSecrets::default() };
    let mut named = |path: &str, name: &str| {
        if !names::is_object_name(name) {
            let problem = "is no name of a Secret: 1 to 253 of the characters a-z, 0-9, - and .";
            found.add(path, name, problem, "give the Secret's name");
        }
    };
    if let Some(secret) = given.tls.as_ref().and_then(|tls| tls.ca_secret.as_deref()) {
        named("spec.kafka.tls.caSecret", secret);
    }
    if let Some(sasl) = &given.sasl {
        named("spec.kafka.sasl.secret", &sasl.secret);
        if sasl.mechanism == SaslMechanism::Plain && given.tls.is_none() {
            found.add(
                "spec.kafka.sasl.mechanism",
                "Plain",
                "sends the password as it is over an unencrypted connection",
                "give spec.kafka.tls as well, or use ScramSha512",
            );
        }
    }
    KafkaSecrets {
        tls: given.tls.as_ref().map(|tls| tls.ca_secret.clone()),
        sasl: given.sasl.as_ref().map(|sasl| (sasl.mechanism, sasl.secret.clone())),
    }
}

pub(super) fn stream(
    found: &mut Findings,
    spec: &ScadlesJobSpec,
    samples: SampleShape,
    producer_facts: Option<DatasetFacts>,
) -> StreamConfig {
    let given = spec.stream.as_ref();
    let (batch, batch_bounds) = batch(found, given.and_then(|stream| stream.batch.as_ref()));
    let buffer_bytes = given.and_then(|it| it.buffer_bytes).map_or(DEFAULT_BUFFER_BYTES, |size| size.0);
    let largest = match batch {
        BatchRule::Fixed { size } => size.max(batch_bounds.max),
        BatchRule::StreamRate { .. } | BatchRule::LineRate => batch_bounds.max,
    };
    let needed = u64::from(largest) * samples.sample_bytes() as u64;
    if buffer_bytes < needed {
        found.add(
            "spec.stream.bufferBytes",
            text::bytes(buffer_bytes),
            format!(
                "has no room for the largest batch: {largest} samples of {} bytes are {needed} bytes",
                samples.sample_bytes()
            ),
            format!("give at least {needed}, or a smaller spec.stream.batch.max"),
        );
    }
    StreamConfig {
        format: samples.format,
        start_from: records::start_from(found, given),
        end: records::end(found, spec),
        policy: given.and_then(|it| it.policy).unwrap_or(StreamPolicy::Persistence),
        batch,
        batch_bounds,
        transform: transform(found, given.and_then(|it| it.transform.as_ref()), &samples, producer_facts),
        buffer_bytes,
        max_rejected_share: found.number(
            "spec.stream.maxRejectedShare",
            given.and_then(|it| it.max_rejected_share),
            0.01,
            Allowed::Share,
        ),
    }
}

fn batch(found: &mut Findings, given: Option<&BatchSpec>) -> (BatchRule, BatchBounds) {
    let name = given.map_or(BatchRuleName::LineRate, |batch| batch.rule);
    let window = given.and_then(|batch| batch.window_seconds);
    let fixed = given.and_then(|batch| batch.fixed.as_ref());
    if let Some(seconds) = window.filter(|_| name != BatchRuleName::StreamRate) {
        found.add(
            "spec.stream.batch.windowSeconds",
            seconds,
            format!("belongs to the rule StreamRate; the rule is {name:?}"),
            "remove it, or set spec.stream.batch.rule: StreamRate",
        );
    }
    if fixed.is_some() && name != BatchRuleName::Fixed {
        found.add(
            "spec.stream.batch.fixed",
            "",
            format!("belongs to the rule Fixed; the rule is {name:?}"),
            "remove it, or set spec.stream.batch.rule: Fixed",
        );
    }
    let min =
        found.integer_32("spec.stream.batch.min", given.and_then(|batch| batch.min), 8, 1..=LARGEST_BATCH);
    let max =
        found.integer_32("spec.stream.batch.max", given.and_then(|batch| batch.max), 1024, 1..=LARGEST_BATCH);
    if min > max {
        found.add(
            "spec.stream.batch",
            format!("min {min}, max {max}"),
            "min is above max: no batch is possible",
            "lower spec.stream.batch.min (8 if left out) or raise spec.stream.batch.max (1024 if left out)",
        );
    }
    let max_skip = found.integer_32(
        "spec.stream.batch.maxSkip",
        given.and_then(|batch| batch.max_skip),
        4,
        0..=1_000_000,
    );
    let mut bounds = BatchBounds { min, max, max_skip };
    let rule = match name {
        BatchRuleName::Fixed => {
            let given_min = given.and_then(|batch| batch.min);
            let size = fixed_size(found, fixed.and_then(|fixed| fixed.size), given_min, max);
            // The default lower bound must not contradict a small size; a device never sits out under this rule.
            bounds.min = min.min(size);
            BatchRule::Fixed { size }
        }
        BatchRuleName::StreamRate => BatchRule::StreamRate {
            window_seconds: found.number(
                "spec.stream.batch.windowSeconds",
                window,
                1.0,
                Allowed::Positive(LONGEST_WINDOW_SECONDS),
            ),
        },
        BatchRuleName::LineRate => BatchRule::LineRate,
    };
    (rule, bounds)
}

fn fixed_size(found: &mut Findings, size: Option<u32>, min: Option<u32>, max: u32) -> u32 {
    let path = "spec.stream.batch.fixed.size";
    let size = found.integer_32(path, size, 64, 1..=LARGEST_BATCH);
    let min = min.unwrap_or(1);
    let possible = (1..=LARGEST_BATCH).contains(&size);
    if possible && min <= max && !(min..=max).contains(&size) {
        found.add(
            path,
            size,
            format!("lies outside the bounds spec.stream.batch.min = {min} and max = {max}"),
            "give a size within the bounds, or move the bounds",
        );
    }
    size
}

fn transform(
    found: &mut Findings,
    given: Option<&TransformSpec>,
    samples: &SampleShape,
    facts: Option<DatasetFacts>,
) -> Transform {
    let [channels, height, width] = samples.input_shape;
    // Statistics of a data set of another shape would be told twice; the shape itself is a mistake already.
    let facts = facts.filter(|facts| facts.input_shape == samples.input_shape);
    // What comes as numbers is standardised already, as far as anybody knows.
    let (usual_mean, usual_std) = match samples.value_type() {
        ValueType::U8 => (0.5, 0.25),
        ValueType::F32 => (0.0, 1.0),
    };
    let default = |of: fn(DatasetFacts) -> &'static [f32], fallback: f32| {
        facts.map_or_else(|| vec![fallback; channels as usize], |facts| of(facts).to_vec())
    };
    let narrow = |values: &Vec<f64>| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
    let mean = given.and_then(|it| it.mean.as_ref());
    let std = given.and_then(|it| it.std.as_ref());
    for (name, values) in [("mean", mean), ("std", std)] {
        let Some(values) = values else { continue };
        let path = format!("spec.stream.transform.{name}");
        if values.len() != channels as usize {
            found.add(
                &path,
                format!("{values:?}"),
                format!("has {} entries for {channels} channels of spec.model.inputShape", values.len()),
                "give one number per channel",
            );
        }
        let fine = |value: &f64| value.is_finite() && value.abs() <= 1e6 && (name == "mean" || *value > 1e-6);
        if !values.iter().all(fine) {
            let problem = if name == "mean" { "needs finite numbers" } else { "needs numbers above 0" };
            found.add(
                &path,
                format!("{values:?}"),
                problem,
                "give statistics of the values: bytes count from 0 to 1",
            );
        }
    }
    let padding = given.and_then(|it| it.random_crop_padding).unwrap_or(0);
    let smaller_side = height.min(width);
    if padding >= smaller_side && padding > 0 {
        found.add(
            "spec.stream.transform.randomCropPadding",
            padding,
            format!("must be below the smaller side of the picture, {smaller_side}"),
            "give for instance an eighth of the side",
        );
    }
    Transform {
        mean: mean.map_or_else(|| default(|facts| facts.mean, usual_mean), narrow),
        std: std.map_or_else(|| default(|facts| facts.std, usual_std), narrow),
        random_crop_padding: padding,
        horizontal_flip: given.and_then(|it| it.horizontal_flip).unwrap_or(false),
    }
}
