//! How far every partition of a topic reaches: first and end offsets, asked on a client handle of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connection::{Context, KafkaConnection, with_retries};
use crate::error::{Error, Result, code_of, is_unknown_topic_code};

/// A broker that has just come back may not know its topics yet: only a topic unknown several times is missing.
const UNKNOWN_TOPIC_CONFIRMATIONS: u32 = 3;
const UNKNOWN_TOPIC_PAUSE: Duration = Duration::from_millis(200);

/// Reach of one partition, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// Offset of the oldest record that is still there.
    pub low: u64,
    /// Offset that the next record will get.
    pub end: u64,
}

impl PartitionOffsets {
    /// Records that are there.
    pub fn records(self) -> u64 {
        self.end.saturating_sub(self.low)
    }
}

/// Asks for the offsets of one topic, all partitions in one request each for first and end offsets.
///
/// Guarantees: every call ends within its deadline; end offsets never go back (that is [`Error::TopicRecreated`]).
/// Caveat: a topic deleted and filled further than before between two calls is not noticed.
pub struct OffsetWatcher {
    connection: KafkaConnection,
    client: BaseConsumer<Context>,
    topic: String,
    partitions: u32,
    last: Vec<PartitionOffsets>,
}

impl OffsetWatcher {
    /// Makes the client and learns the number of partitions.
    pub fn new(connection: &KafkaConnection, topic: &str, deadline: Duration) -> Result<Self> {
        let client: BaseConsumer<Context> = connection.create(&connection.query_config())?;
        let partitions = partition_count(connection, &client, topic, deadline)?;
        Ok(Self {
            connection: connection.clone(),
            client,
            topic: topic.to_owned(),
            partitions,
            last: Vec::new(),
        })
    }

    /// The same client, for another topic.
    pub fn retarget(self, topic: &str, deadline: Duration) -> Result<Self> {
        let partitions = partition_count(&self.connection, &self.client, topic, deadline)?;
        Ok(Self { topic: topic.to_owned(), partitions, last: Vec::new(), ..self })
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Partitions of the topic when this watcher was made.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Partitions that the topic has now; those of later days are not polled.
    pub fn count_partitions(&self, deadline: Duration) -> Result<u32> {
        partition_count(&self.connection, &self.client, &self.topic, deadline)
    }

    /// First and end offset of every partition, in partition order.
    pub fn poll(&mut self, deadline: Duration) -> Result<Vec<PartitionOffsets>> {
        // The end last: records that go between the two questions then only make the reach look longer.
        let low = self.ask(Offset::Beginning, deadline)?;
        let end = self.ask(Offset::End, deadline)?;
        let now: Vec<_> =
            low.into_iter().zip(end).map(|(low, end)| PartitionOffsets { low: low.min(end), end }).collect();
        refuse_going_back(&self.topic, &self.last, &now)?;
        self.last.clone_from(&now);
        Ok(now)
    }

    /// End offset of every partition: one request, for polling often.
    pub fn poll_end(&mut self, deadline: Duration) -> Result<Vec<u64>> {
        let end = self.ask(Offset::End, deadline)?;
        let now: Vec<_> = end
            .iter()
            .enumerate()
            .map(|(p, &end)| PartitionOffsets { low: self.last.get(p).map_or(0, |l| l.low), end })
            .collect();
        refuse_going_back(&self.topic, &self.last, &now)?;
        self.last = now;
        Ok(end)
    }

    /// For every partition, the offset of its first record whose own time is `unix_millis` or later; where there is none, the
    /// end that the last poll saw. The embedded broker never finds one.
    pub fn find_time(&self, unix_millis: i64, deadline: Duration) -> Result<Vec<u64>> {
        let question = |left| self.find_time_once(unix_millis, left);
        with_retries(deadline, &self.client, question).map_err(|error| self.unanswered(deadline, &error))
    }

    fn find_time_once(&self, unix_millis: i64, left: Duration) -> std::result::Result<Vec<u64>, KafkaError> {
        let mut found: Vec<u64> = self.last.iter().map(|reach| reach.end).collect();
        found.resize(self.partitions as usize, 0);
        let which = Offset::Offset(unix_millis);
        let answer = ask_leaders(&self.client, &[(&self.topic, self.partitions)], which, left)?;
        for element in answer.elements() {
            element.error()?;
            let place = found.get_mut(element.partition().cast_unsigned() as usize);
            if let (Some(place), Offset::Offset(offset)) = (place, element.offset()) {
                *place = offset.cast_unsigned();
            }
        }
        Ok(found)
    }

    fn ask(&self, which: Offset, deadline: Duration) -> Result<Vec<u64>> {
        let ask = || with_retries(deadline, &self.client, |left| self.ask_once(which, left));
        let mut answer = ask();
        for _ in 0..UNKNOWN_TOPIC_CONFIRMATIONS {
            if !answer.as_ref().is_err_and(|error| self.is_missing(error)) {
                break;
            }
            self.client.poll(UNKNOWN_TOPIC_PAUSE);
            answer = ask();
        }
        answer.map_err(|error| self.unanswered(deadline, &error))
    }

    fn unanswered(&self, deadline: Duration, error: &KafkaError) -> Error {
        if self.is_missing(error) {
            return Error::TopicMissing { topic: self.topic.clone() };
        }
        let what = format!("ask for the offsets of topic {:?}", self.topic);
        self.connection.unanswered(&what, deadline, error, &self.client)
    }

    fn is_missing(&self, error: &KafkaError) -> bool {
        matches!(Error::from_client("", &self.topic, error), Error::TopicMissing { .. })
    }

    fn ask_once(&self, which: Offset, left: Duration) -> std::result::Result<Vec<u64>, KafkaError> {
        let answer = list_offsets(&self.client, &[(&self.topic, self.partitions)], which, left)?;
        let unknown = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        answer.into_iter().flatten().collect::<Option<_>>().ok_or(unknown)
    }
}

/// One question about all partitions of all `topics` (name, partitions), which goes to each leader once: the protocol takes
/// -1 (end) and -2 (first) for timestamps.
fn ask_leaders(
    client: &BaseConsumer<Context>,
    topics: &[(&str, u32)],
    which: Offset,
    left: Duration,
) -> std::result::Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(topics.iter().map(|(_, count)| *count as usize).sum());
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            list.add_partition_offset(topic, partition.cast_signed(), which)?;
        }
    }
    client.offsets_for_times(list, left)
}

