use scadles_api::{
    CheckpointRef, ExitCode, LastWords, Tuned, Tuning, attempt::Listening, report::AttemptReport,
    status::Condition,
};

use super::*;
use crate::decide::{Outcome, tests::progress};

const NOW: f64 = 1_700_000_000.0;

fn resolved() -> ResolvedStatus {
    ResolvedStatus { image: "trainer:1".to_owned(), spec_hash: "h".to_owned(), backend: String::new() }
}

/// A world that is as it should be, to be changed by each test.
struct World {
    supervision: Supervision,
    workers: Vec<WorkerObservation>,
    progress: Option<Progress>,
    broker: BrokerState,
    troubles: Vec<PodTrouble>,
    ended: Vec<EndedPod>,
    words: Option<LastWords>,
    now: f64,
}

impl World {
    fn training() -> Self {
        let process = ProcessState::Listening(Listening {
            endpoint: "10.0.0.1:7200".to_owned(),
            hub: "10.0.0.1:7201".to_owned(),
        });
        let worker = WorkerObservation { made_for_attempt: 1, process, confirmed_attempt: 1 };
        let supervision = Supervision {
            attempt: 1,
            phase: JobPhase::Running,
            attempt_started_at: NOW,
            ..Supervision::new(NOW, None)
        };
        Self {
            supervision,
            workers: vec![worker; 3],
            progress: Some(progress(1, 50, None)),
            broker: BrokerState::Ready,
            troubles: vec![],
            ended: vec![],
            words: None,
            now: NOW,
        }
    }

    fn status_after(&self, previous: &ScadlesJobStatus) -> ScadlesJobStatus {
        status(
            previous,
            &Facts {
                generation: Some(1),
                now: self.now,
                supervision: &self.supervision,
                reason: "because",
                workers: &self.workers,
                progress: self.progress.as_ref(),
                broker: &self.broker,
                troubles: &self.troubles,
                ended: &self.ended,
                resolved: &resolved(),
                result_uri: "claim://results/u",
                last_words: self.words.as_ref(),
            },
        )
    }

    fn status(&self) -> ScadlesJobStatus {
        self.status_after(&ScadlesJobStatus::default())
    }

    fn done(code: ExitCode) -> Self {
        let outcome = Outcome { code, message: "it ended".to_owned(), remedy: String::new() };
        let mut world = Self::training();
        world.supervision.phase = JobPhase::Done(outcome);
        world
    }
}

fn holds(status: &ScadlesJobStatus, kind: &str) -> (String, String) {
    let found: &Condition = status.conditions.iter().find(|condition| condition.kind == kind).expect(kind);
    (found.status.clone(), found.reason.clone())
}

fn summary(status: &ScadlesJobStatus) -> [String; 6] {
    ["Ready", "Reconciling", "Stalled", "Suspended", "Complete", "Failed"].map(|kind| holds(status, kind).0)
}

#[test]
fn conditions_follow_the_table() {
    let table = [
        (JobPhase::Waiting, ["False", "True", "False", "False", "False", "False"]),
        (JobPhase::Starting, ["False", "True", "False", "False", "False", "False"]),
        (JobPhase::Running, ["True", "False", "False", "False", "False", "False"]),
        (JobPhase::Restarting { not_before: 0.0 }, ["False", "True", "False", "False", "False", "False"]),
        (JobPhase::Suspended, ["True", "False", "False", "True", "False", "False"]),
    ];
    for (phase, expected) in table {
        let mut world = World::training();
        world.supervision.phase = phase.clone();
        assert_eq!(summary(&world.status()), expected, "{phase:?}");
    }
    let complete = World::done(ExitCode::Completed).status();
    assert_eq!(summary(&complete), ["True", "False", "False", "False", "True", "False"]);
    let failed = World::done(ExitCode::TopicLost).status();
    assert_eq!(summary(&failed), ["False", "False", "True", "False", "False", "True"]);
    assert_eq!(holds(&failed, "Failed").1, "TopicLost");
}

#[test]
fn what_the_ranks_were_tuned_to_is_written_at_once_and_kept_while_nobody_tells() {
    let mut world = World::training();
    let before = world.status();
    assert_eq!(before.tuning, None);
    let tuned = Tuned { step: 41, tuning: Tuning { generation: 2, ..Tuning::default() } };
    world.progress.as_mut().unwrap().tunings = vec![Tuned { step: 1, ..tuned }, tuned];
    let after = world.status_after(&before);
    assert_eq!(after.tuning, Some(tuned));
    assert_eq!(worth_writing(&before, &after), Worth::State);
    world.progress = None;
    assert_eq!(world.status_after(&after).tuning, Some(tuned), "the group starts anew");
}

