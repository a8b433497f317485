//! Reading one device's stream: all partitions of a topic, from explicit offsets, without a consumer group.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connection::{Context, KafkaConnection, refusal};
use crate::error::{Error, Result, is_transient_code};
use crate::format::LABEL_HEADER;
use crate::offsets::{OffsetWatcher, PartitionOffsets};

/// A seek forward over at most this many records reads past them: a real seek throws away what was prefetched.
const SKIP_BY_READING_RECORDS: u64 = 256;

/// How long a poll may be held up by the question what a stopped partition still has.
const LOOK_AGAIN_DEADLINE: Duration = Duration::from_secs(2);

/// How much a [`StreamConsumer`] reads ahead and how long it waits for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// Bound of the client library's own queue, in KiB.
    pub queued_kbytes: u32,
    /// Report [`Event::End`] whenever a partition's end is reached.
    pub report_end: bool,
    /// Deadline of questions to the broker (offsets, seeks).
    pub deadline: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self { queued_kbytes: 2048, report_end: false, deadline: Duration::from_secs(10) }
    }
}

/// What [`StreamConsumer::poll`] found.
#[derive(Debug)]
pub enum Event<'a> {
    /// The next record of a partition.
    Record(Record<'a>),
    /// Records `position..new_low` are gone from the broker; reading goes on at `new_low`. Count them as lost.
    OutOfRange {
        /// The partition.
        partition: u32,
        /// Offset that was to be read next.
        position: u64,
        /// Oldest offset that is still there.
        new_low: u64,
    },
    /// Nothing more to read in this partition for now (only with [`ConsumerOptions::report_end`]).
    End {
        /// The partition.
        partition: u32,
    },
    /// The broker is away; the client keeps trying. Ends with the next record; the caller decides how long to bear it.
    Outage {
        /// When it was first noticed.
        since: Instant,
        /// What the client library said.
        reason: String,
    },
    /// Reading cannot go on: topic deleted or made anew, not allowed.
    Fatal(Error),
}

/// A record, lent by the consumer until the next poll.
#[derive(Debug)]
pub struct Record<'a> {
    message: BorrowedMessage<'a>,
    /// Offsets between the record before and this one that hold no record (transaction markers).
    pub gap: u64,
}

impl Record<'_> {
    /// Partition within the topic.
    pub fn partition(&self) -> u32 {
        self.message.partition().cast_unsigned()
    }

    /// Offset within the partition.
    pub fn offset(&self) -> u64 {
        self.message.offset().cast_unsigned()
    }

    /// Milliseconds since the Unix epoch, where the record carries a time.
    pub fn timestamp_millis(&self) -> Option<i64> {
        self.message.timestamp().to_millis()
    }

    /// The bytes; empty where the record has none.
    pub fn payload(&self) -> &[u8] {
        self.message.payload().unwrap_or_default()
    }

    /// What its header [`LABEL_HEADER`] holds, if it has one with a value.
    pub fn label(&self) -> Option<&[u8]> {
        label_of(&self.message)
    }
}

/// The value of a message's header [`LABEL_HEADER`]; of several the last, as Kafka's own clients take it.
pub(crate) fn label_of<'a>(message: &'a BorrowedMessage<'_>) -> Option<&'a [u8]> {
    let headers = message.headers()?.iter().filter(|header| header.key == LABEL_HEADER);
    headers.last().and_then(|header| header.value)
}

/// Reads all partitions of a topic from explicit offsets.
///
/// Guarantees: each partition's records come in order, each once; what the broker no longer has is reported as
/// [`Event::OutOfRange`], never passed over silently; not polling for any time costs nothing, since no group waits for
/// this consumer; memory is bounded by [`ConsumerOptions::queued_kbytes`] (and one fetch answer).
pub struct StreamConsumer {
    consumer: BaseConsumer<Context>,
    state: State,
}

/// Everything but the consumer itself, so that a lent record and the bookkeeping do not get in each other's way.
struct State {
    topic: String,
    /// Next offset to hand out, per partition.
    positions: Vec<u64>,
    /// Partitions that are not fetched, by number.
    paused: Vec<bool>,
    connection: KafkaConnection,
    pending: VecDeque<Event<'static>>,
    outage_since: Option<Instant>,
    options: ConsumerOptions,
}

impl StreamConsumer {
    /// Starts reading `topic` at `offsets`, one per partition.
    pub fn assign_from(
        connection: &KafkaConnection,
        topic: &str,
        offsets: &[u64],
        options: ConsumerOptions,
    ) -> Result<Self> {
        let have = OffsetWatcher::new(connection, topic, options.deadline)?.partitions() as usize;
        let want = offsets.len();
        if have < want {
            return Err(Error::TooFewPartitions { topic: topic.to_owned(), have, want });
        }
        let mut config = connection.consumer_config(options.queued_kbytes);
        if have > want {
            tracing::warn!(topic, have, want, "the job reads only its own partitions of this topic");
        }
        config.set("enable.partition.eof", if options.report_end { "true" } else { "false" });
        let consumer: BaseConsumer<Context> = connection.create(&config)?;
        let state = State {
            topic: topic.to_owned(),
            positions: offsets.to_vec(),
            paused: vec![false; offsets.len()],
            connection: connection.clone(),
            pending: VecDeque::new(),
            outage_since: None,
            options,
        };
        state.assign(&consumer)?;
        Ok(Self { consumer, state })
    }

