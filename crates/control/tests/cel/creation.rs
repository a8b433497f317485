//! Rules about one object.

use serde_json::{Value, json};

use super::{Case, spec};

const NAME: &str = "metadata.name needs 1 to 30 of the characters a-z, 0-9 and -, no - at either end";
const FILE_OF_TORCH_SCRIPT: &str = "spec.model.torchScript belongs to the model TorchScript, and only to it";
const BATCH_BOUNDS: &str = "spec.stream.batch.min must not be above max (1024 if left out)";
const FIXED_WITHIN_BOUNDS: &str = "spec.stream.batch.fixed.size must lie within min and max";
const COUNT_OR_NAMED: &str = "spec.devices needs exactly one of count, named";
const SOME_DEVICE: &str = "spec.devices needs at least one device";
const DEVICE_NAME: &str =
    "spec.devices.named[].name needs 1 to 18 of the characters a-z, 0-9 and -, no - at either end";
const ONE_RATE_PER_DEVICE: &str = "spec.producer.rates.list needs one rate per device";
const FILES: &str = "files belongs to the data set Files, and only to it";
const ONE_KIND_OF_RATES: &str = "spec.producer.rates needs exactly one of list, constant, uniform, normal";
const ONE_COMPLETION: &str =
    "spec.completion needs exactly one of maxEpochs, maxSteps, maxSamples, targetAccuracy, streamEnd";
const ONE_KIND_OF_DATA: &str = "spec.data needs exactly one of image, persistentVolumeClaim";
const ONE_KIND_OF_STORAGE: &str =
    "storage needs exactly one of path (scadles run), persistentVolumeClaim, s3 (clusters)";

pub(super) fn cases() -> Vec<Case> {
    let data = [job(), model(), records(), stream_ends(), batches(), devices(), training(), producer()];
    let others = [evaluation(), kafka(), storage(), compression(), injection(), completion()];
    data.into_iter().chain(others).flatten().collect()
}

/// Streams that others send, with an end.
fn ending(stream: Value, completion: Value) -> Value {
    let evaluation = json!({"dataset": {"name": "FashionMnist"}});
    spec(json!({"stream": stream, "producer": null, "evaluation": evaluation, "completion": completion}))
}

fn records() -> Vec<Case> {
    let at = "spec.stream";
    let of = |stream: Value| spec(json!({"stream": stream}));
    let case = |field, message, good, bad| Case::about_one_object(at, field, message, [of(good), of(bad)]);
    vec![
        case(
            "spec.stream.image",
            "spec.stream.image belongs to the format Image",
            json!({"format": "Image", "image": {"fit": "Crop"}}),
            json!({"image": {"fit": "Crop"}}),
        ),
        case(
            "spec.stream.tensor",
            "spec.stream.tensor belongs to the format Tensor",
            json!({"format": "Tensor", "tensor": {"dtype": "F32"}}),
            json!({"format": "Image", "tensor": {"dtype": "F32"}}),
        ),
        case(
            "spec.stream.timestamp",
            "spec.stream.timestamp belongs to startFrom Timestamp, and only to it",
            json!({"startFrom": "Timestamp", "timestamp": "2026-05-04T08:30:00Z"}),
            json!({"startFrom": "Timestamp"}),
        ),
        case(
            "spec.stream.timestamp",
            "spec.stream.timestamp belongs to startFrom Timestamp, and only to it",
            json!({"startFrom": "Latest"}),
            json!({"startFrom": "Latest", "timestamp": "2026-05-04T08:30:00Z"}),
        ),
        Case::about_one_object(
            "spec.stream.end",
            "spec.stream.end.idle",
            "spec.stream.end.idle belongs to the rule Idle",
            [
                of(json!({"end": {"rule": "Never"}})),
                of(json!({"end": {"rule": "Never", "idle": {"seconds": 5.0}}})),
            ],
        ),
    ]
}

