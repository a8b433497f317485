//! Brokers: topics are kept beside the API server's objects, so that one look shows what is left of a job.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use scadles_kafka::{TopicOrigin, TopicState};
use scadles_operator::topics::{Problem, Topics, TopicsWanted};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    line::{Fate, Line},
    store::Store,
};

/// Brokers that answer at once.
pub(crate) struct Broker {
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) line: Arc<Line>,
}

impl Broker {
    /// Works on the topics, and gives `answer` if it comes back.
    fn call<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&mut Store),
        answer: T,
        lost: T,
    ) -> JoinHandle<T> {
        let fate = self.line.arrive(name);
        if fate.arrives() {
            work(&mut self.store.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if fate == Fate::Served {
            return tokio::spawn(async { answer });
        }
        let down = self.line.is_down();
        tokio::spawn(async move { if down { pending().await } else { lost } })
    }
}

impl Topics for Broker {
    fn reconcile(&self, wanted: TopicsWanted) -> JoinHandle<Result<Vec<TopicState>, Problem>> {
        let state = |name: &str| TopicState {
            name: name.to_owned(),
            partitions: 1,
            records: 0,
            origin: TopicOrigin::Created,
            grown_from: None,
            changed_settings: Vec::new(),
        };
        let states = wanted.topics.iter().map(|topic| state(&topic.name)).collect();
        let work = |store: &mut Store| {
            for topic in wanted.topics.iter().filter(|_| !wanted.rules.started) {
                // One that is there is used as it is.
                let _ = store.create("topics", json!({"metadata": {"name": topic.name}}));
            }
        };
        self.call("topics reconcile", work, Ok(states), Err("the broker did not answer".to_owned()))
    }

    fn delete(&self, wanted: TopicsWanted) -> JoinHandle<Vec<Problem>> {
        let work =
            |store: &mut Store| wanted.topics.iter().for_each(|topic| store.forget("topics", &topic.name));
        self.call("topics delete", work, Vec::new(), vec!["the broker did not answer".to_owned()])
    }
}
