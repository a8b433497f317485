//! Real Kafka brokers for tests: started from `KAFKA_HOME` in a few seconds, killed, restarted, and removed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use scadles_api::worker::{KafkaConfig, KafkaSasl, KafkaSecurity, SaslMechanism};

use crate::connection::KafkaConnection;

mod secure;

use secure::SecureFiles;
pub use secure::{PASSWORD, USER};

/// How long a broker may take to start on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// How long a broker may take to end in order.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

const CLUSTER_ID: &str = "c2NhZGxlcy10ZXN0LTAwMQ";

/// Line in the broker's log that says it is ready.
const READY: &str = "Kafka Server started";

/// What can go wrong with a broker under test. The text is for the person who reads the failed test.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TestingError(String);

type Result<T> = std::result::Result<T, TestingError>;

fn failed(what: &str, error: impl std::fmt::Display) -> TestingError {
    TestingError(format!("failed to {what}: {error}"))
}

/// Folder of Apache Kafka, from `KAFKA_HOME`; the error says how to get one.
pub fn kafka_home() -> Result<PathBuf> {
    let home = std::env::var_os("KAFKA_HOME").map(PathBuf::from).ok_or_else(|| {
        TestingError(
            "KAFKA_HOME is not set, and this test needs a real Apache Kafka: set it to a folder of Kafka 4.x \
             (`export KAFKA_HOME=$(scripts/setup.sh kafka)` fetches one), or run `make test`, which leaves the \
             binaries `*_on_kafka` out where there is none"
                .to_owned(),
        )
    })?;
    if home.join("bin/kafka-server-start.sh").is_file() {
        return Ok(home);
    }
    Err(TestingError(format!("KAFKA_HOME={} has no bin/kafka-server-start.sh", home.display())))
}

/// One Kafka broker (KRaft, single node) with its own ports and data, all of which goes with this value.
///
/// Several may run at once. A watchdog shell ends the broker when this process ends, however it ends.
pub struct RealKafka {
    home: PathBuf,
    dir: PathBuf,
    port: u16,
    secure: Option<Secure>,
    running: Option<Running>,
}

struct Secure {
    files: SecureFiles,
    /// Port of the plain listener, which only tools use.
    internal: u16,
}

struct Running {
    /// Shell that ends the broker when its standard input closes.
    watchdog: Child,
    broker: u32,
}

impl RealKafka {
    /// Starts a broker and waits until it is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a broker with further server properties, for instance `log.retention.ms=1000`.
    pub fn start_with(properties: &[&str]) -> Result<Self> {
        let mut kafka = Self::new()?;
        let [controller] = free_ports()?;
        kafka.prepare(controller, properties).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.restart()?;
        Ok(kafka)
    }