fn stream_ends() -> Vec<Case> {
    let both = || json!({"maxSteps": null, "streamEnd": true});
    let end = |rule: &str| json!({"end": {"rule": rule}});
    let case = |at, field, message, good, bad| Case::about_one_object(at, field, message, [good, bad]);
    let at_start = |from: &str| json!({"startFrom": from, "end": {"rule": "OffsetsAtStart"}});
    let needs = "spec.completion.streamEnd needs a spec.stream.end other than Never, and that needs it";
    vec![
        case(
            "spec.stream",
            "spec.stream.end",
            "spec.stream.end OffsetsAtStart leaves nothing behind startFrom Latest",
            ending(at_start("Earliest"), both()),
            ending(at_start("Latest"), both()),
        ),
        case(
            "spec",
            "spec.completion.streamEnd",
            needs,
            ending(end("Idle"), both()),
            ending(end("Never"), both()),
        ),
        case(
            "spec",
            "spec.completion.streamEnd",
            needs,
            ending(end("Never"), json!({})),
            ending(end("OffsetsAtStart"), json!({})),
        ),
        case(
            "spec",
            "spec.stream.end",
            "spec.stream.end must be Never with spec.producer, whose streams have no end",
            ending(end("Idle"), both()),
            spec(json!({"stream": end("Idle"), "completion": both()})),
        ),
        case(
            "spec.completion",
            "spec.completion.streamEnd",
            "spec.completion.streamEnd must be true: leave it out where it does not apply",
            ending(end("Idle"), both()),
            ending(end("Idle"), json!({"maxSteps": null, "streamEnd": false})),
        ),
    ]
}

fn training() -> Vec<Case> {
    let of = |training: Value| spec(json!({"training": training}));
    let weights = |count: usize| of(json!({"classWeights": vec![1.0; count]}));
    let cap = |scaling| of(json!({"learningRateScaling": scaling, "learningRateCap": {"factor": 2.0}}));
    vec![
        Case::about_one_object(
            "spec",
            "spec.training.classWeights",
            "spec.training.classWeights needs one weight per class of spec.model.numClasses",
            [weights(10), weights(9)],
        ),
        Case::about_one_object(
            "spec.training",
            "spec.training.learningRateCap",
            "spec.training.learningRateCap belongs to the learningRateScaling Capped",
            [cap("Capped"), cap("Linear")],
        ),
    ]
}

fn job() -> Vec<Case> {
    let named = |name: &str| json!({"metadata": {"name": name}});
    let case =
        |good: &str, bad: &str| Case::about_one_object("", "metadata.name", NAME, [named(good), named(bad)]);
    vec![case(&"a".repeat(30), &"a".repeat(31)), case("cifar10-s1", "cifar10.s1")]
}

fn model() -> Vec<Case> {
    let of = |model: Value| spec(json!({"model": model}));
    let case =
        |field, message, good, bad| Case::about_one_object("spec.model", field, message, [of(good), of(bad)]);
    let own = || json!({"name": "TorchScript", "torchScript": {"path": "own.pt"}});
    vec![
        case("spec.model.torchScript", FILE_OF_TORCH_SCRIPT, own(), json!({"name": "TorchScript"})),
        case(
            "spec.model.torchScript",
            FILE_OF_TORCH_SCRIPT,
            own(),
            json!({"torchScript": {"path": "own.pt"}}),
        ),
        case(
            "spec.model.stem",
            "spec.model.stem belongs to the ResNets",
            json!({"name": "ResNet152", "stem": "Imagenet"}),
            json!({"name": "Mlp", "stem": "Imagenet"}),
        ),
        case(
            "spec.model.normalization",
            "spec.model.normalization belongs to the built-in models",
            json!({"normalization": "Group"}),
            json!({"name": "TorchScript", "torchScript": {"path": "own.pt"}, "normalization": "Group"}),
        ),
        case(
            "spec.model.normalization",
            "spec.model.normalization Batch belongs to networks of convolutions",
            json!({"name": "ResNet152", "normalization": "Batch", "statistics": "Local"}),
            json!({"name": "Mlp", "normalization": "Batch"}),
        ),
        case(
            "spec.model.statistics",
            "spec.model.statistics belongs to normalization Batch",
            json!({"normalization": "Batch", "statistics": "Agreed"}),
            json!({"statistics": "Agreed"}),
        ),
    ]
}

