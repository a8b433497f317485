use super::*;

const DEFAULT: &str = names::DEFAULT_TOPIC_TEMPLATE;

fn rules() -> TopicRules {
    TopicRules {
        namespace: "demo".to_owned(),
        job: "s1".to_owned(),
        name_template: DEFAULT.to_owned(),
        management: TopicManagement::Operator,
        adoption: Adoption::Refuse,
        started: false,
    }
}

fn adopting() -> TopicRules {
    TopicRules { adoption: Adoption::Adopt, ..rules() }
}

fn external() -> TopicRules {
    TopicRules { management: TopicManagement::External, ..rules() }
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A topic of device d with 2 partitions.
fn wanted(name: &str) -> WantedTopic {
    WantedTopic {
        device: "d".to_owned(),
        name: name.to_owned(),
        partitions: 2,
        replication: Some(1),
        settings: BTreeMap::new(),
    }
}

fn wanted_with(name: &str, pairs: &[(&str, &str)]) -> WantedTopic {
    WantedTopic { settings: settings(pairs), ..wanted(name) }
}

/// A topic with the brokers' defaults and, of its own, `own`.
fn found_with(name: &str, partitions: u32, own: &[(&str, &str)]) -> FoundTopic {
    let value = |value: &str, own| Setting { value: Some(value.to_owned()), own };
    let mut all = BTreeMap::from([
        ("cleanup.policy".to_owned(), value("delete", false)),
        ("retention.ms".to_owned(), value("604800000", false)),
        ("segment.bytes".to_owned(), value("1073741824", false)),
    ]);
    all.extend(own.iter().map(|(key, text)| ((*key).to_owned(), value(text, true))));
    FoundTopic { name: name.to_owned(), partitions, settings: Some(all) }
}

fn found(name: &str, partitions: u32) -> FoundTopic {
    found_with(name, partitions, &[])
}

fn using(name: &str, partitions: u32, origin: TopicOrigin) -> TopicStep {
    TopicStep::Use { name: name.to_owned(), partitions, origin }
}

fn foreign(name: &str) -> TopicStep {
    TopicStep::Refuse(Error::TopicForeign { topic: name.to_owned(), prefix: "demo.".to_owned() })
}

fn plan(wanted: WantedTopic, found: Option<FoundTopic>, rules: &TopicRules) -> Vec<TopicStep> {
    plan_topics(&[wanted], &Vec::from_iter(found), rules)
}

#[test]
fn a_missing_topic_of_the_job_is_made_and_one_that_is_there_is_used_again() {
    let topic = wanted_with("demo.s1.d", &[("retention.ms", "60000")]);
    assert_eq!(plan(topic.clone(), None, &rules()), [TopicStep::Create(topic)]);
    let steps = plan(wanted("demo.s1.d"), Some(found("demo.s1.d", 2)), &rules());
    assert_eq!(steps, [using("demo.s1.d", 2, TopicOrigin::Reused)]);
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let name = "demo.s1.d";
    let grow = TopicStep::Grow { name: name.to_owned(), from: 1, to: 2 };
    assert_eq!(
        plan(wanted(name), Some(found(name, 1)), &rules()),
        [grow, using(name, 1, TopicOrigin::Reused)]
    );
    assert_eq!(plan(wanted(name), Some(found(name, 7)), &rules()), [using(name, 7, TopicOrigin::Reused)]);
}

#[test]
fn only_settings_that_the_job_names_and_that_differ_are_changed() {
    let name = "demo.s1.d";
    let topic = || wanted_with(name, &[("retention.ms", "60000"), ("segment.bytes", "1073741824")]);
    let there = found_with(name, 2, &[("min.insync.replicas", "1"), ("retention.ms", "70000")]);
    let change =
        TopicStep::Configure { name: name.to_owned(), settings: settings(&[("retention.ms", "60000")]) };
    assert_eq!(plan(topic(), Some(there), &rules()), [change, using(name, 2, TopicOrigin::Reused)]);
    let there = found_with(name, 2, &[("min.insync.replicas", "1"), ("retention.ms", "60000")]);
    assert_eq!(plan(topic(), Some(there), &rules()), [using(name, 2, TopicOrigin::Reused)]);
}

#[test]
fn values_that_mean_the_same_are_no_drift() {
    for (a, b) in [("0.5", "0.50"), ("60000", " 60000"), ("true", "TRUE"), ("a,b", "a, b"), ("gzip", "gzip")]
    {
        assert!(is_same_value(a, b) && is_same_value(b, a), "{a:?} {b:?}");
    }
    for (a, b) in
        [("0.5", "0.51"), ("9007199254740993", "9007199254740992"), ("true", "false"), ("a,b", "b,a")]
    {
        assert!(!is_same_value(a, b) && !is_same_value(b, a), "{a:?} {b:?}");
    }
}

#[test]
fn an_own_setting_of_the_topic_that_the_job_does_not_name_survives_a_change() {
    let name = "demo.s1.d";
    let there =
        found_with(name, 2, &[("min.insync.replicas", "1"), ("retention.ms", "70000")]).settings.unwrap();
    let changes = settings(&[("retention.ms", "60000")]);
    let all = merged(name, &there, &changes).unwrap();
    assert_eq!(all, BTreeMap::from([("min.insync.replicas", "1"), ("retention.ms", "60000")]));

    let mut hidden = there;
    hidden.insert("plugin.key".to_owned(), Setting { value: None, own: true });
    let message = merged(name, &hidden, &changes).unwrap_err().to_string();
    assert!(message.contains("plugin.key") && message.contains("kafka-configs"), "{message}");
}

#[test]
fn names_tell_whose_a_topic_is() {
    let own = |template: &str, name: &str| {
        TopicRules { name_template: template.to_owned(), ..rules() }.is_own("d", name)
    };
    for (template, name, expected) in [
        (DEFAULT, "demo.s1.d", true),
        (DEFAULT, "demo.s1.somewhere", true),
        ("{namespace}.cams.{device}", "demo.cams.d", true),
        (DEFAULT, "demo.cams.d", false),
        (DEFAULT, "demo.s2.d", false),
        (DEFAULT, "demo.s1", false),
        (DEFAULT, "demo.s1.", false),
        (DEFAULT, "demo.s12.d", false),
        (DEFAULT, "other.s1.d", false),
        (DEFAULT, "demo2.s1.d", false),
        ("cams.{device}", "cams.d", false),
        ("demo", "demo", false),
    ] {
        assert_eq!(own(template, name), expected, "{template} {name}");
    }
}

#[test]
fn only_the_jobs_own_prefix_is_ever_deleted() {
    let shared = TopicRules { name_template: "{namespace}.cams.{device}".to_owned(), ..rules() };
    assert!(shared.may_delete("demo.s1.d"));
    for name in ["demo.cams.d", "demo.s2.d", "demo.s1", "demo.s1.", "cams.d", ""] {
        assert!(!shared.may_delete(name), "{name}");
    }
}

#[test]
fn a_foreign_topic_is_refused_whether_it_is_there_or_not() {
    for there in [None, Some(found("cams.d", 2))] {
        assert_eq!(plan(wanted("cams.d"), there, &rules()), [foreign("cams.d")]);
    }
}

#[test]
fn an_adopted_topic_is_made_where_it_is_missing_and_else_used_as_it_is() {
    let topic = || wanted_with("cams.d", &[("retention.ms", "60000")]);
    assert_eq!(plan(topic(), None, &adopting()), [TopicStep::Create(topic())]);
    let steps = plan(topic(), Some(found("cams.d", 3)), &adopting());
    assert_eq!(steps, [using("cams.d", 3, TopicOrigin::Adopted)], "never changed");
    let small = Error::TooFewPartitions { topic: "cams.d".to_owned(), have: 1, want: 2 };
    let steps = plan(topic(), Some(found("cams.d", 1)), &adopting());
    assert_eq!(steps, [TopicStep::Refuse(small)], "never grown");
    // The same holds for another job's topic in this namespace.
    let steps = plan(wanted("demo.s2.d"), Some(found("demo.s2.d", 1)), &adopting());
    assert!(matches!(&steps[..], [TopicStep::Refuse(Error::TooFewPartitions { .. })]), "{steps:?}");
}

#[test]
fn external_topics_are_only_checked_whatever_their_names() {
    for name in ["demo.s1.d", "cams.d"] {
        let topic = || wanted_with(name, &[("retention.ms", "60000")]);
        let missing = Error::TopicMissing { topic: name.to_owned() };
        assert_eq!(plan(topic(), None, &external()), [TopicStep::Refuse(missing)]);
        let small = Error::TooFewPartitions { topic: name.to_owned(), have: 1, want: 2 };
        assert_eq!(plan(topic(), Some(found(name, 1)), &external()), [TopicStep::Refuse(small)]);
        let steps = plan(topic(), Some(found(name, 2)), &external());
        assert_eq!(steps, [using(name, 2, TopicOrigin::External)]);
    }
}

#[test]
fn a_topic_that_the_job_has_read_from_is_not_made_again() {
    for rules in [rules(), external()] {
        let lost = Error::TopicLost { topic: "demo.s1.d".to_owned() };
        let rules = TopicRules { started: true, ..rules };
        assert_eq!(plan(wanted("demo.s1.d"), None, &rules), [TopicStep::Refuse(lost)]);
    }
}

#[test]
fn a_compacted_topic_is_refused_whoever_owns_it() {
    for (name, rules) in [("demo.s1.d", rules()), ("cams.d", adopting()), ("cams.d", external())] {
        let policy = "compact,delete".to_owned();
        let compacted = Error::TopicCompacted { topic: name.to_owned(), policy };
        let there = found_with(name, 2, &[("cleanup.policy", "compact,delete")]);
        assert_eq!(plan(wanted(name), Some(there), &rules), [TopicStep::Refuse(compacted)]);
    }
}

#[test]
fn settings_that_cannot_be_read_matter_only_where_the_job_names_some() {
    let there = || FoundTopic { settings: None, ..found("demo.s1.d", 2) };
    let steps = plan(wanted("demo.s1.d"), Some(there()), &rules());
    assert_eq!(steps, [using("demo.s1.d", 2, TopicOrigin::Reused)]);
    let steps = plan(wanted_with("demo.s1.d", &[("retention.ms", "1")]), Some(there()), &rules());
    assert!(matches!(&steps[..], [TopicStep::Refuse(Error::NotAuthorized { .. })]), "{steps:?}");
}

#[test]
fn a_setting_that_brokers_do_not_know_is_told_by_name() {
    let steps = plan(wanted_with("demo.s1.d", &[("no.such", "1")]), Some(found("demo.s1.d", 2)), &rules());
    let [TopicStep::Refuse(error)] = &steps[..] else { panic!("{steps:?}") };
    let message = error.to_string();
    for part in ["no.such", "demo.s1.d", "know no such setting"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
}

#[test]
fn every_topic_of_a_job_gets_its_steps_in_order() {
    let all = [wanted("demo.s1.a"), wanted("cams.d"), wanted("demo.s1.b")];
    let steps = plan_topics(&all, &[found("demo.s1.b", 2)], &rules());
    let expected =
        [TopicStep::Create(all[0].clone()), foreign("cams.d"), using("demo.s1.b", 2, TopicOrigin::Reused)];
    assert_eq!(steps, expected);
}
