use scadles_api::{
    Attempt, CheckpointRef, DeviceProgress, ExitCode, LastWords, Ledger, PROTOCOL_VERSION, Phase, Progress,
    Tuned, Tuning,
    attempt::Listening,
    worker::{CompressionConfig, JobConfig},
};

use super::*;

const WORLD_SIZE: usize = 3;

/// Three devices `device-0` … with two restarts, 100 s to start, 50 s of patience with streams.
pub(super) fn job() -> JobConfig {
    let text = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: s1}
spec:
  model: {name: Cnn}
  devices: {count: 3}
  producer: {dataset: {name: Cifar10}, rates: {constant: 50}}
  completion: {maxSteps: 1000}
  runPolicy: {maxRestarts: 2, startDeadlineSeconds: 100, stallSeconds: 50, stopGraceSeconds: 10}
";
    let job = crate::validate(&crate::parse_job(text).unwrap()).unwrap();
    let body = crate::plan::tests::embedded(24 << 30);
    crate::plan(&job, &body).unwrap().job().unwrap().clone()
}

pub(super) fn checkpoint(attempt: u32, step: u64) -> CheckpointRef {
    CheckpointRef {
        job_uid: "u".to_owned(),
        name: scadles_api::names::checkpoint(attempt, step),
        step,
        restart_streams: false,
    }
}

pub(crate) fn progress(attempt: u32, step: u64, durable: Option<CheckpointRef>) -> Progress {
    let device = |rank: usize| DeviceProgress {
        name: format!("device-{rank}"),
        ledger: Ledger { arrived: step * 64, trained: step * 64, ..Ledger::default() },
        ..DeviceProgress::default()
    };
    Progress {
        protocol: PROTOCOL_VERSION,
        device: "device-0".to_owned(),
        attempt,
        rank: 0,
        phase: Phase::Training,
        step,
        samples: step * 192,
        epoch: 0.0,
        loss: None,
        learning_rate: 0.1,
        window_seconds: 0.0,
        step_seconds: 1.0,
        samples_per_second: 0.0,
        train_seconds: 0.0,
        compression: None,
        injection: None,
        evaluation: None,
        checkpoint: durable,
        tunings: vec![],
        durable_positions: vec![],
        devices: (0..WORLD_SIZE).map(device).collect(),
        last_words: None,
    }
}

pub(super) fn words(code: ExitCode, message: &str) -> LastWords {
    LastWords { remedy: "mend it".to_owned(), ..LastWords::new(code, message) }
}

fn listening(rank: usize) -> ProcessState {
    ProcessState::Listening(Listening { endpoint: format!("h:{rank}"), hub: format!("hub:{rank}") })
}

fn exited(code: ExitCode) -> ProcessState {
    ProcessState::Exited { code: Some(i32::from(code.code())), signal: None, last_words: None }
}

fn exited_saying(code: ExitCode, message: &str) -> ProcessState {
    let last_words = Some(words(code, message));
    ProcessState::Exited { code: Some(i32::from(code.code())), signal: None, last_words }
}

const KILLED: ProcessState = ProcessState::Exited { code: None, signal: Some(9), last_words: None };

/// A supervisor with its world: observations are changed by hand, decisions are stored as a body would.
struct World {
    job: JobConfig,
    state: Supervision,
    seen: Observation,
    now: f64,
}

impl World {
    fn new(resume: Option<CheckpointRef>) -> Self {
        let absent =
            WorkerObservation { made_for_attempt: 0, process: ProcessState::Absent, confirmed_attempt: 0 };
        Self {
            job: job(),
            state: Supervision::new(0.0, resume),
            seen: Observation {
                broker: BrokerState::Ready,
                workers: vec![absent; WORLD_SIZE],
                progress: None,
                progress_age_seconds: None,
                user_request: None,
                settings_hash: String::new(),
            },
            now: 0.0,
        }
    }

    fn decide(&mut self) -> Vec<Action> {
        let decision = decide(&self.job, &self.state, &self.seen, self.now);
        assert!(!decision.reason.is_empty());
        self.state = decision.next;
        decision.actions
    }

    fn after(&mut self, seconds: f64) -> Vec<Action> {
        self.now += seconds;
        self.decide()
    }