fn batches() -> Vec<Case> {
    let at = "spec.stream.batch";
    let of = |batch: Value| spec(json!({"stream": {"batch": batch}}));
    let case = |field, message, good, bad| Case::about_one_object(at, field, message, [of(good), of(bad)]);
    vec![
        case("spec.stream.batch", BATCH_BOUNDS, json!({"min": 8, "max": 8}), json!({"min": 9, "max": 8})),
        case("spec.stream.batch", BATCH_BOUNDS, json!({"min": 1024}), json!({"min": 1025})),
        case(
            "spec.stream.batch.windowSeconds",
            "spec.stream.batch.windowSeconds belongs to the rule StreamRate",
            json!({"rule": "StreamRate", "windowSeconds": 2.0}),
            json!({"rule": "LineRate", "windowSeconds": 2.0}),
        ),
        case(
            "spec.stream.batch.fixed",
            "spec.stream.batch.fixed belongs to the rule Fixed",
            json!({"rule": "Fixed", "fixed": {"size": 32}}),
            json!({"rule": "StreamRate", "fixed": {"size": 32}}),
        ),
        case(
            "spec.stream.batch.fixed.size",
            FIXED_WITHIN_BOUNDS,
            json!({"rule": "Fixed", "min": 16, "fixed": {"size": 16}}),
            json!({"rule": "Fixed", "min": 16, "fixed": {"size": 15}}),
        ),
        case(
            "spec.stream.batch.fixed.size",
            FIXED_WITHIN_BOUNDS,
            json!({"rule": "Fixed", "max": 64, "fixed": {"size": 64}}),
            json!({"rule": "Fixed", "max": 64, "fixed": {"size": 65}}),
        ),
        case(
            "spec.stream.batch.fixed.size",
            FIXED_WITHIN_BOUNDS,
            json!({"rule": "Fixed", "fixed": {"size": 1024}}),
            json!({"rule": "Fixed", "fixed": {"size": 1025}}),
        ),
    ]
}

fn devices() -> Vec<Case> {
    // One rate for all, so that the number of devices is free.
    let of = |devices: Value| {
        spec(json!({"devices": devices, "producer": {"rates": {"list": null, "constant": 50.0}}}))
    };
    let case = |field, message, good, bad| {
        Case::about_one_object("spec.devices", field, message, [of(good), of(bad)])
    };
    let two = || json!([{"name": "gate"}, {"name": "hall"}]);
    let name = |good: &str, bad: &str| {
        let named = |name: &str| of(json!({"count": null, "named": [{"name": "gate"}, {"name": name}]}));
        let at = "spec.devices.named[]";
        Case::about_one_object(at, "spec.devices.named[1].name", DEVICE_NAME, [named(good), named(bad)])
    };
    vec![
        case("spec.devices", COUNT_OR_NAMED, json!({"count": 3}), json!({"count": 2, "named": two()})),
        case("spec.devices", COUNT_OR_NAMED, json!({"count": null, "named": two()}), json!({"count": null})),
        case("spec.devices.count", SOME_DEVICE, json!({"count": 1}), json!({"count": 0})),
        case(
            "spec.devices.named",
            SOME_DEVICE,
            json!({"count": null, "named": [{"name": "gate"}]}),
            json!({"count": null, "named": []}),
        ),
        name(&"a".repeat(18), &"a".repeat(19)),
        name("hall-2", "hall_2"),
        name("h", "Hall"),
        name("2", ""),
        name("h--h", "-h"),
        name("hall", "hall-"),
    ]
}

fn producer() -> Vec<Case> {
    let at = "spec.producer";
    let of = |producer: Value| spec(json!({"producer": producer}));
    let rates = |good, bad| {
        let of = |rates: Value| of(json!({"rates": rates}));
        Case::about_one_object(
            "spec.producer.rates",
            "spec.producer.rates",
            ONE_KIND_OF_RATES,
            [of(good), of(bad)],
        )
    };
    let named =
        json!({"devices": {"count": null, "named": [{"name": "gate"}, {"name": "hall"}, {"name": "roof"}]}});
    let of_named = |rates: Value| {
        let mut change = spec(named.clone());
        change["spec"]["producer"] = json!({"rates": {"list": rates}});
        change
    };
    let files = |good, bad| {
        // Own records have no held-out pictures: the evaluation names a data set of its own.
        let of = |dataset: Value| {
            spec(
                json!({"producer": {"dataset": dataset}, "evaluation": {"dataset": {"name": "FashionMnist"}}}),
            )
        };
        let path = "spec.producer.dataset";
        Case::about_one_object(path, "spec.producer.dataset.files", FILES, [of(good), of(bad)])
    };
    let distribution = || json!({"mean": 40.0, "standardDeviation": 8.0});
    vec![
        Case::about_one_object(
            "spec",
            "spec.producer.rates.list",
            ONE_RATE_PER_DEVICE,
            [of(json!({"rates": {"list": [9.5, 3.0]}})), of(json!({"rates": {"list": [9.5]}}))],
        ),
        Case::about_one_object(
            "spec",
            "spec.producer.rates.list",
            ONE_RATE_PER_DEVICE,
            [of_named(json!([9.5, 3.0, 1.0])), of_named(json!([9.5, 3.0]))],
        ),
        Case::about_one_object(
            at,
            "spec.producer.labelSkew",
            "spec.producer.labelSkew belongs to the partition LabelSkew",
            [
                of(json!({"partition": "LabelSkew", "labelSkew": {"labelsPerDevice": 2}})),
                of(json!({"partition": "Iid", "labelSkew": {"labelsPerDevice": 2}})),
            ],
        ),
        Case::about_one_object(
            at,
            "spec.producer.labelSkew",
            "spec.producer.labelSkew belongs to the partition LabelSkew",
            [of(json!({"partition": "LabelSkew"})), of(json!({"labelSkew": {"labelsPerDevice": 2}}))],
        ),
        rates(json!({"list": null, "constant": 20.0}), json!({"list": null})),
        rates(json!({"list": null, "uniform": distribution()}), json!({"constant": 20.0})),
        rates(
            json!({"list": null, "normal": distribution()}),
            json!({"list": null, "normal": distribution(), "uniform": distribution()}),
        ),
        files(
            json!({"name": "Files", "files": {"path": "own/records.bin"}}),
            json!({"name": "FashionMnist", "files": {"path": "own/records.bin"}}),
        ),
        files(json!({"name": "FashionMnist"}), json!({"name": "Files"})),
    ]
}

