//! Topics of a job on a real Kafka: made, grown, mended, refused, adopted, deleted, and nothing of it without an end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

#[allow(dead_code, unused_macros, unused_imports, reason = "the suite serves several programs")]
mod suite;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use scadles_api::job::{Adoption, TopicManagement};
use scadles_api::names::DEFAULT_TOPIC_TEMPLATE;
use scadles_kafka::testing::RealKafka;
use scadles_kafka::{
    Broker, Error, KafkaConnection, PartitionOffsets, RealBroker, TopicAdmin, TopicOrigin, TopicRules,
    TopicSpec, TopicState, WantedTopic,
};
use suite::DEADLINE;

fn kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start().unwrap_or_else(|error| panic!("{error}")))
}

fn admin() -> TopicAdmin {
    TopicAdmin::new(&kafka().connection()).unwrap()
}

fn broker() -> RealBroker {
    RealBroker::connect(kafka().connection(), DEADLINE).unwrap()
}

fn rules(job: &str) -> TopicRules {
    TopicRules {
        namespace: "demo".to_owned(),
        job: job.to_owned(),
        name_template: DEFAULT_TOPIC_TEMPLATE.to_owned(),
        management: TopicManagement::Operator,
        adoption: Adoption::Refuse,
        started: false,
    }
}

