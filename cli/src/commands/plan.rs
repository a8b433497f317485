//! `scadles plan`: what a job would run, and what it would cost.

use scadles_api::ExitCode;
use scadles_control::{Machine, estimate, plan, render};

use crate::{
    args::PlanArgs,
    body::streams::Venue,
    failure::{Failure, Result},
    job, own_model,
    screen::say,
    surroundings,
};

/// Prints the plan of a job.
pub fn show(args: &PlanArgs) -> Result<ExitCode> {
    let mut loaded = job::load(&args.job, args.surroundings.kafka.as_deref())?;
    own_model::look_at(&mut loaded)?;
    let venue = loaded.validated.bootstrap_servers.clone().map(Venue::Servers);
    let mut body = surroundings::planning_body(
        &loaded.validated,
        surroundings::broker_kind(venue.as_ref()),
        args.surroundings.data.as_deref(),
        args.surroundings.secrets.as_deref(),
    );
    body.threads = args.threads;
    let plan = plan(&loaded.validated, &body)
        .map_err(|mistakes| Failure::configuration(mistakes.to_string().trim_end(), ""))?;
    let machine = Machine { cores: surroundings::cores(), seconds_per_sample: None };
    let estimate = estimate(&plan, &machine).ok_or_else(|| Failure::internal("a plan without workers"))?;
    say(render(&plan, &estimate).trim_end());
    Ok(ExitCode::Completed)
}
