//! From a validated job and the facts of a body to everything that will be made: topics, workers, producer. No I/O.

use std::path::PathBuf;

use scadles_api::{
    PROTOCOL_VERSION, WorkerConfig,
    job::TopicManagement,
    worker::{
        BatchRule, BucketConfig, CheckpointConfig, DeviceConfig, JobConfig, KafkaConfig, KafkaSasl,
        KafkaSecurity, ProducerConfig, StartFrom, StreamPolicy,
    },
};

use scadles_core::inject::{InjectionRule, donor_count, shared_of};

use crate::{
    backend::{BackendPlan, backend_plan},
    cost::{DeviceStep, StepCost, settle},
    mistake::{Findings, Mistakes},
    text,
    validate::{ValidatedJob, is_host_and_port},
};

/// Share of an embedded partition's room that the producer fills: the rest is for record headers and batches on their
/// way.
const USABLE_SHARE: f64 = 0.9;
/// How much longer than expected the time between two checkpoints may be before the producer has to wait.
const MARGIN: f64 = 1.5;
/// Evaluation and the writing of a checkpoint come on top of the steps, in seconds.
const PAUSE_SECONDS: f64 = 10.0;
/// Rate that embedded partitions are sized for when there is no producer, in samples per second.
const UNKNOWN_RATE: f64 = 100.0;
/// Most partitions that a device gets by itself; more is the user's decision.
const MOST_PARTITIONS: u32 = 256;

/// Where the streams live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// In the body's own process; records die with it.
    Embedded {
        /// `host:port` of the embedded broker; may be empty as long as nothing is started.
        bootstrap_servers: String,
        /// Bytes that one partition keeps; older records go.
        bytes_per_partition: u64,
        /// Memory of the whole machine.
        memory_bytes_of_machine: u64,
    },
    /// Servers of the user's.
    Servers(String),
}

/// Facts of the body that carries the plan out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Broker.
    pub broker: BrokerKind,
    /// Unique for this life of the job.
    pub uid: String,
    /// Address that workers listen on.
    pub host: String,
    /// Folder of results.
    pub output_dir: PathBuf,
    /// Folder of data sets.
    pub data_dir: PathBuf,
    /// Root of checkpoints if the job names none; `None` is `checkpoints` in the output folder.
    pub checkpoint_root: Option<PathBuf>,
    /// Buckets instead of those folders.
    pub buckets: Buckets,
    /// Token of the workers' endpoints.
    pub token: String,
    /// Compute threads per worker.
    pub threads: u32,
    /// Cores that the workers share.
    pub cores: u32,
    /// Where the files of Secrets lie.
    pub secrets: SecretFiles,
    /// Whether the parts of a job that only matter in a cluster are honoured; else the user is told that they are not.
    pub cluster: bool,
}

/// Buckets for what is to outlive the workers' machines; `None`: their folders outlive them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Of checkpoints.
    pub checkpoints: Option<BucketConfig>,
    /// Of results.
    pub output: Option<BucketConfig>,
}

/// Where the files of Secrets lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFiles {
    /// Nowhere.
    Missing,
    /// A folder per Secret below this one, named as the Secret is (`--secrets DIR`).
    ByName(PathBuf),
    /// The folders `ca` and `sasl` below this one, as pods mount them.
    ByRole(PathBuf),
}

impl SecretFiles {
    fn file(&self, secret: &str, role: &str, key: &str) -> Option<PathBuf> {
        match self {
            Self::Missing => None,
            Self::ByName(folder) => Some(folder.join(secret).join(key)),
            Self::ByRole(folder) => Some(folder.join(role).join(key)),
        }
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Name.
    pub name: String,
    /// Partitions.
    pub partitions: u32,
    /// Copies of each partition.
    pub replication: u32,
    /// Whether it is made if it is missing; else it must exist.
    pub create: bool,
}

/// The simulated streams.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerPlan {
    /// What is sent, how quickly.
    pub config: ProducerConfig,
    /// To whom.
    pub devices: Vec<DeviceConfig>,
    /// Size of every record; pictures are mostly packed to less.
    pub record_bytes: usize,
    /// Bytes that a partition may hold beyond the last durable checkpoint before its producer waits; `None` = no bound.
    pub budget_bytes_per_partition: Option<u64>,
}

/// Everything that will be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One topic per device, in the order of ranks.
    pub topics: Vec<TopicPlan>,
    /// One worker per device, in the order of ranks.
    pub workers: Vec<WorkerConfig>,
    /// Simulated streams, if the job has them.
    pub producer: Option<ProducerPlan>,
    /// What carries the workers' sums.
    pub backend: BackendPlan,
    /// Memory that the embedded broker fills, if it is used.
    pub embedded_broker_bytes: Option<u64>,
    /// What the user should know before it runs, in sentences.
    pub notes: Vec<String>,
}