    fn everyone(&mut self, process: impl Fn(usize) -> ProcessState) {
        let attempt = self.state.attempt;
        for (rank, worker) in self.seen.workers.iter_mut().enumerate() {
            *worker =
                WorkerObservation { made_for_attempt: attempt, process: process(rank), confirmed_attempt: 0 };
        }
    }

    fn confirm(&mut self) {
        for worker in &mut self.seen.workers {
            worker.confirmed_attempt = self.state.attempt;
        }
    }

    fn ends(&mut self, rank: usize, process: ProcessState) {
        self.seen.workers[rank].process = process;
    }

    fn trains(&mut self, step: u64, durable: Option<CheckpointRef>) {
        self.seen.progress = Some(progress(self.state.attempt, step, durable));
        self.seen.progress_age_seconds = Some(0.1);
    }

    /// Up to a group that has its attempt; the next decision watches it.
    fn form(&mut self) {
        self.decide();
        self.decide();
        self.everyone(listening);
        self.decide();
        self.confirm();
        self.decide();
        assert_eq!(self.state.phase, JobPhase::Running);
    }

    /// A group that has trained up to a step.
    fn running(step: u64, durable: Option<CheckpointRef>) -> Self {
        let mut world = Self::new(None);
        world.form();
        world.trains(step, durable);
        assert_eq!(world.after(1.0), []);
        world
    }

    fn outcome(&self) -> &Outcome {
        self.state.outcome().unwrap_or_else(|| panic!("no outcome in {:?}", self.state))
    }
}

fn killed_ranks(actions: &[Action]) -> Vec<usize> {
    let rank = |action: &Action| match action {
        Action::KillWorker { rank, .. } => Some(*rank),
        _ => None,
    };
    actions.iter().filter_map(rank).collect()
}

fn start_all(attempt: u32) -> Vec<Action> {
    (0..WORLD_SIZE).map(|rank| Action::StartWorker { rank, attempt }).collect()
}

#[test]
fn the_number_of_an_attempt_is_written_before_its_workers_start() {
    let mut world = World::new(None);
    assert_eq!(world.decide(), []);
    assert_eq!((world.state.attempt, &world.state.phase), (1, &JobPhase::Starting));
    assert_eq!(world.decide(), start_all(1));
    // Not seen done, so repeated.
    assert_eq!(world.decide(), start_all(1));
}

#[test]
fn the_attempt_is_posted_to_all_when_all_listen_and_repeated_until_each_confirms() {
    let mut world = World::new(None);
    world.decide();
    world.decide();
    world.everyone(|_| ProcessState::Starting { since: 0.0 });
    world.ends(0, listening(0));
    assert_eq!(world.decide(), []);
    world.everyone(listening);
    let posted = world.decide();
    let expected = |rank| Action::PostAttempt {
        rank,
        attempt: Attempt {
            protocol: PROTOCOL_VERSION,
            number: 1,
            devices: vec!["device-0".to_owned(), "device-1".to_owned(), "device-2".to_owned()],
            rank,
            hub: "hub:0".to_owned(),
            checkpoint: None,
            tuning: Tuning::default(),
        },
    };
    assert_eq!(posted, [expected(0), expected(1), expected(2)]);
    world.seen.workers[0].confirmed_attempt = 1;
    world.seen.workers[2].confirmed_attempt = 1;
    assert_eq!(world.decide(), [expected(1)]);
    world.confirm();
    assert_eq!(world.decide(), []);
    assert_eq!(world.state.phase, JobPhase::Running);
}

#[test]
fn the_first_attempt_of_a_resumed_job_loads_the_given_checkpoint() {
    let mut world = World::new(Some(checkpoint(2, 80)));
    world.decide();
    world.decide();
    world.everyone(listening);
    let posted = world.decide();
    assert!(posted.iter().all(|action| matches!(
        action,
        Action::PostAttempt { attempt: Attempt { number: 1, checkpoint: Some(from), .. }, .. } if from.step == 80
    )));
}

#[test]
fn a_supervision_taken_up_again_numbers_attempts_on_and_keeps_the_history() {
    let world = World::running(50, Some(checkpoint(1, 40)));
    let resumed = Supervision::resume(world.state, 7.0, Some(checkpoint(1, 40)));
    assert_eq!((resumed.attempt, resumed.restarts, resumed.job_started_at), (1, 0, 7.0));
    assert_eq!((resumed.history.len(), resumed.history[0].to_step), (1, 50));
    let next = decide(&job(), &resumed, &World::new(None).seen, 8.0).next;
    assert_eq!(next.attempt, 2);
}

