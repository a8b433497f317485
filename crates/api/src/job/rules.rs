//! The rules that the API server checks (CEL), each with the words of its refusal: what the schema's shape cannot say and
//! an expression can. `scadles-control::validate` says all of it too, and more.
//!
//! A rule with `oldSelf` is about changes. Reference: Kubernetes, "Validation rules" of custom resource definitions.

/// A CEL expression over `self`, and the message when it is false.
pub type RuleText = (&'static str, &'static str);

/// Names of everything that is made for a job must fit into 63 characters, and a dot would end a host name.
pub const JOB_NAME: RuleText = (
    "self.metadata.name.size() <= 30 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name needs 1 to 30 of the characters a-z, 0-9 and -, no - at either end",
);

pub(super) const ONE_RATE_PER_DEVICE: RuleText = (
    "!has(self.producer) || !has(self.producer.rates.list) || self.producer.rates.list.size() == \
     (has(self.devices.count) ? self.devices.count : (has(self.devices.named) ? self.devices.named.size() : 0))",
    "spec.producer.rates.list needs one rate per device",
);
pub(super) const TARGET_NEEDS_EVALUATION: RuleText = (
    "!has(self.completion.targetAccuracy) || has(self.evaluation)",
    "spec.completion.targetAccuracy needs spec.evaluation",
);
pub(super) const MODEL_IS_FIXED: RuleText =
    ("self.model == oldSelf.model", "spec.model cannot change: make a new job");
pub(super) const DEVICE_COUNT_IS_FIXED: RuleText = (
    "has(self.devices.count) == has(oldSelf.devices.count) && \
     (!has(self.devices.count) || self.devices.count == oldSelf.devices.count)",
    "spec.devices.count cannot change: make a new job",
);
pub(super) const DEVICE_NAMES_ARE_FIXED: RuleText = (
    "has(self.devices.named) == has(oldSelf.devices.named) && (!has(self.devices.named) || \
     self.devices.named.map(d, d.name) == oldSelf.devices.named.map(d, d.name))",
    "the names in spec.devices.named cannot change: make a new job",
);
pub(super) const KAFKA_WHILE_SUSPENDED: RuleText = (
    "(has(oldSelf.suspend) && oldSelf.suspend) || (has(self.kafka) == has(oldSelf.kafka) && \
     (!has(self.kafka) || self.kafka == oldSelf.kafka))",
    "spec.kafka can only change while spec.suspend is true",
);
pub(super) const STORAGE_WHILE_SUSPENDED: RuleText = (
    "(has(oldSelf.suspend) && oldSelf.suspend) || \
     ((has(self.checkpoint) && has(self.checkpoint.storage)) == \
     (has(oldSelf.checkpoint) && has(oldSelf.checkpoint.storage)) && \
     (!(has(self.checkpoint) && has(self.checkpoint.storage)) || \
     self.checkpoint.storage == oldSelf.checkpoint.storage))",
    "spec.checkpoint.storage can only change while spec.suspend is true",
);
pub(super) const OUTPUT_WHILE_SUSPENDED: RuleText = (
    "(has(oldSelf.suspend) && oldSelf.suspend) || (has(self.output) == has(oldSelf.output) && \
     (!has(self.output) || self.output == oldSelf.output))",
    "spec.output can only change while spec.suspend is true",
);
pub(super) const MANAGED_BY_IS_FIXED: RuleText = (
    "has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
    "spec.managedBy cannot change",
);
pub(super) const BATCH_BOUNDS: RuleText = (
    "(has(self.min) ? self.min : 1) <= (has(self.max) ? self.max : 1024)",
    "spec.stream.batch.min must not be above max (1024 if left out)",
);
pub(super) const WINDOW_OF_STREAM_RATE: RuleText = (
    "!has(self.windowSeconds) || self.rule == 'StreamRate'",
    "spec.stream.batch.windowSeconds belongs to the rule StreamRate",
);
pub(super) const FIXED_OF_FIXED: RuleText =
    ("!has(self.fixed) || self.rule == 'Fixed'", "spec.stream.batch.fixed belongs to the rule Fixed");
