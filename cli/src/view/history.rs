//! What has been so far, over training time, in bounded memory: what a page that is opened late still shows. Pure.
//!
//! The rule is that of a report's curves, *least, mean and greatest of equally many steps*, for a run whose length nobody
//! knows yet: when there are too many points, each two neighbours become one.

use serde::Serialize;

use crate::report::steps::{DEVICE_POINTS, Lives, POINTS, Step};

/// Columns about all devices together.
const COLUMNS: usize = 9;

/// Columns of each device.
const DEVICE_COLUMNS: usize = 4;

/// A rate of training is the mean over so many points.
const RATE_POINTS: usize = 8;

/// More restarts than this have no mark of their own; the newest are kept.
const MOST_RESTARTS: usize = 50;

/// What neighbouring steps were in one column.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// Values that are numbers.
    count: u32,
    low: f32,
    mean: f32,
    high: f32,
}

impl Cell {
    const EMPTY: Self = Self { count: 0, low: f32::INFINITY, mean: 0.0, high: f32::NEG_INFINITY };

    fn of(value: f64) -> Self {
        if value.is_finite() {
            let value = value as f32;
            Self { count: 1, low: value, mean: value, high: value }
        } else {
            Self::EMPTY
        }
    }

    fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0 {
            return Self::EMPTY;
        }
        let share = f64::from(other.count) / f64::from(count);
        let mean = f64::from(self.mean) + (f64::from(other.mean) - f64::from(self.mean)) * share;
        let (low, high) = (self.low.min(other.low), self.high.max(other.high));
        Self { count, low, mean: (mean as f32).clamp(low, high), high }
    }
}

/// Neighbouring steps as one point of every column.
#[derive(Clone, Debug)]
struct Bucket {
    first_step: u64,
    steps: u64,
    /// Mean of their training times.
    seconds: f64,
    cells: Vec<Cell>,
}

impl Bucket {
    fn take(&mut self, other: &Self) {
        let steps = self.steps + other.steps;
        self.seconds += (other.seconds - self.seconds) * other.steps as f64 / steps as f64;
        self.steps = steps;
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell = cell.with(*other);
        }
    }
}

/// Columns over common points, of which there are never more than `most`.
#[derive(Clone, Debug)]
struct Track {
    most: usize,
    steps_per_bucket: u64,
    buckets: Vec<Bucket>,
}

impl Track {
    fn new(most: usize) -> Self {
        Self { most, steps_per_bucket: 1, buckets: Vec::new() }
    }

    fn add(&mut self, step: u64, seconds: f64, values: impl Iterator<Item = f64>) {
        let next = Bucket { first_step: step, steps: 1, seconds, cells: values.map(Cell::of).collect() };
        match self.buckets.last_mut() {
            Some(last) if last.steps < self.steps_per_bucket => last.take(&next),
            _ => self.buckets.push(next),
        }
        if self.buckets.len() > self.most {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.steps_per_bucket *= 2;
        let mut halved: Vec<Bucket> = Vec::with_capacity(self.most);
        for (index, bucket) in std::mem::take(&mut self.buckets).into_iter().enumerate() {
            match halved.last_mut() {
                Some(last) if index % 2 == 1 => last.take(&bucket),
                _ => halved.push(bucket),
            }
        }
        self.buckets = halved;
    }

    /// Forgets what a restart has rolled back: the steps from this one on. A point that also holds steps before it stays if
    /// it lies before the moment at which the steps go on.
    fn forget(&mut self, from_step: u64, seconds: f64) {
        self.buckets.retain(|bucket| bucket.first_step < from_step && bucket.seconds < seconds);
    }

    fn curve(&self, column: usize) -> Curve {
        let cells = || self.buckets.iter().map(|bucket| bucket.cells[column]);
        let value = |number: f32, cell: Cell| (cell.count > 0).then(|| rounded(number));
        let band = cells().any(|cell| cell.low < cell.high);
        let side = |of: fn(Cell) -> f32| {
            if band { cells().map(|cell| value(of(cell), cell)).collect() } else { Vec::new() }
        };
        Curve {
            mean: cells().map(|cell| value(cell.mean, cell)).collect(),
            low: side(|cell| cell.low),
            high: side(|cell| cell.high),
        }
    }

    fn seconds(&self) -> Vec<f64> {
        self.buckets.iter().map(|bucket| (bucket.seconds * 100.0).round() / 100.0).collect()
    }
}

/// Four digits: as many as a picture shows.
fn rounded(number: f32) -> f32 {
    if number == 0.0 || !number.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - f64::from(number).abs().log10().floor() as i32);
    ((f64::from(number) * scale).round() / scale) as f32
}