fn wanted(name: &str, partitions: u32, settings: &[(&str, &str)]) -> WantedTopic {
    WantedTopic {
        device: name.rsplit('.').next().unwrap().to_owned(),
        name: name.to_owned(),
        partitions,
        replication: Some(1),
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn state(name: &str, partitions: u32, origin: TopicOrigin) -> TopicState {
    let name = name.to_owned();
    TopicState { name, partitions, records: 0, origin, grown_from: None, changed_settings: vec![] }
}

/// Settings that the topic has of its own.
fn own_settings(name: &str) -> BTreeMap<String, String> {
    let found = admin().find(&[name], DEADLINE).unwrap().remove(0);
    let own = found.settings.unwrap().into_iter().filter(|(_, setting)| setting.own);
    own.map(|(key, setting)| (key, setting.value.unwrap())).collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn topics_are_made_at_once_and_found_again_with_their_records() {
    let (a, b) = ("demo.made.a", "demo.made.b");
    let topics = [wanted(a, 3, &[("retention.ms", "600000")]), wanted(b, 1, &[])];
    let made = admin().reconcile(&topics, &rules("made"), DEADLINE).unwrap();
    assert_eq!(made, [state(a, 3, TopicOrigin::Created), state(b, 1, TopicOrigin::Created)]);
    assert_eq!(own_settings(a), map(&[("retention.ms", "600000")]));

    suite::send(&broker(), a, 3, 100);
    let again = admin().reconcile(&topics, &rules("made"), DEADLINE).unwrap();
    let reused = TopicState { records: 100, ..state(a, 3, TopicOrigin::Reused) };
    assert_eq!(again, [reused, state(b, 1, TopicOrigin::Reused)]);

    broker().delete_topics(&[b], DEADLINE).unwrap();
    let started = TopicRules { started: true, ..rules("made") };
    let lost = Error::TopicLost { topic: b.to_owned() };
    assert_eq!(admin().reconcile(&topics, &started, DEADLINE).unwrap_err(), lost);
}

#[test]
fn a_topic_grows_keeps_its_records_and_never_shrinks() {
    let name = "demo.grown.d";
    admin().reconcile(&[wanted(name, 1, &[])], &rules("grown"), DEADLINE).unwrap();
    suite::send(&broker(), name, 1, 10);
    let grown = admin().reconcile(&[wanted(name, 4, &[])], &rules("grown"), DEADLINE).unwrap();
    let expected = TopicState { records: 10, grown_from: Some(1), ..state(name, 4, TopicOrigin::Reused) };
    assert_eq!(grown, [expected]);
    let fewer = admin().reconcile(&[wanted(name, 2, &[])], &rules("grown"), DEADLINE).unwrap();
    assert_eq!((fewer[0].partitions, fewer[0].grown_from), (4, None));
}

#[test]
fn settings_that_drifted_are_mended_and_those_of_others_stay() {
    let name = "demo.drift.d";
    let topics = [wanted(name, 1, &[("retention.ms", "600000"), ("min.cleanable.dirty.ratio", "0.50")])];
    admin().reconcile(&topics, &rules("drift"), DEADLINE).unwrap();
    let alter = ["--alter", "--entity-type", "topics", "--entity-name", name, "--add-config"];
    let by_others = "retention.ms=700000,segment.bytes=10485760";
    kafka().kafka_tool("kafka-configs", &[&alter[..], &[by_others]].concat()).unwrap();

    let mended = admin().reconcile(&topics, &rules("drift"), DEADLINE).unwrap();
    assert_eq!(mended[0].changed_settings, ["retention.ms"]);
    let all =
        [("retention.ms", "600000"), ("min.cleanable.dirty.ratio", "0.5"), ("segment.bytes", "10485760")];
    assert_eq!(own_settings(name), map(&all));
    let quiet = admin().reconcile(&topics, &rules("drift"), DEADLINE).unwrap();
    assert!(quiet[0].changed_settings.is_empty(), "{quiet:?}");
}

#[test]
fn settings_and_copies_that_brokers_refuse_are_told_by_name() {
    let bad = wanted("demo.bad.a", 1, &[("retention.ms", "600000"), ("segment.bytes", "many")]);
    let many = WantedTopic { replication: Some(3), ..wanted("demo.bad.b", 1, &[]) };
    let error = admin().reconcile(&[bad, many], &rules("bad"), DEADLINE).unwrap_err();
    let Error::Several(errors) = &error else { panic!("{error}") };
    assert!(
        matches!(&errors[0], Error::TopicSettings { topic, settings, .. }
            if topic == "demo.bad.a" && settings == "segment.bytes=many"),
        "{error}"
    );
    let copies = Error::Replication { topic: "demo.bad.b".to_owned(), replication: "3".to_owned() };
    assert_eq!(errors[1], copies);
    assert!(!error.is_transient());
}

#[test]
fn a_foreign_topic_is_refused_before_anything_is_done_and_adopted_untouched() {
    let (own, cams) = ("demo.foreign.d", "cams.d");
    let spec = TopicSpec { name: cams.to_owned(), partitions: 2, replication: None };
    broker().ensure_topics(&[spec], DEADLINE).unwrap();
    let topics = [wanted(own, 1, &[]), wanted(cams, 2, &[("retention.ms", "600000")])];
    let foreign = Error::TopicForeign { topic: cams.to_owned(), prefix: "demo.".to_owned() };
    assert_eq!(admin().reconcile(&topics, &rules("foreign"), DEADLINE).unwrap_err(), foreign);
    assert_eq!(admin().find(&[own], DEADLINE).unwrap(), [], "nothing was made");

    let adopting = TopicRules { adoption: Adoption::Adopt, ..rules("foreign") };
    let states = admin().reconcile(&topics, &adopting, DEADLINE).unwrap();
    assert_eq!(states, [state(own, 1, TopicOrigin::Created), state(cams, 2, TopicOrigin::Adopted)]);
    assert_eq!(own_settings(cams), BTreeMap::new());
    let small = Error::TooFewPartitions { topic: cams.to_owned(), have: 2, want: 3 };
    assert_eq!(admin().reconcile(&[wanted(cams, 3, &[])], &adopting, DEADLINE).unwrap_err(), small);

    let external = TopicRules { management: TopicManagement::External, ..rules("foreign") };
    let states = admin().reconcile(&topics[1..], &external, DEADLINE).unwrap();
    assert_eq!(states, [state(cams, 2, TopicOrigin::External)]);
    let missing = Error::TopicMissing { topic: "demo.foreign.none".to_owned() };
    let none = [wanted("demo.foreign.none", 1, &[])];
    assert_eq!(admin().reconcile(&none, &external, DEADLINE).unwrap_err(), missing);
}

#[test]
fn only_the_jobs_own_topics_are_deleted() {
    let (own, other) = ("demo.gone.d", "demo.gone2.d");
    admin().reconcile(&[wanted(own, 1, &[])], &rules("gone"), DEADLINE).unwrap();
    admin().reconcile(&[wanted(other, 1, &[])], &rules("gone2"), DEADLINE).unwrap();
    let deletion = admin().delete(&[own, other, "demo.gone.never"], &rules("gone"), DEADLINE);
    assert_eq!((deletion.deleted, deletion.kept), (vec![own.to_owned()], vec![other.to_owned()]));
    assert_eq!((deletion.missing, deletion.failed), (vec!["demo.gone.never".to_owned()], vec![]));
    let left = admin().find(&[own, other], DEADLINE).unwrap();
    assert_eq!(left.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), [other]);
}

#[test]
fn the_reach_of_all_topics_comes_in_one_answer_whatever_is_missing() {
    let names: Vec<String> = (0..40).map(|device| format!("demo.many.d{device}")).collect();
    let topics: Vec<_> = names.iter().map(|name| wanted(name, 2, &[])).collect();
    let admin = admin();
    let states = admin.reconcile(&topics, &rules("many"), DEADLINE).unwrap();
    assert!(states.iter().all(|state| state.origin == TopicOrigin::Created));
    suite::send(&broker(), &names[7], 2, 11);
    broker().delete_records(&names[7], &[4, 0], DEADLINE).unwrap();

    let mut asked: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    asked.push(("demo.many.never", 2));
    let reach = admin.offsets(&asked, DEADLINE).unwrap();
    assert_eq!(reach.len(), 40);
    assert_eq!(reach[&names[7]], [PartitionOffsets { low: 4, end: 6 }, PartitionOffsets { low: 0, end: 5 }]);

    // A topic that the client has asked about before.
    broker().delete_topics(&[&names[3]], DEADLINE).unwrap();
    asked[0].1 = 5;
    suite::await_that("the deleted topic is not in the answer", || {
        let reach = admin.offsets(&asked, DEADLINE).unwrap();
        assert_eq!(reach[&names[0]].len(), 2, "the partitions that there are");
        reach.len() == 39 && !reach.contains_key(&names[3])
    });
    assert_eq!(admin.offsets(&[("demo.many.never", 1)], DEADLINE).unwrap(), BTreeMap::new());
}

#[test]
fn without_a_broker_every_call_ends_at_its_deadline_and_says_why() {
    // Nobody listens there.
    let admin = TopicAdmin::new(&KafkaConnection::new("127.0.0.1:1")).unwrap();
    let patience = Duration::from_millis(1500);
    let topics = [wanted("demo.away.d", 1, &[])];
    let is_in_time = |began: Instant| began.elapsed() < patience + Duration::from_secs(2);

    let began = Instant::now();
    let error = admin.reconcile(&topics, &rules("away"), patience).unwrap_err();
    assert!(is_in_time(began) && error.is_transient(), "{:?}: {error}", began.elapsed());
    assert_eq!(error.category(), "BrokerUnreachable");

    let began = Instant::now();
    let deletion = admin.delete(&["demo.away.d", "cams.d"], &rules("away"), patience);
    assert!(is_in_time(began), "{:?}", began.elapsed());
    assert_eq!(deletion.kept, ["cams.d"]);
    assert!(matches!(&deletion.failed[..], [(_, Error::Unreachable { .. })]), "{deletion:?}");

    let began = Instant::now();
    let error = admin.offsets(&[("demo.away.d", 1)], patience).unwrap_err();
    assert!(is_in_time(began) && error.is_transient(), "{:?}: {error}", began.elapsed());
    let began = Instant::now();
    drop(admin);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn brokers_that_delete_nothing_say_so_and_a_held_client_outlives_their_absence() {
    let mut kafka =
        RealKafka::start_with(&["delete.topic.enable=false"]).unwrap_or_else(|error| panic!("{error}"));
    let admin = TopicAdmin::new(&kafka.connection()).unwrap();
    let (name, topics) = ("demo.held.d", [wanted("demo.held.d", 1, &[])]);
    admin.reconcile(&topics, &rules("held"), DEADLINE).unwrap();
    let deletion = admin.delete(&[name], &rules("held"), DEADLINE);
    let disabled = Error::DeletionDisabled { topic: name.to_owned() };
    assert_eq!((deletion.deleted, deletion.failed), (vec![], vec![(name.to_owned(), disabled)]));

    kafka.kill().unwrap();
    let error = admin.reconcile(&topics, &rules("held"), Duration::from_millis(500)).unwrap_err();
    assert!(error.is_transient(), "{error}");
    kafka.restart().unwrap();
    let states = admin.reconcile(&topics, &rules("held"), DEADLINE).unwrap();
    assert_eq!(states, [state(name, 1, TopicOrigin::Reused)]);
}
