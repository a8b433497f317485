//! What is kept of a failed test: jobs with their status, pods, events, and the ends of all logs.

use std::{fs, path::PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};

use crate::{
    operator,
    program::{program, root, say},
};

/// Lines of a log in the transcript; the whole log is in the folder.
const LINES_SHOWN: usize = 15;

/// Writes all that may explain a failure to `target/e2e/<test>/`, and the most telling of it into the transcript. Never fails: it
/// must not hide the failure itself.
pub async fn keep(client: &Client, test: &str, namespace: &str) {
    let folder = folder(test);
    let _ = fs::remove_dir_all(&folder);
    if let Err(error) = fs::create_dir_all(&folder) {
        say(format!("failed to make {}: {error}", folder.display()));
        return;
    }
    for (file, shown, arguments) in [
        ("jobs.yaml", false, ["get", "scadlesjobs", "-o", "yaml"]),
        (
            "objects.txt",
            true,
            ["get", "scadlesjobs,pods,networkpolicies,persistentvolumeclaims", "-o", "wide"],
        ),
        ("pods.yaml", false, ["get", "pods", "-o", "yaml"]),
        ("events.txt", true, ["get", "events", "--sort-by", ".lastTimestamp"]),
    ] {
        let arguments = [&["-n", namespace], &arguments[..]].concat();
        let text = program("kubectl", &arguments).await.unwrap_or_else(|error| format!("{error:?}"));
        if shown {
            say(last_lines(&text, 60));
        }
        let _ = fs::write(folder.join(file), text);
    }
    for place in [namespace, operator::NAMESPACE] {
        keep_logs(client, place, &folder).await;
    }
    say(format!("all of it is in {}", folder.display()));
}

fn folder(test: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("e2e").join(test)
}

async fn keep_logs(client: &Client, namespace: &str, folder: &std::path::Path) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(found) = pods.list(&ListParams::default()).await else { return };
    for pod in found {
        let name = pod.name_any();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for container in containers.map(|container| container.name.clone()).collect::<Vec<_>>() {
            let which = LogParams { container: Some(container.clone()), ..LogParams::default() };
            let log = pods.logs(&name, &which).await.unwrap_or_else(|error| error.to_string());
            say(format!("-- log of {name}/{container} ends:\n{}", last_lines(&log, LINES_SHOWN)));
            let _ = fs::write(folder.join(format!("{name}.{container}.log")), log);
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