impl Plan {
    /// The job as all workers see it; a plan has at least one.
    pub fn job(&self) -> Option<&JobConfig> {
        self.workers.first().map(|worker| &worker.job)
    }
}

/// Plans a job for a body. Mistakes are those that only show together with the body.
pub fn plan(job: &ValidatedJob, body: &Body) -> Result<Plan, Mistakes> {
    let mut found = Findings::default();
    let mut notes = Vec::new();
    let devices = devices(job, body);
    let embedded_broker_bytes = check_broker(&mut found, job, body, &devices);
    check_partition_quota(&mut found, job, &devices);
    let security = kafka_security(&mut found, job, body);
    let backend = backend_plan(job.backend, job.gpus_per_device, body.cluster);
    note_limits(&mut notes, job, body, &devices);
    note_injection(&mut notes, job, body);
    note_cluster_only(&mut notes, job, body);
    let topics = devices
        .iter()
        .map(|device| TopicPlan {
            name: device.topic.clone(),
            partitions: device.partitions,
            replication: job.topics.replication,
            create: is_embedded(body) || job.topics.management == TopicManagement::Operator,
        })
        .collect();
    let producer = job.producer.as_ref().map(|config| ProducerPlan {
        config: config.clone(),
        devices: devices.clone(),
        record_bytes: job.samples().payload_bytes(),
        budget_bytes_per_partition: budget_bytes(body),
    });
    let kafka = KafkaConfig { bootstrap_servers: bootstrap_servers(body), security };
    let config = job_config(job, body, devices, kafka);
    let workers = (0..config.devices.len())
        .map(|device_index| WorkerConfig {
            protocol: PROTOCOL_VERSION,
            device_index,
            host: body.host.clone(),
            port: 0,
            hub_port: 0,
            token: body.token.clone(),
            backend: backend.backend,
            job: config.clone(),
        })
        .collect();
    found.into_result(Plan { topics, workers, producer, backend, embedded_broker_bytes, notes })
}

fn is_embedded(body: &Body) -> bool {
    matches!(body.broker, BrokerKind::Embedded { .. })
}

fn budget_bytes(body: &Body) -> Option<u64> {
    match body.broker {
        BrokerKind::Embedded { bytes_per_partition, .. } => {
            Some((bytes_per_partition as f64 * USABLE_SHARE) as u64)
        }
        BrokerKind::Servers(_) => None,
    }
}

fn devices(job: &ValidatedJob, body: &Body) -> Vec<DeviceConfig> {
    let rates = rates_or_guess(job);
    let seconds = seconds_between_checkpoints(job, body, &rates);
    job.devices
        .iter()
        .zip(&rates)
        .map(|(device, rate)| DeviceConfig {
            name: device.name.clone(),
            topic: device.topic.clone(),
            partitions: job.topics.partitions.unwrap_or_else(|| match budget_bytes(body) {
                Some(budget) => embedded_partitions(*rate, job.samples().payload_bytes(), seconds, budget),
                None => 1,
            }),
        })
        .collect()
}

fn rates_or_guess(job: &ValidatedJob) -> Vec<f64> {
    job.producer.as_ref().map_or_else(|| vec![UNKNOWN_RATE; job.devices.len()], |it| it.rates.clone())
}

/// How long the records of one checkpoint must stay at the broker.
fn seconds_between_checkpoints(job: &ValidatedJob, body: &Body, rates: &[f64]) -> f64 {
    let cost = StepCost::new(&job.model, rates.len(), body.cores, None);
    let step = settle(job.stream.batch, job.stream.batch_bounds, rates, cost);
    step.step_seconds * job.checkpoint.every_steps as f64 + PAUSE_SECONDS
}

/// P = ⌈1.5 · rate · record bytes · seconds between checkpoints / budget⌉: until the next checkpoint is durable, every
/// record since the last one must stay.
fn embedded_partitions(rate: f64, record_bytes: usize, seconds: f64, budget: u64) -> u32 {
    let bytes = MARGIN * rate * record_bytes as f64 * seconds;
    let partitions = (bytes / budget.max(1) as f64).ceil();
    // A float beyond the range becomes the range's end.
    (partitions as u32).clamp(1, u32::MAX)
}