    /// The next event, waiting at most `timeout` for it. Serves the client library too: call it regularly, also when
    /// nothing is expected; it reads nothing ahead beyond its queue while it is not called.
    pub fn poll(&mut self, timeout: Duration) -> Option<Event<'_>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(event) = self.state.pending.pop_front() {
                return Some(event);
            }
            match self.consumer.poll(whole_milliseconds(end.saturating_duration_since(Instant::now())))? {
                Ok(message) => {
                    if let Some(gap) = self.state.accept(message.partition(), message.offset()) {
                        return Some(Event::Record(Record { message, gap }));
                    }
                }
                Err(error) => self.state.on_error(&self.consumer, &error),
            }
        }
    }

    /// Next offset to hand out, per partition.
    pub fn positions(&self) -> &[u64] {
        &self.state.positions
    }

    /// Since when the broker has been away, as far as reading has shown it.
    pub fn outage_since(&self) -> Option<Instant> {
        self.state.outage_since
    }

    /// Stops fetching `partition`, and gives up what was read ahead of it, until it is sought.
    pub fn pause(&mut self, partition: u32) -> Result<()> {
        self.state.pause(&self.consumer, partition)
    }

    /// Goes on reading `partition` at `offset`, past what lies between.
    pub fn seek(&mut self, partition: u32, offset: u64) -> Result<()> {
        self.state.seek(&self.consumer, partition, offset)
    }

    /// Goes on reading at `offsets`, one per partition.
    pub fn seek_all(&mut self, offsets: &[u64]) -> Result<()> {
        let (have, want) = (self.state.positions.len(), offsets.len());
        if have != want {
            return Err(Error::TooFewPartitions { topic: self.state.topic.clone(), have, want });
        }
        self.state.positions.copy_from_slice(offsets);
        self.state.assign(&self.consumer)?;
        (0..want).try_for_each(|partition| self.state.resume(&self.consumer, partition as u32))
    }
}

