//! What a worker's threads did in its newest steps, as a trace in Chrome's format, which Perfetto and `chrome://tracing` open
//! beside those of `torch.profiler`: written only when asked for. Shell (one file at the end).

use std::{
    borrow::Cow,
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Serialize, Serializer};

use crate::{exchange::WireTime, learner::Pass};

/// Names the folder into which each worker writes `<device>.trace.json`.
pub(super) const VARIABLE: &str = "SCADLES_TRACE";
/// So many of the newest steps are kept: a few hundred kilobytes.
const STEPS: usize = 200;
const MICROS: f64 = 1e6;

/// The thread that something happened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// Waits, computes, applies.
    Training = 1,
    /// Buckets on the wire.
    Gradients = 2,
}

impl Thread {
    const ALL: [(Self, &'static str); 2] = [(Self::Training, "training"), (Self::Gradients, "gradients")];
}

impl Serialize for Thread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// One thing that took a while. Times in seconds of the machine's monotonic clock, which all its processes share.
#[derive(Clone, Debug)]
struct Span {
    name: Cow<'static, str>,
    thread: Thread,
    began: f64,
    ended: f64,
}

/// The newest steps of one worker.
pub(super) struct Trace {
    file: PathBuf,
    device: String,
    rank: usize,
    /// One moment on both clocks.
    origin: (Instant, f64),
    steps: VecDeque<(u64, Vec<Span>)>,
    current: Vec<Span>,
}

impl Trace {
    /// Nothing yet; `now` is the present moment in seconds of the monotonic clock.
    pub(super) fn new(folder: &Path, device: &str, rank: usize, now: f64) -> Self {
        Self {
            file: folder.join(format!("{device}.trace.json")),
            device: device.to_owned(),
            rank,
            origin: (Instant::now(), now),
            steps: VecDeque::new(),
            current: Vec::new(),
        }
    }

    /// The training thread did this, in seconds of the monotonic clock.
    pub(super) fn phase(&mut self, name: &'static str, began: f64, ended: f64) {
        self.current.push(Span { name: Cow::Borrowed(name), thread: Thread::Training, began, ended });
    }

    /// The training thread did this.
    pub(super) fn span(&mut self, name: &'static str, began: Instant, ended: Instant) {
        self.phase(name, self.at(began), self.at(ended));
    }

    /// What happened between agreement and update.
    pub(super) fn passed(&mut self, passes: &[Pass], wire: &[WireTime]) {
        for pass in passes {
            self.span("forward", pass.forward, pass.backward);
            self.span("backward", pass.backward, pass.ended);
        }
        for (bucket, &WireTime { began, ended }) in wire.iter().enumerate() {
            let name = Cow::Owned(format!("bucket {bucket}"));
            let (began, ended) = (self.at(began), self.at(ended));
            self.current.push(Span { name, thread: Thread::Gradients, began, ended });
        }
    }

    /// Step `step` is over, with all that belongs to it.
    pub(super) fn step_done(&mut self, step: u64) {
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back((step, std::mem::take(&mut self.current)));
    }

    /// Writes the file.
    pub(super) fn write(&self) {
        let written = self.file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let text = serde_json::to_vec(&self.document()).map_err(std::io::Error::from)?;
            std::fs::write(&self.file, text)
        });
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.file.display(), "failed to write the trace");
        }
    }

    fn at(&self, moment: Instant) -> f64 {
        let (instant, seconds) = self.origin;
        match moment.checked_duration_since(instant) {
            Some(since) => seconds + since.as_secs_f64(),
            None => seconds - instant.duration_since(moment).as_secs_f64(),
        }
    }

    fn document(&self) -> Document<'_> {
        let name = |name, tid, of: &str| Event::Name {
            ph: "M",
            name,
            pid: self.rank,
            tid,
            args: NameArguments { name: of.to_owned() },
        };
        let threads = Thread::ALL.iter().map(|(thread, text)| name("thread_name", *thread, text));
        let spans = self.steps.iter().flat_map(|(step, spans)| {
            spans.iter().map(move |span| Event::Complete {
                ph: "X",
                name: &span.name,
                pid: self.rank,
                tid: span.thread,
                ts: span.began * MICROS,
                dur: (span.ended - span.began) * MICROS,
                args: StepArguments { step: *step },
            })
        });
        let process = name("process_name", Thread::Training, &self.device);
        Document {
            display_time_unit: "ms",
            trace_events: std::iter::once(process).chain(threads).chain(spans).collect(),
        }
    }
}

/// The file's content: "Trace Event Format", the JSON object form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    display_time_unit: &'static str,
    trace_events: Vec<Event<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Event<'a> {
    /// Of a process or a thread.
    Name { ph: &'static str, name: &'static str, pid: usize, tid: Thread, args: NameArguments },
    /// Something with begin and duration, in microseconds.
    Complete {
        ph: &'static str,
        name: &'a str,
        pid: usize,
        tid: Thread,
        ts: f64,
        dur: f64,
        args: StepArguments,
    },
}

#[derive(Serialize)]
struct NameArguments {
    name: String,
}

#[derive(Serialize)]
struct StepArguments {
    step: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_steps_are_kept_with_their_times_on_the_clock_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let mut trace = Trace::new(&folder.path().join("traces"), "device-3", 3, 100.0);
        let after = |millis| trace_origin(&trace) + Duration::from_millis(millis);
        let pass = Pass { forward: after(10), backward: after(20), ended: after(50) };
        let wire = WireTime { began: after(30), ended: after(60) };
        for step in 1..=STEPS as u64 + 5 {
            trace.phase("compute", 100.0, 100.05);
            trace.passed(&[pass], &[wire]);
            trace.step_done(step);
        }
        trace.write();
        let text = std::fs::read(folder.path().join("traces/device-3.trace.json")).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let events = document["traceEvents"].as_array().unwrap();
        let named = |name: &'static str| events.iter().filter(move |event| event["name"] == name);
        assert_eq!(named("process_name").next().unwrap()["args"]["name"], "device-3");
        assert_eq!(named("bucket 0").count(), STEPS);
        let first = named("bucket 0").next().unwrap();
        assert_eq!((&first["args"]["step"], &first["pid"], &first["tid"]), (&6.into(), &3.into(), &2.into()));
        let time =
            |event: &serde_json::Value| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        let near = |(ts, dur): (f64, f64), (a, b): (f64, f64)| (ts - a).abs() < 1.0 && (dur - b).abs() < 1.0;
        assert!(near(time(first), (100_030_000.0, 30_000.0)), "{first}");
        assert!(near(time(named("forward").next().unwrap()), (100_010_000.0, 10_000.0)));
        assert!(near(time(named("backward").next().unwrap()), (100_020_000.0, 30_000.0)));
    }

    fn trace_origin(trace: &Trace) -> Instant {
        trace.origin.0
    }
}
