//! Where the brokers are, and how this program's clients behave towards them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, Result, code_of};
use crate::security::is_secret;

/// Properties that this program decides itself; a job that sets them would break its promises.
const RESERVED: [(&str, &str); 10] = [
    ("bootstrap.servers", "set spec.kafka.bootstrapServers"),
    ("group.id", "devices read their own partitions, without a consumer group"),
    ("enable.auto.commit", "offsets are kept in the job's checkpoints"),
    ("enable.auto.offset.store", "offsets are kept in the job's checkpoints"),
    ("auto.offset.reset", "lost records are counted, never passed over silently"),
    ("enable.partition.eof", "the program needs its own setting"),
    ("enable.idempotence", "the order of records is part of their identity"),
    ("acks", "a record counts as sent when all replicas have it"),
    ("test.mock.num.brokers", "leave spec.kafka.bootstrapServers out to use the embedded broker"),
    ("log_level", "use the program's own log level"),
];

/// Address and client properties of a Kafka cluster (`spec.kafka`), credentials included: two that are equal may share a
/// client. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KafkaConnection {
    /// `HOST:PORT[,HOST:PORT…]`.
    pub bootstrap_servers: String,
    /// Further librdkafka properties, for instance `security.protocol`.
    pub properties: BTreeMap<String, String>,
}

impl KafkaConnection {
    /// A connection without further properties.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), properties: BTreeMap::new() }
    }

    /// Refuses properties that this program keeps for itself. Pure.
    pub fn validate(&self) -> Result<()> {
        if self.bootstrap_servers.trim().is_empty() {
            return Err(Error::Property {
                property: "bootstrap.servers".to_owned(),
                value: self.bootstrap_servers.clone(),
                reason: "give HOST:PORT, or leave the field out to use the embedded broker".to_owned(),
            });
        }
        for (property, reason) in RESERVED {
            if let Some(value) = self.properties.get(property) {
                return Err(Error::Property {
                    property: property.to_owned(),
                    value: value.clone(),
                    reason: reason.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Asks for the cluster's metadata; the number of brokers, or why none answered within `deadline`.
    pub fn check(&self, deadline: Duration) -> Result<usize> {
        let client: BaseConsumer<Context> = self.create(&self.query_config())?;
        let metadata = with_retries(deadline, &client, |left| client.fetch_metadata(Some(NO_TOPIC), left))
            .map_err(|error| self.unanswered("reach the broker", deadline, &error, &client))?;
        Ok(metadata.brokers().len())
    }

    /// What all clients share: quick reconnects, bounded time-outs.
    fn base_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "scadles")
            .set("socket.nagle.disable", "true")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            // A topic that is gone is reported after this long instead of 30 s.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }

    /// A consumer that keeps at most about `queued_kbytes` of records beside what the program holds.
    pub(crate) fn consumer_config(&self, queued_kbytes: u32) -> ClientConfig {
        let mut config = self.base_config();
        config
            // Needed by assign(); nothing is ever committed to it and nobody joins it.
            .set("group.id", "scadles-unused")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            // The embedded broker holds an empty fetch for the whole time, and later answers behind it.
            .set("fetch.wait.max.ms", "20")
            .set("fetch.min.bytes", "1")
            .set("fetch.error.backoff.ms", "100")
            // A full queue is looked at again soon: the default second would starve a device at 600 samples/s.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.message.max.bytes", (u64::from(queued_kbytes) * 1024).min(1 << 20).to_string())
            .set("fetch.max.bytes", (4u64 << 20).to_string())
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", queued_kbytes.to_string());
        self.with_properties(config)
    }

    /// A client that only asks questions (metadata, offsets): without a group, so that it may not be assigned.
    pub(crate) fn query_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("allow.auto.create.topics", "false")
            // A connection that is closed at once is the only sign of a port that speaks another protocol, and a line of
            // the log the only word about it.
            .set("log.connection.close", "true")
            .set_log_level(RDKafkaLogLevel::Info);
        self.with_properties(config)
    }

    /// A producer that keeps order over outages and never gives a record up by itself.
    pub(crate) fn producer_config(&self, batch_bytes: u32, queued_kbytes: u32) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            // 0: no limit. What is queued is bounded by size instead, and a gap would shift all later records.
            .set("message.timeout.ms", "0")
            .set("batch.size", batch_bytes.to_string())
            .set("queue.buffering.max.kbytes", queued_kbytes.to_string());
        self.with_properties(config)
    }

    /// A client of this configuration whose log and errors go to `tracing`.
    pub(crate) fn create<T: FromClientConfigAndContext<Context>>(&self, config: &ClientConfig) -> Result<T> {
        self.create_with(config, Context::default())
    }

    /// A client of this configuration with a context of the caller's.
    pub(crate) fn create_with<C, T>(&self, config: &ClientConfig, context: C) -> Result<T>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        self.validate()?;
        T::from_config_and_context(config, context).map_err(|error| match error {
            KafkaError::ClientConfig(_, reason, property, value) => {
                let value = if is_secret(&property) { "…".to_owned() } else { value };
                Error::Property { property, value, reason }
            }
            KafkaError::ClientCreation(reason) if reason.contains("ssl.") => {
                Error::Tls { servers: self.bootstrap_servers.clone(), reason }
            }
            other => Error::Client { what: "make a Kafka client".to_owned(), reason: other.to_string() },
        })
    }

    /// The error for a question that got no answer: who is away, or who refused us.
    pub(crate) fn unanswered(
        &self,
        what: &str,
        waited: Duration,
        error: &KafkaError,
        client: &BaseConsumer<Context>,
    ) -> Error {
        let problem = client.context().last_problem();
        if let Some(refusal) =
            problem.as_ref().and_then(|(code, reason)| refusal(&self.bootstrap_servers, *code, reason))
        {
            return refusal;
        }
        match code_of(error) {
            Some(code) if crate::error::is_transient_code(code) => Error::Unreachable {
                servers: self.bootstrap_servers.clone(),
                waited,
                reason: problem.map_or_else(|| error.to_string(), |(_, reason)| with_hint(reason)),
            },
            _ => Error::from_client(what, "", error),
        }
    }
}

