//! One end-to-end test: a namespace of its own, a deadline, and what is kept when it fails.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::FutureExt;
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use scadles_api::crd::ScadlesJobObject;
use serde_json::json;

use crate::{diagnostics, operator, program::say, wait};

/// A namespace without pods goes in seconds; one with trainers waits for their checkpoints.
const CLEAN_UP: Duration = Duration::from_mins(2);

/// What a test works with.
pub struct Scenario {
    /// The cluster.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
    /// When the test began.
    pub began: Instant,
}

impl Scenario {
    /// Runs a test with the operator installed and a namespace of its own within `limit`. A test that fails leaves what explains it in the transcript and in
    /// `target/e2e/<name>/`; the namespace goes in any case.
    pub fn run(name: &str, limit: Duration, test: impl AsyncFnOnce(&Self) -> Result<()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let outcome = runtime
            .map_err(anyhow::Error::from)
            .and_then(|it| it.block_on(Self::carry_out(name, limit, test)));
        if let Err(error) = outcome {
            say(format!("== {name} FAILED: {error:?}"));
            // The one place where a scenario becomes a failed test.
            std::panic::resume_unwind(Box::new(format!("{name}: {error:?}")));
        }
    }

    async fn carry_out(
        name: &str,
        limit: Duration,
        test: impl AsyncFnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        say(format!("== {name}"));
        let client = Client::try_default().await.context("failed to find the cluster: run scripts/e2e.sh")?;
        let namespace = format!("e2e-{name}");
        let scenario = Self { client, namespace, began: Instant::now() };
        let began = Timestamp::now();
        operator::ensure_installed(&scenario.client).await?;
        let restarts = operator::restarts(&scenario.client).await?;
        scenario.make_namespace().await?;
        let body = AssertUnwindSafe(test(&scenario)).catch_unwind();
        let mut outcome = match tokio::time::timeout(limit, body).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(anyhow!("{}", words(panic.as_ref()))),
            Err(_) => Err(anyhow!("the test did not end within {limit:?}")),
        };
        if outcome.is_ok() {
            outcome = operator::said_no_errors(&scenario.client, began, &restarts).await;
        }
        if outcome.is_err() {
            diagnostics::keep(&scenario.client, name, &scenario.namespace).await;
        }
        let cleaned = scenario.remove_namespace(&scenario.namespace, CLEAN_UP).await;
        say(format!("== {name}: {:.0} s", scenario.began.elapsed().as_secs_f64()));
        outcome.and(cleaned)
    }

    /// The jobs of the test's namespace.
    pub fn jobs(&self) -> Api<ScadlesJobObject> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn make_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // Left behind by a run that was killed.
        self.remove_namespace(&self.namespace, CLEAN_UP).await?;
        let namespace = json!({"metadata": {
            "name": self.namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted", "scadles.io/e2e": "true"},
        }});
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        Ok(())
    }

    /// Deletes a namespace and waits until it is gone.
    pub async fn remove_namespace(&self, name: &str, limit: Duration) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if namespaces.get_opt(name).await?.is_none() {
            return Ok(());
        }
        namespaces.delete(name, &DeleteParams::default()).await?;
        wait::until_gone(&namespaces, name, limit).await
    }
}

/// What a failed assertion said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the test panicked".to_owned())
}
