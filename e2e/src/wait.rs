//! Waiting for what an object comes to: watched, never polled, always with a deadline, and with the last state in the
//! message when the deadline passes.

use std::{fmt::Debug, pin::pin, time::Duration};

use anyhow::{Result, bail};
use futures_util::StreamExt;
use kube::{Api, Resource, runtime::watcher::watch_object};
use serde::{Serialize, de::DeserializeOwned};

/// Waits until `look` finds in the object what it looks for; every state of the object that the watch brings is shown to it
/// once. `None` means that there is no such object.
pub async fn find<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut look: impl FnMut(Option<&K>) -> Option<T>,
) -> Result<T>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    let mut last = None;
    // On the heap: what waits for it would be large otherwise.
    let search = Box::pin(async {
        let mut states = pin!(watch_object(api.clone(), name));
        while let Some(state) = states.next().await {
            // A watch that breaks begins anew by itself, at once: not while the API server is away.
            let Ok(object) = state else {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            };
            let found = look(object.as_ref());
            last = object;
            if let Some(found) = found {
                return Some(found);
            }
        }
        None
    });
    if let Ok(Some(found)) = tokio::time::timeout(limit, search).await {
        return Ok(found);
    }
    bail!("{name}: not within {limit:?}: {what}; the last state: {}", shown(last.as_ref()))
}

/// Waits until the condition holds for the object; the object.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    find(api, name, what, limit, |object| object.filter(|object| condition(object)).cloned()).await
}

/// Waits until there is no such object.
pub async fn until_gone<K>(api: &Api<K>, name: &str, limit: Duration) -> Result<()>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    find(api, name, "is gone", limit, |object| object.is_none().then_some(())).await
}

/// An object as JSON, without what only the API server reads.
fn shown<K: Serialize>(object: Option<&K>) -> String {
    let Some(object) = object else { return "there is none".to_owned() };
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
        metadata.remove("managedFields");
    }
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// Tries until it works: for what has no object to watch.
pub async fn retry<T>(limit: Duration, what: &str, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(error.context(format!("not within {limit:?}: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}
