//! `scadles produce`: a job's simulated streams without its training.

use std::{
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use scadles_api::ExitCode;
use scadles_control::{Body, Buckets, Plan, decide::BrokerState, plan};
use scadles_kafka::{Error, StreamStatistics};

use super::run::{load_source, plan_streams, topic};
use crate::{
    args::ProduceArgs,
    body::{
        Clock,
        streams::{BrokerAccess, MissingTopics, Producer, StreamsPlan, Venue},
    },
    failure::{Failure, Result},
    job::{self, LoadedJob},
    screen::{grouped, say, span},
    signals::Signals,
    surroundings,
};

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(200);

/// Between two lines on a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Between two lines in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Of so many devices a line tells each one's samples; of more, the extremes.
const DEVICES_ON_A_LINE: usize = 16;

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
    let plan = plan_streaming(args, &loaded, &venue)?;
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
    let access = BrokerAccess::open(&venue, &config.kafka, topics, MissingTopics::Await, clock.now())
        .map_err(|error| Failure::kafka(&error))?;
    Sender {
        access,
        signals: Signals::catch()?,
        clock,
        patience: Duration::from_secs_f64(config.limits.start_deadline_seconds),
        line_interval: if std::io::stdout().is_terminal() { LINE_INTERVAL } else { LOG_INTERVAL },
        seconds: args.seconds,
        began: None,
        sent: Sent::new(config.devices.iter().map(|device| device.name.clone()).collect()),
    }
    .run(&streams)
}

fn plan_streaming(args: &ProduceArgs, loaded: &LoadedJob, venue: &Venue) -> Result<Plan> {
    let body = Body {
        broker: surroundings::broker_kind(Some(venue)),
        uid: "produced".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: PathBuf::new(),
        data_dir: surroundings::data_dir(args.surroundings.data.as_deref()),
        checkpoint_root: None,
        buckets: Buckets::default(),
        token: String::new(),
        threads: 1,
        cores: surroundings::cores(),
        secrets: surroundings::secret_files(
            args.surroundings.secrets.as_deref(),
            &loaded.validated.kafka_secrets,
        ),
        // It runs in both, and has nothing to say about either.
        cluster: true,
    };
    plan(&loaded.validated, &body)
        .map_err(|mistakes| Failure::configuration(mistakes.to_string().trim_end(), ""))
}

/// Samples delivered per device, over all producers of this process.
struct Sent {
    devices: Vec<String>,
    before: Vec<u64>,
}

impl Sent {
    fn new(devices: Vec<String>) -> Self {
        Self { before: vec![0; devices.len()], devices }
    }

    /// A producer has ended with these counts.
    fn keep(&mut self, statistics: &[StreamStatistics]) {
        for (sum, stream) in self.before.iter_mut().zip(statistics) {
            *sum += stream.delivered;
        }
    }

    /// One line: all, the rates, each device.
    fn line(&self, seconds: f64, statistics: &[StreamStatistics]) -> String {
        let delivered = |index: usize| statistics.get(index).map_or(0, |stream| stream.delivered);
        let counts: Vec<u64> =
            self.before.iter().enumerate().map(|(index, before)| before + delivered(index)).collect();
        let asked: f64 = statistics.iter().map(|stream| stream.asked_samples_per_second).sum();
        let rate: f64 = statistics.iter().map(|stream| stream.sent_samples_per_second).sum();
        format!(
            "{:>8}  {} records delivered, {rate:.1} of {asked:.1} per second: {}",
            span(seconds),
            grouped(counts.iter().sum()),
            self.per_device(&counts),
        )
    }

    fn per_device(&self, counts: &[u64]) -> String {
        let told = |(device, count): (&String, &u64)| format!("{device} {}", grouped(*count));
        let named = || self.devices.iter().zip(counts);
        let extremes = (named().min_by_key(|(_, count)| **count), named().max_by_key(|(_, count)| **count));
        match extremes {
            (Some(least), Some(most)) if counts.len() > DEVICES_ON_A_LINE => {
                format!("{} devices, from {} to {}", counts.len(), told(least), told(most))
            }
            _ => named().map(told).collect::<Vec<_>>().join(", "),
        }
    }
}

/// How one producer's life ended.
enum End {
    /// The time is over.
    Over,
    /// A signal came.
    Interrupted,
    /// The broker was away for too long.
    Lost(Error),
}

struct Sender {
    access: BrokerAccess,
    signals: Signals,
    clock: Clock,
    /// How long a broker or topics may be missing.
    patience: Duration,
    line_interval: Duration,
    seconds: Option<f64>,
    /// When sending began.
    began: Option<Instant>,
    sent: Sent,
}