/// One value over the points of its track: `None` where no step had a number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Means.
    pub mean: Vec<Option<f32>>,
    /// Least values; empty if every point stands for one value.
    pub low: Vec<Option<f32>>,
    /// Greatest values, likewise.
    pub high: Vec<Option<f32>>,
}

/// Curves of all devices together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Curves {
    /// Training time of each point.
    pub seconds: Vec<f64>,
    /// Mean loss of a sample.
    pub loss: Curve,
    /// Samples per second that arrived.
    pub arriving: Curve,
    /// Samples per second that were trained.
    pub training: Curve,
    /// Samples that waited.
    pub buffered: Curve,
    /// Samples of a step.
    pub global_batch: Curve,
    /// Seconds from commit to commit.
    pub step_seconds: Curve,
    /// Mean over the devices, seconds per step.
    pub wait: Curve,
    /// Likewise; with exchange and own where phases were not measured.
    pub compute: Curve,
    /// Likewise.
    pub exchange: Curve,
    /// Likewise.
    pub own: Curve,
    /// Whether compute, exchange and own work are known apart.
    pub phases: bool,
    /// Training time at which a later attempt began, and its number.
    pub restarts: Vec<(f64, u64)>,
}

/// Curves of one device, over the points of [`History::device_seconds`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCurves {
    /// Samples per second that arrived.
    pub rate: Curve,
    /// Samples that waited.
    pub buffered: Curve,
    /// Samples of a step.
    pub batch: Curve,
    /// Share of the step's samples.
    pub weight: Curve,
}

/// The steps of a run so far, rolled-back ones left out. At most [`POINTS`] points of all devices and [`DEVICE_POINTS`] of
/// each: 16 bytes a value, 4 MB for 1,000 devices.
#[derive(Clone, Debug)]
pub struct History {
    all: Track,
    devices: Track,
    lives: Lives,
    restarts: Vec<(f64, u64)>,
    phases: bool,
}

impl Default for History {
    fn default() -> Self {
        Self {
            all: Track::new(POINTS),
            devices: Track::new(DEVICE_POINTS),
            lives: Lives::default(),
            restarts: Vec::new(),
            phases: false,
        }
    }
}

impl History {
    /// The next line of the table of steps.
    pub fn add(&mut self, step: &Step<'_>) {
        let (number, seconds) = (step.number(), step.seconds());
        if self.lives.begins_anew(step.attempt(), number) {
            self.all.forget(number, seconds);
            self.devices.forget(number, seconds);
            self.restarts.retain(|(at, _)| *at < seconds);
            self.restarts.push((seconds, step.attempt()));
            let surplus = self.restarts.len().saturating_sub(MOST_RESTARTS);
            self.restarts.drain(..surplus);
        }
        self.phases = step.has_phases();
        let spent = step.mean_spent();
        let values: [f64; COLUMNS] = [
            step.loss(),
            step.arriving(),
            step.global_batch(),
            step.step_seconds(),
            step.buffered(),
            spent.wait,
            spent.compute,
            spent.exchange,
            spent.own,
        ];
        self.all.add(number, seconds, values.into_iter());
        let devices = (0..step.devices()).flat_map(|rank| {
            let device = step.device(rank);
            [device.stream_rate, device.buffered, device.local_batch, device.weight]
        });
        self.devices.add(number, seconds, devices);
    }

    /// The curves of all devices together.
    pub fn curves(&self) -> Curves {
        let [loss, arriving, global_batch, step_seconds, buffered, wait, compute, exchange, own] =
            std::array::from_fn(|column| self.all.curve(column));
        Curves {
            seconds: self.all.seconds(),
            loss,
            arriving,
            training: ratio(&global_batch, &step_seconds),
            buffered,
            global_batch,
            step_seconds,
            wait,
            compute,
            exchange,
            own,
            phases: self.phases,
            restarts: self.restarts.clone(),
        }
    }

    /// Training time of the points of every device's curves.
    pub fn device_seconds(&self) -> Vec<f64> {
        self.devices.seconds()
    }

    /// The curves of a device by its rank.
    pub fn device(&self, rank: usize) -> DeviceCurves {
        let [rate, buffered, batch, weight] =
            std::array::from_fn(|column| self.devices.curve(rank * DEVICE_COLUMNS + column));
        DeviceCurves { rate, buffered, batch, weight }
    }
}