#[test]
fn a_broker_that_is_away_is_told_in_its_own_words() {
    let mut world = World::training();
    world.supervision.phase = JobPhase::Waiting;
    world.broker = BrokerState::Waiting { since: NOW, problem: "kafka.demo.svc:9092 refused".to_owned() };
    let status = world.status();
    assert_eq!(holds(&status, "TopicsReady"), ("False".to_owned(), "BrokerUnreachable".to_owned()));
    assert!(status.message.contains("kafka.demo.svc:9092 refused"), "{}", status.message);
}

#[test]
fn a_pod_that_does_not_come_up_is_told_with_its_cause() {
    let mut world = World::training();
    world.supervision.phase = JobPhase::Starting;
    let trouble = PodTrouble {
        device: "gate".to_owned(),
        reason: "ImagePullBackOff".to_owned(),
        message: "no such image".to_owned(),
    };
    world.troubles = vec![trouble];
    let status = world.status();
    assert_eq!(holds(&status, "PodsReady"), ("False".to_owned(), "ImagePullFailed".to_owned()));
    assert_eq!(status.message, "gate: ImagePullBackOff: no such image");
}

#[test]
fn a_slow_stream_and_a_silent_one_are_told_apart() {
    let mut world = World::training();
    let devices = |world: &mut World, silent: f64| {
        let progress = world.progress.as_mut().unwrap();
        progress.devices[0].state = BufferState::Starved;
        progress.devices[0].silent_seconds = silent;
    };
    devices(&mut world, 0.5);
    assert_eq!(holds(&world.status(), "StreamsHealthy").1, "StreamSlow");
    devices(&mut world, 12.0);
    let status = world.status();
    assert_eq!(holds(&status, "StreamsHealthy").1, "StreamSilent");
    let row = status.devices.iter().find(|row| row.silent_since.is_some()).unwrap();
    assert_eq!(row.silent_since, Some(time(NOW - 12.0)));
    // The time stays, while the stream stays silent.
    world.now += 30.0;
    devices(&mut world, 42.3);
    let later = world.status_after(&status);
    assert_eq!(later.devices.iter().find_map(|row| row.silent_since.clone()), row.silent_since);
}

