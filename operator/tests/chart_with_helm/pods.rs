//! The operator's pod, its key, its network, what watches it.

use std::collections::BTreeSet;

use clap::Parser;
use scadles_operator::args::Args;
use serde_json::{Value, json};

use crate::helm::{Objects, all_under, read, refusal, release, render, selects};

/// Objects of the Prometheus operator are known.
const MONITORING: [&str; 2] = ["--api-versions", "monitoring.coreos.com/v1"];

/// What the level `restricted` of Kubernetes asks of a pod, and a read-only root file system.
fn assert_restricted(name: &str, pod: &Value) {
    let context = &pod["securityContext"];
    assert_eq!(context["runAsNonRoot"], true, "{name}");
    assert_eq!(context["runAsUser"], 65532, "{name}");
    assert_eq!(context["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod.get(key).is_none(), "{name}: {key}");
    }
    for container in pod["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        let resources = &container["resources"];
        assert!(resources["requests"]["memory"].is_string(), "{name}");
        assert!(resources["limits"]["memory"].is_string(), "{name}");
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        assert!(volume.get("hostPath").is_none(), "{name}");
    }
}

#[test]
fn all_pods_run_under_the_restricted_level() {
    let objects = render(&[]);
    let pods = objects.pods();
    assert_eq!(pods.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["scadles", "scadles-test"]);
    for (name, pod) in pods {
        assert_restricted(name, pod);
    }
}

#[test]
fn the_operator_understands_its_arguments() {
    let parse = |objects: &Objects| {
        let arguments = ["scadles-operator"].into_iter().chain(objects.arguments()).map(str::to_owned);
        Args::try_parse_from(arguments.collect::<Vec<_>>()).unwrap()
    };
    let args = parse(&render(&[]));
    assert_eq!(args.trainer_image, format!("ghcr.io/scadles/scadles-trainer:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(args.trainer_cuda_image, format!("{}-cuda", args.trainer_image));
    assert_eq!((args.watch_namespaces.len(), args.status_heartbeat_seconds), (0, 60));
    assert_eq!(args.metrics_address.port(), 8080);
    assert!(args.leader_election);
    assert_eq!(args.lease_name, "scadles");
    assert_eq!(args.key_file.unwrap().to_str(), Some("/etc/scadles/operator/key"));
    let args = parse(&render(&[
        "watchNamespaces={a,b}",
        "statusHeartbeatSeconds=0",
        "leaderElection.enabled=false",
        "operatorKey.create=false",
    ]));
    assert_eq!(args.watch_namespaces, ["a", "b"]);
    assert_eq!((args.status_heartbeat_seconds, args.leader_election), (0, false));
    assert_eq!((args.key_file, args.key_secret.as_deref()), (None, Some("scadles-operator-key")));
}

#[test]
fn probes_ask_the_operator_and_the_service_finds_it_ready_or_not() {
    let objects = render(&["service.port=9000"]);
    let container = &objects.operator()["containers"][0];
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}));
    }
    assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 8080}]));
    let service = objects.get("Service", "scadles");
    assert_eq!(service["spec"]["ports"], json!([{"name": "http", "port": 9000, "targetPort": "http"}]));
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
    let selector = &service["spec"]["selector"];
    assert!(selects(
        selector,
        &objects.get("Deployment", "scadles")["spec"]["template"]["metadata"]["labels"]
    ));
    let test = objects.get("Pod", "scadles-test");
    assert!(!selects(selector, &test["metadata"]["labels"]));
    assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
    let environment = &test["spec"]["containers"][0]["env"];
    assert_eq!(environment[0]["value"], "scadles.scadles-system.svc");
    assert_eq!(environment[1]["value"], "9000");
}

#[test]
fn every_object_carries_the_common_labels_and_selectors_match() {
    let objects = release(
        "mine",
        "ns",
        &[
            "replicas=2",
            "serviceMonitor.enabled=true",
            "prometheusRule.enabled=true",
            "grafanaDashboard.enabled=true",
        ],
        &MONITORING,
    );
    for object in &objects.0 {
        if object["kind"] == "CustomResourceDefinition" {
            continue; // the same for all releases
        }
        let labels = &object["metadata"]["labels"];
        for (name, value) in [
            ("name", "scadles"),
            ("instance", "mine"),
            ("part-of", "scadles"),
            ("managed-by", "Helm"),
            ("version", env!("CARGO_PKG_VERSION")),
        ] {
            assert_eq!(labels[format!("app.kubernetes.io/{name}")], value, "{}", object["metadata"]["name"]);
        }
        assert_eq!(labels["helm.sh/chart"], concat!("scadles-", env!("CARGO_PKG_VERSION")));
    }
    let pod = &objects.get("Deployment", "mine-scadles")["spec"]["template"]["metadata"]["labels"];
    let mut selectors = Vec::new();
    for object in objects.0.iter().filter(|object| object["kind"] != "CustomResourceDefinition") {
        all_under(&object["spec"], "matchLabels", &mut selectors);
    }
    assert_eq!(selectors.len(), 5, "deployment, spread, budget, policy, monitor");
    assert!(selectors.into_iter().all(|selector| selects(selector, pod)));
}

