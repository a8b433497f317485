//! What lies beside the chart and must agree with it: the definition, the rendered manifest, the example.

use std::process::Command;

use scadles_api::yaml;
use scadles_control::{parse_job, validate_in_cluster};
use serde_json::Value;

use crate::helm::{Objects, read, render, root};

#[test]
fn chart_and_workspace_have_one_version() {
    let chart: Value = yaml::from_str(&read("charts/scadles/Chart.yaml")).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_definition_can_be_left_out_and_is_kept_unless_told_otherwise() {
    let name = "scadlesjobs.scadles.io";
    let policy = |values: &[&str]| {
        let annotations =
            render(values).get("CustomResourceDefinition", name)["metadata"]["annotations"].clone();
        annotations.get("helm.sh/resource-policy").cloned()
    };
    assert_eq!(policy(&[]), Some(Value::from("keep")));
    assert_eq!(policy(&["crds.keep=false"]), None);
    assert_eq!(render(&["crds.install=false"]).of_kind("CustomResourceDefinition").count(), 0);
    let stored = Objects::read(&read("crds/scadlesjobs.scadles.io.yaml"));
    let rendered = render(&[]);
    let of_chart = rendered.get("CustomResourceDefinition", name);
    assert!(stored.0[0]["spec"] == of_chart["spec"], "crds/ and the chart differ: type `make manifests`");
}

#[test]
fn the_install_manifest_is_what_the_chart_renders() {
    let output =
        Command::new("bash").arg(root().join("scripts/manifests.sh")).arg("--print").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = Objects::read(&String::from_utf8(output.stdout).unwrap());
    let stored = Objects::read(&read("manifests/install.yaml"));
    assert!(
        rendered.0 == stored.0,
        "manifests/install.yaml is not what the chart renders: type `make manifests`"
    );
    assert_eq!(stored.0[0]["kind"], "Namespace");
    for absent in ["Secret", "Pod"] {
        assert_eq!(stored.of_kind(absent).count(), 0, "{absent}");
    }
}

#[test]
fn the_quickstart_is_a_job_without_mistakes_whose_broker_claim_and_data_are_beside_it() {
    let text = read("manifests/examples/quickstart.yaml");
    let job = validate_in_cluster(&parse_job(&text).unwrap()).unwrap();
    let objects = Objects::read(&text);
    let given = objects.get("ScadlesJob", "quickstart");
    assert_eq!(job.bootstrap_servers, "kafka.demo.svc:9092");
    let service = objects.get("Service", "kafka");
    assert_eq!(
        (&service["metadata"]["namespace"], &service["spec"]["ports"][0]["port"]),
        (&"demo".into(), &9092.into())
    );
    objects.get("PersistentVolumeClaim", &job.checkpoints.claim().unwrap().claim_name);
    let image = concat!("ghcr.io/scadles/scadles-data:", env!("CARGO_PKG_VERSION"));
    assert_eq!(given["spec"]["data"]["image"], image);
    // Sizes of pods and claims of a machine with two cores.
    let level = "pod-security.kubernetes.io/enforce";
    assert_eq!(objects.get("Namespace", "demo")["metadata"]["labels"][level], "restricted");
    for object in objects.0.iter().filter(|object| object["kind"] != "Namespace") {
        assert_eq!(object["metadata"]["namespace"], "demo");
    }
}
