//! `scadles produce`: a job's simulated streams without its training.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use scadles_api::ExitCode;
use scadles_control::{Body, decide::BrokerState, plan};

use super::run::{load_source, plan_streams, topic};
use crate::{
    args::ProduceArgs,
    body::{
        Clock,
        streams::{BrokerAccess, Producer, Venue},
    },
    failure::{Failure, Result},
    job,
    screen::{grouped, say, span},
    signals::Signals,
    surroundings,
};

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(200);

/// Between two lines on the screen.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Sends a job's streams until the time is over or a signal comes.
pub fn produce(args: &ProduceArgs) -> Result<ExitCode> {
    let loaded = job::load(&args.job, args.surroundings.kafka.as_deref())?;
    let Some(servers) = loaded.validated.bootstrap_servers.clone() else {
        return Err(Failure::configuration(
            "produce: the embedded broker lives and dies with `scadles run`: nobody could read what is sent to it",
            "name a Kafka: --kafka HOST:PORT",
        ));
    };
    if args.seconds.is_some_and(|seconds| !seconds.is_finite() || seconds <= 0.0) {
        return Err(Failure::configuration("--seconds: must be above 0", "give for instance --seconds 60"));
    }
    let venue = Venue::Servers(servers);
    let body = Body {
        broker: surroundings::broker_kind(Some(&venue)),
        uid: "produced".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: PathBuf::new(),
        data_dir: surroundings::data_dir(args.surroundings.data.as_deref()),
        checkpoint_root: None,
        token: String::new(),
        threads: 1,
        cores: surroundings::cores(),
    };
    let plan = plan(&loaded.validated, &body)
        .map_err(|mistakes| Failure::configuration(mistakes.to_string().trim_end(), ""))?;
    let config = plan.job().ok_or_else(|| Failure::internal("a plan without workers"))?;
    let streams = load_source(&loaded.validated, &config.data_dir)?
        .and_then(|source| plan_streams(&plan, source))
        .ok_or_else(|| {
            Failure::configuration(
                format!("spec.producer: {} has none, so there is nothing to send", args.job.display()),
                "add spec.producer with a data set and rates",
            )
        })?;
    let clock = Clock::start();
    let topics = plan.topics.iter().map(topic).collect();
    let access = BrokerAccess::open(&venue, topics, clock.now()).map_err(|error| Failure::kafka(&error))?;
    let deadline = config.limits.start_deadline_seconds;
    Sender { access, producer: Producer::new(Some(streams)), signals: Signals::catch()?, clock }
        .send(args.seconds, deadline)
}

struct Sender {
    access: BrokerAccess,
    producer: Producer,
    signals: Signals,
    clock: Clock,
}

impl Sender {
    fn send(mut self, seconds: Option<f64>, deadline_seconds: f64) -> Result<ExitCode> {
        if !self.await_broker(deadline_seconds)? {
            return Ok(ExitCode::Interrupted);
        }
        if let Some(topics) = self.access.topics() {
            self.producer.start(&topics.broker);
        }
        let began = Instant::now();
        let mut last_line = began;
        let over = |began: Instant| seconds.is_some_and(|seconds| began.elapsed().as_secs_f64() >= seconds);
        let mut interrupted = false;
        while !interrupted && !over(began) {
            interrupted = self.signals.wait(TICK);
            self.producer.look().map_err(|error| Failure::kafka(&error))?;
            if last_line.elapsed() >= LINE_INTERVAL {
                last_line = Instant::now();
                say(self.line(began));
            }
        }
        self.producer.stop().map_err(|error| Failure::kafka(&error))?;
        say(self.line(began));
        Ok(if interrupted && seconds.is_some() { ExitCode::Interrupted } else { ExitCode::Completed })
    }

    /// Whether the broker is there; not if a signal came first.
    fn await_broker(&mut self, deadline_seconds: f64) -> Result<bool> {
        let mut told = String::new();
        loop {
            match self.access.look().map_err(|error| Failure::kafka(&error))? {
                BrokerState::Ready => return Ok(true),
                BrokerState::Waiting { problem, .. } => {
                    if self.clock.elapsed() > deadline_seconds {
                        return Err(Failure {
                            code: ExitCode::BrokerLost,
                            message: problem,
                            remedy: String::new(),
                        });
                    }
                    if problem != told {
                        say(&problem);
                        told = problem;
                    }
                }
            }
            if self.signals.wait(TICK) {
                return Ok(false);
            }
        }
    }

    fn line(&self, began: Instant) -> String {
        let statistics = self.producer.statistics();
        let sent: u64 = statistics.iter().map(|stream| stream.delivered).sum();
        let asked: f64 = statistics.iter().map(|stream| stream.asked_samples_per_second).sum();
        let rate: f64 = statistics.iter().map(|stream| stream.sent_samples_per_second).sum();
        format!(
            "{:>8}  {} records delivered to {} streams, {rate:.1} of {asked:.1} per second",
            span(began.elapsed().as_secs_f64()),
            grouped(sent),
            statistics.len(),
        )
    }
}