fn evaluation() -> Vec<Case> {
    let of = |dataset: Value| spec(json!({"evaluation": {"dataset": dataset}}));
    let case = |good, bad| {
        let at = "spec.evaluation.dataset";
        Case::about_one_object(at, "spec.evaluation.dataset.files", FILES, [of(good), of(bad)])
    };
    vec![
        case(
            json!({"name": "Files", "files": {"path": "own/held-out.bin"}}),
            json!({"name": "FashionMnist", "files": {"path": "own/held-out.bin"}}),
        ),
        case(json!({"name": "FashionMnist"}), json!({"name": "Files"})),
    ]
}

fn compression() -> Vec<Case> {
    let of = |compression: Value| spec(json!({"compression": compression}));
    let case = |field, message, good, bad| {
        Case::about_one_object("spec.compression", field, message, [of(good), of(bad)])
    };
    vec![
        case(
            "spec.compression.ratio",
            "spec.compression.ratio belongs to the modes Static, Adaptive and Auto",
            json!({"mode": "Static", "ratio": 0.1}),
            json!({"mode": "None", "ratio": 0.1}),
        ),
        case(
            "spec.compression.delta",
            "spec.compression.delta belongs to the modes Adaptive and Auto",
            json!({"mode": "Adaptive", "delta": 0.3}),
            json!({"mode": "Static", "delta": 0.3}),
        ),
        case(
            "spec.compression.energyOf",
            "spec.compression.energyOf belongs to the modes Adaptive and Auto",
            json!({"mode": "Adaptive", "energyOf": "Gradient"}),
            json!({"mode": "Static", "energyOf": "Gradient"}),
        ),
    ]
}

fn injection() -> Vec<Case> {
    let of = |injection: Value| spec(json!({"injection": injection}));
    let opted_in =
        "spec.injection needs devices that may share: optIn All, or shareData true in spec.devices.named";
    let named = |share_data: Value| {
        let named = json!([{"name": "gate", "shareData": share_data}, {"name": "hall"}]);
        let devices = json!({"count": null, "named": named});
        let producer = json!({"rates": {"list": null, "constant": 50.0}});
        spec(json!({"devices": devices, "producer": producer, "injection": {"mode": "Move"}}))
    };
    let opt_in = |good, bad| Case::about_one_object("spec", "spec.injection.optIn", opted_in, [good, bad]);
    let fixed = |size: u32, share: f64| {
        let batch = json!({"rule": "Fixed", "min": 1, "fixed": {"size": size}});
        let injection = json!({"mode": "Move", "optIn": "All", "sharedFraction": share});
        spec(json!({"stream": {"batch": batch}, "injection": injection}))
    };
    vec![
        opt_in(of(json!({"mode": "Move", "optIn": "All"})), of(json!({"mode": "Move", "optIn": "Named"}))),
        opt_in(of(json!({"mode": "Replicate", "optIn": "All"})), of(json!({"mode": "Replicate"}))),
        opt_in(named(json!(true)), named(json!(false))),
        Case::about_one_object(
            "spec",
            "spec.injection.sharedFraction",
            "spec.injection.sharedFraction must be at least 1 / spec.stream.batch.fixed.size",
            [fixed(4, 0.25), fixed(4, 0.2)],
        ),
        Case::about_one_object(
            "spec.injection",
            "spec.injection.replicate",
            "spec.injection.replicate belongs to the mode Replicate",
            [
                of(json!({"mode": "Replicate", "optIn": "All", "replicate": {"batch": "Shrink"}})),
                of(json!({"mode": "Move", "optIn": "All", "replicate": {"batch": "Shrink"}})),
            ],
        ),
    ]
}

