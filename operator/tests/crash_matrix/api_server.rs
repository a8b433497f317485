//! The API server's answers to the calls of the operator, and to no others.

use std::{
    future::pending,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response, request::Parts};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::{
    line::{Fate, Line},
    store::{Answer, JOBS, NAMESPACE, Store},
};

/// Where which kind is served.
const KINDS: [(&str, &str); 6] = [
    ("/api/v1", "pods"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "secrets"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("/apis/events.k8s.io/v1", "events"),
    ("/apis/scadles.io/v1alpha1", JOBS),
];

/// A client whose calls end in `store`, if `line` lets them.
pub(crate) fn client(store: Arc<Mutex<Store>>, line: Arc<Line>) -> Client {
    let service = tower::service_fn(move |request| answer(request, store.clone(), line.clone()));
    Client::new(service, NAMESPACE)
}

async fn answer(
    request: Request<Body>,
    store: Arc<Mutex<Store>>,
    line: Arc<Line>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await.map_err(io::Error::other)?;
    let Some(asked) = Asked::read(&parts, &body) else {
        line.stranger(format!("{} {}", parts.method, parts.uri));
        return Ok(respond(501, &json!({"message": "this API server does not know the call"})));
    };
    let fate = line.arrive(&asked.call());
    let outcome =
        fate.arrives().then(|| asked.carry_out(&mut store.lock().unwrap_or_else(PoisonError::into_inner)));
    match (fate, outcome) {
        (Fate::Served, Some(Ok(object))) => Ok(respond(200, &object)),
        (Fate::Served, Some(Err(refusal))) => {
            let (code, status) = refusal.status();
            Ok(respond(code, &status))
        }
        // Whoever waits for it has been stopped.
        _ if line.is_down() => pending().await,
        _ => Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut")),
    }
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

/// One call.
struct Asked {
    verb: Method,
    kind: &'static str,
    name: String,
    subresource: String,
    dry: bool,
    applies: bool,
    body: Value,
}

impl Asked {
    /// `None`: not one of the calls of the operator.
    fn read(parts: &Parts, body: &[u8]) -> Option<Self> {
        let path = parts.uri.path();
        let (kind, rest) = KINDS.iter().find_map(|(prefix, kind)| {
            let rest = path.strip_prefix(&format!("{prefix}/namespaces/{NAMESPACE}/{kind}"))?;
            Some((*kind, rest))
        })?;
        let mut segments = rest.split('/').skip(1);
        let mut next = || segments.next().unwrap_or_default().to_owned();
        let content = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
        let asked = Self {
            verb: parts.method.clone(),
            kind,
            name: next(),
            subresource: next(),
            dry: parts.uri.query().is_some_and(|query| query.contains("dryRun=All")),
            applies: content == Some("application/apply-patch+yaml"),
            body: serde_json::from_slice(body).unwrap_or_default(),
        };
        let merges = content == Some("application/merge-patch+json");
        let (named, whole) = (!asked.name.is_empty(), asked.subresource.is_empty());
        let known = match asked.verb.as_str() {
            "POST" => !named && whole && !asked.dry,
            "GET" => kind == "pods" && named && whole,
            "PUT" => kind == JOBS && named && asked.subresource == "status" && !asked.dry,
            "PATCH" => named && whole && (merges || asked.applies),
            "DELETE" => (kind == JOBS || kind == "pods") && named && whole && !asked.dry,
            _ => false,
        };
        known.then_some(asked)
    }

    /// What is counted: names of objects differ from life to life.
    fn call(&self) -> String {
        let subresource =
            if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        let how = match (self.dry, self.applies) {
            (true, _) => " dry",
            (_, true) => " apply",
            _ => "",
        };
        format!("{} {}{subresource}{how}", self.verb, self.kind)
    }

    fn carry_out(&self, store: &mut Store) -> Answer {
        match self.verb.as_str() {
            "POST" => store.create(self.kind, self.body.clone()),
            "GET" => store.read(self.kind, &self.name),
            "PUT" => store.replace_status(self.kind, &self.name, &self.body),
            "PATCH" => store.patch(self.kind, &self.name, &self.body, self.dry),
            _ => store.delete(self.kind, &self.name, &self.body),
        }
    }
}