#[test]
fn a_killed_worker_leads_to_one_counted_restart_from_the_last_durable_checkpoint() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.ends(2, KILLED);
    assert_eq!(world.decide(), [], "the others are given time to speak");
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS)), [0, 1]);
    assert_eq!(world.state.restarts, 1);
    world.ends(0, KILLED);
    world.ends(1, KILLED);
    assert_eq!(world.decide(), [], "back-off");
    world.after(FIRST_BACK_OFF_SECONDS);
    assert_eq!((world.state.attempt, world.state.restarts), (2, 1));
    assert_eq!(world.decide(), start_all(2));
    world.everyone(listening);
    let posted = world.decide();
    assert!(posted.iter().all(|action| matches!(
        action,
        Action::PostAttempt { attempt: Attempt { number: 2, checkpoint: Some(from), .. }, .. } if from.step == 40
    )));
    let ended = &world.state.history[0];
    assert_eq!((ended.number, ended.from_step, ended.to_step), (1, 0, 50));
    assert_eq!(ended.first_cause.as_deref(), Some("device-2"));
    assert_eq!(ended.ended, "device-2 (rank 2): killed by signal 9");
}

#[test]
fn the_killed_worker_is_named_before_its_followers_whatever_was_seen_first() {
    let mut world = World::running(50, None);
    world.ends(0, exited_saying(ExitCode::PeerLost, "device-1 is gone"));
    world.decide();
    world.ends(2, exited_saying(ExitCode::PeerLost, "device-1 is gone"));
    world.after(0.2);
    world.ends(1, KILLED);
    world.after(0.2);
    assert_eq!(world.state.history[0].first_cause.as_deref(), Some("device-1"));
    assert_eq!(world.state.restarts, 1);
}

#[test]
fn a_worker_that_hangs_is_named_before_those_that_lost_it() {
    let mut world = World::running(50, None);
    let lost = "rank 1 was lost: silent for 5 s";
    world.ends(0, exited_saying(ExitCode::PeerLost, lost));
    world.ends(2, exited_saying(ExitCode::PeerLost, lost));
    world.decide();
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS)), [1]);
    let ended = &world.state.history[0];
    assert_eq!(ended.first_cause.as_deref(), Some("device-1"));
    assert!(ended.ended.contains("no longer answers") && ended.ended.contains(lost), "{}", ended.ended);
    assert_eq!(world.state.restarts, 1);
}

#[test]
fn an_orderly_stop_leaves_rank_0_the_whole_grace_to_write_its_checkpoint() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.ends(1, exited(ExitCode::Stopped));
    world.decide();
    world.ends(2, exited(ExitCode::Stopped));
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS + 1.0)), [0_usize; 0], "it still writes");
    world.trains(50, Some(checkpoint(1, 50)));
    world.ends(0, exited(ExitCode::Stopped));
    world.after(1.0);
    assert_eq!(world.state.restarts, 0);
    assert_eq!(world.state.checkpoint, Some(checkpoint(1, 50)));
}

#[test]
fn rank_0_that_parts_with_a_fault_of_its_own_is_waited_for_and_named() {
    let mut world = World::running(50, None);
    world.ends(1, exited(ExitCode::PeerLost));
    world.ends(2, exited(ExitCode::PeerLost));
    world.seen.progress = Some(Progress { phase: Phase::Finishing, ..progress(1, 50, None) });
    world.decide();
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS + 1.0)), [0_usize; 0], "it still writes");
    world.ends(0, exited_saying(ExitCode::TooManyRejected, "device device-0: nothing but noise"));
    world.after(1.0);
    let ended = &world.state.history[0];
    assert_eq!(ended.first_cause.as_deref(), Some("device-0"));
    assert_eq!(ended.ended, "device-0 (rank 0): device device-0: nothing but noise");
}

#[test]
fn a_stop_that_does_not_end_in_order_is_not_waited_for() {
    let mut world = World::running(50, None);
    world.ends(1, exited(ExitCode::Stopped));
    world.decide();
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS)), [0_usize; 0]);
    world.ends(2, KILLED);
    assert_eq!(killed_ranks(&world.after(0.1)), [0]);

    let mut world = World::running(50, None);
    world.ends(1, exited(ExitCode::Stopped));
    world.decide();
    assert_eq!(killed_ranks(&world.after(10.0)), [0, 2], "stopGraceSeconds are over");
}

