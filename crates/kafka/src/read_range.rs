//! Random access to records: what a replay needs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connection::{Context, KafkaConnection};
use crate::consumer::label_of;
use crate::error::{Error, Result, code_of, is_transient_code};

/// Records read ahead per partition: a replay asks for the ranges of a partition one after the other.
const READ_AHEAD_RECORDS: usize = 256;

/// A record of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Offset in its partition.
    pub offset: u64,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// What its header [`crate::format::LABEL_HEADER`] holds.
    pub label: Option<Vec<u8>>,
}

/// Reads ranges of records of any topics over one client.
pub struct RangeReader {
    connection: KafkaConnection,
    consumer: BaseConsumer<Context>,
    /// What was read last, per (topic, partition).
    ahead: BTreeMap<(String, u32), Vec<OwnedRecord>>,
}

impl RangeReader {
    /// Makes the client.
    pub fn new(connection: &KafkaConnection) -> Result<Self> {
        let mut config = connection.consumer_config(4096);
        config.set("enable.partition.eof", "true");
        let consumer = connection.create(&config)?;
        Ok(Self { connection: connection.clone(), consumer, ahead: BTreeMap::new() })
    }

    /// The `count` records of `partition` from offset `first` on, all of them or an error.
    pub fn read(
        &mut self,
        topic: &str,
        partition: u32,
        first: u64,
        count: usize,
        deadline: Duration,
    ) -> Result<Vec<OwnedRecord>> {
        let key = (topic.to_owned(), partition);
        let known = self.ahead.get(&key).map_or(&[][..], Vec::as_slice);
        if let Some(found) = range(known, first, count) {
            return Ok(found.to_vec());
        }
        let read = self.fetch(topic, partition, first, count, deadline)?;
        let found = range(&read, first, count).map(<[_]>::to_vec).ok_or_else(|| Error::Client {
            what: format!(
                "read {count} records of topic {topic:?}, partition {partition}, from offset {first}"
            ),
            reason: format!(
                "the broker has only {} of them there; records that retention deleted cannot be replayed",
                read.len()
            ),
        })?;
        self.ahead.insert(key, read);
        Ok(found)
    }

    /// Reads from `first` on until there is enough, or the end of the partition.
    fn fetch(
        &mut self,
        topic: &str,
        partition: u32,
        first: u64,
        count: usize,
        deadline: Duration,
    ) -> Result<Vec<OwnedRecord>> {
        let what = format!("read topic {topic:?}, partition {partition}, from offset {first}");
        let end = Instant::now() + deadline;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition.cast_signed(), Offset::Offset(first.cast_signed()))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| Error::from_client(&what, topic, &error))?;
        let wanted = count.max(READ_AHEAD_RECORDS);
        let mut records = Vec::with_capacity(wanted);
        let mut reason = "no answer".to_owned();
        while records.len() < wanted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout { what, waited: deadline, reason });
            }
            match self.consumer.poll(left.min(Duration::from_millis(200))) {
                None => {}
                Some(Ok(message)) => {
                    let offset = message.offset().cast_unsigned();
                    if message.partition().cast_unsigned() == partition
                        && message.topic() == topic
                        && offset >= first
                    {
                        let payload = message.payload().unwrap_or_default().to_vec();
                        let label = label_of(&message).map(<[u8]>::to_vec);
                        records.push(OwnedRecord { offset, payload, label });
                    }
                }
                Some(Err(
                    KafkaError::PartitionEOF(_)
                    | KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset),
                )) => break,
                Some(Err(error)) => match code_of(&error) {
                    Some(code) if is_transient_code(code) => reason = error.to_string(),
                    Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                        return Err(self.connection.unanswered(&what, deadline, &error, &self.consumer));
                    }
                    Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
                    _ => return Err(Error::from_client(&what, topic, &error)),
                },
            }
        }
        Ok(records)
    }
}

/// Pure: `count` records of `known` from offset `first` on, where all are known.
fn range(known: &[OwnedRecord], first: u64, count: usize) -> Option<&[OwnedRecord]> {
    // What starts behind `first` says nothing about the records before.
    if known.first()?.offset > first {
        return None;
    }
    let start = known.partition_point(|record| record.offset < first);
    known.get(start..start + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_only_taken_from_what_is_known_completely() {
        let known: Vec<_> =
            (10..20).map(|offset| OwnedRecord { offset, payload: vec![], label: None }).collect();
        assert_eq!(range(&known, 12, 3).unwrap()[0].offset, 12);
        assert_eq!(range(&known, 17, 3).unwrap().len(), 3);
        assert_eq!(range(&known, 18, 3), None);
        assert_eq!(range(&known, 9, 1), None);
        assert_eq!(range(&[], 0, 1), None);
    }
}
