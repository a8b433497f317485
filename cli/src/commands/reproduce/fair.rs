//! `scadles reproduce fair`: trains every run of the comparison on the virtual clock, several at a time, and shows what
//! came of them. A run that is there already is not trained again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use scadles_api::ExitCode;

use crate::{
    commands::simulate::{
        train::{Asked, Telling, check, train},
        write_plots,
    },
    failure::{Failure, Result},
    job::{self, LoadedJob},
    report::{
        follow::Follower,
        run::{REPORT, Run, STEPS},
    },
    reproduce::{
        args::FairArgs,
        fair::{
            Case, Scale, Table, cases,
            course::{Course, Outcome},
            text,
        },
    },
    screen::{say, span, warn},
    simulate::args::Changes,
    surroundings,
};

/// Where runs go that nobody gave a place.
const OUT: &str = "runs/fair";
/// The tables, below it.
const TABLES: &str = "fair.txt";
/// The plots, below it.
const PLOTS: &str = "plots";

/// One run of a case.
struct Job {
    /// Place of its case.
    case: usize,
    folder: PathBuf,
    loaded: LoadedJob,
    changes: Changes,
}

/// Trains what is missing, and prints tables and writes plots of all.
pub(super) fn run(args: &FairArgs, markdown: bool, plots: Option<&Path>) -> Result<ExitCode> {
    let began = Instant::now();
    let scale = scale(args);
    let cases = cases(&scale);
    let out = match (&args.out, args.quick) {
        (Some(out), _) => out.clone(),
        (None, true) => PathBuf::from(format!("{OUT}-quick")),
        (None, false) => PathBuf::from(OUT),
    };
    let jobs = jobs(&cases, &out)?;
    let data = args.data.as_deref();
    let first = jobs.first().ok_or_else(|| Failure::internal("nothing is compared"))?;
    // All runs have the same data set.
    check(&asked(first, data))?;
    let at_once = args.at_once.unwrap_or_else(surroundings::cores).max(1);
    warn(format!("{} runs in {}, {at_once} at a time", jobs.len(), out.display()));
    train_all(&jobs, data, at_once as usize)?;
    let outcomes = outcomes(&cases, &jobs)?;
    let tables = text::plain(&scale, &outcomes);
    say(if markdown { text::markdown(&scale, &outcomes) } else { format!("\n{tables}") }.trim_end());
    let written = out.join(TABLES);
    fs::write(&written, &tables).map_err(|error| Failure::write(&written, &error))?;
    let folder = plots.map_or_else(|| out.join(PLOTS), Path::to_path_buf);
    write_plots(&folder, &text::plots(&outcomes))?;
    warn(format!(
        "{}: {TABLES}, a folder per run; plots in {}; {}",
        out.display(),
        folder.display(),
        span(began.elapsed().as_secs_f64())
    ));
    Ok(ExitCode::Completed)
}

fn scale(args: &FairArgs) -> Scale {
    let scale = if args.quick { Scale::QUICK } else { Scale::LONG };
    let seeds = args.seeds.map_or(scale.seeds, |seeds| (seeds, seeds));
    Scale { seeds, ..scale }
}

fn jobs(cases: &[Case], out: &Path) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        for seed in 0..case.seeds {
            let (name, draft) = case.run(seed);
            let loaded = job::load_text(Path::new(&name), draft.text(), Some("embedded"))?;
            jobs.push(Job { case: place, folder: out.join(&name), loaded, changes: case.changes() });
        }
    }
    Ok(jobs)
}

fn asked<'a>(job: &'a Job, data: Option<&'a Path>) -> Asked<'a> {
    Asked { loaded: &job.loaded, changes: &job.changes, out: Some(&job.folder), data, threads: 1 }
}

/// Trains all that is not there yet. The first failure ends it, once those that are at work have come to their end.
fn train_all(jobs: &[Job], data: Option<&Path>, at_once: usize) -> Result<()> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while failed().is_none() {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let began = Instant::now();
            match train_one(job, data) {
                Err(found) => _ = failed().get_or_insert(found),
                Ok(there) => {
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let how =
                        if there { "there already".to_owned() } else { span(began.elapsed().as_secs_f64()) };
                    let name = crate::report::run::name(&job.folder);
                    warn(format!("{done} of {}: {name}, {how}", jobs.len()));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(jobs.len()) {
            scope.spawn(work);
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

/// Trains a job; whether its run was there already.
fn train_one(job: &Job, data: Option<&Path>) -> Result<bool> {
    if clear(job)? {
        return Ok(true);
    }
    let end = train(&asked(job, data), Telling::Nobody)?.end;
    match end {
        // The clock has ended it, or its loss, which is a result.
        ExitCode::Stopped | ExitCode::Completed | ExitCode::Diverged => Ok(false),
        other => Err(Failure {
            code: other,
            message: format!("{}: the training ended with {other:?}", job.folder.display()),
            remedy: String::new(),
        }),
    }
}

/// Whether the job's run is complete in its folder. What was left of it in the middle is removed; another's run is not touched.
fn clear(job: &Job) -> Result<bool> {
    let Ok(text) = fs::read_to_string(job.folder.join("job.yaml")) else { return Ok(false) };
    if text != job.loaded.text {
        return Err(Failure::configuration(
            format!("{}: the folder holds the run of another job", job.folder.display()),
            "choose another folder with --out DIR",
        ));
    }
    if job.folder.join(REPORT).is_file() {
        return Ok(true);
    }
    fs::remove_dir_all(&job.folder).map_err(|error| Failure::write(&job.folder, &error))?;
    Ok(false)
}

fn outcomes(cases: &[Case], jobs: &[Job]) -> Result<Vec<(Table, Outcome)>> {
    let of_case = |(place, case): (usize, &Case)| {
        let runs = jobs.iter().filter(|job| job.case == place);
        let courses = runs.map(|job| course(&job.folder)).collect::<Result<_>>()?;
        Ok((case.table, Outcome { set: case.set, method: case.method, courses }))
    };
    cases.iter().enumerate().map(of_case).collect()
}

fn course(folder: &Path) -> Result<Course> {
    let run = Run::load(folder)?;
    let devices: Vec<String> = run.report.devices.iter().map(|device| device.name.clone()).collect();
    let mut follower = Follower::new(&folder.join(STEPS), &devices);
    let mut bytes = vec![0.0];
    let mut sent = 0.0;
    let wrong = |error: crate::report::steps::Error| {
        Failure::storage(format!("{}: {STEPS}: {error}", folder.display()), "remove the folder of this run")
    };
    while follower
        .read(|step| {
            sent += step.bytes().map_or(0.0, |(sent, _)| sent);
            bytes.push(sent);
        })
        .map_err(wrong)?
    {}
    Ok(Course::of(&run.report, run.waiting_share().unwrap_or(0.0), &bytes))
}