#[test]
fn an_error_of_its_own_is_named_before_a_lost_peer() {
    let mut world = World::running(50, None);
    world.ends(0, exited(ExitCode::PeerLost));
    world.ends(1, exited_saying(ExitCode::StorageFailed, "disk full"));
    world.ends(2, exited(ExitCode::PeerLost));
    world.decide();
    world.decide();
    assert_eq!(world.state.history[0].ended, "device-1 (rank 1): disk full");
}

#[test]
fn a_worker_that_vanishes_without_a_trace_is_lost() {
    let mut world = World::running(50, None);
    world.seen.workers[1] =
        WorkerObservation { made_for_attempt: 0, process: ProcessState::Absent, confirmed_attempt: 0 };
    world.decide();
    world.after(SETTLE_SECONDS);
    assert_eq!(world.state.history[0].first_cause.as_deref(), Some("device-1"));
}

#[test]
fn wrong_configuration_ends_the_job_at_once_with_the_workers_own_words() {
    let mut world = World::running(0, None);
    world.ends(1, exited_saying(ExitCode::Configuration, "no such file"));
    world.decide();
    assert_eq!(killed_ranks(&world.after(SETTLE_SECONDS)), [0, 2]);
    world.everyone(|_| KILLED);
    world.decide();
    let outcome = world.outcome();
    assert_eq!(outcome.code, ExitCode::Configuration);
    assert_eq!(outcome.message, "device-1 (rank 1): no such file");
    assert_eq!(outcome.remedy, "mend it");
    assert_eq!((world.state.restarts, world.state.attempt), (0, 1));
}

#[test]
fn a_worker_that_cannot_be_started_is_told_by_its_last_words() {
    let mut world = World::new(None);
    world.decide();
    world.decide();
    world.seen.workers[2] = WorkerObservation {
        made_for_attempt: 1,
        process: ProcessState::Exited {
            code: None,
            signal: None,
            last_words: Some(words(ExitCode::Configuration, "no trainer binary")),
        },
        confirmed_attempt: 0,
    };
    world.decide();
    world.decide();
    world.decide();
    assert_eq!(world.outcome().message, "device-2 (rank 2): no trainer binary");
}

#[test]
fn the_job_fails_after_as_many_restarts_as_allowed() {
    let mut world = World::new(None);
    for restart in 0..=2 {
        world.form();
        world.ends(0, KILLED);
        world.decide();
        world.after(SETTLE_SECONDS);
        world.everyone(|_| KILLED);
        world.after(LONGEST_BACK_OFF_SECONDS);
        if restart < 2 {
            assert_eq!(world.state.attempt, restart + 2);
            world.seen.workers.iter_mut().for_each(|worker| worker.process = ProcessState::Absent);
        }
    }
    let outcome = world.outcome();
    assert_eq!(outcome.code, ExitCode::TooManyRestarts);
    assert!(
        outcome.message.contains("after 2 restarts") && outcome.message.contains("device-0"),
        "{outcome:?}"
    );
    assert_eq!((world.state.restarts, world.state.history.len()), (2, 3));
}

/// Pause before the attempt that follows a loss.
fn pause_after_loss(world: &mut World) -> f64 {
    world.ends(0, KILLED);
    world.decide();
    world.everyone(|_| KILLED);
    world.decide();
    let JobPhase::Restarting { not_before } = world.state.phase else { panic!("{:?}", world.state.phase) };
    let pause = not_before - world.now;
    world.after(pause);
    world.seen.workers.iter_mut().for_each(|worker| worker.process = ProcessState::Absent);
    pause
}

#[test]
fn the_pause_doubles_up_to_a_bound_and_begins_anew_after_a_minute_of_training() {
    let mut world = World::new(None);
    world.job.limits.max_restarts = 100;
    let mut pauses = vec![];
    for _ in 0..7 {
        world.decide();
        world.everyone(listening);
        pauses.push(pause_after_loss(&mut world));
    }
    assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    world.form();
    world.trains(3, None);
    world.after(1.0);
    world.trains(90, None);
    world.after(HEALTHY_SECONDS);
    assert!((pause_after_loss(&mut world) - 1.0).abs() < 1e-9);
}

