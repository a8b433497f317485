//! `scadles status`: asks, shows, and with `--watch` asks again.

use std::{collections::BTreeMap, time::Duration};

use kube::ResourceExt;
use scadles_api::{ExitCode, status::JobState};
use serde_json::json;

use super::{
    args::StatusArgs,
    client::{Cluster, Listed},
    in_runtime,
    page::page,
    refusal, table, time,
};
use crate::{
    failure::{Failure, Result},
    screen::{say, warn},
    view::Lines,
};

/// Between two looks of `--watch`: operators write no more often than every few seconds.
const PAUSE: Duration = Duration::from_secs(2);

/// Shows jobs, or one job.
pub fn status(args: &StatusArgs) -> Result<ExitCode> {
    in_runtime(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        if args.watch { watch(&cluster, args).await } else { once(&cluster, args).await }
    })
}

async fn look(cluster: &Cluster, args: &StatusArgs) -> Result<Vec<Listed>> {
    match &args.job {
        Some(name) => Ok(vec![cluster.listed(name).await?]),
        None => cluster.jobs(args.all_namespaces).await,
    }
}

async fn once(cluster: &Cluster, args: &StatusArgs) -> Result<ExitCode> {
    let seen = look(cluster, args).await?;
    if args.output.is_some() {
        say(as_json(args.job.is_some(), &seen)?);
    } else {
        text(cluster, args, &seen)?.iter().for_each(say);
    }
    Ok(ExitCode::Completed)
}

/// What is shown: a page of one job, a table of many.
fn text(cluster: &Cluster, args: &StatusArgs, seen: &[Listed]) -> Result<Vec<String>> {
    match (&args.job, seen) {
        (Some(name), [listed]) => match &listed.job {
            Ok(job) => Ok(page(job, time::now())),
            Err(problem) => Err(refusal::unreadable(&format!("read job {name}"), problem)),
        },
        (_, []) if args.all_namespaces => Ok(vec!["no namespace has a ScadlesJob".to_owned()]),
        (_, []) => Ok(vec![format!(
            "namespace {} has no ScadlesJobs; -A shows those of all namespaces",
            cluster.namespace
        )]),
        _ => Ok(table::table(seen, args.all_namespaces, time::now())),
    }
}

/// As `kubectl -o json` has it: one object, or a list; without the field owners, which nobody reads.
fn as_json(one: bool, seen: &[Listed]) -> Result<String> {
    let objects = seen.iter().map(|listed| {
        let mut raw = listed.raw.clone();
        raw.metadata.managed_fields = None;
        raw
    });
    let objects: Vec<_> = objects.collect();
    let text = match objects.as_slice() {
        [object] if one => serde_json::to_string_pretty(object),
        objects => {
            serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))
        }
    };
    text.map_err(|error| Failure::internal(format!("the objects cannot be written as JSON: {error}")))
}

async fn watch(cluster: &Cluster, args: &StatusArgs) -> Result<ExitCode> {
    let mut screen = Screen::new();
    let mut seen = look(cluster, args).await?;
    loop {
        screen.show(&text(cluster, args, &seen)?, &seen);
        if args.job.is_some() && seen.iter().all(has_ended) {
            screen.end(&text(cluster, args, &seen)?);
            return Ok(ExitCode::Completed);
        }
        tokio::time::sleep(PAUSE).await;
        match look(cluster, args).await {
            Ok(fresh) => seen = fresh,
            // An API server that is away for a while is no reason to stop looking.
            Err(failure) => screen.note(&failure),
        }
    }
}

fn has_ended(listed: &Listed) -> bool {
    let state = listed.job.as_ref().ok().and_then(|job| job.status.as_ref()?.state);
    matches!(state, Some(JobState::Complete | JobState::Failed))
}

/// Text that stays in its place on a terminal, and only news in a pipe.
enum Screen {
    Live(Lines),
    Plain { told: BTreeMap<String, Vec<String>>, noted: String },
}

impl Screen {
    fn new() -> Self {
        match Lines::on_terminal() {
            Some(lines) => Self::Live(lines),
            None => Self::Plain { told: BTreeMap::new(), noted: String::new() },
        }
    }

    fn show(&mut self, text: &[String], seen: &[Listed]) {
        match self {
            Self::Live(lines) => lines.show(text),
            Self::Plain { told, noted } => {
                noted.clear();
                news(told, seen).iter().for_each(say);
            }
        }
    }

    fn note(&mut self, failure: &Failure) {
        match self {
            Self::Live(lines) => lines.show(&[failure.message.clone(), "trying again".to_owned()]),
            Self::Plain { noted, .. } if *noted != failure.message => {
                noted.clone_from(&failure.message);
                warn(&failure.message);
            }
            Self::Plain { .. } => {}
        }
    }

    /// The last state stays to be read; a pipe has had it already.
    fn end(&mut self, text: &[String]) {
        if let Self::Live(lines) = self {
            lines.clear();
            text.iter().for_each(say);
        }
    }
}

/// Rows of jobs that look otherwise than they were last told, under a head the first time; jobs that are gone.
fn news(told: &mut BTreeMap<String, Vec<String>>, seen: &[Listed]) -> Vec<String> {
    let key =
        |listed: &Listed| format!("{}/{}", listed.raw.namespace().unwrap_or_default(), listed.raw.name_any());
    let first = told.is_empty();
    let gone: Vec<String> =
        told.keys().filter(|known| !seen.iter().any(|listed| key(listed) == **known)).cloned().collect();
    let changed: Vec<Listed> = seen
        .iter()
        .filter(|listed| {
            let cells = table::news(listed);
            told.insert(key(listed), cells.clone()).is_none_or(|earlier| earlier != cells)
        })
        .cloned()
        .collect();
    let mut lines = Vec::new();
    if !changed.is_empty() {
        lines = table::table(&changed, true, time::now());
        if !first {
            lines.remove(0);
        }
    }
    for name in gone {
        told.remove(&name);
        lines.push(format!("{name} is gone"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn listed(name: &str, step: u64) -> Listed {
        let object: Value = json!({
            "apiVersion": "scadles.io/v1alpha1", "kind": "ScadlesJob",
            "metadata": {"name": name, "namespace": "demo", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"model": {"name": "Cnn"}, "devices": {"count": 2}, "completion": {"maxSteps": 10}},
            "status": {"state": "Running", "ready": "2/2", "step": step},
        });
        Listed::from(serde_json::from_value::<kube::api::DynamicObject>(object).unwrap())
    }

    #[test]
    fn in_a_pipe_only_what_changed_is_told() {
        let mut told = BTreeMap::new();
        assert_eq!(news(&mut told, &[listed("a", 1), listed("b", 1)]).len(), 3, "a head and two rows");
        assert_eq!(news(&mut told, &[listed("a", 1), listed("b", 1)]), Vec::<String>::new());
        let lines = news(&mut told, &[listed("a", 2)]);
        assert!(lines[0].starts_with("demo       a     Running    2/2     2"), "{lines:?}");
        assert_eq!(lines[1], "demo/b is gone");
    }

    #[test]
    fn one_job_is_an_object_and_several_are_a_list() {
        let one: Value = serde_json::from_str(&as_json(true, &[listed("a", 1)]).unwrap()).unwrap();
        assert_eq!(
            (one["kind"].as_str(), &one["metadata"]["managedFields"]),
            (Some("ScadlesJob"), &Value::Null)
        );
        let list: Value = serde_json::from_str(&as_json(false, &[listed("a", 1)]).unwrap()).unwrap();
        assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("List"), 1));
    }
}
