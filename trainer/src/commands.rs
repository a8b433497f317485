//! `evaluate`, `replay` and `pull`: what is done with a finished run; `check-model` and `simulate`. Shell.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
};

use scadles_api::{
    ExitCode, names,
    worker::{EvaluationConfig, JobConfig, ModelConfig, ModelVerdict},
};
use serde::de::DeserializeOwned;

use crate::{
    evaluate::ShardResult,
    held_out::HeldOut,
    learner::{Learner, set_up_torch},
    replay::{ReplayOptions, ReplayResult, replay as replay_run},
    simulate::simulate as simulate_job,
    storage::Mirror,
    worker::Failure,
};

/// Evaluates the model of a run, or a given model file beside a run's `job.json`, on all held-out pictures.
pub fn evaluate(path: &Path, data: Option<PathBuf>, json: bool) -> ExitCode {
    let outcome = evaluate_model(path, data)
        .map(|(settings, result)| if json { json_text(&result) } else { table(&settings, &result) });
    finish(outcome.map(|text| (text, ExitCode::Completed)))
}

/// Replays a run's journal.
pub fn replay(run: &Path, data: Option<PathBuf>, kafka: Option<String>) -> ExitCode {
    let outcome = replay_run(run, &ReplayOptions { data_dir: data, bootstrap_servers: kafka });
    finish(outcome.map_err(Failure::from).map(|result| {
        let code = if result.equal { ExitCode::Completed } else { ExitCode::Diverged };
        (replay_text(&result), code)
    }))
}

fn replay_text(result: &ReplayResult) -> String {
    let mut text = format!(
        "replayed {} steps from checkpoint {}, compared at {} places on the way\n  parameters of {:<20} {}\n  parameters of {:<20} {}\n",
        result.steps,
        result.from_checkpoint,
        result.compared_on_the_way,
        result.compared_with,
        result.expected_hash,
        "the replay",
        result.parameter_hash,
    );
    if let (Some(expected), Some(found)) = (&result.expected_statistics, &result.statistics_hash) {
        let _ = writeln!(text, "  running statistics of {:<12} {expected}", result.compared_with);
        let _ = writeln!(text, "  running statistics of {:<12} {found}", "the replay");
    }
    if let Some(cpu) = &result.other_cpu {
        let _ =
            writeln!(text, "  the run was made on another kind of CPU ({cpu}), whose last bits may differ");
    }
    match (result.equal, result.first_difference) {
        (true, _) => text.push_str("  equal, bit for bit\n"),
        (false, Some(step)) => drop(writeln!(text, "  DIFFERENT, first seen after step {step}")),
        (false, None) => text.push_str("  DIFFERENT\n"),
    }
    text
}

fn finish(outcome: Result<(String, ExitCode), Failure>) -> ExitCode {
    match outcome {
        Ok((text, code)) => {
            // A reader that has gone away is no failure of ours.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            code
        }
        Err(failure) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "scadles: {}", failure.message);
            if !failure.remedy.is_empty() {
                let _ = writeln!(stderr, "  remedy: {}", failure.remedy);
            }
            failure.code
        }
    }
}

/// Copies the results of `job`, a resolved job, out of its bucket into `folder`.
pub fn pull(job: &Path, folder: &Path) -> ExitCode {
    let pulled = || -> Result<String, Failure> {
        let none = || {
            Failure::new(
                ExitCode::Configuration,
                format!("{}: the job's results go to no bucket", job.display()),
            )
            .with_remedy("give spec.output.storage.s3 or spec.checkpoint.storage.s3")
        };
        let config: JobConfig = read_json(job)?;
        let bucket = config.output_bucket.as_ref().ok_or_else(none)?;
        let count = Mirror::open(bucket, &config.uid, folder)?.pull()?;
        Ok(format!("{count} files in {}\n", folder.display()))
    };
    finish(pulled().map(|text| (text, ExitCode::Completed)))
}

