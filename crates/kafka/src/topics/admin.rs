//! Asks the brokers about topics and carries steps out: the shell around [`plan_topics`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AlterConfig, ConfigSource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;

use super::progress::{Done, Next, Used, change, chunks, next};
use super::{
    FoundTopic, Setting, TopicDeletion, TopicOrigin, TopicRules, TopicState, TopicStep, WantedTopic, merged,
    plan_topics,
};
use crate::admin::{admin_options, block_on};
use crate::connection::{Context, KafkaConnection, with_retries};
use crate::error::{Error, Result, code_of, is_transient_code, is_unknown_topic_code};
use crate::offsets::{PartitionOffsets, list_offsets, partition_count};

/// Up to so many topics are looked up by name; more by one question about all topics of the cluster.
const LOOKED_UP_BY_NAME: usize = 32;

/// Topics whose settings one answer holds: some 4 KB each.
const TOPICS_PER_CALL: usize = 500;

/// A broker that has just come back may not know its topics yet: only a topic that is missing several times is missing.
const MISSING_LOOKS: u32 = 3;
const MISSING_PAUSE: Duration = Duration::from_millis(200);

/// Until a change shows.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// From when to when a call may take.
#[derive(Clone, Copy)]
struct Time {
    began: Instant,
    end: Instant,
}

impl Time {
    fn within(deadline: Duration) -> Self {
        let began = Instant::now();
        Self { began, end: began + deadline }
    }

    fn left(self) -> Duration {
        crate::admin::left(self.end)
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.end
    }

    fn late(self, what: &str, reason: String) -> Error {
        Error::Timeout { what: what.to_owned(), waited: self.began.elapsed(), reason }
    }

    /// The error for a code of the broker's about `topic`.
    fn failure(self, what: &str, topic: &str, code: RDKafkaErrorCode) -> Error {
        if is_transient_code(code) {
            return self.late(what, code.to_string());
        }
        Error::from_client(what, topic, &KafkaError::AdminOp(code))
    }

    /// The answer to a call of the admin client as a whole; `what` it was to do.
    fn answer<T>(
        self,
        what: &str,
        call: impl Future<Output = std::result::Result<T, KafkaError>>,
    ) -> Result<T> {
        match block_on(call, self.end) {
            Some(Ok(answer)) => Ok(answer),
            None => Err(self.late(what, "the brokers did not answer".to_owned())),
            Some(Err(error)) => Err(match code_of(&error) {
                Some(code) => self.failure(what, "", code),
                None => Error::from_client(what, "", &error),
            }),
        }
    }
}

/// Looks after topics of one Kafka cluster.
///
/// Made without a question to the brokers; two client handles, to be kept for several jobs. Every call blocks and ends at
/// its deadline, or a second later where the client library does not answer.
pub struct TopicAdmin {
    connection: KafkaConnection,
    queries: BaseConsumer<Context>,
    admin: AdminClient<Context>,
}

impl TopicAdmin {
    /// Makes the clients.
    pub fn new(connection: &KafkaConnection) -> Result<Self> {
        let mut config = connection.query_config();
        // Whoever has asked about thousands of topics does not want news of them for ever.
        config.set("topic.metadata.refresh.interval.ms", "-1");
        let queries = connection.create(&config)?;
        let admin = connection.create(&config)?;
        Ok(Self { connection: connection.clone(), queries, admin })
    }

    /// The cluster.
    pub fn connection(&self) -> &KafkaConnection {
        &self.connection
    }

    /// Those of the topics that exist, with their settings, in the order of `names`.
    pub fn find(&self, names: &[&str], deadline: Duration) -> Result<Vec<FoundTopic>> {
        self.find_until(names, Time::within(deadline))
    }

