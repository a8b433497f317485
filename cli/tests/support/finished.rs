//! Folders of runs that have ended, as `scadles run` leaves them, without running anything.

use std::{fmt::Write, path::Path};

use scadles_api::{
    ExitCode,
    progress::{Evaluation, TopK},
    report::{AttemptReport, Conventional, DeviceReport, REPORT_VERSION, RunReport},
};

/// A run to be made up.
pub struct Finished {
    pub devices: usize,
    pub steps: u64,
    /// Evaluations, evenly over the steps.
    pub evaluations: u64,
    /// A restart in the middle rolls back this many steps.
    pub rolled_back: u64,
    pub outcome: ExitCode,
    pub message: String,
    /// Device names are this and a number.
    pub prefix: String,
    pub job_text: String,
}

impl Default for Finished {
    fn default() -> Self {
        Self {
            devices: 3,
            steps: 40,
            evaluations: 4,
            rolled_back: 0,
            outcome: ExitCode::Completed,
            message: "complete".to_owned(),
            prefix: "device-".to_owned(),
            job_text: JOB.to_owned(),
        }
    }
}

/// The job of all of them.
pub const JOB: &str = "apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: finished}
spec:
  model: {name: Cnn, numClasses: 10, inputShape: [3, 32, 32]}
  devices: {count: 3}
  completion: {maxSteps: 40}
";

/// Seconds of a step.
const STEP: f64 = 0.25;

impl Finished {
    pub fn name(&self, device: usize) -> String {
        format!("{}{device}", self.prefix)
    }

    /// Samples per second of a device: between 20 and 200, each its own.
    pub fn rate(device: usize) -> f64 {
        20.0 + (device * 73 % 181) as f64
    }

    pub fn batch(device: usize, step: u64) -> u64 {
        (Self::rate(device) * STEP) as u64 + (step * 7 + device as u64 * 3) % 5
    }

    pub fn global_batch(&self, step: u64) -> u64 {
        (0..self.devices).map(|device| Self::batch(device, step)).sum()
    }

    /// Samples of the steps up to this one.
    pub fn samples(&self, steps: u64) -> u64 {
        (1..=steps).map(|step| self.global_batch(step)).sum()
    }