/// Says on standard output, as JSON, whether the network that is not built in can be trained; `model` is its configuration
/// as JSON.
pub fn check_model(model: &str) -> ExitCode {
    let checked = || -> Result<u64, Failure> {
        let config: ModelConfig = serde_json::from_str(model).map_err(|error| {
            Failure::new(ExitCode::Configuration, format!("the model's configuration: {error}"))
        })?;
        set_up_torch(1)?;
        Ok(Learner::<f32>::new(&config, 0)?.parameter_count())
    };
    let (code, verdict) = match checked() {
        Ok(parameters) => (ExitCode::Completed, ModelVerdict::Usable { parameters }),
        Err(Failure { code, message, remedy }) => (code, ModelVerdict::Refused { message, remedy }),
    };
    let text = serde_json::to_string(&verdict);
    finish(text.map(|text| (text, code)).map_err(|error| Failure::new(ExitCode::Internal, error.to_string())))
}

/// Trains the job in `run` on the virtual clock in it, and prints what came of it as JSON.
pub fn simulate(run: &Path) -> ExitCode {
    // Whoever started us holds the other end of standard input: nobody waits for the result when that is gone.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(i32::from(ExitCode::Orphaned.code()));
    });
    let simulated = || -> Result<String, Failure> {
        let job = read_job(run)?;
        let clock = read_json(&run.join(names::VIRTUAL_CLOCK))?;
        let outcome = simulate_job(&job, &clock, &mut |line| eprintln!("{line}"))?;
        serde_json::to_string(&outcome)
            .map_err(|error| Failure::new(ExitCode::Internal, format!("the result is no JSON: {error}")))
    };
    finish(simulated().map(|text| (text, ExitCode::Completed)))
}

/// Reads `job.json` of a run folder.
pub fn read_job(run: &Path) -> Result<JobConfig, Failure> {
    read_json(&run.join("job.json"))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let wrong = |problem: String| {
        Failure::new(ExitCode::Configuration, format!("{}: {problem}", path.display()))
            .with_remedy("name the folder of a run of `scadles run`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn evaluate_model(path: &Path, data: Option<PathBuf>) -> Result<(EvaluationConfig, ShardResult), Failure> {
    let (run, model) = if path.is_dir() {
        (path.to_owned(), path.join("model.safetensors"))
    } else {
        (path.parent().unwrap_or(Path::new(".")).to_owned(), path.to_owned())
    };
    let job = read_job(&run)?;
    let settings = job.evaluation.clone().ok_or_else(|| {
        Failure::new(ExitCode::Configuration, "the job of this run has no spec.evaluation")
            .with_remedy("add spec.evaluation.dataset to the job, so that it is known what to evaluate on")
    })?;
    set_up_torch(job.threads)?;
    let data_dir = data.unwrap_or_else(|| job.data_dir.clone());
    let mut learner = Learner::<f32>::new(&job.model.below(&data_dir), job.training.seed)?;
    learner.load(&model).map_err(|error| match error.exit_code() {
        ExitCode::Configuration => Failure::from(error),
        _ => Failure { code: ExitCode::Configuration, ..Failure::from(error) }
            .with_remedy("name a model of this job"),
    })?;
    let mut held_out = HeldOut::open(&job, &settings, &data_dir)?;
    let result = held_out.evaluate_alone(&learner, u64::MAX)?;
    Ok((settings, result))
}

fn table(settings: &EvaluationConfig, result: &ShardResult) -> String {
    let counts = &result.counts;
    let mut text = format!(
        "{} pictures, mean loss {:.4}\n",
        counts.samples,
        result.loss_sum / counts.samples.max(1) as f64
    );
    for &k in &settings.top_k {
        let _ = writeln!(text, "  Top-{k:<3} {:6.2} %", 100.0 * counts.accuracy(k).unwrap_or(0.0));
    }
    for (class, share) in counts.class_accuracies().into_iter().enumerate() {
        let _ = writeln!(text, "  class {class:<3} {:6.2} %", 100.0 * share.unwrap_or(0.0));
    }
    text
}

fn json_text(result: &ShardResult) -> String {
    let counts = &result.counts;
    let top_k: std::collections::BTreeMap<String, Option<f64>> =
        counts.correct_at.keys().map(|&k| (k.to_string(), counts.accuracy(k))).collect();
    let value = serde_json::json!({
        "pictures": counts.samples,
        "loss": result.loss_sum / counts.samples.max(1) as f64,
        "topK": top_k,
        "perClass": counts.class_accuracies(),
    });
    format!("{value}\n")
}