#[test]
fn a_drain_restarts_without_being_counted() {
    let mut world = World::running(50, Some(checkpoint(1, 50)));
    world.ends(1, exited(ExitCode::Stopped));
    world.ends(0, exited(ExitCode::PeerLost));
    world.ends(2, exited(ExitCode::PeerLost));
    world.decide();
    world.decide();
    assert_eq!(
        (world.state.restarts, &world.state.history[0].first_cause.as_deref()),
        (0, &Some("device-1"))
    );
    world.after(FIRST_BACK_OFF_SECONDS);
    assert_eq!(world.state.attempt, 2);
}

#[test]
fn a_drain_before_any_step_is_counted_so_that_it_cannot_repeat_for_ever() {
    let mut world = World::running(0, None);
    world.everyone(|_| exited(ExitCode::Stopped));
    world.decide();
    world.decide();
    assert_eq!(world.state.restarts, 1);
}

#[test]
fn the_job_is_complete_when_all_workers_completed_in_the_words_of_rank_0() {
    let mut world = World::running(900, Some(checkpoint(1, 880)));
    world.ends(1, exited(ExitCode::Completed));
    assert_eq!(world.decide(), []);
    world.ends(2, exited(ExitCode::Completed));
    world.ends(0, exited_saying(ExitCode::Completed, "60000 samples in 900 steps"));
    let actions = world.after(0.2);
    let expected = Outcome {
        code: ExitCode::Completed,
        message: "60000 samples in 900 steps".to_owned(),
        remedy: String::new(),
    };
    assert_eq!(actions, [Action::Finish(expected.clone())]);
    assert_eq!(world.decide(), [Action::Finish(expected)], "repeated for a body that was interrupted");
    assert_eq!(world.state.history.len(), 1);
}

#[test]
fn a_worker_that_outlives_the_others_is_killed_after_the_grace_and_the_job_is_complete() {
    let mut world = World::running(900, None);
    world.ends(0, exited(ExitCode::Completed));
    world.ends(1, exited(ExitCode::Completed));
    world.decide();
    assert_eq!(world.after(10.0), []);
    assert_eq!(killed_ranks(&world.after(0.5)), [2]);
    world.ends(2, KILLED);
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Completed);
}

#[test]
fn a_follower_lost_after_rank_0_completed_does_not_undo_the_result() {
    let mut world = World::running(900, None);
    world.ends(0, exited(ExitCode::Completed));
    world.ends(1, exited(ExitCode::PeerLost));
    world.ends(2, KILLED);
    world.decide();
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Completed);
}

#[test]
fn rank_0_lost_before_it_wrote_the_results_restarts_even_if_followers_completed() {
    let mut world = World::running(900, Some(checkpoint(1, 880)));
    world.ends(1, exited(ExitCode::Completed));
    world.ends(2, exited(ExitCode::Completed));
    world.ends(0, KILLED);
    world.decide();
    world.decide();
    assert_eq!((world.state.restarts, world.state.history[0].first_cause.as_deref()), (1, Some("device-0")));
}

#[test]
fn a_group_that_completes_before_it_was_seen_running_is_complete_and_not_started_again() {
    let mut world = World::new(None);
    world.decide();
    world.decide();
    world.everyone(|_| exited(ExitCode::Completed));
    assert_eq!(world.decide(), []);
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Completed);
}

#[test]
fn a_silent_rank_0_whose_process_lives_is_restarted() {
    let mut world = World::running(50, None);
    world.seen.progress_age_seconds = Some(SILENCE_SECONDS + 1.0);
    assert_eq!(world.after(10.0), [], "not yet silent for long since the group formed");
    assert_eq!(killed_ranks(&world.after(10.0)), [0, 1, 2]);
    assert_eq!((world.state.restarts, world.state.history[0].first_cause.as_deref()), (1, Some("device-0")));
}