#[test]
fn every_image_comes_from_the_values() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let values = [
        "image.repository=mirror/op".to_owned(),
        "image.tag=v7".to_owned(),
        "trainer.image.repository=mirror/worker".to_owned(),
        format!("trainer.image.digest={digest}"),
        "trainer.cudaImage.repository=mirror/worker".to_owned(),
        "trainer.cudaImage.tag=v7-gpu".to_owned(),
        "image.pullPolicy=Always".to_owned(),
        "imagePullSecrets[0].name=pull".to_owned(),
    ];
    let objects = render(&values.iter().map(String::as_str).collect::<Vec<_>>());
    let worker = format!("mirror/worker@{digest}");
    let mut images = Vec::new();
    for (name, pod) in objects.pods() {
        all_under(pod, "image", &mut images);
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]), "{name}");
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always", "{name}");
    }
    assert_eq!(images, ["mirror/op:v7", worker.as_str()]);
    assert!(objects.arguments().contains(&format!("--trainer-image={worker}").as_str()));
    assert!(objects.arguments().contains(&"--trainer-cuda-image=mirror/worker:v7-gpu"));
    let text = serde_json::to_string(&objects.0).unwrap();
    assert!(!text.contains("ghcr.io"), "an image that no value names");
}

#[test]
fn a_budget_and_a_spread_come_with_the_second_replica() {
    let one = render(&[]);
    assert_eq!(one.of_kind("PodDisruptionBudget").count(), 0);
    assert!(one.operator().get("topologySpreadConstraints").is_none());
    let two = render(&["replicas=2"]);
    assert_eq!(two.get("PodDisruptionBudget", "scadles")["spec"]["maxUnavailable"], 1);
    assert_eq!(two.operator()["topologySpreadConstraints"][0]["topologyKey"], "kubernetes.io/hostname");
    let off = render(&["replicas=2", "podDisruptionBudget.enabled=false"]);
    assert_eq!(off.of_kind("PodDisruptionBudget").count(), 0);
    let percent = render(&["replicas=3", "podDisruptionBudget.maxUnavailable=50%"]);
    assert_eq!(percent.get("PodDisruptionBudget", "scadles")["spec"]["maxUnavailable"], "50%");
}

#[test]
fn two_operators_never_work_at_once() {
    let strategy =
        |values: &[&str]| render(values).get("Deployment", "scadles")["spec"]["strategy"]["type"].clone();
    assert_eq!(strategy(&[]), "RollingUpdate");
    assert_eq!(strategy(&["leaderElection.enabled=false"]), "Recreate");
    let told = refusal(&["replicas=2", "leaderElection.enabled=false"]);
    assert!(told.contains("leaderElection.enabled must be true"), "{told}");
}

#[test]
fn the_key_is_made_once_and_kept_or_is_ones_own_or_the_operators() {
    let key = |objects: &Objects| {
        let volumes = &objects.operator()["volumes"];
        volumes.as_array().unwrap().iter().find(|it| it["name"] == "key").map(|it| it["secret"].clone())
    };
    let made = render(&[]);
    let secret = made.get("Secret", "scadles-operator-key");
    assert_eq!(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(secret["data"]["key"].as_str().unwrap().len(), 88, "64 characters in base64");
    assert_ne!(render(&[]).get("Secret", "scadles-operator-key")["data"], secret["data"]);
    let mounted = key(&made).unwrap();
    assert_eq!(
        (&mounted["secretName"], &mounted["defaultMode"]),
        (&json!("scadles-operator-key"), &json!(0o440))
    );

    let own = render(&["operatorKey.existingSecret=mine"]);
    assert_eq!(own.of_kind("Secret").count(), 0);
    assert_eq!(key(&own).unwrap()["secretName"], "mine");

    let by_operator = render(&["operatorKey.create=false"]);
    assert_eq!(by_operator.of_kind("Secret").count(), 0);
    assert_eq!(key(&by_operator), None);
    let rules = &by_operator.get("Role", "scadles-own")["rules"];
    assert_eq!(rules[2], json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}));
    assert_eq!(rules[3]["resourceNames"], json!(["scadles-operator-key"]));
    assert_eq!(rules[3]["verbs"], json!(["get"]));
}

