//! `steps.csv` as series of a bounded number of points. Pure: reads whatever gives lines, and holds one at a time.
//!
//! Two passes, because a step counts only if no later attempt rolled it back: the first finds the attempts, the second
//! collects.

use std::io::{self, BufRead, Read};

use crate::plot::{Point, Series, Thinner};

/// A series about all devices has at most this many points, of three numbers each.
pub const POINTS: usize = 200;

/// A series about one device has at most this many points: many of them stand side by side.
pub const DEVICE_POINTS: usize = 60;

/// A longer line is not one that a worker wrote: the widest has 1,024 devices with a few cells of a few bytes each.
pub(super) const LONGEST_LINE_BYTES: u64 = 4 << 20;

/// More lives of the group than this are not told apart.
const MOST_LIVES: usize = 10_000;

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read it: {0}")]
    Read(#[from] io::Error),
    /// The first line is not that of such a table.
    #[error("its first line has no column `{0}`")]
    MissingColumn(String),
    /// A line without an end.
    #[error("line {0} is longer than {LONGEST_LINE_BYTES} bytes")]
    LongLine(u64),
    /// Steps in no order at all.
    #[error("its steps begin anew more than {MOST_LIVES} times")]
    TooManyLives,
}

/// Where each value stands in a line.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    attempt: usize,
    step: usize,
    seconds: usize,
    samples: usize,
    loss: usize,
    learning_rate: usize,
    step_seconds: usize,
    /// Columns of what was sent and of what a dense step would have sent; runs of earlier versions have none.
    bytes: Option<(usize, usize)>,
    local_batch: Vec<usize>,
    stream_rate: Vec<usize>,
    buffered: Vec<usize>,
    wait_seconds: Vec<usize>,
    /// Columns of what came from other devices; runs of earlier versions have none.
    received: Option<Vec<usize>>,
    /// Columns of compute and exchange; runs of earlier versions have none.
    phases: Option<(Vec<usize>, Vec<usize>)>,
    /// Columns.
    width: usize,
}

impl Layout {
    /// Reads the first line of the table of these devices.
    pub(super) fn of(head: &str, devices: &[String]) -> Result<Self, Error> {
        let places: std::collections::HashMap<&str, usize> =
            head.trim_end().split(',').enumerate().map(|(place, name)| (name.trim(), place)).collect();
        let one = |name: &str| places.get(name).copied().ok_or_else(|| Error::MissingColumn(name.to_owned()));
        let each = |column: &str| -> Result<Vec<usize>, Error> {
            devices.iter().map(|device| one(&format!("{column}.{device}"))).collect()
        };
        Ok(Self {
            attempt: one("attempt")?,
            step: one("step")?,
            seconds: one("seconds")?,
            samples: one("samples")?,
            loss: one("loss")?,
            learning_rate: one("learning_rate")?,
            bytes: one("bytes_sent").and_then(|sent| Ok((sent, one("dense_bytes")?))).ok(),
            step_seconds: one("step_seconds")?,
            local_batch: each("local_batch")?,
            stream_rate: each("stream_rate")?,
            buffered: each("buffered")?,
            wait_seconds: each("wait_seconds")?,
            received: each("received").ok(),
            phases: each("compute_seconds").and_then(|compute| Ok((compute, each("exchange_seconds")?))).ok(),
            width: head.split(',').count(),
        })
    }

    /// Reads a line's numbers into `cells`; `None` if one is none, or if there are too few. A resumed run of an earlier
    /// version has more cells than its head: those beyond it have no name.
    pub(super) fn step<'a>(&'a self, line: &str, cells: &'a mut Vec<f64>) -> Option<Step<'a>> {
        cells.clear();
        for cell in line.split(',').take(self.width) {
            cells.push(cell.trim().parse().ok()?);
        }
        if cells.len() < self.width {
            return None;
        }
        let global_batch = self.local_batch.iter().map(|column| cells[*column]).sum();
        Some(Step { layout: self, cells, global_batch })
    }
}

