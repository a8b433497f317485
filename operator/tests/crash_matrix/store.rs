//! What an API server keeps, and its rules: versions, conflicts, finalizers, generations. Plain data, no I/O.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

/// Name of the custom resource in paths.
pub(crate) const JOBS: &str = "scadlesjobs";
/// Namespace of everything here.
pub(crate) const NAMESPACE: &str = "demo";

/// One version of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When.
    pub(crate) tick: u64,
    /// Plural of the kind.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// As it was then.
    pub(crate) object: Arc<Value>,
    /// Whether this was its end.
    pub(crate) gone: bool,
}

/// Why the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    AlreadyExists,
    Conflict,
}

impl Refusal {
    /// As Kubernetes says it.
    pub(crate) fn status(self) -> (u16, Value) {
        let code = if self == Self::NotFound { 404 } else { 409 };
        let reason = format!("{self:?}");
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": reason,
        });
        (code, status)
    }
}

/// The object after the call, or why not.
pub(crate) type Answer = Result<Value, Refusal>;

/// All objects, and every version that there ever was.
#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<(String, String), Arc<Value>>,
    changes: Vec<Change>,
    uids: u64,
    tick: u64,
    now: f64,
}

impl Store {
    /// Time goes on.
    pub(crate) fn set_time(&mut self, tick: u64, now: f64) {
        (self.tick, self.now) = (tick, now);
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&key(kind, name))
    }

    pub(crate) fn of_kind(&self, kind: &str) -> Vec<Arc<Value>> {
        self.objects.iter().filter(|((of, _), _)| of == kind).map(|(_, object)| object.clone()).collect()
    }

    /// What is there, by kind and name, events left out: they go by themselves.
    pub(crate) fn left(&self) -> Vec<String> {
        let lasting = self.objects.keys().filter(|(kind, _)| kind != "events");
        lasting.map(|(kind, name)| format!("{kind} {name}")).collect()
    }

    fn found(&self, kind: &str, name: &str) -> Answer {
        self.get(kind, name).map(|object| object.as_ref().clone()).ok_or(Refusal::NotFound)
    }

    /// `GET`.
    pub(crate) fn read(&self, kind: &str, name: &str) -> Answer {
        self.found(kind, name)
    }

    /// `POST`.
    pub(crate) fn create(&mut self, kind: &str, mut object: Value) -> Answer {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.get(kind, &name).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        self.uids += 1;
        object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
        object["metadata"]["namespace"] = NAMESPACE.into();
        object["metadata"]["creationTimestamp"] = self.timestamp();
        object["metadata"]["generation"] = 1.into();
        if kind == "pods" {
            object["status"] = json!({"phase": "Pending"});
            // Nobody here reads the rest, and carrying it along would take most of the time of a life.
            let containers = object["spec"]["containers"].as_array().cloned().unwrap_or_default();
            let named = containers.iter().map(|container| json!({"name": container["name"]}));
            object["spec"] = json!({"containers": named.collect::<Vec<_>>()});
        } else if kind == JOBS {
            without(&mut object, "status");
        }
        Ok(self.commit(kind, object))
    }

    /// `PUT` of the subresource `status`: nothing but the status is taken.
    pub(crate) fn replace_status(&mut self, kind: &str, name: &str, given: &Value) -> Answer {
        let mut object = self.checked(kind, name, given)?;
        object["status"] = given["status"].clone();
        Ok(self.commit(kind, object))
    }

    /// `PATCH`, merging; server-side apply by a single manager comes to the same. The status stays as it is.
    pub(crate) fn patch(&mut self, kind: &str, name: &str, patch: &Value, dry: bool) -> Answer {
        let before = self.checked(kind, name, patch)?;
        let mut object = before.clone();
        merge(&mut object, patch);
        match before.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => without(&mut object, "status"),
        }
        if object["spec"] != before["spec"] {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(if dry { object } else { self.commit(kind, object) })
    }

    /// `DELETE`: pods and what has a finalizer end later.
    pub(crate) fn delete(&mut self, kind: &str, name: &str, options: &Value) -> Answer {
        let mut object = self.found(kind, name)?;
        let wanted = &options["preconditions"]["uid"];
        if wanted.is_string() && *wanted != object["metadata"]["uid"] {
            return Err(Refusal::Conflict);
        }
        if kind != "pods" && !has_finalizers(&object) {
            self.forget(kind, name);
            return Ok(object);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = self.timestamp();
        }
        Ok(self.commit(kind, object))
    }

    /// Stores a new version, if it is one.
    pub(crate) fn commit(&mut self, kind: &str, mut object: Value) -> Value {
        if kind == "secrets" {
            encode(&mut object);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let before = self.get(kind, &name);
        object["metadata"]["resourceVersion"] =
            before.map_or(Value::Null, |it| it["metadata"]["resourceVersion"].clone());
        if before.is_some_and(|before| **before == object) {
            return object;
        }
        object["metadata"]["resourceVersion"] = (self.changes.len() + 1).to_string().into();
        let deleted = !object["metadata"]["deletionTimestamp"].is_null();
        let gone = deleted && kind != "pods" && !has_finalizers(&object);
        let stored = Arc::new(object.clone());
        self.log(kind, &name, &stored, gone);
        if gone {
            self.objects.remove(&key(kind, &name));
        } else {
            self.objects.insert(key(kind, &name), stored);
        }
        object
    }

    fn log(&mut self, kind: &str, name: &str, object: &Arc<Value>, gone: bool) {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        self.changes.push(Change { tick: self.tick, kind, name, object: Arc::clone(object), gone });
    }

    /// The object is not there any more.
    pub(crate) fn forget(&mut self, kind: &str, name: &str) {
        if let Some(object) = self.objects.remove(&key(kind, name)) {
            self.log(kind, name, &object, true);
        }
    }

    /// The object, if it is the one, in the version, that the caller has seen.
    fn checked(&self, kind: &str, name: &str, given: &Value) -> Answer {
        let object = self.found(kind, name)?;
        for field in ["resourceVersion", "uid"] {
            let wanted = &given["metadata"][field];
            if wanted.is_string() && *wanted != object["metadata"][field] {
                return Err(Refusal::Conflict);
            }
        }
        Ok(object)
    }

    fn timestamp(&self) -> Value {
        jiff::Timestamp::from_second(self.now as i64).map_or(Value::Null, |time| time.to_string().into())
    }
}

fn key(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|names| !names.is_empty())
}

fn without(object: &mut Value, field: &str) {
    if let Some(members) = object.as_object_mut() {
        members.remove(field);
    }
}

/// A Secret's plain texts are kept encoded.
fn encode(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.as_object_mut().and_then(|it| it.remove("stringData")) else {
        return;
    };
    for (name, text) in texts {
        let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        secret["data"][name] = serde_json::to_value(bytes).unwrap_or_default();
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in members {
        if value.is_null() {
            without(target, name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
