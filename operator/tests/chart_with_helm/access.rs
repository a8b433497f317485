//! Who may do what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{Objects, identity, release, render};

/// What the operator does to jobs and for them; nothing else.
const RIGHTS: [&str; 8] = [
    "scadles.io scadlesjobs: get list watch patch delete",
    "scadles.io scadlesjobs/status: patch update",
    "scadles.io scadlesjobs/finalizers: update",
    " pods: get list watch create delete",
    " configmaps secrets: create patch",
    "networking.k8s.io networkpolicies: create patch",
    " persistentvolumeclaims: get",
    "events.k8s.io events: create patch",
];

/// The kinds of the chart's objects that belong to no namespace.
const CLUSTER_WIDE: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];

fn words(list: &Value) -> String {
    list.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// One line per rule, as in [`RIGHTS`], with the names that it is limited to.
fn rights(role: &Value) -> Vec<String> {
    role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            let names = rule.get("resourceNames").map(|it| format!(" [{}]", words(it))).unwrap_or_default();
            let [groups, resources, verbs] = ["apiGroups", "resources", "verbs"].map(|key| words(&rule[key]));
            format!("{groups} {resources}{names}: {verbs}")
        })
        .collect()
}

/// Each binding of the operator: role and namespace, "" for the whole cluster.
fn bindings(objects: &Objects) -> BTreeSet<(String, String)> {
    let all = objects.of_kind("RoleBinding").chain(objects.of_kind("ClusterRoleBinding"));
    all.map(|binding| {
        let [kind, name] = ["kind", "name"].map(|key| binding["roleRef"][key].as_str().unwrap());
        (format!("{kind}/{name}"), identity(binding).1)
    })
    .collect()
}

fn set(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(role, namespace)| ((*role).to_owned(), (*namespace).to_owned())).collect()
}

#[test]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    let objects = render(&[]);
    assert_eq!(rights(objects.get("ClusterRole", "scadles")), RIGHTS);
    let own = ["coordination.k8s.io leases: create", "coordination.k8s.io leases [scadles]: get update"];
    assert_eq!(rights(objects.get("Role", "scadles-own")), own);
    assert!(objects.arguments().contains(&"--lease-name=scadles"));
    let expected = [("ClusterRole/scadles", ""), ("Role/scadles-own", "scadles-system")];
    assert_eq!(bindings(&objects), set(&expected));
    let subject = json!([{"kind": "ServiceAccount", "name": "scadles", "namespace": "scadles-system"}]);
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        assert!(objects.of_kind(kind).all(|binding| binding["subjects"] == subject));
    }
    assert_eq!(objects.operator()["serviceAccountName"], "scadles");
}

#[test]
fn no_role_has_wildcards_or_reads_secrets_of_its_own_accord() {
    for values in [vec![], vec!["watchNamespaces={a,b}"], vec!["operatorKey.create=false"]] {
        let objects = render(&values);
        for role in objects.of_kind("ClusterRole").chain(objects.of_kind("Role")) {
            let name = role["metadata"]["name"].as_str().unwrap();
            for right in rights(role) {
                assert!(!right.contains('*'), "{name}: {right}");
                let reads = right.contains("secrets") && right.contains("get");
                let bound = bindings(&objects).iter().any(|(role, _)| role.ends_with(&format!("/{name}")));
                let own_key = right == " secrets [scadles-operator-key]: get";
                assert!(!reads || !bound || own_key, "{name}: {right}");
            }
        }
    }
}

#[test]
fn secrets_of_brokers_are_read_only_where_that_is_asked_for() {
    let objects = render(&["kafkaSecrets.namespaces={demo,prod}"]);
    assert_eq!(rights(objects.get("ClusterRole", "scadles-kafka-secrets")), [" secrets: get"]);
    let expected = [
        ("ClusterRole/scadles", ""),
        ("Role/scadles-own", "scadles-system"),
        ("ClusterRole/scadles-kafka-secrets", "demo"),
        ("ClusterRole/scadles-kafka-secrets", "prod"),
    ];
    assert_eq!(bindings(&objects), set(&expected));
}

