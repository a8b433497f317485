//! Asking the API server. I/O.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::ApiResource,
};
use scadles_api::{crd::ScadlesJobObject, names::labels};

use super::{args::ClusterArgs, refusal};
use crate::failure::{Failure, Result};

/// An answer takes no longer, or there is none.
const ANSWER: Duration = Duration::from_secs(30);
/// A connection takes no longer.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection over which nothing comes for so long is dead; also that of a transfer.
const SILENCE: Duration = Duration::from_mins(1);
/// Warnings that are looked through.
const MOST_EVENTS: u32 = 500;

/// A cluster and the namespace in question.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// Namespace of the command.
    pub namespace: String,
    /// Address of the API server, for messages.
    pub server: String,
}

/// A job as the API server has it, and as this program reads it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// As it is.
    pub raw: DynamicObject,
    /// As it is read, or why it cannot be.
    pub job: std::result::Result<Box<ScadlesJobObject>, String>,
}

impl From<DynamicObject> for Listed {
    fn from(raw: DynamicObject) -> Self {
        let job =
            raw.clone().try_parse().map(Box::new).map_err(|error| match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            });
        Self { raw, job }
    }
}

impl Cluster {
    /// Finds the cluster that is meant. Nothing is asked yet.
    pub async fn connect(args: &ClusterArgs) -> Result<Self> {
        let mut config = config(args).await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|error| refusal::refused(&error, "connect", "view", &server))?;
        Ok(Self { client, namespace, server })
    }

    /// Waits for an answer. `what` is the action as an infinitive, `role` the cluster role that allows it.
    pub async fn ask<T>(
        &self,
        what: &str,
        role: &str,
        answer: impl Future<Output = std::result::Result<T, kube::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| refusal::refused(&error, what, role, &self.server)),
            Err(_) => {
                Err(refusal::no_answer(&self.server, &format!("no answer within {} s", ANSWER.as_secs())))
            }
        }
    }

    /// Jobs of the namespace, or of all; the order is that of namespaces and names.
    pub async fn jobs(&self, all_namespaces: bool) -> Result<Vec<Listed>> {
        let kind = ApiResource::erase::<ScadlesJobObject>(&());
        let (api, what) = if all_namespaces {
            (Api::all_with(self.client.clone(), &kind), "list the jobs of all namespaces".to_owned())
        } else {
            let what = format!("list the jobs of namespace {}", self.namespace);
            (Api::namespaced_with(self.client.clone(), &self.namespace, &kind), what)
        };
        let api: Api<DynamicObject> = api;
        let found = self.ask(&what, "view", api.list(&ListParams::default())).await?;
        let mut listed: Vec<Listed> = found.items.into_iter().map(Listed::from).collect();
        listed.sort_by_key(|it| (it.raw.namespace(), it.raw.name_any()));
        Ok(listed)
    }

    /// One job of the namespace.
    pub async fn listed(&self, name: &str) -> Result<Listed> {
        let kind = ApiResource::erase::<ScadlesJobObject>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        let what = format!("read job {name} of namespace {}", self.namespace);
        match self.ask(&what, "view", api.get_opt(name)).await? {
            Some(raw) => Ok(Listed::from(raw)),
            None => Err(self.no_such_job(name).await),
        }
    }

    /// One job of the namespace, readable.
    pub async fn job(&self, name: &str) -> Result<ScadlesJobObject> {
        let listed = self.listed(name).await?;
        let what = format!("read job {name} of namespace {}", self.namespace);
        listed.job.map(|job| *job).map_err(|problem| refusal::unreadable(&what, &problem))
    }

    /// A 404 may also mean that the cluster knows no jobs at all: the list tells.
    async fn no_such_job(&self, name: &str) -> Failure {
        let here = match self.jobs(false).await {
            Ok(here) => here,
            Err(failure) => return failure,
        };
        // Those elsewhere are a help, which not everybody may have.
        let known = self.jobs(true).await.unwrap_or(here);
        let names = known.iter().map(|it| (it.raw.namespace().unwrap_or_default(), it.raw.name_any()));
        refusal::no_such_job(&self.namespace, name, &names.collect::<Vec<_>>())
    }

    /// The pods that were made for this very job.
    pub async fn pods(&self, job: &ScadlesJobObject) -> Result<Vec<Pod>> {
        let uid = job.meta().uid.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = ListParams::default().labels(&format!("{}={uid}", labels::JOB_UID));
        let what = format!("list the pods of namespace {}", self.namespace);
        Ok(self.ask(&what, "view", api.list(&selector)).await?.items)
    }

    /// Warnings about pods of the namespace.
    pub async fn warnings(&self) -> Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector =
            ListParams::default().fields("involvedObject.kind=Pod,type=Warning").limit(MOST_EVENTS);
        let what = format!("list the events of namespace {}", self.namespace);
        Ok(self.ask(&what, "view", api.list(&selector)).await?.items)
    }
}

async fn config(args: &ClusterArgs) -> Result<Config> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let found = match &args.kubeconfig {
        Some(path) => match Kubeconfig::read_from(path) {
            Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&options).await,
    };
    match found {
        Ok(config) => Ok(config),
        // Within a pod, the pod's account.
        Err(error) => match Config::incluster() {
            Ok(config) if args.kubeconfig.is_none() && args.context.is_none() => Ok(config),
            _ => Err(refusal::no_cluster(&error)),
        },
    }
}

#[cfg(test)]
mod tests;