/// Memory of the embedded broker, and whether it and its streams are possible.
fn check_broker(
    found: &mut Findings,
    job: &ValidatedJob,
    body: &Body,
    devices: &[DeviceConfig],
) -> Option<u64> {
    match &body.broker {
        BrokerKind::Servers(servers) => {
            if let Some(bad) = servers.split(',').map(str::trim).find(|server| !is_host_and_port(server)) {
                let problem = format!("`{bad}` is not HOST:PORT");
                found.add("--kafka", servers, problem, "give for instance --kafka 127.0.0.1:9092");
            }
            None
        }
        BrokerKind::Embedded { bytes_per_partition, memory_bytes_of_machine, .. } => {
            if matches!(job.stream.start_from, StartFrom::Timestamp { .. }) {
                found.add(
                    "spec.stream.startFrom",
                    "Timestamp",
                    "the embedded broker cannot look records up by their time, and has none of before",
                    "use a real Kafka with --kafka HOST:PORT, or write Earliest",
                );
            }
            if job.producer.is_none() {
                found.add(
                    "spec.producer",
                    "",
                    "the embedded broker has no other sender: nothing would ever arrive",
                    "give spec.producer for simulated streams, or --kafka HOST:PORT (or spec.kafka) for real ones",
                );
            }
            let partitions: u64 = devices.iter().map(|device| u64::from(device.partitions)).sum();
            let bytes = partitions.saturating_mul(*bytes_per_partition);
            let crowded = devices.iter().any(|device| device.partitions > MOST_PARTITIONS);
            if bytes > memory_bytes_of_machine / 2 || crowded {
                found.add(
                    "spec.producer.rates",
                    "",
                    format!(
                        "the embedded broker would need {partitions} partitions with {} of memory to keep the \
                         records between two checkpoints; allowed are half of the machine's {} and \
                         {MOST_PARTITIONS} partitions per device",
                        text::bytes(bytes),
                        text::bytes(*memory_bytes_of_machine)
                    ),
                    "use a real Kafka with --kafka HOST:PORT, or lower spec.checkpoint.everySteps, the rates or \
                     the number of devices",
                );
            }
            Some(bytes)
        }
    }
}

/// Each partition has its share of the arena; together they must hold the largest batch.
fn check_partition_quota(found: &mut Findings, job: &ValidatedJob, devices: &[DeviceConfig]) {
    let largest = match job.stream.batch {
        BatchRule::Fixed { size } => size.max(job.stream.batch_bounds.max),
        BatchRule::StreamRate { .. } | BatchRule::LineRate => job.stream.batch_bounds.max,
    };
    let record = job.samples().sample_bytes();
    let most = devices.iter().map(|device| device.partitions).max().unwrap_or(1);
    let partitions = u64::from(most);
    let fits = job.stream.samples_that_fit(record, most);
    let record = record as u64;
    if fits < u64::from(largest) {
        found.add(
            "spec.stream.bufferBytes",
            text::bytes(job.stream.buffer_bytes),
            format!("shared by {partitions} partitions it holds {fits} records; a batch may have {largest}"),
            format!(
                "give at least {}, or a smaller spec.stream.batch.max",
                (u64::from(largest) / partitions + 1) * partitions * record
            ),
        );
    }
}

fn note_limits(notes: &mut Vec<String>, job: &ValidatedJob, body: &Body, devices: &[DeviceConfig]) {
    if is_embedded(body) {
        notes.push(
            "The embedded broker's records die with this command: --resume goes on with the model and starts the \
             streams anew. --kafka HOST:PORT keeps them."
                .to_owned(),
        );
    }
    if job.compression.is_some() && devices.len() == 1 {
        notes.push(
            "Compression: one device sends its gradient to nobody, so no step is compressed.".to_owned(),
        );
    }
    if job.producer.is_none() {
        notes.push("Rates are measured when the job runs: something else sends to the topics.".to_owned());
    }
    if matches!(job.stream.batch, BatchRule::Fixed { .. }) && job.stream.policy == StreamPolicy::Persistence {
        notes.push(
            "Fixed with Persistence: every stream quicker than the slowest piles up without end.".to_owned(),
        );
    }
    let rates = rates_or_guess(job);
    let cost = StepCost::new(&job.model, rates.len(), body.cores, None);
    let step = settle(job.stream.batch, job.stream.batch_bounds, &rates, cost);
    let too_slow = step.backlogged > 0 && !matches!(job.stream.batch, BatchRule::Fixed { .. });
    if job.producer.is_some() && too_slow {
        notes.push(format!(
            "By a rough estimate {} of {} devices train more slowly than their samples arrive.",
            step.backlogged,
            devices.len()
        ));
    }
}

