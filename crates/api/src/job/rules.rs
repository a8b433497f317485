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
pub(super) const FILE_OF_TORCH_SCRIPT: RuleText = (
    "(self.name == 'TorchScript') == has(self.torchScript)",
    "spec.model.torchScript belongs to the model TorchScript, and only to it",
);
pub(super) const STEM_OF_RESNETS: RuleText = (
    "!has(self.stem) || self.name in ['ResNet18', 'ResNet34', 'ResNet50', 'ResNet152']",
    "spec.model.stem belongs to the ResNets",
);
pub(super) const NORMALIZATION_OF_BUILT_IN: RuleText = (
    "!has(self.normalization) || self.name != 'TorchScript'",
    "spec.model.normalization belongs to the built-in models",
);
pub(super) const BATCH_NORM_OF_CONVOLUTIONS: RuleText = (
    "!has(self.normalization) || self.normalization != 'Batch' || self.name != 'Mlp'",
    "spec.model.normalization Batch belongs to networks of convolutions",
);
pub(super) const STATISTICS_OF_BATCH_NORM: RuleText = (
    "!has(self.statistics) || (has(self.normalization) && self.normalization == 'Batch')",
    "spec.model.statistics belongs to normalization Batch",
);
pub(super) const STREAM_END_AND_END: RuleText = (
    "has(self.completion.streamEnd) == \
     (has(self.stream) && has(self.stream.end) && self.stream.end.rule != 'Never')",
    "spec.completion.streamEnd needs a spec.stream.end other than Never, and that needs it",
);
pub(super) const END_WITHOUT_PRODUCER: RuleText = (
    "!has(self.producer) || !has(self.stream) || !has(self.stream.end) || self.stream.end.rule == 'Never'",
    "spec.stream.end must be Never with spec.producer, whose streams have no end",
);
pub(super) const ONE_WEIGHT_PER_CLASS: RuleText = (
    "!has(self.training) || !has(self.training.classWeights) || !has(self.model.numClasses) || \
     self.training.classWeights.size() == self.model.numClasses",
    "spec.training.classWeights needs one weight per class of spec.model.numClasses",
);
pub(super) const CAP_OF_CAPPED: RuleText = (
    "!has(self.learningRateCap) || (has(self.learningRateScaling) && self.learningRateScaling == 'Capped')",
    "spec.training.learningRateCap belongs to the learningRateScaling Capped",
);
pub(super) const IMAGE_OF_IMAGE: RuleText = (
    "!has(self.image) || (has(self.format) && self.format == 'Image')",
    "spec.stream.image belongs to the format Image",
);
pub(super) const TENSOR_OF_TENSOR: RuleText = (
    "!has(self.tensor) || (has(self.format) && self.format == 'Tensor')",
    "spec.stream.tensor belongs to the format Tensor",
);
pub(super) const TIMESTAMP_OF_TIMESTAMP: RuleText = (
    "has(self.timestamp) == (has(self.startFrom) && self.startFrom == 'Timestamp')",
    "spec.stream.timestamp belongs to startFrom Timestamp, and only to it",
);
pub(super) const END_BEHIND_THE_START: RuleText = (
    "!has(self.end) || self.end.rule != 'OffsetsAtStart' || !has(self.startFrom) || self.startFrom != 'Latest'",
    "spec.stream.end OffsetsAtStart leaves nothing behind startFrom Latest",
);
pub(super) const IDLE_OF_IDLE: RuleText =
    ("!has(self.idle) || self.rule == 'Idle'", "spec.stream.end.idle belongs to the rule Idle");
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
    "spec.compression.ratio belongs to the modes Static, Adaptive and Auto",
);
pub(super) const DELTA_OF_ADAPTIVE: RuleText = (
    "!has(self.delta) || self.mode == 'Adaptive' || self.mode == 'Auto'",
    "spec.compression.delta belongs to the modes Adaptive and Auto",
);
pub(super) const ENERGY_OF_ADAPTIVE: RuleText = (
    "!has(self.energyOf) || self.mode == 'Adaptive' || self.mode == 'Auto'",
    "spec.compression.energyOf belongs to the modes Adaptive and Auto",
);
pub(super) const REPLICATE_OF_REPLICATE: RuleText = (
    "!has(self.replicate) || self.mode == 'Replicate'",
    "spec.injection.replicate belongs to the mode Replicate",
);
/// Nobody's samples leave a device unless the job says so.
pub(super) const SHARING_IS_OPTED_IN: RuleText = (
    "!has(self.injection) || (has(self.injection.optIn) && self.injection.optIn == 'All') || \
     (has(self.devices.named) && self.devices.named.exists(d, has(d.shareData) && d.shareData))",
    "spec.injection needs devices that may share: optIn All, or shareData true in spec.devices.named",
);
pub(super) const SHARE_OF_A_BATCH: RuleText = (
    "!has(self.injection) || !has(self.injection.sharedFraction) || !has(self.stream) || !has(self.stream.batch) || \
     !has(self.stream.batch.fixed) || !has(self.stream.batch.fixed.size) || \
     self.injection.sharedFraction * double(self.stream.batch.fixed.size) >= 1.0",
    "spec.injection.sharedFraction must be at least 1 / spec.stream.batch.fixed.size",
);
pub(super) const ONE_COMPLETION: RuleText = (
    "(has(self.maxEpochs) ? 1 : 0) + (has(self.maxSteps) ? 1 : 0) + (has(self.maxSamples) ? 1 : 0) + \
     (has(self.targetAccuracy) ? 1 : 0) + (has(self.streamEnd) ? 1 : 0) == 1",
    "spec.completion needs exactly one of maxEpochs, maxSteps, maxSamples, targetAccuracy, streamEnd",
);
pub(super) const STREAM_END_IS_TRUE: RuleText = (
    "!has(self.streamEnd) || self.streamEnd",
    "spec.completion.streamEnd must be true: leave it out where it does not apply",
);
pub(super) const ONE_KIND_OF_DATA: RuleText = (
    "has(self.image) != has(self.persistentVolumeClaim)",
    "spec.data needs exactly one of image, persistentVolumeClaim",
);
pub(super) const ONE_KIND_OF_STORAGE: RuleText = (
    "(has(self.path) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.s3) ? 1 : 0) == 1",
    "storage needs exactly one of path (scadles run), persistentVolumeClaim, s3 (clusters)",
);
