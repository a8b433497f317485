//! The workers of a local run, one per device, in the order of ranks.

use std::{path::PathBuf, time::Instant};

use scadles_api::{Attempt, ExitCode, LastWords, Progress, Tuning, attempt::StopRequest, worker::Backend};
use scadles_control::decide::{ProcessState, WorkerObservation};
use scadles_worker_client::{ClientError, WorkerClient};

use super::{
    mpi::Group,
    worker::{Worker, WorkerCommand},
};
use crate::run_folder::RunFolder;

/// So many workers are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// All workers.
pub struct Crew {
    client: WorkerClient,
    program: PathBuf,
    /// Whether workers are to leave traces.
    trace: bool,
    backend: Backend,
    slots: Vec<Slot>,
    /// What has started the latest workers, if they are ranks of MPI.
    group: Option<Group>,
}

/// One device's worker, if it was started, and what it answered.
#[derive(Default)]
struct Slot {
    device: String,
    worker: Option<Worker>,
    confirmed: u32,
    progress: Option<(Progress, Instant)>,
    /// Last words of the latest worker.
    last_words: Option<LastWords>,
    /// Its end is expected (it was killed here) or already told.
    end_known: bool,
    news: Option<String>,
}

impl Crew {
    /// No worker runs yet; those to come leave traces if `trace` is set.
    pub fn new(
        client: WorkerClient,
        program: PathBuf,
        backend: Backend,
        trace: bool,
        devices: &[String],
    ) -> Self {
        let slot = |device: &String| Slot { device: device.clone(), ..Slot::default() };
        Self { client, program, trace, backend, slots: devices.iter().map(slot).collect(), group: None }
    }

    /// Looks at every process; asks rank 0 how it is getting on, and all that have yet to confirm their attempt.
    pub fn observe(&mut self) -> Vec<WorkerObservation> {
        self.ask();
        self.slots.iter_mut().map(Slot::observe).collect()
    }

    /// Rank 0's latest answer and its age in seconds.
    pub fn progress(&self) -> Option<(&Progress, f64)> {
        let (progress, at) = self.slots.first()?.progress.as_ref()?;
        Some((progress, at.elapsed().as_secs_f64()))
    }

    /// Starts the worker of a rank for an attempt, unless it is there already.
    pub fn start(&mut self, rank: usize, attempt: u32, folder: &RunFolder, now: f64) {
        let Some(slot) = self.slots.get_mut(rank) else { return };
        if slot.worker.as_ref().is_some_and(|worker| worker.attempt == attempt) {
            return;
        }
        slot.confirmed = 0;
        slot.progress = None;
        slot.last_words = None;
        slot.end_known = false;
        // The one before is gone, or it would not be started anew; if it is not, this ends it.
        slot.worker = None;
        let command = self.command(rank, attempt, folder);
        let worker = match self.backend {
            Backend::Gloo | Backend::Nccl => Worker::start(&command, attempt, now),
            Backend::Mpi => {
                Worker::of_rank(self.group(attempt, folder).rank(rank), command.log, attempt, now)
            }
        };
        self.slots[rank].worker = Some(worker);
    }

    fn command(&self, rank: usize, attempt: u32, folder: &RunFolder) -> WorkerCommand {
        let device = &self.slots[rank].device;
        WorkerCommand {
            program: self.program.clone(),
            config: folder.worker_config(device),
            log: folder.log(device, attempt),
            traces: self.trace.then(|| folder.traces()),
        }
    }

    /// The group of an attempt, whose first worker to be started starts all. The one before is gone then.
    fn group(&mut self, attempt: u32, folder: &RunFolder) -> Group {
        let made = self.group.take().filter(|group| group.attempt == attempt);
        let group = made.unwrap_or_else(|| {
            self.slots.iter_mut().for_each(|slot| slot.worker = None);
            let commands: Vec<WorkerCommand> =
                (0..self.slots.len()).map(|rank| self.command(rank, attempt, folder)).collect();
            Group::start(&commands, attempt, &folder.log("mpiexec", attempt))
        });
        self.group.insert(group).clone()
    }

    /// Tells a rank its attempt.
    pub fn post(&mut self, rank: usize, attempt: &Attempt) {
        let Some(slot) = self.slots.get_mut(rank) else { return };
        let Some(listening) = slot.worker.as_ref().and_then(Worker::listening) else { return };
        note(&slot.device, "post the attempt", self.client.post_attempt(&listening.endpoint, attempt));
    }

    /// Asks a rank to stop the group at an agreed step.
    pub fn request_stop(&self, rank: usize, checkpoint: bool) {
        let Some(slot) = self.slots.get(rank) else { return };
        let Some(listening) = slot.worker.as_ref().and_then(Worker::listening) else { return };
        let request = StopRequest { checkpoint };
        note(&slot.device, "request a stop", self.client.post_stop(&listening.endpoint, request));
    }

