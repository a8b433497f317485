use super::*;

/// Brokers on which all is well, or that never answer.
struct Brokers {
    answer: bool,
}

impl Topics for Brokers {
    fn reconcile(&self, _: TopicsWanted) -> JoinHandle<Result<Vec<TopicState>, Problem>> {
        if self.answer { tokio::spawn(async { Ok(vec![]) }) } else { tokio::spawn(std::future::pending()) }
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

fn waiting(since: f64) -> BrokerState {
    BrokerState::Waiting { since, problem: "its topics are being looked at".to_owned() }
}

#[tokio::test]
async fn what_the_status_says_of_topics_holds_until_a_look_has_ended() {
    let silent = Brokers { answer: false };
    assert_eq!(TopicsMemory::default().look(&silent, wanted, "a", true, 5.0).await, BrokerState::Ready);
    assert_eq!(TopicsMemory::default().look(&silent, wanted, "a", false, 5.0).await, waiting(5.0));
}

#[tokio::test]
async fn a_look_says_nothing_about_other_settings() {
    let (brokers, mut memory) = (Brokers { answer: true }, TopicsMemory::default());
    assert_eq!(memory.look(&brokers, wanted, "a", false, 5.0).await, waiting(5.0));
    tokio::task::yield_now().await;
    assert_eq!(memory.look(&brokers, wanted, "a", false, 6.0).await, BrokerState::Ready);
    assert_eq!(memory.look(&brokers, wanted, "b", false, 7.0).await, waiting(7.0));
}