    /// Writes the folder.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let report = serde_json::to_string_pretty(&self.report()).unwrap();
        std::fs::write(folder.join("report.json"), report).unwrap();
        std::fs::write(folder.join("job.yaml"), &self.job_text).unwrap();
        if self.steps > 0 {
            std::fs::write(folder.join("steps.csv"), self.table()).unwrap();
        }
    }

    pub fn report(&self) -> RunReport {
        let seconds = self.steps as f64 * STEP;
        let slowest = (0..self.devices).map(Self::rate).fold(f64::INFINITY, f64::min);
        let steps = (seconds * slowest / 64.0) as u64;
        RunReport {
            compression: None,
            injection: None,
            tunings: vec![],
            version: REPORT_VERSION,
            outcome: self.outcome,
            message: self.message.clone(),
            job: scadles_control::parse_job(JOB).unwrap(),
            job_uid: "finished-1".to_owned(),
            versions: [("cpu", "a CPU"), ("scadles", "0.1.0"), ("torch", "2.11.0")]
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
            broker: "embedded".to_owned(),
            steps: self.steps,
            samples: self.samples(self.steps),
            seconds,
            start_seconds: 1.25,
            devices: (0..self.devices).map(|device| self.device(device)).collect(),
            accuracy: (1..=self.evaluations).map(|index| self.evaluation(index)).collect(),
            parameter_hashes: vec!["00c0ffee00c0ffee".to_owned(); self.devices],
            attempts: self.attempts(),
            conventional: (self.steps > 0).then(|| Conventional {
                batch: 64,
                step_seconds: 64.0 / slowest,
                steps,
                samples: steps * 64 * self.devices as u64,
            }),
        }
    }

    fn device(&self, device: usize) -> DeviceReport {
        let trained = (1..=self.steps).map(|step| Self::batch(device, step)).sum();
        let (buffered, dropped) =
            (12 + device as u64 * 5, if device.is_multiple_of(3) { trained / 20 } else { 0 });
        let part = |of: u64| if self.steps > 0 { of } else { 0 };
        DeviceReport {
            name: self.name(device),
            arrived: trained + part(buffered) + dropped,
            trained,
            buffered: part(buffered),
            dropped,
            rolled_back: self.rolled_back * 9,
            rate_mean: Self::rate(device) - 0.25,
            rate_asked: Some(Self::rate(device)),
            batch_mean: trained as f64 / self.steps.max(1) as f64,
            weight_mean: trained as f64 / self.samples(self.steps).max(1) as f64,
            bytes_sent: self.steps * 1_000_000,
            wait_seconds: self.steps as f64 * 0.15,
            prequential_accuracy: Some(0.5 + device as f64 / 100.0),
            ..DeviceReport::default()
        }
    }

    fn evaluation(&self, index: u64) -> Evaluation {
        let step = index * self.steps / self.evaluations;
        let learned = 1.0 - (-(step as f64) / self.steps as f64 * 2.0).exp();
        let top = |accuracy_k, share| TopK { accuracy_k, share };
        Evaluation {
            step,
            samples_trained: self.samples(step),
            seconds: step as f64 * STEP,
            pictures: 10_000,
            loss: 2.3 - learned,
            top_k: vec![top(1, 0.1 + 0.5 * learned), top(5, 0.5 + 0.45 * learned)],
            per_class: vec![],
        }
    }

    fn attempts(&self) -> Vec<AttemptReport> {
        let attempt = |number, from_step, to_step, ended: &str, first_cause| AttemptReport {
            number,
            from_step,
            to_step,
            ended: ended.to_owned(),
            first_cause,
        };
        let half = self.steps / 2;
        if self.rolled_back == 0 {
            return vec![attempt(1, 0, self.steps, &self.message, None)];
        }
        let lost = format!("{} was lost: killed by signal 9", self.name(0));
        vec![
            attempt(1, 0, half, &lost, Some(self.name(0))),
            attempt(2, half - self.rolled_back, self.steps, &self.message, None),
        ]
    }

    pub fn table(&self) -> String {
        let mut table =
            "attempt,step,seconds,samples,loss,learning_rate,window_seconds,step_seconds".to_owned();
        let columns =
            ["local_batch", "stream_rate", "buffered", "wait_seconds", "compute_seconds", "exchange_seconds"];
        for column in columns {
            (0..self.devices).for_each(|device| write!(table, ",{column}.{}", self.name(device)).unwrap());
        }
        table.push('\n');
        let half = self.steps / 2;
        let rows: Vec<(u32, u64)> = if self.rolled_back > 0 {
            let second = half - self.rolled_back + 1..=self.steps;
            (1..=half).map(|step| (1, step)).chain(second.map(|step| (2, step))).collect()
        } else {
            (1..=self.steps).map(|step| (1, step)).collect()
        };
        for (attempt, step) in rows {
            // Along the surviving history, as the trainer counts.
            let samples = self.samples(step);
            let loss = 2.3 - 0.8 * step as f64 / self.steps as f64 + (step * 31 % 17) as f64 / 80.0;
            write!(
                table,
                "{attempt},{step},{:.3},{samples},{loss:.6},0.03,{STEP},{STEP}",
                step as f64 * STEP
            )
            .unwrap();
            let mut each = |cell: &dyn Fn(usize) -> f64| {
                (0..self.devices).for_each(|device| write!(table, ",{:.2}", cell(device)).unwrap());
            };
            each(&|device| Self::batch(device, step) as f64);
            each(&|device| Self::rate(device) + (step % 3) as f64 - 1.0);
            each(&|device| (Self::batch(device, step) + step * 11 % 30) as f64);
            each(&|device| 0.15 - (device % 4) as f64 / 100.0);
            each(&|device| 0.04 + (device % 4) as f64 / 100.0);
            each(&|_| 0.05);
            table.push('\n');
        }
        table
    }
}