pub(super) const FIXED_WITHIN_BOUNDS: RuleText = (
    "!has(self.fixed) || !has(self.fixed.size) || (self.fixed.size >= (has(self.min) ? self.min : 1) && \
     self.fixed.size <= (has(self.max) ? self.max : 1024))",
    "spec.stream.batch.fixed.size must lie within min and max",
);
pub(super) const PARTITIONS_ONLY_GROW: RuleText = (
    "!has(oldSelf.partitions) || (has(self.partitions) && self.partitions >= oldSelf.partitions)",
    "spec.kafka.topics.partitions can only grow: Kafka has no way back",
);
pub(super) const PLAIN_NEEDS_TLS: RuleText = (
    "!has(self.sasl) || self.sasl.mechanism != 'Plain' || has(self.tls)",
    "spec.kafka.sasl.mechanism Plain sends the password as it is: give spec.kafka.tls as well",
);
pub(super) const COUNT_OR_NAMED: RuleText =
    ("has(self.count) != has(self.named)", "spec.devices needs exactly one of count, named");
pub(super) const SOME_DEVICE: RuleText = (
    "(!has(self.named) || self.named.size() > 0) && (!has(self.count) || self.count > 0)",
    "spec.devices needs at least one device",
);
pub(super) const DEVICE_NAME: RuleText = (
    "self.name.size() <= 18 && self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "spec.devices.named[].name needs 1 to 18 of the characters a-z, 0-9 and -, no - at either end",
);
pub(super) const FILES_OF_FILES: RuleText =
    ("(self.name == 'Files') == has(self.files)", "files belongs to the data set Files, and only to it");
pub(super) const SKEW_OF_LABEL_SKEW: RuleText = (
    "!has(self.labelSkew) || (has(self.partition) && self.partition == 'LabelSkew')",
    "spec.producer.labelSkew belongs to the partition LabelSkew",
);
pub(super) const ONE_KIND_OF_RATES: RuleText = (
    "(has(self.list) ? 1 : 0) + (has(self.constant) ? 1 : 0) + (has(self.uniform) ? 1 : 0) + \
     (has(self.normal) ? 1 : 0) == 1",
    "spec.producer.rates needs exactly one of list, constant, uniform, normal",
);
pub(super) const RATIO_OF_COMPRESSION: RuleText = (
    "!has(self.ratio) || self.mode != 'None'",
    "spec.compression.ratio belongs to the modes Static and Adaptive",
);
pub(super) const DELTA_OF_ADAPTIVE: RuleText =
    ("!has(self.delta) || self.mode == 'Adaptive'", "spec.compression.delta belongs to the mode Adaptive");
pub(super) const ENERGY_OF_ADAPTIVE: RuleText = (
    "!has(self.energyOf) || self.mode == 'Adaptive'",
    "spec.compression.energyOf belongs to the mode Adaptive",
);
pub(super) const ONE_COMPLETION: RuleText = (
    "(has(self.maxEpochs) ? 1 : 0) + (has(self.maxSteps) ? 1 : 0) + (has(self.maxSamples) ? 1 : 0) + \
     (has(self.targetAccuracy) ? 1 : 0) == 1",
    "spec.completion needs exactly one of maxEpochs, maxSteps, maxSamples, targetAccuracy",
);
pub(super) const ONE_KIND_OF_DATA: RuleText = (
    "has(self.image) != has(self.persistentVolumeClaim)",
    "spec.data needs exactly one of image, persistentVolumeClaim",
);
pub(super) const ONE_KIND_OF_STORAGE: RuleText = (
    "(has(self.path) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.s3) ? 1 : 0) == 1",
    "storage needs exactly one of path (scadles run), persistentVolumeClaim, s3 (clusters)",
);
