//! Real Kafka brokers for tests: started from `KAFKA_HOME` in a few seconds, killed, restarted, and removed. One, or three
//! that copy each record ([`RealCluster`]); one that takes TLS and known users only; one of Kafka 3.9 with `ZooKeeper`.

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use scadles_api::worker::{KafkaConfig, KafkaSasl, KafkaSecurity, SaslMechanism};

use crate::connection::KafkaConnection;

mod cluster;
mod process;
mod quorum;
mod secure;

pub use cluster::RealCluster;
use process::{Launch, Server};
use quorum::{Quorum, start_zookeeper};
use secure::SecureFiles;
pub use secure::{PASSWORD, USER};

const CLUSTER_ID: &str = "c2NhZGxlcy10ZXN0LTAwMQ";

/// What can go wrong with a broker under test. The text is for the person who reads the failed test.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TestingError(String);

type Result<T> = std::result::Result<T, TestingError>;

fn failed(what: &str, error: impl std::fmt::Display) -> TestingError {
    TestingError(format!("failed to {what}: {error}"))
}

/// Folder of Apache Kafka 4, from `KAFKA_HOME`; the error says how to get one.
pub fn kafka_home() -> Result<PathBuf> {
    home("KAFKA_HOME", "_on_kafka", "Kafka 4.x (`export KAFKA_HOME=$(scripts/setup.sh kafka)` fetches one)")
}

/// Folder of Apache Kafka 3.9, the last that knows `ZooKeeper`, from `KAFKA_3_HOME`; the error says how to get one.
pub fn kafka_3_home() -> Result<PathBuf> {
    home("KAFKA_3_HOME", "_on_kafka3", "an unpacked archive of Kafka 3.9")
}

fn home(variable: &str, suffix: &str, wanted: &str) -> Result<PathBuf> {
    let home = std::env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        TestingError(format!(
            "{variable} is not set, and this test needs a real Apache Kafka: set it to a folder of {wanted}, or run \
             `make test`, which leaves the binaries `*{suffix}` out where there is none"
        ))
    })?;
    if home.join("bin/kafka-server-start.sh").is_file() {
        return Ok(home);
    }
    Err(TestingError(format!("{variable}={} has no bin/kafka-server-start.sh", home.display())))
}

/// One Kafka broker with its own ports and data, all of which goes with this value.
///
/// Several may run at once. A watchdog shell ends the broker when this process ends, however it ends.
pub struct RealKafka {
    home: PathBuf,
    dir: PathBuf,
    port: u16,
    quorum: Quorum,
    secure: Option<Secure>,
    running: Option<Server>,
    zookeeper: Option<Server>,
}

struct Secure {
    files: SecureFiles,
    /// Port of the plain listener, which only tools use.
    internal: u16,
}

impl RealKafka {
    /// Starts a broker (`KRaft`) and waits until it is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a broker with further server properties, for instance `log.retention.ms=1000`.
    pub fn start_with(properties: &[&str]) -> Result<Self> {
        let [port, controller] = free_ports()?;
        let mut kafka = Self::new(kafka_home()?, port, Quorum::alone(controller));
        kafka.prepare(properties).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.restart()?;
        Ok(kafka)
    }

    /// Starts a broker that takes only TLS connections of [`USER`] with [`PASSWORD`] (SCRAM-SHA-512 or -256, or PLAIN).
    /// Everything is allowed until an ACL says otherwise.
    pub fn start_secure() -> Result<Self> {
        let [port, controller, internal] = free_ports()?;
        let mut kafka = Self::new(kafka_home()?, port, Quorum::alone(controller));
        fs::create_dir_all(&kafka.dir).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.secure = Some(Secure { files: SecureFiles::make(&kafka.dir)?, internal });
        kafka.prepare(&[]).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.make_users()?;
        kafka.restart()?;
        Ok(kafka)
    }

    /// Starts a `ZooKeeper` and a broker of Kafka 3.9 that uses it.
    pub fn start_with_zookeeper() -> Result<Self> {
        let [port, zookeeper] = free_ports()?;
        let mut kafka = Self::new(kafka_3_home()?, port, Quorum::ZooKeeper { port: zookeeper });
        kafka.prepare(&[]).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.zookeeper = Some(start_zookeeper(&kafka.home, &kafka.dir, zookeeper, kafka.launch_options())?);
        kafka.restart()?;
        Ok(kafka)
    }