    /// Makes the topics what the job wants, as far as `rules` allow; in the order of `wanted`.
    ///
    /// Where one topic is refused nothing is done to any. A call that failed half-way may be repeated: what it has done
    /// is found, and reported as [`TopicOrigin::Reused`].
    pub fn reconcile(
        &self,
        wanted: &[WantedTopic],
        rules: &TopicRules,
        deadline: Duration,
    ) -> Result<Vec<TopicState>> {
        let time = Time::within(deadline);
        let names: Vec<&str> = wanted.iter().map(|topic| topic.name.as_str()).collect();
        let mut done = Done::default();
        for look in 1.. {
            let steps = plan_topics(wanted, &self.find_until(&names, time)?, rules);
            let is_last = time.is_over();
            let pause = match next(&steps, &done, look >= MISSING_LOOKS || is_last) {
                Next::Refuse(errors) => return Err(Error::of_all(errors)),
                Next::Use(topics) => return self.states(&topics, &done, time),
                Next::CarryOut(steps) => {
                    self.carry_out(&steps, &mut done, time)?;
                    CHANGE_PAUSE
                }
                Next::AwaitChange(topic) if is_last => {
                    let reason = "the brokers do not show the change; may this user describe the topic?";
                    return Err(time.late(&format!("get topic {topic:?} ready"), reason.to_owned()));
                }
                Next::AwaitChange(_) => CHANGE_PAUSE,
                Next::LookForMissing => MISSING_PAUSE,
            };
            std::thread::sleep(pause);
        }
        Ok(Vec::new())
    }

    /// Deletes those of the topics that are the job's own; what cannot be deleted by then is told.
    pub fn delete(&self, names: &[&str], rules: &TopicRules, deadline: Duration) -> TopicDeletion {
        let time = Time::within(deadline);
        let (own, kept): (Vec<&str>, Vec<&str>) =
            names.iter().copied().partition(|name| rules.may_delete(name));
        let mut deletion =
            TopicDeletion { kept: kept.into_iter().map(str::to_owned).collect(), ..TopicDeletion::default() };
        if own.is_empty() {
            return deletion;
        }
        // First a question, because it tells quickly and in words why nobody answers.
        let existing = match self.partition_counts(&own, time) {
            Ok(counts) => counts,
            Err(error) => {
                deletion.failed = own.iter().map(|name| ((*name).to_owned(), error.clone())).collect();
                return deletion;
            }
        };
        let (there, missing): (Vec<&str>, Vec<&str>) =
            own.into_iter().partition(|name| existing.contains_key(*name));
        deletion.missing = missing.into_iter().map(str::to_owned).collect();
        for names in there.chunks(TOPICS_PER_CALL) {
            self.delete_chunk(names, time, &mut deletion);
        }
        deletion
    }

    /// First and end offsets of all `topics` (name, partitions to look at), in one question to each broker for each; for
    /// a job's lag while nobody reads. A topic that does not exist is not in the answer; one that has fewer partitions is,
    /// with those that it has.
    pub fn offsets(
        &self,
        topics: &[(&str, u32)],
        deadline: Duration,
    ) -> Result<BTreeMap<String, Vec<PartitionOffsets>>> {
        let time = Time::within(deadline);
        let mut asked = topics.to_vec();
        let what = "ask for the offsets of the job's topics";
        while !asked.is_empty() {
            let error = match self.offsets_once(&asked, time.left()) {
                Ok(offsets) => return Ok(offsets),
                Err(error) => error,
            };
            if !code_of(&error).is_some_and(is_unknown_topic_code) {
                return Err(self.connection.unanswered(what, deadline, &error, &self.queries));
            }
            if time.is_over() {
                return Err(time.late(what, error.to_string()));
            }
            // One topic that the client knew and that is gone spoils the whole answer.
            let names: Vec<&str> = asked.iter().map(|(name, _)| *name).collect();
            let counts = self.partition_counts(&names, time)?;
            asked.retain_mut(|(name, partitions)| {
                *partitions = counts.get(*name).map_or(0, |count| (*partitions).min(*count));
                *partitions > 0
            });
            self.queries.poll(CHANGE_PAUSE);
        }
        Ok(BTreeMap::new())
    }

    // ---- questions -----------------------------------------------------------------------------------------------

    fn find_until(&self, names: &[&str], time: Time) -> Result<Vec<FoundTopic>> {
        let counts = self.partition_counts(names, time)?;
        let existing: Vec<&str> = names.iter().copied().filter(|name| counts.contains_key(*name)).collect();
        let mut settings = self.settings(&existing, time)?;
        let topic = |name: &&str| FoundTopic {
            name: (*name).to_owned(),
            partitions: counts.get(*name).copied().unwrap_or(0),
            settings: settings.remove(*name),
        };
        Ok(existing.iter().map(topic).collect())
    }