#[test]
fn a_failed_attempt_is_kept_with_node_and_exit_code_and_only_five_of_them() {
    let mut world = World::training();
    let mut shown = ScadlesJobStatus::default();
    for number in 1..=7 {
        world.supervision.history.push(AttemptReport {
            number,
            from_step: 0,
            to_step: 1,
            ended: "gate (rank 0): killed".to_owned(),
            first_cause: Some("gate".to_owned()),
        });
        world.ended =
            vec![EndedPod { device: "gate".to_owned(), node: Some("n1".to_owned()), exit_code: Some(137) }];
        shown = world.status_after(&shown);
    }
    assert_eq!(shown.failures.iter().map(|it| it.attempt).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    assert_eq!((shown.failures[4].node.as_deref(), shown.failures[4].exit_code), (Some("n1"), Some(137)));
}

#[test]
fn a_suspension_and_new_settings_are_no_failures() {
    let mut world = World::training();
    for ended in ["suspended", "the job's settings changed"] {
        world.supervision.history.push(AttemptReport {
            number: world.supervision.history.len() as u32 + 1,
            from_step: 0,
            to_step: 1,
            ended: ended.to_owned(),
            first_cause: None,
        });
    }
    assert_eq!(world.status().failures, []);
}

#[test]
fn the_result_of_a_job_that_completed_unseen_comes_from_the_last_words() {
    let mut world = World::done(ExitCode::Completed);
    world.progress = None;
    world.words = Some(LastWords {
        accuracy: Some(scadles_api::progress::Accuracy {
            step: 300,
            pictures: 10_000,
            top_k: vec![scadles_api::progress::TopK { accuracy_k: 1, share: 0.734 }],
        }),
        model_sha256: Some("ab".to_owned()),
        parameter_hash: Some("cd".to_owned()),
        ledger: Some(Ledger { arrived: 9, trained: 7, buffered: 2, ..Ledger::default() }),
        ..LastWords::new(ExitCode::Completed, "done")
    });
    let shown = world.status();
    let result = shown.result.clone().unwrap();
    assert_eq!((result.uri.as_str(), result.top1_percent), ("claim://results/u", Some(73.4)));
    assert_eq!((result.sha256.as_deref(), result.parameter_hash.as_deref()), (Some("ab"), Some("cd")));
    assert_eq!(shown.ledger.map(|ledger| (ledger.arrived, ledger.trained)), Some((9, 7)));
    // The pod is gone by the next look; what it said stays.
    world.words = None;
    let later = world.status_after(&shown);
    assert_eq!((later.result, later.ledger), (shown.result, shown.ledger));
}

#[test]
fn the_account_of_all_devices_is_a_counter() {
    let mut world = World::training();
    let shown = world.status();
    let expected: Ledger = world.progress.iter().flat_map(|it| &it.devices).map(|it| it.ledger).sum();
    assert_eq!(shown.ledger, Some(expected));
    world.progress.as_mut().unwrap().devices[0].ledger.trained += 1;
    assert_eq!(worth_writing(&shown, &world.status_after(&shown)), Worth::Counters);
}

#[test]
fn a_steady_job_is_worth_no_write_but_the_heartbeat() {
    let mut world = World::training();
    let shown = world.status();
    let progress = world.progress.as_mut().unwrap();
    progress.step += 1;
    progress.samples += 40;
    progress.samples_per_second *= 1.1;
    world.supervision.last_step = 51;
    world.now += 0.3;
    let later = world.status_after(&shown);
    assert_eq!(worth_writing(&shown, &later), Worth::Counters);
    assert_eq!(worth_writing(&shown, &world.status_after(&later).clone()), Worth::Counters);
    assert_eq!(worth_writing(&shown, &shown.clone()), Worth::Nothing);
}

#[test]
fn a_level_beyond_its_dead_band_is_worth_a_write_and_a_new_state_one_at_once() {
    let mut world = World::training();
    world.progress.as_mut().unwrap().samples_per_second = 100.0;
    let shown = world.status();
    world.progress.as_mut().unwrap().samples_per_second = 130.0;
    assert_eq!(worth_writing(&shown, &world.status_after(&shown)), Worth::Levels);
    world.supervision.phase = JobPhase::Settling { since: NOW };
    assert_eq!(worth_writing(&shown, &world.status_after(&shown)), Worth::State);
}

#[test]
fn times_of_conditions_change_with_their_status_alone() {
    let mut world = World::training();
    let shown = world.status();
    world.now += 100.0;
    let later = world.status_after(&shown);
    assert_eq!(shown.conditions, later.conditions);
    world.supervision.phase = JobPhase::Suspended;
    let suspended = world.status_after(&later);
    let ready = |status: &ScadlesJobStatus| status.conditions[0].last_transition_time.clone();
    assert_eq!(ready(&suspended), ready(&shown), "Ready stays true while suspended");
    assert_ne!(suspended.conditions[3].last_transition_time, shown.conditions[3].last_transition_time);
}

#[test]
fn numbers_are_shown_with_two_digits_and_keep_still() {
    assert!((levels::significant(123.4, 2) - 120.0).abs() < 1e-9);
    assert!((levels::calm(100.0, 119.0) - 100.0).abs() < 1e-9);
    assert!((levels::calm(100.0, 121.0) - 120.0).abs() < 1e-9);
    assert!(levels::significant(f64::NAN, 2).abs() < 1e-9);
}

#[test]
fn a_wrong_job_lists_its_mistakes_and_stalls() {
    let text = "apiVersion: scadles.io/v1alpha1\nkind: ScadlesJob\nmetadata: {name: a}\nspec:\n  model: {name: Cnn}\n  \
                devices: {count: 0}\n  completion: {maxSteps: 1}\n";
    let mistakes = crate::validate(&crate::parse_job(text).unwrap()).unwrap_err();
    let shown = invalid(&ScadlesJobStatus::default(), Some(3), &mistakes, NOW);
    assert_eq!(holds(&shown, "Stalled"), ("True".to_owned(), "InvalidSpec".to_owned()));
    assert!(shown.message.contains("spec.devices.count"), "{}", shown.message);
    assert_eq!(shown.state, Some(JobState::Invalid));
}

#[test]
fn a_job_at_rest_says_which_checkpoint_is_kept() {
    let mut world = World::training();
    world.supervision.phase = JobPhase::Suspended;
    world.supervision.checkpoint = None;
    assert_eq!(world.status().message, "suspended before the first checkpoint");
    let name = "0001-00000025".to_owned();
    let job_uid = "u".to_owned();
    world.supervision.checkpoint = Some(CheckpointRef { job_uid, name, step: 25, restart_streams: false });
    assert_eq!(world.status().message, "suspended; checkpoint 0001-00000025 of step 25 is kept");
}

#[test]
fn the_account_outlives_groups_that_have_not_begun_and_jobs_that_are_over() {
    let mut world = World::training();
    let shown = world.status();
    assert!(shown.ledger.is_some_and(|ledger| ledger.arrived > 0));
    let progress = world.progress.as_mut().unwrap();
    let devices = std::mem::take(&mut progress.devices);
    assert_eq!(world.status_after(&shown).ledger, shown.ledger, "no round yet");
    world.progress.as_mut().unwrap().devices = devices;
    world.progress.as_mut().unwrap().devices[0].ledger.trained += 5;
    world.supervision.phase = JobPhase::Suspended;
    assert_eq!(world.status_after(&shown).ledger, shown.ledger, "what was told at the end is newer");
}
