//! `scadles simulate JOB --train`: a run folder like that of `scadles run`, its time virtual.

use std::{
    path::{Path, PathBuf},
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
    commands::{
        preset::{self, Place},
        run::{check_held_out_data, load_source, names, store_report, versions, write_report},
    },
    failure::{Failure, Result},
    job::{self, LoadedJob},
    memory::Memory,
    own_model,
    report::{Ending, ends_well},
    run_folder::RunFolder,
    screen::{complain, say, warn},
    simulate::{
        args::{Changes, SimulateArgs},
        options,
        presets::Compression,
        scenario::{Scenario, sparse_of},
    },
    surroundings,
};

/// What the report says where others name their broker.
const BROKER: &str = "a virtual clock";

/// A job to be trained on the virtual clock.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The job; what it leaves out the clock takes from `changes`.
    pub loaded: &'a LoadedJob,
    /// Of streams, times and network.
    pub changes: &'a Changes,
    /// Run folder.
    pub out: Option<&'a Path>,
    /// Folder of the data sets, if it is not the usual one.
    pub data: Option<&'a Path>,
    /// Threads of the training.
    pub threads: u32,
}

/// A training that has come to its end: where it lies, and how it ended.
pub struct Trained {
    /// Its folder, report written.
    pub folder: PathBuf,
    /// Its end.
    pub end: ExitCode,
}

/// Trains the job or preset on the virtual clock and writes its report.
pub(super) fn run(args: &SimulateArgs) -> Result<ExitCode> {
    let loaded = load(args)?;
    let (changes, training) = (changes(args), &args.training);
    loaded.notes.iter().for_each(say);
    let asked = Asked {
        loaded: &loaded,
        changes: &changes,
        out: training.out.as_deref(),
        data: training.data.as_deref(),
        threads: training.threads,
    };
    check(&asked)?;
    Ok(train(&asked, Telling::All)?.end)
}

/// The job to be trained: a file, or a preset at the size that is asked for.
pub(super) fn load(args: &SimulateArgs) -> Result<LoadedJob> {
    let mut loaded = match (&args.job, &args.preset) {
        (Some(path), _) => {
            refuse_sizes(args)?;
            job::load(path, Some("embedded"))?
        }
        (None, Some(name)) => {
            let data_dir = surroundings::data_dir(args.training.data.as_deref());
            preset::load(name, &args.size(), &data_dir, Place::VirtualClock)?
        }
        (None, None) => return Err(Failure::internal("neither a job nor a preset")),
    };
    own_model::look_at(&mut loaded)?;
    Ok(loaded)
}

/// What a job's file says is not taken from the command line: the folder's copy of it would be untrue.
fn refuse_sizes(args: &SimulateArgs) -> Result<()> {
    let given = [("--devices", args.changes.devices.is_some()), ("--rates", !args.changes.rates.is_empty())];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::configuration(
            format!("{option}: with --train a job file says it itself"),
            "change spec.devices and spec.producer.rates in the job's file, or train a preset",
        )),
    }
}

/// What is left for the clock of the command line's changes: a preset's size is in its job.
fn changes(args: &SimulateArgs) -> Changes {
    let changes = args.changes.clone();
    if args.job.is_some() {
        return changes;
    }
    Changes { devices: None, rates: Vec::new(), steps: None, epochs: None, ..changes }
}

/// Finds out what is missing before there is a folder.
pub fn check(asked: &Asked<'_>) -> Result<()> {
    let job = &asked.loaded.validated;
    surroundings::trainer()?;
    if job.producer.is_none() {
        return Err(Failure::configuration(
            "spec.producer: missing",
            "add it: what is trained on the virtual clock are the samples of simulated streams",
        ));
    }
    let data_dir = surroundings::data_dir(asked.data);
    load_source(job, &data_dir)?;
    check_held_out_data(job, &data_dir)
}

/// Whom a training tells how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// The person at the terminal.
    All,
    /// Nobody: others run beside it.
    Nobody,
}

/// Trains a job that was checked.
pub fn train(asked: &Asked<'_>, telling: Telling) -> Result<Trained> {
    let &Asked { loaded, changes, out, data, threads } = asked;
    let tells = telling == Telling::All;
    let folder = RunFolder::create(&loaded.validated.name, out, SystemTime::now())?;
    let body = surroundings::planning_body(&loaded.validated, simulated_broker(), data, None);
    let uid = format!("{}-{}", loaded.validated.name, surroundings::random_text(4)?);
    let body = Body { output_dir: folder.path().to_owned(), uid, threads, ..body };
    let (config, scenario) = planned(loaded, &body)?;
    let scenario = options::apply(trainable(scenario, &config), changes)?;
    folder.write_text("job.yaml", &loaded.text)?;
    folder.write_json("job.json", &config)?;
    let clock = VirtualClock { settings: scenario.settings, devices: scenario.sim_devices() };
    folder.write_json(VIRTUAL_CLOCK, &clock)?;
    if tells {
        say(format!("{}: {}, on the virtual clock", scenario.name, scenario.title()));
        scenario.notes.iter().for_each(|note| say(format!("  {note}")));
    }
    let output = run_trainer(folder.path(), telling)?;
    if !output.status.success() {
        // It has said itself why, unless something ended it.
        if telling == Telling::Nobody {
            warn(String::from_utf8_lossy(&output.stderr).trim_end());
        }
        return match output.status.code().and_then(ExitCode::from_code) {
            Some(end) => Ok(Trained { folder: folder.path().to_owned(), end }),
            None => Err(Failure::internal(format!("the trainer was ended: {}", output.status))),
        };
    }
    let trained: VirtualRun = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::internal(format!("the trainer's answer cannot be read: {error}")))?;
    let end = finish(loaded, &folder, &config, (scenario.rates, telling), trained)?;
    Ok(Trained { folder: folder.path().to_owned(), end })
}

/// Runs the trainer, whose end of standard input is this program's.
fn run_trainer(folder: &Path, telling: Telling) -> Result<Output> {
    let trainer = surroundings::trainer()?;
    let failed = |error: std::io::Error| {
        Failure::internal(format!("{} cannot be started: {error}", trainer.display()))
    };
    let mut child = Command::new(&trainer)
        .arg("simulate")
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(if telling == Telling::All { Stdio::inherit() } else { Stdio::piped() })
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
    (rates_asked, telling): (Vec<f64>, Telling),
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
    let ending = Ending {
        job: &loaded.job,
        outcome: &outcome,
        memory: &memory,
        progress: Some(&progress),
        devices: names(config),
        rates_asked,
        rates_measured: Vec::new(),
        parameter_hashes: words.parameter_hash.into_iter().collect(),
        versions: versions(folder.path()),
    };
    match telling {
        Telling::All => write_report(folder, &ending)?,
        Telling::Nobody => store_report(folder, &ending).1?,
    }
    if telling == Telling::All && !ends_well(words.code) {
        complain(&Failure { code: words.code, message: words.message, remedy: words.remedy });
    }
    Ok(words.code)
}