    /// Tells a rank the settings that the group is to agree on.
    pub fn tune(&self, rank: usize, tuning: &Tuning) {
        let Some(slot) = self.slots.get(rank) else { return };
        let Some(listening) = slot.worker.as_ref().and_then(Worker::listening) else { return };
        note(&slot.device, "post a tuning", self.client.post_tuning(&listening.endpoint, tuning));
    }

    /// Asks rank 0 for a checkpoint beside those of the job.
    pub fn request_checkpoint(&self) {
        let Some(slot) = self.slots.first() else { return };
        let Some(listening) = slot.worker.as_ref().and_then(Worker::listening) else { return };
        note(&slot.device, "request a checkpoint", self.client.post_checkpoint(&listening.endpoint));
    }

    /// Ends the process of a rank at once.
    pub fn kill(&mut self, rank: usize) {
        let Some(slot) = self.slots.get_mut(rank) else { return };
        if let Some(worker) = &mut slot.worker {
            slot.end_known = true;
            worker.kill();
        }
    }

    /// Ends all that still run and waits until they are gone.
    pub fn dismiss(&mut self) {
        for slot in &mut self.slots {
            slot.observe();
            slot.worker = None;
        }
        self.group = None;
    }

    /// Last words per rank.
    pub fn last_words(&self) -> Vec<Option<&LastWords>> {
        self.slots.iter().map(|slot| slot.last_words.as_ref()).collect()
    }

    /// Workers that have ended by themselves, and badly, since the last call: how, and where to read more.
    pub fn news(&mut self) -> Vec<String> {
        self.slots.iter_mut().filter_map(|slot| slot.news.take()).collect()
    }

    fn ask(&mut self) {
        let client = &self.client;
        let mut asked: Vec<(&mut Slot, String)> = self
            .slots
            .iter_mut()
            .enumerate()
            .filter_map(|(rank, slot)| {
                let worker = slot.worker.as_ref()?;
                let wanted = is_of_interest(rank, slot.confirmed, worker.attempt);
                let listening = wanted.then(|| worker.listening()).flatten()?;
                Some((slot, listening.endpoint))
            })
            .collect();
        for group in asked.chunks_mut(ASKED_AT_ONCE) {
            if let [(slot, endpoint)] = group {
                slot.hear(client.progress(endpoint));
                continue;
            }
            std::thread::scope(|scope| {
                for (slot, endpoint) in group {
                    scope.spawn(move || slot.hear(client.progress(endpoint)));
                }
            });
        }
    }
}

/// Rank 0 tells of the whole group. The others are asked until they have their attempt, also before it is posted: a worker
/// that nobody speaks to takes itself for an orphan, and the group may start for longer than `orphanSeconds`.
const fn is_of_interest(rank: usize, confirmed: u32, attempt: u32) -> bool {
    rank == 0 || confirmed != attempt
}

impl Slot {
    fn hear(&mut self, answer: Result<Progress, ClientError>) {
        match answer {
            Ok(progress) => {
                self.confirmed = progress.attempt;
                self.progress = Some((progress, Instant::now()));
            }
            Err(error) => tracing::debug!(device = self.device, %error, "no progress"),
        }
    }

    fn observe(&mut self) -> WorkerObservation {
        let (made_for_attempt, process) = match &mut self.worker {
            None => (0, ProcessState::Absent),
            Some(worker) => (worker.attempt, worker.observe()),
        };
        if let ProcessState::Exited { code, signal, last_words } = &process
            && !self.end_known
        {
            self.end_known = true;
            self.news =
                self.worker.as_ref().and_then(|worker| obituary(&self.device, worker, *code, *signal));
            self.last_words.clone_from(last_words);
        }
        WorkerObservation { made_for_attempt, process, confirmed_attempt: self.confirmed }
    }
}

/// How a worker ended, unless it was to be expected or only follows from another's end.
fn obituary(device: &str, worker: &Worker, code: Option<i32>, signal: Option<i32>) -> Option<String> {
    let how = match (code, signal) {
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(code), None) => match ExitCode::from_code(code) {
            Some(ExitCode::Completed | ExitCode::Stopped) => return None,
            Some(known) if known.is_consequence() => return None,
            Some(known) => format!("ended with code {code} ({known:?})"),
            None => format!("ended with code {code}"),
        },
        (None, None) => "could not be started".to_owned(),
    };
    Some(format!("the worker of {device} {how}; its log: {}", worker.log.display()))
}

/// What a worker does not take now is decided upon, and sent, again at the next look.
fn note(device: &str, what: &str, result: Result<(), ClientError>) {
    if let Err(error) = result {
        tracing::debug!(device, %error, "failed to {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::is_of_interest;

    #[test]
    fn a_worker_without_its_attempt_is_spoken_to_also_before_it_is_posted() {
        assert!(is_of_interest(1, 0, 1), "it waits for the others to start");
        assert!(is_of_interest(1, 1, 2));
        assert!(!is_of_interest(1, 2, 2), "rank 0 tells of it");
        assert!(is_of_interest(0, 2, 2));
    }
}