#[test]
fn only_the_operators_port_can_be_reached() {
    let policy = |values: &[&str]| render(values).get("NetworkPolicy", "scadles")["spec"].clone();
    let default = policy(&[]);
    assert_eq!(default["policyTypes"], json!(["Ingress"]));
    assert_eq!(default["ingress"], json!([{"ports": [{"port": 8080, "protocol": "TCP"}]}]));
    let from = policy(&["networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"]);
    assert_eq!(from["ingress"][0]["from"], json!([{"podSelector": {"matchLabels": {"app": "prometheus"}}}]));
    let strict =
        policy(&["networkPolicy.egress.restrict=true", "networkPolicy.egress.kafkaPorts={9092,19092}"]);
    assert_eq!(strict["policyTypes"], json!(["Ingress", "Egress"]));
    let mut ports = Vec::new();
    all_under(&strict["egress"], "port", &mut ports);
    assert_eq!(ports, [53, 53, 443, 6443, 9092, 19092, 7200]);
    assert_eq!(render(&["networkPolicy.enabled=false"]).of_kind("NetworkPolicy").count(), 0);
}

#[test]
fn where_the_operator_runs_can_be_said() {
    let objects = render(&[
        "priorityClassName=high",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "affinity.nodeAffinity.x=y",
        "topologySpreadConstraints[0].maxSkew=3",
        "podLabels.team=edge",
        "podLabels.app\\.kubernetes\\.io/component=fake",
        "podAnnotations.a=b",
        "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy",
        "extraArgs={--one-more=1}",
        "log.filter=kube=debug",
        "terminationGracePeriodSeconds=5",
    ]);
    let pod = objects.operator();
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["affinity"], json!({"nodeAffinity": {"x": "y"}}));
    assert_eq!(pod["topologySpreadConstraints"], json!([{"maxSkew": 3}]));
    assert_eq!(pod["terminationGracePeriodSeconds"], 5);
    let metadata = &objects.get("Deployment", "scadles")["spec"]["template"]["metadata"];
    assert_eq!((&metadata["labels"]["team"], &metadata["annotations"]["a"]), (&json!("edge"), &json!("b")));
    assert_eq!(objects.arguments().last(), Some(&"--one-more=1"));
    let environment = pod["containers"][0]["env"].as_array().unwrap();
    let value = |name: &str| environment.iter().find(|it| it["name"] == name).unwrap()["value"].clone();
    assert_eq!((value("HTTPS_PROXY"), value("SCADLES_LOG")), (json!("http://proxy"), json!("kube=debug")));
}

#[test]
fn monitoring_is_off_until_asked_for_and_says_what_it_needs() {
    for (value, kind) in [("serviceMonitor", "ServiceMonitor"), ("prometheusRule", "PrometheusRule")] {
        let on = format!("{value}.enabled=true");
        assert_eq!(render(&[]).of_kind(kind).count(), 0);
        let told = refusal(&[&on]);
        assert!(
            told.contains(&format!("{value}.enabled needs the definitions of the Prometheus operator")),
            "{told}"
        );
        assert_eq!(release("scadles", "ns", &[&on], &MONITORING).of_kind(kind).count(), 1);
    }
    assert_eq!(render(&[]).of_kind("ConfigMap").count(), 0);
    let objects = render(&["grafanaDashboard.enabled=true"]);
    let dashboard = objects.get("ConfigMap", "scadles-dashboard");
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: Value = serde_json::from_str(dashboard["data"]["scadles.json"].as_str().unwrap()).unwrap();
    let mut panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "timeseries");
    assert!(panels.clone().count() > 12);
    assert!(panels.all(|panel| panel["targets"][0]["expr"].as_str().unwrap().contains("scadles_")));
}

/// The names of our metrics in a text, as they are registered.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("scadles_"))
        .map(|word| word.trim_end_matches("_bucket").trim_end_matches("_total"))
        .collect()
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_the_operator_has() {
    let on = ["grafanaDashboard.enabled=true", "prometheusRule.enabled=true"];
    let objects = release("scadles", "ns", &on, &MONITORING);
    let board = objects.get("ConfigMap", "scadles-dashboard")["data"]["scadles.json"].as_str().unwrap();
    let rules = serde_json::to_string(objects.get("PrometheusRule", "scadles")).unwrap();
    let asked: BTreeSet<_> = metrics_in(board).union(&metrics_in(&rules)).copied().collect();
    assert!(asked.len() > 15, "{asked:?}");
    let source = read("operator/src/metrics.rs");
    for metric in asked {
        // Its own are registered below a prefix, those of jobs by their full names.
        let name = metric.trim_start_matches("scadles_operator_");
        assert!(
            source.contains(&format!("\"{name}\"")) || source.contains(&format!("\"{metric}\"")),
            "{metric}"
        );
    }
}
