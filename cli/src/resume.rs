//! What `--resume` goes on from: which checkpoint, and whether the records behind it are still there. Pure.

use scadles_api::CheckpointRef;
use scadles_control::decide::Supervision;

use crate::{
    body::streams::EMBEDDED,
    failure::{Failure, Result},
};

/// Where the records of the earlier run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// At the broker of this run: streams go on at their offsets.
    Kept,
    /// They died with the embedded broker of the earlier run.
    Gone,
    /// On a Kafka that this run does not use.
    LeftBehind,
}

/// Compares the brokers of the earlier run and of this one, as names: `embedded`, or bootstrap servers. Two lists are the
/// same cluster if they share an address; offsets of one cluster mean nothing in another.
pub fn records(earlier: &str, now: &str) -> Result<Records> {
    match (earlier == EMBEDDED, now == EMBEDDED) {
        (true, _) => Ok(Records::Gone),
        (false, true) => Ok(Records::LeftBehind),
        (false, false) if share_an_address(earlier, now) => Ok(Records::Kept),
        (false, false) => Err(Failure::configuration(
            format!(
                "--resume: the records of this run are on the Kafka at `{earlier}`, this command names `{now}`"
            ),
            format!(
                "give the servers of that run; if both are one cluster, name an address of before among the others: \
                 --kafka {now},{earlier}; or start without --resume"
            ),
        )),
    }
}

fn share_an_address(one: &str, other: &str) -> bool {
    let addresses = |servers: &str| -> Vec<String> {
        let parts = servers.split(',').map(|part| part.trim().to_lowercase());
        parts.filter(|part| !part.is_empty()).collect()
    };
    let others = addresses(other);
    addresses(one).iter().any(|address| others.contains(address))
}

/// The checkpoint to go on from, of those whose manifests are written (`<attempt>-<step>`). The latest attempt's newest,
/// heard of or not: the runner may have died before. Without one, what that attempt began with: later checkpoints of
/// attempts before it were superseded when it began. Streams that the chosen checkpoint was to begin anew still are.
pub fn checkpoint(earlier: &Supervision, uid: &str, complete: &[String]) -> Option<CheckpointRef> {
    let mut ages: Vec<((u32, u64), &String)> =
        complete.iter().filter_map(|name| Some((age(name)?, name))).collect();
    ages.sort();
    let named = |&((_, step), name): &((u32, u64), &String)| CheckpointRef {
        job_uid: uid.to_owned(),
        name: name.clone(),
        step,
        restart_streams: false,
    };
    let known = earlier.checkpoint.as_ref();
    let own = ages.iter().rfind(|((attempt, _), _)| *attempt == earlier.attempt).map(named);
    own.filter(|own| known.is_none_or(|known| known.name != own.name))
        .or_else(|| known.filter(|known| complete.contains(&known.name)).cloned())
        .or_else(|| ages.last().map(named))
        .or_else(|| known.cloned())
}

/// (attempt, step) of a checkpoint's name.
fn age(name: &str) -> Option<(u32, u64)> {
    let (attempt, step) = name.split_once('-')?;
    Some((attempt.parse().ok()?, step.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, restart_streams: bool) -> CheckpointRef {
        let step = name.split_once('-').unwrap().1.parse().unwrap();
        CheckpointRef { job_uid: "uid".to_owned(), name: name.to_owned(), step, restart_streams }
    }

    fn chosen(attempt: u32, heard_of: Option<CheckpointRef>, complete: &[&str]) -> Option<CheckpointRef> {
        let earlier = Supervision { attempt, ..Supervision::new(0.0, heard_of) };
        let complete: Vec<String> = complete.iter().map(|name| (*name).to_owned()).collect();
        checkpoint(&earlier, "uid", &complete)
    }

    #[test]
    fn the_newest_checkpoint_of_the_latest_attempt_is_taken_whether_or_not_the_runner_heard_of_it() {
        let names = ["0001-00000000", "0001-00000080", "0002-00000090", "0002-00000100"];
        assert_eq!(
            chosen(2, Some(known("0002-00000090", false)), &names),
            Some(known("0002-00000100", false))
        );
        assert_eq!(chosen(1, None, &names[..2]), Some(known("0001-00000080", false)));
        assert_eq!(chosen(0, None, &[]), None);
    }

    #[test]
    fn a_checkpoint_that_an_attempt_has_superseded_is_not_taken() {
        // Attempt 2 began before anybody had heard of step 90.
        let heard_of = Some(known("0001-00000080", false));
        assert_eq!(chosen(2, heard_of.clone(), &["0001-00000080", "0001-00000090"]), heard_of);
    }

    #[test]
    fn a_checkpoint_that_is_gone_is_replaced_by_the_newest_that_is_there() {
        let gone = Some(known("0002-00000080", false));
        assert_eq!(chosen(3, gone, &["0001-00000000", "0001-00000040"]), Some(known("0001-00000040", false)));
    }

    #[test]
    fn streams_that_were_to_begin_anew_still_are() {
        let heard_of = Some(known("0001-00000080", true));
        assert_eq!(chosen(2, heard_of.clone(), &["0001-00000080"]), heard_of, "attempt 2 left no checkpoint");
        let own = chosen(2, heard_of, &["0001-00000080", "0002-00000090"]);
        assert_eq!(own, Some(known("0002-00000090", false)), "its offsets are of the new streams");
    }

    #[test]
    fn brokers_are_compared_by_their_addresses() {
        assert_eq!(records("a:9092,b:9092", " B:9092 "), Ok(Records::Kept));
        assert_eq!(records(EMBEDDED, "a:9092"), Ok(Records::Gone));
        assert_eq!(records(EMBEDDED, EMBEDDED), Ok(Records::Gone));
        assert_eq!(records("a:9092", EMBEDDED), Ok(Records::LeftBehind));
        let refused = records("a:9092", "b:9092").unwrap_err();
        assert!(
            refused.message.contains("`a:9092`") && refused.remedy.contains("b:9092,a:9092"),
            "{refused:?}"
        );
    }
}