/// One line of the table: a committed step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    layout: &'a Layout,
    cells: &'a [f64],
    global_batch: f64,
}

/// One device in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceStep {
    /// Samples of its batch.
    pub local_batch: f64,
    /// Its share of the step's samples; not a number in a step without samples.
    pub weight: f64,
    /// Samples per second that arrived; not a number before that is known.
    pub stream_rate: f64,
    /// Samples that waited.
    pub buffered: f64,
    /// Samples of other devices that it trained; not a number where that is not known.
    pub received: f64,
    /// Where its time went.
    pub spent: Spent,
}

/// Before a rate is known it is 0 in the table.
fn known(rate: f64) -> f64 {
    if rate > 0.0 { rate } else { f64::NAN }
}

impl Step<'_> {
    fn cell(&self, column: usize) -> f64 {
        self.cells[column]
    }

    fn sum(&self, columns: &[usize]) -> f64 {
        columns.iter().map(|column| self.cell(*column)).sum()
    }

    /// Attempt that took it.
    pub fn attempt(&self) -> u64 {
        self.cell(self.layout.attempt) as u64
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.cell(self.layout.step) as u64
    }

    /// Seconds of training since the job began.
    pub fn seconds(&self) -> f64 {
        self.cell(self.layout.seconds)
    }

    /// Samples trained by all devices since the job began.
    pub fn samples(&self) -> f64 {
        self.cell(self.layout.samples)
    }

    /// Mean loss of a sample; perhaps not a number.
    pub fn loss(&self) -> f64 {
        self.cell(self.layout.loss)
    }

    /// η of the step.
    pub fn learning_rate(&self) -> f64 {
        self.cell(self.layout.learning_rate)
    }

    /// Seconds from commit to commit.
    pub fn step_seconds(&self) -> f64 {
        self.cell(self.layout.step_seconds)
    }

    /// Bytes that all devices sent, and what a dense step would have sent (0 without compression).
    pub fn bytes(&self) -> Option<(f64, f64)> {
        self.layout.bytes.map(|(sent, dense)| (self.cell(sent), self.cell(dense)))
    }

    /// Samples of all devices.
    pub fn global_batch(&self) -> f64 {
        self.global_batch
    }

    /// Samples per second that arrived on all devices; not a number before that is known.
    pub fn arriving(&self) -> f64 {
        known(self.sum(&self.layout.stream_rate))
    }

    /// Samples that waited on all devices.
    pub fn buffered(&self) -> f64 {
        self.sum(&self.layout.buffered)
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.layout.local_batch.len()
    }

    /// A device by its rank.
    pub fn device(&self, rank: usize) -> DeviceStep {
        let local_batch = self.cell(self.layout.local_batch[rank]);
        DeviceStep {
            local_batch,
            weight: local_batch / self.global_batch,
            stream_rate: known(self.cell(self.layout.stream_rate[rank])),
            buffered: self.cell(self.layout.buffered[rank]),
            received: self.layout.received.as_ref().map_or(f64::NAN, |columns| self.cell(columns[rank])),
            spent: self.spent(rank),
        }
    }

    /// Where a device's time went.
    pub fn spent(&self, rank: usize) -> Spent {
        let wait = self.cell(self.layout.wait_seconds[rank]);
        let rest = (self.step_seconds() - wait).max(0.0);
        match &self.layout.phases {
            None => Spent { wait, compute: rest, ..Spent::default() },
            Some((compute, exchange)) => {
                let (compute, exchange) = (self.cell(compute[rank]), self.cell(exchange[rank]));
                Spent { wait, compute, exchange, own: (rest - compute - exchange).max(0.0) }
            }
        }
    }

    /// Where the time of a device went in the mean.
    pub fn mean_spent(&self) -> Spent {
        let mut mean = Spent::default();
        let share = 1.0 / self.devices().max(1) as f64;
        (0..self.devices()).for_each(|rank| mean.add(&self.spent(rank), share));
        mean
    }

    /// Whether compute, exchange and own work are known apart.
    pub fn has_phases(&self) -> bool {
        self.layout.phases.is_some()
    }
}

