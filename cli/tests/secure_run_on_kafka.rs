//! `scadles run` on a Kafka that takes TLS and known users only: with the right Secrets, and with wrong ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use scadles_kafka::testing::{PASSWORD, RealKafka, USER};
use support::{
    Scratch,
    account::{assert_each_sample_was_trained_once, assert_replays, assert_seen_from_outside, completed},
    learnable::Settings,
    running::{Running, tailored},
    scadles, text, trainer, turn,
};

fn kafka() -> &'static RealKafka {
    static KAFKA: OnceLock<RealKafka> = OnceLock::new();
    KAFKA.get_or_init(|| RealKafka::start_secure().unwrap())
}

/// A folder of Secrets as a user has them: the certificate of `authority` (`ca`, or `stranger`) and a password.
fn secrets(scratch: &Scratch, authority: &str, password: &str) -> PathBuf {
    let folder = scratch.path().join("secrets");
    for name in ["kafka-ca", "kafka-user"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let certificate = kafka().secrets_dir().unwrap().join(authority).join("ca.crt");
    fs::copy(certificate, folder.join("kafka-ca/ca.crt")).unwrap();
    fs::write(folder.join("kafka-user/username"), format!("{USER}\n")).unwrap();
    fs::write(folder.join("kafka-user/password"), format!("{password}\n")).unwrap();
    folder
}

fn run(scratch: &Scratch, settings: &Settings, mechanism: &str, secrets: &Path) -> Running {
    let security =
        format!("tls: {{caSecret: kafka-ca}}, sasl: {{mechanism: {mechanism}, secret: kafka-user}}");
    let spec = format!("spec:\n  kafka: {{bootstrapServers: '{}', {security}}}", kafka().servers());
    let file = tailored(scratch, settings, &[("spec:", spec.as_str())]);
    let folder = scratch.path().join("run");
    let mut command = scadles(&trainer());
    command.arg("run").arg(file).arg("--plain").arg("--out").arg(&folder).arg("--secrets").arg(secrets);
    Running::start(command, &folder)
}

/// No file of the run holds the password.
fn assert_kept_secret(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_kept_secret(&path);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(PASSWORD), "{}", path.display());
        }
    }
}

fn a_whole_run_with(mechanism: &str, name: &'static str) {
    let _turn = turn();
    let scratch = Scratch::new(name);
    let settings = Settings { name, steps: 24, ..Settings::default() };
    let output = run(&scratch, &settings, mechanism, &secrets(&scratch, "ca", PASSWORD)).ends_with(0);
    assert!(!text(&output).contains(PASSWORD));
    let folder = scratch.path().join("run");
    let report = completed(&folder, settings.steps);
    assert_eq!(report.attempts.len(), 1, "{:?}", report.attempts);
    assert_seen_from_outside(&report, name, |topic| kafka().end_offsets(topic).unwrap());
    assert_each_sample_was_trained_once(&folder, &report);
    assert_replays(&folder);
    assert_kept_secret(&folder);
}

#[test]
fn a_whole_run_over_tls_with_scram_sha_512_keeps_its_account_and_its_secret() {
    a_whole_run_with("ScramSha512", "scram");
}

#[test]
fn a_whole_run_over_tls_with_plain_keeps_its_account_and_its_secret() {
    a_whole_run_with("Plain", "plain");
}

/// A run that is refused before anything trains, and what it says.
fn refused(name: &'static str, authority: &str, password: &str) -> String {
    let _turn = turn();
    let scratch = Scratch::new(name);
    let settings = Settings { name, ..Settings::default() };
    text(&run(&scratch, &settings, "ScramSha512", &secrets(&scratch, authority, password)).ends_with(2))
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

#[test]
fn a_wrong_password_ends_the_run_with_the_field_and_without_the_password() {
    let said = refused("wrong-password", "ca", "guess-7451");
    assert_says(&said, &["spec.kafka.sasl", "refused the user", "spec.kafka.sasl.secret"]);
    assert!(!said.contains("guess-7451"), "{said}");
}

#[test]
fn a_stranger_authority_ends_the_run_with_the_field() {
    let said = refused("wrong-ca", "stranger", PASSWORD);
    assert_says(&said, &["spec.kafka.tls", "no trusted connection", "spec.kafka.tls.caSecret"]);
}

#[test]
fn a_topic_that_the_user_may_not_read_ends_the_run_with_topic_and_remedy() {
    let _turn = turn();
    let scratch = Scratch::new("acl");
    let settings = Settings { name: "acl", steps: 100_000, ..Settings::default() };
    let (topic, user) = ("default.acl.device-1", format!("User:{USER}"));
    let mut allow = vec!["--add", "--allow-principal", &user, "--topic", topic];
    allow.extend(["Write", "Describe", "DescribeConfigs"].into_iter().flat_map(|it| ["--operation", it]));
    kafka().kafka_tool("kafka-acls", &allow).unwrap();
    let running = run(&scratch, &settings, "ScramSha512", &secrets(&scratch, "ca", PASSWORD));
    let said = text(&running.ends_with(2));
    assert_says(&said, &[topic, "device-1", "the broker does not allow it", "ACL"]);
}
