//! What the chart takes and what it refuses.

use std::collections::BTreeSet;

use scadles_api::yaml;
use serde_json::Value;

use crate::helm::{lint, read, refusal, release, render};

#[test]
fn the_chart_passes_the_strict_lint() {
    for tail in [vec![], vec!["--set", "watchNamespaces={a},replicas=3,operatorKey.create=false"]] {
        let output = lint(&tail);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn unknown_values_and_wrong_types_are_refused_by_name() {
    for (value, told) in [
        ("replica=1", "replica"),
        ("image.registry=x", "registry"),
        ("trainer.image.pullPolicy=Always", "pullPolicy"),
        ("trainer.cudaImage.digest=sha256:12", "/trainer/cudaImage/digest"),
        ("crds.enabled=true", "enabled"),
        ("serviceAccount.annotation.a=b", "annotation"),
        ("networkPolicy.egress.ports={1}", "ports"),
        ("imagePullSecrets[0].nam=x", "nam"),
        ("operatorKey.value=secret", "value"),
        ("replicas=many", "/replicas"),
        ("replicas=-1", "/replicas"),
        ("replicas=1.5", "/replicas"),
        ("watchNamespaces=a", "/watchNamespaces"),
        ("watchNamespaces={A}", "/watchNamespaces/0"),
        ("watchNamespaces={a,a}", "/watchNamespaces"),
        ("kafkaSecrets.namespaces={a.b}", "/kafkaSecrets/namespaces/0"),
        ("crds.install=maybe", "/crds/install"),
        ("leaderElection.enabled=1", "/leaderElection/enabled"),
        ("image.repository=", "/image/repository"),
        ("image.repository=a@b", "/image/repository"),
        ("image.tag=a b", "/image/tag"),
        ("image.digest=sha256:12", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("statusHeartbeatSeconds=1m", "/statusHeartbeatSeconds"),
        ("log.filter=", "/log/filter"),
        ("resources=small", "/resources"),
        ("nodeSelector=ssd", "/nodeSelector"),
        ("podLabels.a=1", "/podLabels/a"),
        ("podDisruptionBudget.maxUnavailable=half", "/podDisruptionBudget/maxUnavailable"),
        ("service.port=0", "/service/port"),
        ("service.port=70000", "/service/port"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        ("networkPolicy.egress.kafkaPorts={kafka}", "/networkPolicy/egress/kafkaPorts/0"),
        ("extraEnv[0].value=x", "/extraEnv/0"),
        ("extraArgs=--x", "/extraArgs"),
    ] {
        let error = refusal(&[value]);
        let parts: Vec<_> = told.trim_start_matches('/').split('/').collect();
        // Versions of Helm write a path as `/a/b` or as `a.b`.
        let written = [format!("'/{}'", parts.join("/")), parts.join("."), format!("'{told}'")];
        assert!(written.iter().any(|it| error.contains(it)), "{value}: {error}");
    }
}

#[test]
fn contradictions_are_refused_with_what_to_do() {
    let told = refusal(&["watchNamespaces={a}", "kafkaSecrets.namespaces={a,b}"]);
    assert!(told.contains("kafkaSecrets.namespaces names b, which is not in watchNamespaces"), "{told}");
}

#[test]
fn names_follow_release_and_overrides_and_stay_short() {
    let name = |release_name: &str, values: &[&str]| {
        let objects = release(release_name, "ns", values, &[]);
        objects.of_kind("Deployment").next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name("scadles", &[]), "scadles");
    assert_eq!(name("scadles-edge", &[]), "scadles-edge");
    assert_eq!(name("edge", &[]), "edge-scadles");
    assert_eq!(name("edge", &["nameOverride=trainer"]), "edge-trainer");
    assert_eq!(name("edge", &["fullnameOverride=alone"]), "alone");
    assert!(name(&"r".repeat(53), &[]).len() <= 40);
    // Names that YAML would take for numbers.
    let objects = release("1e3", "7", &["crds.install=false"], &["--set-string", "watchNamespaces={8}"]);
    for object in &objects.0 {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "1e3");
        let namespace = object["metadata"].get("namespace");
        assert!(namespace.is_none_or(|namespace| namespace == "7" || namespace == "8"), "{namespace:?}");
    }
}

/// Paths of the leaves; maps whose names are free are leaves.
fn leaves(schema: &Value, path: &str, out: &mut BTreeSet<String>) {
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for (name, property) in properties {
                assert!(property["description"].is_string(), "{path}.{name} has no description");
                leaves(property, format!("{path}.{name}").trim_start_matches('.'), out);
            }
        }
        None => _ = out.insert(path.to_owned()),
    }
}

#[test]
fn every_value_has_a_default_a_schema_and_a_line_in_the_readme() {
    let schema: Value = serde_json::from_str(&read("charts/scadles/values.schema.json")).unwrap();
    let values: Value = yaml::from_str(&read("charts/scadles/values.yaml")).unwrap();
    let readme = read("charts/scadles/README.md");
    let mut paths = BTreeSet::new();
    leaves(&schema, "", &mut paths);
    assert!(paths.remove("global"), "Helm's own");
    assert!(paths.remove("resources.claims"), "without a default");
    assert!(paths.len() > 50, "{}", paths.len());
    for path in paths {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(values.pointer(&pointer).is_some(), "{path} is not in values.yaml");
        let section = path.strip_prefix("resources.").map_or(path.as_str(), |_| "resources");
        assert!(readme.contains(&format!("`{section}`")), "{section} is not in README.md");
    }
}

#[test]
fn the_default_release_consists_of_these_objects() {
    let identities: Vec<_> =
        render(&[]).identities().into_iter().map(|it| format!("{} {}/{}", it.0, it.1, it.2)).collect();
    assert_eq!(
        identities,
        [
            "ClusterRole /scadles",
            "ClusterRole /scadles-editor",
            "ClusterRole /scadles-kafka-secrets",
            "ClusterRole /scadles-viewer",
            "ClusterRoleBinding /scadles",
            "CustomResourceDefinition /scadlesjobs.scadles.io",
            "Deployment scadles-system/scadles",
            "NetworkPolicy scadles-system/scadles",
            "Pod scadles-system/scadles-test",
            "Role scadles-system/scadles-own",
            "RoleBinding scadles-system/scadles-own",
            "Secret scadles-system/scadles-operator-key",
            "Service scadles-system/scadles",
            "ServiceAccount scadles-system/scadles",
        ]
    );
}
