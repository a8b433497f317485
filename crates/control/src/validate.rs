//! From the job as written to the job as meant: every mistake found in one pass, every default filled in. No I/O.
//!
//! What comes out needs no second look: later code never sees the raw job, and [`plan`](mod@crate::plan) can only fail on facts of
//! the machine.

mod batch_norm;
mod compression;
mod data;
mod injection;
mod records;
mod run;
mod streams;
mod training;

pub(crate) use run::one_kind_of_storage;

use std::{collections::BTreeMap, path::PathBuf};

use scadles_api::{
    ScadlesJob,
    job::{Adoption, BackendChoice, DeletionPolicy, SaslMechanism, TopicManagement},
    names,
    worker::{
        Completion, CompressionConfig, EvaluationConfig, InjectionConfig, Limits, ModelConfig,
        ProducerConfig, SampleShape, StreamConfig, TrainingConfig,
    },
};

use crate::{
    backend::{backend_plan, check_model, gpus},
    mistake::{Findings, Mistakes},
};
pub(crate) use streams::is_host_and_port;

/// Most devices of a job.
pub const MOST_DEVICES: u32 = 1024;
/// Largest batch of a device in one step.
pub const LARGEST_BATCH: u32 = 16_384;
/// Quickest stream, in samples per second.
pub const HIGHEST_RATE: f64 = 1e6;

/// A job without mistakes, every default filled in. What depends on the body (broker, folders) is left to the plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ValidatedJob {
    /// Job name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Devices in the order of ranks.
    pub devices: Vec<ValidatedDevice>,
    /// `spec.kafka.bootstrapServers`; `None` asks for the embedded broker.
    pub bootstrap_servers: Option<String>,
    /// Secrets of the connection.
    pub kafka_secrets: KafkaSecrets,
    /// The devices' topics.
    pub topics: ValidatedTopics,
    /// Network.
    pub model: ModelConfig,
    /// Optimiser and aggregation.
    pub training: TrainingConfig,
    /// Batches and buffers.
    pub stream: StreamConfig,
    /// Simulated streams, rates drawn.
    pub producer: Option<ProducerConfig>,
    /// What the job asks for to carry its sums.
    pub backend: BackendChoice,
    /// GPUs that the pod of every device asks for.
    pub gpus_per_device: u64,
    /// Compression of gradients; `None`: every step is dense.
    pub compression: Option<CompressionConfig>,
    /// Samples that devices share; `None`: every sample is trained where it arrived.
    pub injection: Option<InjectionConfig>,
    /// Saved state.
    pub checkpoint: ValidatedCheckpoint,
    /// Held-out evaluation.
    pub evaluation: Option<EvaluationConfig>,
    /// When the job is done.
    pub completion: Completion,
    /// Deadlines and patience.
    pub limits: Limits,
    /// Fields that the job gives and that only a cluster honours.
    pub cluster_only: Vec<&'static str>,
}

impl ValidatedJob {
    /// What one sample of the job is.
    pub fn samples(&self) -> SampleShape {
        SampleShape::new(self.stream.format, &self.model)
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedDevice {
    /// Name.
    pub name: String,
    /// Topic of its stream.
    pub topic: String,
}

/// The devices' topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedTopics {
    /// Who makes them.
    pub management: TopicManagement,
    /// Partitions per device, if the job says.
    pub partitions: Option<u32>,
    /// Copies of each partition.
    pub replication: u32,
    /// Settings by Kafka's names; those that the job does not name are left alone.
    pub config: BTreeMap<String, String>,
    /// Topics of other names than the template's.
    pub adoption: Adoption,
    /// What happens to them when the job is deleted.
    pub deletion_policy: DeletionPolicy,
}

/// The Secrets that the connection to the brokers needs, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaSecrets {
    /// TLS; the Secret with the key `ca.crt`, if the system's certificates are not enough.
    pub tls: Option<Option<String>>,
    /// Mechanism, and the Secret with the keys `username` and `password`.
    pub sasl: Option<(SaslMechanism, String)>,
}