    fn new(home: PathBuf, port: u16, quorum: Quorum) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("scadles-kafka-{}-{number}", std::process::id()));
        Self { home, dir, port, quorum, secure: None, running: None, zookeeper: None }
    }

    /// `bootstrap.servers`.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How clients reach it.
    pub fn connection(&self) -> KafkaConnection {
        let read = KafkaConnection::try_from(&self.kafka_config());
        // A file that cannot be read shows as a refused connection.
        read.unwrap_or_else(|_| KafkaConnection::new(self.servers()))
    }

    /// How workers are told to reach it.
    pub fn kafka_config(&self) -> KafkaConfig {
        let security = self.secrets_dir().map(|secrets| KafkaSecurity {
            tls: true,
            ca_file: Some(secrets.join("ca/ca.crt")),
            sasl: Some(KafkaSasl {
                mechanism: SaslMechanism::ScramSha512,
                username_file: secrets.join("sasl/username"),
                password_file: secrets.join("sasl/password"),
            }),
        });
        KafkaConfig { bootstrap_servers: self.servers(), security }
    }

    /// Of a secured broker: the folder with the Secrets `ca` (ca.crt), `sasl` (username, password) and `stranger` (ca.crt
    /// of an authority that has signed nothing).
    pub fn secrets_dir(&self) -> Option<&Path> {
        self.secure.as_ref().map(|secure| secure.files.folder())
    }

    /// `bootstrap.servers` that take plain text: for Kafka's own tools, and of a secured broker for nobody else.
    pub fn plain_servers(&self) -> String {
        format!("127.0.0.1:{}", self.secure.as_ref().map_or(self.port, |secure| secure.internal))
    }

    /// The broker's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Ends the broker at once (SIGKILL), data kept.
    pub fn kill(&mut self) -> Result<()> {
        self.end("KILL")
    }

    /// Ends the broker in order (SIGTERM), data kept.
    pub fn stop(&mut self) -> Result<()> {
        self.end("TERM")
    }

    /// Starts the broker again on its data and ports, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts the broker, without waiting for anything.
    fn launch(&mut self) -> Result<()> {
        self.kill()?;
        self.running = Some(Server::start(&self.launch_options())?);
        Ok(())
    }

    fn await_ready(&self) -> Result<()> {
        let Some(server) = &self.running else { return Ok(()) };
        server.await_ready(|log| {
            self.quorum.ready().iter().all(|line| log.contains(line))
                && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        })
    }

    fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn launch_options(&self) -> Launch {
        Launch {
            program: self.home.join("bin/kafka-server-start.sh"),
            config: self.dir.join("server.properties"),
            log: self.log_path(),
            folder: self.dir.clone(),
            environment: vec![
                ("KAFKA_HEAP_OPTS", OsString::from("-Xms64m -Xmx256m")),
                ("KAFKA_JVM_PERFORMANCE_OPTS", self.jvm_options().into()),
                ("KAFKA_LOG4J_OPTS", self.quorum.logging_option(&self.dir).into()),
                ("LOG_DIR", self.dir.join("logs").into()),
            ],
        }
    }

    /// Runs one of Kafka's own tools, for instance `kafka-get-offsets`, against this broker; its standard output.
    pub fn kafka_tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.home.join("bin").join(format!("{name}.sh")))
            .args(["--bootstrap-server", &self.plain_servers()])
            .args(arguments)
            .env("KAFKA_HEAP_OPTS", "-Xmx128m")
            .env("LOG_DIR", self.dir.join("logs"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(&format!("run {name}"), error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(failed(&format!("run {name} {arguments:?}"), format!("{}: {errors}", output.status)))
    }

    /// End offset of every partition of `topic`, as Kafka's own tool sees them.
    pub fn end_offsets(&self, topic: &str) -> Result<Vec<u64>> {
        let text = self.kafka_tool("kafka-get-offsets", &["--topic", topic])?;
        let mut offsets = Vec::new();
        for line in text.lines() {
            let mut fields = line.rsplit(':');
            if let (Some(Ok(offset)), Some(Ok(partition))) =
                (fields.next().map(str::parse::<u64>), fields.next().map(str::parse::<usize>))
            {
                offsets.push((partition, offset));
            }
        }
        offsets.sort_unstable();
        Ok(offsets.into_iter().map(|(_, offset)| offset).collect())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Writes the configuration.
    fn prepare(&self, properties: &[&str]) -> std::io::Result<()> {
        let data = self.dir.join("data");
        fs::create_dir_all(&data)?;
        self.quorum.format(&data)?;
        let controller = self.quorum.listener();
        let listeners = match &self.secure {
            Some(secure) => secure.files.properties(self.port, secure.internal, &controller),
            None => format!(
                "listeners=PLAINTEXT://127.0.0.1:{port}{}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT{}\n",
                controller.0,
                controller.1,
                port = self.port,
            ),
        };
        let mut text = format!(
            "{}log.dirs={}\n{listeners}{SERVER_PROPERTIES}",
            self.quorum.properties(),
            data.display()
        );
        // Of a property that is there twice the last one counts.
        for property in properties {
            text.push_str(property);
            text.push('\n');
        }
        fs::write(self.dir.join("server.properties"), text)?;
        let (file, logging) = self.quorum.logging();
        fs::write(self.dir.join(file), logging)
    }

    /// Users are part of a new cluster's metadata, which Kafka's own tool writes.
    fn make_users(&self) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| failed("make the broker's users", error);
        fs::remove_file(self.dir.join("data/meta.properties")).map_err(|error| failed(&error))?;
        let output = Command::new(self.home.join("bin/kafka-storage.sh"))
            .args(["format", "--cluster-id", CLUSTER_ID, "--config"])
            .arg(self.dir.join("server.properties"))
            .args(SecureFiles::users())
            .env("KAFKA_HEAP_OPTS", "-Xmx128m")
            .env("KAFKA_JVM_PERFORMANCE_OPTS", self.jvm_options())
            .env("LOG_DIR", self.dir.join("logs"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(&error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(&String::from_utf8_lossy(&output.stderr)))
    }

    /// Quick to start rather than quick at length; an archive of parsed classes where this home has one.
    fn jvm_options(&self) -> String {
        let archive = self.home.join("server.jsa");
        let mut options =
            "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Djava.awt.headless=true".to_owned();
        if archive.is_file() {
            options.push_str(" -XX:SharedArchiveFile=");
            options.push_str(&archive.to_string_lossy());
        }
        options
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        self.running.take().map_or(Ok(()), |server| server.end(signal))
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        let _ = self.kill();
        self.zookeeper = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Ports that were free a moment ago, all held until all are known.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).map_err(|error| failed("find a free port", error))?;
        *port = listener.local_addr().map_err(|error| failed("find a free port", error))?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// A small broker that makes tests wait for nothing and makes no topic by itself.
const SERVER_PROPERTIES: &str = "\
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=2
delete.topic.enable=true
";