#[test]
fn watched_namespaces_get_roles_and_nothing_is_cluster_wide() {
    let objects = render(&[
        "watchNamespaces={a,b}",
        "kafkaSecrets.namespaces={b}",
        "crds.install=false",
        "rbac.aggregate=false",
    ]);
    for kind in CLUSTER_WIDE {
        assert_eq!(objects.of_kind(kind).count(), 0, "{kind}");
    }
    assert!(objects.0.iter().all(|object| object["metadata"]["namespace"].is_string()));
    for namespace in ["a", "b"] {
        let of =
            |it: &&Value| it["metadata"]["namespace"] == namespace && it["metadata"]["name"] == "scadles";
        assert_eq!(rights(objects.of_kind("Role").find(of).unwrap()), RIGHTS);
    }
    let expected = [
        ("Role/scadles", "a"),
        ("Role/scadles", "b"),
        ("Role/scadles-kafka-secrets", "b"),
        ("Role/scadles-own", "scadles-system"),
    ];
    assert_eq!(bindings(&objects), set(&expected));
    assert!(objects.arguments().contains(&"--watch-namespaces=a,b"));
}

#[test]
fn releases_with_disjoint_namespaces_share_no_object() {
    let first = release("scadles", "tools", &["watchNamespaces={a}"], &[]);
    let second = release("other", "tools", &["watchNamespaces={b}", "crds.install=false"], &[]);
    let shared: Vec<_> = first.identities().intersection(&second.identities()).cloned().collect();
    assert!(shared.is_empty(), "{shared:?}");
    for (objects, instance) in [(&first, "scadles"), (&second, "other")] {
        for object in &objects.0 {
            let name = object["metadata"]["name"].as_str().unwrap();
            assert!(name.contains(instance), "{name}");
        }
        for kind in ["Deployment", "PodDisruptionBudget", "NetworkPolicy"] {
            for object in objects.of_kind(kind) {
                let selector = object["spec"].get("selector").or(object["spec"].get("podSelector")).unwrap();
                assert_eq!(selector["matchLabels"]["app.kubernetes.io/instance"], instance, "{kind}");
            }
        }
    }
}

#[test]
fn people_get_jobs_through_the_roles_that_they_have() {
    let objects = render(&[]);
    let expect = |name: &str, into: &str, verbs: &str| {
        let role = objects.get("ClusterRole", name);
        let labels = role["metadata"]["labels"].as_object().unwrap();
        let added: Vec<_> = labels.keys().filter_map(|it| it.split("aggregate-to-").nth(1)).collect();
        assert_eq!(added.join(" "), into);
        let jobs = format!("scadles.io scadlesjobs: {verbs}");
        assert_eq!(rights(role), [jobs.as_str(), "scadles.io scadlesjobs/status: get"]);
    };
    expect("scadles-editor", "admin edit", "create delete deletecollection get list patch update watch");
    expect("scadles-viewer", "view", "get list watch");
}

#[test]
fn without_rbac_the_chart_makes_no_role_of_the_operator() {
    let objects = render(&["rbac.create=false", "rbac.aggregate=false", "kafkaSecrets.namespaces={a}"]);
    for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        assert_eq!(objects.of_kind(kind).count(), 0, "{kind}");
    }
}

#[test]
fn an_account_of_ones_own_is_bound_and_used_and_not_made() {
    let objects = render(&["serviceAccount.create=false", "serviceAccount.name=mine"]);
    assert_eq!(objects.of_kind("ServiceAccount").count(), 0);
    assert_eq!(objects.operator()["serviceAccountName"], "mine");
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        assert!(objects.of_kind(kind).all(|binding| binding["subjects"][0]["name"] == "mine"));
    }
    assert_eq!(render(&["serviceAccount.create=false"]).operator()["serviceAccountName"], "default");
}
