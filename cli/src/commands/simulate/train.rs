//! `scadles simulate JOB --train`: a run folder like that of `scadles run`, its time virtual.

use std::{
    process::{Command, Stdio},
    time::SystemTime,
};

use scadles_api::{
    ExitCode, names::VIRTUAL_CLOCK, progress::VirtualRun, report::AttemptReport, worker::JobConfig,
};
use scadles_control::{
    Body,
    decide::{Outcome, Supervision},
};
use scadles_core::sim::VirtualClock;

use super::{planned, simulated_broker};
use crate::{
    commands::run::{names, versions, write_report},
    failure::{Failure, Result},
    job::{self, LoadedJob},
    memory::Memory,
    report::Ending,
    run_folder::RunFolder,
    screen::{complain, say},
    simulate::{args::SimulateArgs, options},
    surroundings,
};

/// What the report says where others name their broker.
const BROKER: &str = "a virtual clock";

/// Trains the job on the virtual clock and writes its report.
pub(super) fn run(args: &SimulateArgs) -> Result<ExitCode> {
    let path = args.job.as_deref().ok_or_else(|| Failure::internal("nothing to train"))?;
    let loaded = job::load(path, Some("embedded"))?;
    let trainer = surroundings::trainer()?;
    let folder = RunFolder::create(&loaded.validated.name, args.training.out.as_deref(), SystemTime::now())?;
    let data = args.training.data.as_deref();
    let body = surroundings::planning_body(&loaded.validated, simulated_broker(), data, None);
    let uid = format!("{}-{}", loaded.validated.name, surroundings::random_text(4)?);
    let threads = args.training.threads.unwrap_or(body.cores);
    let body = Body { output_dir: folder.path().to_owned(), uid, threads, ..body };
    let (config, scenario) = planned(&loaded, &body)?;
    let scenario = options::apply(scenario, &args.changes)?;
    folder.write_text("job.yaml", &loaded.text)?;
    folder.write_json("job.json", &config)?;
    let clock = VirtualClock { settings: scenario.settings, devices: scenario.sim_devices() };
    folder.write_json(VIRTUAL_CLOCK, &clock)?;
    say(format!("{}: {}, on the virtual clock", scenario.name, scenario.title()));
    scenario.notes.iter().for_each(|note| say(format!("  {note}")));
    // It says itself how far it is, and why it cannot.
    let output = Command::new(&trainer)
        .arg("simulate")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::internal(format!("{} cannot be started: {error}", trainer.display())))?;
    if !output.status.success() {
        let code = output.status.code().and_then(ExitCode::from_code);
        return Ok(code.unwrap_or(ExitCode::Interrupted));
    }
    let trained: VirtualRun = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::internal(format!("the trainer's answer cannot be read: {error}")))?;
    finish(&loaded, &folder, &config, scenario.rates, trained)
}

fn finish(
    loaded: &LoadedJob,
    folder: &RunFolder,
    config: &JobConfig,
    rates_asked: Vec<f64>,
    trained: VirtualRun,
) -> Result<ExitCode> {
    let VirtualRun { progress, accuracy } = trained;
    let words = progress.last_words.clone();
    let words = words.ok_or_else(|| Failure::internal("the trainer ended without last words"))?;
    let attempt = AttemptReport {
        number: 1,
        from_step: 0,
        to_step: progress.step,
        ended: words.message.clone(),
        first_cause: None,
    };
    let mut memory = Memory::new(config.uid.clone(), BROKER.to_owned(), Supervision::new(0.0, None));
    memory.supervision.history.push(attempt);
    memory.start_seconds = Some(0.0);
    memory.train_seconds = progress.train_seconds;
    memory.accuracy = accuracy;
    let outcome = Outcome { code: words.code, message: words.message.clone(), remedy: words.remedy.clone() };
    write_report(
        folder,
        &Ending {
            job: &loaded.job,
            outcome: &outcome,
            memory: &memory,
            progress: Some(&progress),
            devices: names(config),
            rates_asked,
            rates_measured: Vec::new(),
            parameter_hashes: words.parameter_hash.into_iter().collect(),
            versions: versions(folder.path()),
        },
    )?;
    if words.code == ExitCode::StreamStalled {
        complain(&Failure { code: words.code, message: words.message, remedy: words.remedy });
    }
    Ok(words.code)
}
