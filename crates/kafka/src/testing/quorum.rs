//! How a broker under test finds the others of its cluster: `KRaft`, or ZooKeeper for Kafka 3.9.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use super::process::{Launch, Server};
use super::{CLUSTER_ID, Result, failed};

/// Where a cluster keeps what all of its brokers know.
pub(super) enum Quorum {
    /// In the brokers, each of which is a controller too.
    Kraft {
        /// This broker, from 1.
        number: usize,
        /// Ports of all controllers, in the order of their numbers.
        controllers: Vec<u16>,
    },
    /// In a `ZooKeeper` of this broker alone.
    ZooKeeper {
        /// Its port.
        port: u16,
    },
}

impl Quorum {
    /// A cluster of one.
    pub(super) fn alone(controller: u16) -> Self {
        Self::Kraft { number: 1, controllers: vec![controller] }
    }

    /// Listener of the controller, as `listeners` and the map of protocols name it; both begin with a comma.
    pub(super) fn listener(&self) -> (String, &'static str) {
        match self {
            Self::Kraft { number, controllers } => {
                (format!(",CONTROLLER://127.0.0.1:{}", controllers[number - 1]), ",CONTROLLER:PLAINTEXT")
            }
            Self::ZooKeeper { .. } => (String::new(), ""),
        }
    }

    /// Who the broker is and where the others are.
    pub(super) fn properties(&self) -> String {
        match self {
            Self::Kraft { number, controllers } => {
                let voters: Vec<String> = (1..)
                    .zip(controllers)
                    .map(|(number, port)| format!("{number}@127.0.0.1:{port}"))
                    .collect();
                format!(
                    "process.roles=broker,controller\nnode.id={number}\ncontroller.quorum.voters={}\n\
                     controller.listener.names=CONTROLLER\n",
                    voters.join(",")
                )
            }
            Self::ZooKeeper { port } => format!("broker.id=1\nzookeeper.connect=127.0.0.1:{port}\n"),
        }
    }

    /// In place of `kafka-storage format` and its second JVM: the file that it writes.
    pub(super) fn format(&self, data: &Path) -> std::io::Result<()> {
        let Self::Kraft { number, .. } = self else { return Ok(()) };
        // Sixteen bytes in base64, of which the last one tells the brokers apart.
        let directory = ["MQ", "Mg", "Mw"][(number - 1) % 3];
        fs::write(
            data.join("meta.properties"),
            format!(
                "version=1\ncluster.id={CLUSTER_ID}\nnode.id={number}\n\
                 directory.id=c2NhZGxlcy1kYXRhLTAw{directory}\n"
            ),
        )
    }

    /// What the broker has logged when it is ready, in any order. With `ZooKeeper` it becomes the controller, without which
    /// no topic can be made, on its own time.
    pub(super) fn ready(&self) -> &'static [&'static str] {
        match self {
            Self::Kraft { .. } => &["Kafka Server started"],
            Self::ZooKeeper { .. } => {
                &["started (kafka.server.KafkaServer)", "Ready to serve as the new controller"]
            }
        }
    }

    /// File with the settings of logging below a folder, and its text. Kafka 3.9 reads those of log4j 1.
    pub(super) fn logging(&self) -> (&'static str, &'static str) {
        match self {
            Self::Kraft { .. } => ("log4j2.properties", LOG4J_2),
            Self::ZooKeeper { .. } => ("log4j.properties", LOG4J_1),
        }
    }

    /// Option of the JVM that names that file.
    pub(super) fn logging_option(&self, folder: &Path) -> String {
        let file = folder.join(self.logging().0);
        match self {
            Self::Kraft { .. } => format!("-Dlog4j2.configurationFile={}", file.display()),
            Self::ZooKeeper { .. } => format!("-Dlog4j.configuration=file:{}", file.display()),
        }
    }
}

/// Starts the `ZooKeeper` that comes with the Kafka in `home` and waits until it takes connections.
pub(super) fn start_zookeeper(home: &Path, dir: &Path, port: u16, mut launch: Launch) -> Result<Server> {
    let config = dir.join("zookeeper.properties");
    let data = dir.join("zookeeper");
    let text = format!(
        "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=1000\nmaxClientCnxns=0\n\
         admin.enableServer=false\n",
        data.display()
    );
    fs::create_dir_all(&data)
        .and_then(|()| fs::write(&config, text))
        .map_err(|error| failed("prepare ZooKeeper's folder", error))?;
    launch.program = home.join("bin/zookeeper-server-start.sh");
    launch.config = config;
    launch.log = dir.join("zookeeper-log");
    let server = Server::start(&launch)?;
    server.await_ready(|_| TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    Ok(server)
}

const LOG4J_2: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.stdout.ref = STDOUT
appender.console.name = STDOUT
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
";

const LOG4J_1: &str = "\
log4j.rootLogger=INFO, stdout
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=[%d] %p %m (%c)%n
";
