//! What keeps a command from talking to the cluster, in the words of the person who has to mend it. Pure.

use std::error::Error;

use kube::config::KubeconfigError;

use super::{HOW_TO_INSTALL, words};
use crate::failure::Failure;

/// Names that come this close are told.
const SIMILAR: f64 = 0.75;
/// Names that are told.
const MOST_NAMES: usize = 3;

/// A kubeconfig that names no cluster.
pub fn no_cluster(error: &KubeconfigError) -> Failure {
    let another = "`kubectl config get-contexts` lists what there is; name one with --context, or another file with \
                   --kubeconfig FILE or KUBECONFIG=FILE";
    let (message, remedy) = match error {
        KubeconfigError::FindPath => ("there is no kubeconfig: no home directory".to_owned(), another),
        KubeconfigError::ReadConfig(error, path) if error.kind() == std::io::ErrorKind::NotFound => (
            format!("there is no kubeconfig {}", path.display()),
            "name one with --kubeconfig FILE or KUBECONFIG=FILE; a cluster to try things on: kind create cluster",
        ),
        KubeconfigError::ReadConfig(error, path) => {
            (format!("kubeconfig {} cannot be read: {error}", path.display()), "see to its permissions")
        }
        KubeconfigError::CurrentContextNotSet => {
            ("the kubeconfig has no current context".to_owned(), another)
        }
        KubeconfigError::LoadContext(name) => (format!("the kubeconfig has no context {name}"), another),
        KubeconfigError::LoadClusterOfContext(name) => {
            (format!("the kubeconfig has no cluster {name}, which its context names"), another)
        }
        other => (format!("the kubeconfig is not usable: {}", innermost(other)), another),
    };
    Failure::configuration(message, remedy)
}

/// A request that failed. `what` is the action as an infinitive, `role` the cluster role that allows it.
pub fn refused(error: &kube::Error, what: &str, role: &str, server: &str) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => Failure::configuration(
                format!("the API server does not know who you are ({})", words::one_line(&status.message)),
                "log in again as you do for kubectl; `kubectl auth whoami` tells whether that helped",
            ),
            403 if status.message.contains(" cannot ") => Failure::configuration(
                format!("you may not {what}: {}", words::one_line(&status.message)),
                format!(
                    "ask for the role `{role}` in that namespace; `kubectl auth can-i --list` shows what you may do"
                ),
            ),
            403 | 422 => Failure::configuration(
                format!("the API server refuses to {what}: {}", words::one_line(&status.message)),
                "",
            ),
            404 if !names_an_object(status) => not_installed(server),
            _ => Failure::configuration(
                format!(
                    "failed to {what}: the API server says {}: {}",
                    status.code,
                    words::one_line(&status.message)
                ),
                "try again; `kubectl get --raw /readyz?verbose` shows what ails the server",
            ),
        },
        kube::Error::SerdeError(error) => unreadable(what, &error.to_string()),
        kube::Error::UpgradeConnection(error) => Failure::configuration(
            format!("failed to {what}: {}", innermost(error)),
            format!(
                "this needs the right to create pods/exec (role `{role}`), and a way to the API server that lets WebSockets through"
            ),
        ),
        kube::Error::Auth(error) => Failure::configuration(
            format!("the credentials of the kubeconfig cannot be had: {}", innermost(error)),
            "log in again as you do for kubectl",
        ),
        kube::Error::ProxyProtocolDisabled { proxy_url, .. }
        | kube::Error::ProxyProtocolUnsupported { proxy_url } => Failure::configuration(
            format!("the proxy {proxy_url} speaks a protocol that scadles does not"),
            "use an http:// or socks5:// proxy, or NO_PROXY for the API server's address",
        ),
        other => no_answer(server, &innermost(other)),
    }
}

/// An API server that is silent.
pub fn no_answer(server: &str, reason: &str) -> Failure {
    let remedy = if reason.contains("certificate") {
        "the kubeconfig's certificate authority does not fit this server: fetch a new kubeconfig for the cluster"
    } else {
        "see that the cluster runs and that `kubectl get --raw /livez` answers; --context names another one"
    };
    Failure::configuration(format!("the API server at {server} does not answer: {reason}"), remedy)
}

/// The cluster does not know what a ScadlesJob is.
fn not_installed(server: &str) -> Failure {
    Failure::configuration(
        format!("the cluster at {server} does not know ScadlesJobs: scadles is not installed there"),
        format!("install it: {HOW_TO_INSTALL}; or name another cluster with --context"),
    )
}