/// Samples over seconds of the latest points up to each: a step after an evaluation finds its batch ready and takes next to no
/// time, and its own rate would dwarf all others.
fn ratio(batch: &Curve, duration: &Curve) -> Curve {
    let both: Vec<Option<(f32, f32)>> =
        batch.mean.iter().zip(&duration.mean).map(|(batch, duration)| batch.zip(*duration)).collect();
    let rate = |last: usize| {
        let latest = &both[(last + 1).saturating_sub(RATE_POINTS)..=last];
        let sum = |of: fn(&(f32, f32)) -> f32| latest.iter().flatten().map(of).sum::<f32>();
        let rate = sum(|(batch, _)| *batch) / sum(|(_, duration)| *duration);
        rate.is_finite().then(|| rounded(rate))
    };
    Curve { mean: (0..both.len()).map(rate).collect(), low: vec![], high: vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::steps::testing::table;

    fn history(lines: &[(u64, u64, f64)]) -> History {
        let mut history = History::default();
        table(2, lines, |step| history.add(step));
        history
    }

    #[test]
    fn a_short_run_is_shown_step_by_step() {
        let history = history(&[(1, 1, 2.0), (1, 2, 1.5)]);
        let curves = history.curves();
        assert_eq!(curves.seconds, [0.5, 1.0]);
        assert_eq!(curves.loss, Curve { mean: vec![Some(2.0), Some(1.5)], low: vec![], high: vec![] });
        assert_eq!(curves.training.mean, [Some(40.0), Some(40.0)], "20 samples in half a second");
        assert_eq!(history.device(1).batch.mean, [Some(10.0), Some(10.0)]);
        assert_eq!(history.device(1).weight.mean, [Some(0.5), Some(0.5)]);
        assert!(curves.restarts.is_empty());
    }

    #[test]
    fn however_long_a_run_is_its_points_are_bounded_and_no_peak_disappears() {
        let lines: Vec<(u64, u64, f64)> =
            (1..=5_000).map(|step| (1, step, if step == 4_321 { 90.0 } else { 1.0 })).collect();
        let history = history(&lines);
        let curves = history.curves();
        assert!((POINTS / 2..=POINTS).contains(&curves.seconds.len()), "{}", curves.seconds.len());
        assert!(history.device_seconds().len() <= DEVICE_POINTS);
        let most = curves.loss.high.iter().flatten().fold(0.0, |most: f32, value| most.max(*value));
        assert!((most - 90.0).abs() < 1e-3, "{most}");
        assert!(curves.seconds.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", curves.seconds);
        assert_eq!(history.device(0).rate.mean.len(), history.device_seconds().len());
    }

    #[test]
    fn what_a_restart_rolled_back_is_forgotten() {
        let history =
            history(&[(1, 1, 2.0), (1, 2, 1.9), (1, 3, 9.0), (1, 4, 9.0), (2, 3, 1.8), (2, 4, f64::NAN)]);
        let curves = history.curves();
        assert_eq!(curves.seconds, [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(curves.loss.mean, [Some(2.0), Some(1.9), Some(1.8), None], "no number is no point");
        assert_eq!(curves.restarts, [(1.5, 2)]);
        let long: Vec<_> = (1..=1_000).map(|step| (1, step, 1.0)).chain([(2, 501, 1.0)]).collect();
        let seconds = self::history(&long).curves().seconds;
        assert!(seconds.windows(2).all(|pair| pair[0] < pair[1]), "{seconds:?}");
        assert!(*seconds.last().unwrap() <= 250.5, "{seconds:?}");
    }

    #[test]
    fn a_short_step_does_not_dwarf_the_rate_of_all_others() {
        let curve = |mean: &[f32]| Curve {
            mean: mean.iter().map(|value| Some(*value)).collect(),
            low: vec![],
            high: vec![],
        };
        let mut batch = vec![10.0; 20];
        let mut duration = vec![0.5; 20];
        (batch[10], duration[10]) = (20.0, 0.01);
        let rates = ratio(&curve(&batch), &curve(&duration));
        assert_eq!(rates.mean[9], Some(20.0));
        assert_eq!(rates.mean[10], Some(25.64), "90 samples in 3.51 s");
        assert_eq!(rates.mean[18], Some(20.0), "and is forgotten after eight points");
    }

    #[test]
    fn numbers_have_four_digits() {
        for (number, text) in
            [(0.123_456, "0.1235"), (12_345.678, "12350.0"), (0.0, "0.0"), (-2.000_04, "-2.0")]
        {
            assert_eq!(serde_json::to_string(&rounded(number)).unwrap(), text);
        }
    }
}
