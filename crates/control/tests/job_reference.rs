//! `docs/job.md` is generated: fields and meanings from the types, bounds from what `validate` answers to impossible
//! values. This suite fails when the document is not the generated text; `SCADLES_WRITE_GOLDEN=1` writes it anew.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

use std::{fmt::Write, path::Path};

use scadles_control::{parse_job, validate};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const EXAMPLE: &str = include_str!("../golden/every-part.yaml");

const HEAD: &str = "\
# The job file

A job is one YAML file of kind `ScadlesJob`. `scadles plan FILE` checks it and lists every mistake at once: path, value,
what is allowed, what to do, and for an unknown name the nearest known one. Unknown fields are mistakes. A field without a
value counts as left out. Quantities carry their unit in their name (`…Seconds`, `…Bytes`); *share* means a number
between 0 and 1.

This text is generated from the types and from the answers of the validation (`crates/control/tests/job_reference.rs`).
Fields in **bold** must be given where their section is.
";

const SECTIONS: [(&str, &str); 4] = [
    (
        "What belongs together",
        "- `spec.devices`, `spec.completion`, `spec.producer.rates` and `spec.checkpoint.storage`: exactly one member.\n\
         - `spec.stream.batch.windowSeconds` belongs to the rule `StreamRate`, `spec.stream.batch.fixed` to `Fixed`,\n\
         \x20 `spec.producer.labelSkew` to the partition `LabelSkew`, `files` to the data set `Files`,\n\
         \x20 `spec.model.torchScript` to the model `TorchScript`, `spec.model.stem` to the ResNets,\n\
         \x20 `spec.training.learningRateCap` to `learningRateScaling: Capped`; `AdaScale` needs two devices.\n\
         - `spec.stream.image` belongs to the format `Image`, `tensor` to `Tensor`, `timestamp` to `startFrom: Timestamp`,\n\
         \x20 `end.idle` to the rule `Idle`.\n\
         - Values of a record lie channel by channel, row by row. `Image` needs 1 channel (grey) or 3 (red, green, blue);\n\
         \x20 pictures that are scaled have at most 8,388,608 pixels and 8,192 a side, and take up to about 100 MB while they are\n\
         \x20 decoded. Values of `F32` are finite. A record that is otherwise, or has no label, is `rejected`.\n\
         - `numClasses` is at most 256 with `CifarBinary`, 100 with `Cifar100`, 1,024 with `Image` and `Tensor`;\n\
         \x20 `spec.training.classWeights` has so many entries, not all 0.\n\
         - A producer sends its data set in the stream's format: pictures as PNG files, `F32` as numbers from 0 to 1 (own files\n\
         \x20 as they are). Records of `Cifar100` need a data set with coarse labels: `Cifar100` or `Files`.\n\
         - `spec.completion.streamEnd` and a `spec.stream.end` other than `Never` need each other, and no `spec.producer`.\n\
         \x20 `OffsetsAtStart` needs `policy: Persistence` and not `startFrom: Latest`; `idle.seconds` is below\n\
         \x20 `spec.runPolicy.stallSeconds`. What lies behind an end is not counted as arrived.\n\
         - The embedded broker knows no `startFrom: Timestamp`.\n\
         - `spec.compression.ratio` belongs to the modes `Static`, `Adaptive` and `Auto`, `delta` and `energyOf` to the last two.\n\
         - `spec.injection.replicate` belongs to the mode `Replicate`. `sharedFraction` times the largest batch is at least 1, and\n\
         \x20 `budgetBytesPerStep` has room for a sample with its copies. `optIn: Named`, the default, needs a device with\n\
         \x20 `shareData: true`: raw samples leave a device only where the job says so.\n\
         - `spec.stream.batch.min` is at most `max`; `spec.stream.bufferBytes` has room for a batch of `max` samples.\n\
         - A data set with a name fits `spec.model.inputShape` and `numClasses`: Cifar10 is `[3, 32, 32]` with 10 labels,\n\
         \x20 Cifar100 the same with 100, FashionMnist `[1, 28, 28]` with 10. `Cnn` and the ResNets need sides of at least 8\n\
         \x20 pixels, the VGGs of 32; at most 16 channels and 512 pixels a side.\n\
         - `spec.producer.rates.list` has one rate per device. Drawn rates (`uniform`, `normal`) follow from the seed and are\n\
         \x20 whole numbers from a mean of 4 on; draws at or below 0 are repeated.\n\
         - `spec.completion.targetAccuracy` needs `spec.evaluation.everySteps` above 0.\n\
         - The embedded broker needs `spec.producer`, and not more than half of the machine's memory.\n\
         - Without `spec.evaluation` nothing is evaluated, and `scadles evaluate` has no data set to look at.\n",
    ),
    (
        "What overrides the file",
        "`--kafka HOST:PORT` stands in for `spec.kafka.bootstrapServers`; `--kafka embedded` for no `spec.kafka`;\n\
         `--backend` for `spec.backend`. Folders of\n\
         results and data sets and the number of threads are arguments of `scadles run`, not fields.\n",
    ),
    (
        "What a cluster asks besides",
        "- `spec.kafka` is needed, with names that every namespace can resolve (`kafka.demo.svc:9092`).\n\
         - `spec.checkpoint.storage` needs `persistentVolumeClaim` or `s3`; `path` is for `scadles run` alone.\n\
         - `spec.data` is needed where a data set is sent or evaluated, or the model is `TorchScript`; files are\n\
         \x20 looked for below it.\n\
         - `spec.backend: Nccl` needs `spec.devices.template.resources.limits` with a whole number of `nvidia.com/gpu`, `Gloo` none; a\n\
         \x20 network of `TorchScript` computes on the CPU.\n\
         - `spec.model`, the devices' names and `spec.managedBy` never change; `spec.kafka`, `spec.output` and the storage of\n\
         \x20 checkpoints only while `spec.suspend` is true; every other change replaces the running attempt after a checkpoint.\n\
         - `scadles run` ignores what only a cluster honours, and says so.\n",
    ),
    ("A job with every part", ""),
];