#[test]
fn a_dead_stream_ends_the_job_naming_device_topic_and_remedy_after_a_checkpoint() {
    let mut world = World::running(50, None);
    let mut stalled = progress(1, 50, None);
    stalled.devices[1].silent_seconds = 51.0;
    stalled.devices[1].ledger.buffered = 1000;
    world.seen.progress = Some(stalled.clone());
    assert_eq!(world.decide(), [], "it still has samples to train");
    stalled.devices[1].ledger.buffered = 7;
    world.seen.progress = Some(stalled);
    world.decide();
    assert_eq!(world.decide(), [Action::RequestStop { rank: 0, checkpoint: true }]);
    world.everyone(|_| exited(ExitCode::Stopped));
    world.decide();
    let outcome = world.outcome();
    assert_eq!(outcome.code, ExitCode::StreamStalled);
    assert!(outcome.message.contains("device-1") && outcome.message.contains("default.s1.device-1"));
    assert!(outcome.remedy.contains("spec.runPolicy.stallSeconds"));
    assert_eq!(world.state.restarts, 0);
}

#[test]
fn dead_and_deleted_streams_told_by_workers_end_the_job_without_a_restart() {
    for code in [ExitCode::StreamStalled, ExitCode::TopicLost, ExitCode::TooManyRejected] {
        let mut world = World::running(50, None);
        world.everyone(|_| exited_saying(code, "the stream"));
        world.decide();
        world.decide();
        world.decide();
        assert_eq!((world.outcome().code, world.state.restarts), (code, 0));
    }
}

#[test]
fn a_group_without_a_first_step_within_the_deadline_fails_and_names_who_was_late() {
    let mut world = World::new(None);
    world.decide();
    world.decide();
    world.everyone(|_| ProcessState::Starting { since: 0.0 });
    world.ends(0, listening(0));
    assert_eq!(world.after(100.0), []);
    world.after(1.0);
    assert_eq!(killed_ranks(&world.decide()), [0, 1, 2], "there is nothing to save");
    world.everyone(|_| KILLED);
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::DeadlineExceeded);
    assert!(world.outcome().message.contains("device-1, device-2"), "{:?}", world.outcome());
}

#[test]
fn a_broker_that_never_comes_ends_the_job_with_its_problem() {
    let mut world = World::new(None);
    world.seen.broker = BrokerState::Waiting { since: 0.0, problem: "connection refused".to_owned() };
    assert_eq!(world.after(1.0), []);
    assert_eq!(world.after(100.0), []);
    assert_eq!(world.after(1.0).len(), 1);
    let outcome = world.outcome();
    assert_eq!((outcome.code, world.state.attempt), (ExitCode::BrokerLost, 0));
    assert!(outcome.message.contains("connection refused"));
}

#[test]
fn a_restart_waits_for_the_broker() {
    let mut world = World::running(50, None);
    world.everyone(|_| exited(ExitCode::BrokerLost));
    world.seen.broker = BrokerState::Waiting { since: 0.0, problem: "gone".to_owned() };
    world.decide();
    world.decide();
    world.after(50.0);
    assert_eq!(world.state.attempt, 1);
    world.seen.broker = BrokerState::Ready;
    world.after(1.0);
    assert_eq!(world.state.attempt, 2);
}

#[test]
fn the_first_interrupt_saves_and_ends_the_job() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.seen.user_request = Some(UserRequest::Stop);
    assert_eq!(world.decide(), [Action::RequestStop { rank: 0, checkpoint: true }]);
    let mut last = words(ExitCode::Stopped, "stopped");
    last.checkpoint = Some(checkpoint(1, 53));
    last.step = 53;
    world.everyone(|_| exited(ExitCode::Stopped));
    world.ends(0, ProcessState::Exited { code: Some(9), signal: None, last_words: Some(last) });
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Interrupted);
    assert_eq!(world.state.checkpoint, Some(checkpoint(1, 53)));
    assert_eq!(world.state.history[0].to_step, 53);
}

#[test]
fn workers_that_do_not_stop_within_the_grace_are_killed() {
    let mut world = World::running(50, None);
    world.seen.user_request = Some(UserRequest::Stop);
    world.decide();
    assert_eq!(world.after(10.0), [Action::RequestStop { rank: 0, checkpoint: true }]);
    assert_eq!(killed_ranks(&world.after(0.1)), [0, 1, 2]);
}

#[test]
fn the_second_interrupt_kills_at_once() {
    let mut world = World::running(50, None);
    world.seen.user_request = Some(UserRequest::Stop);
    world.decide();
    world.seen.user_request = Some(UserRequest::Kill);
    assert_eq!(killed_ranks(&world.after(0.1)), [0, 1, 2]);
    world.everyone(|_| KILLED);
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Interrupted);
}