/// Raw samples that leave their device, and settings by which fewer do than the job's author may think.
fn note_injection(notes: &mut Vec<String>, job: &ValidatedJob, body: &Body) {
    let Some(config) = &job.injection else { return };
    let devices = config.may_share.len();
    if devices == 1 {
        notes.push("Injection: one device has nobody to share with.".to_owned());
        return;
    }
    let rule = InjectionRule::new(config, job.samples().sample_bytes() as u64, job.training.seed);
    let willing = config.may_share.iter().filter(|may_share| **may_share).count();
    notes.push(format!(
        "Injection: raw samples of {willing} of {devices} devices leave them; in a step {} of these share {} % of \
         their batches.",
        rule.donor_count(),
        config.shared_fraction * 100.0
    ));
    let wanted = donor_count(config.donor_fraction, devices);
    if willing < wanted {
        notes.push(format!(
            "Injection: donorFraction {} asks for {wanted} donors in a step; {willing} of {devices} devices may share.",
            config.donor_fraction
        ));
    }
    let Some(producer) = &job.producer else { return };
    let cost = StepCost::new(&job.model, devices, body.cores, None);
    let settled = settle(job.stream.batch, job.stream.batch_bounds, &producer.rates, cost).devices;
    let shares_none = |(device, may_share): (&DeviceStep, &bool)| {
        *may_share && shared_of(config.shared_fraction, rule.own_batch(device.local_batch as u64)) == 0
    };
    let too_small = settled.iter().zip(&config.may_share).filter(|pair| shares_none(*pair)).count();
    if too_small > 0 {
        notes.push(format!(
            "Injection: by a rough estimate the batches of {too_small} of {devices} devices are too small for \
             sharedFraction {}: not one of their samples is shared.",
            config.shared_fraction
        ));
    }
}

fn note_cluster_only(notes: &mut Vec<String>, job: &ValidatedJob, body: &Body) {
    if !body.cluster && !job.cluster_only.is_empty() {
        notes.push(format!("Only of use in a cluster, ignored here: {}.", job.cluster_only.join(", ")));
    }
}

fn bootstrap_servers(body: &Body) -> String {
    match &body.broker {
        BrokerKind::Embedded { bootstrap_servers, .. } => bootstrap_servers.clone(),
        BrokerKind::Servers(servers) => servers.clone(),
    }
}

/// Where the workers find the files of the Secrets that the job names.
fn kafka_security(found: &mut Findings, job: &ValidatedJob, body: &Body) -> Option<KafkaSecurity> {
    let secrets = &job.kafka_secrets;
    if is_embedded(body) || (secrets.tls.is_none() && secrets.sasl.is_none()) {
        return None;
    }
    if body.secrets == SecretFiles::Missing && secrets.names().next().is_some() {
        let names: Vec<&str> = secrets.names().collect();
        found.add(
            "--secrets",
            "",
            format!("the job names Secrets ({}) and nothing says where their files are", names.join(", ")),
            "give --secrets DIR with a folder per Secret: DIR/NAME/ca.crt, DIR/NAME/username, DIR/NAME/password",
        );
    }
    let ca = secrets.tls.iter().flatten().next();
    let sasl = secrets.sasl.as_ref().and_then(|(mechanism, secret)| {
        Some(KafkaSasl {
            mechanism: *mechanism,
            username_file: body.secrets.file(secret, "sasl", "username")?,
            password_file: body.secrets.file(secret, "sasl", "password")?,
        })
    });
    Some(KafkaSecurity {
        tls: secrets.tls.is_some(),
        ca_file: ca.and_then(|secret| body.secrets.file(secret, "ca", "ca.crt")),
        sasl,
    })
}

fn job_config(job: &ValidatedJob, body: &Body, devices: Vec<DeviceConfig>, kafka: KafkaConfig) -> JobConfig {
    let root = job.checkpoint.path.clone().or_else(|| body.checkpoint_root.clone());
    JobConfig {
        name: job.name.clone(),
        namespace: job.namespace.clone(),
        uid: body.uid.clone(),
        devices,
        kafka,
        model: job.model.clone(),
        training: job.training.clone(),
        stream: job.stream.clone(),
        producer: job.producer.clone(),
        compression: job.compression,
        injection: job.injection.clone(),
        checkpoint: CheckpointConfig {
            root: root.unwrap_or_else(|| body.output_dir.join("checkpoints")),
            bucket: body.buckets.checkpoints.clone(),
            every_steps: job.checkpoint.every_steps,
            keep: job.checkpoint.keep,
        },
        evaluation: job.evaluation.clone(),
        completion: job.completion,
        limits: job.limits,
        output_dir: body.output_dir.clone(),
        output_bucket: body.buckets.output.clone(),
        data_dir: body.data_dir.clone(),
        threads: body.threads,
    }
}

#[cfg(test)]
pub(crate) mod tests;
