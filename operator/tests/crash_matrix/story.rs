//! What happens to a job besides what the operator does: workers that die, users that change their mind. And how it ends.

use scadles_api::{ScadlesJobStatus, status::JobState, yaml};
use serde_json::{Value, json};

use crate::{
    store::{JOBS, Store},
    workers::Script,
};

const NAME: &str = "quick";

const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: quick}
spec:
  model: {name: Cnn, inputShape: [1, 28, 28]}
  kafka: {bootstrapServers: 'kafka.demo.svc:9092', topics: {deletionPolicy: Delete}}
  devices: {named: [{name: gate}, {name: door}, {name: roof}]}
  data: {image: 'data:1'}
  producer: {dataset: {name: FashionMnist}, rates: {list: [50, 38, 40]}}
  checkpoint: {storage: {persistentVolumeClaim: {claimName: results}}}
  completion: {maxSteps: 6}
";

/// Step at which the user changes their mind.
const CHANGE_AT: u64 = 3;
/// Step at which a worker is killed.
const KILL_AT: u64 = 4;
/// Step at which the job is complete.
const COMPLETE_AT: u64 = 6;
/// The same of one that is tuned, however late the operator comes to tell its workers.
const TUNED_COMPLETE_AT: u64 = 12;
/// CR before and after.
const RATIOS: [f64; 2] = [0.1, 0.05];

/// One story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Story {
    /// A worker is killed, the second attempt completes, the job is deleted when its time has come.
    #[default]
    Whole,
    /// The user lets the job rest and go on, and deletes it when it is complete.
    Rested,
    /// The user deletes the job while it trains.
    GivenUp,
    /// The user changes the compression of a job that trains, and deletes it when it is complete.
    Tuned,
}

/// How a story ends: state, attempts, restarts, step; device and exit code of the failures.
type Ending = (Option<JobState>, u32, u32, u64, Vec<(u32, Option<String>, Option<i32>)>);

impl Story {
    /// The job that the user creates.
    pub(crate) fn job(self) -> Value {
        let mut job: Value = yaml::from_str(JOB).unwrap();
        if self == Self::Whole {
            job["spec"]["runPolicy"] = json!({"ttlSecondsAfterFinished": 4});
        }
        if self == Self::Tuned {
            job["spec"]["compression"] = json!({"mode": "Static", "ratio": RATIOS[0]});
        }
        job
    }

    pub(crate) fn script(self) -> Script {
        let kill_at = (self == Self::Whole).then_some((1, KILL_AT));
        Script { kill_at, complete_at: self.complete_at() }
    }

    fn complete_at(self) -> u64 {
        if self == Self::Tuned { TUNED_COMPLETE_AT } else { COMPLETE_AT }
    }

    /// The user looks at the job, of which `step` steps are done, and acts.
    pub(crate) fn turn(self, store: &mut Store, step: u64) {
        let Some(job) = store.get(JOBS, NAME).cloned() else { return };
        let state = &job["status"]["state"];
        match self {
            Self::GivenUp if step == CHANGE_AT => {
                store.delete(JOBS, NAME, &Value::Null).unwrap();
            }
            Self::Rested if step == CHANGE_AT && state == "Running" && job["spec"]["suspend"].is_null() => {
                suspend(store, true);
            }
            Self::Rested if state == "Suspended" => suspend(store, false),
            Self::Tuned if step == CHANGE_AT => {
                let ratio = json!({"spec": {"compression": {"ratio": RATIOS[1]}}});
                store.patch(JOBS, NAME, &ratio, false).unwrap();
            }
            Self::Rested | Self::Tuned if state == "Complete" => {
                store.delete(JOBS, NAME, &Value::Null).unwrap();
            }
            _ => {}
        }
    }

    /// What is wrong with the last status of all, if anything.
    pub(crate) fn fault(self, status: &Value) -> Option<String> {
        let status: ScadlesJobStatus = serde_json::from_value(status.clone()).unwrap_or_default();
        let failures = status.failures.iter().map(|it| (it.attempt, it.device.clone(), it.exit_code));
        let told: Ending = (status.state, status.attempt, status.restarts, status.step, failures.collect());
        let complete = Some(JobState::Complete);
        let killed = vec![(1, Some("door".to_owned()), Some(137))];
        let expected: Ending = match self {
            Self::Whole => (complete, 2, 1, COMPLETE_AT, killed),
            Self::Rested => (complete, 2, 0, COMPLETE_AT, Vec::new()),
            Self::Tuned => (complete, 1, 0, TUNED_COMPLETE_AT, Vec::new()),
            Self::GivenUp => return (told.1 != 1).then(|| format!("{} attempts", told.1)),
        };
        let tuned = status.tuning.and_then(|it| Some((it.tuning.generation, it.tuning.compression?.ratio)));
        if tuned != (self == Self::Tuned).then_some((2, RATIOS[1])) {
            return Some(format!("the workers were tuned to {tuned:?}"));
        }
        if status.result.is_none_or(|result| result.sha256.is_none()) {
            return Some("the result is not told".to_owned());
        }
        (told != expected).then(|| format!("the story is {told:?}, not {expected:?}: {}", status.message))
    }
}

fn suspend(store: &mut Store, suspend: bool) {
    store.patch(JOBS, NAME, &json!({"spec": {"suspend": suspend}}), false).unwrap();
}
