//! `scadles simulate JOB --train`: a run folder like that of `scadles run`, its time virtual.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::SystemTime,
};

use scadles_api::{
    ExitCode, names::VIRTUAL_CLOCK, progress::VirtualRun, report::AttemptReport, worker::JobConfig,
};
use scadles_control::{
    Body,
    decide::{Outcome, Supervision},
};
use scadles_core::sim::{SimLimits, VirtualClock};

use super::{planned, simulated_broker};
use crate::{
    commands::run::{check_held_out_data, load_source, names, versions, write_report},
    failure::{Failure, Result},
    job::{self, LoadedJob},
    memory::Memory,
    own_model,
    report::{Ending, ends_well},
    run_folder::RunFolder,
    screen::{complain, say},
    simulate::{
        args::SimulateArgs,
        options,
        presets::Compression,
        scenario::{Scenario, sparse_of},
    },
    surroundings,
};

/// What the report says where others name their broker.
const BROKER: &str = "a virtual clock";

/// Trains the job on the virtual clock and writes its report.
pub(super) fn run(args: &SimulateArgs) -> Result<ExitCode> {
    let path = args.job.as_deref().ok_or_else(|| Failure::internal("nothing to train"))?;
    let mut loaded = job::load(path, Some("embedded"))?;
    own_model::look_at(&mut loaded, path)?;
    let trainer = surroundings::trainer()?;
    if loaded.validated.producer.is_none() {
        return Err(Failure::configuration(
            "spec.producer: missing",
            "add it: what is trained on the virtual clock are the samples of simulated streams",
        ));
    }
    let data_dir = surroundings::data_dir(args.training.data.as_deref());
    // The trainer reads them itself; what is missing is better said before there is a folder.
    load_source(&loaded.validated, &data_dir)?;
    check_held_out_data(&loaded.validated, &data_dir)?;
    let folder = RunFolder::create(&loaded.validated.name, args.training.out.as_deref(), SystemTime::now())?;
    let data = args.training.data.as_deref();
    let body = surroundings::planning_body(&loaded.validated, simulated_broker(), data, None);
    let uid = format!("{}-{}", loaded.validated.name, surroundings::random_text(4)?);
    let body = Body { output_dir: folder.path().to_owned(), uid, threads: args.training.threads, ..body };
    let (config, scenario) = planned(&loaded, &body)?;
    let scenario = options::apply(trainable(scenario, &config), &args.changes)?;
    folder.write_text("job.yaml", &loaded.text)?;
    folder.write_json("job.json", &config)?;
    let clock = VirtualClock { settings: scenario.settings, devices: scenario.sim_devices() };
    folder.write_json(VIRTUAL_CLOCK, &clock)?;
    say(format!("{}: {}, on the virtual clock", scenario.name, scenario.title()));
    scenario.notes.iter().for_each(|note| say(format!("  {note}")));
    let output = train(&trainer, folder.path())?;
    if !output.status.success() {
        // It has said itself why, unless something ended it.
        return match output.status.code().and_then(ExitCode::from_code) {
            Some(code) => Ok(code),
            None => Err(Failure::internal(format!("the trainer was ended: {}", output.status))),
        };
    }
    let trained: VirtualRun = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::internal(format!("the trainer's answer cannot be read: {error}")))?;
    finish(&loaded, &folder, &config, scenario.rates, trained)
}

/// Runs the trainer, whose end of standard input is this program's.
fn train(trainer: &Path, folder: &Path) -> Result<Output> {
    let failed = |error: std::io::Error| {
        Failure::internal(format!("{} cannot be started: {error}", trainer.display()))
    };
    let mut child = Command::new(trainer)
        .arg("simulate")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let _open_until_its_end = child.stdin.take();
    child.wait_with_output().map_err(failed)
}

/// The scenario as gradients make it: what ends it is the job, and what is sent in a step is known.
fn trainable(mut scenario: Scenario, config: &JobConfig) -> Scenario {
    scenario.settings.limits = SimLimits::NONE;
    scenario.notes.clear();
    scenario.note("one partition per device".to_owned());
    if let Some(compression) = config.compression {
        let given = Compression { ratio: compression.ratio, delta: compression.delta, sparse_share: 1.0 };
        scenario.settings.exchange.sparse = Some(sparse_of(given, scenario.settings.exchange.parameters));
    }
    scenario
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
    if !ends_well(words.code) {
        complain(&Failure { code: words.code, message: words.message, remedy: words.remedy });
    }
    Ok(words.code)
}