/// Probed together with fields that make the path belong there.
const CONTEXT: [(&str, &str, &str); 7] = [
    ("spec.training.learningRateCap.factor", "spec.training.learningRateScaling", "Capped"),
    ("spec.training.learningRateCap.warmUpEpochs", "spec.training.learningRateScaling", "Capped"),
    ("spec.stream.end.idle.seconds", "spec.stream.end.rule", "Idle"),
    ("spec.stream.batch.fixed.size", "spec.stream.batch.rule", "Fixed"),
    ("spec.stream.batch.fixed", "spec.stream.batch.rule", "Fixed"),
    ("spec.stream.batch.windowSeconds", "spec.stream.batch.rule", "StreamRate"),
    ("spec.producer.labelSkew.labelsPerDevice", "spec.producer.partition", "LabelSkew"),
];

/// Bounds that follow from another field; the probe would give those of the example.
const DEPENDENT: [(&str, &str); 2] = [
    ("spec.producer.labelSkew.labelsPerDevice", "an integer from 1 to `spec.model.numClasses`"),
    ("spec.evaluation.samples", "an integer from 1 to the size of the test split"),
];

fn schema() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<scadles_api::ScadlesJob>().to_value()
}

/// The schema of a field without the alternative `null` of optional ones.
fn given(node: &Value) -> &Value {
    let alternatives = node.get("anyOf").and_then(Value::as_array);
    alternatives
        .and_then(|them| them.iter().find(|it| it.get("type") != Some(&json!("null"))))
        .filter(|_| node.get("x-kubernetes-int-or-string").is_none())
        .unwrap_or(node)
}

