//! The custom resource: the job's types as Kubernetes sees them, and the definition that is installed. No I/O.
//!
//! `crdgen` writes [`definition`] to `crds/` and into the chart. The schema is the one of the types, with bounds on every
//! text and list: the API server reckons the cost of CEL rules from them.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{ScadlesJob, job::Metadata, names};

/// The object of the API server: metadata, `spec`, `status`.
pub type ScadlesJobObject = crate::job::ScadlesJobObject;

impl From<&ScadlesJobObject> for ScadlesJob {
    fn from(object: &ScadlesJobObject) -> Self {
        Self {
            api_version: names::API_VERSION.to_owned(),
            kind: names::KIND.to_owned(),
            metadata: Metadata {
                name: object.metadata.name.clone().unwrap_or_default(),
                namespace: object.metadata.namespace.clone(),
                labels: None,
                annotations: None,
            },
            spec: object.spec.clone(),
        }
    }
}

/// Longest text where nothing else is said, in bytes.
const LONGEST_TEXT: u64 = 512;
/// Longest sentence of a status.
pub const LONGEST_MESSAGE: u64 = 4096;
/// Longest memory of the supervisor.
const LONGEST_SUPERVISION: u64 = 1 << 16;
/// Most entries of a list where nothing else is said.
const LONGEST_LIST: u64 = 1024;
/// Most members of a map.
const LARGEST_MAP: u64 = 64;

/// The definition as Kubernetes takes it.
pub fn definition() -> Value {
    // A definition made of plain data always has a JSON form.
    let mut definition = serde_json::to_value(ScadlesJobObject::crd()).unwrap_or_default();
    let schema = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties");
    if let Some(Value::Object(properties)) = schema {
        properties.iter_mut().for_each(|(name, node)| fit(name, node));
    }
    definition
}

/// [`definition`] as a YAML document.
pub fn definition_yaml() -> String {
    crate::yaml::to_string(&definition()).unwrap_or_default()
}

/// The files of the repository that hold the definition: path from its root, text.
pub fn files() -> [(&'static str, String); 2] {
    let plain = format!(
        "# Written by crdgen (`make manifests`) from crates/api; not edited by hand.\n{}",
        definition_yaml()
    );
    [("crds/scadlesjobs.scadles.io.yaml", plain), ("charts/scadles/templates/crd.yaml", chart_template())]
}

/// The definition as a template of the chart: installed and kept as the values say.
fn chart_template() -> String {
    let mut definition = definition();
    if let Some(metadata) = definition.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".to_owned(), json!({"scadles-keep": "here"}));
    }
    let keep = "    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n    scadles.io/written-by: crdgen\n";
    let yaml = crate::yaml::to_string(&definition).unwrap_or_default();
    let yaml = yaml.replace("    scadles-keep: here\n", keep);
    format!("{{{{- if .Values.crds.install }}}}\n{yaml}{{{{- end }}}}\n")
}

/// Makes a node of the generated schema, the one of the field `name`, structural, and bounds it.
fn fit(name: &str, node: &mut Value) {
    match node {
        Value::Object(members) => {
            fit_int_or_string(members);
            drop_unknown_format(members);
            bound(name, members);
            members.iter_mut().for_each(|(name, member)| fit(name, member));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fit(name, item)),
        _ => {}
    }
}

/// Kubernetes knows the number-or-text fields by their mark alone.
fn fit_int_or_string(members: &mut Map<String, Value>) {
    let marked = |node: &Value| node.get("x-kubernetes-int-or-string").is_some();
    let inner = members
        .get("anyOf")
        .and_then(Value::as_array)
        .and_then(|nodes| nodes.iter().find(|node| marked(node)));
    if let Some(Value::Object(inner)) = inner.cloned() {
        let description = members.remove("description");
        *members = inner;
        if let Some(description) = description {
            members.insert("description".to_owned(), description);
        }
    }
    if members.contains_key("x-kubernetes-int-or-string") {
        members.remove("anyOf");
        members.remove("type");
        members.remove("minimum");
        members.remove("pattern");
    }
}

/// The API server warns of formats that it does not know; widths become bounds. It reads bounds as floating point, where
/// the greatest integer of 64 bits is one too many for it: those have none.
fn drop_unknown_format(members: &mut Map<String, Value>) {
    let most = match members.get("format").and_then(Value::as_str) {
        Some("uint8") => Some(u8::MAX.into()),
        Some("uint32") => Some(u32::MAX),
        Some("uint64" | "uint") => None,
        _ => return,
    };
    members.insert("format".to_owned(), "int64".into());
    if let Some(most) = most {
        members.entry("maximum").or_insert(most.into());
    }
}

fn bound(name: &str, members: &mut Map<String, Value>) {
    let longest_text = match name {
        "message" => LONGEST_MESSAGE,
        "supervision" => LONGEST_SUPERVISION,
        _ => LONGEST_TEXT,
    };
    let (keyword, most) = match members.get("type").and_then(Value::as_str) {
        Some("string") if !members.contains_key("enum") => ("maxLength", longest_text),
        Some("array") => ("maxItems", LONGEST_LIST),
        Some("object") if members.contains_key("additionalProperties") => ("maxProperties", LARGEST_MAP),
        _ => return,
    };
    members.entry(keyword).or_insert(most.into());
}
