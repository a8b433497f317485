//! Properties of [`decide`] in a simulated world with a virtual clock: workers start late, die at any moment and are
//! removed late; the supervisor itself is stopped between storing and acting.

use proptest::prelude::*;
use scadles_api::{ExitCode, attempt::Listening, worker::JobConfig};

use super::{
    tests::{checkpoint, job, progress, words},
    *,
};

/// Time between two decisions.
const TICK_SECONDS: f64 = 0.5;

/// What happens to the world before a decision.
#[derive(Clone, Debug)]
enum Event {
    Nothing,
    Die {
        rank: usize,
        how: Death,
    },
    Vanish {
        rank: usize,
    },
    Advance,
    Silence,
    LoseBroker,
    Suspend,
    GoOn,
    /// The job's settings change.
    Edit,
    /// The supervisor dies after storing its decision and before acting on it.
    Forget,
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Signal,
    Code(ExitCode),
    Panic,
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        3 => Just(Death::Signal),
        1 => Just(Death::Panic),
        3 => Just(Death::Code(ExitCode::PeerLost)),
        1 => Just(Death::Code(ExitCode::StorageFailed)),
        1 => Just(Death::Code(ExitCode::BrokerLost)),
        1 => Just(Death::Code(ExitCode::Stopped)),
        1 => Just(Death::Code(ExitCode::Completed)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Nothing),
        2 => (0_usize..3, death()).prop_map(|(rank, how)| Event::Die { rank, how }),
        1 => (0_usize..3).prop_map(|rank| Event::Vanish { rank }),
        6 => Just(Event::Advance),
        1 => Just(Event::Silence),
        1 => Just(Event::LoseBroker),
        1 => Just(Event::Suspend),
        2 => Just(Event::GoOn),
        1 => Just(Event::Edit),
        1 => Just(Event::Forget),
    ]
}

/// Workers as a machine would run them: every action takes one more tick to show.
struct Machine {
    job: JobConfig,
    seen: Observation,
    now: f64,
    step: u64,
}

impl Machine {
    fn new() -> Self {
        let absent =
            WorkerObservation { made_for_attempt: 0, process: ProcessState::Absent, confirmed_attempt: 0 };
        Self {
            job: job(),
            seen: Observation {
                broker: BrokerState::Ready,
                workers: vec![absent; 3],
                progress: None,
                progress_age_seconds: None,
                user_request: None,
                settings_hash: String::new(),
            },
            now: 0.0,
            step: 0,
        }
    }

    fn end(&mut self, rank: usize, how: Death) {
        let worker = &mut self.seen.workers[rank];
        if worker.process.is_alive() {
            worker.process = match how {
                Death::Signal => ProcessState::Exited { code: None, signal: Some(9), last_words: None },
                Death::Panic => ProcessState::Exited { code: Some(101), signal: None, last_words: None },
                Death::Code(code) => ProcessState::Exited {
                    code: Some(i32::from(code.code())),
                    signal: None,
                    last_words: Some(words(code, "as told")),
                },
            };
        }
    }

    fn happen(&mut self, event: &Event, attempt: u32) {
        self.seen.broker = BrokerState::Ready;
        match event {
            Event::Nothing | Event::Forget => {}
            Event::Die { rank, how } => self.end(*rank, *how),
            Event::Vanish { rank } => self.seen.workers[*rank].process = ProcessState::Absent,
            Event::Advance => {
                if self.seen.workers.iter().all(|worker| worker.confirmed_attempt == attempt) {
                    self.step += 1;
                    let durable = Some(checkpoint(attempt, self.step / 2 * 2));
                    self.seen.progress = Some(progress(attempt, self.step, durable));
                    self.seen.progress_age_seconds = Some(0.0);
                }
            }
            Event::Suspend => self.seen.user_request = Some(UserRequest::Suspend),
            Event::GoOn => self.seen.user_request = None,
            Event::Edit => self.seen.settings_hash.push('x'),
            Event::Silence => self.seen.progress_age_seconds = Some(60.0),
            Event::LoseBroker => {
                self.seen.broker = BrokerState::Waiting { since: self.now, problem: "gone".to_owned() };
            }
        }
    }

