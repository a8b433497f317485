//! Topics of jobs: the operator's side of `scadles_kafka::topics`. Shell around a trait, so that tests need no broker.
//!
//! A job's topics are looked after on a thread of their own; the passes over the object only look at what came out. A
//! broker that does not answer holds up nothing but its own jobs' topics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use scadles_control::{ClusterJob, Plan, decide::BrokerState};
use scadles_kafka::{
    Credentials, KafkaConnection, Material, Sasl, Tls, TopicAdmin, TopicRules, TopicState, WantedTopic,
};
use tokio::task::JoinHandle;

/// One look at a job's topics takes no longer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Deleting them takes no longer: a namespace that goes must not wait for a broker that is gone.
const DELETION_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks while something is missing.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks while all is well: drift is mended within it.
const RECHECK: Duration = Duration::from_mins(5);

/// What a job needs of its brokers.
#[derive(Clone, Debug)]
pub struct TopicsWanted {
    /// Namespace of the job and of its Secrets.
    pub namespace: String,
    /// Brokers.
    pub bootstrap_servers: String,
    /// Names of the Secrets of the connection.
    pub secrets: scadles_control::validate::KafkaSecrets,
    /// Topics.
    pub topics: Vec<WantedTopic>,
    /// Whose are whose.
    pub rules: TopicRules,
}

impl TopicsWanted {
    /// What `plan` needs; `started`: the job has read from its topics.
    pub fn of(job: &ClusterJob, plan: &Plan, name_template: &str, started: bool) -> Self {
        let valid = &job.job;
        let device =
            |(topic, device): (&scadles_control::TopicPlan, &scadles_control::validate::ValidatedDevice)| {
                WantedTopic {
                    device: device.name.clone(),
                    name: topic.name.clone(),
                    partitions: topic.partitions,
                    replication: Some(topic.replication),
                    settings: valid.topics.config.clone(),
                }
            };
        Self {
            namespace: valid.namespace.clone(),
            bootstrap_servers: job.bootstrap_servers.clone(),
            secrets: valid.kafka_secrets.clone(),
            topics: plan.topics.iter().zip(&valid.devices).map(device).collect(),
            rules: TopicRules {
                namespace: valid.namespace.clone(),
                job: valid.name.clone(),
                name_template: name_template.to_owned(),
                management: valid.topics.management,
                adoption: valid.topics.adoption,
                started,
            },
        }
    }
}

/// Why topics are not ready, in words for the user.
pub type Problem = String;

/// Whoever can look after topics.
pub trait Topics: Send + Sync {
    /// Makes the topics what the job wants.
    fn reconcile(&self, wanted: TopicsWanted) -> JoinHandle<Result<Vec<TopicState>, Problem>>;

    /// Deletes the job's own topics; the problems of those that could not be deleted.
    fn delete(&self, wanted: TopicsWanted) -> JoinHandle<Vec<Problem>>;
}

/// What is known of one job's topics.
#[derive(Default)]
pub struct TopicsMemory {
    /// Hash of the settings that the rest is about.
    settings: String,
    work: Option<JoinHandle<Result<Vec<TopicState>, Problem>>>,
    outcome: Option<(Result<Vec<TopicState>, Problem>, Instant)>,
    waiting_since: Option<f64>,
}

impl TopicsMemory {
    /// Starts a look if one is due, takes in one that has ended, and says how things stand. What was found for other
    /// settings says nothing. `were_ready`: the status says so of these settings, which holds until a look has ended.
    pub async fn look(
        &mut self,
        topics: &dyn Topics,
        wanted: impl FnOnce() -> TopicsWanted,
        settings: &str,
        were_ready: bool,
        now: f64,
    ) -> BrokerState {
        if self.settings != settings {
            *self = Self { settings: settings.to_owned(), ..Self::default() };
        }
        if self.work.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(work) = self.work.take()
        {
            let outcome =
                work.await.unwrap_or_else(|error| Err(format!("the look at the topics failed: {error}")));
            self.outcome = Some((outcome, Instant::now()));
        }
        let due = match &self.outcome {
            None => true,
            Some((Ok(_), at)) => at.elapsed() >= RECHECK,
            Some((Err(_), at)) => at.elapsed() >= RETRY,
        };
        if due && self.work.is_none() {
            self.work = Some(topics.reconcile(wanted()));
        }
        let problem = match &self.outcome {
            Some((Ok(_), _)) => None,
            Some((Err(problem), _)) => Some(problem.clone()),
            None => (!were_ready).then(|| "its topics are being looked at".to_owned()),
        };
        let Some(problem) = problem else {
            self.waiting_since = None;
            return BrokerState::Ready;
        };
        BrokerState::Waiting { since: *self.waiting_since.get_or_insert(now), problem }
    }

    /// Topics that were there before, with their records: worth telling.
    pub fn states(&self) -> &[TopicState] {
        match &self.outcome {
            Some((Ok(states), _)) => states,
            _ => &[],
        }
    }
}