impl State {
    fn assign(&self, consumer: &BaseConsumer<Context>) -> Result<()> {
        let mut list = TopicPartitionList::with_capacity(self.positions.len());
        for (partition, &position) in (0..).zip(&self.positions) {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(position.cast_signed()))
                .map_err(|error| Error::from_client("assign partitions", &self.topic, &error))?;
        }
        consumer.assign(&list).map_err(|error| Error::from_client("assign partitions", &self.topic, &error))
    }

    /// Moves the position behind a record; `None` where it is to be skipped, otherwise the gap before it.
    fn accept(&mut self, partition: i32, offset: i64) -> Option<u64> {
        self.outage_since = None;
        let position = self.positions.get_mut(usize::try_from(partition).ok()?)?;
        let offset = offset.cast_unsigned();
        let gap = offset.checked_sub(*position)?;
        *position = offset + 1;
        Some(gap)
    }

    fn pause(&mut self, consumer: &BaseConsumer<Context>, partition: u32) -> Result<()> {
        let Some(paused) = self.paused.get_mut(partition as usize) else { return Ok(()) };
        *paused = true;
        consumer
            .pause(&self.only(partition))
            .map_err(|error| Error::from_client("pause a partition", &self.topic, &error))
    }

    fn resume(&mut self, consumer: &BaseConsumer<Context>, partition: u32) -> Result<()> {
        if !self.paused.get_mut(partition as usize).is_some_and(std::mem::take) {
            return Ok(());
        }
        consumer
            .resume(&self.only(partition))
            .map_err(|error| Error::from_client("resume a partition", &self.topic, &error))
    }

    fn only(&self, partition: u32) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, partition.cast_signed());
        list
    }

    fn seek(&mut self, consumer: &BaseConsumer<Context>, partition: u32, offset: u64) -> Result<()> {
        let have = self.positions.len();
        let Some(position) = self.positions.get_mut(partition as usize) else {
            return Err(Error::TooFewPartitions {
                topic: self.topic.clone(),
                have,
                want: partition as usize + 1,
            });
        };
        let was = std::mem::replace(position, offset);
        let is_paused = self.paused[partition as usize];
        if !is_paused && (was..=was + SKIP_BY_READING_RECORDS).contains(&offset) {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition.cast_signed(), Offset::Offset(offset.cast_signed()))
            .map_err(|error| Error::from_client("seek", &self.topic, &error))?;
        let answer = consumer.seek_partitions(list, self.options.deadline);
        let done = answer.is_ok_and(|list| list.elements().iter().all(|element| element.error().is_ok()));
        // A partition that is not being fetched yet, or was stopped by an error, cannot be sought: start it anew.
        if !done {
            self.assign(consumer)?;
        }
        self.resume(consumer, partition)
    }

    /// Sorts an error into the events that it means.
    fn on_error(&mut self, consumer: &BaseConsumer<Context>, error: &KafkaError) {
        match error {
            KafkaError::PartitionEOF(partition) => {
                self.outage_since = None;
                self.pending.push_back(Event::End { partition: partition.cast_unsigned() });
            }
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                self.look_again(consumer);
            }
            KafkaError::MessageConsumption(
                // The unused group's coordinator; nothing depends on it.
                RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::WaitingForCoordinator,
            ) => {}
            KafkaError::MessageConsumption(code) if is_transient_code(*code) => {
                self.outage(consumer, error.to_string());
            }
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL),
            ) => {
                let reason = consumer.context().last_problem().map_or_else(|| error.to_string(), |(_, r)| r);
                match refusal(&self.connection.bootstrap_servers, *code, &reason) {
                    Some(refusal) => self.pending.push_back(Event::Fatal(refusal)),
                    None => self.outage(consumer, reason),
                }
            }
            other => match Error::from_client(&format!("read topic {:?}", self.topic), &self.topic, other) {
                Error::Client { .. } if !matches!(other, KafkaError::MessageConsumptionFatal(_)) => {
                    tracing::warn!(topic = self.topic, error = %other, "unexpected error while reading");
                    self.outage(consumer, other.to_string());
                }
                // A broker that has just come back may not know its topics yet.
                Error::TopicMissing { .. } => self.look_again(consumer),
                fatal => self.pending.push_back(Event::Fatal(fatal)),
            },
        }
    }

    fn outage(&mut self, consumer: &BaseConsumer<Context>, error: String) {
        let since = *self.outage_since.get_or_insert_with(Instant::now);
        let reason = consumer.context().last_problem().map_or(error, |(_, reason)| reason);
        self.pending.push_back(Event::Outage { since, reason });
    }

    /// A partition was stopped, because records at its position are gone or the topic is unknown. The error does not
    /// say in which partition, so all are asked, and all are started again where they can be.
    fn look_again(&mut self, consumer: &BaseConsumer<Context>) {
        let deadline = self.options.deadline.min(LOOK_AGAIN_DEADLINE);
        // A client for this question only: it is rare, and a client costs threads, sockets and memory.
        let asked = OffsetWatcher::new(&self.connection, &self.topic, deadline)
            .and_then(|mut watcher| watcher.poll(deadline));
        let offsets = match asked {
            Ok(offsets) => offsets,
            Err(error) if error.is_transient() => {
                self.outage(consumer, error.to_string());
                // The partition stays stopped; assigning anew makes the broker say it again when it is back.
                if let Err(error) = self.assign(consumer) {
                    self.pending.push_back(Event::Fatal(error));
                }
                return;
            }
            Err(error) => {
                self.pending.push_back(Event::Fatal(error));
                return;
            }
        };
        match overtaken(&self.topic, &self.positions, &offsets) {
            Ok(lost) => {
                for (partition, new_low) in lost {
                    let position = std::mem::replace(&mut self.positions[partition], new_low);
                    let partition = partition as u32;
                    self.pending.push_back(Event::OutOfRange { partition, position, new_low });
                }
                if let Err(error) = self.assign(consumer) {
                    self.pending.push_back(Event::Fatal(error));
                }
            }
            Err(error) => self.pending.push_back(Event::Fatal(error)),
        }
    }
}

/// Rounded up: the client library waits whole milliseconds and spins through the rest of one.
fn whole_milliseconds(left: Duration) -> Duration {
    Duration::from_millis(left.as_nanos().div_ceil(1_000_000) as u64)
}

/// Pure: the partitions whose position lies before what is left, with the new position; a position behind the end
/// means that the topic was made anew.
fn overtaken(topic: &str, positions: &[u64], offsets: &[PartitionOffsets]) -> Result<Vec<(usize, u64)>> {
    let mut lost = Vec::new();
    for (partition, (&position, reach)) in positions.iter().zip(offsets).enumerate() {
        if position > reach.end {
            return Err(Error::TopicRecreated {
                topic: topic.to_owned(),
                partition: partition as u32,
                was: position,
                now: reach.end,
            });
        }
        if position < reach.low {
            lost.push((partition, reach.low));
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positions_before_the_low_watermark_are_lost() {
        let reach = [PartitionOffsets { low: 10, end: 20 }, PartitionOffsets { low: 10, end: 20 }];
        assert_eq!(overtaken("t", &[4, 10], &reach), Ok(vec![(0, 10)]));
        assert_eq!(overtaken("t", &[20, 19], &reach), Ok(vec![]));
    }

    #[test]
    fn a_position_behind_the_end_is_a_topic_made_anew() {
        let reach = [PartitionOffsets { low: 0, end: 3 }];
        assert!(matches!(overtaken("t", &[4], &reach), Err(Error::TopicRecreated { was: 4, now: 3, .. })));
    }
}