    /// Carries actions out and checks that none of them breaks a promise.
    fn act(&mut self, actions: &[Action], state: &Supervision) {
        for worker in &mut self.seen.workers {
            if matches!(worker.process, ProcessState::Starting { .. }) {
                worker.process =
                    ProcessState::Listening(Listening { endpoint: "e:1".to_owned(), hub: "h:1".to_owned() });
            }
        }
        for action in actions {
            match action {
                Action::StartWorker { rank, attempt } => {
                    assert_eq!(*attempt, state.attempt);
                    assert!(!self.seen.workers[*rank].process.is_alive(), "started twice: rank {rank}");
                    self.seen.workers[*rank] = WorkerObservation {
                        made_for_attempt: *attempt,
                        process: ProcessState::Starting { since: self.now },
                        confirmed_attempt: 0,
                    };
                }
                Action::PostAttempt { rank, attempt } => {
                    let worker = &mut self.seen.workers[*rank];
                    assert!(matches!(worker.process, ProcessState::Listening(_)), "posted to {worker:?}");
                    assert_eq!((attempt.number, worker.made_for_attempt), (state.attempt, state.attempt));
                    assert_eq!(attempt.checkpoint, state.started_from);
                    worker.confirmed_attempt = attempt.number;
                }
                Action::KillWorker { rank, .. } => self.end(*rank, Death::Signal),
                Action::RequestStop { .. } | Action::PostTuning { .. } | Action::Finish(_) => {}
            }
        }
        let mut lives = self.seen.workers.iter().filter(|worker| worker.process.is_alive());
        if let Some(first) = lives.next() {
            let one_attempt = lives.all(|worker| worker.made_for_attempt == first.made_for_attempt);
            assert!(one_attempt, "two attempts at once: {:?}", self.seen.workers);
        }
    }

    /// One decision.
    fn tick(&mut self, state: &Supervision, event: &Event) -> Supervision {
        self.now += TICK_SECONDS;
        self.happen(event, state.attempt);
        let decision = decide(&self.job, state, &self.seen, self.now);
        let next = decision.next;
        assert!(next.restarts <= self.job.limits.max_restarts);
        assert!(next.attempt == state.attempt || next.attempt == state.attempt + 1);
        if next.attempt > state.attempt {
            let alive = self.seen.workers.iter().any(|worker| worker.process.is_alive());
            assert!(!alive, "attempt {} began beside live workers", next.attempt);
            self.step = next.last_step;
            assert_eq!(decision.actions, [], "the number is stored before anything is started");
        }
        assert!(next.restarts <= state.restarts + 1);
        assert!(next.history.len() <= next.attempt as usize, "one end per attempt");
        let actions = if matches!(event, Event::Forget) { &[][..] } else { &decision.actions };
        self.act(actions, &next);
        next
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_a_promise(events in prop::collection::vec(event(), 1..300)) {
        let mut machine = Machine::new();
        let mut state = Supervision::new(0.0, None);
        let mut outcome = None;
        for event in &events {
            state = machine.tick(&state, event);
            if let Some(earlier) = &outcome {
                prop_assert_eq!(Some(earlier), state.outcome(), "an outcome is final");
            }
            outcome = state.outcome().cloned();
        }
    }

    #[test]
    fn a_job_whose_workers_keep_dying_ends(
        deaths in prop::collection::vec((0_usize..3, death(), 1_usize..40), 1..20),
    ) {
        let mut machine = Machine::new();
        let mut state = Supervision::new(0.0, None);
        for (rank, how, quiet) in deaths.iter().cycle().take(2000) {
            for _ in 0..*quiet {
                state = machine.tick(&state, &Event::Nothing);
            }
            // No step is ever made, so that even drains count.
            state = machine.tick(&state, &Event::Die { rank: *rank, how: *how });
            if state.outcome().is_some() {
                break;
            }
        }
        prop_assert!(state.outcome().is_some(), "{:?}", state);
    }

    #[test]
    fn an_interrupt_at_any_moment_ends_the_job_within_its_grace(
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut machine = Machine::new();
        let mut state = Supervision::new(0.0, None);
        for event in &events {
            state = machine.tick(&state, event);
        }
        machine.seen.user_request = Some(UserRequest::Stop);
        let asked = machine.now;
        while state.outcome().is_none() && machine.now < asked + 1000.0 {
            state = machine.tick(&state, &Event::Nothing);
        }
        prop_assert!(state.outcome().is_some());
        prop_assert!(machine.now <= asked + machine.job.limits.stop_grace_seconds + 3.0);
        prop_assert!(machine.seen.workers.iter().all(|worker| !worker.process.is_alive()));
    }

    #[test]
    fn a_suspension_at_any_moment_rests_without_workers_and_is_taken_back(
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut machine = Machine::new();
        let mut state = Supervision::new(0.0, None);
        for event in &events {
            state = machine.tick(&state, event);
        }
        machine.seen.user_request = Some(UserRequest::Suspend);
        let asked = machine.now;
        while machine.now < asked + machine.job.limits.stop_grace_seconds + 3.0 {
            state = machine.tick(&state, &Event::Nothing);
        }
        if state.outcome().is_none() {
            prop_assert_eq!(&state.phase, &JobPhase::Suspended);
            prop_assert!(machine.seen.workers.iter().all(|worker| !worker.process.is_alive()));
            let attempt = state.attempt;
            machine.seen.user_request = None;
            for _ in 0..3 {
                state = machine.tick(&state, &Event::Nothing);
            }
            prop_assert_eq!(state.attempt, attempt + 1);
        }
    }
}