impl Sender {
    /// Waits for the broker and sends; after a loss the same again, each stream from the end of its topic.
    fn run(mut self, streams: &StreamsPlan) -> Result<ExitCode> {
        loop {
            if !self.await_broker()? {
                return Ok(self.interrupted());
            }
            let mut producer = Producer::new(Some(streams.clone()));
            match self.send(&mut producer)? {
                End::Lost(error) => {
                    say(format!("{error}; sending goes on once the broker is back"));
                    self.sent.keep(&producer.statistics());
                    drop(producer);
                    self.access.check_again(self.clock.now()).map_err(|error| Failure::kafka(&error))?;
                }
                end => {
                    let stopped = producer.stop();
                    self.tell(&producer);
                    stopped.map_err(|error| Failure::kafka(&error))?;
                    return Ok(match end {
                        End::Interrupted => self.interrupted(),
                        End::Over | End::Lost(_) => ExitCode::Completed,
                    });
                }
            }
        }
    }

    /// A signal is the usual end of streams without one.
    fn interrupted(&self) -> ExitCode {
        if self.seconds.is_some() { ExitCode::Interrupted } else { ExitCode::Completed }
    }

    fn send(&mut self, producer: &mut Producer) -> Result<End> {
        if let Some(topics) = self.access.topics() {
            producer.start(&topics.broker);
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        let mut last_line = Instant::now();
        loop {
            if self.seconds.is_some_and(|seconds| began.elapsed().as_secs_f64() >= seconds) {
                return Ok(End::Over);
            }
            if self.signals.wait(TICK) {
                return Ok(End::Interrupted);
            }
            match producer.look() {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Ok(End::Lost(error)),
                Err(error) => return Err(Failure::kafka(&error)),
            }
            if last_line.elapsed() >= self.line_interval {
                last_line = Instant::now();
                self.tell(producer);
            }
        }
    }

    fn tell(&self, producer: &Producer) {
        let seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let mut line = self.sent.line(seconds, &producer.statistics());
        if let Some(since) = producer.outage_since() {
            line = format!("{line}; no broker for {}", span(since.elapsed().as_secs_f64()));
        }
        say(line);
    }

    /// Whether broker and topics are there; not if a signal came first.
    fn await_broker(&mut self) -> Result<bool> {
        let began = Instant::now();
        let mut told: Option<(Instant, String)> = None;
        loop {
            match self.access.look().map_err(|error| Failure::kafka(&error))? {
                BrokerState::Ready => return Ok(true),
                BrokerState::Waiting { problem, .. } => {
                    let left = self.patience.saturating_sub(began.elapsed());
                    if left.is_zero() {
                        return Err(Failure {
                            code: ExitCode::BrokerLost,
                            message: problem,
                            remedy: "raise spec.runPolicy.startDeadlineSeconds to wait longer".to_owned(),
                        });
                    }
                    let is_old_news = |(at, last): &(Instant, String)| {
                        at.elapsed() < self.line_interval && *last == problem
                    };
                    if !told.as_ref().is_some_and(is_old_news) {
                        say(format!("waiting, for {} at most: {problem}", span(left.as_secs_f64())));
                        told = Some((Instant::now(), problem));
                    }
                }
            }
            if self.signals.wait(TICK) {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(delivered: u64) -> StreamStatistics {
        StreamStatistics {
            asked_samples_per_second: 50.0,
            sent_samples_per_second: 49.5,
            sent: delivered,
            delivered,
            waiting_since: None,
            slipped: Duration::ZERO,
            finished: false,
        }
    }

    #[test]
    fn a_line_counts_each_device_over_all_producers_of_the_process() {
        let mut sent = Sent::new(vec!["a".to_owned(), "b".to_owned()]);
        sent.keep(&[stream(1000), stream(1)]);
        let line = sent.line(61.0, &[stream(234), stream(1)]);
        assert_eq!(
            line.trim_start(),
            "1 min 01 s  1 236 records delivered, 99.0 of 100.0 per second: a 1 234, b 2"
        );
        assert!(sent.line(61.0, &[]).ends_with("a 1 000, b 1"), "before the first look");
    }

    #[test]
    fn of_many_devices_a_line_tells_the_extremes() {
        let mut sent = Sent::new((0..1024).map(|index| format!("d{index}")).collect());
        sent.keep(&(0..1024).map(|index| stream(10 + index)).collect::<Vec<_>>());
        let line = sent.line(1.0, &[]);
        assert!(line.ends_with("1024 devices, from d0 10 to d1023 1 033"), "{line}");
    }
}