/// Lines of a table, one at a time, none longer than the bound.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), number: 0 }
    }

    /// The next line; `None` at the end. A last line without an end counts as not written. Bytes that are no text become
    /// cells that are no numbers.
    fn next(&mut self) -> Result<Option<std::borrow::Cow<'_, str>>, Error> {
        self.line.clear();
        self.number += 1;
        let read = self.reader.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut self.line)? as u64;
        match self.line.pop() {
            Some(b'\n') => Ok(Some(String::from_utf8_lossy(&self.line))),
            Some(_) if read == LONGEST_LINE_BYTES => Err(Error::LongLine(self.number)),
            _ => Ok(None),
        }
    }
}

/// One life of the group: rows with growing steps.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Life {
    attempt: u64,
    first_step: u64,
    last_step: u64,
}

/// Tells where a table's lines begin anew: another attempt, or a step that was there before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lives {
    last: Option<(u64, u64)>,
}

impl Lives {
    /// The next line; whether a life of the group begins with it that is not the first.
    pub fn begins_anew(&mut self, attempt: u64, step: u64) -> bool {
        let before = self.last.replace((attempt, step));
        before.is_some_and(|(last_attempt, last)| last_attempt != attempt || last >= step)
    }
}

/// What a first look at the table found.
#[derive(Clone, Debug)]
pub struct Survey {
    layout: Layout,
    lives: Vec<Life>,
}

impl Survey {
    /// Looks through a table of these devices, in the order of ranks.
    pub fn of(reader: impl BufRead, devices: &[String]) -> Result<Self, Error> {
        let mut lines = Lines::new(reader);
        let layout = Layout::of(&lines.next()?.unwrap_or_default(), devices)?;
        let mut lives: Vec<Life> = Vec::new();
        while let Some(line) = lines.next()? {
            let Some((attempt, step)) = attempt_and_step(&line, &layout) else { continue };
            let full = lives.len() >= MOST_LIVES;
            match lives.last_mut() {
                Some(life) if life.attempt == attempt && life.last_step < step => life.last_step = step,
                _ if full => return Err(Error::TooManyLives),
                _ => lives.push(Life { attempt, first_step: step, last_step: step }),
            }
        }
        Ok(Self { layout, lives })
    }

    /// Per life the step from which on a later life rolled it back.
    fn ends(&self) -> Vec<u64> {
        let mut ends = Vec::with_capacity(self.lives.len());
        let mut end = u64::MAX;
        for life in self.lives.iter().rev() {
            ends.push(end);
            end = end.min(life.first_step);
        }
        ends.reverse();
        ends
    }

    /// Steps that survive, if no row is damaged.
    fn steps(&self) -> u64 {
        let surviving =
            |(life, end): (&Life, u64)| (life.last_step + 1).min(end).saturating_sub(life.first_step);
        self.lives.iter().zip(self.ends()).map(surviving).sum()
    }
}

fn attempt_and_step(line: &str, layout: &Layout) -> Option<(u64, u64)> {
    let cell = |place: usize| line.split(',').nth(place)?.trim().parse().ok();
    Some((cell(layout.attempt)?, cell(layout.step)?))
}

/// Where time goes, in seconds. Without measured phases all that is not waiting is in `compute`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Waiting for samples or for other devices.
    pub wait: f64,
    /// Forward and backward.
    pub compute: f64,
    /// The sum of the gradients over the ranks.
    pub exchange: f64,
    /// All else of a step: waiting for shared samples, update, agreement, bookkeeping.
    pub own: f64,
}

impl Spent {
    /// Adds a share of another.
    fn add(&mut self, other: &Self, share: f64) {
        self.wait += other.wait * share;
        self.compute += other.compute * share;
        self.exchange += other.exchange * share;
        self.own += other.own * share;
    }
}

