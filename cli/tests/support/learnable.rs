//! A data set that a small network learns in seconds, and a job on it: no download, no waiting.

use std::path::{Path, PathBuf};

/// Classes, and rows and columns of a picture.
const CLASSES: usize = 10;
const SIDE: usize = 8;
const RECORDS: usize = 2000;

/// Ten noisy patterns, one per label: a label byte and 64 bytes per record.
fn records() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let patterns: Vec<Vec<u8>> =
        (0..CLASSES).map(|_| (0..SIDE * SIDE).map(|_| (random() % 160) as u8).collect()).collect();
    (0..RECORDS)
        .flat_map(|index| {
            let label = index % CLASSES;
            let noisy: Vec<u8> = patterns[label].iter().map(|value| value + (random() % 96) as u8).collect();
            [label as u8].into_iter().chain(noisy)
        })
        .collect()
}

/// What differs between the jobs of the tests.
pub struct Settings {
    pub name: &'static str,
    pub policy: &'static str,
    /// A rule's name, or the whole member `batch`.
    pub rule: &'static str,
    pub steps: u64,
    /// Members of `spec.model` beside classes and shape.
    pub model: &'static str,
    /// Further members of `spec.stream` and `spec.training`, each with a comma behind it.
    pub stream: &'static str,
    pub training: &'static str,
    /// The member `injection`, or nothing.
    pub injection: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        let (stream, training, injection) = ("", "", "");
        let (policy, model) = ("Persistence", "name: Mlp");
        Self { name: "learnable", policy, rule: "LineRate", steps: 60, model, stream, training, injection }
    }
}

/// Writes the data set and a job of three devices with rates 210, 97 and 31 samples per second.
pub fn job(folder: &Path, settings: &Settings) -> PathBuf {
    let data = folder.join("records.bin");
    std::fs::write(&data, records()).unwrap();
    let data = data.display();
    let Settings { name, policy, rule, steps, model, stream, training, injection } = settings;
    let injection = if injection.is_empty() { String::new() } else { format!("  injection: {injection}\n") };
    let rule = if rule.starts_with('{') { (*rule).to_owned() } else { format!("{{rule: {rule}}}") };
    let text = format!(
        "apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {{name: {name}}}
spec:
  model: {{{model}, numClasses: 10, inputShape: [1, 8, 8]}}
  training: {{{training}optimizer: {{learningRate: 0.05}}}}
  devices: {{count: 3}}
  stream: {{{stream}policy: {policy}, batch: {rule}, transform: {{mean: [0.5], std: [0.25]}}}}
  producer:
    dataset: {{name: Files, files: {{path: {data}}}}}
    rates: {{list: [210, 97, 31]}}
{injection}  evaluation: {{dataset: {{name: Files, files: {{path: {data}}}}}, everySteps: 20, samples: 500, topK: [1, 5]}}
  checkpoint: {{everySteps: 10}}
  completion: {{maxSteps: {steps}}}
  runPolicy: {{maxRestarts: 4, startDeadlineSeconds: 60, collectiveSeconds: 20, stopGraceSeconds: 10}}
"
    );
    let path = folder.join("job.yaml");
    std::fs::write(&path, text).unwrap();
    path
}
