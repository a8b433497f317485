//! `scadles simulate`: jobs and presets on the virtual clock.

pub mod train;

use std::path::Path;

use scadles_api::{ExitCode, worker::JobConfig};
use scadles_control::{Body, BrokerKind, Machine, estimate, plan};

use crate::{
    commands::preset,
    failure::{Failure, Result},
    job::{self, LoadedJob},
    own_model,
    screen::say,
    simulate::{
        Simulated,
        args::SimulateArgs,
        export, options,
        plots::{Plot, plots},
        scenario::Scenario,
        simulate, table,
    },
    surroundings,
};

/// Simulates a job or preset and what it is compared with, prints it, and writes what was asked for.
pub fn run(args: &SimulateArgs) -> Result<ExitCode> {
    if args.list_presets {
        say(table::presets().trim_end());
        return Ok(ExitCode::Completed);
    }
    if args.training.print_job {
        say(train::load(args)?.text.trim_end());
        return Ok(ExitCode::Completed);
    }
    if args.training.train {
        return train::run(args);
    }
    if args.training.model.is_some() {
        return Err(Failure::configuration(
            "--model: without --train a preset has the paper's network and its published times",
            "add --train, or leave it out (--seconds-per-sample gives other times)",
        ));
    }
    let devices = args.changes.devices.map(|devices| devices as usize);
    let first = match (&args.job, &args.preset) {
        (Some(path), _) => of_job(path)?,
        (None, Some(name)) => of_preset(name, devices)?,
        (None, None) => return Err(Failure::internal("neither a job nor a preset")),
    };
    let mut scenarios = vec![first];
    for other in &args.compare {
        let path = Path::new(other);
        scenarios.push(if path.is_file() { of_job(path)? } else { of_preset(other, devices)? });
    }
    let all = scenarios
        .into_iter()
        .map(|scenario| Ok(simulate(options::apply(scenario, &args.changes)?)))
        .collect::<Result<Vec<Simulated>>>()?;
    say(table::render(&all).trim_end());
    if let Some(path) = &args.json {
        let text = export::json(&all)
            .map_err(|error| Failure::internal(format!("the simulation is no JSON: {error}")))?;
        write(path, &text, "--json FILE")?;
    }
    if let Some(path) = &args.csv {
        write(path, &export::csv(&all), "--csv FILE")?;
    }
    if let Some(folder) = &args.plots {
        write_plots(folder, &plots(&all))?;
    }
    Ok(ExitCode::Completed)
}

fn of_job(path: &Path) -> Result<Scenario> {
    // Nothing is connected: the broker, and whether this machine's memory holds it, do not matter.
    let mut loaded = job::load(path, Some("embedded"))?;
    own_model::look_at(&mut loaded)?;
    let body = surroundings::planning_body(&loaded.validated, simulated_broker(), None, None);
    Ok(planned(&loaded, &body)?.1)
}

/// A broker that nobody talks to.
fn simulated_broker() -> BrokerKind {
    BrokerKind::Servers("simulated:9092".to_owned())
}

/// A job as its workers would get it from this body, and as it is simulated.
fn planned(loaded: &LoadedJob, body: &Body) -> Result<(JobConfig, Scenario)> {
    let plan = plan(&loaded.validated, body)
        .map_err(|mistakes| Failure::configuration(mistakes.to_string().trim_end(), ""))?;
    let machine = Machine { cores: body.cores, seconds_per_sample: None };
    let estimate = estimate(&plan, &machine).ok_or_else(|| Failure::internal("a plan without workers"))?;
    let job = plan.job().ok_or_else(|| Failure::internal("a plan without workers"))?;
    Ok((job.clone(), Scenario::of_job(job, &estimate, machine.cores)))
}

fn of_preset(name: &str, devices: Option<usize>) -> Result<Scenario> {
    Ok(Scenario::of_preset(preset::find(name)?, devices))
}

/// Writes each chart to a file of the folder, which is made.
pub fn write_plots(folder: &Path, plots: &[Plot]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| unwritten(folder, &error, "--plots DIR"))?;
    for plot in plots {
        write(&folder.join(plot.file), &plot.figure.document(), "--plots DIR")?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, option: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| unwritten(path, &error, option))
}

fn unwritten(path: &Path, error: &std::io::Error, option: &str) -> Failure {
    Failure::storage(
        format!("{} cannot be written: {error}", path.display()),
        format!("name a place that you may write to with {option}"),
    )
}
