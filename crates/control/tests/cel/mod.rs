//! One table of cases for the rules that the API server checks: to every rule objects that it accepts and refuses.
// A module of a test program: nothing of it is reached from elsewhere.
#![allow(unreachable_pub, clippy::needless_pass_by_value)]
#![allow(dead_code, reason = "each test program uses its own part")]

mod changes;
mod creation;

use kube::core::cel::ValidationErrors;
use scadles_api::crd::{self, ScadlesJobObject};
use serde_json::{Value, json};

/// A rule, with something that it accepts and something that it refuses.
pub struct Case {
    /// Path of the part of the object that the rule belongs to, lists with `[]`; empty for the whole.
    pub at: &'static str,
    /// What the API server says when it refuses.
    pub message: &'static str,
    /// For rules about one object: path of the mistake that `validate` must find in the refused one.
    pub field: Option<&'static str>,
    /// What the rule accepts, close to what it refuses.
    pub accepted: Write,
    /// What this rule refuses, and no other.
    pub refused: Write,
}

/// An object that is to be stored.
pub struct Write {
    /// In place of this one, if any.
    pub old: Option<Value>,
    /// The object.
    pub new: Value,
}

/// Every case, those about one object first.
pub fn cases() -> Vec<Case> {
    creation::cases().into_iter().chain(changes::cases()).collect()
}

impl Case {
    fn about_one_object(
        at: &'static str,
        field: &'static str,
        message: &'static str,
        [good, bad]: [Value; 2],
    ) -> Self {
        let write = |change: &Value| Write { old: None, new: merged(&base(), change) };
        Self { at, message, field: Some(field), accepted: write(&good), refused: write(&bad) }
    }

    /// Old object and change of what is accepted, then of what is refused.
    fn about_a_change(at: &'static str, message: &'static str, [good, bad]: [(Value, Value); 2]) -> Self {
        let write = |(old, change): (Value, Value)| {
            let old = merged(&base(), &old);
            Write { new: merged(&old, &change), old: Some(old) }
        };
        Self { at, message, field: None, accepted: write(good), refused: write(bad) }
    }
}

impl Write {
    /// What kube's own evaluation of the rules says to it, without a server.
    pub fn refusals_without_a_server(&self) -> Vec<Refusal> {
        let checked = match &self.old {
            Some(old) => typed(&self.new).validate_cel_update(&typed(old)),
            None => typed(&self.new).validate_cel(),
        };
        let errors = checked.err().map(ValidationErrors::into_vec).unwrap_or_default();
        let mut refusals: Vec<_> =
            errors.into_iter().map(|error| (error.field_path, error.message)).collect();
        refusals.sort();
        refusals
    }
}

/// A job without mistakes, in a cluster and otherwise, with every part that a rule is about.
pub fn base() -> Value {
    json!({
        "apiVersion": "scadles.io/v1alpha1",
        "kind": "ScadlesJob",
        "metadata": {"name": "cameras", "namespace": "default"},
        "spec": {
            "model": {"name": "Cnn", "numClasses": 10, "inputShape": [1, 28, 28]},
            "stream": {"batch": {"rule": "LineRate"}},
            "kafka": {"bootstrapServers": "kafka.demo.svc:9092"},
            "devices": {"count": 2},
            "data": {"image": "ghcr.io/scadles/scadles-data:0.1.0"},
            "producer": {"dataset": {"name": "FashionMnist"}, "rates": {"list": [49.5, 38.5]}},
            "checkpoint": {"everySteps": 40, "storage": {"persistentVolumeClaim": {"claimName": "results"}}},
            "evaluation": {"everySteps": 40},
            "completion": {"maxSteps": 100}
        }
    })
}

/// A change of the base: members are merged, `null` removes one (RFC 7396).
fn merged(target: &Value, change: &Value) -> Value {
    let Value::Object(changes) = change else { return change.clone() };
    let mut members = target.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            let old = members.get(name).unwrap_or(&Value::Null);
            let new = merged(old, change);
            members.insert(name.clone(), new);
        }
    }
    Value::Object(members)
}

/// A change below `spec`.
fn spec(change: Value) -> Value {
    json!({"spec": change})
}

/// The object as the operator reads it.
pub fn typed(object: &Value) -> ScadlesJobObject {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error} in {object:#}"))
}

/// A refusal: path of the part that the rule belongs to, indices included, and the message.
pub type Refusal = (String, String);

/// Path and message of every rule of the definition.
pub fn rules_of_the_definition() -> Vec<(String, String)> {
    let definition = crd::definition();
    let mut found = Vec::new();
    collect_rules("", &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
    found
}

fn collect_rules(path: &str, node: &Value, found: &mut Vec<(String, String)>) {
    for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push((path.to_owned(), rule["message"].as_str().unwrap_or_default().to_owned()));
    }
    for (name, member) in node["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect_rules(&path, member, found);
    }
    if node["items"].is_object() {
        collect_rules(&format!("{path}[]"), &node["items"], found);
    }
}

/// A path with `[]` in place of every index.
pub fn without_indices(path: &str) -> String {
    let mut pieces = path.split('[');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str("[]");
        plain.push_str(piece.split_once(']').map_or("", |(_, rest)| rest));
    }
    plain
}
