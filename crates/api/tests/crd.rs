//! The custom resource definition as it is installed: what the repository keeps of it is what the types say, and it has
//! what Kubernetes and its users ask of a definition.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use scadles_api::crd;
use serde_json::Value;

/// Far below the 1.5 MiB that etcd takes, and below the 262,144 bytes of the annotation that `kubectl apply` adds.
const MOST_BYTES: usize = 100_000;

/// Formats that the API server knows, of those that these types can have.
const KNOWN_FORMATS: [&str; 4] = ["int32", "int64", "double", "float"];

fn schema() -> Value {
    crd::definition().pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// Calls `look` with path and schema of every node below `node`, list items and map values among them.
fn walk(path: &str, node: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, node);
    for (name, member) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{path}.{name}"), member, look);
    }
    if let Some(items) = node.get("items") {
        walk(&format!("{path}[]"), items, look);
    }
    if let Some(values) = node.get("additionalProperties").filter(|values| values.is_object()) {
        walk(&format!("{path}{{}}"), values, look);
    }
}

/// Paths of the nodes of which `is_wrong` says so.
fn nodes_that(is_wrong: impl Fn(&str, &Value) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    walk("", &schema(), &mut |path, node| {
        if is_wrong(path, node) {
            found.push(path.to_owned());
        }
    });
    found
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn the_repository_holds_the_definition_that_the_types_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, text) in crd::files() {
        let kept = fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(
            kept == text,
            "{path} is not what crates/api gives: run `make manifests` and commit what it wrote"
        );
    }
}

#[test]
fn the_definition_stays_small() {
    for (path, text) in crd::files() {
        assert!(text.len() < MOST_BYTES, "{path} has {} bytes", text.len());
    }
    let stored = crd::definition().to_string().len();
    assert!(stored < MOST_BYTES, "as JSON it has {stored} bytes");
}

#[test]
fn every_field_is_described() {
    let undescribed =
        nodes_that(|path, node| !path.ends_with(['}', ']']) && text(node, "description").is_empty());
    assert_eq!(undescribed, Vec::<String>::new(), "`kubectl explain` would show nothing here");
}

#[test]
fn every_text_list_and_map_is_bounded() {
    let unbounded = nodes_that(|_, node| {
        let bound = match text(node, "type") {
            "string" if node.get("enum").is_none() => "maxLength",
            "array" => "maxItems",
            "object" if node.get("properties").is_none() => "maxProperties",
            _ => return false,
        };
        node.get(bound).and_then(Value::as_u64).is_none()
    });
    assert_eq!(unbounded, Vec::<String>::new(), "the API server reckons the cost of CEL rules from bounds");
}

#[test]
fn every_node_has_a_form_that_the_api_server_checks() {
    let shapeless = nodes_that(|_, node| {
        let free = node.get("x-kubernetes-preserve-unknown-fields").is_some();
        let typed = !text(node, "type").is_empty() || node.get("x-kubernetes-int-or-string").is_some();
        let structural = ["$ref", "anyOf", "oneOf", "allOf", "not"].iter().all(|key| node.get(key).is_none());
        free || !typed || !structural
    });
    assert_eq!(shapeless, Vec::<String>::new());
}

#[test]
fn no_format_is_unknown_to_the_api_server() {
    let unknown = nodes_that(|_, node| {
        let format = text(node, "format");
        !format.is_empty() && !KNOWN_FORMATS.contains(&format)
    });
    assert_eq!(unknown, Vec::<String>::new());
}

/// The API server reads bounds as floating point and compares them as integers of 64 bits.
#[test]
fn bounds_are_exact_as_floating_point() {
    let inexact = nodes_that(|_, node| {
        let exact = |key: &str| node.get(key).and_then(Value::as_u64).is_none_or(|bound| bound <= 1 << 53);
        !exact("maximum") || !exact("minimum")
    });
    assert_eq!(inexact, Vec::<String>::new());
}

#[test]
fn a_list_of_jobs_shows_where_each_stands() {
    let version = crd::definition().pointer("/spec/versions/0").unwrap().clone();
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let names_of = |wide: bool| -> Vec<&str> {
        let of_width = columns.iter().filter(|column| (column["priority"].as_u64().unwrap_or(0) > 0) == wide);
        of_width.map(|column| text(column, "name")).collect()
    };
    assert_eq!(names_of(false), ["State", "Ready", "Step", "Samples/s", "Lag", "Starved", "Attempt", "Age"]);
    assert_eq!(names_of(true), ["Top-1 %", "Message"]);
    for column in columns {
        let path = text(column, "jsonPath");
        if path.starts_with(".metadata.") {
            continue;
        }
        let pointer = path.replace('.', "/properties/");
        let node =
            schema().pointer(&pointer).unwrap_or_else(|| panic!("no field has the path {path}")).clone();
        assert_eq!(text(column, "type"), text(&node, "type"), "{path}");
    }
}

#[test]
fn the_kind_has_its_names() {
    let definition = crd::definition();
    assert_eq!(definition["metadata"]["name"], "scadlesjobs.scadles.io");
    let spec = &definition["spec"];
    assert_eq!((&spec["group"], &spec["scope"]), (&"scadles.io".into(), &"Namespaced".into()));
    let names = &spec["names"];
    assert_eq!(names["shortNames"], serde_json::json!(["sj"]));
    assert_eq!(names["categories"], serde_json::json!(["scadles"]));
    assert!(spec["versions"][0]["subresources"]["status"].is_object(), "status is a subresource");
}

/// A refusal is read without the definition at hand.
#[test]
fn every_rule_says_its_field_and_the_rule_in_one_line() {
    walk("", &schema(), &mut |path, node| {
        for rule in node.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let message = text(rule, "message");
            assert!(
                !message.is_empty() && !message.contains('\n') && message.len() <= 200,
                "{path}: {message}"
            );
            let members = node.get("properties").and_then(Value::as_object).into_iter().flatten();
            let mut names =
                members.map(|(name, _)| name.as_str()).chain([path.rsplit('.').next().unwrap_or_default()]);
            let names_it = names.any(|name| message.contains(name));
            assert!(names_it, "{path}: `{message}` does not name its field");
        }
    });
}
