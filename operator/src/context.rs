//! What every pass has at hand, and what is remembered of each job between passes.
//!
//! Nothing here is the only copy of anything: after a restart of the operator it is read from the objects again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt, runtime::events::Recorder, runtime::reflector::Store};
use scadles_api::{Progress, attempt::Listening, crd::ScadlesJobObject};
use scadles_control::{decide::Supervision, status::PodTrouble};

use crate::{
    controller::Guarded,
    metrics::Metrics,
    topics::{Topics, TopicsMemory},
};

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Images of jobs that name none.
    pub images: Images,
    /// Seconds between writes of a steady job's counters; 0 = never.
    pub heartbeat_seconds: u64,
    /// Namespace of the operator: its pods may talk to the workers.
    pub namespace: String,
    /// Key that tokens are made from.
    pub key: Vec<u8>,
}

/// Images of the pods of jobs that name none.
#[derive(Clone, Debug)]
pub struct Images {
    /// Of producers, and of trainers that compute on the CPU.
    pub trainer: String,
    /// Of trainers that compute on GPUs.
    pub trainer_cuda: String,
}

/// Where a pod's worker listens: `status.podIP` in a cluster, a table of loopback workers in tests.
pub type Address = Arc<dyn Fn(&Pod) -> Option<Listening> + Send + Sync>;

/// What every pass has at hand.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Settings.
    pub settings: Settings,
    /// All trainer and producer pods, as last seen.
    pub pods: Store<Pod>,
    /// Brokers.
    pub topics: Arc<dyn Topics>,
    /// Where workers listen.
    pub address: Address,
    /// Counters.
    pub metrics: Metrics,
    /// Events.
    pub recorder: Recorder,
    /// Seconds since 1970.
    pub clock: fn() -> f64,
    /// Per job, by UID.
    pub memories: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Memory>>>>,
}

/// The wall clock.
pub fn wall_clock() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What is remembered of a job between passes.
#[derive(Default)]
pub struct Memory {
    /// The latest decision's memory: at least as new as the status.
    pub supervision: Option<Supervision>,
    /// Version of the object before our last write: as long as the cache shows it, it is behind.
    pub behind: Option<String>,
    /// Attempt that each rank confirmed.
    pub confirmed: Vec<u32>,
    /// Rank 0's latest answer, and when it came.
    pub progress: Option<(Progress, Instant)>,
    /// Its topics.
    pub topics: TopicsMemory,
    /// When the status was last written.
    pub written: Option<Instant>,
    /// Hash of the objects that were last applied.
    pub applied: Option<u64>,
    /// Passes that failed in a row.
    pub failures_in_row: u32,
    /// Why the API server last refused a pod, and when to try again.
    pub rejected: Option<(PodTrouble, Instant)>,
    /// The producer is not made anew before.
    pub producer_not_before: Option<Instant>,
}

impl Memory {
    /// Whether the cache shows the object as it was before our own last write.
    pub fn is_behind(&mut self, object: &ScadlesJobObject) -> bool {
        let behind = self.behind.is_some() && self.behind == object.resource_version();
        if !behind {
            self.behind = None;
        }
        behind
    }
}

impl Context {
    /// The memory of a job.
    pub fn memory(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets the jobs that the cache does not show any more.
    pub fn sweep(&self, cache: &Store<Guarded>) {
        let there: Vec<_> = cache.state();
        let uids: BTreeSet<String> = there.iter().filter_map(|job| job.uid()).collect();
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
        let names = there.iter().map(|job| (job.namespace().unwrap_or_default(), job.name_any()));
        self.metrics.keep_only(&names.collect());
    }
}