    /// Starts a broker that takes only TLS connections of [`USER`] with [`PASSWORD`] (SCRAM-SHA-512 or -256). Everything
    /// is allowed until an ACL says otherwise.
    pub fn start_secure() -> Result<Self> {
        let mut kafka = Self::new()?;
        let [controller, internal] = free_ports()?;
        fs::create_dir_all(&kafka.dir).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.secure = Some(Secure { files: SecureFiles::make(&kafka.dir)?, internal });
        kafka.prepare(controller, &[]).map_err(|error| failed("prepare a broker's folder", error))?;
        kafka.make_users()?;
        kafka.restart()?;
        Ok(kafka)
    }

    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let home = kafka_home()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("scadles-kafka-{}-{number}", std::process::id()));
        let [port] = free_ports()?;
        Ok(Self { home, dir, port, secure: None, running: None })
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
        if self.running.is_some() {
            self.kill()?;
        }
        let log = File::create(self.log_path()).map_err(|error| failed("make the broker's log", error))?;
        let errors = log.try_clone().map_err(|error| failed("make the broker's log", error))?;
        let pid_path = self.dir.join("pid");
        let _ = fs::remove_file(&pid_path);
        // The shell's standard input is a pipe of this process: when that closes, so ends the broker. A line says that
        // the data is kept; without one this process has crashed or left a static behind, and all is removed.
        // A process group of its own keeps the terminal's Ctrl-C from ending the broker out of turn.
        let watchdog = Command::new("/bin/sh")
            .arg("-c")
            .arg(WATCHDOG)
            .arg("watchdog")
            .arg(self.home.join("bin/kafka-server-start.sh"))
            .arg(self.dir.join("server.properties"))
            .arg(&pid_path)
            .arg(&self.dir)
            .env("KAFKA_HEAP_OPTS", "-Xms64m -Xmx256m")
            .env("KAFKA_JVM_PERFORMANCE_OPTS", self.jvm_options())
            .env("KAFKA_LOG4J_OPTS", self.log_options())
            .env("LOG_DIR", self.dir.join("logs"))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed("start a broker", error))?;
        self.await_ready(watchdog, &pid_path)
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

    /// Writes the configuration and, in place of `kafka-storage format` and its second JVM, the file that it writes.
    fn prepare(&self, controller: u16, properties: &[&str]) -> std::io::Result<()> {
        let data = self.dir.join("data");
        fs::create_dir_all(&data)?;
        fs::write(
            data.join("meta.properties"),
            format!("version=1\ncluster.id={CLUSTER_ID}\nnode.id=1\ndirectory.id=c2NhZGxlcy1kYXRhLTAwMQ\n"),
        )?;
        let mut text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={data}\n",
            data = data.display(),
        );
        let listeners = match &self.secure {
            Some(secure) => secure.files.properties(self.port, secure.internal, controller),
            None => format!(
                "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n",
                port = self.port,
            ),
        };
        text.push_str(&listeners);
        text.push_str(SERVER_PROPERTIES);
        for property in properties {
            text.push_str(property);
            text.push('\n');
        }
        fs::write(self.dir.join("server.properties"), text)?;
        fs::write(self.dir.join("log4j2.properties"), LOG_PROPERTIES)
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

    fn log_options(&self) -> String {
        format!("-Dlog4j2.configurationFile={}", self.dir.join("log4j2.properties").display())
    }

    fn await_ready(&mut self, mut watchdog: Child, pid_path: &Path) -> Result<()> {
        let end = Instant::now() + START_DEADLINE;
        loop {
            let pid = fs::read_to_string(pid_path).ok().and_then(|text| text.trim().parse::<u32>().ok());
            let ready = self.log().contains(READY) && TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            if let (Some(broker), true) = (pid, ready) {
                self.running = Some(Running { watchdog, broker });
                return Ok(());
            }
            let ended = pid.is_some_and(|pid| !runs(pid));
            if ended || Instant::now() >= end {
                let log = self.log();
                dismiss(&mut watchdog);
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                return Err(TestingError(format!(
                    "the broker did not start; its log ends:\n{}",
                    tail.join("\n")
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(running.broker.to_string()).status();
        let end = Instant::now() + STOP_DEADLINE;
        while runs(running.broker) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let late = runs(running.broker);
        dismiss(&mut running.watchdog);
        if late {
            Err(TestingError(format!("the broker did not end within {STOP_DEADLINE:?}")))
        } else {
            Ok(())
        }
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Starts the broker `$1 $2`, writes its pid to `$3`, and ends it when standard input closes, with the folder `$4` where
/// no line came before.
const WATCHDOG: &str = r#"
"$1" "$2" </dev/null &
echo $! >"$3.new" && mv "$3.new" "$3"
if read -r keep; then gone=; else gone=$4; fi
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
[ -z "$gone" ] || rm -rf "$gone"
"#;

/// Lets the shell end the broker and itself, data kept.
fn dismiss(watchdog: &mut Child) {
    if let Some(mut input) = watchdog.stdin.take() {
        let _ = input.write_all(b"keep\n");
    }
    let _ = watchdog.wait();
}

/// True while the process runs (a zombie does not).
fn runs(pid: u32) -> bool {
    let mut stat = String::new();
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read_to_string(&mut stat));
    // The state follows the name, which is in brackets and may itself hold brackets.
    read.is_ok() && !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
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

const LOG_PROPERTIES: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.stdout.ref = STDOUT
appender.console.name = STDOUT
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
";