/// First or end offsets of all partitions of all `topics` (name, partitions). `None` for a partition that does not exist.
pub(crate) fn list_offsets(
    client: &BaseConsumer<Context>,
    topics: &[(&str, u32)],
    which: Offset,
    left: Duration,
) -> std::result::Result<Vec<Vec<Option<u64>>>, KafkaError> {
    let mut offsets = BTreeMap::new();
    for element in ask_leaders(client, topics, which, left)?.elements() {
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => {
                let place = (element.topic().to_owned(), element.partition().cast_unsigned());
                offsets.insert(place, offset.cast_unsigned());
            }
            (Err(error), _) if code_of(&error).is_some_and(is_unknown_topic_code) => {}
            (Err(error), _) => return Err(error),
            (Ok(()), _) => return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable)),
        }
    }
    let of_topic = |(topic, partitions): &(&str, u32)| {
        (0..*partitions).map(|partition| offsets.get(&((*topic).to_owned(), partition)).copied()).collect()
    };
    Ok(topics.iter().map(of_topic).collect())
}

/// Pure: an end offset that moved back means that the topic was made anew.
fn refuse_going_back(topic: &str, last: &[PartitionOffsets], now: &[PartitionOffsets]) -> Result<()> {
    match last.iter().zip(now).position(|(last, now)| now.end < last.end) {
        None => Ok(()),
        Some(p) => Err(Error::TopicRecreated {
            topic: topic.to_owned(),
            partition: p as u32,
            was: last[p].end,
            now: now[p].end,
        }),
    }
}

/// Number of partitions of `topic`, or [`Error::TopicMissing`].
pub(crate) fn partition_count(
    connection: &KafkaConnection,
    client: &BaseConsumer<Context>,
    topic: &str,
    deadline: Duration,
) -> Result<u32> {
    let metadata = with_retries(deadline, client, |left| {
        let metadata = client.fetch_metadata(Some(topic), left)?;
        match metadata.topics().first().and_then(rdkafka::metadata::MetadataTopic::error) {
            None => Ok(metadata),
            Some(code) => Err(KafkaError::MetadataFetch(code.into())),
        }
    });
    let metadata =
        metadata.map_err(|error| match Error::from_client("look up the topic", topic, &error) {
            Error::Client { .. } => connection.unanswered("look up the topic", deadline, &error, client),
            named => named,
        })?;
    match metadata.topics().first().map(|found| found.partitions().len()) {
        None | Some(0) => Err(Error::TopicMissing { topic: topic.to_owned() }),
        Some(partitions) => Ok(partitions as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_offset_that_moves_back_is_a_topic_made_anew() {
        let was = [PartitionOffsets { low: 0, end: 5 }, PartitionOffsets { low: 2, end: 9 }];
        let now = [PartitionOffsets { low: 0, end: 6 }, PartitionOffsets { low: 0, end: 1 }];
        assert_eq!(
            refuse_going_back("t", &was, &now),
            Err(Error::TopicRecreated { topic: "t".to_owned(), partition: 1, was: 9, now: 1 })
        );
        assert_eq!(refuse_going_back("t", &was, &was), Ok(()));
        assert_eq!(refuse_going_back("t", &[], &now), Ok(()));
    }
}
