//! Counters of the operator, and the levels of the jobs that it looks after. Plain data behind a registry.

use std::sync::{Arc, Mutex, PoisonError};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Instant,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use scadles_api::{Progress, ScadlesJobStatus};

use crate::controller::Prepared;

/// Most devices of a job with levels of their own: a bound for the number of series.
const MOST_DEVICES: usize = 1024;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Category {
    category: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiCall {
    verb: String,
    kind: String,
}

/// All of them; clones share the counters.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    duration: Histogram,
    errors: Family<Category, Counter>,
    writes: Counter,
    suppressed: Counter,
    calls: Family<ApiCall, Counter>,
    restarts: Counter,
    leader: Gauge,
    jobs: Arc<Mutex<BTreeMap<(String, String), JobLevels>>>,
}

/// What is shown of one job.
struct JobLevels {
    state: String,
    attempt: u32,
    top_1: Option<f64>,
    progress: Option<Progress>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("scadles_operator");
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let (errors, calls) = (Family::default(), Family::default());
        let (writes, suppressed, restarts) = (Counter::default(), Counter::default(), Counter::default());
        let leader = Gauge::default();
        registry.register("reconcile_duration_seconds", "Time of a pass", duration.clone());
        registry.register("reconcile_errors", "Passes that failed, by category", Family::clone(&errors));
        registry.register("status_writes", "Writes of a status", writes.clone());
        registry.register("status_writes_suppressed", "Changes not worth a write", suppressed.clone());
        registry.register("api_calls", "Calls that change something", Family::clone(&calls));
        registry.register("restarts", "Attempts that failed", restarts.clone());
        registry.register("leader", "1 while this replica acts", leader.clone());
        Self {
            registry: Arc::new(registry),
            duration,
            errors,
            writes,
            suppressed,
            calls,
            restarts,
            leader,
            jobs: Arc::default(),
        }
    }
}

/// Measures a pass from its making to its end.
pub struct PassTimer(Instant, Histogram);

impl Drop for PassTimer {
    fn drop(&mut self) {
        self.1.observe(self.0.elapsed().as_secs_f64());
    }
}

impl Metrics {
    /// A pass begins.
    pub fn pass(&self) -> PassTimer {
        PassTimer(Instant::now(), self.duration.clone())
    }

    /// A pass failed.
    pub fn error(&self, category: &str) {
        self.errors.get_or_create(&Category { category: category.to_owned() }).inc();
    }

    /// A status was written.
    pub fn written(&self) {
        self.writes.inc();
    }

    /// A change of a status was not worth a write.
    pub fn suppressed(&self) {
        self.suppressed.inc();
    }

    /// A call that changes something.
    pub fn call(&self, verb: &str, kind: &str) {
        self.calls.get_or_create(&ApiCall { verb: verb.to_owned(), kind: kind.to_owned() }).inc();
    }

    /// An attempt failed.
    pub fn restart(&self) {
        self.restarts.inc();
    }

    /// Whether this replica acts.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// What is known of a job.
    pub fn job(&self, prepared: &Prepared, status: &ScadlesJobStatus, progress: Option<&Progress>) {
        let levels = JobLevels {
            state: status.state.map_or_else(String::new, |state| format!("{state:?}")),
            attempt: status.attempt,
            top_1: status.evaluation.as_ref().map(|evaluation| evaluation.top1_percent / 100.0),
            progress: progress.cloned(),
        };
        let key = (prepared.namespace().to_owned(), prepared.name().to_owned());
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(key, levels);
    }

    /// Forgets all jobs but these (namespace, name).
    pub fn keep_only(&self, jobs: &BTreeSet<(String, String)>) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| jobs.contains(key));
    }

    /// Everything as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return String::new();
        }
        let end = text.trim_end().strip_suffix("# EOF").map_or(text.len(), str::len);
        text.truncate(end);
        self.render_jobs(&mut text);
        text.push_str("# EOF\n");
        text
    }

    fn render_jobs(&self, text: &mut String) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states: BTreeMap<&str, u32> = BTreeMap::new();
        let mut series = Series::default();
        for ((namespace, job), levels) in jobs.iter() {
            *states.entry(&levels.state).or_default() += 1;
            let labels = format!("namespace=\"{namespace}\",job=\"{job}\"");
            series.add("scadles_attempt", &labels, f64::from(levels.attempt));
            if let Some(top_1) = levels.top_1 {
                series.add("scadles_top_1_accuracy", &labels, top_1);
            }
            if let Some(progress) = &levels.progress {
                series.add_progress(&labels, progress);
            }
        }
        for (state, count) in states {
            series.add("scadles_operator_jobs", &format!("state=\"{state}\""), f64::from(count));
        }
        series.write(text);
    }
}

/// Gauges by name, each with its lines.
#[derive(Default)]
struct Series(BTreeMap<&'static str, Vec<String>>);

impl Series {
    fn add(&mut self, name: &'static str, labels: &str, value: f64) {
        self.0.entry(name).or_default().push(format!("{name}{{{labels}}} {value}"));
    }

    fn add_progress(&mut self, labels: &str, progress: &Progress) {
        self.add("scadles_step", labels, progress.step as f64);
        self.add("scadles_samples", labels, progress.samples as f64);
        self.add("scadles_samples_per_second", labels, progress.samples_per_second);
        if let Some(loss) = progress.loss {
            self.add("scadles_loss", labels, loss);
        }
        for device in progress.devices.iter().take(MOST_DEVICES) {
            let labels = format!("{labels},device=\"{}\"", device.name);
            self.add("scadles_device_stream_rate", &labels, device.stream_rate);
            self.add("scadles_device_buffered_samples", &labels, device.ledger.buffered as f64);
            self.add("scadles_device_local_batch_samples", &labels, f64::from(device.local_batch));
            self.add("scadles_device_aggregation_weight", &labels, device.aggregation_weight);
            self.add("scadles_device_dropped_samples", &labels, device.ledger.dropped as f64);
            self.add("scadles_device_lost_records", &labels, device.ledger.lost as f64);
            self.add("scadles_device_silent_seconds", &labels, device.silent_seconds);
        }
    }

    fn write(&self, text: &mut String) {
        for (name, lines) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {name} gauge");
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
    }
}