#[test]
fn an_interrupt_in_any_phase_ends_the_job() {
    let mut waiting = World::new(None);
    let mut starting = World::new(None);
    starting.decide();
    starting.decide();
    let mut settling = World::running(5, None);
    settling.ends(1, KILLED);
    settling.decide();
    let mut restarting = World::running(5, None);
    restarting.everyone(|_| KILLED);
    restarting.decide();
    restarting.decide();
    assert!(matches!(restarting.state.phase, JobPhase::Restarting { .. }));
    for world in [&mut waiting, &mut starting, &mut settling, &mut restarting] {
        world.seen.user_request = Some(UserRequest::Stop);
        world.decide();
        world.seen.workers.iter_mut().for_each(|worker| worker.process = KILLED);
        world.decide();
        assert_eq!(world.outcome().code, ExitCode::Interrupted);
    }
}

#[test]
fn a_job_that_completes_while_it_is_being_stopped_is_complete() {
    let mut world = World::running(999, None);
    world.seen.user_request = Some(UserRequest::Stop);
    world.decide();
    world.everyone(|_| exited_saying(ExitCode::Completed, "done"));
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::Completed);
}

#[test]
fn the_deadline_of_the_job_saves_and_ends_it() {
    let mut world = World::running(50, None);
    world.job.limits.active_deadline_seconds = Some(30.0);
    world.trains(60, None);
    assert_eq!(world.after(29.0), []);
    assert_eq!(world.after(1.0), [Action::RequestStop { rank: 0, checkpoint: true }]);
    world.everyone(|_| exited(ExitCode::Stopped));
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::DeadlineExceeded);
    assert!(world.outcome().message.contains("step 60"));
}

#[test]
fn progress_of_an_earlier_attempt_is_not_taken_for_this_ones() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.everyone(|_| KILLED);
    world.decide();
    world.decide();
    world.after(5.0);
    world.decide();
    assert_eq!((world.state.attempt, world.state.first_step_at, world.state.last_step), (2, None, 40));
}

#[test]
fn workers_that_cannot_be_killed_end_the_job_instead_of_hanging_it() {
    let mut world = World::running(50, None);
    world.ends(0, KILLED);
    world.decide();
    world.after(SETTLE_SECONDS);
    assert_eq!(killed_ranks(&world.after(KILL_PATIENCE_SECONDS)), [1, 2]);
    world.after(1.0);
    assert_eq!(world.outcome().code, ExitCode::Internal);
}

#[test]
fn the_state_survives_being_stored() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.ends(1, KILLED);
    world.decide();
    world.after(SETTLE_SECONDS);
    let stored = serde_json::to_string(&world.state).unwrap();
    assert_eq!(serde_json::from_str::<Supervision>(&stored).unwrap(), world.state);
}

#[test]
fn a_suspended_job_rests_after_a_checkpoint_and_goes_on_from_it_without_counting_a_restart() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.seen.user_request = Some(UserRequest::Suspend);
    assert_eq!(world.decide(), [Action::RequestStop { rank: 0, checkpoint: true }]);
    let mut last = words(ExitCode::Stopped, "stopped");
    last.checkpoint = Some(checkpoint(1, 53));
    world.everyone(|_| exited(ExitCode::Stopped));
    world.ends(0, ProcessState::Exited { code: Some(9), signal: None, last_words: Some(last) });
    world.decide();
    assert_eq!(world.state.phase, JobPhase::Suspended);
    assert_eq!(world.after(100_000.0), [], "resting has no deadline");
    world.seen.user_request = None;
    world.decide();
    world.decide();
    assert_eq!((world.state.attempt, world.state.restarts), (2, 0));
    assert_eq!(world.state.started_from, Some(checkpoint(1, 53)));
    assert_eq!(world.decide(), start_all(2));
}

#[test]
fn a_suspension_asked_for_before_the_first_attempt_starts_nothing() {
    let mut world = World::new(None);
    world.seen.user_request = Some(UserRequest::Suspend);
    assert_eq!((world.decide(), world.decide()), (vec![], vec![]));
    assert_eq!((world.state.attempt, &world.state.phase), (0, &JobPhase::Suspended));
}