fn completion() -> Vec<Case> {
    let of = |completion: Value| spec(json!({"completion": completion}));
    let case = |good, bad| {
        Case::about_one_object("spec.completion", "spec.completion", ONE_COMPLETION, [of(good), of(bad)])
    };
    let target = json!({"maxSteps": null, "targetAccuracy": 0.8});
    let without_evaluation = spec(json!({"completion": target, "evaluation": null}));
    vec![
        case(json!({"maxSteps": 7}), json!({"maxSteps": null})),
        case(json!({"maxSteps": null, "maxEpochs": 1.5}), json!({"maxEpochs": 1.5})),
        case(json!({"maxSteps": null, "maxSamples": 1000}), json!({"maxSamples": 1000})),
        Case::about_one_object(
            "spec.completion",
            "spec.completion",
            ONE_COMPLETION,
            [
                ending(json!({"end": {"rule": "Idle"}}), json!({"maxSteps": null, "streamEnd": true})),
                ending(json!({"end": {"rule": "Idle"}}), json!({"streamEnd": true})),
            ],
        ),
        case(target.clone(), json!({"targetAccuracy": 0.8})),
        Case::about_one_object(
            "spec",
            "spec.completion.targetAccuracy",
            "spec.completion.targetAccuracy needs spec.evaluation",
            [of(target), without_evaluation],
        ),
    ]
}

fn kafka() -> Vec<Case> {
    let of = |kafka: Value| spec(json!({"kafka": kafka}));
    let sasl = |mechanism: &str| json!({"mechanism": mechanism, "secret": "kafka-user"});
    let message = "spec.kafka.sasl.mechanism Plain sends the password as it is: give spec.kafka.tls as well";
    let case = |good, bad| {
        Case::about_one_object("spec.kafka", "spec.kafka.sasl.mechanism", message, [of(good), of(bad)])
    };
    vec![
        case(json!({"sasl": sasl("Plain"), "tls": {"caSecret": "kafka-ca"}}), json!({"sasl": sasl("Plain")})),
        case(json!({"sasl": sasl("ScramSha512")}), json!({"sasl": sasl("Plain")})),
    ]
}

fn storage() -> Vec<Case> {
    let claim = || json!({"claimName": "volume"});
    let data = |good, bad| {
        let of = |data: Value| spec(json!({"data": data}));
        Case::about_one_object("spec.data", "spec.data", ONE_KIND_OF_DATA, [of(good), of(bad)])
    };
    let checkpoints = |good, bad| {
        let of = |storage: Value| spec(json!({"checkpoint": {"storage": storage}}));
        let path = "spec.checkpoint.storage";
        Case::about_one_object(path, path, ONE_KIND_OF_STORAGE, [of(good), of(bad)])
    };
    let output = |good, bad| {
        let of = |storage: Value| spec(json!({"output": {"storage": storage}}));
        let path = "spec.output.storage";
        Case::about_one_object(path, path, ONE_KIND_OF_STORAGE, [of(good), of(bad)])
    };
    vec![
        data(json!({"image": null, "persistentVolumeClaim": claim()}), json!({"image": null})),
        data(json!({"image": "other:1"}), json!({"persistentVolumeClaim": claim()})),
        checkpoints(json!({"persistentVolumeClaim": claim()}), json!({"persistentVolumeClaim": null})),
        checkpoints(json!({"persistentVolumeClaim": claim()}), json!({"path": "checkpoints"})),
        checkpoints(
            json!({"persistentVolumeClaim": null, "s3": {"url": "s3://results"}}),
            json!({"s3": {"url": "s3://results"}}),
        ),
        output(json!({"persistentVolumeClaim": claim()}), json!({})),
        output(
            json!({"persistentVolumeClaim": claim()}),
            json!({"persistentVolumeClaim": claim(), "path": "out"}),
        ),
    ]
}
