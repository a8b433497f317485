//! TLS and SCRAM against a broker that takes nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as claimed")]

#[allow(dead_code, unused_macros, unused_imports, reason = "the suite serves several programs")]
mod suite;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use scadles_api::job::{Adoption, TopicManagement};
use scadles_api::worker::{KafkaConfig, SaslMechanism};
use scadles_kafka::testing::{PASSWORD, RealKafka, USER};
use scadles_kafka::{
    Broker, Error, KafkaConnection, PacedProducer, ProducerOptions, RealBroker, TopicAdmin, TopicRules,
    TopicSpec, WantedTopic,
};
use suite::DEADLINE;

fn kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start_secure().unwrap_or_else(|error| panic!("{error}")))
}

fn broker() -> RealBroker {
    RealBroker::connect(kafka().connection(), DEADLINE).unwrap()
}

fn secret(path: &str) -> PathBuf {
    kafka().secrets_dir().unwrap().join(path)
}

/// The right configuration, changed.
fn config(change: impl FnOnce(&mut KafkaConfig)) -> KafkaConfig {
    let mut config = kafka().kafka_config();
    change(&mut config);
    config
}

/// The error of a first question, which must come well before the deadline.
fn refused(config: &KafkaConfig) -> Error {
    let connection = KafkaConnection::try_from(config).unwrap();
    let began = Instant::now();
    let error = connection.check(DEADLINE).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}: {error}", began.elapsed());
    assert!(!format!("{connection:?} {error}").contains(PASSWORD));
    error
}

#[test]
fn streams_flow_over_tls_with_scram_sha_512() {
    let topic = suite::topic(&broker(), 2);
    suite::send(&broker(), &topic, 2, 500);
    let mut consumer = suite::consume_from(&broker(), &topic, &[0; 2]);
    suite::read_exactly(&mut consumer, 2, 500);
}

#[test]
fn the_other_mechanisms_work_too() {
    for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::Plain] {
        let config = config(|config| {
            config.security.as_mut().unwrap().sasl.as_mut().unwrap().mechanism = mechanism;
        });
        assert_eq!(KafkaConnection::try_from(&config).unwrap().check(DEADLINE), Ok(1), "{mechanism:?}");
    }
}

#[test]
fn a_wrong_password_is_told_at_once_by_every_kind_of_client() {
    let wrong = secret("wrong-password");
    fs::write(&wrong, "guess\n").unwrap();
    let config = config(|config| {
        config.security.as_mut().unwrap().sasl.as_mut().unwrap().password_file.clone_from(&wrong);
    });
    let error = refused(&config);
    assert!(matches!(&error, Error::Authentication { .. }), "{error}");
    let message = error.to_string();
    for part in ["spec.kafka.sasl", "password", "SCRAM-SHA-512"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    assert_eq!((error.is_transient(), error.category()), (false, "AuthenticationFailed"));

    let connection = KafkaConnection::try_from(&config).unwrap();
    let admin = TopicAdmin::new(&connection).unwrap();
    for _ in 0..2 {
        // The second time, too: the client library itself repeats the reason only after 30 s.
        let error = admin.find(&["t"], DEADLINE).unwrap_err();
        assert!(matches!(&error, Error::Authentication { .. }), "{error}");
    }
    let streams = vec![suite::stream("t", 1, 1.0, None)];
    let source = Box::<suite::Numbered>::default();
    let producer = PacedProducer::start(&connection, streams, source, ProducerOptions::default());
    assert!(matches!(producer, Err(Error::Authentication { .. })));
}

#[test]
fn an_authority_that_did_not_sign_the_brokers_certificate_is_told() {
    let config = config(|config| {
        config.security.as_mut().unwrap().ca_file = Some(secret("stranger/ca.crt"));
    });
    let error = refused(&config);
    assert!(matches!(&error, Error::Tls { .. }), "{error}");
    let message = error.to_string();
    for part in ["spec.kafka.tls", "caSecret", "certificate"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    assert_eq!((error.is_transient(), error.category()), (false, "TlsFailed"));
}

#[test]
fn the_systems_certificates_do_not_know_a_private_authority() {
    let error = refused(&config(|config| config.security.as_mut().unwrap().ca_file = None));
    assert!(matches!(&error, Error::Tls { .. }), "{error}");
}

#[test]
fn a_certificate_that_is_none_is_an_error_of_tls() {
    let broken = secret("broken.crt");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n").unwrap();
    let error = refused(&config(|config| config.security.as_mut().unwrap().ca_file = Some(broken.clone())));
    assert!(matches!(&error, Error::Tls { .. }), "{error}");
}

#[test]
fn tls_to_a_plain_text_port_says_what_may_be_wrong() {
    let config = config(|config| config.bootstrap_servers = kafka().plain_servers());
    let error = KafkaConnection::try_from(&config).unwrap().check(Duration::from_secs(1)).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("does this port speak plain text?"), "{error}");
}

#[test]
fn plain_text_to_a_tls_port_says_what_may_be_wrong() {
    let connection = KafkaConnection::new(kafka().servers());
    let error = connection.check(Duration::from_secs(1)).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("does this port speak TLS?"), "{error}");
}

#[test]
fn a_user_who_may_not_read_settings_is_believed_until_the_job_names_some() {
    let name = "demo.acl.d";
    let spec = TopicSpec { name: name.to_owned(), partitions: 1, replication: None };
    broker().ensure_topics(&[spec], DEADLINE).unwrap();
    let user = format!("User:{USER}");
    let allow = ["--add", "--allow-principal", &user, "--operation", "Describe", "--topic", name];
    kafka().kafka_tool("kafka-acls", &allow).unwrap();

    let admin = TopicAdmin::new(&kafka().connection()).unwrap();
    let found = admin.find(&[name], DEADLINE).unwrap();
    assert_eq!((found[0].partitions, found[0].settings.as_ref()), (1, None));
    let rules = TopicRules {
        namespace: "demo".to_owned(),
        job: "acl".to_owned(),
        name_template: scadles_api::names::DEFAULT_TOPIC_TEMPLATE.to_owned(),
        management: TopicManagement::Operator,
        adoption: Adoption::Refuse,
        started: false,
    };
    let wanted = |partitions, settings: &[(&str, &str)]| WantedTopic {
        device: "d".to_owned(),
        name: name.to_owned(),
        partitions,
        replication: None,
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let states = admin.reconcile(&[wanted(1, &[])], &rules, DEADLINE).unwrap();
    assert_eq!(states[0].records, 0);
    for topic in [wanted(1, &[("retention.ms", "60000")]), wanted(2, &[])] {
        let error = admin.reconcile(&[topic], &rules, DEADLINE).unwrap_err();
        assert!(matches!(&error, Error::NotAuthorized { .. }) && error.to_string().contains(name), "{error}");
    }
}