#[test]
fn the_time_of_a_suspension_does_not_count_towards_the_jobs_deadline() {
    let mut world = World::new(None);
    world.job.limits.active_deadline_seconds = Some(30.0);
    world.seen.user_request = Some(UserRequest::Suspend);
    world.decide();
    world.seen.user_request = None;
    world.after(1000.0);
    world.after(1.0);
    world.after(20.0);
    assert!(world.state.outcome().is_none(), "{:?}", world.state);
    world.after(20.0);
    world.everyone(|_| KILLED);
    world.decide();
    assert_eq!(world.outcome().code, ExitCode::DeadlineExceeded);
}

#[test]
fn new_settings_replace_the_attempt_after_a_checkpoint() {
    let mut world = World::running(50, Some(checkpoint(1, 40)));
    world.seen.settings_hash = "edited".to_owned();
    assert_eq!(world.decide(), [Action::RequestStop { rank: 0, checkpoint: true }]);
    world.everyone(|_| exited(ExitCode::Stopped));
    world.decide();
    world.decide();
    assert_eq!((world.state.attempt, world.state.restarts), (2, 0));
    assert_eq!(world.state.settings_hash, "edited");
    assert_eq!(world.decide(), start_all(2));
}

/// The world of a compressed job that trains and whose ranks run on generation 1.
fn compressing() -> World {
    let mut world = World::new(None);
    let energy_of = scadles_api::worker::EnergyOf::Compensated;
    let config = CompressionConfig { ratio: 0.1, is_free: false, delta: Some(0.3), energy_of };
    world.job.compression = Some(config);
    world.form();
    world.trains(50, Some(checkpoint(1, 40)));
    world.agrees_on_settings(1);
    world
}

impl World {
    fn ratio(&mut self, ratio: f64) {
        self.job.compression.as_mut().unwrap().ratio = ratio;
    }

    fn agrees_on_settings(&mut self, generation: u64) {
        let tuning = Tuning { generation, ..Tuning::of(&self.job) };
        self.seen.progress.as_mut().unwrap().tunings.push(Tuned { step: 1, tuning });
    }
}

#[test]
fn changed_settings_are_told_to_rank_0_until_the_group_has_agreed_on_them() {
    let mut world = compressing();
    assert_eq!((world.decide(), world.state.tuning.generation), (vec![], 1));
    world.ratio(0.05);
    let told = [Action::PostTuning { rank: 0, tuning: Tuning { generation: 2, ..Tuning::of(&world.job) } }];
    assert_eq!(world.decide(), told);
    assert_eq!(world.decide(), told, "repeated");
    world.agrees_on_settings(2);
    assert_eq!(world.decide(), []);
    assert_eq!((world.state.attempt, &world.state.phase), (1, &JobPhase::Running));
}

#[test]
fn what_was_tuned_is_told_to_the_next_attempt_and_to_the_next_supervisor() {
    let mut world = compressing();
    world.ratio(0.05);
    world.decide();
    let tuning = world.state.tuning;
    assert_eq!((tuning.generation, tuning.compression.unwrap().ratio), (2, 0.05));
    world.everyone(|_| KILLED);
    while world.state.phase != JobPhase::Starting {
        world.after(5.0);
    }
    world.everyone(listening);
    let posted = world.decide();
    assert!(
        matches!(&posted[0], Action::PostAttempt { attempt, .. } if attempt.tuning == tuning),
        "{posted:?}"
    );
    // Taken up again, with another value once more.
    world.everyone(|_| KILLED);
    world.state = Supervision::resume(world.state.clone(), world.now, None);
    world.ratio(0.1);
    world.form();
    assert_eq!((world.state.tuning.generation, world.state.tuning.compression.unwrap().ratio), (3, 0.1));
}

#[test]
fn a_group_that_knows_of_no_tuning_gets_a_new_attempt_when_settings_change() {
    let mut world = compressing();
    world.seen.progress.as_mut().unwrap().tunings.clear();
    assert_eq!(world.decide(), []);
    world.ratio(0.05);
    world.decide();
    assert_eq!(world.decide(), [Action::RequestStop { rank: 0, checkpoint: true }]);
    // A supervisor of before knew of no tuning either: nothing has changed for it.
    let mut world = compressing();
    world.seen.progress.as_mut().unwrap().tunings.clear();
    world.state.tuning = Tuning::default();
    assert_eq!((world.decide(), world.decide()), (vec![], vec![]));
    assert_eq!(world.state.tuning.generation, 1);
}
