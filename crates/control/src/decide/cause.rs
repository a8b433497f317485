//! Why an attempt ended: the first cause before its consequences.

use scadles_api::{ExitCode, LastWords, worker::JobConfig};

use super::types::{Observation, ProcessState, Supervision};

/// What follows from the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// A new attempt, counted.
    Restart,
    /// A new attempt that does not count: somebody outside asked the worker to go.
    Drain,
    /// No attempt can help.
    Fail,
}

/// Why an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) consequence: Consequence,
    pub(super) code: ExitCode,
    /// Device that was the first cause.
    pub(super) device: Option<String>,
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Verdict {
    /// Rank 0 does not answer although its process lives.
    pub(super) fn silent(job: &JobConfig, seconds: f64) -> Self {
        let device = job.devices.first().map(|device| device.name.clone());
        Self {
            consequence: Consequence::Restart,
            code: ExitCode::Internal,
            message: format!("rank 0 gave no progress for {seconds:.0} s although its process lives"),
            remedy: "look into its log; a machine short of memory or CPU is the usual reason".to_owned(),
            device,
        }
    }

    /// All others lost a peer, and this one is the only one that has not ended: it hangs.
    fn mute(job: &JobConfig, rank: usize, follower: &Loss<'_>) -> Self {
        let device = device_name(job, rank);
        Self {
            consequence: Consequence::Restart,
            code: ExitCode::Internal,
            message: format!(
                "{device} (rank {rank}): its process lives but no longer answers; {} says: {}",
                device_name(job, follower.rank),
                follower.describe()
            ),
            remedy: "look into its log; a machine short of memory or CPU is the usual reason".to_owned(),
            device: Some(device),
        }
    }

    /// Others completed, rank 0 did not.
    pub(super) fn unfinished(job: &JobConfig, grace: f64) -> Self {
        let device = job.devices.first().map(|device| device.name.clone());
        Self {
            consequence: Consequence::Restart,
            code: ExitCode::Internal,
            message: format!("rank 0 did not finish within {grace} s after another worker had"),
            remedy: "raise spec.runPolicy.stopGraceSeconds if writing the results takes longer".to_owned(),
            device,
        }
    }
}

/// One worker that is gone.
struct Loss<'a> {
    rank: usize,
    code: Option<ExitCode>,
    raw_code: Option<i32>,
    signal: Option<i32>,
    vanished: bool,
    last_words: Option<&'a LastWords>,
}

impl Loss<'_> {
    /// Smaller is earlier in the chain of causes.
    fn precedence(&self) -> (u8, usize) {
        let class = match self.code {
            Some(ExitCode::Completed) => 5,
            Some(code) if code.is_consequence() => 4,
            Some(code) if is_final(code) => 0,
            Some(ExitCode::Stopped) => 3,
            Some(_) => 2,
            None => 1,
        };
        (class, self.rank)
    }

    fn consequence(&self, stepped: bool) -> Consequence {
        match self.code {
            Some(code) if is_final(code) => Consequence::Fail,
            // A drain before any step would repeat for ever without a count.
            Some(ExitCode::Stopped) if stepped => Consequence::Drain,
            _ => Consequence::Restart,
        }
    }

    fn describe(&self) -> String {
        if let Some(words) = self.last_words {
            return words.message.clone();
        }
        match (self.signal, self.code, self.raw_code) {
            (Some(signal), _, _) => format!("killed by signal {signal}"),
            (None, Some(code), _) => format!("exited with code {} ({code:?})", code.code()),
            (None, None, Some(raw)) => format!("exited with code {raw}, which is not one of scadles"),
            (None, None, None) if self.vanished => "its process vanished".to_owned(),
            (None, None, None) => "its process could not be started".to_owned(),
        }
    }
}

/// Codes after which a new attempt would end the same way.
fn is_final(code: ExitCode) -> bool {
    !code.is_retryable() && code != ExitCode::Completed
}

/// The first cause among the workers that are gone.
pub(super) fn first_cause(job: &JobConfig, seen: &Observation, state: &Supervision) -> Option<Verdict> {
    let (attempt, formed) = (state.attempt, state.formed_at.is_some());
    let losses = seen.workers.iter().enumerate().filter_map(|(rank, worker)| match &worker.process {
        ProcessState::Exited { code, signal, last_words } if worker.made_for_attempt == attempt => {
            let told = last_words.as_ref().map(|words| words.code);
            let known = if signal.is_some() { None } else { code.and_then(ExitCode::from_code) };
            Some(Loss {
                rank,
                code: known.or(if code.is_none() && signal.is_none() { told } else { None }),
                raw_code: *code,
                signal: *signal,
                vanished: false,
                last_words: last_words.as_ref(),
            })
        }
        // Before the group has formed, an absent worker is one that is yet to be started.
        ProcessState::Absent if formed => {
            Some(Loss { rank, code: None, raw_code: None, signal: None, vanished: true, last_words: None })
        }
        _ => None,
    });
    let first = losses.min_by_key(Loss::precedence)?;
    if first.code.is_some_and(ExitCode::is_consequence)
        && let Some(mute) = still_there(seen, attempt)
    {
        return Some(Verdict::mute(job, mute, &first));
    }
    let device = device_name(job, first.rank);
    Some(Verdict {
        consequence: first.consequence(state.first_step_at.is_some()),
        code: first.code.unwrap_or(ExitCode::Internal),
        message: format!("{device} (rank {}): {}", first.rank, first.describe()),
        remedy: first.last_words.map_or_else(String::new, |words| words.remedy.clone()),
        device: Some(device),
    })
}

/// The first worker of the attempt whose process is still there.
fn still_there(seen: &Observation, attempt: u32) -> Option<usize> {
    seen.workers.iter().position(|worker| worker.made_for_attempt == attempt && worker.process.is_alive())
}

fn device_name(job: &JobConfig, rank: usize) -> String {
    job.devices.get(rank).map_or_else(|| rank.to_string(), |device| device.name.clone())
}