impl KafkaSecrets {
    /// The names of all Secrets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let ca = self.tls.iter().flatten().map(String::as_str);
        ca.chain(self.sasl.iter().map(|(_, secret)| secret.as_str()))
    }
}

/// Saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedCheckpoint {
    /// Steps between checkpoints.
    pub every_steps: u64,
    /// Checkpoints kept.
    pub keep: u32,
    /// Folder, if the job says.
    pub path: Option<PathBuf>,
}

/// Finds everything that is wrong with a job; or fills in what it leaves out.
pub fn validate(job: &ScadlesJob) -> Result<ValidatedJob, Mistakes> {
    let mut found = Findings::default();
    let spec = &job.spec;
    let (name, namespace) = head(&mut found, job);
    let devices = streams::devices(&mut found, job, &namespace);
    let count = devices.len();
    let format = records::format(&mut found, spec.stream.as_ref());
    let model = training::model(&mut found, spec, format);
    records::fits_model(&mut found, format, &model);
    let producer_facts = spec.producer.as_ref().and_then(|it| crate::dataset::facts(it.dataset.name));
    let training = training::training(&mut found, spec, &model, producer_facts, count);
    let samples = SampleShape::new(format, &model);
    let stream = streams::stream(&mut found, spec, samples, producer_facts);
    batch_norm::check_batches(&mut found, &model, training.micro_batch, &stream);
    let injection = injection::injection(&mut found, spec, count, &stream, samples);
    let data = data::Data { model: &model, format, seed: training.seed, devices: count };
    let producer = spec.producer.as_ref().map(|given| data.producer(&mut found, given));
    let evaluation = spec.evaluation.as_ref().map(|given| data.evaluation(&mut found, given, spec));
    let backend = spec.backend.unwrap_or_default();
    check_model(&mut found, &backend_plan(backend, 0, false), model.name);
    let validated = ValidatedJob {
        name,
        namespace,
        devices,
        bootstrap_servers: streams::bootstrap_servers(&mut found, spec.kafka.as_ref()),
        kafka_secrets: streams::kafka_secrets(&mut found, spec.kafka.as_ref()),
        topics: streams::topics(&mut found, spec.kafka.as_ref()),
        model,
        training,
        stream,
        producer,
        backend,
        gpus_per_device: gpus(spec.devices.template.as_ref()),
        compression: compression::compression(&mut found, spec.compression.as_ref()),
        injection,
        checkpoint: run::checkpoint(&mut found, spec.checkpoint.as_ref()),
        completion: run::completion(&mut found, spec, evaluation.as_ref()),
        evaluation,
        limits: run::limits(&mut found, spec.run_policy.as_ref()),
        cluster_only: crate::cluster::fields_given(spec),
    };
    found.into_result(validated)
}

fn head(found: &mut Findings, job: &ScadlesJob) -> (String, String) {
    if job.api_version != names::API_VERSION {
        let problem = format!("the only version is {}", names::API_VERSION);
        found.add("apiVersion", &job.api_version, problem, format!("write {}", names::API_VERSION));
    }
    if job.kind != names::KIND {
        let problem = format!("the only kind is {}", names::KIND);
        found.add("kind", &job.kind, problem, format!("write {}", names::KIND));
    }
    let namespace = job.metadata.namespace.clone().unwrap_or_else(|| names::DEFAULT_NAMESPACE.to_owned());
    dns_label(found, "metadata.name", &job.metadata.name, names::MAX_JOB_NAME_BYTES);
    dns_label(found, "metadata.namespace", &namespace, 63);
    (job.metadata.name.clone(), namespace)
}

/// Names become parts of file names, topics and, in a cluster, host names.
fn dns_label(found: &mut Findings, path: &str, name: &str, most: usize) {
    if !names::is_dns_label(name, most) {
        found.add(
            path,
            name,
            format!("needs 1 to {most} of the characters a-z, 0-9 and -, no - at either end"),
            format!("write for instance {}", crate::text::as_dns_label(name, most)),
        );
    }
}

#[cfg(test)]
mod tests;
