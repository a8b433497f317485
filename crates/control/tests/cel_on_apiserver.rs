//! The same rules in a real kube-apiserver: it takes the definition, and says to every object what the evaluation without
//! a server says. Without `KUBEBUILDER_ASSETS` these tests are left out, see `scripts/test.sh`.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

mod cel;

use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use scadles_api::crd::{self, ScadlesJobObject};
use scadles_testing::ControlPlane;
use serde_json::Value;

use cel::{Refusal, Write, base, cases};

/// Objects as they are, not as our types read them.
fn jobs(client: Client) -> Api<DynamicObject> {
    Api::namespaced_with(client, "default", &ApiResource::erase::<ScadlesJobObject>(&()))
}

fn object(json: &Value) -> DynamicObject {
    serde_json::from_value(json.clone()).unwrap()
}

/// What the server says to it; nothing stays stored.
async fn refusals(jobs: &Api<DynamicObject>, write: &Write) -> Vec<Refusal> {
    let trial = PostParams { dry_run: true, field_manager: None };
    let new = object(&write.new);
    let name = new.metadata.name.clone().unwrap();
    let Some(old) = &write.old else { return refusals_in(jobs.create(&trial, &new).await) };
    let stored = jobs.create(&PostParams::default(), &object(old)).await.unwrap();
    let mut new = new;
    new.metadata.resource_version = stored.metadata.resource_version;
    let refusals = refusals_in(jobs.replace(&name, &trial, &new).await);
    jobs.delete(&name, &DeleteParams::default()).await.unwrap();
    refusals
}

/// The causes of an answer 422, in the order of paths.
fn refusals_in(answer: kube::Result<DynamicObject>) -> Vec<Refusal> {
    let status = match answer {
        Ok(_) => return Vec::new(),
        Err(kube::Error::Api(status)) if status.code == 422 => status,
        Err(other) => panic!("{other}"),
    };
    let causes = status.details.as_ref().map(|details| details.causes.clone()).unwrap_or_default();
    let mut refusals: Vec<Refusal> =
        causes.iter().map(|cause| (path_of(&cause.field), said(&cause.message))).collect();
    refusals.sort();
    refusals
}

/// The server's name for the object as a whole is `<nil>`.
fn path_of(field: &str) -> String {
    if field == "<nil>" { String::new() } else { field.to_owned() }
}

/// What stands after `Invalid value: "…": `, or after `Invalid value: ` for the object as a whole.
fn said(message: &str) -> String {
    let text = message.strip_prefix("Invalid value: ").unwrap_or(message);
    let after_value = text.strip_prefix('"').and_then(|rest| rest.split_once("\": "));
    after_value.map_or(text, |(_, text)| text).to_owned()
}

#[tokio::test]
async fn the_api_server_says_to_every_object_what_the_rules_say_without_it() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.install(crd::definition()).await.unwrap();
    let jobs = jobs(control_plane.client());
    for case in cases() {
        for write in [&case.accepted, &case.refused] {
            let (here, there) = (write.refusals_without_a_server(), refusals(&jobs, write).await);
            assert_eq!(here, there, "without a server, and with one: {:#} after {:#?}", write.new, write.old);
        }
    }
}

/// Nothing in the base is dropped or bent: every field is known, every value within its bounds.
#[tokio::test]
async fn the_api_server_keeps_a_job_as_it_was_written() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.install(crd::definition()).await.unwrap();
    let jobs = jobs(control_plane.client());
    let strict = PatchParams::apply("test").validation_strict();
    let stored = jobs.patch("cameras", &strict, &Patch::Apply(base())).await.unwrap();
    assert_eq!(stored.data["spec"], base()["spec"]);
    let mut unknown = base();
    unknown["spec"]["stream"]["batch"]["mn"] = 8.into();
    let refusal = jobs.patch("cameras", &strict, &Patch::Apply(unknown)).await.unwrap_err();
    assert!(refusal.to_string().contains("mn"), "{refusal}");
}
