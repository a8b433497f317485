//! What runs have come to, and how methods compare at equal time, samples and bytes. Pure.

use scadles_api::{ExitCode, report::RunReport};

/// The state of a training at one of its evaluations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Virtual time.
    pub seconds: f64,
    /// Samples trained by all devices together.
    pub samples: f64,
    /// Gradients and samples that all devices have sent.
    pub bytes: f64,
    /// Share of right guesses.
    pub top_1: f64,
    /// Share of samples whose label is among the five best guesses.
    pub top_5: f64,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Its evaluations in order, behind the network that guesses.
    pub points: Vec<Point>,
    /// Share of the devices' time that was waiting.
    pub waiting: f64,
    /// Share of what arrived that was trained.
    pub trained: f64,
    /// Its loss was no number any more.
    pub diverged: bool,
}

/// An untrained network on ten labels.
const GUESSING: Point = Point { seconds: 0.0, samples: 0.0, bytes: 0.0, top_1: 0.1, top_5: 0.5 };

impl Course {
    /// From a run's report, the share of its waiting, and the bytes of gradients that its steps had sent by then: `bytes[step]`
    /// from 0 on.
    pub fn of(report: &RunReport, waiting: f64, bytes: &[f64]) -> Self {
        let shared = report.injection.as_ref().map_or(0.0, |it| it.bytes_sent as f64);
        let samples_bytes = |samples: f64| shared * samples / report.samples.max(1) as f64;
        let point = |evaluation: &scadles_api::progress::Evaluation| {
            let top = |k: u32| evaluation.top_k.iter().find(|top| top.accuracy_k == k).map(|top| top.share);
            let samples = evaluation.samples_trained as f64;
            let sent = bytes.get(evaluation.step as usize).or(bytes.last()).copied().unwrap_or(0.0);
            Point {
                seconds: evaluation.seconds,
                samples,
                bytes: sent + samples_bytes(samples),
                top_1: top(1).unwrap_or(0.0),
                top_5: top(5).unwrap_or(0.0),
            }
        };
        let sum = |column: fn(&scadles_api::report::DeviceReport) -> u64| {
            report.devices.iter().map(column).sum::<u64>() as f64
        };
        Self {
            points: std::iter::once(GUESSING).chain(report.accuracy.iter().map(point)).collect(),
            waiting,
            trained: sum(|device| device.trained) / sum(|device| device.arrived).max(1.0),
            diverged: report.outcome == ExitCode::Diverged,
        }
    }

    /// Where it ended.
    pub fn last(&self) -> Point {
        self.points.last().copied().unwrap_or(GUESSING)
    }

    /// The value where `along` has come to `budget`, between two evaluations on the straight line; the last one's beyond it.
    pub fn at(&self, along: fn(&Point) -> f64, budget: f64, value: fn(&Point) -> f64) -> f64 {
        let Some(after) = self.points.iter().position(|point| along(point) >= budget) else {
            return value(&self.last());
        };
        let (a, b) = (&self.points[after.saturating_sub(1)], &self.points[after]);
        let (from, to) = (along(a), along(b));
        let share = if to > from { (budget - from) / (to - from) } else { 1.0 };
        value(a) + share * (value(b) - value(a))
    }

    /// Virtual time and samples at which Top-5 first comes to `target`; nothing if it never does.
    pub fn reaches(&self, target: f64) -> Option<(f64, f64)> {
        let after = self.points.iter().position(|point| point.top_5 >= target)?;
        let (a, b) = (&self.points[after.saturating_sub(1)], &self.points[after]);
        let share = if b.top_5 > a.top_5 { (target - a.top_5) / (b.top_5 - a.top_5) } else { 1.0 };
        let between = |of: fn(&Point) -> f64| of(a) + share * (of(b) - of(a));
        Some((between(|point| point.seconds), between(|point| point.samples)))
    }
}

/// A mean over seeds, and how far the seeds lie from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample's standard deviation; nothing of one value.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of these values; not a number of none.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }
}

/// All runs of a method on a set of streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Name of the set.
    pub set: &'static str,
    /// What was done.
    pub method: &'static str,
    /// By seed.
    pub courses: Vec<Course>,
}

impl Outcome {
    /// The runs that came to their end.
    pub fn sound(&self) -> Vec<&Course> {
        self.courses.iter().filter(|course| !course.diverged).collect()
    }

    /// Mean and spread of what a run came to.
    pub fn spread(&self, value: impl Fn(&Course) -> f64) -> Spread {
        let values: Vec<f64> = self.sound().into_iter().map(value).collect();
        Spread::of(&values)
    }

    /// The mean over the seeds, evaluation by evaluation.
    pub fn mean_points(&self) -> Vec<Point> {
        let sound = self.sound();
        let points = sound.iter().map(|course| course.points.len()).min().unwrap_or(0);
        let mean = |place: usize, of: fn(&Point) -> f64| {
            sound.iter().map(|course| of(&course.points[place])).sum::<f64>() / sound.len() as f64
        };
        let point = |place| Point {
            seconds: mean(place, |point| point.seconds),
            samples: mean(place, |point| point.samples),
            bytes: mean(place, |point| point.bytes),
            top_1: mean(place, |point| point.top_1),
            top_5: mean(place, |point| point.top_5),
        };
        (0..points).map(point).collect()
    }
}

/// What all runs of a set have come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Samples that each has trained.
    pub samples: f64,
    /// Bytes that each has sent.
    pub bytes: f64,
    /// Top-5 that each has seen.
    pub top_5: f64,
}

impl Common {
    /// Of all runs that came to their end; endless if there are none.
    pub fn of(outcomes: &[&Outcome]) -> Self {
        let sound = || outcomes.iter().flat_map(|outcome| outcome.sound());
        let least = |of: fn(&Course) -> f64| sound().map(of).fold(f64::INFINITY, f64::min);
        Self {
            samples: least(|course| course.last().samples),
            bytes: least(|course| course.last().bytes),
            top_5: least(|course| course.points.iter().map(|point| point.top_5).fold(0.0, f64::max)),
        }
    }
}

/// How much sooner a method is at an accuracy than another, and what it owes that to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpeedUp {
    /// Virtual time of the other over the method's own: the product of the next two.
    pub whole: f64,
    /// Samples that the method trains per second, over the other's: waiting that is gone, samples that are not left over.
    pub waiting: f64,
    /// Samples that the other needs, over the method's own: what batches, weights, rate and compression do.
    pub algorithm: f64,
}

/// The speed-up to the Top-5 `target`; nothing where a run of either does not come to it.
pub fn speed_up(method: &Outcome, other: &Outcome, target: f64) -> Option<SpeedUp> {
    let mean = |outcome: &Outcome| -> Option<(f64, f64)> {
        let reached: Vec<(f64, f64)> =
            outcome.sound().into_iter().map(|course| course.reaches(target)).collect::<Option<_>>()?;
        let count = reached.len() as f64;
        let sum = reached.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        (count > 0.0).then(|| (sum.0 / count, sum.1 / count))
    };
    let ((own_seconds, own_samples), (seconds, samples)) = (mean(method)?, mean(other)?);
    let found = SpeedUp {
        whole: seconds / own_seconds,
        waiting: (own_samples / own_seconds) / (samples / seconds),
        algorithm: samples / own_samples,
    };
    (found.whole.is_finite() && found.algorithm.is_finite()).then_some(found)
}