/// One device over training time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceCurves {
    /// Samples per second that arrived.
    pub stream_rate: Series,
    /// Samples that waited.
    pub buffered: Series,
    /// Samples per step.
    pub local_batch: Series,
    /// Share of the step's samples.
    pub weight: Series,
    /// Samples of other devices that it trained in a step.
    pub received: Series,
}

/// What a table tells, along the surviving history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// Steps that were read.
    pub steps: u64,
    /// Lines that could not be read.
    pub damaged_lines: u64,
    /// Steps whose loss was no number.
    pub undefined_losses: u64,
    /// Loss over training time.
    pub loss_by_time: Series,
    /// Loss over samples.
    pub loss_by_samples: Series,
    /// Loss of the last step that has one.
    pub last_loss: Option<f64>,
    /// Samples trained over training time.
    pub samples_by_time: Series,
    /// Samples per second that arrived on all devices.
    pub arriving: Series,
    /// Samples per second that were trained.
    pub training: Series,
    /// Samples that waited on all devices.
    pub buffered: Series,
    /// Mean over the devices, seconds per step, over training time.
    pub wait: Series,
    /// Likewise; with exchange and own where phases were not measured.
    pub compute: Series,
    /// Likewise.
    pub exchange: Series,
    /// Likewise.
    pub own: Series,
    /// Bytes that all devices sent in a step, over training time; empty where that is not known.
    pub sent_bytes: Series,
    /// What a dense step would have sent; empty without compression.
    pub dense_bytes: Series,
    /// Whether compute, exchange and own are known apart.
    pub phases: bool,
    /// Sums over the steps, per device in the order of ranks.
    pub spent: Vec<Spent>,
    /// Mean of b_i/Σb over the steps that had samples, per device in the order of ranks.
    pub mean_weights: Vec<f64>,
    /// Curves of the devices that were asked for, in that order.
    pub devices: Vec<DeviceCurves>,
    /// Training time at which a later attempt began, and its number.
    pub restarts: Vec<(f64, u64)>,
}

/// Series in the making.
struct Collector<'a> {
    shown: &'a [usize],
    curves: Curves,
    /// Loss by time, loss by samples, samples, rate, batch, duration, buffered, wait, compute, exchange, own.
    all: [Thinner; 11],
    /// Rate, buffered, batch, weight, received of each device that is shown.
    each: Vec<[Thinner; 5]>,
    /// Bytes sent, bytes of a dense step.
    wire: [Thinner; 2],
    /// Steps that had samples.
    weighted_steps: u64,
}

/// Collects the series of a table that was looked through before. `shown`: the devices with curves of their own.
pub fn collect(reader: impl BufRead, survey: &Survey, shown: &[usize]) -> Result<Curves, Error> {
    let steps = survey.steps();
    let layout = &survey.layout;
    let mut collector = Collector {
        shown,
        curves: Curves {
            phases: layout.phases.is_some(),
            spent: vec![Spent::default(); layout.local_batch.len()],
            mean_weights: vec![0.0; layout.local_batch.len()],
            ..Curves::default()
        },
        all: std::array::from_fn(|_| Thinner::new(steps, POINTS)),
        each: shown.iter().map(|_| std::array::from_fn(|_| Thinner::new(steps, DEVICE_POINTS))).collect(),
        wire: std::array::from_fn(|_| Thinner::new(steps, POINTS)),
        weighted_steps: 0,
    };
    let ends = survey.ends();
    let mut lines = Lines::new(reader);
    lines.next()?;
    let mut cells: Vec<f64> = Vec::new();
    let (mut life, mut lives) = (0, Lives::default());
    while let Some(line) = lines.next()? {
        let Some((attempt, step)) = attempt_and_step(&line, layout) else {
            collector.curves.damaged_lines += 1;
            continue;
        };
        // The same rule as in the first pass.
        let begins_anew = lives.begins_anew(attempt, step);
        life += usize::from(begins_anew);
        let Some(row) = layout.step(&line, &mut cells) else {
            collector.curves.damaged_lines += 1;
            continue;
        };
        if begins_anew {
            collector.curves.restarts.push((row.seconds(), attempt));
        }
        if ends.get(life).is_none_or(|end| step < *end) {
            collector.add(&row);
        }
    }
    Ok(collector.finish())
}

