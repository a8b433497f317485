//! An API server of answers that a test gives.

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock, Mutex},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::client::Cluster;

/// One for all tests: a client's queue is served by the runtime in which it was made.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// What was asked: `GET /api/v1/…`.
pub(super) type Calls = Arc<Mutex<Vec<String>>>;

/// A cluster whose API server is `answer`: from method and path to code and body. All calls are noted.
pub(super) fn cluster(
    answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static,
) -> (Cluster, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().path().to_owned();
        noted.lock().unwrap().push(format!("{} {path}", request.method()));
        let (code, body) = answer(request.method(), &path);
        async move {
            let text = match body {
                Value::String(text) => text,
                body => body.to_string(),
            };
            let response = Response::builder().status(code).body(Body::from(text.into_bytes())).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    let _entered = RUNTIME.enter();
    let client = Client::new(service, "demo");
    (Cluster { client, namespace: "demo".to_owned(), server: "https://k:6443".to_owned() }, calls)
}

/// The API server's refusal.
pub(super) fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    (code, status)
}

/// What the API server says of an object that is not there.
pub(super) fn not_found(name: &str) -> (u16, Value) {
    let (code, mut status) = refusal(404, "NotFound", &format!("\"{name}\" not found"));
    status["details"] = json!({"name": name});
    (code, status)
}

/// A list as the API server gives it.
pub(super) fn list(items: &[Value]) -> (u16, Value) {
    (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

/// Waits for `work`.
pub(super) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}
