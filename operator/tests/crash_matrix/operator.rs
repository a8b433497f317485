//! One life of the operator: its context, its caches with their lag, and one pass after the other.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    runtime::{
        events::{Recorder, Reporter},
        reflector::{self, store::Writer},
        watcher::Event,
    },
};
use scadles_operator::{
    context::{Context, Images, Settings},
    controller::{Guarded, names, reconcile},
    error::Error,
    metrics::Metrics,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api_server,
    broker::Broker,
    line::Line,
    store::{Change, JOBS, Store},
    workers::Workers,
};

thread_local! {
    static NOW: Cell<f64> = const { Cell::new(0.0) };
}

/// Sets the clock of all operators of this thread.
pub(crate) fn set_clock(now: f64) {
    NOW.set(now);
}

/// How far the caches are behind, in passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lags {
    pub(crate) jobs: u64,
    pub(crate) pods: u64,
}

/// An operator that runs.
pub(crate) struct Operator {
    context: Arc<Context>,
    lags: Lags,
    line: Arc<Line>,
    store: Arc<Mutex<Store>>,
    /// The job as the cache shows it.
    job: Option<Arc<Guarded>>,
    pods: Writer<Pod>,
    /// How much of the store's log each cache has taken in.
    taken: (usize, usize),
}

impl Operator {
    /// Reads everything anew, and remembers nothing else.
    pub(crate) fn start(store: &Arc<Mutex<Store>>, line: &Arc<Line>, workers: &Workers, lags: Lags) -> Self {
        line.restart();
        let client = api_server::client(store.clone(), line.clone());
        let (reader, mut writer) = reflector::store();
        let known = store.lock().unwrap_or_else(PoisonError::into_inner);
        writer.apply_watcher_event(&Event::Init);
        for pod in known.of_kind("pods") {
            writer.apply_watcher_event(&Event::InitApply(decoded(&pod)));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let (job, end) = (known.of_kind(JOBS).pop(), known.changes().len());
        drop(known);
        let job = job.map(|job| Arc::new(decoded(&job)));
        let table = workers.clone();
        let context = Context {
            client: client.clone(),
            settings: Settings {
                images: Images { trainer: "trainer:1".to_owned(), trainer_cuda: "trainer:1-cuda".to_owned() },
                heartbeat_seconds: 60,
                namespace: "scadles".to_owned(),
                key: b"a key of the operator".to_vec(),
            },
            pods: reader,
            topics: Arc::new(Broker { store: store.clone(), line: line.clone() }),
            address: Arc::new(move |pod| table.address(&pod.name_any())),
            metrics: Metrics::default(),
            recorder: Recorder::new(client, Reporter::from(names::MANAGER)),
            clock: || NOW.get(),
            memories: Mutex::default(),
        };
        let (line, store) = (line.clone(), store.clone());
        Self { context: Arc::new(context), lags, line, store, job, pods: writer, taken: (end, end) }
    }

    /// The caches take in what has reached them by `tick`.
    pub(crate) fn catch_up(&mut self, tick: u64) {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut jobs, mut pods) = self.taken;
        while let Some(change) =
            store.changes().get(jobs).filter(|change| change.tick + self.lags.jobs <= tick)
        {
            if change.kind == JOBS {
                self.job = (!change.gone).then(|| Arc::new(decoded(&change.object)));
            }
            jobs += 1;
        }
        while let Some(change) =
            store.changes().get(pods).filter(|change| change.tick + self.lags.pods <= tick)
        {
            if change.kind == "pods" {
                self.pods.apply_watcher_event(&event(change));
            }
            pods += 1;
        }
        self.taken = (jobs, pods);
    }

    /// One pass over the job, if the cache shows one. `None`: it was stopped on its way.
    pub(crate) async fn pass(&self) -> Option<Result<(), Error>> {
        let Some(job) = &self.job else { return Some(Ok(())) };
        let outcome = tokio::select! {
            biased;
            outcome = Box::pin(reconcile(Arc::clone(job), Arc::clone(&self.context))) => Some(outcome.map(|_| ())),
            () = self.line.stopped() => None,
        };
        outcome.filter(|_| !self.line.is_down())
    }
}

fn event(change: &Change) -> Event<Pod> {
    let pod: Pod = decoded(&change.object);
    if change.gone { Event::Delete(pod) } else { Event::Apply(pod) }
}

fn decoded<T: DeserializeOwned>(object: &Value) -> T {
    T::deserialize(object).unwrap()
}
