//! Rules about changes of an object.

use serde_json::{Value, json};

use super::{Case, spec};

const MODEL: &str = "spec.model cannot change: make a new job";
const COUNT: &str = "spec.devices.count cannot change: make a new job";
const NAMES: &str = "the names in spec.devices.named cannot change: make a new job";
const KAFKA: &str = "spec.kafka can only change while spec.suspend is true";
const STORAGE: &str = "spec.checkpoint.storage can only change while spec.suspend is true";
const OUTPUT: &str = "spec.output can only change while spec.suspend is true";
const MANAGED_BY: &str = "spec.managedBy cannot change";
const PARTITIONS: &str = "spec.kafka.topics.partitions can only grow: Kafka has no way back";

pub(super) fn cases() -> Vec<Case> {
    [identity(), devices(), while_suspended(), topics()].into_iter().flatten().collect()
}

fn of_the_spec(message: &'static str, old: &Value, good: Value, bad: Value) -> Case {
    let (good, bad) = ((spec(old.clone()), spec(good)), (spec(old.clone()), spec(bad)));
    Case::about_a_change("spec", message, [good, bad])
}

fn identity() -> Vec<Case> {
    let (plain, managed) = (json!({}), json!({"managedBy": "example.com/queue"}));
    let managed_by = |name: Option<&str>| json!({"managedBy": name});
    vec![
        of_the_spec(
            MODEL,
            &plain,
            json!({"completion": {"maxSteps": 200}}),
            json!({"model": {"name": "Mlp"}}),
        ),
        of_the_spec(MODEL, &plain, json!({"suspend": true}), json!({"model": {"numClasses": null}})),
        of_the_spec(MANAGED_BY, &plain, json!({"suspend": true}), managed.clone()),
        of_the_spec(MANAGED_BY, &managed, managed.clone(), managed_by(None)),
        of_the_spec(MANAGED_BY, &managed, json!({"suspend": true}), managed_by(Some("example.com/other"))),
    ]
}

fn devices() -> Vec<Case> {
    let two = || json!([{"name": "gate"}, {"name": "hall"}]);
    let named = json!({"devices": {"count": null, "named": two()}, "producer": null, "evaluation": null});
    // One rate for all, so that the number of devices is free.
    let counted = json!({"producer": {"rates": {"list": null, "constant": 50.0}}});
    let devices = |named: Value| json!({"devices": {"named": named}});
    vec![
        of_the_spec(
            COUNT,
            &counted,
            json!({"devices": {"template": {"labels": {"team": "vision"}}}}),
            json!({"devices": {"count": 3}}),
        ),
        of_the_spec(
            NAMES,
            &named,
            devices(json!([{"name": "gate", "topic": "camera.gate"}, {"name": "hall"}])),
            devices(json!([{"name": "hall"}, {"name": "gate"}])),
        ),
        of_the_spec(
            NAMES,
            &named,
            devices(two()),
            devices(json!([{"name": "gate"}, {"name": "hall"}, {"name": "roof"}])),
        ),
    ]
}

fn while_suspended() -> Vec<Case> {
    let claim = |name: &str| json!({"storage": {"persistentVolumeClaim": {"claimName": name}}});
    let changes = [
        (KAFKA, json!({"kafka": {"bootstrapServers": "kafka.other.svc:9092"}})),
        (KAFKA, json!({"kafka": {"topics": {"partitions": 2}}})),
        (KAFKA, json!({"kafka": null})),
        (STORAGE, json!({"checkpoint": claim("other")})),
        (STORAGE, json!({"checkpoint": {"storage": null}})),
        (STORAGE, json!({"checkpoint": null})),
        (OUTPUT, json!({"output": claim("other")})),
    ];
    let [running, resting] = [false, true].map(|suspended| json!({"suspend": suspended}));
    let mut cases = Vec::new();
    for (message, change) in changes {
        let pair = |old: &Value, change: &Value| (spec(old.clone()), spec(change.clone()));
        let refused = || pair(&running, &change);
        cases.push(Case::about_a_change("spec", message, [pair(&resting, &change), refused()]));
        cases.push(Case::about_a_change("spec", message, [pair(&json!({}), &resting), refused()]));
        // What counts is whether the job rests already, not whether it is asked to in the same breath.
        let mut with_suspend = change.clone();
        with_suspend["suspend"] = json!(true);
        cases.push(Case::about_a_change(
            "spec",
            message,
            [pair(&running, &resting), pair(&running, &with_suspend)],
        ));
    }
    cases
}

fn topics() -> Vec<Case> {
    // At rest, where other rules leave the connection alone.
    let old =
        || spec(json!({"suspend": true, "kafka": {"topics": {"management": "Operator", "partitions": 2}}}));
    let case = |good: Value, bad: Value| {
        let change =
            |partitions: Value| (old(), spec(json!({"kafka": {"topics": {"partitions": partitions}}})));
        Case::about_a_change("spec.kafka.topics", PARTITIONS, [change(good), change(bad)])
    };
    vec![case(json!(3), json!(1)), case(json!(2), Value::Null)]
}
