//! Several brokers that copy every record: one may be killed while the others go on.

use super::quorum::Quorum;
use super::{RealKafka, Result, TestingError, failed, free_ports, kafka_home};

/// Brokers of a cluster; each partition is on all of them.
const BROKERS: usize = 3;

/// Settings of a cluster that survives the loss of one broker and notices it within seconds.
const PROPERTIES: [&str; 11] = [
    "default.replication.factor=3",
    "min.insync.replicas=2",
    "offsets.topic.replication.factor=3",
    "transaction.state.log.replication.factor=3",
    "transaction.state.log.min.isr=2",
    "share.coordinator.state.topic.replication.factor=3",
    "share.coordinator.state.topic.min.isr=2",
    "broker.session.timeout.ms=4000",
    "broker.heartbeat.interval.ms=500",
    "controller.quorum.election.timeout.ms=1000",
    "controller.quorum.fetch.timeout.ms=2000",
];

/// Three Kafka brokers (`KRaft`), three copies of every record, two of which must be there for a write. Brokers are
/// numbered from 1, as Kafka's own tools number them.
pub struct RealCluster {
    brokers: Vec<RealKafka>,
}

impl RealCluster {
    /// Starts the brokers and waits until all are ready.
    pub fn start() -> Result<Self> {
        let home = kafka_home()?;
        let ports: [u16; 2 * BROKERS] = free_ports()?;
        let (own, controllers) = ports.split_at(BROKERS);
        let mut brokers = Vec::with_capacity(BROKERS);
        for (number, &port) in (1..).zip(own) {
            let quorum = Quorum::Kraft { number, controllers: controllers.to_vec() };
            let broker = RealKafka::new(home.clone(), port, quorum);
            broker.prepare(&PROPERTIES).map_err(|error| failed("prepare a broker's folder", error))?;
            brokers.push(broker);
        }
        // A broker is ready when most of them are there to choose a leader: all are started before any is awaited.
        for broker in &mut brokers {
            broker.launch()?;
        }
        for broker in &brokers {
            broker.await_ready()?;
        }
        Ok(Self { brokers })
    }

    /// `bootstrap.servers`: all of them.
    pub fn servers(&self) -> String {
        self.brokers.iter().map(RealKafka::servers).collect::<Vec<_>>().join(",")
    }

    /// Ends a broker at once (SIGKILL), data kept.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.brokers[number - 1].kill()
    }

    /// Starts a broker again on its data and ports, and waits until it is ready.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.brokers[number - 1].restart()
    }

    /// Number of the broker that leads a partition.
    pub fn leader(&self, topic: &str, partition: u32) -> Result<usize> {
        let text = self.running()?.kafka_tool("kafka-topics", &["--describe", "--topic", topic])?;
        leader_in(&text, partition).ok_or_else(|| {
            TestingError(format!("partition {partition} of {topic} has no leader in:\n{text}"))
        })
    }

    /// End offset of every partition of `topic`, as Kafka's own tool sees them.
    pub fn end_offsets(&self, topic: &str) -> Result<Vec<u64>> {
        self.running()?.end_offsets(topic)
    }

    fn running(&self) -> Result<&RealKafka> {
        let running = self.brokers.iter().find(|broker| broker.is_running());
        running.ok_or_else(|| TestingError("no broker of the cluster runs".to_owned()))
    }
}

/// Pure: the leader that `kafka-topics --describe` tells of a partition.
fn leader_in(text: &str, partition: u32) -> Option<usize> {
    let line = text.lines().find(|line| field(line, "Partition: ") == Some(&partition.to_string()))?;
    field(line, "Leader: ")?.parse().ok()
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split('\t').find_map(|field| field.trim().strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_of_a_partition_is_read_off_the_tools_lines() {
        let text = "Topic: t\tTopicId: x\tPartitionCount: 2\tReplicationFactor: 3\tConfigs: \n\
                    \tTopic: t\tPartition: 0\tLeader: 3\tReplicas: 3,1,2\tIsr: 3,1,2\n\
                    \tTopic: t\tPartition: 1\tLeader: none\tReplicas: 1,2,3\tIsr: 1\n";
        assert_eq!(leader_in(text, 0), Some(3));
        assert_eq!(leader_in(text, 1), None);
        assert_eq!(leader_in(text, 2), None);
    }
}