    /// Partitions of those of the topics that exist.
    fn partition_counts(&self, names: &[&str], time: Time) -> Result<BTreeMap<String, u32>> {
        if names.len() > LOOKED_UP_BY_NAME {
            return self.all_partition_counts(&names.iter().copied().collect(), time);
        }
        let mut counts = BTreeMap::new();
        for name in names {
            match partition_count(&self.connection, &self.queries, name, time.left()) {
                Ok(partitions) => {
                    counts.insert((*name).to_owned(), partitions);
                }
                Err(Error::TopicMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(counts)
    }

    fn all_partition_counts(&self, names: &BTreeSet<&str>, time: Time) -> Result<BTreeMap<String, u32>> {
        let waited = time.left();
        let metadata = with_retries(waited, &self.queries, |left| self.queries.fetch_metadata(None, left))
            .map_err(|error| self.connection.unanswered("list the topics", waited, &error, &self.queries))?;
        let wanted = metadata.topics().iter().filter(|topic| names.contains(topic.name()));
        let count = |topic: &rdkafka::metadata::MetadataTopic| topic.partitions().len() as u32;
        Ok(wanted
            .map(|topic| (topic.name().to_owned(), count(topic)))
            .filter(|(_, partitions)| *partitions > 0)
            .collect())
    }

    /// Settings of those of the topics whose settings the user may read.
    fn settings(&self, names: &[&str], time: Time) -> Result<BTreeMap<String, BTreeMap<String, Setting>>> {
        let mut settings = BTreeMap::new();
        for names in names.chunks(TOPICS_PER_CALL) {
            let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
            let call = self.admin.describe_configs(&resources, &admin_options(time.end));
            for resource in time.answer("read the settings of topics", call)?.into_iter().flatten() {
                let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
                // A refusal comes as an answer without entries.
                if !resource.entries.is_empty() {
                    let entries = resource.entries.into_iter().map(|entry| {
                        let own = entry.source == ConfigSource::DynamicTopic;
                        (entry.name, Setting { value: entry.value, own })
                    });
                    settings.insert(name, entries.collect());
                }
            }
        }
        Ok(settings)
    }

    fn offsets_once(
        &self,
        topics: &[(&str, u32)],
        deadline: Duration,
    ) -> std::result::Result<BTreeMap<String, Vec<PartitionOffsets>>, KafkaError> {
        let ask = |which: Offset| {
            with_retries(deadline, &self.queries, |left| list_offsets(&self.queries, topics, which, left))
        };
        // The end last: records that go between the two questions then only make the reach look longer.
        let (low, end) = (ask(Offset::Beginning)?, ask(Offset::End)?);
        let reach = |(low, end): (Option<u64>, Option<u64>)| {
            let (low, end) = (low?, end?);
            Some(PartitionOffsets { low: low.min(end), end })
        };
        let of_topic =
            low.into_iter().zip(end).map(|(low, end)| low.into_iter().zip(end).map_while(reach).collect());
        let named = topics.iter().map(|(name, _)| (*name).to_owned()).zip(of_topic);
        Ok(named.filter(|(_, offsets): &(String, Vec<PartitionOffsets>)| !offsets.is_empty()).collect())
    }

    // ---- changes -------------------------------------------------------------------------------------------------

    /// Asks for all changes, then tells all that went wrong.
    fn carry_out(&self, steps: &[&TopicStep], done: &mut Done, time: Time) -> Result<()> {
        let (mut creations, mut growths, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                TopicStep::Create(topic) => creations.push(topic),
                TopicStep::Grow { name, from, to } => growths.push((name.as_str(), *from, *to)),
                TopicStep::Configure { name, settings } => changes.push((name.as_str(), settings)),
                TopicStep::Use { .. } | TopicStep::Refuse(_) => {}
            }
        }
        done.asked.extend(steps.iter().filter_map(|step| change(step)));
        for topics in chunks(&creations, |topic| 1 + topic.partitions as usize + topic.settings.len()) {
            self.create(topics, done, time)?;
        }
        for topics in chunks(&growths, |(_, from, to)| (to - from) as usize) {
            self.grow(topics, done, time)?;
        }
        for topics in changes.chunks(TOPICS_PER_CALL) {
            self.configure(topics, done, time)?;
        }
        if done.errors.is_empty() {
            return Ok(());
        }
        Err(Error::of_all(std::mem::take(&mut done.errors)))
    }

    fn create(&self, topics: &[&WantedTopic], done: &mut Done, time: Time) -> Result<()> {
        let new: Vec<NewTopic<'_>> = topics.iter().map(|topic| new_topic(topic)).collect();
        let call = self.admin.create_topics(&new, &admin_options(time.end));
        let answer = time.answer("create topics", call)?;
        for topic in topics {
            match outcome(&answer, &topic.name) {
                Ok(()) => {
                    done.created.insert(topic.name.clone());
                }
                // Someone was quicker: the next look tells what is there.
                Err(RDKafkaErrorCode::TopicAlreadyExists) => {}
                Err(code) => done.errors.push(self.refused_creation(topic, code, time)),
            }
        }
        Ok(())
    }

    /// The broker's own words are lost in the client library, so each setting is tried alone to find the one at fault.
    fn refused_creation(&self, topic: &WantedTopic, code: RDKafkaErrorCode, time: Time) -> Error {
        let name = topic.name.clone();
        match code {
            RDKafkaErrorCode::InvalidReplicationFactor => {
                let replication =
                    topic.replication.map_or("the default number of".to_owned(), |n| n.to_string());
                Error::Replication { topic: name, replication }
            }
            code if is_about_settings(code) => {
                let is_refused = |(key, value): &(&String, &String)| {
                    let alone = BTreeMap::from([((*key).clone(), (*value).clone())]);
                    let trial = WantedTopic { settings: alone, ..topic.clone() };
                    let trial = [new_topic(&trial)];
                    let options = admin_options(time.end).validate_only(true);
                    let call = self.admin.create_topics(&trial, &options);
                    time.answer("try a setting", call).is_ok_and(|answer| outcome(&answer, &name).is_err())
                };
                let refused: Vec<_> = topic.settings.iter().filter(is_refused).collect();
                let told = if refused.is_empty() { topic.settings.iter().collect() } else { refused };
                Error::TopicSettings { settings: pairs(told), reason: code.to_string(), topic: name }
            }
            code => time.failure(&format!("create topic {name:?}"), &name, code),
        }
    }

    fn grow(&self, topics: &[(&str, u32, u32)], done: &mut Done, time: Time) -> Result<()> {
        let new: Vec<_> = topics.iter().map(|(name, _, to)| NewPartitions::new(name, *to as usize)).collect();
        let call = self.admin.create_partitions(&new, &admin_options(time.end));
        let answer = time.answer("add partitions to topics", call)?;
        for (name, from, _) in topics {
            match outcome(&answer, name) {
                Ok(()) => {
                    done.grown_from.insert((*name).to_owned(), *from);
                }
                // Someone was quicker: the next look tells whether there are enough now.
                Err(RDKafkaErrorCode::InvalidPartitions) => {}
                Err(code) => {
                    done.errors.push(time.failure(&format!("add partitions to topic {name:?}"), name, code));
                }
            }
        }
        Ok(())
    }

    /// The client library cannot change single settings: what the topic has of its own is read again right before, and
    /// written with the changes.
    fn configure(
        &self,
        topics: &[(&str, &BTreeMap<String, String>)],
        done: &mut Done,
        time: Time,
    ) -> Result<()> {
        let names: Vec<&str> = topics.iter().map(|(name, _)| *name).collect();
        let now = self.settings(&names, time)?;
        let mut alterations = Vec::new();
        for (name, changes) in topics {
            // Gone in the meantime: the next look tells.
            let Some(now) = now.get(*name) else { continue };
            match merged(name, now, changes) {
                Ok(all) => alterations.push(AlterConfig {
                    specifier: ResourceSpecifier::Topic(name),
                    entries: all.into_iter().collect(),
                }),
                Err(error) => done.errors.push(error),
            }
        }
        if alterations.is_empty() {
            return Ok(());
        }
        let call = self.admin.alter_configs(&alterations, &admin_options(time.end));
        for result in time.answer("change settings of topics", call)? {
            let (Ok(resource) | Err((resource, _))) = &result;
            let OwnedResourceSpecifier::Topic(name) = resource else { continue };
            let Some((name, changes)) = topics.iter().find(|topic| topic.0 == name) else { continue };
            match result {
                Ok(_) => {
                    done.changed.insert((*name).to_owned(), changes.keys().cloned().collect());
                }
                Err((_, code)) if is_about_settings(code) => done.errors.push(Error::TopicSettings {
                    topic: (*name).to_owned(),
                    settings: pairs(changes.iter()),
                    reason: code.to_string(),
                }),
                Err((_, code)) => {
                    done.errors.push(time.failure(&format!("change settings of topic {name:?}"), name, code));
                }
            }
        }
        Ok(())
    }

    fn delete_chunk(&self, names: &[&str], time: Time, deletion: &mut TopicDeletion) {
        let call = self.admin.delete_topics(names, &admin_options(time.end));
        let answer = match time.answer("delete topics", call) {
            Ok(answer) => answer,
            Err(error) => {
                deletion.failed.extend(names.iter().map(|name| ((*name).to_owned(), error.clone())));
                return;
            }
        };
        for name in names {
            let topic = (*name).to_owned();
            match outcome(&answer, name) {
                Ok(()) => deletion.deleted.push(topic),
                Err(code) if is_unknown_topic_code(code) => deletion.missing.push(topic),
                // Brokers say the second to clients that speak an old version of the call, as ours does.
                Err(RDKafkaErrorCode::TopicDeletionDisabled | RDKafkaErrorCode::InvalidRequest) => {
                    deletion.failed.push((topic.clone(), Error::DeletionDisabled { topic }));
                }
                Err(code) => {
                    let error = time.failure(&format!("delete topic {name:?}"), name, code);
                    deletion.failed.push((topic, error));
                }
            }
        }
    }

    /// The topics as they are now, once every partition answers.
    fn states(&self, topics: &[Used<'_>], done: &Done, time: Time) -> Result<Vec<TopicState>> {
        let asked: Vec<(&str, u32)> = topics.iter().map(|topic| (topic.name, topic.partitions)).collect();
        let offsets = self.offsets(&asked, time.left())?;
        let state = |topic: &Used<'_>| {
            let name = topic.name.to_owned();
            let Some(reach) = offsets.get(&name) else { return Err(Error::TopicMissing { topic: name }) };
            Ok(TopicState {
                partitions: topic.partitions,
                records: reach.iter().map(|reach| reach.records()).sum(),
                origin: if done.created.contains(&name) { TopicOrigin::Created } else { topic.origin },
                grown_from: done.grown_from.get(&name).copied(),
                changed_settings: done.changed.get(&name).cloned().unwrap_or_default(),
                name,
            })
        };
        topics.iter().map(state).collect()
    }
}

fn new_topic(topic: &WantedTopic) -> NewTopic<'_> {
    let replication = TopicReplication::Fixed(topic.replication.map_or(-1, u32::cast_signed));
    let new = NewTopic::new(&topic.name, topic.partitions.cast_signed(), replication);
    topic.settings.iter().fold(new, |new, (key, value)| new.set(key, value))
}

/// The broker's answer about one topic.
fn outcome(answer: &[TopicResult], name: &str) -> std::result::Result<(), RDKafkaErrorCode> {
    let found = answer.iter().find_map(|result| match result {
        Ok(topic) if topic == name => Some(Ok(())),
        Err((topic, code)) if topic == name => Some(Err(*code)),
        _ => None,
    });
    found.unwrap_or(Err(RDKafkaErrorCode::Unknown))
}

fn is_about_settings(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::InvalidConfig | RDKafkaErrorCode::PolicyViolation)
}

fn pairs<'a>(settings: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    settings.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}
