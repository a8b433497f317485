use super::*;

/// Brokers that never answer.
struct Silent;

impl Topics for Silent {
    fn reconcile(&self, _: TopicsWanted) -> JoinHandle<Result<Vec<TopicState>, Problem>> {
        tokio::spawn(std::future::pending())
    }

    fn delete(&self, _: TopicsWanted) -> JoinHandle<Vec<Problem>> {
        tokio::spawn(std::future::pending())
    }
}

fn wanted() -> TopicsWanted {
    TopicsWanted {
        namespace: "farm".to_owned(),
        bootstrap_servers: "kafka.farm.svc:9092".to_owned(),
        secrets: scadles_control::validate::KafkaSecrets::default(),
        topics: vec![],
        rules: TopicRules {
            namespace: "farm".to_owned(),
            job: "gates".to_owned(),
            name_template: scadles_api::names::DEFAULT_TOPIC_TEMPLATE.to_owned(),
            management: scadles_api::job::TopicManagement::Operator,
            adoption: scadles_api::job::Adoption::Refuse,
            started: true,
        },
    }
}

#[tokio::test]
async fn what_the_status_says_of_topics_holds_until_a_look_has_ended() {
    let mut memory = TopicsMemory::default();
    assert_eq!(memory.look(&Silent, wanted, "a", true, 5.0).await, BrokerState::Ready);
    let problem = "its topics are being looked at".to_owned();
    let waiting = BrokerState::Waiting { since: 6.0, problem };
    assert_eq!(memory.look(&Silent, wanted, "b", false, 6.0).await, waiting, "of other settings");
}