/// The error where the brokers and we do not trust each other, so that no waiting helps.
///
/// A handshake that a broker's end cut short has the code of a refused one.
pub(crate) fn refusal(servers: &str, code: RDKafkaErrorCode, reason: &str) -> Option<Error> {
    let (servers, reason) = (servers.to_owned(), reason.to_owned());
    let is_cut_short =
        || ["Disconnected", "transport error", "unexpected eof"].iter().any(|words| reason.contains(words));
    match code {
        RDKafkaErrorCode::Authentication => Some(Error::Authentication { servers, reason }),
        RDKafkaErrorCode::SSL if !is_cut_short() => Some(Error::Tls { servers, reason }),
        _ => None,
    }
}

/// Who speaks plain text to a port that speaks TLS, or TLS to one that does not, is cut off before any answer.
fn with_hint(reason: String) -> String {
    match reason.contains("Disconnected").then_some(&reason) {
        Some(reason) if reason.contains("APIVERSION_QUERY") => {
            format!("{reason}: does this port speak TLS? Then give spec.kafka.tls")
        }
        Some(reason) if reason.contains("SSL_HANDSHAKE") => {
            format!("{reason}: does this port speak plain text? Then leave spec.kafka.tls out")
        }
        _ => reason,
    }
}

/// Metadata of one topic that nobody has is the cheapest question on a cluster with many topics.
const NO_TOPIC: &str = "scadles-no-such-topic";

/// How long a client may take to say what went wrong.
const SAYING: Duration = Duration::from_millis(5);

/// Longest single question.
const QUESTION_SLICE: Duration = Duration::from_secs(1);

/// The client library repeats the same error only after 30 s; a client that is held for long may know one that has passed.
const BELIEVED_AFTER: Duration = Duration::from_secs(3);