fn text(node: &Value, key: &str) -> String {
    node.get(key).and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

fn kind(node: &Value) -> String {
    let node = given(node);
    if node.get("x-kubernetes-int-or-string").is_some() {
        return "bytes, such as `64Mi`".to_owned();
    }
    if let Some(choices) = choices(node) {
        return choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    }
    let types = match &node["type"] {
        Value::Array(types) => types.iter().find(|it| **it != json!("null")).cloned().unwrap_or_default(),
        other => other.clone(),
    };
    match types.as_str().unwrap_or_default() {
        "array" => match node.get("items") {
            Some(items) if items.get("properties").is_some() => "list of objects".to_owned(),
            Some(items) => format!("list of {}s", kind(items)),
            None => "list".to_owned(),
        },
        "object" if node.get("properties").is_none() => "map of text".to_owned(),
        "string" => "text".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        other => other.to_owned(),
    }
}

fn choices(node: &Value) -> Option<Vec<(String, String)>> {
    node.get("oneOf")?
        .as_array()?
        .iter()
        .map(|choice| Some((choice.get("const")?.as_str()?.to_owned(), text(choice, "description"))))
        .collect()
}

fn set(job: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(job, |node, name| {
        if node.is_null() {
            *node = Value::Object(Map::new());
        }
        &mut node[name]
    });
    *place = value;
}

/// What `validate` says is allowed at `path`, when impossible values are put there.
fn bounds(path: &str) -> Option<String> {
    if let Some((_, words)) = DEPENDENT.iter().find(|(dependent, _)| *dependent == path) {
        return Some((*words).to_owned());
    }
    let parsed = parse_job(EXAMPLE).unwrap();
    for impossible in [json!(0), json!(u32::MAX), json!(-1.0), json!(u64::MAX), json!(1e300)] {
        let mut job = serde_json::to_value(&parsed).unwrap();
        for (_, other, choice) in CONTEXT.iter().filter(|context| context.0 == path) {
            set(&mut job, other, json!(choice));
        }
        set(&mut job, path, impossible);
        let Ok(job) = serde_json::from_value(job) else { continue };
        let Err(mistakes) = validate(&job) else { continue };
        let told = mistakes.iter().filter(|mistake| mistake.path == path);
        let allowed = told.filter_map(|mistake| mistake.problem.strip_prefix("allowed is "));
        if let Some(allowed) = allowed.map(str::to_owned).next() {
            return Some(allowed);
        }
    }
    None
}

fn meaning(path: &str, node: &Value) -> String {
    // The comment of the field comes before the comment of its type.
    let mut meaning = text(node, "description");
    if let Some(allowed) = bounds(path) {
        let _ = write!(meaning, " *Allowed:* {allowed}.");
    }
    for (choice, description) in choices(given(node)).unwrap_or_default() {
        let _ = write!(meaning, " `{choice}`: {description}");
    }
    meaning
}

fn section(out: &mut String, path: &str, node: &Value) {
    let node = given(node);
    let Some(fields) = node.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let title = if path.is_empty() { "The file" } else { path };
    let _ = write!(out, "\n## {title}\n\n| field | value | meaning |\n|---|---|---|\n");
    let mut below = Vec::new();
    for (name, field) in fields {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let shown =
            if required.contains(&name.as_str()) { format!("**`{name}`**") } else { format!("`{name}`") };
        let inner = given(field);
        let items = inner.get("items").filter(|items| items.get("properties").is_some());
        let value = if inner.get("properties").is_some() { "see below".to_owned() } else { kind(field) };
        let _ = writeln!(out, "| {shown} | {value} | {} |", meaning(&at, field));
        match items {
            Some(items) => below.push((format!("{at}[]"), items)),
            None => below.push((at, inner)),
        }
    }
    for (at, inner) in below {
        section(out, &at, inner);
    }
}

fn reference() -> String {
    let mut out = HEAD.to_owned();
    section(&mut out, "", &schema());
    for (title, body) in SECTIONS {
        let _ = write!(out, "\n## {title}\n\n{body}");
    }
    let _ = write!(out, "```yaml\n{EXAMPLE}```\n");
    out
}

#[test]
fn the_reference_of_the_job_file_says_what_the_types_and_the_validation_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/job.md");
    let generated = reference();
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == generated, "docs/job.md is out of date; SCADLES_WRITE_GOLDEN=1 writes it anew");
}

#[test]
fn the_example_with_every_part_has_no_mistake() {
    validate(&parse_job(EXAMPLE).unwrap()).unwrap();
}