/// An object that is newer, or older, than this program.
pub fn unreadable(what: &str, problem: &str) -> Failure {
    Failure::configuration(
        format!("failed to {what}: scadles {} cannot read the answer: {problem}", env!("CARGO_PKG_VERSION")),
        "use a scadles of the operator's version; `-o json` and `kubectl get scadlesjob -o yaml` show it as it is",
    )
}

/// A job that is not there. `known` are all jobs that may be seen, as namespace and name.
pub fn no_such_job(namespace: &str, name: &str, known: &[(String, String)]) -> Failure {
    let here: Vec<&str> =
        known.iter().filter(|(place, _)| place == namespace).map(|(_, name)| name.as_str()).collect();
    let elsewhere: Vec<&str> = known
        .iter()
        .filter(|(place, other)| place != namespace && other == name)
        .map(|(place, _)| place.as_str())
        .collect();
    let near = nearest(name, &here);
    let remedy = if let Some(place) = elsewhere.first() {
        format!("there is one in namespace {}: -n {place}", words::list(&elsewhere))
    } else if !near.is_empty() {
        format!("there {} {}", if near.len() == 1 { "is" } else { "are" }, words::list(&near))
    } else if here.is_empty() {
        "the namespace has none; `scadles status -A` shows those of all namespaces".to_owned()
    } else {
        format!("there {} {}", if here.len() == 1 { "is" } else { "are" }, words::list(&here))
    };
    Failure::configuration(format!("there is no ScadlesJob {name} in namespace {namespace}"), remedy)
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), *known))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(MOST_NAMES).map(|(_, name)| name).collect()
}

/// A 404 about an object says which; one about a whole API does not.
fn names_an_object(status: &kube::core::Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// The cause that has no further cause says the most.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    words::one_line(&error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn api(status: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    fn said(failure: &Failure) -> String {
        format!("{}; {}", failure.message, failure.remedy)
    }

    fn job(namespace: &str, name: &str) -> (String, String) {
        (namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn a_missing_kubeconfig_is_named() {
        let missing =
            KubeconfigError::ReadConfig(std::io::ErrorKind::NotFound.into(), "/home/me/.kube/config".into());
        assert_eq!(no_cluster(&missing).message, "there is no kubeconfig /home/me/.kube/config");
        let context = KubeconfigError::LoadContext("kind-demo".to_owned());
        assert!(
            said(&no_cluster(&context))
                .starts_with("the kubeconfig has no context kind-demo; `kubectl config")
        );
    }

    #[test]
    fn a_forbidden_request_names_the_role_that_allows_it() {
        let error = api(json!({"code": 403, "reason": "Forbidden", "message":
            "scadlesjobs.scadles.io is forbidden: User \"jane\" cannot list resource \"scadlesjobs\" in API group \
             \"scadles.io\" in the namespace \"demo\""}));
        let said = said(&refused(&error, "list the jobs of namespace demo", "view", "https://k"));
        assert!(said.starts_with("you may not list the jobs of namespace demo: scadlesjobs.scadles.io is forbidden: User \"jane\""), "{said}");
        assert!(said.contains("role `view`"), "{said}");
    }

    #[test]
    fn a_quota_is_told_in_the_servers_words() {
        let error = api(json!({"code": 403, "reason": "Forbidden", "message":
            "pods \"a-fetch-1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4"}));
        let failure = refused(&error, "create pod a-fetch-1", "edit", "https://k");
        assert!(
            failure
                .message
                .ends_with("exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4")
        );
    }

    #[test]
    fn a_cluster_without_the_definition_is_told_how_to_get_it() {
        let error = api(
            json!({"code": 404, "message": "404 page not found", "reason": "Failed to parse error data"}),
        );
        let said = said(&refused(&error, "list", "view", "https://k:6443"));
        assert!(said.contains("the cluster at https://k:6443 does not know ScadlesJobs"), "{said}");
        assert!(said.contains("helm install scadles"), "{said}");
    }

    #[test]
    fn a_job_that_is_not_there_is_told_with_the_nearest_names() {
        let known =
            [job("demo", "fashion"), job("demo", "fashion-2"), job("demo", "words"), job("prod", "cifar")];
        assert_eq!(
            said(&no_such_job("demo", "fashoin", &known)),
            "there is no ScadlesJob fashoin in namespace demo; there are fashion and fashion-2"
        );
        assert_eq!(no_such_job("demo", "cifar", &known).remedy, "there is one in namespace prod: -n prod");
        assert_eq!(no_such_job("demo", "xyz", &known).remedy, "there are fashion, fashion-2 and words");
        assert!(no_such_job("empty", "xyz", &known).remedy.starts_with("the namespace has none"));
    }
}
