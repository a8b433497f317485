//! `scadles tune`: asks the runner of a live run for other settings, and waits for the step that all ranks agree on.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use scadles_api::{ExitCode, ScadlesJob, Tuned, Tuning};
use scadles_control::{
    parse_job,
    tuning::{Changes, fields, in_words, settings, tuned},
    validate,
};

use crate::{
    args::TuneArgs,
    failure::{Failure, Result},
    memory::Memory,
    run_folder::is_in_use,
    screen::say,
    tuning::Wish,
};

/// Pause between two looks at what the runner remembers.
const LOOK: Duration = Duration::from_millis(100);

/// Tunes a run; without anything to change, shows what could be.
pub fn tune(args: &TuneArgs) -> Result<ExitCode> {
    let folder = &args.run;
    let memory = Memory::load(folder)
        .map_err(|failure| Failure { remedy: "name the folder of a run that lives".to_owned(), ..failure })?;
    let job = read_job(folder)?;
    let changes = args.changes();
    if changes == Changes::default() {
        show(&memory, folder);
        return Ok(ExitCode::Completed);
    }
    let wish = wish(folder, &job, changes)?;
    let wanted = checked(&job, &wish.changes)?;
    if !is_in_use(folder) {
        return Err(Failure::configuration(
            format!("{}: no `scadles run` uses this run folder now", folder.display()),
            format!(
                "go on with the run (scadles run JOB --resume {}) and tune it then; or write the values into the job file",
                folder.display()
            ),
        ));
    }
    let before = memory.tunings.last().copied();
    if let Some(holds) = before.filter(|holds| holds.tuning.has_settings_of(&wanted))
        && memory.supervision.tuning.has_settings_of(&wanted)
    {
        say(format!("nothing to change: this holds since step {}", holds.step));
        return Ok(ExitCode::Completed);
    }
    wish.write(folder)?;
    let agreed = wait(folder, &wish, &wanted, Duration::from_secs_f64(args.wait))?;
    let was = agreed.before.map_or(wish.job_file, |before| before.tuning);
    say(format!("step {}: {}", agreed.now.step, in_words(&was, &agreed.now.tuning)));
    Ok(ExitCode::Completed)
}

fn read_job(folder: &Path) -> Result<ScadlesJob> {
    let path = folder.join("job.yaml");
    let failed = |problem: String| {
        Failure::configuration(
            format!("{}: {problem}", path.display()),
            "name the folder of a run that lives",
        )
    };
    let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    parse_job(&text).map_err(|mistakes| failed(mistakes.to_string()))
}

/// What is asked for now, together with what was before, unless the job file has changed since.
fn wish(folder: &Path, job: &ScadlesJob, changes: Changes) -> Result<Wish> {
    let validated = validate(job).map_err(|mistakes| {
        Failure::configuration(format!("{}: {mistakes}", folder.join("job.yaml").display()).trim_end(), "")
    })?;
    let job_file = settings(&validated);
    let earlier = Wish::read(folder).filter(|earlier| earlier.job_file.has_settings_of(&job_file));
    Ok(Wish { changes: earlier.unwrap_or_default().changes.and(changes), job_file })
}

fn checked(job: &ScadlesJob, changes: &Changes) -> Result<Tuning> {
    tuned(job, changes)
        .map(|job| settings(&job))
        .map_err(|mistakes| Failure::configuration(format!("tuned so, {mistakes}").trim_end(), ""))
}

/// The settings that hold, and since when.
fn show(memory: &Memory, folder: &Path) {
    let Some(holds) = memory.tunings.last() else {
        say("this run has no settings that can be tuned: neither compression nor injection, or no step yet");
        return;
    };
    say(format!("{}: since step {}", folder.display(), holds.step));
    for (field, value) in fields(&holds.tuning) {
        if !value.is_empty() {
            say(format!("  {field} = {value}"));
        }
    }
}

/// What the ranks have switched to, and what held before.
struct Agreed {
    before: Option<Tuned>,
    now: Tuned,
}

/// Waits until the runner remembers that the ranks have switched.
fn wait(folder: &Path, wish: &Wish, wanted: &Tuning, patience: Duration) -> Result<Agreed> {
    let deadline = Instant::now() + patience;
    loop {
        // In this order: what a runner wrote at its end is read after it was seen to have ended.
        let is_alive = is_in_use(folder);
        let memory = Memory::load(folder)?;
        if let Some(agreed) = agreed(&memory, wanted) {
            return Ok(agreed);
        }
        if !is_alive {
            return Err(Failure::configuration(
                format!("{}: the run ended before its ranks had switched", folder.display()),
                "if it goes on with --resume, it goes on with these settings",
            ));
        }
        if Wish::read(folder).as_ref() != Some(wish) {
            return Err(Failure::configuration(
                format!("{}: somebody else tuned this run meanwhile", folder.display()),
                "see what holds with `scadles tune RUN`, then ask again",
            ));
        }
        if Instant::now() >= deadline {
            return Err(Failure {
                code: ExitCode::DeadlineExceeded,
                message: format!("no step came within {} s by which all ranks could switch", patience.as_secs_f64()),
                remedy: "they switch with the next one: `scadles tune RUN` tells what holds; wait longer with --wait"
                    .to_owned(),
            });
        }
        std::thread::sleep(LOOK);
    }
}

/// Pure: the ranks run on what the runner was asked for, and the runner asks for nothing else any more.
fn agreed(memory: &Memory, wanted: &Tuning) -> Option<Agreed> {
    let told = &memory.supervision.tuning;
    let (now, earlier) = memory.tunings.split_last()?;
    let holds = now.tuning.has_settings_of(wanted) && now.tuning.generation == told.generation;
    holds.then(|| Agreed { before: earlier.last().copied(), now: *now })
}

#[cfg(test)]
mod tests {
    use scadles_api::tuning::CompressionTuning;
    use scadles_control::decide::Supervision;

    use super::*;

    fn tuned(step: u64, generation: u64, ratio: f64) -> Tuned {
        let compression = Some(CompressionTuning { ratio, is_free: false, delta: None });
        Tuned { step, tuning: Tuning { generation, compression, injection: None } }
    }

    #[test]
    fn a_switch_counts_when_the_ranks_have_made_it_and_not_when_it_was_asked_for() {
        let mut memory = Memory::new("uid".to_owned(), "embedded".to_owned(), Supervision::new(0.0, None));
        let wanted = tuned(0, 0, 0.05).tuning;
        memory.tunings = vec![tuned(1, 1, 0.1)];
        memory.supervision.tuning = tuned(0, 2, 0.05).tuning;
        assert!(agreed(&memory, &wanted).is_none(), "told, and no step yet");
        memory.tunings.push(tuned(41, 2, 0.05));
        let found = agreed(&memory, &wanted).unwrap();
        assert_eq!((found.before, found.now), (Some(tuned(1, 1, 0.1)), tuned(41, 2, 0.05)));
        memory.supervision.tuning = tuned(0, 3, 0.2).tuning;
        assert!(agreed(&memory, &wanted).is_none(), "another one is on its way");
    }
}
