//! `scadles plan`: what a job would run, and what it would cost.

use std::path::PathBuf;

use scadles_api::ExitCode;
use scadles_control::{Body, Machine, estimate, plan, render};

use crate::{
    args::PlanArgs,
    body::streams::Venue,
    failure::{Failure, Result},
    job,
    screen::say,
    surroundings,
};

/// Prints the plan of a job.
pub fn show(args: &PlanArgs) -> Result<ExitCode> {
    let loaded = job::load(&args.job, args.surroundings.kafka.as_deref())?;
    let venue = loaded.validated.bootstrap_servers.clone().map(Venue::Servers);
    let body = Body {
        broker: surroundings::broker_kind(venue.as_ref()),
        uid: "planned".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: PathBuf::from(format!("runs/{}-<time>", loaded.validated.name)),
        data_dir: surroundings::data_dir(args.surroundings.data.as_deref()),
        checkpoint_root: None,
        token: String::new(),
        threads: args.threads,
        cores: surroundings::cores(),
        secrets: surroundings::secret_files(
            args.surroundings.secrets.as_deref(),
            &loaded.validated.kafka_secrets,
        ),
        cluster: false,
    };
    let plan = plan(&loaded.validated, &body)
        .map_err(|mistakes| Failure::configuration(mistakes.to_string().trim_end(), ""))?;
    let machine = Machine { cores: surroundings::cores(), seconds_per_sample: None };
    let estimate = estimate(&plan, &machine).ok_or_else(|| Failure::internal("a plan without workers"))?;
    say(render(&plan, &estimate).trim_end());
    Ok(ExitCode::Completed)
}