/// Real brokers. Clients are kept per cluster and identity.
#[derive(Clone)]
pub struct KafkaTopics {
    client: Client,
    release: String,
    pool: Arc<Mutex<Pool>>,
}

/// Clients in use lately.
#[derive(Default)]
struct Pool {
    clients: BTreeMap<(String, u64), (Arc<TopicAdmin>, Instant)>,
}

/// Most clients that are kept: each holds a few connections and threads.
const MOST_CLIENTS: usize = 16;
/// A client that nobody asked for this long is closed.
const IDLE: Duration = Duration::from_mins(10);

impl Pool {
    fn get(&mut self, connection: &KafkaConnection) -> Result<Arc<TopicAdmin>, Problem> {
        self.clients.retain(|_, (_, used)| used.elapsed() < IDLE);
        let identity: Vec<u8> = connection
            .properties
            .iter()
            .flat_map(|(key, value)| [key.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat())
            .collect();
        let key = (connection.bootstrap_servers.clone(), twox_hash::XxHash64::oneshot(0, &identity));
        if let Some((admin, used)) = self.clients.get_mut(&key) {
            *used = Instant::now();
            return Ok(Arc::clone(admin));
        }
        while self.clients.len() >= MOST_CLIENTS {
            let oldest = self.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.clients.remove(&key));
        }
        let admin = Arc::new(TopicAdmin::new(connection).map_err(|error| error.to_string())?);
        self.clients.insert(key, (Arc::clone(&admin), Instant::now()));
        Ok(admin)
    }
}

impl KafkaTopics {
    /// Reads Secrets with `client`.
    pub fn new(client: Client, release: &str) -> Self {
        Self { client, release: release.to_owned(), pool: Arc::default() }
    }

    async fn admin(&self, wanted: &TopicsWanted) -> Result<Arc<TopicAdmin>, Problem> {
        let credentials = self.credentials(wanted).await?;
        let connection = KafkaConnection::new(&wanted.bootstrap_servers)
            .with_credentials(&credentials)
            .map_err(|error| error.to_string())?;
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).get(&connection)
    }

    async fn credentials(&self, wanted: &TopicsWanted) -> Result<Credentials, Problem> {
        let tls = match &wanted.secrets.tls {
            None => None,
            Some(None) => Some(Tls::SystemCertificates),
            Some(Some(secret)) => Some(Tls::Certificates(self.material(wanted, secret, "ca.crt").await?)),
        };
        let sasl = match &wanted.secrets.sasl {
            None => None,
            Some((mechanism, secret)) => Some(Sasl {
                mechanism: *mechanism,
                username: self.material(wanted, secret, "username").await?,
                password: self.material(wanted, secret, "password").await?,
            }),
        };
        Ok(Credentials { tls, sasl })
    }

    async fn material(&self, wanted: &TopicsWanted, name: &str, key: &str) -> Result<Material, Problem> {
        let namespace = &wanted.namespace;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = match secrets.get(name).await {
            Ok(secret) => secret,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(format!(
                    "the operator may not read Secret {namespace}/{name}: helm upgrade {} … --reuse-values \
                     --set 'kafkaSecrets.namespaces={{{namespace}}}'",
                    self.release
                ));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(format!("Secret {namespace}/{name} is missing: make it with the key {key}"));
            }
            Err(error) => return Err(format!("Secret {namespace}/{name} cannot be read: {error}")),
        };
        let bytes = secret.data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0);
        match bytes {
            Some(bytes) => Ok(Material { origin: format!("key {key} of Secret {namespace}/{name}"), bytes }),
            None => Err(format!("Secret {namespace}/{name} has no key {key}")),
        }
    }
}

impl Topics for KafkaTopics {
    fn reconcile(&self, wanted: TopicsWanted) -> JoinHandle<Result<Vec<TopicState>, Problem>> {
        let this = self.clone();
        tokio::spawn(async move {
            let admin = this.admin(&wanted).await?;
            let work = move || admin.reconcile(&wanted.topics, &wanted.rules, DEADLINE);
            match tokio::task::spawn_blocking(work).await {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn delete(&self, wanted: TopicsWanted) -> JoinHandle<Vec<Problem>> {
        let this = self.clone();
        tokio::spawn(async move {
            let admin = match this.admin(&wanted).await {
                Ok(admin) => admin,
                Err(problem) => return vec![problem],
            };
            let work = move || {
                let names: Vec<&str> = wanted.topics.iter().map(|topic| topic.name.as_str()).collect();
                admin.delete(&names, &wanted.rules, DELETION_DEADLINE)
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(deletion) => {
                    deletion.failed.into_iter().map(|(name, error)| format!("{name}: {error}")).collect()
                }
                Err(error) => vec![error.to_string()],
            }
        })
    }
}

#[cfg(test)]
mod tests;
