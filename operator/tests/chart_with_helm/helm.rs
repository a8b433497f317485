//! Running Helm, and finding one's way in what it renders.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use scadles_api::yaml;
use serde_json::Value;

/// Of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A text file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run(arguments: &[&str], tail: &[&str]) -> Output {
    Command::new("helm")
        .args(arguments)
        .arg(root().join("charts/scadles"))
        // What a cluster would say; a Helm built from source knows no version of its own.
        .args(["--kube-version", "1.34.0"])
        .args(tail)
        .output()
        .unwrap_or_else(|error| panic!("helm does not run ({error}): install Helm 3"))
}

/// `helm lint --strict`, with these further arguments.
pub(crate) fn lint(tail: &[&str]) -> Output {
    run(&["lint", "--strict"], tail)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Helm's `--set` of each value.
fn sets<'a>(values: &[&'a str]) -> Vec<&'a str> {
    values.iter().flat_map(|value| ["--set", value]).collect()
}

/// The objects of a release with these values and arguments.
pub(crate) fn release(name: &str, namespace: &str, values: &[&str], more: &[&str]) -> Objects {
    let tail: Vec<_> = sets(values).into_iter().chain(more.iter().copied()).collect();
    let output = run(&["template", name, "--namespace", namespace], &tail);
    assert!(output.status.success(), "{values:?}: {}", text(&output.stderr));
    Objects::read(&text(&output.stdout))
}

/// The objects of the release `scadles` in `scadles-system`.
pub(crate) fn render(values: &[&str]) -> Objects {
    release("scadles", "scadles-system", values, &[])
}

/// What Helm says of values that it refuses.
pub(crate) fn refusal(values: &[&str]) -> String {
    let output = run(&["template", "scadles", "--namespace", "scadles-system"], &sets(values));
    assert!(!output.status.success(), "{values:?} should be refused");
    text(&output.stderr)
}

/// Kind, namespace, name.
pub(crate) type Identity = (String, String, String);

/// Objects of Kubernetes.
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    /// The documents of a file.
    pub(crate) fn read(text: &str) -> Self {
        let documents: Vec<Value> = yaml::documents(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Self(documents.into_iter().filter(|document| !document.is_null()).collect())
    }

    pub(crate) fn identities(&self) -> BTreeSet<Identity> {
        self.0.iter().map(identity).collect()
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let kind = Value::from(kind);
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The one object of this kind and name.
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        let found: Vec<_> = self.of_kind(kind).filter(|object| object["metadata"]["name"] == name).collect();
        assert_eq!(found.len(), 1, "{kind} {name} among {:?}", self.identities());
        found[0]
    }

    /// The pods' specifications, by the name of what makes them.
    pub(crate) fn pods(&self) -> Vec<(&str, &Value)> {
        let deployments = self.of_kind("Deployment").map(|it| (it, &it["spec"]["template"]["spec"]));
        let pods = self.of_kind("Pod").map(|it| (it, &it["spec"]));
        deployments.chain(pods).map(|(it, spec)| (it["metadata"]["name"].as_str().unwrap(), spec)).collect()
    }

    /// The operator's pod.
    pub(crate) fn operator(&self) -> &Value {
        &self.of_kind("Deployment").next().unwrap()["spec"]["template"]["spec"]
    }

    /// The operator's arguments.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        self.operator()["containers"][0]["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap())
            .collect()
    }
}

pub(crate) fn identity(object: &Value) -> Identity {
    let name = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (name("/kind"), name("/metadata/namespace"), name("/metadata/name"))
}

/// Every value under this key, anywhere in the object.
pub(crate) fn all_under<'a>(object: &'a Value, key: &str, out: &mut Vec<&'a Value>) {
    match object {
        Value::Object(members) => {
            for (name, member) in members {
                if name == key {
                    out.push(member);
                }
                all_under(member, key, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all_under(item, key, out)),
        _ => {}
    }
}

/// True if all these labels are among those.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
}