impl Collector<'_> {
    /// One step of the surviving history.
    fn add(&mut self, step: &Step<'_>) {
        let (seconds, samples, loss) = (step.seconds(), step.samples(), step.loss());
        let global_batch = step.global_batch();
        self.curves.steps += 1;
        if loss.is_finite() {
            self.curves.last_loss = Some(loss);
        } else {
            self.curves.undefined_losses += 1;
        }
        if global_batch > 0.0 {
            self.weighted_steps += 1;
            for (rank, weight) in self.curves.mean_weights.iter_mut().enumerate() {
                *weight += step.device(rank).local_batch / global_batch;
            }
        }
        for (rank, total) in self.curves.spent.iter_mut().enumerate() {
            total.add(&step.spent(rank), 1.0);
        }
        let mean = step.mean_spent();
        let values = [
            (seconds, loss),
            (samples, loss),
            (seconds, samples),
            (seconds, step.arriving()),
            (seconds, global_batch),
            (seconds, step.step_seconds()),
            (seconds, step.buffered()),
            (seconds, mean.wait),
            (seconds, mean.compute),
            (seconds, mean.exchange),
            (seconds, mean.own),
        ];
        for (thinner, (x, y)) in self.all.iter_mut().zip(values) {
            thinner.add(x, y);
        }
        if let Some((sent, dense)) = step.bytes() {
            self.wire[0].add(seconds, sent);
            if dense > 0.0 {
                self.wire[1].add(seconds, dense);
            }
        }
        for (thinners, &rank) in self.each.iter_mut().zip(self.shown) {
            let device = step.device(rank);
            let values =
                [device.stream_rate, device.buffered, device.local_batch, device.weight, device.received];
            for (thinner, y) in thinners.iter_mut().zip(values) {
                thinner.add(seconds, y);
            }
        }
    }

    fn finish(self) -> Curves {
        let [
            loss_by_time,
            loss_by_samples,
            samples_by_time,
            arriving,
            batch,
            duration,
            buffered,
            wait,
            compute,
            exchange,
            own,
        ] = self.all.map(Thinner::finish);
        let devices = self.each.into_iter().map(|thinners| {
            let [stream_rate, buffered, local_batch, weight, received] = thinners.map(Thinner::finish);
            DeviceCurves { stream_rate, buffered, local_batch, weight, received }
        });
        let [sent_bytes, dense_bytes] = self.wire.map(Thinner::finish);
        let weighted_steps = self.weighted_steps.max(1) as f64;
        let mean_weights = self.curves.mean_weights.iter().map(|sum| sum / weighted_steps).collect();
        Curves {
            devices: devices.collect(),
            mean_weights,
            loss_by_time,
            loss_by_samples,
            samples_by_time,
            arriving,
            training: ratio(&batch, &duration),
            buffered,
            wait,
            compute,
            exchange,
            own,
            sent_bytes,
            dense_bytes,
            ..self.curves
        }
    }
}

/// Samples per second of each bucket: its samples over its seconds, and not the mean of the steps' own rates, in which
/// short steps would weigh as much as long ones.
fn ratio(batch: &Series, duration: &Series) -> Series {
    let point = |(batch, duration): (&Point, &Point)| {
        let rate = batch.mean / duration.mean;
        rate.is_finite().then_some(Point { x: batch.x, low: rate, mean: rate, high: rate })
    };
    Series { points: batch.points.iter().zip(&duration.points).filter_map(point).collect() }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