/// Repeats `question` until it is answered, refused, or `deadline` has passed; serves the client's log meanwhile.
pub(crate) fn with_retries<T>(
    deadline: Duration,
    client: &BaseConsumer<Context>,
    mut question: impl FnMut(Duration) -> std::result::Result<T, KafkaError>,
) -> std::result::Result<T, KafkaError> {
    let began = Instant::now();
    let end = began + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        // A part of the deadline at a time, so that a refused login is noticed before the deadline.
        let result = question(left.min(QUESTION_SLICE));
        let Err(error) = result else {
            client.poll(Duration::ZERO);
            client.context().forget_problem();
            return result;
        };
        // All that the client has to say, the reason among it: a poll returns at every error.
        while client.poll(SAYING).is_some() {}
        let refused = client.context().is_refused(began);
        let transient = code_of(&error).is_some_and(crate::error::is_transient_code);
        if refused || !transient || Instant::now() + Duration::from_millis(20) >= end {
            return Err(error);
        }
        // Pumps the queue of log lines and errors while waiting: a question may fail at once.
        client.poll(Duration::from_millis(50));
    }
}

/// What every client of this crate brings along: log lines to `tracing`, the last problem for error messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context {
    problem: Arc<Mutex<Option<Problem>>>,
}

#[derive(Debug, Clone)]
struct Problem {
    code: RDKafkaErrorCode,
    reason: String,
    at: Instant,
}

impl Context {
    fn problem(&self) -> MutexGuard<'_, Option<Problem>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last global error of this client and its text.
    pub(crate) fn last_problem(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.problem().as_ref().map(|problem| (problem.code, problem.reason.clone()))
    }

    /// Whether a question that began then is refused, not just unanswered.
    fn is_refused(&self, began: Instant) -> bool {
        self.problem().as_ref().is_some_and(|problem| {
            refusal("", problem.code, &problem.reason).is_some()
                && (problem.at >= began || began.elapsed() >= BELIEVED_AFTER)
        })
    }

    fn forget_problem(&self) {
        *self.problem() = None;
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, line: &str) {
        log_line(level, fac, line);
        if fac == "FAIL" {
            // Begins with the name of a thread.
            let reason = line.split_once("]: ").map_or(line, |(_, reason)| reason).to_owned();
            let code = RDKafkaErrorCode::BrokerTransportFailure;
            self.problem().get_or_insert(Problem { code, reason, at: Instant::now() });
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
        if let Some(code) = code_of(&error) {
            let mut problem = self.problem();
            // "All brokers are down" follows the line that says why; keep the why.
            if code != RDKafkaErrorCode::AllBrokersDown || problem.is_none() {
                *problem = Some(Problem { code, reason: reason.to_owned(), at: Instant::now() });
            }
        }
    }
}

impl ConsumerContext for Context {}

/// Sends a line of librdkafka's log where the program's own lines go; what an outage repeats stays at debug level.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, line: &str) {
    let repeated = matches!(fac, "FAIL" | "ERROR" | "CONFWARN" | "BROKERFAIL" | "REQTMOUT" | "DISCONNECTED");
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", fac, "{line}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if !repeated => {
            tracing::warn!(target: "librdkafka", fac, "{line}");
        }
        _ => tracing::debug!(target: "librdkafka", fac, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_the_program_keeps_for_itself_is_refused_with_the_remedy() {
        let mut connection = KafkaConnection::new("localhost:9092");
        connection.properties.insert("group.id".to_owned(), "mine".to_owned());
        let message = connection.validate().unwrap_err().to_string();
        assert!(message.starts_with("Kafka client property group.id: \"mine\""), "{message}");
        assert!(message.contains("without a consumer group"), "{message}");
    }

    #[test]
    fn a_property_that_librdkafka_does_not_know_is_named() {
        let mut connection = KafkaConnection::new("localhost:9092");
        connection.properties.insert("no.such.property".to_owned(), "1".to_owned());
        let error = connection.check(Duration::from_millis(1)).unwrap_err();
        assert!(
            matches!(&error, Error::Property { property, .. } if property == "no.such.property"),
            "{error}"
        );
    }

    #[test]
    fn an_unreachable_broker_is_an_error_within_the_deadline_that_names_field_value_and_remedy() {
        // Port 1 of the loopback address: nobody listens there.
        let connection = KafkaConnection::new("127.0.0.1:1");
        let began = Instant::now();
        let error = connection.check(Duration::from_millis(1500)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(4), "took {:?}", began.elapsed());
        let message = error.to_string();
        for part in ["spec.kafka.bootstrapServers", "127.0.0.1:1", "embedded broker"] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
        assert!(error.is_transient());
    }
}
